//! The life of a guest as a pure machine: `(Guest, Event) -> (Guest, Vec<Action>)`.
//!
//! ```text
//!   Booting ► Held ────┐                               An operator starts a guest that is held (`operate`).
//!                      ▼
//!   Receiving ──────► Running ◄─────► Leaving          Receiving holds the target's half of a migration,
//!                     ▲│                 │             Leaving the source's: their ends are states here.
//!          Paused ◄───┘│                 │             An operator pauses a guest that runs (`operate`).
//!                      ▼                 │
//!                    Stopping ◄──────────┤
//!                      │                 │
//!                      ▼                 ▼
//!                    Ended ◄───────── Killing          from every state
//! ```
//!
//! One task performs the actions. Signals, timers, the VMM, the other launcher and whoever calls over the control socket only
//! send events. So every order of events is tested without a VMM (`migration::model` has two of these machines and a network
//! between them), and no order can start, stop or judge a guest twice, or leave a call without its one answer.

mod operate;
mod outcome;
mod receiving;

pub(crate) use operate::Vcpus;
pub(crate) use outcome::{Outcome, VmmExit};

use crate::control::Verb;
use crate::migration::source::{self, Ending as Left};
use crate::migration::target;

/// Where the guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Guest {
    /// The VMM is being told what to run.
    Booting,
    /// The VMM knows what to run, and an operator is to start it (`startStrategy: Paused`).
    Held,
    /// Another launcher is to migrate the guest here.
    Receiving(Receiving),
    Running {
        arrived: bool,
    },
    /// By an operator.
    Paused {
        arrived: bool,
        vcpus: Vcpus,
    },
    /// This launcher migrates the guest to another one.
    Leaving(Leaving),
    /// Its power button is being pressed.
    Stopping {
        arrived: bool,
    },
    /// The VMM is being killed, and this will then be the outcome.
    Killing(Outcome),
    Ended(Outcome),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receiving {
    pub(crate) target: target::State,
    exit: Option<VmmExit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaving {
    pub(crate) source: source::State,
    call: CallId,
    /// Migrated here earlier, and not rebooted since.
    arrived: bool,
    /// The guest is to shut down as well.
    stopping: bool,
    /// The same, said when it was the target's already: it counts if the guest comes back.
    stop_if_back: bool,
    /// How the VMM ended, while what that means depends on the target.
    exit: Option<VmmExit>,
}

/// A request over the control socket that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CallId(pub(crate) u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Booted,
    /// It is left to an operator to have it booted.
    Held,
    /// The guest cannot be started: a request to the VMM's API failed, or a program beside it did.
    StartFailed(String),
    /// Somebody wants the guest to end.
    Stop,
    /// Time for the next press of the power button.
    PressDue,
    GraceOver,
    /// The guest has rebooted.
    Rebooted,
    /// The guest reboots, and its manifest says that this is its end.
    EndsAtReboot,
    VmmExited(VmmExit),
    Migrate(CallId),
    Cancel(CallId),
    /// An operator wants this done.
    Operate(CallId, Verb),
    /// The VMM was asked for it, for this call if there is one.
    Operated(Option<CallId>, Verb, Result<(), String>),
    /// Of a migration away from here.
    Source(source::Event),
    /// Of a migration to here.
    Target(target::Event),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    PressPowerButton,
    /// Send `PressDue` after a while.
    ArmPress,
    /// Send `GraceOver` when the grace period ends.
    ArmGrace,
    KillVmm,
    /// Describe the guest for the target, and send [`source::Event::Described`] or [`source::Event::NotDescribed`].
    Describe {
        call: CallId,
        arrived: bool,
    },
    Source(source::Action),
    Target(target::Action),
    /// The guest has come and is this launcher's: serve it.
    TakeOver,
    /// The guest stays: mend what the VMM has let go of for the migration.
    Resume,
    /// The migration has ended. This answers the call.
    Finish(CallId, Left),
    /// This answers the call.
    Refuse(CallId, Refusal),
    /// The migration is being cancelled. This answers the call.
    Cancelling(CallId),
    /// Ask the VMM, after whatever it was asked for before, and send [`Event::Operated`].
    Ask(Option<CallId>, Verb),
    /// What became of it. This answers the call.
    Reply(CallId, Verb, Result<(), String>),
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotRunning,
    Migrating,
    NotMigrating,
    Committed,
    Paused,
    NotPaused,
    /// The VMM is being asked to pause or to resume the guest.
    Busy,
    Stopping,
}

type Next = (Guest, Vec<Action>);

impl Guest {
    /// Waits for another launcher.
    pub(crate) fn receiving() -> Self {
        Self::Receiving(Receiving {
            target: target::State::Waiting,
            exit: None,
        })
    }

    pub(crate) fn on(self, event: Event) -> Next {
        match (self, event) {
            (state, Event::Operate(call, verb)) => state.operate(call, verb),
            (state, Event::Operated(call, verb, result)) => state.operated(call, verb, result),
            (Self::Receiving(receiving), event) => receiving.on(event),
            (Self::Leaving(leaving), event) => leaving.on(event),

            (Self::Running { arrived }, Event::Migrate(call)) => (
                Self::Leaving(Leaving {
                    source: source::State::Describing,
                    call,
                    arrived,
                    stopping: false,
                    stop_if_back: false,
                    exit: None,
                }),
                vec![Action::Describe { call, arrived }],
            ),
            (paused @ Self::Paused { .. }, Event::Migrate(call)) => {
                (paused, vec![Action::Refuse(call, Refusal::Paused)])
            }
            (state, Event::Migrate(call)) => (state, vec![Action::Refuse(call, Refusal::NotRunning)]),
            (state, Event::Cancel(call)) => (state, vec![Action::Refuse(call, Refusal::NotMigrating)]),

            (ended @ Self::Ended(_), _) => (ended, vec![]),
            (Self::Killing(outcome), Event::VmmExited(_)) => (Self::Ended(outcome), vec![]),
            // The source has not received the first answer.
            (Self::Killing(Outcome::LostHere(why)), Event::Target(target::Event::Commit)) => {
                let send = Action::Target(target::Action::SendLost(why.clone()));
                (Self::Killing(Outcome::LostHere(why)), vec![send])
            }
            // Nor that none is here; it has it still.
            (Self::Killing(Outcome::NotReceived(why)), Event::Target(target::Event::Commit)) => {
                let send = Action::Target(target::Action::SendGone(why.clone()));
                (Self::Killing(Outcome::NotReceived(why)), vec![send])
            }
            (killing @ Self::Killing(_), _) => (killing, vec![]),

            (Self::Booting, Event::Booted) => (Self::Running { arrived: false }, vec![]),
            // A guest that never ran has nothing to lose.
            (Self::Booting, Event::Held) => (Self::Held, vec![]),
            (Self::Booting | Self::Held, Event::Stop) => kill(Outcome::NeverStarted),
            (Self::Booting | Self::Held, Event::StartFailed(why)) => kill(Outcome::Failed(why)),
            (Self::Booting | Self::Held, Event::VmmExited(exit)) => {
                let why = match exit {
                    VmmExit::Success => "cloud-hypervisor exited before the guest ran".to_owned(),
                    VmmExit::Failure(why) => why,
                };
                (Self::Ended(Outcome::Failed(why)), vec![])
            }

            (Self::Running { arrived }, Event::Stop) => (Self::Stopping { arrived }, stop()),
            (Self::Paused { arrived, .. }, Event::Stop) => {
                let mut actions = vec![Action::Ask(None, Verb::Resume)];
                actions.extend(stop());
                (Self::Stopping { arrived }, actions)
            }
            (state @ Self::Stopping { .. }, Event::PressDue) => (state, press()),
            (Self::Stopping { .. }, Event::GraceOver) => kill(Outcome::Killed),

            (Self::Running { .. } | Self::Paused { .. } | Self::Stopping { .. }, Event::VmmExited(exit)) => {
                (Self::Ended(exit.outcome()), vec![])
            }
            (Self::Running { .. } | Self::Paused { .. } | Self::Stopping { .. }, Event::EndsAtReboot) => {
                kill(Outcome::ShutDown)
            }
            (Self::Paused { vcpus, .. }, Event::Rebooted) => (
                Self::Paused {
                    arrived: false,
                    vcpus,
                },
                vec![],
            ),
            (Self::Running { .. }, Event::Rebooted) => (Self::Running { arrived: false }, vec![]),
            (Self::Stopping { .. }, Event::Rebooted) => (Self::Stopping { arrived: false }, vec![]),
            (
                state @ (Self::Running { .. } | Self::Paused { .. } | Self::Stopping { .. }),
                Event::Target(target::Event::Commit),
            ) => (state, vec![Action::Target(target::Action::SendRunning)]),

            // A running guest is not ended because a request failed: the next press may succeed, and if the VMM is gone
            // its exit says so. The rest are events that came too late or twice.
            (
                state @ (Self::Booting
                | Self::Held
                | Self::Running { .. }
                | Self::Paused { .. }
                | Self::Stopping { .. }),
                _,
            ) => (state, vec![]),
        }
    }

    /// The guest has been given away for good.
    pub(crate) fn is_committed(&self) -> bool {
        match self {
            Self::Leaving(leaving) => leaving.source.is_committed(),
            Self::Killing(outcome) | Self::Ended(outcome) => outcome.is_given_away(),
            Self::Booting
            | Self::Held
            | Self::Receiving(_)
            | Self::Running { .. }
            | Self::Paused { .. }
            | Self::Stopping { .. } => false,
        }
    }
}

impl Leaving {
    fn on(mut self, event: Event) -> Next {
        let committed = self.source.is_committed();
        match event {
            Event::Source(event) => self.advance(event),
            // It is not this launcher's to end any more. A second stop extends nothing.
            Event::Stop if committed || self.stopping => {
                self.stop_if_back |= committed;
                (Guest::Leaving(self), vec![])
            }
            Event::Stop => {
                self.stopping = true;
                let (guest, mut actions) =
                    self.advance(source::Event::Cancel("the guest is to shut down".into()));
                actions.extend(stop());
                (guest, actions)
            }
            Event::PressDue if self.stopping && !committed => (Guest::Leaving(self), press()),
            Event::GraceOver if self.stopping && !committed => {
                let why = "the guest did not power off within its grace period".to_owned();
                match self.advance(source::Event::GuestEnded(why)) {
                    (Guest::Killing(_), actions) => (Guest::Killing(Outcome::Killed), actions),
                    other => other,
                }
            }
            Event::VmmExited(exit) => {
                let why = match &exit {
                    VmmExit::Success => "the guest has shut down".to_owned(),
                    VmmExit::Failure(why) => why.clone(),
                };
                self.exit = Some(exit);
                // Of a guest that was given away it says only that it cannot come back.
                self.advance(source::Event::GuestEnded(why))
            }
            // The guest is the target's from there on, with the same manifest.
            Event::EndsAtReboot if committed => (Guest::Leaving(self), vec![]),
            Event::EndsAtReboot => {
                match self.advance(source::Event::GuestEnded(
                    "the guest has ended by a reboot".to_owned(),
                )) {
                    (Guest::Killing(_), actions) => (Guest::Killing(Outcome::ShutDown), actions),
                    other => other,
                }
            }
            Event::Rebooted => {
                self.arrived = false;
                (Guest::Leaving(self), vec![])
            }
            Event::Migrate(call) => (
                Guest::Leaving(self),
                vec![Action::Refuse(call, Refusal::Migrating)],
            ),
            Event::Cancel(call) if committed => (
                Guest::Leaving(self),
                vec![Action::Refuse(call, Refusal::Committed)],
            ),
            Event::Cancel(call) => {
                let (guest, mut actions) = self.advance(source::Event::Cancel("cancelled".into()));
                actions.push(Action::Cancelling(call));
                (guest, actions)
            }
            Event::Target(target::Event::Commit) => (
                Guest::Leaving(self),
                vec![Action::Target(target::Action::SendRunning)],
            ),
            Event::Booted
            | Event::Held
            | Event::StartFailed(_)
            | Event::PressDue
            | Event::GraceOver
            | Event::Operate(..)
            | Event::Operated(..)
            | Event::Target(_) => (Guest::Leaving(self), vec![]),
        }
    }

    fn advance(mut self, event: source::Event) -> Next {
        let committed = self.source.is_committed();
        let (source, actions) = self.source.on(event);
        let mut actions: Vec<_> = actions.into_iter().map(Action::Source).collect();
        if committed && !source.is_committed() && self.stop_if_back {
            self.stopping = true;
            actions.extend(stop());
        }
        let source::State::Ended(ending) = source else {
            return (Guest::Leaving(Self { source, ..self }), actions);
        };
        let arrived = self.arrived;
        let stays = match self.stopping {
            false => Guest::Running { arrived },
            true => Guest::Stopping { arrived },
        };
        let (guest, more) = match &ending {
            Left::NotBegun { .. } => (stays, vec![]),
            Left::StaysHere { .. } => (stays, vec![Action::Resume]),
            Left::EndedHere { why } => {
                let outcome = match &self.exit {
                    Some(exit) => exit.clone().outcome(),
                    None => Outcome::Failed(why.clone()),
                };
                leave(outcome, self.exit)
            }
            Left::Migrated => leave(Outcome::Migrated, self.exit),
            Left::LostThere { why } => leave(Outcome::LostAtTarget(why.clone()), self.exit),
            Left::InDoubt { why } => leave(Outcome::InDoubt(why.clone()), self.exit),
        };
        actions.extend(more);
        // Last: it may take a moment until the answer is read.
        actions.push(Action::Finish(self.call, ending));
        (guest, actions)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }
}

fn kill(outcome: Outcome) -> Next {
    (Guest::Killing(outcome), vec![Action::KillVmm])
}

/// There is no guest here, or none any more.
fn leave(outcome: Outcome, exit: Option<VmmExit>) -> Next {
    match exit {
        Some(_) => (Guest::Ended(outcome), vec![]),
        None => kill(outcome),
    }
}

fn stop() -> Vec<Action> {
    vec![Action::ArmGrace, Action::PressPowerButton, Action::ArmPress]
}

fn press() -> Vec<Action> {
    vec![Action::PressPowerButton, Action::ArmPress]
}

#[cfg(test)]
mod tests;
