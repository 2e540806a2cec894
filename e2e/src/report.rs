//! What ran, what it came to, and the one line that sums it up.
//!
//! A [`Scenario`] is a named function. It passes by returning `Ok(())`, fails by returning any error, and is skipped
//! by returning [`Skip`] as its error (`return Err(Skip::because("no /dev/kvm").into())`). It runs in the calling
//! thread, one after the other: scenarios own namespaces, containers and ports, so running two at once would only make
//! failures harder to read. An async scenario starts its own runtime.
//!
//! [`Report`] prints each result when it comes in, and everything worth reading again at the end. What never ran is
//! recorded as a failure or as a skip, whichever its cause is, so that it can never count as passed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Why a scenario cannot run here. Not a failure, and not a pass.
#[derive(Debug)]
pub(crate) struct Skip {
    reason: String,
}

impl Skip {
    /// The reason is shown to the user: say what is missing and, where there is one, the remedy.
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Skip {}

/// One thing that is tried. `C` is what the group hands to each of its scenarios.
pub(crate) struct Scenario<C: ?Sized = ()> {
    /// Unique within its group; what FILTER is matched against.
    pub(crate) name: &'static str,
    pub(crate) run: fn(&C) -> anyhow::Result<()>,
}

impl<C: ?Sized> fmt::Debug for Scenario<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What became of one scenario. Serialized by the lab's node, which runs scenarios away from the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Passed,
    /// The error with its causes, as shown to the user.
    Failed(String),
    /// The reason.
    Skipped(String),
}

impl From<anyhow::Result<()>> for Outcome {
    fn from(result: anyhow::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(skip) => Self::Skipped(skip.to_string()),
                None => Self::Failed(format!("{error:#}")),
            },
        }
    }
}

impl<C: ?Sized> Scenario<C> {
    /// Runs the scenario. A panic in it is a failure of this scenario, not the end of the run.
    pub(crate) fn outcome(&self, context: &C) -> Outcome {
        match catch_unwind(AssertUnwindSafe(|| (self.run)(context))) {
            Ok(result) => result.into(),
            // The panic's own message is on stderr by now.
            Err(_) => Outcome::Failed("panicked".to_owned()),
        }
    }
}

/// True where a scenario called `name` of `group` is meant by the user's FILTER.
pub(crate) fn is_selected(group: &str, name: &str, filter: Option<&str>) -> bool {
    filter.is_none_or(|filter| format!("{group} {name}").contains(filter))
}

/// The results of a run, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: usize,
    failed: Vec<(String, String)>,
    skipped: Vec<(String, String)>,
}

impl Report {
    /// Runs the selected scenarios of a group and records what they come to.
    pub(crate) fn run<C: ?Sized>(
        &mut self,
        group: &str,
        scenarios: &[Scenario<C>],
        context: &C,
        filter: Option<&str>,
    ) {
        for scenario in scenarios.iter().filter(|s| is_selected(group, s.name, filter)) {
            let started = Instant::now();
            let outcome = scenario.outcome(context);
            self.record(group, scenario.name, outcome, Some(started.elapsed()));
        }
    }

    /// Records and prints one result that was obtained elsewhere.
    pub(crate) fn record(&mut self, group: &str, name: &str, outcome: Outcome, took: Option<Duration>) {
        let title = format!("{group} {name}");
        let took = took
            .map(|t| format!(" ({:.1} s)", t.as_secs_f64()))
            .unwrap_or_default();
        match outcome {
            Outcome::Passed => {
                println!("  ok   {title}{took}");
                self.passed += 1;
            }
            Outcome::Failed(error) => {
                println!("  FAIL {title}{took}: {error}");
                self.failed.push((title, error));
            }
            Outcome::Skipped(reason) => {
                println!("  skip {title}: {reason}");
                self.skipped.push((title, reason));
            }
        }
    }

    /// Counts results that were already shown by whoever ran them (cargo's own tests).
    pub(crate) fn add_passed(&mut self, count: usize) {
        self.passed += count;
    }

    pub(crate) fn failures(&self) -> usize {
        self.failed.len()
    }

    /// The line that everything ends in.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        )
    }

    /// Prints the skips with their reasons, the failures once more, and the summary alone on the last line. Nothing having
    /// run at all is a failure too: a mistyped filter must not look like success.
    pub(crate) fn finish(mut self) -> ExitCode {
        if self.passed + self.failed.len() + self.skipped.len() == 0 {
            self.failed.push((
                "selection".to_owned(),
                "nothing matches: no test was run".to_owned(),
            ));
        }
        println!();
        for (title, reason) in &self.skipped {
            println!("skipped: {title}: {reason}");
        }
        for (title, error) in &self.failed {
            println!("FAILED: {title}: {error}");
        }
        println!("{}", self.summary());
        if self.failures() > 0 {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, bail};

    use super::*;

    #[test]
    fn every_outcome_is_counted_once() {
        let scenarios = [
            Scenario {
                name: "good",
                run: |()| Ok(()),
            },
            Scenario {
                name: "bad",
                run: |()| bail!("no answer"),
            },
            Scenario {
                name: "absent",
                run: |()| Err(Skip::because("no such device").into()),
            },
            Scenario {
                name: "panicking",
                run: |()| panic!("on purpose"),
            },
        ];
        let mut report = Report::default();
        report.run("group", &scenarios, &(), None);
        assert_eq!(report.summary(), "1 passed, 2 failed, 1 skipped");
        assert_eq!(report.failures(), 2);
    }

    #[test]
    fn a_skip_below_added_context_is_still_a_skip() {
        let result: anyhow::Result<()> = Err(Skip::because("no KVM").into());
        let outcome = Outcome::from(result.context("while starting the guest"));
        assert_eq!(outcome, Outcome::Skipped("no KVM".to_owned()));
    }

    #[test]
    fn the_filter_sees_group_and_name() {
        assert!(is_selected("lab", "masquerade", Some("lab masq")));
        assert!(is_selected("lab", "masquerade", None));
        assert!(!is_selected("lab", "masquerade", Some("bridge")));
    }
}
