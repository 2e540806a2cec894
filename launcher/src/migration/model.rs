//! Both machines against a model of what is around them: two VMMs, and a network that loses what it likes. Every order
//! of what can happen is walked through, breadth first, over all the states that can be reached; a channel may break
//! and a launcher, a VMM or the transfer may fail at every step.
//!
//! What must hold in every state: the guest never runs in both VMMs. And once nothing more can happen: it runs in one of
//! them, or both launchers have ended and say why.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::source::{self, Action as Out, Ending as Left, Event as Src};
use super::target::{self, Action as In, Ending as Came, Event as Tgt};

/// The guest in a VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Vmm {
    /// No guest, or not all of it.
    Empty,
    Runs,
    /// Paused by the VMM for the last of the transfer; it resumes if its connection breaks.
    Paused,
    /// Stopped by its launcher. What it would do when its connection breaks waits.
    Stopped,
    /// All here, waiting for the order to run.
    Restored,
    Dead,
}

/// The guest's VF at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Vf {
    Attached,
    /// The guest was asked to let go of it.
    Asked,
    Out,
}

/// On the way between the launchers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Word {
    Prepare,
    Prepared,
    Holding,
    Commit,
    Running,
    Lost,
    Abort,
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct World {
    source: source::State,
    target: target::State,
    /// A launcher that was killed decides nothing any more, and its VMM is dead with it.
    source_alive: bool,
    target_alive: bool,
    here: Vmm,
    there: Vmm,
    vf: Vf,
    /// The guest is to have it: it is given it again if it lets go of it now.
    wanted: bool,
    /// The VMM here is being told to give the guest its VF back.
    adding: bool,
    to_target: Vec<Word>,
    to_source: Vec<Word>,
    /// The launchers' channel.
    channel: bool,
    /// The VMMs' connection, through both relays.
    memory: bool,
    /// The VMM here has failed, and its launcher has not heard it.
    failure_unheard: bool,
    /// The guest has come to its end here, and the launcher has not heard it. The VMM does nothing any more.
    end_unheard: bool,
    /// It has, at whatever time.
    guest_ended: bool,
    /// The order to run is at the target's relay.
    order: bool,
    released: bool,
    hold_armed: bool,
    doubt_armed: bool,
    /// Things that may still go wrong.
    faults: u8,
}

impl World {
    fn new(faults: u8) -> Self {
        Self {
            source: source::State::Preparing,
            target: target::State::Waiting,
            source_alive: true,
            target_alive: true,
            here: Vmm::Runs,
            there: Vmm::Empty,
            vf: Vf::Attached,
            wanted: true,
            adding: false,
            to_target: vec![Word::Prepare],
            to_source: Vec::new(),
            channel: true,
            memory: false,
            failure_unheard: false,
            end_unheard: false,
            guest_ended: false,
            order: false,
            released: false,
            hold_armed: false,
            doubt_armed: false,
            faults,
        }
    }

    /// The machines' texts do not matter to where things can go, so they are all the same here.
    fn why() -> String {
        String::new()
    }

    fn say(words: &mut Vec<Word>, channel: bool, word: Word) {
        if channel {
            words.push(word);
        }
    }

    fn cut_memory(&mut self) {
        let sending = std::mem::take(&mut self.memory);
        self.order = false;
        if self.here == Vmm::Paused {
            self.here = Vmm::Runs;
            self.failure_unheard = true;
        } else if self.here == Vmm::Runs && sending {
            self.failure_unheard = true;
        }
        // What is restored at the target stays paused without the order.
    }

    fn source_on(mut self, event: Src) -> Self {
        if !self.source_alive {
            return self;
        }
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let (state, actions) = self.source.clone().on(event);
            self.source = state;
            for action in actions {
                match action {
                    Out::Detach => {
                        self.vf = Vf::Asked;
                        self.wanted = false;
                    }
                    Out::Attach => {
                        self.wanted = true;
                        self.adding = true;
                    }
                    Out::Transfer => {
                        assert_eq!(self.vf, Vf::Out, "sent with a VF");
                        self.memory = true;
                    }
                    Out::CutTransfer => self.cut_memory(),
                    Out::Fence => {
                        // The VMM stands still; if its failure was not heard yet, it is found now.
                        let failed = std::mem::take(&mut self.failure_unheard);
                        if self.here == Vmm::Dead {
                            next = Some(Src::CannotFence(Self::why()));
                        } else {
                            if !failed {
                                assert_eq!(self.here, Vmm::Paused, "a target that holds has all of it");
                                self.here = Vmm::Stopped;
                            }
                            next = Some(Src::Fenced { failed });
                        }
                    }
                    Out::Unfence => {
                        if self.here == Vmm::Stopped {
                            self.here = Vmm::Paused;
                            if !self.memory {
                                self.cut_memory();
                            }
                        }
                    }
                    Out::SendCommit => Self::say(&mut self.to_target, self.channel, Word::Commit),
                    Out::SendAbort(_) => Self::say(&mut self.to_target, self.channel, Word::Abort),
                    Out::Note => {}
                    Out::AskAgain | Out::ArmDoubt => self.doubt_armed = true,
                    Out::KillVmm => self.here = Vmm::Dead,
                }
            }
        }
        self
    }

    fn target_on(mut self, event: Tgt) -> Self {
        if !self.target_alive {
            return self;
        }
        let (state, actions) = self.target.clone().on(event);
        self.target = state;
        let channel = self.channel;
        for action in actions {
            match action {
                In::Refuse(_) => Self::say(&mut self.to_source, channel, Word::Gone),
                In::Receive => {}
                In::SayPrepared => Self::say(&mut self.to_source, channel, Word::Prepared),
                In::SayHolding => Self::say(&mut self.to_source, channel, Word::Holding),
                In::ArmHold => self.hold_armed = true,
                In::Release => self.released = true,
                In::SayRunning => Self::say(&mut self.to_source, channel, Word::Running),
                In::SayLost(_) => Self::say(&mut self.to_source, channel, Word::Lost),
                In::SayGone(_) => Self::say(&mut self.to_source, channel, Word::Gone),
                In::KillVmm => {
                    self.there = Vmm::Dead;
                    self.cut_memory();
                }
            }
        }
        self
    }

    /// Every world that can come after this one.
    fn next(&self) -> Vec<(String, World)> {
        let mut all = Vec::new();
        let mut add = |what: &str, world: World| all.push((what.to_owned(), world));
        let here = self.clone();
        // What is on its way arrives, in order.
        if let Some(word) = self.to_target.first().copied() {
            let mut world = here.clone();
            world.to_target.remove(0);
            let event = match word {
                Word::Prepare => Some(Tgt::Prepare { reasons: Vec::new() }),
                Word::Commit => Some(Tgt::Commit),
                Word::Abort => Some(Tgt::Abort(Self::why())),
                _ => None,
            };
            add(
                "to the target",
                event.map_or(world.clone(), |event| world.target_on(event)),
            );
        }
        if let Some(word) = self.to_source.first().copied() {
            let mut world = here.clone();
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
                event.map_or(world.clone(), |event| world.source_on(event)),
            );
        }
        // The VMMs.
        if self.target == target::State::Opening && self.target_alive {
            add("listens", here.clone().target_on(Tgt::Listening));
        }
        if self.vf == Vf::Asked && self.here == Vmm::Runs && self.source_alive {
            let mut world = here.clone();
            if self.source == source::State::Detaching {
                world.vf = Vf::Out;
                add("lets go of its VF", world.source_on(Src::Detached));
            } else {
                // Late.
                world.vf = if world.wanted { Vf::Attached } else { Vf::Out };
                add("lets go of its VF late", world);
            }
        }
        // A VMM whose guest has ended does not answer.
        if self.adding && self.source_alive && self.here != Vmm::Dead {
            let mut world = here.clone();
            world.adding = false;
            if world.vf == Vf::Out {
                world.vf = Vf::Attached;
            }
            add("has its VF", world.source_on(Src::Attached));
        }
        if self.memory && self.here == Vmm::Runs && self.target == target::State::Receiving {
            let mut world = here.clone();
            world.here = Vmm::Paused;
            add("paused", world);
        }
        if self.memory
            && self.here == Vmm::Paused
            && self.there == Vmm::Empty
            && self.target == target::State::Receiving
        {
            let mut world = here.clone();
            world.there = Vmm::Restored;
            world.order = true;
            add("restored", world.target_on(Tgt::Restored));
        }
        if self.released && self.there == Vmm::Restored && self.target_alive {
            let mut world = here.clone();
            world.there = Vmm::Runs;
            add("resumed", world.target_on(Tgt::Resumed));
        }
        if self.failure_unheard && self.source_alive {
            let mut world = here.clone();
            world.failure_unheard = false;
            add("failure heard", world.source_on(Src::TransferFailed(Self::why())));
        }
        if self.end_unheard && self.source_alive {
            let mut world = here.clone();
            world.end_unheard = false;
            add("end heard", world.source_on(Src::GuestEnded(Self::why())));
        }
        // Timers.
        if self.source == source::State::Detaching && self.source_alive {
            let refused = Src::NotDetached(Self::why());
            add("keeps its VF: time over", here.clone().source_on(refused));
        }
        if self.hold_armed && matches!(self.target, target::State::Holding { .. }) && !self.source_waits() {
            add("hold over", here.clone().target_on(Tgt::HoldOver));
        }
        if self.doubt_armed && self.source == source::State::Committed {
            add("doubt over", here.clone().source_on(Src::DoubtOver));
        }
        // The source in doubt comes back, if the target is there to be asked.
        if !self.channel && self.source == source::State::Committed && self.source_alive && self.target_alive
        {
            let mut world = here.clone();
            world.channel = true;
            world.to_target = vec![Word::Commit];
            add("asks again", world);
        }
        if self.faults > 0 {
            let mut less = here;
            less.faults -= 1;
            self.faults_from(less, &mut add);
        }
        all
    }

    /// The target's patience is longer than the source's.
    fn source_waits(&self) -> bool {
        self.source_alive && self.source == source::State::Committed
    }

    fn faults_from(&self, less: World, add: &mut impl FnMut(&str, World)) {
        if self.channel {
            // Broken, with all that was on its way; each side hears it.
            let mut world = less.clone();
            world.channel = false;
            world.to_source.clear();
            world.to_target.clear();
            let world = world
                .source_on(Src::ChannelLost(Self::why()))
                .target_on(Tgt::ChannelLost(Self::why()));
            add("channel breaks", world);
        }
        if self.memory {
            let mut world = less.clone();
            world.cut_memory();
            add("memory's connection breaks", world);
        }
        if self.source_alive {
            let mut world = less.clone();
            world.source_alive = false;
            world.here = Vmm::Dead;
            world.channel = false;
            world.to_target.clear();
            world.to_source.clear();
            world.cut_memory();
            add("source killed", world.target_on(Tgt::ChannelLost(Self::why())));
        }
        if self.target_alive {
            let mut world = less.clone();
            world.target_alive = false;
            world.there = Vmm::Dead;
            world.channel = false;
            world.to_target.clear();
            world.to_source.clear();
            world.cut_memory();
            add("target killed", world.source_on(Src::ChannelLost(Self::why())));
        }
        if self.there != Vmm::Dead && self.target_alive {
            let mut world = less.clone();
            world.there = Vmm::Dead;
            world.cut_memory();
            add("target's VMM dies", world.target_on(Tgt::VmmFailed(Self::why())));
        }
        if self.source_alive && matches!(self.here, Vmm::Runs | Vmm::Paused) {
            let mut world = less.clone();
            world.here = Vmm::Dead;
            world.end_unheard = true;
            world.guest_ended = true;
            add("the guest ends", world);
        }
        if self.source_alive {
            add("cancelled", less.clone().source_on(Src::Cancel(Self::why())));
        }
        if self.target_alive {
            add("target stopped", less.target_on(Tgt::Stop));
        }
    }

    fn check(&self) {
        assert!(
            !(self.here == Vmm::Runs && self.there == Vmm::Runs),
            "the guest runs twice: {self:#?}"
        );
        if self.source.is_committed() && self.source_alive {
            assert!(
                matches!(self.here, Vmm::Stopped | Vmm::Dead),
                "given away and not stopped: {self:#?}"
            );
        }
    }

    /// Nothing can happen any more: there is one guest, or everybody says why there is none.
    fn check_end(&self) {
        let runs_here = self.here == Vmm::Runs && self.source_alive;
        let runs_there = self.there == Vmm::Runs && self.target_alive;
        let source_ended = !self.source_alive || matches!(self.source, source::State::Ended(_));
        let target_ended = !self.target_alive || matches!(self.target, target::State::Ended(_));
        // A target that nobody asked for anything waits for the next source.
        let waits = self.target == target::State::Waiting;
        assert!(
            source_ended && (target_ended || waits),
            "somebody waits for ever: {self:#?}"
        );
        match &self.source {
            // It may have ended since, as any guest may.
            source::State::Ended(Left::StaysHere { .. }) if self.guest_ended => {}
            source::State::Ended(Left::StaysHere { .. }) if self.source_alive => {
                assert!(runs_here, "it was to stay: {self:#?}");
                assert_ne!(self.vf, Vf::Out, "it stays without its VF: {self:#?}");
            }
            source::State::Ended(Left::EndedHere { .. }) => {
                assert_eq!(self.here, Vmm::Dead, "it was to have ended: {self:#?}");
                assert!(!runs_there, "it has not been given away: {self:#?}");
            }
            source::State::Ended(Left::Migrated) if self.source_alive => {
                // It may have failed there since, as any guest may; its own launcher says so.
                assert!(
                    runs_there || !self.target_alive || self.there == Vmm::Dead,
                    "{self:#?}"
                );
            }
            _ => {}
        }
        if let target::State::Ended(Came::Runs { .. }) = &self.target {
            assert!(
                runs_there || !self.target_alive || self.there == Vmm::Dead,
                "{self:#?}"
            );
        }
    }
}

/// Walks through everything with so many faults; how many states that were, and which steps were seen.
fn explore(faults: u8) -> (usize, BTreeMap<String, usize>) {
    let mut seen = HashSet::new();
    let mut steps = BTreeMap::new();
    let mut queue = VecDeque::from([World::new(faults)]);
    while let Some(world) = queue.pop_front() {
        if !seen.insert(format!("{world:?}")) {
            continue;
        }
        world.check();
        let next = world.next();
        // What changes nothing is no way on.
        let goes_on = next
            .iter()
            .any(|(_, after)| after.faults == world.faults && *after != world);
        if !goes_on {
            world.check_end();
        }
        for (what, after) in next {
            *steps.entry(what).or_insert(0) += 1;
            queue.push_back(after);
        }
    }
    (seen.len(), steps)
}

#[test]
fn without_faults_the_guest_ends_up_there() {
    let (_, steps) = explore(0);
    for step in ["listens", "lets go of its VF", "paused", "restored", "resumed"] {
        assert!(steps.contains_key(step), "{step}: {steps:?}");
    }
    // The way without a fault has one end.
    let mut world = World::new(0);
    while let Some((_, next)) = world.next().into_iter().find(|(what, _)| !what.ends_with("over")) {
        world = next;
    }
    assert_eq!(world.source, source::State::Ended(Left::Migrated));
    assert_eq!((world.here, world.there), (Vmm::Dead, Vmm::Runs));
}

#[test]
fn whatever_fails_there_are_never_two_and_never_none_without_a_word() {
    for faults in 1..=3 {
        let (states, steps) = explore(faults);
        assert!(states > 50, "{states}");
        for step in [
            "lets go of its VF late",
            "keeps its VF: time over",
            "has its VF",
            "channel breaks",
            "memory's connection breaks",
            "source killed",
            "target killed",
            "target's VMM dies",
            "the guest ends",
            "end heard",
            "cancelled",
            "target stopped",
            "asks again",
            "doubt over",
            "hold over",
        ] {
            assert!(
                steps.contains_key(step),
                "{step} was never tried with {faults} faults"
            );
        }
    }
}

#[test]
fn the_end_of_a_guest_that_was_given_away_is_not_the_sources_to_judge() {
    let sending = source::State::Sending;
    let (ended, said) = sending.on(Src::GuestEnded("crashed".into()));
    assert_eq!(
        ended,
        source::State::Ended(Left::EndedHere {
            why: "crashed".into()
        })
    );
    assert!(!ended.is_committed() && said.contains(&Out::SendAbort("crashed".into())));
    let committed = source::State::Committed;
    assert_eq!(
        committed.clone().on(Src::GuestEnded(World::why())),
        (committed, vec![])
    );
}

/// The relay does not let it happen. If a VMM of another make ran the guest without being told, one guest is left all
/// the same.
#[test]
fn an_order_that_slips_through_leaves_one_guest() {
    let sending = || source::State::Sending;
    let early = || target::State::Receiving.on(Tgt::Resumed);

    let (here, said) = sending().on(Src::TransferFinished);
    assert_eq!(said, [Out::Note, Out::SendCommit, Out::ArmDoubt]);
    let (there, waits) = early();
    assert_eq!(waits, [In::ArmHold]);
    let (there, said) = there.on(Tgt::Commit);
    assert_eq!(said, [In::SayRunning]);
    assert_eq!(there, target::State::Ended(Came::Runs { stop: false }));
    assert_eq!(here.on(Src::Running).0, source::State::Ended(Left::Migrated));

    // The source's VMM did not hear it, and has the guest again.
    let (here, said) = sending().on(Src::TransferFailed(World::why()));
    assert!(said.contains(&Out::SendAbort(World::why())));
    assert_eq!(
        here.on(Src::Attached).0,
        source::State::Ended(Left::StaysHere { why: World::why() })
    );
    let (there, said) = early().0.on(Tgt::Abort(World::why()));
    assert!(said.contains(&In::KillVmm));
    assert!(matches!(there, target::State::Ended(Came::Gone { .. })));

    // Nobody comes any more.
    assert!(early().0.on(Tgt::HoldOver).1.contains(&In::KillVmm));
}
