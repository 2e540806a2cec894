//! Performs a plan's steps in order, and takes them back in reverse.

use crate::error::{Error, StepFailure, UndoFailure, chain};
use crate::journal::{Journal, JournalFile};
use crate::plan::Plan;
use crate::step::Step;
use crate::undo::Undo;

/// The kernel as this crate needs it. A trait so that tests can let step N fail; [`crate::Linux`] is the real one.
pub trait Kernel {
    /// Performs one step; doing so again is the same as doing it once.
    fn perform(&mut self, step: &Step) -> impl Future<Output = Result<(), StepFailure>>;

    /// Takes one thing back; an object that is already gone is a success.
    fn take_back(&mut self, undo: &Undo) -> impl Future<Output = Result<(), StepFailure>>;
}

/// Carries out `plan`, with its journal written to `journal` before the first step.
///
/// Returns the journal to take back at the end. On an error everything that this and earlier runs did is taken
/// back; what could not be is logged, and the journal then stays for the next start.
pub async fn apply<K: Kernel>(kernel: &mut K, plan: &Plan, journal: &JournalFile) -> Result<Journal, Error> {
    let whole = plan.journal.clone().after(journal.read()?);
    if plan.steps.is_empty() {
        return Ok(whole);
    }
    journal.write(&whole)?;
    for step in &plan.steps {
        tracing::debug!("{step}");
        if let Err(source) = kernel.perform(step).await {
            let failures = undo(kernel, &whole, journal).await;
            for failure in &failures {
                tracing::error!(
                    event = "wiring-undo-failed",
                    "cannot undo the wiring: {}",
                    chain(failure)
                );
            }
            return Err(Error::Apply {
                step: Box::new(step.clone()),
                left: failures.len(),
                source,
            });
        }
    }
    Ok(whole)
}

/// Takes everything in `journal` back, last first. Goes on after a failure and returns them all; the journal file
/// is removed only when there was none.
pub async fn undo<K: Kernel>(kernel: &mut K, journal: &Journal, file: &JournalFile) -> Vec<UndoFailure> {
    let mut failures = Vec::new();
    for entry in journal.undo.iter().rev() {
        tracing::debug!("{entry}");
        if let Err(source) = kernel.take_back(entry).await {
            failures.push(UndoFailure {
                undo: entry.clone(),
                source,
            });
        }
    }
    if failures.is_empty()
        && let Err(error) = file.remove()
    {
        tracing::error!(event = "journal-remove-failed", "{error}");
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that fails where it is told to and otherwise remembers what it was asked.
    #[derive(Default)]
    struct Scripted {
        fail_step: Option<usize>,
        fail_undo: Option<Undo>,
        performed: Vec<Step>,
        taken_back: Vec<Undo>,
    }

    impl Kernel for Scripted {
        async fn perform(&mut self, step: &Step) -> Result<(), StepFailure> {
            if self.fail_step == Some(self.performed.len()) {
                return Err(StepFailure::Nft("scripted".into()));
            }
            self.performed.push(step.clone());
            Ok(())
        }

        async fn take_back(&mut self, undo: &Undo) -> Result<(), StepFailure> {
            if self.fail_undo.as_ref() == Some(undo) {
                return Err(StepFailure::NoLink("scripted".into()));
            }
            self.taken_back.push(undo.clone());
            Ok(())
        }
    }

    fn place() -> (tempfile::TempDir, JournalFile) {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap().into();
        let file = JournalFile::new(fd, "journal.json", dir.path());
        (dir, file)
    }

    fn delete(link: &str) -> Undo {
        Undo::DeleteLink { link: link.into() }
    }

    fn plan() -> Plan {
        let forward = |link: &str| Step::Ipv4Forwarding { link: link.into() };
        Plan {
            steps: vec![forward("a"), forward("b"), forward("c")],
            offloading: None,
            nics: Vec::new(),
            notes: Vec::new(),
            journal: Journal {
                undo: vec![delete("a"), Undo::DeleteTables, delete("c")],
            },
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_failure_at_any_step_takes_everything_back_in_reverse() {
        for step in 0..3 {
            let (dir, file) = place();
            let mut kernel = Scripted {
                fail_step: Some(step),
                ..Scripted::default()
            };
            let error = apply(&mut kernel, &plan(), &file).await.unwrap_err();
            assert!(matches!(error, Error::Apply { .. }), "{error:?}");
            assert_eq!(kernel.performed.len(), step);
            assert_eq!(kernel.taken_back, [delete("c"), Undo::DeleteTables, delete("a")]);
            assert!(
                !dir.path().join("journal.json").exists(),
                "nothing is left to take back"
            );
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_journal_is_written_before_the_first_step_and_outlives_a_kill() {
        let (_dir, file) = place();
        let journal = apply(&mut Scripted::default(), &plan(), &file).await.unwrap();
        assert_eq!(file.read().unwrap(), journal);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn every_undo_is_tried_and_every_failure_reported() {
        let (dir, file) = place();
        let journal = plan().journal;
        file.write(&journal).unwrap();
        let mut kernel = Scripted {
            fail_undo: Some(Undo::DeleteTables),
            ..Scripted::default()
        };
        let failures = undo(&mut kernel, &journal, &file).await;
        assert_eq!(failures.len(), 1);
        assert_eq!(kernel.taken_back, [delete("c"), delete("a")]);
        assert!(
            dir.path().join("journal.json").exists(),
            "the next start must still know"
        );
    }
}
