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

impl ExitCode {
    /// The one that a process ended with.
    pub(crate) fn of(code: i32) -> Option<Self> {
        const ALL: [ExitCode; 10] = [
            ExitCode::Success,
            ExitCode::Internal,
            ExitCode::Usage,
            ExitCode::Manifest,
            ExitCode::PodUnfit,
            ExitCode::NotOurs,
            ExitCode::Vmm,
            ExitCode::Killed,
            ExitCode::Teardown,
            ExitCode::HandOff,
        ];
        ALL.into_iter().find(|known| *known as i32 == code)
    }
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

    /// The pod lacks something that a guest needs, and this is how to provide it.
    pub(crate) fn unfit(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(ExitCode::PodUnfit, what).remedy(remedy)
    }

    /// Several failures as one; none of none. The exit code is that of the first.
    pub(crate) fn all(failures: Vec<Self>) -> Option<Self> {
        let mut rest = failures.into_iter();
        let first = rest.next()?;
        let others: Vec<_> = rest.collect();
        if others.is_empty() {
            return Some(first);
        }
        let code = first.code;
        let mut what = format!("{} things stand in the way", others.len().saturating_add(1));
        for failure in std::iter::once(first).chain(others) {
            what.push_str("\n  ");
            what.push_str(&failure.body().replace('\n', "\n  "));
        }
        Some(Self::new(code, what))
    }

    pub fn code(&self) -> ExitCode {
        self.code
    }

    /// What and why, and the remedy on a line of its own.
    pub(crate) fn body(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("{}\n  remedy: {remedy}", self.what_and_why()),
            None => self.what_and_why(),
        }
    }

    /// For another process of ours to read: code, what and why, remedy.
    pub(crate) fn to_parts(&self) -> String {
        format!(
            "{}\0{}\0{}",
            self.code as i32,
            self.what_and_why(),
            self.remedy.as_deref().unwrap_or_default()
        )
    }

    /// What the other process has told, if it has.
    pub(crate) fn from_parts(text: &str) -> Self {
        let mut parts = text.splitn(3, '\0');
        let code = parts.next().and_then(|code| ExitCode::of(code.parse().ok()?));
        match (code, parts.next(), parts.next()) {
            (Some(code), Some(what), Some("")) => Self::new(code, what),
            (Some(code), Some(what), Some(remedy)) => Self::new(code, what).remedy(remedy),
            _ => Self::new(
                ExitCode::Internal,
                "a process of hawser's ended without an answer",
            ),
        }
    }

    fn what_and_why(&self) -> String {
        let mut text = self.what.clone();
        let mut cause: Option<&dyn Error> = match &self.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        };
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hawser: {}", self.body())
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
            Net::Apply { left: 0, .. } => (
                ExitCode::PodUnfit,
                Some("run hawser check in this pod; the changes were undone"),
            ),
            Net::Apply { .. } => (
                ExitCode::PodUnfit,
                Some(
                    "run hawser check in this pod; what could not be undone is in the log, and the next start in this pod undoes it",
                ),
            ),
            Net::Journal { .. } => (
                ExitCode::PodUnfit,
                Some("give --state-dir a directory that hawser can write"),
            ),
            // A plan made without it would take what an earlier start did for how the pod was.
            Net::JournalDamaged { .. } => (
                ExitCode::NotOurs,
                Some(
                    "delete the pod and start a new one; if the pod's network is as its CNI plugin made it, delete the file",
                ),
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

    #[test]
    fn several_failures_are_told_in_one_with_the_code_of_the_first() {
        let one = |code, what: &str| Failure::new(code, what).remedy("mend it");
        assert!(Failure::all(Vec::new()).is_none());
        let alone = Failure::all(vec![one(ExitCode::NotOurs, "a")]).unwrap();
        assert_eq!(alone.to_string(), "hawser: a\n  remedy: mend it");
        let both = Failure::all(vec![one(ExitCode::PodUnfit, "a"), one(ExitCode::NotOurs, "b")]).unwrap();
        assert_eq!(both.code(), ExitCode::PodUnfit);
        assert_eq!(
            both.to_string(),
            "hawser: 2 things stand in the way\n  a\n    remedy: mend it\n  b\n    remedy: mend it"
        );
    }

    #[test]
    fn a_failure_reaches_another_process_whole() {
        let failure = Failure::new(ExitCode::NotOurs, "a").because(std::io::Error::other("b"));
        for failure in [failure, Failure::new(ExitCode::PodUnfit, "c").remedy("d\0e")] {
            let read = Failure::from_parts(&failure.to_parts());
            assert_eq!(
                (read.to_string(), read.code()),
                (failure.to_string(), failure.code())
            );
        }
        for text in ["", "4", "4\0a", "77\0a\0b"] {
            assert_eq!(Failure::from_parts(text).code(), ExitCode::Internal, "{text:?}");
        }
    }
}
