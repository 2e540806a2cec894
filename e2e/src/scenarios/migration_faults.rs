//! Every step of a migration with every fault. Before the commit the guest stays, after it it is the target's.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::Context;
use super::migration_pair::{PATIENCE, Pair, SOON, expect_runs, explain, hawser, quick};
use super::running::{expect_exit, processes};
use crate::pods::{Pod, vmi};
use crate::process::Process;
use crate::report::Scenario;
use crate::standin_script::{Fault, GuestEnd, Script, Step};

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
        name: "the guest itself ends while it moves",
        run: guest_ends,
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
    Scenario {
        name: "a disk is full, on either side",
        run: full_disk,
    },
];

/// A guest that moves slowly enough to be disturbed.
pub(super) fn slow() -> Script {
    Script {
        migration_rounds: 40,
        migration_round_ms: 50,
        ..quick()
    }
}

pub(super) fn at(step: Step, fault: Fault) -> Script {
    Script {
        migration_fault: Some((step, fault)),
        ..quick()
    }
}

/// All cases at once, each with pods of its own.
pub(super) fn each<T: Send>(cases: Vec<(String, T)>, run: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
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
pub(super) fn lost(pair: &mut Pair, mut moving: Process) -> Result<()> {
    let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &pair.source)?;
    ensure!(
        pair.source.stderr().contains(r#"event="guest-handed-off""#),
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

/// Its end is its end at the source, with the exit code that it has outside a migration where cloud-hypervisor lets it
/// have one. Rounds without end: cloud-hypervisor does not get to find out by itself.
fn guest_ends(context: &Context) -> Result<()> {
    let endless = (40_000, "rounds without end");
    let few = (2, "few rounds");
    let mut cases = Vec::new();
    for (end, code, word) in [
        (GuestEnd::PowerOff, 0, "the guest has shut down"),
        (GuestEnd::Reboot, 6, "crashed or rebooted"),
        (GuestEnd::TripleFault, 6, "crashed or rebooted"),
        (GuestEnd::VcpuError, 6, "a vCPU of the guest ended"),
    ] {
        for (rounds, name) in [endless, few] {
            cases.push((format!("{end:?}, {name}"), (end, code, word, rounds)));
        }
    }
    each(cases, |(end, code, word, rounds)| {
        let script = Script {
            guest_end: Some(end),
            migration_rounds: rounds,
            ..quick()
        };
        let mut pair = Pair::new(context, &script, &quick())?;
        let moving = pair.migrate()?;
        let result = ended(&mut pair, moving, code, word);
        explain(&pair, "", result)
    })
}

fn ended(pair: &mut Pair, mut moving: Process, code: i32, word: &str) -> Result<()> {
    // The longest that a silent VMM is borne with, and then some.
    let migrate = moving.wait_exit(Duration::from_secs(20))?.code().unwrap_or(-1);
    expect_exit(migrate, 9, &moving)?;
    ensure!(
        moving.stderr().contains("has ended here") && moving.stderr().contains(word),
        "not said why:\n{}",
        moving.transcript()
    );
    let source = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(source, code, &pair.source)?;
    pair.target_has_gone(9)?;
    // Whether the source's word or the end of the transfer comes first at the target is a race; either ends it.
    // It has not been given away: a container that is started again starts it again.
    let note = pair.from.path("state/vmm/given-away.json");
    ensure!(!Path::new(&note).exists(), "noted as given away");
    ensure!(processes(&pair.from)?.is_empty(), "left at the source");
    Ok(())
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

pub(super) fn disturb(pair: &mut Pair, mut moving: Process, case: &str) -> Result<()> {
    match case {
        "source killed" => {
            pair.source.signal(Signal::SIGKILL)?;
            pair.target_has_gone(9)
        }
        "target killed" => {
            pair.target.signal(Signal::SIGKILL)?;
            let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
            expect_exit(code, 9, &moving)?;
            expect_runs(&pair.source)?;
            pair.source.signal(Signal::SIGTERM)?;
            let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
            expect_exit(code, 0, &pair.source)
        }
        "target stopped" => {
            pair.target.signal(Signal::SIGTERM)?;
            let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
            expect_exit(code, 9, &moving)?;
            expect_runs(&pair.source)?;
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
            std::fs::remove_file(pair.from.path("state/vmm/given-away.prepared"))?;
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
    let blocked = pair.from.path("state/vmm/given-away.prepared.new");
    std::fs::create_dir(Path::new(&blocked))?;
    let moving = pair.migrate()?;
    let result = pair.stays(moving);
    explain(&pair, "", result)
}

/// A small file system over a pod's state directory; gone when dropped.
pub(super) struct Small(PathBuf);

impl Small {
    pub(super) fn mount(pod: &Pod) -> Result<Self> {
        let directory = pod.path("state");
        let options = Some("size=256k,mode=0777");
        mount(
            Some("small"),
            &directory,
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )?;
        Ok(Self(directory))
    }

    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("filler"))?;
        loop {
            match file.write_all(&[b'x'; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn empty(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A disk that is full before a migration is a reason against it; one that fills up while it runs is none, since what has
/// to be written at the commit has been written before.
fn full_disk(context: &Context) -> Result<()> {
    let cases = ["source", "target", "source, in the middle"];
    let cases = cases.map(|case| (case.to_owned(), case)).to_vec();
    each(cases, |case| {
        let guest = vmi(Value::Null);
        let script = if case == "source, in the middle" {
            slow()
        } else {
            quick()
        };
        let mut small = None;
        let mut pair = Pair::prepared(context, (&script, &guest), (&quick(), &guest), &[], |from, to| {
            small = Some(Small::mount(if case == "target" { to } else { from })?);
            Ok(())
        })?;
        let small = small.context("no file system")?;
        let result = filled(&mut pair, &small, case);
        let result = explain(&pair, "", result);
        drop(pair);
        result
    })
}

fn filled(pair: &mut Pair, small: &Small, case: &str) -> Result<()> {
    if case == "source, in the middle" {
        let moving = pair.migrate()?;
        moving.wait_for("round 1 ", 1, SOON)?;
        small.fill()?;
        return moved(pair, moving);
    }
    small.fill()?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    ensure!(
        moving.stderr().contains("No space left on device"),
        "not said why:\n{}",
        moving.transcript()
    );
    expect_runs(&pair.source)?;
    // Nothing is spoilt: with room, it works.
    small.empty()?;
    let moving = pair.migrate()?;
    moved(pair, moving)
}

fn moved(pair: &mut Pair, mut moving: Process) -> Result<()> {
    let code = moving.wait_exit(PATIENCE)?.code().unwrap_or(-1);
    expect_exit(code, 0, &moving)?;
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.source)?;
    let note = std::fs::read_to_string(pair.from.path("state/vmm/given-away.json"))?;
    ensure!(note.contains("tcp:"), "no note that it is gone: {note}");
    expect_runs(&pair.target)
}
