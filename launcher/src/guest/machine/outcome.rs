//! How a guest's life ends, and with which exit code.

use crate::error::ExitCode;

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The guest shut down, by itself or when asked.
    ShutDown,
    /// Stopped on request before the guest ran.
    NeverStarted,
    /// It did not power off within its grace period.
    Killed,
    /// The VMM failed, or could not be told what to do.
    Failed(String),
    /// The guest runs at the target, and no longer here.
    Migrated,
    /// This launcher waited for a guest, and none was migrated to it.
    NotReceived(String),
    /// The guest was migrated to this launcher, and failed here before it ran.
    LostHere(String),
    /// The guest was committed to the target, and failed there before it ran.
    LostAtTarget(String),
    /// The guest was committed to the target, which did not confirm that it runs.
    InDoubt(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VmmExit {
    Success,
    Failure(String),
}

impl VmmExit {
    /// Of a guest that ran here to its end.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Success => Outcome::ShutDown,
            Self::Failure(why) => Outcome::Failed(why),
        }
    }
}

impl Outcome {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            // A container that ends well is not started again where the restart policy is OnFailure.
            Self::ShutDown | Self::NeverStarted | Self::Migrated => ExitCode::Success,
            Self::NotReceived(_) | Self::LostHere(_) | Self::LostAtTarget(_) | Self::InDoubt(_) => {
                ExitCode::HandOff
            }
            Self::Killed => ExitCode::Killed,
            Self::Failed(_) => ExitCode::Vmm,
        }
    }

    /// The guest was committed to another launcher, whatever became of it there.
    pub(crate) fn is_given_away(&self) -> bool {
        matches!(self, Self::Migrated | Self::LostAtTarget(_) | Self::InDoubt(_))
    }
}
