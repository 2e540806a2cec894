//! What can go wrong with the namespace, by kind of remedy.

use crate::step::Step;
use crate::undo::Undo;

/// Why the network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace holds something that hawser did not create and will not change.
    #[error("{object}: {why}")]
    NotOurs { object: String, why: String },
    /// The pod lacks something that its owner has to provide.
    #[error("{object}: {why}")]
    Unfit { object: String, why: String },
    #[error("cannot read the {what} of the network namespace")]
    Observe {
        what: &'static str,
        #[source]
        source: StepFailure,
    },
    #[error("cannot {step}")]
    Apply {
        step: Box<Step>,
        /// How many changes could not be undone.
        left: usize,
        #[source]
        source: StepFailure,
    },
    #[error("cannot {action} the journal {path}")]
    Journal {
        action: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// It is there, and no start of hawser can have left it so.
    #[error("the journal {path} is damaged: {why}")]
    JournalDamaged { path: String, why: String },
}

/// What the kernel, or the tool in front of it, answered.
#[derive(Debug, thiserror::Error)]
pub enum StepFailure {
    #[error("{call}")]
    System {
        call: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{request}")]
    Netlink {
        request: &'static str,
        #[source]
        source: Box<rtnetlink::Error>,
    },
    #[error("no interface named {0}")]
    NoLink(String),
    #[error("hawser did not create the interface {0}")]
    NotOurs(String),
    #[error("nft could not load the rule set: {0}")]
    Nft(String),
    #[error("nft has not loaded the rule set within {0} s, and was killed")]
    NftHung(u64),
}

impl StepFailure {
    pub(crate) fn system(call: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::System {
            call: call.into(),
            source: source.into(),
        }
    }
}

/// One thing that could not be taken back.
#[derive(Debug, thiserror::Error)]
#[error("cannot {undo}")]
pub struct UndoFailure {
    pub undo: Undo,
    #[source]
    pub source: StepFailure,
}

/// The error with its sources, for a line of the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_answer_is_the_last_of_the_chain() {
        let failure = UndoFailure {
            undo: Undo::DeleteLink { link: "tap0".into() },
            source: StepFailure::Netlink {
                request: "delete the interface",
                source: Box::new(rtnetlink::Error::RequestFailed),
            },
        };
        assert_eq!(
            chain(&failure),
            "cannot delete the interface tap0: delete the interface: A netlink request failed"
        );
    }
}
