//! A guest that writes its memory faster than it can be sent.

use std::time::Instant;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::Context;
use super::migration_faults::at;
use super::migration_pair::{PATIENCE, Pair, SOON, TLS, expect_runs, explain, migrate, quick};
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
        name: "rounds without end: vCPUs that cannot be stopped, and a policy's limits",
        run: not_stopped,
    },
    Scenario {
        name: "a migration policy that is refused",
        run: policy_refused,
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
    moving.wait_for("the guest writes its memory too fast: round ", 1, SOON)?;
    moving.wait_for(
        "within 1s (--timeout); --max-downtime 1s lets it migrate",
        1,
        SOON,
    )?;
    let result = pair.stays(moving);
    explain(&pair, "", result)
}

/// The stand-in's vCPUs are not in KVM_RUN, where alone they may be stopped. What remains is the time, here the policy's.
fn not_stopped(context: &Context) -> Result<()> {
    let mut pair = Pair::new(context, &endless(), &quick())?;
    let directory = tempfile::tempdir()?;
    let policy = directory.path().join("policy.yaml");
    let text = "kind: MigrationPolicy\nspec: {completionTimeoutPerGiB: 3, maxDowntimeMs: 5000, allowAutoConverge: true}\n";
    std::fs::write(&policy, text)?;
    let policy = policy.display().to_string();
    let moving = migrate(&pair.from, &[&TLS[..], &["--policy", &policy]].concat())?;
    moving.wait_for("within 3s (--timeout)", 1, PATIENCE)?;
    pair.source.wait_for("event=\"vcpus-not-stopped\"", 1, SOON)?;
    let result = pair.stays(moving);
    explain(&pair, "", result)
}

/// Nothing has begun when it is refused.
fn policy_refused(context: &Context) -> Result<()> {
    let pair = Pair::new(context, &quick(), &quick())?;
    let directory = tempfile::tempdir()?;
    let policy = directory.path().join("policy.yaml");
    std::fs::write(&policy, "kind: MigrationPolicy\nspec: {allowPostCopy: true}\n")?;
    let policy = policy.display().to_string();
    let mut moving = migrate(&pair.from, &[&TLS[..], &["--policy", &policy]].concat())?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 3, &moving)?;
    ensure!(
        moving.transcript().contains("spec.allowPostCopy: "),
        "{}",
        moving.transcript()
    );
    Ok(())
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
        round.contains(" KiB/s, in ") && round.ends_with("a pause of 300 ms is allowed"),
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
