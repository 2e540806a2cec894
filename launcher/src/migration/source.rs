//! The source's half of a hand-off as a pure machine: `(State, Event) -> (State, Vec<Action>)`.
//!
//! The guest runs here until [`Action::SendCommit`], which is the one commit point. It is taken only after
//! [`Action::Fence`]: the VMM is stopped as a whole (SIGSTOP), with the guest paused inside, and had by then not said
//! that it failed. So whatever it would do when its connection breaks, it does not do it. Before the commit, every event
//! that is not the next step leads back to a guest that runs here. After it, one does: the target says [`Event::Gone`], which
//! it says only if it had not heard the commit, and having said it, it hears none ([`super::target`]). Such a target has
//! never run the guest and never will, and our VMM still has it.

use crate::status::Step;

/// Where the hand-off is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// The guest is being described for the target, its disks read.
    Describing,
    /// The target is asked; nothing has moved.
    Preparing,
    /// The content of the disks that are the pod's own is being copied, while the guest runs.
    Copying,
    /// The guest is asked to let go of what cannot go with it: its VFs.
    Detaching,
    /// The VMM sends. Towards the end it pauses the guest.
    Sending,
    /// The target holds all of it; our VMM is being stopped.
    Fencing,
    /// Given away. Whether the target runs it is not known yet. `kept`: our VMM is stopped and has it, paused.
    Committed {
        kept: bool,
    },
    /// The transfer was cut; the VMM has yet to say that it has the guest back.
    Cancelling {
        why: String,
    },
    /// The guest stays, and is given back what it let go of.
    Attaching {
        why: String,
    },
    Ended(Ending),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The target was not asked: this guest cannot migrate, or the order cannot be carried out.
    NotBegun { why: String },
    /// The guest runs here, as if nothing had been.
    StaysHere { why: String },
    /// It has come to its end here, by itself, before it was given away.
    EndedHere { why: String },
    /// It runs there.
    Migrated,
    /// It was given away, and failed there.
    LostThere { why: String },
    /// It was given away, and the target does not answer. It runs there or nowhere.
    InDoubt { why: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Described,
    NotDescribed(String),
    /// There is a channel to the target.
    Connected,
    Prepared,
    /// The target takes too long to be ready.
    PrepareOver,
    Refused(String),
    /// So little of the disks is left to be copied that it is for the pause.
    Copied,
    /// The guest has nothing left that cannot go with it.
    Detached,
    /// It keeps what cannot.
    NotDetached(String),
    /// It has again what it can have.
    Attached,
    /// The target has all of the guest: what its VMM was sent, and its disks.
    Holding,
    /// The VMM stands still. `failed`: before that it had said that its transfer failed.
    Fenced {
        failed: bool,
    },
    CannotFence(String),
    /// The VMM has given up and has the guest again.
    TransferFailed(String),
    /// The guest has come to its end here, or the VMM has.
    GuestEnded(String),
    /// The VMM has given the guest away and ends.
    TransferFinished,
    Running,
    Lost(String),
    /// The target says that it has no guest, had none and takes none.
    Gone(String),
    ChannelLost(String),
    /// Somebody wants the guest to stay, or something took too long.
    Cancel(String),
    /// The target was asked long enough.
    DoubtOver,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Connect to the target, and send `PrepareOver` if that and its answer take too long.
    Connect,
    SendPrepare,
    /// Copy the disks that are the pod's own, for as long as the guest is not committed.
    CopyDisks,
    /// Ask the guest for what cannot go with it.
    Detach,
    /// Give it back what it let go of, and whatever it lets go of later.
    Attach,
    /// Have the VMM send.
    Transfer,
    /// Close the memory's connections: the VMM fails, and resumes the guest.
    CutTransfer,
    Fence,
    Unfence,
    /// For the next launcher in this pod: the guest is given away. [`Action::Fence`] has done it already.
    Note,
    SendCommit,
    SendAbort(String),
    /// Connect again and say `Commit` again.
    AskAgain,
    ArmDoubt,
}

impl State {
    pub(crate) fn on(self, event: Event) -> (Self, Vec<Action>) {
        use Action::{
            ArmDoubt, AskAgain, Attach, Connect, CopyDisks, CutTransfer, Detach, Fence, Note, SendAbort,
            SendCommit, SendPrepare, Transfer, Unfence,
        };
        let stays = |why: String| State::Ended(Ending::StaysHere { why });
        let attaching = |why: String| State::Attaching { why };
        match (self, event) {
            (ended @ State::Ended(_), _) => (ended, vec![]),

            (State::Describing, Event::Described) => (State::Preparing, vec![Connect]),
            (State::Describing, Event::NotDescribed(why)) => (State::Ended(Ending::NotBegun { why }), vec![]),
            (State::Describing, Event::Cancel(why)) => (stays(why), vec![]),

            (State::Preparing, Event::Connected) => (State::Preparing, vec![SendPrepare]),
            (State::Preparing, Event::Prepared) => (State::Copying, vec![CopyDisks]),
            (State::Copying, Event::Copied) => (State::Detaching, vec![Detach]),
            (State::Preparing, Event::PrepareOver) => {
                let why = "the target was not ready in time".to_owned();
                (stays(why.clone()), vec![SendAbort(why)])
            }
            (
                State::Preparing | State::Copying,
                Event::Refused(why)
                | Event::Gone(why)
                | Event::ChannelLost(why)
                | Event::Cancel(why)
                | Event::Lost(why)
                | Event::TransferFailed(why),
            ) => (stays(why.clone()), vec![SendAbort(why)]),

            (State::Detaching, Event::Detached) => (State::Sending, vec![Transfer]),
            (
                State::Detaching,
                Event::NotDetached(why)
                | Event::Refused(why)
                | Event::Gone(why)
                | Event::ChannelLost(why)
                | Event::Cancel(why)
                | Event::Lost(why)
                | Event::TransferFailed(why),
            ) => (attaching(why.clone()), vec![SendAbort(why), Attach]),

            (State::Sending, Event::Holding) => (State::Fencing, vec![Fence]),
            (State::Sending, Event::TransferFailed(why)) => {
                (attaching(why.clone()), vec![CutTransfer, SendAbort(why), Attach])
            }
            (
                State::Sending,
                Event::ChannelLost(why)
                | Event::Cancel(why)
                | Event::Gone(why)
                | Event::Refused(why)
                | Event::Lost(why),
            ) => (
                State::Cancelling { why: why.clone() },
                vec![CutTransfer, SendAbort(why)],
            ),

            (State::Fencing, Event::Fenced { failed: false }) => {
                (State::Committed { kept: true }, vec![SendCommit, ArmDoubt])
            }
            (State::Fencing, Event::Fenced { failed: true }) => {
                let why = "the transfer failed at its very end".to_owned();
                let actions = vec![CutTransfer, Unfence, SendAbort(why.clone()), Attach];
                (attaching(why), actions)
            }
            (State::Fencing, Event::TransferFailed(why)) => {
                let actions = vec![CutTransfer, Unfence, SendAbort(why.clone()), Attach];
                (attaching(why), actions)
            }
            (
                State::Fencing,
                Event::CannotFence(why)
                | Event::Cancel(why)
                | Event::ChannelLost(why)
                | Event::Gone(why)
                | Event::Lost(why),
            ) => (
                State::Cancelling { why: why.clone() },
                vec![CutTransfer, Unfence, SendAbort(why)],
            ),

            (State::Committed { .. }, Event::Running) => (State::Ended(Ending::Migrated), vec![]),
            // The commit and this have crossed on the way.
            (State::Committed { kept: true }, Event::Gone(why)) => (
                State::Cancelling { why: why.clone() },
                vec![CutTransfer, Unfence, SendAbort(why)],
            ),
            (State::Committed { .. }, Event::Lost(why) | Event::Gone(why)) => {
                (State::Ended(Ending::LostThere { why }), vec![])
            }
            (committed @ State::Committed { .. }, Event::Connected) => (committed, vec![SendCommit]),
            (committed @ State::Committed { .. }, Event::ChannelLost(_)) => (committed, vec![AskAgain]),
            // There is nothing here to go back to any more.
            (State::Committed { .. }, Event::GuestEnded(_)) => (State::Committed { kept: false }, vec![]),
            (State::Committed { .. }, Event::DoubtOver) => {
                let why = "the target has not answered since the guest was committed to it".to_owned();
                (State::Ended(Ending::InDoubt { why }), vec![])
            }

            (State::Cancelling { why }, Event::TransferFailed(_)) => (attaching(why), vec![Attach]),
            (State::Attaching { why }, Event::Attached) => (stays(why), vec![]),

            // Nothing is left to move, or to go back to.
            (
                State::Describing
                | State::Preparing
                | State::Copying
                | State::Detaching
                | State::Sending
                | State::Fencing
                | State::Cancelling { .. }
                | State::Attaching { .. },
                Event::GuestEnded(why),
            ) => (
                State::Ended(Ending::EndedHere { why: why.clone() }),
                vec![CutTransfer, SendAbort(why)],
            ),

            // The VMM has given the guest away, so its last word was not held back on the way. There is nothing here
            // to go back to, and the target's runs it; or, once it was told to end, does not any more.
            (State::Sending | State::Fencing | State::Cancelling { .. }, Event::TransferFinished) => {
                (State::Committed { kept: false }, vec![Note, SendCommit, ArmDoubt])
            }

            // Too late, twice, or not for this step.
            (state, _) => (state, vec![]),
        }
    }

    /// Whether the guest has been given away for good.
    pub(crate) fn is_committed(&self) -> bool {
        match self {
            State::Committed { .. } => true,
            State::Ended(ending) => !matches!(
                ending,
                Ending::NotBegun { .. } | Ending::StaysHere { .. } | Ending::EndedHere { .. }
            ),
            _ => false,
        }
    }

    pub(crate) fn step(&self) -> Step {
        match self {
            State::Describing => Step::Describing,
            State::Preparing => Step::Preparing,
            State::Copying => Step::Copying,
            State::Detaching => Step::Detaching,
            State::Sending => Step::Sending,
            State::Fencing => Step::Fencing,
            State::Committed { .. } => Step::Committed,
            State::Cancelling { .. } => Step::Cancelling,
            State::Attaching { .. } => Step::Attaching,
            State::Ended(Ending::NotBegun { .. } | Ending::StaysHere { .. }) => Step::Failed,
            State::Ended(Ending::EndedHere { .. }) => Step::GuestEnded,
            State::Ended(Ending::Migrated) => Step::Migrated,
            State::Ended(Ending::LostThere { .. }) => Step::Lost,
            State::Ended(Ending::InDoubt { .. }) => Step::InDoubt,
        }
    }
}

impl Ending {
    pub(crate) fn why(&self) -> Option<&str> {
        match self {
            Ending::Migrated => None,
            Ending::NotBegun { why }
            | Ending::StaysHere { why }
            | Ending::EndedHere { why }
            | Ending::LostThere { why }
            | Ending::InDoubt { why } => Some(why),
        }
    }
}
