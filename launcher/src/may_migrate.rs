//! Whether a part of a guest lets it migrate, and why. Each NIC and device decides that for itself,
//! `launch::migratable` collects the answers, and `hawser explain` quotes them: the decision is not taken from the
//! text.

use std::borrow::Cow;

use serde::Serialize;

/// The decision, with its reason in either case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct MayMigrate {
    possible: bool,
    why: Cow<'static, str>,
}

impl MayMigrate {
    pub(crate) fn yes(why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            possible: true,
            why: why.into(),
        }
    }

    pub(crate) fn no(why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            possible: false,
            why: why.into(),
        }
    }

    /// The reason why not.
    pub(crate) fn obstacle(&self) -> Option<&str> {
        (!self.possible).then_some(&*self.why)
    }

    /// `yes` or `no`, with the reason.
    pub(crate) fn text(&self) -> String {
        let answer = if self.possible { "yes" } else { "no" };
        format!("{answer}: {}", self.why)
    }
}
