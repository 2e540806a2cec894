//! Disks as files: whose they are, when they are there, and when they are not. Whether a guest can read them is the lab's
//! matter.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::running::{Running, exit_code, expect_exit};
use crate::guests::Guest;
use crate::pods::{Pod, PodSpec, set, vmi};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a disk that the guest's user may not use: exit code 4, nothing touched",
        run: not_theirs,
    },
    Scenario {
        name: "temporary disks are the guest's user's, and gone at the end",
        run: temporary,
    },
    Scenario {
        name: "a start after a kill begins with fresh disks",
        run: killed,
    },
    Scenario {
        name: "no firmware: exit code 4 with a remedy",
        run: no_firmware,
    },
];

const VMM_UID: u32 = 107;

fn manifest() -> Value {
    let mut vmi = vmi(Value::Null);
    set(
        &mut vmi,
        "/spec/volumes",
        json!([
            {"name": "scratch", "emptyDisk": {"capacity": "1Mi"}},
            {"name": "seed", "cloudInitNoCloud": {"userData": "#cloud-config"}},
        ]),
    );
    vmi
}

fn not_theirs(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let before = pod.netns.snapshot()?;
    let claim = pod.path("state/volumes/data");
    fs::create_dir_all(&claim)?;
    let disk = claim.join("disk.img");
    File::create(&disk)?.set_len(1 << 20)?;
    // hawser itself is root here, and could.
    fs::set_permissions(&disk, Permissions::from_mode(0o600))?;
    let mut vmi = vmi(Value::Null);
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": "c"}});
    set(&mut vmi, "/spec/volumes", json!([volume]));
    let mut hawser = pod.hawser("run", &vmi)?;
    expect_exit(exit_code(&mut hawser)?, 4, &hawser)?;
    let said = hawser.stderr();
    for part in [
        "spec.volumes[0].persistentVolumeClaim: ",
        "disk.img is there and cannot be opened to be written: it belongs to 0:0 with mode 0600",
        "remedy: ",
    ] {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "{changes:#?}");
    // The same disk once it is theirs.
    chown(&disk, Some(VMM_UID), Some(VMM_UID))?;
    let mut guest = Guest::new(&pod)?;
    let mut hawser = pod.hawser("run", &vmi)?;
    guest.booted_by(&hawser)?;
    hawser.signal(Signal::SIGTERM)?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
    ensure!(disk.exists(), "a claim's disk is gone");
    Ok(())
}

fn temporary(context: &Context) -> Result<()> {
    let mut running = Running::start(context, PodSpec::default(), &manifest())?;
    let dir = running.pod.path("state/vmm/disks");
    for (name, size) in [("scratch.img", Some(1 << 20)), ("seed.img", None)] {
        let meta = fs::metadata(dir.join(name))?;
        ensure!(
            (meta.uid(), meta.mode() & 0o777) == (VMM_UID, 0o600)
                && size.is_none_or(|size| meta.len() == size),
            "{name}: {meta:?}"
        );
    }
    ensure!(
        fs::metadata(&dir)?.mode() & 0o777 == 0o700,
        "others can look into {}",
        dir.display()
    );
    running.stop_cleanly()?;
    ensure!(!dir.exists(), "{} is left", dir.display());
    Ok(())
}

fn killed(context: &Context) -> Result<()> {
    let running = Running::start(context, PodSpec::default(), &manifest())?;
    let scratch = running.pod.path("state/vmm/disks/scratch.img");
    fs::write(&scratch, "written by the guest")?;
    running.hawser.signal(Signal::SIGKILL)?;
    let Running {
        hawser,
        mut guest,
        pod,
    } = running;
    drop(hawser);
    pod.netns.kill_all()?;
    let mut hawser = pod.hawser("run", &manifest())?;
    guest.booted_by(&hawser)?;
    ensure!(
        fs::read(&scratch)? == vec![0; 1 << 20],
        "the second start has the first one's disk"
    );
    hawser.signal(Signal::SIGTERM)?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)
}

fn no_firmware(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let mut vmi = manifest();
    set(&mut vmi, "/spec/domain/firmware", json!({}));
    let mut hawser = pod.hawser_as(&pod.entry(), "run", &vmi, &["--firmware", "/nowhere"])?;
    expect_exit(exit_code(&mut hawser)?, 4, &hawser)?;
    let said = hawser.stderr();
    for part in [
        "UEFI firmware /nowhere: No such file",
        "--firmware",
        "no bootloader is named",
    ] {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    Ok(())
}
