//! How a verb ends that does not do what it was asked for.

use std::process::ExitCode;

use thiserror::Error;

/// Each has an exit code of its own, as `kubectl hawser --help` says.
#[derive(Debug, Error)]
pub enum Failure {
    /// kubectl itself, or the API server in its words.
    #[error("{0}")]
    Kubectl(#[from] crate::kubectl::Error),
    /// It is not known what became of the guest.
    #[error("{0}")]
    Unknown(String),
    /// Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// The guest is not where it was asked to be.
    #[error("{0}")]
    NotMigrated(String),
    /// There is no guest any more.
    #[error("{0}")]
    GuestEnded(String),
}

impl Failure {
    /// 1: kubectl failed, or nobody knows; 3: refused; 6: the guest has ended; 9: not migrated.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Kubectl(_) | Self::Unknown(_) => 1,
            Self::Refused(_) => 3,
            Self::GuestEnded(_) => 6,
            Self::NotMigrated(_) => 9,
        })
    }
}
