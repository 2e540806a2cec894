//! What can happen next: what the launchers, the VMMs and the network do by themselves, and what may go wrong.

use super::{CANCEL, Vf, Vmm, Word, World};
use crate::guest::machine::{Event, Guest, VmmExit};
use crate::migration::source::{self, Event as Src};
use crate::migration::target::{self, Event as Tgt};

impl World {
    /// Every world that can come after this one.
    pub(super) fn next(&self) -> Vec<(String, World)> {
        let mut all = Vec::new();
        let mut add = |what: &str, world: World| all.push((what.to_owned(), world));
        let here = self.clone();
        self.arrivals(&mut add);
        self.vmms(&mut add);
        // The source has described its guest, and connects.
        if self.describing && self.source_alive {
            let mut world = here.clone();
            world.describing = false;
            let world = world.source_on(Event::Source(Src::Described));
            let connected = match world.channel {
                true => Src::Connected,
                false => Src::ChannelLost(Self::why()),
            };
            add("described", world.source_on(Event::Source(connected)));
        }
        // A launcher that has ended closes its connections, once everything is sent.
        if self.channel && matches!(self.source, Guest::Ended(_)) && self.to_target.is_empty() {
            let mut world = here.clone();
            world.break_channel();
            let lost = Event::Target(Tgt::ChannelLost(Self::why()));
            add("the source's launcher exits", world.target_on(lost));
        }
        if self.channel && matches!(self.target, Guest::Ended(_)) && self.to_source.is_empty() {
            let mut world = here.clone();
            world.break_channel();
            let lost = Event::Source(Src::ChannelLost(Self::why()));
            add("the target's launcher exits", world.source_on(lost));
        }
        // Timers.
        if self.leaving() == Some(&source::State::Preparing) && self.source_alive {
            add(
                "prepare: time over",
                here.clone().source_on(Event::Source(Src::PrepareOver)),
            );
        }
        if self.leaving() == Some(&source::State::Copying) && self.source_alive && self.here == Vmm::Runs {
            let copied = here.clone().source_on(Event::Source(Src::Copied));
            add("disks copied", copied);
            // As when the target's disk is full.
            let full = Event::Source(Src::Cancel(Self::why()));
            add("disks not copied: over", here.clone().source_on(full));
        }
        if self.leaving() == Some(&source::State::Detaching) && self.source_alive {
            let refused = Src::NotDetached(Self::why());
            add(
                "keeps its VF: time over",
                here.clone().source_on(Event::Source(refused)),
            );
        }
        if self.hold_armed
            && matches!(self.receiving(), Some(target::State::Holding { .. }))
            && !self.source_waits()
        {
            add("hold over", here.clone().target_on(Event::Target(Tgt::HoldOver)));
        }
        if self.doubt_armed && matches!(self.leaving(), Some(source::State::Committed { .. })) {
            add(
                "doubt over",
                here.clone().source_on(Event::Source(Src::DoubtOver)),
            );
        }
        if self.grace_armed && self.source_alive {
            let mut world = here.clone();
            world.grace_armed = false;
            add("grace over", world.source_on(Event::GraceOver));
        }
        // The source in doubt comes back, if the target is there to be asked.
        if !self.channel
            && matches!(self.leaving(), Some(source::State::Committed { .. }))
            && self.source_alive
            && self.target_answers()
        {
            let mut world = here.clone();
            world.channel = true;
            add("asks again", world.source_on(Event::Source(Src::Connected)));
        }
        if self.faults > 0 {
            let mut less = here;
            less.faults -= 1;
            self.faults_from(less, &mut add);
        }
        all
    }

    /// What is on its way arrives, in order.
    fn arrivals(&self, add: &mut impl FnMut(&str, World)) {
        if let Some(word) = self.to_target.first().copied() {
            let mut world = self.clone();
            world.to_target.remove(0);
            // From here on whatever goes wrong is the target's loss.
            world.commit_heard |= word == Word::Commit
                && matches!(
                    world.receiving(),
                    Some(
                        target::State::Holding { .. }
                            | target::State::Early { .. }
                            | target::State::Resuming { .. }
                    )
                );
            let event = match word {
                Word::Prepare => Some(Tgt::Prepare { reasons: Vec::new() }),
                Word::Commit => Some(Tgt::Commit),
                Word::Abort => Some(Tgt::Abort(Self::why())),
                _ => None,
            };
            add(
                "to the target",
                event.map_or(world.clone(), |event| world.target_on(Event::Target(event))),
            );
        }
        if let Some(word) = self.to_source.first().copied() {
            let mut world = self.clone();
            world.to_source.remove(0);
            let event = match word {
                Word::Prepared => Some(Src::Prepared),
                Word::Holding => Some(Src::Holding),
                Word::Running => Some(Src::Running),
                Word::Lost => Some(Src::Lost(Self::why())),
                Word::Gone => Some(Src::Gone(Self::why())),
                _ => None,
            };
            add(
                "to the source",
                event.map_or(world.clone(), |event| world.source_on(Event::Source(event))),
            );
        }
    }

    fn vmms(&self, add: &mut impl FnMut(&str, World)) {
        let here = self.clone();
        let exit = || Event::VmmExited(VmmExit::Failure(Self::why()));
        if self.exit_unseen_here && self.source_alive {
            let mut world = here.clone();
            world.exit_unseen_here = false;
            add("exit seen at the source", world.source_on(exit()));
        }
        if self.exit_unseen_there && self.target_alive {
            let mut world = here.clone();
            world.exit_unseen_there = false;
            add("exit seen at the target", world.target_on(exit()));
        }
        if self.receiving() == Some(&target::State::Opening) && self.target_alive && self.there != Vmm::Dead {
            add("listens", here.clone().target_on(Event::Target(Tgt::Listening)));
        }
        if self.vf == Vf::Asked && self.here == Vmm::Runs && self.source_alive {
            let mut world = here.clone();
            if self.leaving() == Some(&source::State::Detaching) {
                world.vf = Vf::Out;
                add("releases its VF", world.source_on(Event::Source(Src::Detached)));
            } else {
                // Late.
                world.vf = if world.wanted { Vf::Attached } else { Vf::Out };
                add("releases its VF late", world);
            }
        }
        // A VMM whose guest has ended does not answer.
        if self.adding && self.source_alive && self.here != Vmm::Dead {
            let mut world = here.clone();
            world.adding = false;
            if world.vf == Vf::Out {
                world.vf = Vf::Attached;
            }
            add("has its VF", world.source_on(Event::Source(Src::Attached)));
        }
        let receiving = self.receiving() == Some(&target::State::Receiving);
        if self.memory && self.here == Vmm::Runs && receiving {
            let mut world = here.clone();
            world.here = Vmm::Paused;
            add("paused", world);
        }
        if self.memory && self.here == Vmm::Paused && self.there == Vmm::Empty && receiving {
            let mut world = here.clone();
            world.there = Vmm::Restored;
            world.order = true;
            add("restored", world.target_on(Event::Target(Tgt::Restored)));
        }
        if self.released && self.there == Vmm::Restored && self.target_alive {
            let mut world = here.clone();
            world.there = Vmm::Runs;
            add("resumed", world.target_on(Event::Target(Tgt::Resumed)));
        }
        if self.failure_unheard && self.source_alive {
            let mut world = here;
            world.failure_unheard = false;
            add(
                "failure heard",
                world.source_on(Event::Source(Src::TransferFailed(Self::why()))),
            );
        }
    }

    pub(super) fn target_answers(&self) -> bool {
        self.target_alive && !matches!(self.target, Guest::Ended(_))
    }

    /// The target's hold is longer than the source's doubt.
    fn source_waits(&self) -> bool {
        self.source_alive && matches!(self.leaving(), Some(source::State::Committed { .. }))
    }

    fn break_channel(&mut self) {
        self.channel = false;
        self.to_source.clear();
        self.to_target.clear();
    }

    fn faults_from(&self, less: World, add: &mut impl FnMut(&str, World)) {
        let lost = || Self::why();
        if self.channel {
            // Broken, with all that was on its way; each side hears it.
            let mut world = less.clone();
            world.break_channel();
            let world = world
                .source_on(Event::Source(Src::ChannelLost(lost())))
                .target_on(Event::Target(Tgt::ChannelLost(lost())));
            add("channel breaks", world);
        }
        if self.memory {
            let mut world = less.clone();
            world.cut_memory();
            add("memory's connection breaks", world);
        }
        if self.source_alive && !matches!(self.source, Guest::Ended(_)) {
            let mut world = less.clone();
            world.source_alive = false;
            world.here = Vmm::Dead;
            world.break_channel();
            world.cut_memory();
            let what = match self.leaving() {
                Some(source::State::Fencing | source::State::Committed { .. }) if self.note => {
                    "source killed after the note"
                }
                _ => "source killed",
            };
            add(what, world.target_on(Event::Target(Tgt::ChannelLost(lost()))));
        }
        if self.target_alive && !matches!(self.target, Guest::Ended(_)) {
            let mut world = less.clone();
            world.target_alive = false;
            world.there = Vmm::Dead;
            world.break_channel();
            world.cut_memory();
            add(
                "target killed",
                world.source_on(Event::Source(Src::ChannelLost(lost()))),
            );
        }
        if self.there != Vmm::Dead && self.target_alive {
            let mut world = less.clone();
            world.kill_there();
            add("target's VMM ends", world);
            // It says that the transfer has failed, and is still there.
            let failed = Event::Target(Tgt::VmmFailed(lost()));
            add("target's VMM fails", less.clone().target_on(failed));
        }
        if self.source_alive && matches!(self.here, Vmm::Runs | Vmm::Paused | Vmm::Stopped) {
            let mut world = less.clone();
            world.guest_ended = true;
            world.kill_here();
            add("source's VMM ends", world);
        }
        if self.source_alive && !self.cancel_called {
            let mut world = less.clone();
            world.cancel_called = true;
            add("cancelled", world.source_on(Event::Cancel(CANCEL)));
        }
        if self.source_alive {
            let mut world = less.clone();
            world.told_to_end = true;
            add("source told to end", world.source_on(Event::Stop));
        }
        if self.target_alive {
            add("target told to end", less.clone().target_on(Event::Stop));
        }
        // The kubelet starts the container again: the next launcher boots the guest, if there is no note.
        let ended = !self.source_alive || matches!(self.source, Guest::Ended(_));
        if ended && !self.restarted {
            let mut world = less;
            world.restarted = true;
            world.source_alive = false;
            if !world.note {
                world.here = Vmm::Runs;
            }
            add("source's container started again", world);
        }
    }
}
