//! Every kind of disk, written by several queues at a time and discarded from: what was written is there.

use std::fs;
use std::os::unix::fs::{FileExt, chown};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::lifecycle::END;
use super::masquerade::{BOOT, SERVE};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{Pod, ROOT};

/// KubeVirt's user, whom the volumes are for.
const OWNER: u32 = 107;
const MIB: u64 = 1 << 20;
/// Of each disk.
const SIZE: u64 = 24 * MIB;
/// The image's first word, which the guest leaves alone: it is in the first MiB.
const BEGINNING: &[u8] = b"a disk's beginning";
/// What the guest works on, disk for disk with four writers beside each other.
const LOAD: Duration = Duration::from_secs(240);

/// Each disk's serial number is its name. The first two are overlays.
const NAMES: [&str; 4] = ["root", "copy", "scratch", "data"];

/// Two passes of 1 MiB blocks, the second over half of the first; four writers a disk, each with a flush after each block. Then
/// discards, where the disk offers them, from the block that is not looked at afterwards.
const SCRIPT: &str = r#"
    write() {
        n=$3
        while [ $n -lt 23 ]; do
            dd if=/tmp/$2 of=/dev/$1 bs=4096 count=256 seek=$((n * 256)) conv=notrunc,fsync 2> /dev/null || echo "write $1 $n"
            n=$((n + $4))
        done
    }
    for pattern in one two; do head -c 1048576 /dev/urandom > /tmp/$pattern; done
    for disk in $disks; do
        for first in 1 2 3 4; do write $disk one $first 4 & done
    done
    wait
    for disk in $disks; do
        for first in 2 4; do write $disk two $first 4 & done
        if [ $(cat /sys/block/$disk/queue/discard_max_bytes) -gt 0 ]; then
            blkdiscard -o $((23 * 1048576)) -l 1048576 /dev/$disk && echo "discards $disk"
        fi
    done
    wait
    sync
    echo 3 > /proc/sys/vm/drop_caches
    for disk in $disks; do
        n=1
        while [ $n -lt 23 ]; do
            pattern=one
            [ $((n % 2)) = 0 ] && pattern=two
            dd if=/dev/$disk bs=4096 count=256 skip=$((n * 256)) 2> /dev/null | cmp -s - /tmp/$pattern || echo "differs $disk $n"
            n=$((n + 1))
        done
        echo "queues $disk $(ls /sys/block/$disk/mq | wc -l)"
    done
"#;

pub(super) fn written_and_discarded_under_load(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "load", &[])?;
    let state = pod.state();
    let image = state.join("images/root/disk");
    disk(&image, "root.raw")?;
    for name in ["data", "copy"] {
        let claim = state.join("volumes").join(name);
        disk(&claim, "disk.img")?;
        chown(claim.join("disk.img"), Some(OWNER), Some(OWNER))?;
    }
    pod.set_manifest(&manifest())?;
    let mut launcher = pod.launch("run", ROOT)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;

    let report = load(&pod)?;
    let problems: Vec<_> = report
        .lines()
        .filter(|line| !line.starts_with("discards ") && !line.starts_with("queues "))
        .collect();
    ensure!(problems.is_empty(), "the guest found {problems:?}");
    for name in NAMES {
        let overlaid = ["root", "copy"].contains(&name);
        let queues = if overlaid { 1 } else { 2 };
        ensure!(report.contains(&format!("queues {name} {queues}\n")), "{report}");
        ensure!(
            report.contains(&format!("discards {name}\n")) != overlaid,
            "discards of {name}: {report}"
        );
    }
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)?;

    untouched(&image.join("root.raw"))?;
    untouched(&state.join("volumes/copy/disk.img"))?;
    let data = fs::File::open(state.join("volumes/data/disk.img"))?;
    let (odd, even) = (block(&data, 1)?, block(&data, 2)?);
    ensure!(odd != even && odd != vec![0; odd.len()], "nothing was written");
    for number in 1..23 {
        let expected = if number % 2 == 0 { &even } else { &odd };
        ensure!(block(&data, number)? == *expected, "block {number} of the claim");
    }
    ensure!(
        block(&data, 23)?.iter().all(|byte| *byte == 0),
        "the claim's last block was discarded"
    );
    Ok(())
}

/// Runs the script, whose end takes longer than a request may.
fn load(pod: &Pod<'_>) -> Result<String> {
    let begin = format!(
        "[ -d /sys/module/virtio_blk ] || insmod /modules/virtio_blk.ko
        names=
        for disk in /sys/block/vd*; do
            case $(cat $disk/serial) in {}) names=\"$names ${{disk##*/}}\";; esac
        done
        cat > /tmp/load <<'END'\n{SCRIPT}\nEND
        disks=\"$names\" setsid sh -c 'sh /tmp/load > /tmp/report 2>&1; touch /tmp/done' > /dev/null 2>&1 < /dev/null &",
        NAMES.join("|")
    );
    guest::execute(pod.ipv4.into(), &begin)?;
    // By serial number, as the host knows them.
    let look = "[ -e /tmp/done ] && echo done && cat /tmp/report &&
        for disk in /sys/block/vd*; do echo \"is ${disk##*/} $(cat $disk/serial)\"; done; true";
    let deadline = Instant::now() + LOAD;
    loop {
        let seen = guest::execute(pod.ipv4.into(), look).context("the guest under load")?;
        if let Some(report) = seen.strip_prefix("done\n") {
            return Ok(by_serial(report));
        }
        if Instant::now() > deadline {
            bail!("the guest still writes after {LOAD:?}");
        }
        sleep(Duration::from_secs(1));
    }
}

/// The report with the disks' serial numbers in the place of their device names.
fn by_serial(report: &str) -> String {
    let serials: Vec<(&str, &str)> = report
        .lines()
        .filter_map(|line| line.strip_prefix("is ")?.split_once(' '))
        .collect();
    let mut text = String::new();
    for line in report.lines().filter(|line| !line.starts_with("is ")) {
        let words: Vec<_> = line
            .split(' ')
            .map(|word| {
                serials
                    .iter()
                    .find(|(device, _)| *device == word)
                    .map_or(word, |(_, serial)| serial)
            })
            .collect();
        text.push_str(&words.join(" "));
        text.push('\n');
    }
    text
}

fn disk(directory: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(directory)?;
    let file = fs::File::create(directory.join(name))?;
    file.write_all_at(BEGINNING, 0)?;
    Ok(file.set_len(SIZE)?)
}

/// An overlay's base is read and never written.
fn untouched(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let rest = bytes.strip_prefix(BEGINNING).context("the beginning is gone")?;
    ensure!(
        rest.iter().all(|byte| *byte == 0),
        "{} was written to",
        path.display()
    );
    Ok(())
}

fn block(file: &fs::File, number: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(MIB)?];
    file.read_exact_at(&mut bytes, number * MIB)?;
    Ok(bytes)
}

fn manifest() -> Value {
    let mut manifest = vmi::masquerade("load", &[]);
    vmi::set(&mut manifest, "/spec/domain/cpu", json!({"cores": 2}));
    vmi::set(&mut manifest, "/spec/domain/devices/blockMultiQueue", json!(true));
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/disks",
        json!(NAMES.map(|name| json!({"name": name, "serial": name, "disk": {"bus": "virtio"}}))),
    );
    vmi::set(
        &mut manifest,
        "/spec/volumes",
        json!([
            {"name": "root", "containerDisk": {"image": "example/root"}},
            {"name": "copy", "ephemeral": {"persistentVolumeClaim": {"claimName": "data"}}},
            {"name": "scratch", "emptyDisk": {"capacity": "24Mi"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
        ]),
    );
    manifest
}
