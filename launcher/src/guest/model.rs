//! Two launchers' machines against a model of what is around them: two VMMs, and a network that loses what it likes. Every order
//! of what can happen is walked through, breadth first, over all the states that can be reached; a channel may break, a
//! launcher, a VMM or the transfer may fail, each pod may be told to end, the migration may be cancelled and the source's
//! container may be started again, at every step.
//!
//! What must hold in every state: the guest never runs in both VMMs. And once nothing more can happen: it runs in one of
//! them, or both launchers have ended and say why; it is lost at the target only if the target had heard the commit; a stop
//! that was asked of the source is not forgotten; and every call has had one answer.

mod checks;
mod orders;
mod steps;

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::machine::{Action, CallId, Event, Guest, Leaving, Outcome};
use crate::migration::source::{self, Action as Out, Event as Src};
use crate::migration::target::{self, Action as In, Event as Tgt};

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
    /// The guest was asked to release it.
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

const MIGRATE: CallId = CallId(1);
const CANCEL: CallId = CallId(2);

#[derive(Debug, Clone, PartialEq, Eq)]
struct World {
    source: Guest,
    target: Guest,
    /// A launcher that was killed decides nothing any more, and its VMM is dead with it.
    source_alive: bool,
    target_alive: bool,
    here: Vmm,
    there: Vmm,
    /// The VMM is dead and its launcher has not seen it.
    exit_unseen_here: bool,
    exit_unseen_there: bool,
    vf: Vf,
    /// The guest is to have it: it is plugged again if the guest releases it now.
    wanted: bool,
    /// The VMM here is being asked to plug the VF again.
    adding: bool,
    /// The guest is being described for the target.
    describing: bool,
    to_target: Vec<Word>,
    to_source: Vec<Word>,
    /// The launchers' channel.
    channel: bool,
    /// The VMMs' connection, through both relays.
    memory: bool,
    /// The VMM here has failed, and its launcher has not heard it.
    failure_unheard: bool,
    /// The guest has come to its end here, at whatever time.
    guest_ended: bool,
    /// The guest was told to shut down here, at whatever time.
    told_to_end: bool,
    /// The order to run is at the target's relay.
    order: bool,
    released: bool,
    hold_armed: bool,
    doubt_armed: bool,
    grace_armed: bool,
    /// The note that the guest was given away, which outlives its launcher.
    note: bool,
    /// The target has heard the commit while it could run the guest.
    commit_heard: bool,
    /// The container was started again after its launcher had ended or was killed.
    restarted: bool,
    /// Calls that were made, and answers that were given.
    cancel_called: bool,
    answers: BTreeMap<CallId, u32>,
    /// Times that each launcher has killed its VMM.
    kills: (u32, u32),
    /// Things that may still go wrong.
    faults: u8,
}

impl World {
    fn new(faults: u8) -> Self {
        let (source, actions) = (Guest::Running { arrived: false }).on(Event::Migrate(MIGRATE));
        assert_eq!(
            actions,
            [Action::Describe {
                call: MIGRATE,
                arrived: false
            }]
        );
        Self {
            source,
            target: Guest::receiving(),
            source_alive: true,
            target_alive: true,
            here: Vmm::Runs,
            there: Vmm::Empty,
            exit_unseen_here: false,
            exit_unseen_there: false,
            vf: Vf::Attached,
            wanted: true,
            adding: false,
            describing: true,
            to_target: Vec::new(),
            to_source: Vec::new(),
            channel: false,
            memory: false,
            failure_unheard: false,
            guest_ended: false,
            told_to_end: false,
            order: false,
            released: false,
            hold_armed: false,
            doubt_armed: false,
            grace_armed: false,
            note: false,
            commit_heard: false,
            restarted: false,
            cancel_called: false,
            answers: BTreeMap::new(),
            kills: (0, 0),
            faults,
        }
    }

    /// The machines' texts do not matter to where things can go, so they are all the same here.
    fn why() -> String {
        String::new()
    }

    fn send(words: &mut Vec<Word>, channel: bool, word: Word) {
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

    fn kill_here(&mut self) {
        self.exit_unseen_here |= self.here != Vmm::Dead && self.source_alive;
        self.here = Vmm::Dead;
    }

    fn kill_there(&mut self) {
        self.exit_unseen_there |= self.there != Vmm::Dead && self.target_alive;
        self.there = Vmm::Dead;
        self.cut_memory();
    }

    fn leaving(&self) -> Option<&source::State> {
        match &self.source {
            Guest::Leaving(Leaving { source, .. }) => Some(source),
            _ => None,
        }
    }

    fn receiving(&self) -> Option<&target::State> {
        match &self.target {
            Guest::Receiving(receiving) => Some(&receiving.target),
            _ => None,
        }
    }

    fn source_on(mut self, event: Event) -> Self {
        if !self.source_alive {
            return self;
        }
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let (guest, actions) = self.source.clone().on(event);
            self.source = guest;
            for action in actions {
                match action {
                    Action::Source(action) => events.extend(self.source_does(action).map(Event::Source)),
                    Action::KillVmm => {
                        self.kills.0 += 1;
                        self.kill_here();
                    }
                    Action::ArmGrace => self.grace_armed = true,
                    Action::Finish(call, _) | Action::Refuse(call, _) | Action::Cancelling(call) => {
                        *self.answers.entry(call).or_default() += 1;
                    }
                    Action::PressPowerButton | Action::ArmPress | Action::Resume => {}
                    Action::Describe { .. }
                    | Action::Target(_)
                    | Action::TakeOver
                    | Action::Ask(..)
                    | Action::Reply(..) => {
                        panic!("not a source's: {action:?}")
                    }
                }
            }
        }
        self
    }

    fn source_does(&mut self, action: Out) -> Option<Src> {
        match action {
            Out::Connect => self.channel = self.target_answers(),
            Out::SendPrepare => Self::send(&mut self.to_target, self.channel, Word::Prepare),
            Out::CopyDisks => {}
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
                // The VMM is stopped; if its failure was not heard yet, it is found now.
                let failed = std::mem::take(&mut self.failure_unheard);
                if self.here == Vmm::Dead {
                    return Some(Src::CannotFence(Self::why()));
                }
                if !failed {
                    assert_eq!(self.here, Vmm::Paused, "a target that holds has all of it");
                    self.here = Vmm::Stopped;
                    self.note = true;
                }
                return Some(Src::Fenced { failed });
            }
            Out::Unfence => {
                self.note = false;
                if self.here == Vmm::Stopped {
                    self.here = Vmm::Paused;
                    if !self.memory {
                        self.cut_memory();
                    }
                }
            }
            Out::SendCommit => {
                assert!(self.note, "committed without the note");
                Self::send(&mut self.to_target, self.channel, Word::Commit);
            }
            Out::SendAbort(_) => Self::send(&mut self.to_target, self.channel, Word::Abort),
            Out::Note => self.note = true,
            Out::AskAgain | Out::ArmDoubt => self.doubt_armed = true,
        }
        None
    }

    fn target_on(mut self, event: Event) -> Self {
        if !self.target_alive {
            return self;
        }
        let (guest, actions) = self.target.clone().on(event);
        self.target = guest;
        let channel = self.channel;
        for action in actions {
            match action {
                Action::Target(action) => match action {
                    In::Refuse(_) => Self::send(&mut self.to_source, channel, Word::Gone),
                    In::Receive => {}
                    In::SendPrepared => Self::send(&mut self.to_source, channel, Word::Prepared),
                    In::SendHolding => Self::send(&mut self.to_source, channel, Word::Holding),
                    In::ArmHold => self.hold_armed = true,
                    In::Release => self.released = true,
                    In::SendRunning => Self::send(&mut self.to_source, channel, Word::Running),
                    In::SendLost(_) => Self::send(&mut self.to_source, channel, Word::Lost),
                    In::SendGone(_) => {
                        Self::send(&mut self.to_source, channel, Word::Gone);
                        self.cut_memory();
                    }
                },
                Action::KillVmm => {
                    self.kills.1 += 1;
                    self.kill_there();
                }
                Action::TakeOver | Action::PressPowerButton | Action::ArmPress | Action::ArmGrace => {}
                other => panic!("not a target's: {other:?}"),
            }
        }
        self
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
    for step in [
        "described",
        "disks copied",
        "listens",
        "releases its VF",
        "paused",
        "restored",
        "resumed",
    ] {
        assert!(steps.contains_key(step), "{step}: {steps:?}");
    }
    // The way without a fault has one end.
    let mut world = World::new(0);
    while let Some((_, next)) = world
        .next()
        .into_iter()
        .find(|(what, _)| !what.ends_with("over") && !what.ends_with("exits"))
    {
        world = next;
    }
    assert_eq!(world.source, Guest::Ended(Outcome::Migrated));
    assert_eq!(world.target, Guest::Running { arrived: true });
    assert_eq!((world.here, world.there), (Vmm::Dead, Vmm::Runs));
}

#[test]
fn whatever_fails_there_are_never_two_and_never_none_without_a_word() {
    for faults in 1..=3 {
        let (states, steps) = explore(faults);
        assert!(states > 50, "{states}");
        for step in [
            "releases its VF late",
            "keeps its VF: time over",
            "has its VF",
            "channel breaks",
            "memory's connection breaks",
            "source killed",
            "source killed after the note",
            "target killed",
            "target's VMM ends",
            "target's VMM fails",
            "source's VMM ends",
            "exit seen at the source",
            "exit seen at the target",
            "cancelled",
            "source told to end",
            "target told to end",
            "grace over",
            "asks again",
            "doubt over",
            "hold over",
        ] {
            assert!(
                steps.contains_key(step),
                "{step} was never tried with {faults} faults"
            );
        }
        // That takes two faults: one that ends the launcher, and one that starts the next.
        if faults > 1 {
            assert!(steps.contains_key("source's container started again"));
        }
    }
}
