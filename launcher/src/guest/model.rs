//! Two launchers' machines against a model of what is around them: two VMMs, and a network that loses what it likes. Every order
//! of what can happen is walked through, breadth first, over all the states that can be reached; a channel may break, a
//! launcher, a VMM or the transfer may fail, each pod may be told to end, the migration may be cancelled and the source's
//! container may be started again, at every step.
//!
//! What must hold in every state: the guest never runs in both VMMs. And once nothing more can happen: it runs in one of
//! them, or both launchers have ended and say why; and every call has had one answer.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::machine::{Action, CallId, Event, Guest, Leaving, Outcome, VmmExit};
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
                    Action::Describe { .. } | Action::Target(_) | Action::TakeOver => {
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

    /// Every world that can come after this one.
    fn next(&self) -> Vec<(String, World)> {
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
        if self.doubt_armed && self.leaving() == Some(&source::State::Committed) {
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
            && self.leaving() == Some(&source::State::Committed)
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

    fn target_answers(&self) -> bool {
        self.target_alive && !matches!(self.target, Guest::Ended(_))
    }

    /// The target's hold is longer than the source's doubt.
    fn source_waits(&self) -> bool {
        self.source_alive && self.leaving() == Some(&source::State::Committed)
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
                Some(source::State::Fencing | source::State::Committed) if self.note => {
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

    fn check(&self) {
        assert!(
            !(self.here == Vmm::Runs && self.there == Vmm::Runs),
            "the guest runs twice: {self:#?}"
        );
        if self.source.is_committed() && self.source_alive {
            assert!(self.note, "given away without the note: {self:#?}");
            assert!(
                matches!(self.here, Vmm::Stopped | Vmm::Dead),
                "given away and not stopped: {self:#?}"
            );
        }
        for (call, count) in &self.answers {
            assert_eq!(*count, 1, "{call:?} was answered more than once: {self:#?}");
        }
        assert!(
            self.kills.0 <= 1 && self.kills.1 <= 1,
            "a VMM was killed twice: {self:#?}"
        );
    }

    /// Nothing can happen any more: there is one guest, or everybody says why there is none.
    fn check_end(&self) {
        let runs_here = self.here == Vmm::Runs && (self.source_alive || self.restarted);
        let runs_there = self.there == Vmm::Runs && self.target_alive;
        let at_rest = |guest: &Guest| {
            matches!(
                guest,
                Guest::Running { .. } | Guest::Stopping { .. } | Guest::Ended(_)
            )
        };
        // A target that no source has asked for anything waits for the next one.
        let waits = self.receiving() == Some(&target::State::Waiting);
        assert!(
            !self.source_alive || at_rest(&self.source),
            "the source waits for ever: {self:#?}"
        );
        assert!(
            !self.target_alive || at_rest(&self.target) || waits,
            "the target waits for ever: {self:#?}"
        );
        if self.source_alive {
            assert_eq!(self.answers.get(&MIGRATE), Some(&1), "no answer: {self:#?}");
            assert_eq!(
                self.answers.contains_key(&CANCEL),
                self.cancel_called,
                "{self:#?}"
            );
        }
        match &self.source {
            _ if !self.source_alive => {}
            Guest::Running { .. } | Guest::Stopping { .. } => {
                assert!(runs_here, "it was to stay: {self:#?}");
                assert_ne!(self.vf, Vf::Out, "it stays without its VF: {self:#?}");
            }
            Guest::Ended(Outcome::Migrated) => {
                // It may have failed there since, as any guest may; its own launcher says so.
                assert!(
                    runs_there || !self.target_alive || self.there == Vmm::Dead,
                    "{self:#?}"
                );
            }
            Guest::Ended(Outcome::LostAtTarget(_) | Outcome::InDoubt(_)) => {
                assert_eq!(self.here, Vmm::Dead, "{self:#?}");
            }
            Guest::Ended(Outcome::Killed) => {
                assert!(self.told_to_end && !self.note, "{self:#?}");
                assert!(!runs_there, "it was not given away: {self:#?}");
            }
            Guest::Ended(_) => {
                assert!(self.guest_ended, "nobody ended it: {self:#?}");
                assert!(!runs_there, "it was not given away: {self:#?}");
            }
            _ => {}
        }
        if matches!(self.target, Guest::Running { .. } | Guest::Stopping { .. }) && self.target_alive {
            assert!(runs_there, "{self:#?}");
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
    for step in [
        "described",
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

/// Between the source's machine and the outer one: the end of a guest that was given away is not the source's to judge.
#[test]
fn a_vmm_that_ends_after_the_commit_says_nothing_of_the_guest() {
    let committed = |guest: Guest| {
        [
            Src::Described,
            Src::Connected,
            Src::Prepared,
            Src::Detached,
            Src::Holding,
            Src::Fenced { failed: false },
        ]
        .into_iter()
        .fold(guest, |guest, event| guest.on(Event::Source(event)).0)
    };
    let leaving = Guest::Running { arrived: false }.on(Event::Migrate(MIGRATE)).0;
    let guest = committed(leaving);
    assert!(guest.is_committed());
    let (guest, actions) = guest.on(Event::VmmExited(VmmExit::Failure("signal 9".into())));
    assert!(guest.is_committed() && actions.is_empty(), "{actions:?}");
    // Nor does a stop, or the end of a grace period that began before.
    let (guest, actions) = guest.on(Event::Stop);
    assert!(actions.is_empty(), "{actions:?}");
    let (guest, actions) = guest.on(Event::GraceOver);
    assert!(actions.is_empty(), "{actions:?}");
    let (guest, actions) = guest.on(Event::Source(Src::Running));
    assert_eq!(
        guest,
        Guest::Ended(Outcome::Migrated),
        "the VMM has ended already"
    );
    assert_eq!(actions, [Action::Finish(MIGRATE, source::Ending::Migrated)]);
}

/// SIGTERM, then the target's VMM takes the guest all the same: its order was not held back. The grace period ends after that.
#[test]
fn a_grace_period_does_not_kill_a_guest_that_was_given_away() {
    let mut guest = Guest::Running { arrived: false }.on(Event::Migrate(MIGRATE)).0;
    for event in [
        Event::Source(Src::Described),
        Event::Source(Src::Connected),
        Event::Source(Src::Prepared),
        Event::Source(Src::Detached),
        Event::Stop,
        Event::Source(Src::TransferFinished),
        Event::GraceOver,
        Event::PressDue,
    ] {
        guest = guest.on(event).0;
    }
    assert!(guest.is_committed());
    let (guest, _) = guest.on(Event::Source(Src::Running));
    assert_eq!(guest, Guest::Killing(Outcome::Migrated));
}

/// The relay does not let it happen. If a VMM of another make ran the guest without being told, one guest is left all
/// the same.
#[test]
fn an_order_that_slips_through_leaves_one_guest() {
    let sending = || source::State::Sending;
    let early = || target::State::Receiving.on(Tgt::Resumed);

    let (here, sent) = sending().on(Src::TransferFinished);
    assert_eq!(sent, [Out::Note, Out::SendCommit, Out::ArmDoubt]);
    let (there, waits) = early();
    assert_eq!(waits, [In::ArmHold]);
    let (there, sent) = there.on(Tgt::Commit);
    assert_eq!(sent, [In::SendRunning]);
    assert_eq!(there, target::State::Ended(target::Ending::Runs { stop: false }));
    assert_eq!(
        here.on(Src::Running).0,
        source::State::Ended(source::Ending::Migrated)
    );

    // The source's VMM did not hear it, and has the guest again.
    let (here, sent) = sending().on(Src::TransferFailed(World::why()));
    assert!(sent.contains(&Out::SendAbort(World::why())));
    assert_eq!(
        here.on(Src::Attached).0,
        source::State::Ended(source::Ending::StaysHere { why: World::why() })
    );
    let (there, sent) = early().0.on(Tgt::Abort(World::why()));
    assert!(sent.contains(&In::SendGone("".into())), "{sent:?}");
    assert!(matches!(there, target::State::Ended(target::Ending::Gone { .. })));

    // The source does not come back.
    assert!(matches!(
        early().0.on(Tgt::HoldOver).0,
        target::State::Ended(target::Ending::Gone { .. })
    ));
}
