//! `cargo test` of the workspace, counted.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::report::{Outcome, Report};

const GROUP: &str = "unit";

/// Runs all unit and integration tests, showing what cargo shows.
pub(crate) fn run(report: &mut Report, filter: Option<&str>) {
    if let Err(error) = run_cargo(report, filter) {
        report.record(GROUP, "cargo test", Outcome::Failed(format!("{error:#}")), None);
    }
}

fn run_cargo(report: &mut Report, filter: Option<&str>) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        // The ignored ones need root, as this whole suite does.
        .args(["test", "--workspace", "--no-fail-fast", "--", "--include-ignored"])
        .args(filter)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let failures_before = report.failures();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            match Line::of(&line) {
                Some(Line::Passed) => report.add_passed(1),
                Some(Line::Failed(name)) => {
                    report.record(
                        GROUP,
                        name,
                        Outcome::Failed("see its output above".to_owned()),
                        None,
                    );
                }
                Some(Line::Ignored(name, reason)) => {
                    report.record(GROUP, name, Outcome::Skipped(reason.to_owned()), None);
                }
                None => println!("{line}"),
            }
        }
    }
    let status = child.wait()?;
    // A test binary that does not build or that dies names no test.
    if !status.success() && report.failures() == failures_before {
        anyhow::bail!("{status}");
    }
    Ok(())
}

/// A result line of the standard test harness.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Passed,
    Failed(&'a str),
    Ignored(&'a str, &'a str),
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
        match result.split_once(", ").unwrap_or((result, "marked as ignored")) {
            ("ok", _) => Some(Self::Passed),
            ("FAILED", _) => Some(Self::Failed(name)),
            ("ignored", reason) => Some(Self::Ignored(name, reason)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_lines_are_understood() {
        assert_eq!(Line::of("test a::b ... ok"), Some(Line::Passed));
        assert_eq!(Line::of("test a::b ... FAILED"), Some(Line::Failed("a::b")));
        assert_eq!(
            Line::of("test a::b ... ignored, needs root"),
            Some(Line::Ignored("a::b", "needs root"))
        );
        assert_eq!(Line::of("test result: ok. 1 passed; 0 failed"), None);
    }
}
