//! What the user is told when something does not work out, and the exit codes.

use std::error::Error;
use std::fmt;

/// How a command ended, for scripts and for Kubernetes. The README has the same table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The guest shut down, or the command did what it was asked.
    Success = 0,
    /// A fault of hawser's own.
    Internal = 1,
    /// The command line was wrong (clap's own code).
    Usage = 2,
    /// The manifest was refused; nothing was touched.
    Manifest = 3,
    /// The pod lacks something: a device, a capability, an address, a tool.
    PodUnfit = 4,
    /// The namespace holds what hawser did not make and will not touch.
    NotOurs = 5,
    /// cloud-hypervisor or the guest failed.
    Vmm = 6,
    /// The guest did not power off within its grace period and was killed.
    Killed = 7,
    /// All went well until what was done could not be taken back.
    Teardown = 8,
    /// A live migration left this side without a guest: the target did not get it, or the source gave it away and does
    /// not know that it runs.
    HandOff = 9,
}

/// An error as it reaches the user: what happened, the chain of causes, what to do.
#[derive(Debug)]
pub struct Failure {
    code: ExitCode,
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    remedy: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: ExitCode, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            source: None,
            remedy: None,
        }
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub fn code(&self) -> ExitCode {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hawser: {}", self.what)?;
        let mut cause: Option<&dyn Error> = match &self.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        };
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        match &self.remedy {
            Some(remedy) => write!(f, "\n  remedy: {remedy}"),
            None => Ok(()),
        }
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl From<hawser_netsetup::Error> for Failure {
    fn from(error: hawser_netsetup::Error) -> Self {
        use hawser_netsetup::Error as Net;
        let (code, remedy) = match &error {
            Net::NotOurs { .. } => (ExitCode::NotOurs, None),
            Net::Unfit { .. } => (ExitCode::PodUnfit, None),
            Net::Observe { .. } => (ExitCode::PodUnfit, Some("run hawser check in this pod")),
            Net::Apply { .. } => (
                ExitCode::PodUnfit,
                Some("run hawser check in this pod; what had been done was taken back"),
            ),
            Net::Journal { .. } => (
                ExitCode::PodUnfit,
                Some("give --state-dir a directory that hawser can write"),
            ),
        };
        let failure = Self::new(code, "network").because(error);
        match remedy {
            Some(remedy) => failure.remedy(remedy),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_printed_once_and_the_remedy_last() {
        let io = std::io::Error::other("no space");
        let failure = Failure::new(ExitCode::PodUnfit, "write the journal")
            .because(io)
            .remedy("make room");
        assert_eq!(
            failure.to_string(),
            "hawser: write the journal: no space\n  remedy: make room"
        );
        assert_eq!(failure.code() as i32, 4);
    }
}
