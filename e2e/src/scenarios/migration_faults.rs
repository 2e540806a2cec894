//! Every step of a migration with every fault. Before the commit the guest stays, after it it is the target's.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;

use super::Context;
use super::migration::{PATIENCE, Pair, SOON, explain, hawser, quick, runs};
use super::running::expect_exit;
use crate::process::{Process, until};
use crate::report::Scenario;
use crate::standin_script::{Fault, Script, Step};

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "the target's VMM fails or dies, at each step",
        run: target_vmm,
    },
    Scenario {
        name: "the source's VMM fails or dies, at each step",
        run: source_vmm,
    },
    Scenario {
        name: "the target's VMM hangs",
        run: target_hangs,
    },
    Scenario {
        name: "a launcher is killed, stopped, or cut off",
        run: launchers,
    },
    Scenario {
        name: "the hand-over cannot be noted",
        run: no_note,
    },
];

/// A guest that moves slowly enough to be disturbed.
fn slow() -> Script {
    Script {
        migration_rounds: 40,
        migration_round_ms: 50,
        ..quick()
    }
}

fn at(step: Step, fault: Fault) -> Script {
    Script {
        migration_fault: Some((step, fault)),
        ..quick()
    }
}

/// All cases at once, each with pods of its own.
fn each<T: Send>(cases: Vec<(String, T)>, run: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    let failures = std::thread::scope(|scope| {
        let running: Vec<_> = cases
            .into_iter()
            .map(|(name, case)| (name, scope.spawn(|| run(case))))
            .collect();
        running
            .into_iter()
            .filter_map(|(name, run)| match run.join() {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{name}: {error:#}")),
                Err(_) => Some(format!("{name}: panicked")),
            })
            .collect::<Vec<_>>()
    });
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\n"))
}

fn target_vmm(context: &Context) -> Result<()> {
    let mut cases = Vec::new();
    for step in [
        Step::Start,
        Step::Config,
        Step::Memory,
        Step::State,
        Step::Complete,
        Step::Completed,
    ] {
        for fault in [Fault::Fail, Fault::Die] {
            cases.push((format!("{step:?} {fault:?}"), (step, fault)));
        }
    }
    each(cases, |(step, fault)| {
        let mut pair = Pair::new(context, &quick(), &at(step, fault))?;
        let moving = pair.migrate()?;
        let result = if matches!(step, Step::Complete | Step::Completed) {
            lost(&mut pair, moving)
        } else {
            pair.stays(moving)
        };
        explain(&pair, "", result)
    })
}

/// After the commit the guest is the target's, and fails with it: it does not come back.
fn lost(pair: &mut Pair, mut moving: Process) -> Result<()> {
    let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &pair.source)?;
    ensure!(
        pair.source.stderr().contains("no guest is left here"),
        "no last word: {}",
        pair.source.transcript()
    );
    let code = pair.target.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &pair.target)
}

fn source_vmm(context: &Context) -> Result<()> {
    let mut cases = Vec::new();
    for step in [
        Step::Start,
        Step::Config,
        Step::Memory,
        Step::State,
        Step::Complete,
    ] {
        for fault in [Fault::Fail, Fault::Die] {
            cases.push((format!("{step:?} {fault:?}"), (step, fault)));
        }
    }
    each(cases, |(step, fault)| {
        let mut pair = Pair::new(context, &at(step, fault), &quick())?;
        let mut moving = pair.migrate()?;
        let result = match fault {
            Fault::Die => (|| {
                let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
                expect_exit(code, 9, &moving)?;
                let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
                expect_exit(code, 6, &pair.source)?;
                pair.target_has_gone(9)
            })(),
            _ => pair.stays(moving),
        };
        explain(&pair, "", result)
    })
}

fn target_hangs(context: &Context) -> Result<()> {
    // While the memory goes over, the guest runs; it is only held up for so long once it is paused.
    let cases = vec![("State".to_owned(), Step::State)];
    each(cases, |step| {
        let mut pair = Pair::new(context, &quick(), &at(step, Fault::Hang))?;
        let moving = pair.migrate()?;
        let result = pair.stays(moving);
        explain(&pair, "", result)
    })
}

fn launchers(context: &Context) -> Result<()> {
    let cases = [
        "note gone",
        "source killed",
        "target killed",
        "target stopped",
        "source stopped",
        "cut",
        "cancelled",
    ];
    let cases = cases.map(|case| (case.to_owned(), case)).to_vec();
    each(cases, |case| {
        let mut pair = Pair::new(context, &slow(), &quick())?;
        let moving = pair.migrate()?;
        moving.wait_for("round 1 ", 1, SOON)?;
        let result = disturb(&mut pair, moving, case);
        explain(&pair, "", result)
    })
}

fn disturb(pair: &mut Pair, mut moving: Process, case: &str) -> Result<()> {
    match case {
        "source killed" => {
            pair.source.signal(Signal::SIGKILL)?;
            pair.target_has_gone(9)
        }
        "target killed" => {
            pair.target.signal(Signal::SIGKILL)?;
            let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
            expect_exit(code, 9, &moving)?;
            until("the guest runs at the source", SOON, || {
                Ok(runs(&pair.source).then_some(()))
            })?;
            pair.source.signal(Signal::SIGTERM)?;
            let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
            expect_exit(code, 0, &pair.source)
        }
        "target stopped" => {
            pair.target.signal(Signal::SIGTERM)?;
            let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
            expect_exit(code, 9, &moving)?;
            ensure!(runs(&pair.source), "it does not run at the source");
            pair.target_has_gone(0)
        }
        "source stopped" => {
            // The guest is to end: it does so here.
            pair.source.signal(Signal::SIGTERM)?;
            let code = pair.source.wait_exit(PATIENCE)?.code().unwrap_or(-1);
            expect_exit(code, 0, &pair.source)?;
            pair.target_has_gone(9)
        }
        // At the fence, when the VMM stands still already: it is let go again.
        "note gone" => {
            std::fs::remove_file(pair.from.path("state/vmm/handed-over.json"))?;
            pair.stays(moving)
        }
        "cancelled" => {
            let mut cancel = hawser(&pair.from, &["migrate", "--state-dir", "/srv/state", "--cancel"])?;
            cancel.wait_exit(SOON)?;
            pair.stays(moving)
        }
        _ => {
            pair.to.netns.ip("link set mig0 down")?;
            pair.stays(moving)
        }
    }
}

/// The note that keeps a second launcher from starting the guest is made before the guest is given away; where it cannot
/// be, the guest is not.
fn no_note(context: &Context) -> Result<()> {
    let mut pair = Pair::new(context, &quick(), &quick())?;
    let blocked = pair.from.path("state/vmm/handed-over.json.new");
    std::fs::create_dir(Path::new(&blocked))?;
    let moving = pair.migrate()?;
    let result = pair.stays(moving);
    explain(&pair, "", result)
}
