//! What a lab run still owes, and what it has tried already.
//!
//! The node is an emulated machine whose guests are emulated in it, and a failure may be the emulation's: a scenario that
//! fails, or in which the node goes down, is tried once more in another node. Passing then counts, but not silently: the
//! first failure is shown when it happens, and again beside the sum of the run.

use std::time::Duration;

use super::GROUP;
use crate::report::{Outcome, Report};

/// More failures than this are not chance, and are not worth the time of another try.
const CHANCE: usize = 4;

#[derive(Debug)]
pub(super) struct Tries<'a> {
    owed: Vec<&'a str>,
    again: bool,
    /// (scenario, its first failure)
    failed: Vec<(String, String)>,
}

impl<'a> Tries<'a> {
    /// `again`: whether there are second tries.
    pub(super) fn new(names: &[&'a str], again: bool) -> Self {
        Self {
            owed: names.to_vec(),
            again,
            failed: Vec::new(),
        }
    }

    /// In the order in which the next node is to run them: second tries last.
    pub(super) fn owed(&self) -> &[&'a str] {
        &self.owed
    }

    pub(super) fn has_failed(&self, scenario: &str) -> bool {
        self.failed.iter().any(|(failed, _)| failed == scenario)
    }

    /// Records an outcome, unless it is a failure that another try may yet turn.
    pub(super) fn finished(
        &mut self,
        report: &mut Report,
        scenario: &str,
        outcome: Outcome,
        took: Option<Duration>,
    ) {
        let Some(at) = self.owed.iter().position(|name| *name == scenario) else {
            return;
        };
        let name = self.owed.remove(at);
        let first = self.failed.iter().find(|(failed, _)| failed == scenario);
        let outcome = match (outcome, first) {
            // No time for a second try.
            (Outcome::Skipped(_), Some((_, error))) => Outcome::Failed(error.clone()),
            (outcome, _) => outcome,
        };
        match (&outcome, first) {
            (Outcome::Failed(error), None) if self.again && self.failed.len() < CHANCE => {
                println!("  FAIL {GROUP} {scenario}: {error}\n       once more, in another node, at the end");
                self.failed.push((scenario.to_owned(), error.clone()));
                self.owed.push(name);
                return;
            }
            (Outcome::Passed, Some((_, error))) => report.second_try(GROUP, scenario, error),
            _ => {}
        }
        report.record(GROUP, scenario, outcome, took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Outcome {
        Outcome::Failed("no answer".to_owned())
    }

    #[test]
    fn a_failure_is_tried_once_more_after_the_others() {
        let mut report = Report::default();
        let mut tries = Tries::new(&["a", "b"], true);
        tries.finished(&mut report, "a", failed(), None);
        assert_eq!(tries.owed(), ["b", "a"]);
        assert_eq!(report.summary(), "0 passed, 0 failed, 0 skipped");
        tries.finished(&mut report, "b", Outcome::Passed, None);
        tries.finished(&mut report, "a", Outcome::Passed, None);
        assert!(tries.owed().is_empty());
        assert_eq!(report.summary(), "2 passed, 0 failed, 0 skipped");
        assert_eq!(report.second_tries(), 1);
    }

    #[test]
    fn a_second_failure_counts() {
        let mut report = Report::default();
        let mut tries = Tries::new(&["a"], true);
        tries.finished(&mut report, "a", failed(), None);
        tries.finished(&mut report, "a", failed(), None);
        assert!(tries.owed().is_empty());
        assert_eq!(report.summary(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_second_try_that_is_skipped_leaves_the_failure() {
        let mut report = Report::default();
        let mut tries = Tries::new(&["a"], true);
        tries.finished(&mut report, "a", failed(), None);
        tries.finished(&mut report, "a", Outcome::Skipped("no time".to_owned()), None);
        assert_eq!(report.summary(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn many_failures_are_not_tried_again() {
        let names = ["a", "b", "c", "d", "e"];
        let mut report = Report::default();
        let mut tries = Tries::new(&names, true);
        for name in names {
            tries.finished(&mut report, name, failed(), None);
        }
        assert_eq!(tries.owed(), ["a", "b", "c", "d"]);
        assert_eq!(report.summary(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn without_second_tries_the_first_counts() {
        let mut report = Report::default();
        let mut tries = Tries::new(&["a"], false);
        tries.finished(&mut report, "a", failed(), None);
        assert_eq!(report.summary(), "0 passed, 1 failed, 0 skipped");
    }
}
