//! A guest that writes its memory faster than it can be sent.

use std::time::Instant;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::Context;
use super::migration::{PATIENCE, Pair, SOON, TLS, expect_runs, explain, migrate, quick};
use super::migration_faults::at;
use super::running::expect_exit;
use crate::report::Scenario;
use crate::standin_script::{Fault, Script, Step};

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "rounds without end: cancelled in time",
        run: cancelled,
    },
    Scenario {
        name: "rounds without end: paused when the time is over",
        run: paused,
    },
    Scenario {
        name: "a pause longer than --max-downtime",
        run: too_long,
    },
];

fn endless() -> Script {
    Script {
        migration_rounds: u32::MAX,
        migration_round_ms: 20,
        ..quick()
    }
}

fn cancelled(context: &Context) -> Result<()> {
    let mut pair = Pair::new(context, &endless(), &quick())?;
    let moving = migrate(&pair.from, &[&TLS[..], &["--timeout", "1s"]].concat())?;
    let result = pair.stays(moving);
    explain(&pair, "", result)
}

fn paused(context: &Context) -> Result<()> {
    let mut pair = Pair::new(context, &endless(), &quick())?;
    let options = ["--timeout", "1s", "--on-timeout", "pause"];
    let mut moving = migrate(&pair.from, &[&TLS[..], &options].concat())?;
    let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
    explain(&pair, "", expect_exit(code, 0, &moving))?;
    // Each round says how much it was and how long it took.
    let said = moving.stdout();
    let round = said
        .lines()
        .find(|line| line.contains("round 3 over the guest's memory: "))
        .unwrap_or_default();
    ensure!(
        round.contains(" KiB in ") && round.ends_with("300 ms at most"),
        "{}",
        moving.transcript()
    );
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.source)?;
    expect_runs(&pair.target)?;
    pair.target.signal(Signal::SIGTERM)?;
    let code = pair.target.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.target)
}

/// The guest runs on at the source after that time, and not after the twenty seconds that are the default.
fn too_long(context: &Context) -> Result<()> {
    let mut pair = Pair::new(context, &quick(), &at(Step::State, Fault::Hang))?;
    let began = Instant::now();
    let moving = migrate(&pair.from, &[&TLS[..], &["--max-downtime", "2s"]].concat())?;
    moving.wait_for("within 2s of its pause (--max-downtime)", 1, SOON)?;
    ensure!(began.elapsed() < SOON, "after {:?}", began.elapsed());
    let result = pair.stays(moving);
    explain(&pair, "", result)
}
