//! What an operator may have done to a guest, and when.
//!
//! | | boots | is held | waits for a migration | runs | is paused | migrates away | shuts down |
//! |---|---|---|---|---|---|---|---|
//! | pause, reset | | | | yes | | | |
//! | resume | | yes | | | yes | | |
//! | nmi | | | | yes | | | yes |
//! | stop | yes | yes | yes | yes | yes | yes, up to the commit | |
//!
//! The VMM is asked by one task, in the order of the requests, and its answer is an event. A guest that the VMM is being asked to
//! pause counts as paused until the answer says otherwise.

use super::{Action, CallId, Event, Guest, Leaving, Next, Outcome, Receiving, Refusal, kill, stop};
use crate::control::Verb;
use crate::migration::target;

/// Of a guest that is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vcpus {
    /// The VMM is being asked to pause them.
    Pausing,
    Paused,
    /// The VMM is being asked to run them again.
    Resuming,
}

impl Guest {
    pub(super) fn operate(self, call: CallId, verb: Verb) -> Next {
        let refuse = |state, refusal| (state, vec![Action::Refuse(call, refusal)]);
        let ask = || vec![Action::Ask(Some(call), verb)];
        match (self, verb) {
            (Self::Running { arrived }, Verb::Pause) => {
                let vcpus = Vcpus::Pausing;
                (Self::Paused { arrived, vcpus }, ask())
            }
            (running @ Self::Running { .. }, Verb::Resume) => refuse(running, Refusal::NotPaused),
            (running @ Self::Running { .. }, Verb::Reset | Verb::Nmi) => (running, ask()),
            (Self::Running { arrived }, Verb::Stop) => stopping(arrived, call, vec![]),

            // A guest that is paused does not see its power button.
            (Self::Paused { arrived, .. }, Verb::Stop) => {
                stopping(arrived, call, vec![Action::Ask(None, Verb::Resume)])
            }
            (Self::Paused { arrived, vcpus }, verb) => match (vcpus, verb) {
                (Vcpus::Paused, Verb::Resume) => {
                    let vcpus = Vcpus::Resuming;
                    (Self::Paused { arrived, vcpus }, ask())
                }
                (Vcpus::Paused, _) => refuse(Self::Paused { arrived, vcpus }, Refusal::Paused),
                (Vcpus::Pausing | Vcpus::Resuming, _) => {
                    refuse(Self::Paused { arrived, vcpus }, Refusal::Busy)
                }
            },

            (stopping @ Self::Stopping { .. }, Verb::Nmi) => (stopping, ask()),
            (stopping @ Self::Stopping { .. }, _) => refuse(stopping, Refusal::Stopping),
            (Self::Leaving(leaving), Verb::Stop) => leaving.stop_for(call),
            (leaving @ Self::Leaving(_), _) => refuse(leaving, Refusal::Migrating),
            (Self::Receiving(receiving), Verb::Stop) => receiving.stop_for(call),
            (held @ Self::Held, Verb::Resume) => (held, ask()),
            (Self::Booting | Self::Held, Verb::Stop) => answered(kill(Outcome::NeverStarted), call),
            (
                state @ (Self::Booting | Self::Held | Self::Receiving(_) | Self::Killing(_) | Self::Ended(_)),
                _,
            ) => refuse(state, Refusal::NotRunning),
        }
    }

    /// The VMM has answered.
    pub(super) fn operated(self, call: Option<CallId>, verb: Verb, result: Result<(), String>) -> Next {
        let done = result.is_ok();
        let state = match (self, verb) {
            (
                Self::Paused {
                    arrived,
                    vcpus: Vcpus::Pausing,
                },
                Verb::Pause,
            )
            | (
                Self::Paused {
                    arrived,
                    vcpus: Vcpus::Resuming,
                },
                Verb::Resume,
            ) => match (verb == Verb::Pause) == done {
                true => Self::Paused {
                    arrived,
                    vcpus: Vcpus::Paused,
                },
                false => Self::Running { arrived },
            },
            (Self::Held, Verb::Resume) if done => Self::Running { arrived: false },
            (other, _) => other,
        };
        let reply = call.map(|call| Action::Reply(call, verb, result));
        (state, reply.into_iter().collect())
    }
}

impl Leaving {
    fn stop_for(self, call: CallId) -> Next {
        match self.source.is_committed() {
            true => (
                Guest::Leaving(self),
                vec![Action::Refuse(call, Refusal::Committed)],
            ),
            false => answered(self.on(Event::Stop), call),
        }
    }
}

impl Receiving {
    fn stop_for(self, call: CallId) -> Next {
        answered(self.advance(target::Event::Stop), call)
    }
}

fn stopping(arrived: bool, call: CallId, mut before: Vec<Action>) -> Next {
    before.extend(stop());
    answered((Guest::Stopping { arrived }, before), call)
}

/// With the answer that it is done. First: the guest may end with the rest.
fn answered((guest, mut actions): Next, call: CallId) -> Next {
    actions.insert(0, Action::Reply(call, Verb::Stop, Ok(())));
    (guest, actions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::machine::VmmExit;

    const CALL: CallId = CallId(7);
    const VERBS: [Verb; 5] = [Verb::Pause, Verb::Resume, Verb::Reset, Verb::Stop, Verb::Nmi];

    fn paused(vcpus: Vcpus) -> Guest {
        Guest::Paused { arrived: true, vcpus }
    }

    fn leaving() -> Guest {
        Guest::Running { arrived: false }.on(Event::Migrate(CallId(1))).0
    }

    fn states() -> Vec<(Guest, &'static [Verb])> {
        vec![
            (Guest::Booting, &[Verb::Stop]),
            (Guest::Held, &[Verb::Resume, Verb::Stop]),
            (Guest::receiving(), &[Verb::Stop]),
            (
                Guest::Running { arrived: true },
                &[Verb::Pause, Verb::Reset, Verb::Stop, Verb::Nmi],
            ),
            (paused(Vcpus::Paused), &[Verb::Resume, Verb::Stop]),
            (paused(Vcpus::Pausing), &[Verb::Stop]),
            (paused(Vcpus::Resuming), &[Verb::Stop]),
            (leaving(), &[Verb::Stop]),
            (Guest::Stopping { arrived: false }, &[Verb::Nmi]),
            (Guest::Killing(Outcome::Killed), &[]),
            (Guest::Ended(Outcome::ShutDown), &[]),
        ]
    }

    #[test]
    fn each_verb_is_done_or_refused_in_each_state_and_answered_once() {
        for (state, may) in states() {
            for verb in VERBS {
                let (after, actions) = state.clone().on(Event::Operate(CALL, verb));
                let asked = actions.contains(&Action::Ask(Some(CALL), verb));
                let answers = actions
                    .iter()
                    .filter(|action| matches!(action, Action::Refuse(CALL, _) | Action::Reply(CALL, _, _)))
                    .count();
                assert_eq!(answers + usize::from(asked), 1, "{state:?} {verb:?}: {actions:?}");
                let refused = actions.iter().any(|action| matches!(action, Action::Refuse(..)));
                assert_eq!(refused, !may.contains(&verb), "{state:?} {verb:?}: {actions:?}");
                assert!(!refused || after == state, "{state:?} {verb:?}: {after:?}");
            }
        }
    }

    #[test]
    fn a_guest_is_paused_and_resumed_if_the_vmm_says_so() {
        let no = || Err("no".to_owned());
        for (from, verb, result, to) in [
            (Vcpus::Pausing, Verb::Pause, Ok(()), paused(Vcpus::Paused)),
            (
                Vcpus::Pausing,
                Verb::Pause,
                no(),
                Guest::Running { arrived: true },
            ),
            (
                Vcpus::Resuming,
                Verb::Resume,
                Ok(()),
                Guest::Running { arrived: true },
            ),
            (Vcpus::Resuming, Verb::Resume, no(), paused(Vcpus::Paused)),
        ] {
            let event = Event::Operated(Some(CALL), verb, result.clone());
            let (state, actions) = paused(from).on(event);
            assert_eq!(state, to);
            assert_eq!(actions, [Action::Reply(CALL, verb, result)]);
        }
    }

    #[test]
    fn a_paused_guest_that_is_to_end_runs_for_that() {
        for vcpus in [Vcpus::Pausing, Vcpus::Paused, Vcpus::Resuming] {
            let (state, actions) = paused(vcpus).on(Event::Stop);
            assert_eq!(state, Guest::Stopping { arrived: true });
            // The VMM is asked in this order.
            assert_eq!(actions[0], Action::Ask(None, Verb::Resume));
            assert!(actions.contains(&Action::PressPowerButton));
            // A pause that was under way has its answer, and changes nothing.
            let late = Event::Operated(Some(CALL), Verb::Pause, Ok(()));
            let (state, actions) = state.on(late);
            assert_eq!(state, Guest::Stopping { arrived: true });
            assert_eq!(actions.len(), 1);
        }
    }

    #[test]
    fn a_paused_guest_does_not_migrate_and_ends_with_its_vmm() {
        let (state, actions) = paused(Vcpus::Paused).on(Event::Migrate(CALL));
        assert_eq!(state, paused(Vcpus::Paused));
        assert_eq!(actions, [Action::Refuse(CALL, Refusal::Paused)]);
        let (state, _) = state.on(Event::VmmExited(VmmExit::Success));
        assert_eq!(state, Guest::Ended(Outcome::ShutDown));
    }
}
