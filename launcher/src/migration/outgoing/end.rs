//! The end of a migration away from here: what the caller and the log are told, and what is tidied up.

use std::time::Duration;

use super::Outgoing;
use crate::control::{Answer, Board};
use crate::migration::session_certs;
use crate::migration::source::Ending;

/// For the caller to read the last answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

impl Outgoing {
    /// Closes everything, and gives the caller the last answer. The future waits until the target and the caller have read what
    /// there was to tell them.
    pub(crate) fn finish(
        self,
        ending: &Ending,
        board: &mut Board,
    ) -> impl Future<Output = ()> + Send + 'static {
        match ending {
            Ending::NotBegun { .. } | Ending::EndedHere { .. } => board.take_back(),
            Ending::StaysHere { why } => {
                board.take_back();
                tracing::warn!(
                    event = "migration-failed",
                    "migration: the guest stays here: {why}"
                );
            }
            Ending::Migrated => tracing::info!(
                event = "migration-completed",
                "migration: the guest runs at {}{}",
                self.address,
                self.times.text()
            ),
            Ending::LostThere { .. } | Ending::InDoubt { .. } => {}
        }
        session_certs::clear(&self.vmm_dir);
        let to = &self.address;
        let text = match ending {
            Ending::NotBegun { why } => why.clone(),
            Ending::StaysHere { why } => format!("the guest stays here: {why}"),
            Ending::EndedHere { why } => format!("the guest was not migrated, and has ended here: {why}"),
            Ending::Migrated => format!("the guest runs at {to}{}", self.times.text()),
            Ending::LostThere { why } => lost_there(&to.to_string(), why),
            Ending::InDoubt { why } => in_doubt(&to.to_string(), why),
        };
        let _ = self.progress.send(Answer::Ended {
            migrated: *ending == Ending::Migrated,
            text,
        });
        let Self { link, progress, .. } = self;
        async move {
            if let Some(link) = link {
                link.finish().await;
            }
            let _ = tokio::time::timeout(ANSWER_TIMEOUT, progress.closed()).await;
        }
    }
}

/// What became of a guest that is not here any more, and not known to run at the target.
pub(crate) fn lost_there(to: &str, why: &str) -> String {
    format!("committed to {to}, and failed there: {why}")
}

pub(crate) fn in_doubt(to: &str, why: &str) -> String {
    format!("committed to {to}, which did not confirm; the guest runs there or nowhere: {why}")
}
