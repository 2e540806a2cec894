//! What a lab run still owes, and what it has tried already. Shared by the nodes of a run, which take from it.
//!
//! The node is an emulated machine whose guests are emulated in it, and a failure may be the emulation's: a scenario that
//! fails, or in which the node goes down, is tried once more in another node. Passing then counts, but not silently: the
//! first failure is shown when it happens, and again beside the sum of the run.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::GROUP;
use crate::report::{Outcome, Report};

/// More failures than this are not chance, and are not worth the time of another try.
const CHANCE: usize = 4;
/// What a run that is to end within a time gives second tries besides.
const SECOND_TRIES: Duration = Duration::from_secs(600);

/// Which of its tries a node is for: second ones have nodes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    First,
    Second,
}

#[derive(Debug)]
pub(super) struct Tries<'r> {
    report: &'r mut Report,
    first: VecDeque<&'static str>,
    second: VecDeque<&'static str>,
    /// Given out, and not finished.
    taken: Vec<&'static str>,
    again: bool,
    /// Nothing begins later, but for second tries.
    until: Option<Instant>,
    /// (scenario, its first failure)
    failed: Vec<(&'static str, String)>,
}

impl<'r> Tries<'r> {
    /// `again`: whether there are second tries.
    pub(super) fn new(
        report: &'r mut Report,
        names: &[&'static str],
        again: bool,
        until: Option<Instant>,
    ) -> Self {
        Self {
            report,
            first: names.iter().copied().collect(),
            second: VecDeque::new(),
            taken: Vec::new(),
            again,
            until,
            failed: Vec::new(),
        }
    }

    /// Whether there is something to boot a node for.
    pub(super) fn any(&mut self, round: Round) -> bool {
        self.in_time(round);
        match round {
            Round::First => !self.first.is_empty(),
            Round::Second => !self.second.is_empty(),
        }
    }

    /// What is to be run next. Whoever takes it says how it [finished](Self::finished).
    pub(super) fn next(&mut self, round: Round) -> Option<&'static str> {
        self.in_time(round);
        let name = match round {
            Round::First => self.first.pop_front(),
            Round::Second => self.second.pop_front(),
        };
        self.taken.extend(name);
        name
    }

    /// Once the time is over, nothing is left.
    fn in_time(&mut self, round: Round) {
        let now = Instant::now();
        match round {
            Round::First if self.until.is_some_and(|until| now >= until) => {
                for name in self.first.drain(..) {
                    let reason = format!("the time of --within was over: `cargo e2e lab {name}` runs it");
                    self.report.record(GROUP, name, Outcome::Skipped(reason), None);
                }
            }
            Round::Second if self.until.is_some_and(|until| now >= until + SECOND_TRIES) => {
                while let Some(name) = self.second.pop_front() {
                    self.record_left(name, &Outcome::Failed("no node ran it".to_owned()));
                }
            }
            _ => {}
        }
    }

    /// Records an outcome, unless it is a failure that another try may yet turn.
    pub(super) fn finished(&mut self, scenario: &'static str, outcome: Outcome, took: Option<Duration>) {
        self.taken.retain(|taken| *taken != scenario);
        let first = self.failed.iter().find(|(failed, _)| *failed == scenario);
        match (&outcome, first) {
            (Outcome::Failed(error), None) if self.again && self.failed.len() < CHANCE => {
                println!("  FAIL {GROUP} {scenario}: {error}\n       once more, in another node, at the end");
                self.failed.push((scenario, error.clone()));
                self.second.push_back(scenario);
                return;
            }
            (Outcome::Passed, Some((_, error))) => self.report.second_try(GROUP, scenario, error),
            _ => {}
        }
        self.report.record(GROUP, scenario, outcome, took);
    }

    /// Records what was never run or never finished, once all nodes have ended, and for what failed once that failure.
    pub(super) fn give_up(&mut self, outcome: &Outcome) {
        let left: Vec<_> = self
            .taken
            .drain(..)
            .chain(self.first.drain(..))
            .chain(self.second.drain(..))
            .collect();
        for name in left {
            self.record_left(name, outcome);
        }
    }

    fn record_left(&mut self, name: &str, outcome: &Outcome) {
        let first = self.failed.iter().find(|(failed, _)| *failed == name);
        let outcome = first.map_or_else(|| outcome.clone(), |(_, error)| Outcome::Failed(error.clone()));
        self.report.record(GROUP, name, outcome, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Outcome {
        Outcome::Failed("no answer".to_owned())
    }

    fn skipped() -> Outcome {
        Outcome::Skipped("no kernel".to_owned())
    }

    #[test]
    fn a_failure_is_tried_once_more() {
        let mut report = Report::default();
        let mut tries = Tries::new(&mut report, &["a", "b"], true, None);
        assert_eq!(tries.next(Round::First), Some("a"));
        tries.finished("a", failed(), None);
        assert_eq!(tries.next(Round::First), Some("b"), "in another node");
        tries.finished("b", Outcome::Passed, None);
        assert!(!tries.any(Round::First));
        assert_eq!(tries.next(Round::Second), Some("a"));
        tries.finished("a", Outcome::Passed, None);
        assert!(!tries.any(Round::Second));
        assert_eq!(report.summary(), "2 passed, 0 failed, 0 skipped");
        assert_eq!(report.second_tries(), 1);
    }

    #[test]
    fn a_second_failure_counts() {
        let mut report = Report::default();
        let mut tries = Tries::new(&mut report, &["a"], true, None);
        for round in [Round::First, Round::Second] {
            assert_eq!(tries.next(round), Some("a"));
            tries.finished("a", failed(), None);
        }
        assert!(!tries.any(Round::Second));
        assert_eq!(report.summary(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn many_failures_are_not_tried_again() {
        let mut report = Report::default();
        let names = ["a", "b", "c", "d", "e"];
        let mut tries = Tries::new(&mut report, &names, true, None);
        while let Some(name) = tries.next(Round::First) {
            tries.finished(name, failed(), None);
        }
        assert_eq!(tries.second, ["a", "b", "c", "d"]);
        assert_eq!(report.summary(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn without_second_tries_the_first_counts() {
        let mut report = Report::default();
        let mut tries = Tries::new(&mut report, &["a", "b"], false, None);
        while let Some(name) = tries.next(Round::First) {
            tries.finished(name, failed(), None);
        }
        assert_eq!(report.summary(), "0 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn what_has_not_begun_in_time_is_skipped() {
        let mut report = Report::default();
        let mut tries = Tries::new(&mut report, &["a", "b"], true, Some(Instant::now()));
        assert_eq!(tries.next(Round::First), None);
        assert_eq!(report.summary(), "0 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn a_failure_without_time_for_a_second_try_stays_one() {
        let long_ago = Instant::now().checked_sub(2 * SECOND_TRIES);
        let mut report = Report::default();
        let mut tries = Tries::new(&mut report, &["a"], true, None);
        assert_eq!(tries.next(Round::First), Some("a"));
        tries.finished("a", failed(), None);
        tries.until = long_ago;
        assert_eq!(tries.next(Round::Second), None);
        assert_eq!(report.summary(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn what_a_node_took_and_never_finished_is_counted() {
        let mut report = Report::default();
        let mut tries = Tries::new(&mut report, &["a"], true, None);
        assert_eq!(tries.next(Round::First), Some("a"));
        tries.give_up(&failed());
        assert_eq!(report.summary(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn what_no_node_has_run_is_not_passed_over() {
        let mut report = Report::default();
        let mut tries = Tries::new(&mut report, &["a", "b"], true, None);
        assert_eq!(tries.next(Round::First), Some("a"));
        tries.finished("a", failed(), None);
        tries.give_up(&skipped());
        assert_eq!(report.summary(), "0 passed, 1 failed, 1 skipped");
    }
}
