//! The target's half of a hand-off as a pure machine: `(State, Event) -> (State, Vec<Action>)`.
//!
//! The guest runs here only after [`Action::Release`], which only a `Commit` leads to. Until then whatever goes wrong
//! ends this launcher with nothing left, since the source has the guest. One state bears the loss of the channel:
//! [`State::Holding`], because the `Commit` may be what was lost; the source then comes back and says it again.
//!
//! [`State::Early`] is for a VMM that runs the guest unasked, which the relay does not let happen with any that is
//! known. The source's VMM has then given the guest away, and its launcher says `Commit`; or it has not heard the
//! answer and has the guest back, and its launcher says `Abort`. Either way one is left.

use crate::status::Step;

/// Where the hand-off is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody has come, or only such as were refused.
    Waiting,
    /// The VMM is being told to listen.
    Opening,
    /// The guest's memory comes in.
    Receiving,
    /// All of it is here and stands still; the VMM's last instruction is held back.
    Holding {
        stop: bool,
    },
    /// The VMM runs it, though nobody was asked: its order was not held back. Whose it is, the source decides.
    Early {
        stop: bool,
    },
    /// It is ours, and is being resumed.
    Resuming {
        stop: bool,
    },
    Ended(Ending),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Ours. `stop`: and somebody wants it to end.
    Runs { stop: bool },
    /// It never was ours.
    Gone { why: String },
    /// It was ours, and failed.
    Lost { why: String },
    /// Nobody wants it any more.
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The source asks, and this speaks against it.
    Prepare {
        reasons: Vec<String>,
    },
    /// The VMM listens.
    Listening,
    /// The VMM has restored the guest, and the source's order to run it has come and is held back.
    Restored,
    Commit,
    /// The VMM has resumed the guest.
    Resumed,
    VmmFailed(String),
    Abort(String),
    ChannelLost(String),
    /// The source did not come back.
    HoldOver,
    Stop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Refuse(Vec<String>),
    /// Have the VMM listen, and let the memory's connections through to it.
    Receive,
    SendPrepared,
    SendHolding,
    ArmHold,
    /// Let the VMM have its last instruction. The guest runs from here on.
    Release,
    SendRunning,
    SendLost(String),
    SendGone(String),
}

impl State {
    pub(crate) fn on(self, event: Event) -> (Self, Vec<Action>) {
        use Action::{
            ArmHold, Receive, Refuse, Release, SendGone, SendHolding, SendLost, SendPrepared, SendRunning,
        };
        let gone = |why: String| {
            let actions = vec![SendGone(why.clone())];
            (State::Ended(Ending::Gone { why }), actions)
        };
        match (self, event) {
            // The source has not heard it.
            (ended @ State::Ended(Ending::Runs { .. }), Event::Commit) => (ended, vec![SendRunning]),
            (State::Ended(Ending::Lost { why }), Event::Commit) => (
                State::Ended(Ending::Lost { why: why.clone() }),
                vec![SendLost(why)],
            ),
            (ended @ State::Ended(_), _) => (ended, vec![]),

            (State::Waiting, Event::Prepare { reasons }) if reasons.is_empty() => {
                (State::Opening, vec![Receive])
            }
            (State::Waiting, Event::Prepare { reasons }) => (State::Waiting, vec![Refuse(reasons)]),
            (busy, Event::Prepare { .. }) => (
                busy,
                vec![Refuse(vec!["the target is busy with another hand-off".into()])],
            ),

            (State::Opening, Event::Listening) => (State::Receiving, vec![SendPrepared]),
            (State::Receiving, Event::Restored) => {
                (State::Holding { stop: false }, vec![SendHolding, ArmHold])
            }
            (State::Holding { stop }, Event::Commit) => (State::Resuming { stop }, vec![Release]),
            (State::Receiving, Event::Resumed) => (State::Early { stop: false }, vec![ArmHold]),
            (State::Early { stop }, Event::Commit) => {
                (State::Ended(Ending::Runs { stop }), vec![SendRunning])
            }
            (State::Resuming { stop }, Event::Resumed) => {
                (State::Ended(Ending::Runs { stop }), vec![SendRunning])
            }

            // Whether it ever ran makes no difference: the source cannot run it any more.
            (State::Resuming { .. }, Event::VmmFailed(why)) => (
                State::Ended(Ending::Lost { why: why.clone() }),
                vec![SendLost(why)],
            ),
            (
                State::Waiting
                | State::Opening
                | State::Receiving
                | State::Holding { .. }
                | State::Early { .. },
                Event::VmmFailed(why),
            ) => gone(why),

            (
                State::Opening | State::Receiving | State::Holding { .. } | State::Early { .. },
                Event::Abort(why),
            ) => gone(why),
            (State::Opening | State::Receiving, Event::ChannelLost(why)) => gone(why),
            (State::Holding { .. } | State::Early { .. }, Event::HoldOver) => {
                gone("the source did not say that the guest is ours, and did not come back".into())
            }

            (State::Waiting | State::Opening | State::Receiving, Event::Stop) => (
                State::Ended(Ending::Stopped),
                vec![SendGone("the target was told to end".into())],
            ),
            // The guest may be ours already. It is a matter of moments.
            (State::Holding { .. }, Event::Stop) => (State::Holding { stop: true }, vec![]),
            (State::Early { .. }, Event::Stop) => (State::Early { stop: true }, vec![]),
            (State::Resuming { .. }, Event::Stop) => (State::Resuming { stop: true }, vec![]),

            // Too late, twice, or not for this step.
            (state, _) => (state, vec![]),
        }
    }

    pub(crate) fn step(&self) -> Step {
        match self {
            State::Waiting => Step::Waiting,
            State::Opening => Step::Opening,
            State::Receiving => Step::Receiving,
            State::Holding { .. } | State::Early { .. } => Step::Holding,
            State::Resuming { .. } => Step::Resuming,
            State::Ended(Ending::Runs { .. }) => Step::Migrated,
            State::Ended(Ending::Lost { .. }) => Step::Lost,
            State::Ended(Ending::Gone { .. } | Ending::Stopped) => Step::Failed,
        }
    }
}
