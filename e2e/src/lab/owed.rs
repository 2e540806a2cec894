//! What a lab run still owes. Shared by the nodes of a run, which take from it.
//!
//! Each scenario is tried once. One that fails has failed, and so has the one in which a node goes down: nobody can tell from
//! outside whether the emulation or hawser is to blame, and a second try that passes would not tell either.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::GROUP;
use crate::report::{Outcome, Report};

#[derive(Debug)]
pub(super) struct Owed<'r> {
    report: &'r mut Report,
    left: VecDeque<&'static str>,
    /// Given out, and not finished.
    taken: Vec<&'static str>,
    /// Nothing begins later.
    until: Option<Instant>,
}

impl<'r> Owed<'r> {
    pub(super) fn new(report: &'r mut Report, names: &[&'static str], until: Option<Instant>) -> Self {
        Self {
            report,
            left: names.iter().copied().collect(),
            taken: Vec::new(),
            until,
        }
    }

    /// Whether there is something to boot a node for.
    pub(super) fn any(&mut self) -> bool {
        self.in_time();
        !self.left.is_empty()
    }

    /// What is to be run next. Whoever takes it says how it [finished](Self::finished).
    pub(super) fn next(&mut self) -> Option<&'static str> {
        self.in_time();
        let name = self.left.pop_front();
        self.taken.extend(name);
        name
    }

    /// Once the time is over, nothing is left.
    fn in_time(&mut self) {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            for name in self.left.drain(..) {
                let reason = format!("the time of --within was over: `cargo e2e lab {name}` runs it");
                self.report.record(GROUP, name, Outcome::Skipped(reason), None);
            }
        }
    }

    pub(super) fn finished(&mut self, scenario: &'static str, outcome: Outcome, took: Option<Duration>) {
        self.taken.retain(|taken| *taken != scenario);
        self.report.record(GROUP, scenario, outcome, took);
    }

    /// Records what was never run or never finished, once all nodes have ended.
    pub(super) fn give_up(&mut self, outcome: &Outcome) {
        for name in self.taken.drain(..).chain(self.left.drain(..)) {
            self.report.record(GROUP, name, outcome.clone(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Outcome {
        Outcome::Failed("no answer".to_owned())
    }

    #[test]
    fn a_failure_is_a_failure_and_the_others_go_on() {
        let mut report = Report::default();
        let mut owed = Owed::new(&mut report, &["a", "b"], None);
        assert_eq!(owed.next(), Some("a"));
        owed.finished("a", failed(), None);
        assert_eq!(owed.next(), Some("b"));
        owed.finished("b", Outcome::Passed, None);
        assert!(!owed.any());
        assert_eq!(owed.next(), None);
        owed.give_up(&failed());
        assert_eq!(report.summary(), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn what_never_finished_is_recorded_once() {
        let mut report = Report::default();
        let mut owed = Owed::new(&mut report, &["a", "b", "c"], None);
        owed.next();
        owed.finished("a", Outcome::Passed, None);
        owed.next();
        owed.give_up(&failed());
        assert_eq!(report.summary(), "1 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn nothing_begins_after_the_time() {
        let mut report = Report::default();
        let mut owed = Owed::new(&mut report, &["a", "b"], Some(Instant::now()));
        assert!(!owed.any());
        assert_eq!(owed.next(), None);
        assert_eq!(report.summary(), "0 passed, 0 failed, 2 skipped");
    }
}
