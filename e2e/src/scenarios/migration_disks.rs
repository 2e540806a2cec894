//! A guest that writes without pause to a disk that both pods have, through a migration and through every fault of one.
//!
//! The stand-in's guest numbers its records, and reads each back before it writes the next one. What a record holds depends on all
//! before it. So a write that is lost, and one from the wrong side, show in the guest and on the disk.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Context;
use super::migration_faults::{at, disturb, each, lost, slow};
use super::migration_pair::{PATIENCE, Pair, SOON, explain, quick, run};
use super::running::expect_exit;
use crate::pods::{Pod, PodSpec, VMM_UID, set, vmi};
use crate::process::until;
use crate::report::Scenario;
use crate::standin_record::check;
use crate::standin_script::{Fault, Script, Step};

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a guest moves with a disk that it writes and that both pods have",
        run: moves,
    },
    Scenario {
        name: "a written disk, each step failing",
        run: faults,
    },
    Scenario {
        name: "a disk that is not known to be the same in both pods",
        run: refused,
    },
];

/// What the guest says of a disk that is not as it left it, and of one that it cannot use.
const WRONG: &str = "standin-vmm: the guest's disk:";

pub(super) fn writes(script: Script) -> Script {
    Script {
        writes_disk: true,
        ..script
    }
}

fn guest() -> Value {
    let mut guest = vmi(Value::Null);
    set(
        &mut guest,
        "/spec/domain/devices/disks",
        json!([{"name": "data", "disk": {"bus": "virtio"}}]),
    );
    set(
        &mut guest,
        "/spec/volumes",
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]),
    );
    guest
}

/// A claim: a directory of the guest's user with a disk of 1 MiB.
struct Claim(tempfile::TempDir);

impl Claim {
    fn new() -> Result<Self> {
        let claim = Self(tempfile::Builder::new().prefix("claim-").tempdir()?);
        std::fs::set_permissions(claim.0.path(), PermissionsExt::from_mode(0o755))?;
        let disk = claim.disk();
        File::create(&disk)?.set_len(1 << 20)?;
        for path in [claim.0.path(), &disk] {
            chown(path, Some(VMM_UID), Some(VMM_UID))?;
        }
        Ok(claim)
    }

    fn disk(&self) -> PathBuf {
        self.0.path().join("disk.img")
    }

    fn option(&self) -> String {
        format!("data={}", self.0.path().display())
    }

    /// The last record, and how many have written.
    fn check(&self) -> Result<(u64, usize)> {
        Ok(check(&File::open(self.disk())?)?)
    }

    /// Waits until somebody has written more.
    fn grows(&self) -> Result<u64> {
        let (before, _) = self.check_while_written()?;
        until("the guest writes on", SOON, || {
            let (now, _) = self.check_while_written()?;
            Ok((now > before + 20).then_some(now))
        })
    }

    /// A record may be replaced while the others are read.
    fn check_while_written(&self) -> Result<(u64, usize)> {
        until("the records fit together", SOON, || Ok(self.check().ok()))
    }

    /// Nothing beside the disk.
    fn is_tidy(&self) -> Result<()> {
        until("the token is removed", SOON, || {
            let entries = std::fs::read_dir(self.0.path())?.count();
            Ok((entries == 1).then_some(()))
        })
    }
}

fn pair(context: &Context, claim: &Claim, here: &Script, there: &Script) -> Result<Pair> {
    let guest = guest();
    let volume = claim.option();
    let options = ["--volume", &volume, "--shared", "data"];
    let (here, there) = (writes(here.clone()), writes(there.clone()));
    Pair::prepared(
        context,
        (&here, &guest),
        (&there, &guest),
        &options,
        |_, _| Ok(()),
    )
}

pub(super) fn nothing_wrong(pair: &Pair) -> Result<()> {
    for (side, launcher) in [("source", &pair.source), ("target", &pair.target)] {
        let said = launcher.transcript();
        ensure!(!said.contains(WRONG), "the {side}'s guest:\n{said}");
    }
    Ok(())
}

fn moves(context: &Context) -> Result<()> {
    let claim = Claim::new()?;
    let mut pair = pair(context, &claim, &quick(), &quick())?;
    let before = claim.grows()?;
    let mut moving = pair.migrate()?;
    let result = (|| {
        let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
        expect_exit(code, 0, &moving)?;
        let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
        expect_exit(code, 0, &pair.source)?;
        let after = claim.grows()?;
        ensure!(after > before, "record {after} after {before}");
        pair.target.signal(nix::sys::signal::Signal::SIGTERM)?;
        let code = pair.target.wait_exit(SOON)?.code().unwrap_or(-1);
        expect_exit(code, 0, &pair.target)?;
        claim.check().context("the disk at the end")?;
        nothing_wrong(&pair)?;
        claim.is_tidy()
    })();
    explain(&pair, "", result)
}

/// What becomes of the guest.
#[derive(Clone, Copy, Debug)]
enum Then {
    Stays,
    /// After the commit, with the target's VMM.
    Lost,
}

fn faults(context: &Context) -> Result<()> {
    let mut cases = Vec::new();
    for fault in [Fault::Fail, Fault::Die] {
        for step in [Step::Config, Step::Memory, Step::State] {
            let name = format!("target {step:?} {fault:?}");
            cases.push((name, (quick(), at(step, fault), Then::Stays, "")));
        }
        for step in [Step::Complete, Step::Completed] {
            let name = format!("target {step:?} {fault:?}");
            cases.push((name, (quick(), at(step, fault), Then::Lost, "")));
        }
    }
    for step in [Step::Memory, Step::State, Step::Complete] {
        let name = format!("source {step:?} fails");
        cases.push((name, (at(step, Fault::Fail), quick(), Then::Stays, "")));
    }
    let name = "target hangs when it has restored the guest".to_owned();
    cases.push((name, (quick(), at(Step::State, Fault::Hang), Then::Stays, "")));
    for disturbance in ["note gone", "cut", "cancelled", "target killed", "source killed"] {
        cases.push((
            disturbance.to_owned(),
            (slow(), quick(), Then::Stays, disturbance),
        ));
    }
    each(cases, |(here, there, then, disturbance)| {
        let claim = Claim::new()?;
        let mut pair = pair(context, &claim, &here, &there)?;
        claim.grows()?;
        let moving = pair.migrate()?;
        let result = (|| {
            match (then, disturbance) {
                (Then::Lost, _) => lost(&mut pair, moving)?,
                (Then::Stays, "") => pair.stays(moving)?,
                (Then::Stays, _) => {
                    moving.wait_for("round 1 ", 1, SOON)?;
                    disturb(&mut pair, moving, disturbance)?;
                }
            }
            nothing_wrong(&pair)?;
            // Nobody writes any more.
            let (last, writers) = claim.check().context("the disk at the end")?;
            ensure!(last > 20, "{last} records");
            ensure!(writers <= 2, "{writers} writers");
            Ok(())
        })();
        explain(&pair, "", result)
    })
}

fn refused(context: &Context) -> Result<()> {
    // Two claims that look alike.
    let (one, two) = (Claim::new()?, Claim::new()?);
    let mut guest = guest();
    let script = writes(quick());
    let place = "/srv/claim";
    let volume = format!("data={place}");
    let options = ["--volume", &volume, "--shared", "data"];
    let prepare = |from: &Pod, to: &Pod| -> Result<()> {
        for (pod, claim) in [(from, &one), (to, &two)] {
            let at = pod.path("claim");
            std::fs::create_dir(&at)?;
            std::fs::copy(claim.disk(), at.join("disk.img"))?;
            for path in [&at, &at.join("disk.img")] {
                chown(path, Some(VMM_UID), Some(VMM_UID))?;
            }
        }
        Ok(())
    };
    let mut pair = Pair::prepared(context, (&script, &guest), (&script, &guest), &options, prepare)?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "two claims", expect_exit(code, 9, &moving))?;
    let why = "disk data: it is not known to be the same in both pods: the source's token is not beside it in this pod";
    ensure!(moving.stderr().contains(why), "{}", moving.transcript());
    pair.source.signal(nix::sys::signal::Signal::SIGTERM)?;
    let code = pair.source.wait_exit(PATIENCE)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.source)?;
    nothing_wrong(&pair)?;
    drop(pair);

    // Nobody has said that it is shared, or of a disk that cannot be.
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.script(&script)?;
    let volume = one.option();
    let mut target = run(
        &pod,
        &guest,
        &["--volume", &volume, "--incoming", "--insecure-plain-tcp"],
    )?;
    let code = target.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 3, &target)?;
    ensure!(
        target.stderr().contains("disk data: the guest writes it")
            && target.stderr().contains("--shared data"),
        "{}",
        target.transcript()
    );
    set(
        &mut guest,
        "/spec/volumes",
        json!([{"name": "data", "emptyDisk": {"capacity": "1Mi"}}]),
    );
    let mut source = run(&pod, &guest, &["--shared", "data"])?;
    let code = source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 2, &source)?;
    ensure!(
        source
            .stderr()
            .contains("--shared data: spec.volumes[0].emptyDisk is not"),
        "{}",
        source.transcript()
    );
    Ok(())
}
