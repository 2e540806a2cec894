//! Disks: what a guest finds on each, what of its writing lasts, and what is gone.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::lifecycle::END;
use super::masquerade::{BOOT, SERVE};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{FORWARD_IPV6, Launcher, Pod, ROOT};

/// KubeVirt's user, whom the volumes are for.
const OWNER: u32 = 107;
const MIB: u64 = 1 << 20;
/// Where the guest writes, in bytes; beyond the first cluster of an overlay.
const AT: u64 = MIB + 4096;

/// Each disk's serial number is its name, by which the guest finds it.
const NAMES: [&str; 8] = ["root", "cd", "scratch", "keys", "host", "data", "copy", "seed"];

pub(super) fn every_source(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "disks", &[FORWARD_IPV6])?;
    let volumes = Volumes::make(&pod.state())?;
    pod.set_manifest(&manifest())?;

    let mut first = start(&pod)?;
    let script = NAMES.map(|name| {
        format!(
            "echo {name} $(cat {0}/ro) $(cat {0}/size) $(head -c 14 /dev/${{{name}##*/}})",
            sys(name)
        )
    });
    let seen = run(&pod, &script.join("\n"))?;
    for line in [
        "root 0 16384 container disk",
        "cd 1 16384 container disk",
        "scratch 0 131072",
        "host 0 65536",
        "data 0 16384 a claim's disk",
        "copy 0 16384 a claim's disk",
        "seed 1 ",
        "keys 1 ",
    ] {
        ensure!(
            seen.lines().any(|found| found.starts_with(line)),
            "no line {line:?} in what the guest saw: {seen}"
        );
    }
    let files = "mount -t vfat -o ro /dev/${keys##*/} /mnt && cat /mnt/user /mnt/Pass-Word.txt; umount /mnt
        mount -t iso9660 -o ro /dev/${seed##*/} /mnt && cat /mnt/meta-data /mnt/user-data";
    let files = run(&pod, files)?;
    let expected = r#"adminsesame{"instance-id":"disks.default","local-hostname":"disks"}#cloud-config"#;
    ensure!(files == expected, "the guest read {files:?}");

    let write = ["root", "scratch", "host", "data", "copy"].map(|name| format!(
        "echo written by the guest | dd of=/dev/${{{name}##*/}} bs=4096 seek={} conv=notrunc 2> /dev/null", AT / 4096
    ));
    run(&pod, &format!("{}\nsync", write.join("\n")))?;
    // Not even a launcher that is killed leaves anything to the next start.
    first.signal("KILL")?;
    ensure!(first.exit_code(END)? != 0, "a killed launcher ended with 0");

    let mut second = start(&pod).context("the second start")?;
    let script = ["root", "scratch", "host", "data", "copy"].map(|name| {
        format!(
            "echo {name} $(dd if=/dev/${{{name}##*/}} bs=4096 skip={} count=1 2> /dev/null | head -c 7)",
            AT / 4096
        )
    });
    let seen = run(&pod, &script.join("\n"))?;
    for (name, lasts) in [
        ("root", false),
        ("scratch", false),
        ("host", true),
        ("data", true),
        ("copy", false),
    ] {
        let line = seen
            .lines()
            .find(|line| line.starts_with(name))
            .context("a disk is missing")?;
        ensure!(line.contains("written") == lasts, "after a new start: {line:?}");
    }
    second.signal("TERM")?;
    second.expect_exit(0, END)?;

    volumes.are_as_expected()?;
    let temporary = pod.state().join("vmm/disks");
    ensure!(!temporary.exists(), "{} is left", temporary.display());
    Ok(())
}

fn start<'a>(pod: &'a Pod<'_>) -> Result<Launcher<'a>> {
    let launcher = pod.launch("run", ROOT)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    guest::greet_within(pod.ipv4.into(), PORT, BOOT.max(SERVE))?;
    Ok(launcher)
}

/// Runs `script` in the guest with a variable for every disk, the disk's directory in sysfs.
fn run(pod: &Pod<'_>, script: &str) -> Result<String> {
    let modules = "for module in virtio_blk nls_cp437 nls_ascii fat vfat cdrom isofs; do
            [ -d /sys/module/$module ] || insmod /modules/$module.ko
        done
        mkdir -p /mnt
        for disk in /sys/block/vd*; do eval \"$(cat $disk/serial)=$disk\"; done";
    guest::execute(pod.ipv4.into(), &format!("{modules}\n{script}"))
}

fn sys(name: &str) -> String {
    format!("${name}")
}

/// What the pod would mount, made on the node at the default places.
struct Volumes {
    image: PathBuf,
    data: PathBuf,
    host: PathBuf,
}

impl Volumes {
    fn make(state: &Path) -> Result<Self> {
        let image = state.join("images/root/disk");
        raw(&image, "root.raw", b"container disk")?;
        raw(&state.join("images/cd/disk"), "cd.iso", b"container disk")?;
        // An image is everybody's to read and nobody's to write.
        fs::set_permissions(image.join("root.raw"), fs::Permissions::from_mode(0o444))?;
        for name in ["data", "copy"] {
            let claim = state.join("volumes").join(name);
            raw(&claim, "disk.img", b"a claim's disk")?;
            chown(claim.join("disk.img"), Some(OWNER), Some(OWNER))?;
        }
        let host = state.join("volumes/host");
        fs::create_dir_all(&host)?;
        chown(&host, Some(OWNER), Some(OWNER))?;
        // As the kubelet lays a secret out.
        let keys = state.join("volumes/keys");
        fs::create_dir_all(keys.join("..first"))?;
        symlink("..first", keys.join("..data"))?;
        for (key, value) in [("user", "admin"), ("Pass-Word.txt", "sesame")] {
            fs::write(keys.join("..first").join(key), value)?;
            symlink(format!("..data/{key}"), keys.join(key))?;
        }
        Ok(Self {
            image: image.join("root.raw"),
            data: state.join("volumes/data/disk.img"),
            host: host.join("made.img"),
        })
    }

    /// The image untouched, what lasts written to.
    fn are_as_expected(&self) -> Result<()> {
        let at = |path: &Path| -> Result<Vec<u8>> {
            let mut bytes = vec![0; 20];
            fs::File::open(path)?.read_exact_at(&mut bytes, AT)?;
            Ok(bytes)
        };
        ensure!(at(&self.image)? == [0; 20], "the guest's writing is in the image");
        for path in [&self.data, &self.host] {
            ensure!(
                at(path)? == b"written by the guest",
                "the guest's writing is not in {}",
                path.display()
            );
        }
        let made = fs::metadata(&self.host)?;
        ensure!(
            made.len() == 32 * MIB,
            "the disk that was to be made has {} bytes",
            made.len()
        );
        Ok(())
    }
}

fn raw(directory: &Path, name: &str, beginning: &[u8]) -> Result<()> {
    fs::create_dir_all(directory)?;
    let file = fs::File::create(directory.join(name))?;
    file.write_all_at(beginning, 0)?;
    Ok(file.set_len(8 * MIB)?)
}

fn manifest() -> Value {
    let mut manifest = vmi::masquerade("disks", &[]);
    let target = |name: &str| match name {
        "cd" => json!({"name": name, "serial": name, "cdrom": {"bus": "sata"}}),
        "data" => json!({"name": name, "serial": name, "cache": "none", "disk": {"bus": "virtio"}}),
        _ => json!({"name": name, "serial": name, "disk": {"bus": "virtio"}}),
    };
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/disks",
        json!(NAMES.map(target)),
    );
    vmi::set(
        &mut manifest,
        "/spec/volumes",
        json!([
            {"name": "root", "containerDisk": {"image": "example/root"}},
            {"name": "cd", "containerDisk": {"image": "example/cd", "path": "/disk/cd.iso"}},
            {"name": "scratch", "emptyDisk": {"capacity": "64Mi"}},
            {"name": "keys", "secret": {"secretName": "keys"}},
            {"name": "host", "hostDisk": {"path": "/data/made.img", "type": "DiskOrCreate", "capacity": "32Mi"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "copy", "ephemeral": {"persistentVolumeClaim": {"claimName": "data"}}},
            {"name": "seed", "cloudInitNoCloud": {"userData": "#cloud-config"}},
        ]),
    );
    manifest
}
