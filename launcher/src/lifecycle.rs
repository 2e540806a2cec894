//! The life of a guest as a pure machine: `(State, Event) -> (State, Vec<Action>)`.
//!
//! One task performs the actions; signals, timers and the VMM only send events. So every order of events can be
//! tested without a VMM, and no order of them can start, stop or judge a guest twice.

use crate::error::ExitCode;

/// Where the guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// The VMM is being told what to run.
    Starting,
    Running,
    /// Asked to power off, this many times.
    Stopping {
        presses: u32,
    },
    /// The VMM is being killed, and this will then be the outcome.
    Killing(Outcome),
    Ended(Outcome),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The guest shut down, by itself or when asked.
    ShutDown,
    /// Stopped on request before the guest ran.
    NeverStarted,
    /// It would not power off in time.
    Killed,
    /// The VMM failed, or could not be told what to do.
    Failed(String),
    /// The guest goes on at this address, and no longer here.
    Migrated(String),
    /// A guest was to come, and did not.
    NotReceived(String),
    /// The guest was given away, and nothing says that it runs.
    HandedOver(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Booted,
    /// A request to the VMM's API failed.
    ApiFailed(String),
    /// Somebody wants the guest to end.
    Stop,
    /// There is no guest here any more, or there will be none: a live migration has come to this.
    Leave(Outcome),
    /// Time for the next press of the power button.
    PressDue,
    GraceOver,
    /// The VMM's process is gone, with how it ended if that was not well.
    VmmExited(Option<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    PressPowerButton,
    /// Send `PressDue` after a while.
    ArmPress,
    /// Send `GraceOver` when the grace period ends.
    ArmGrace,
    KillVmm,
}

impl State {
    pub(crate) fn on(self, event: Event) -> (Self, Vec<Action>) {
        use Action::{ArmGrace, ArmPress, KillVmm, PressPowerButton};
        match (self, event) {
            (ended @ State::Ended(_), _) => (ended, vec![]),
            (State::Killing(outcome), Event::VmmExited(_)) => (State::Ended(outcome), vec![]),
            (killing @ State::Killing(_), _) => (killing, vec![]),

            (State::Starting | State::Running | State::Stopping { .. }, Event::Leave(outcome)) => {
                (State::Killing(outcome), vec![KillVmm])
            }

            (State::Starting, Event::Booted) => (State::Running, vec![]),
            // A guest that never ran has nothing to lose.
            (State::Starting, Event::Stop) => (State::Killing(Outcome::NeverStarted), vec![KillVmm]),
            (State::Starting, Event::ApiFailed(why)) => (State::Killing(Outcome::Failed(why)), vec![KillVmm]),
            (State::Starting, Event::VmmExited(how)) => {
                let how = how.unwrap_or_else(|| "it ended before the guest ran".into());
                (State::Ended(Outcome::Failed(how)), vec![])
            }

            (State::Running, Event::Stop) => (
                State::Stopping { presses: 1 },
                vec![ArmGrace, PressPowerButton, ArmPress],
            ),
            (State::Stopping { presses }, Event::PressDue) => (
                State::Stopping {
                    presses: presses.saturating_add(1),
                },
                vec![PressPowerButton, ArmPress],
            ),
            (State::Stopping { .. }, Event::GraceOver) => (State::Killing(Outcome::Killed), vec![KillVmm]),

            (State::Running | State::Stopping { .. }, Event::VmmExited(None)) => {
                (State::Ended(Outcome::ShutDown), vec![])
            }
            (State::Running | State::Stopping { .. }, Event::VmmExited(Some(how))) => {
                (State::Ended(Outcome::Failed(how)), vec![])
            }

            // A running guest is not ended because a request failed: the next press may succeed, and if the VMM is gone
            // its exit says so. The rest are events that came too late or twice.
            (state @ (State::Starting | State::Running | State::Stopping { .. }), _) => (state, vec![]),
        }
    }
}

impl Outcome {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            // A container that ends well is not started again where the restart policy is OnFailure.
            Outcome::ShutDown | Outcome::NeverStarted | Outcome::Migrated(_) => ExitCode::Success,
            Outcome::NotReceived(_) | Outcome::HandedOver(_) => ExitCode::HandOff,
            Outcome::Killed => ExitCode::Killed,
            Outcome::Failed(_) => ExitCode::Vmm,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(events: impl IntoIterator<Item = Event>) -> (State, Vec<Action>) {
        let mut all = Vec::new();
        let state = events.into_iter().fold(State::Starting, |state, event| {
            let (next, actions) = state.on(event);
            all.extend(actions);
            next
        });
        (state, all)
    }

    #[test]
    fn a_guest_that_shuts_down_by_itself() {
        let (state, actions) = run([Event::Booted, Event::VmmExited(None)]);
        assert_eq!(state, State::Ended(Outcome::ShutDown));
        assert!(actions.is_empty());
    }

    #[test]
    fn the_power_button_is_pressed_again_until_the_guest_obeys() {
        let (state, actions) = run([
            Event::Booted,
            Event::Stop,
            Event::PressDue,
            Event::Stop,
            Event::VmmExited(None),
        ]);
        assert_eq!(state, State::Ended(Outcome::ShutDown));
        assert_eq!(
            actions.iter().filter(|a| **a == Action::PressPowerButton).count(),
            2
        );
        assert_eq!(
            actions.iter().filter(|a| **a == Action::ArmGrace).count(),
            1,
            "a second signal extends nothing"
        );
    }

    #[test]
    fn a_guest_that_does_not_obey_is_killed_and_said_so() {
        let killed = Some("signal 9".to_owned());
        let (state, actions) = run([
            Event::Booted,
            Event::Stop,
            Event::GraceOver,
            Event::VmmExited(killed),
        ]);
        assert_eq!(state, State::Ended(Outcome::Killed));
        assert_eq!(actions.last(), Some(&Action::KillVmm));
        assert_eq!(Outcome::Killed.exit_code(), ExitCode::Killed);
    }

    #[test]
    fn an_api_failure_while_starting_ends_it_and_one_while_running_does_not() {
        let failed = || Event::ApiFailed("vm.boot".into());
        let (state, actions) = run([failed(), Event::VmmExited(Some("signal 9".into()))]);
        assert_eq!(
            state,
            State::Ended(Outcome::Failed("vm.boot".into())),
            "the cause, not the kill, is told"
        );
        assert_eq!(actions, [Action::KillVmm]);
        let (state, _) = run([Event::Booted, failed()]);
        assert_eq!(state, State::Running);
    }

    #[test]
    fn a_guest_that_left_is_no_failure_and_one_that_did_not_come_is() {
        let left = Outcome::Migrated("tcp:b:49152".into());
        let (state, actions) = run([
            Event::Booted,
            Event::Leave(left.clone()),
            Event::VmmExited(Some("signal 9".into())),
        ]);
        assert_eq!(state, State::Ended(left.clone()));
        assert_eq!(actions, [Action::KillVmm]);
        assert_eq!(left.exit_code(), ExitCode::Success);
        let (state, _) = run([
            Event::Leave(Outcome::NotReceived("no".into())),
            Event::VmmExited(None),
        ]);
        assert_eq!(state, State::Ended(Outcome::NotReceived("no".into())));
        assert_eq!(Outcome::NotReceived(String::new()).exit_code(), ExitCode::HandOff);
        assert_eq!(Outcome::HandedOver(String::new()).exit_code(), ExitCode::HandOff);
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Booted),
            Just(Event::ApiFailed("api".into())),
            Just(Event::Stop),
            Just(Event::PressDue),
            Just(Event::GraceOver),
            Just(Event::Leave(Outcome::Migrated("tcp:b:49152".into()))),
            Just(Event::VmmExited(None)),
            Just(Event::VmmExited(Some("exit code 1".into()))),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_the_vmm_is_killed_at_most_once_and_its_exit_ends_it(events in prop::collection::vec(event(), 0..20)) {
            let (state, actions) = run(events.clone());
            prop_assert!(actions.iter().filter(|a| **a == Action::KillVmm).count() <= 1);
            let gone = events.iter().any(|event| matches!(event, Event::VmmExited(_)));
            prop_assert_eq!(gone, matches!(state, State::Ended(_)));
        }
    }
}
