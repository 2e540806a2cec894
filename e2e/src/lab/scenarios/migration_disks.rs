//! A guest that moves while it writes: its disk is a claim that both pods have, on NFS from the node's own kernel or a block
//! device, or one of the pod's own whose content goes along. The guest numbers its records and reads each back before it writes the next.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::lifecycle::END;
use super::masquerade::wait_for_both_families;
use super::migration::{TLS, TRANSFER, at_home_in, manifest, migrate, two_pods, url, vmms, wait_with};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest;
use crate::lab::node::pod::{Extra, Pod, ROOT};
use crate::lab::process::output;

const OWNER: u32 = 107;
const SIZE: u64 = 16 << 20;
/// Bytes of a record, and records on the disk: one after another, and then from the beginning again.
const RECORD: u64 = 4096;
const RECORDS: u64 = 64;
/// Where the records begin, in records.
const FIRST: u64 = 256;

/// Writes until /tmp/stop is there; what is not as it should be goes to /tmp/wrong. Past the guest's own page cache.
const WRITER: &str = r#"
    [ -d /sys/module/virtio_blk ] || insmod /modules/virtio_blk.ko
    for disk in /sys/block/vd*; do [ "$(cat $disk/serial)" = data ] && dev=/dev/${disk##*/}; done
    cat > /tmp/writer <<'END'
        n=0
        while [ ! -e /tmp/stop ]; do
            if [ $n -gt 0 ]; then
                was=$(dd if=$1 bs=4096 skip=$((256 + n % 64)) count=1 iflag=direct 2> /dev/null | head -n 1)
                [ "$was" = "record $n" ] || echo "expected record $n, found $was" >> /tmp/wrong
            fi
            n=$((n + 1))
            (echo "record $n"; head -c 4096 /dev/zero) | head -c 4096 > /tmp/record
            dd if=/tmp/record of=$1 bs=4096 seek=$((256 + n % 64)) count=1 oflag=direct conv=notrunc 2> /dev/null || echo "write $n" >> /tmp/wrong
            echo $n > /tmp/number
        done
        touch /tmp/stopped
END
    setsid sh /tmp/writer $dev > /dev/null 2>&1 < /dev/null &
"#;

/// From a server of this node's kernel. Each pod has a mount of its own, as two nodes would: neither sees the other's page cache.
pub(super) fn on_nfs(lab: &Lab) -> Result<()> {
    let served = Path::new("/var/lib/lab/nfs");
    let server = Server::start(served)?;
    let disk = served.join("disk.img");
    make(&disk)?;
    let (from, to) = two_pods(lab, "nfs")?;
    let mut mounts = Vec::new();
    for pod in [&from, &to] {
        mounts.push(server.mount(&pod.state().join("volumes/data"))?);
    }
    let moved = moves(lab, &from, &to, &claim(), &shared(None))?;
    drop(mounts);
    drop(server);
    is_as_written(&File::open(disk)?, moved)
}

/// A loop device of the node, which both pods have.
pub(super) fn on_a_block_device(lab: &Lab) -> Result<()> {
    let disk = Path::new("/var/lib/lab/block.img");
    make(disk)?;
    let device = Loop::attach(disk)?;
    chown(&device.0, Some(OWNER), Some(OWNER))?;
    let (from, to) = two_pods(lab, "block")?;
    let moved = moves(lab, &from, &to, &claim(), &shared(Some(&device.0)))?;
    drop(device);
    is_as_written(&File::open(disk)?, moved)
}

/// Each pod has a disk of its own, which is deleted with the guest.
pub(super) fn on_an_empty_disk(lab: &Lab) -> Result<()> {
    let (from, to) = two_pods(lab, "empty")?;
    let volume = json!({"name": "data", "emptyDisk": {"capacity": SIZE.to_string()}});
    own_disk(lab, &from, &to, &volume)
}

/// What most of KubeVirt's manifests have: a container disk that the guest writes, and cloud-init.
pub(super) fn on_a_container_disk(lab: &Lab) -> Result<()> {
    let (from, to) = two_pods(lab, "image")?;
    for pod in [&from, &to] {
        let image = pod.state().join("images/data/disk");
        fs::create_dir_all(&image)?;
        let file = File::create(image.join("disk.raw"))?;
        file.set_len(SIZE)?;
        file.write_all_at(b"of the image", SIZE - 512)?;
    }
    let volume = json!({"name": "data", "containerDisk": {"image": "example/data"}});
    own_disk(lab, &from, &to, &volume)
}

fn own_disk(lab: &Lab, from: &Pod<'_>, to: &Pod<'_>, volume: &Value) -> Result<()> {
    let own = |pod: &Pod<'_>| File::open(pod.state().join("vmm/disks/data.img"));
    // It is there once the target waits, and readable when it is deleted.
    let mut disk = None;
    let moved = moves_with(lab, from, to, volume, &Extra::default, &mut || {
        disk = Some(own(to)?);
        Ok(())
    })?;
    let disk = disk.context("the target has no disk")?;
    if volume.get("containerDisk").is_some() {
        let mut content = [0; 12];
        disk.read_exact_at(&mut content, SIZE - 512)?;
        ensure!(&content == b"of the image", "the image's content: {content:?}");
    }
    is_as_written(&disk, moved)
}

fn claim() -> Value {
    json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}})
}

/// What both launchers and containers have for a claim of both.
fn shared(device: Option<&Path>) -> impl Fn() -> Extra {
    move || {
        let mut extra = Extra {
            hawser: vec!["--shared".to_owned(), "data".to_owned()],
            ..Extra::default()
        };
        if let Some(device) = device {
            let at = "/dev/hawser-volumes/data";
            extra.podman.push(format!("--device={}:{at}", device.display()));
        }
        extra
    }
}

fn make(disk: &Path) -> Result<()> {
    File::create(disk)?.set_len(SIZE)?;
    for path in [Some(disk), disk.parent().filter(|parent| parent.ends_with("nfs"))]
        .into_iter()
        .flatten()
    {
        chown(path, Some(OWNER), Some(OWNER))?;
    }
    Ok(())
}

/// The number of the last record.
fn moves(lab: &Lab, from: &Pod<'_>, to: &Pod<'_>, volume: &Value, extra: &dyn Fn() -> Extra) -> Result<u64> {
    moves_with(lab, from, to, volume, extra, &mut || Ok(()))
}

/// `moved` is called when the guest is at the target, before it ends there.
fn moves_with(
    lab: &Lab,
    from: &Pod<'_>,
    to: &Pod<'_>,
    volume: &Value,
    extra: &dyn Fn() -> Extra,
    moved: &mut dyn FnMut() -> Result<()>,
) -> Result<u64> {
    let mut guest = manifest();
    vmi::set(
        &mut guest,
        "/spec/domain/devices/disks",
        json!([{"name": "data", "serial": "data", "disk": {"bus": "virtio"}}]),
    );
    let seed = json!({"name": "seed", "cloudInitNoCloud": {"userData": "#cloud-config"}});
    vmi::set(&mut guest, "/spec/volumes", json!([volume, seed]));
    vmi::set(&mut guest, "/spec/evictionStrategy", json!("LiveMigrate"));
    for pod in [from, to] {
        pod.set_manifest(&guest)?;
    }
    let mut source = from.launch_with("run", ROOT, &extra())?;
    wait_for_both_families(&source)?;
    guest::execute(from.ipv4.into(), WRITER)?;
    let before = grows(from, 0).context("before")?;
    let mut target = wait_with(to, ROOT, extra(), &TLS)?;
    lab.step("the guest moves and writes");
    let mut moving = source.exec(&migrate(&url(to), &TLS))?;
    moving.expect_exit(0, TRANSFER)?;
    source.expect_exit(0, END)?;
    ensure!(vmms()? == 1, "{} VMMs", vmms()?);
    at_home_in(to)?;
    grows(to, before).context("after")?;
    let stopped = guest::execute(
        to.ipv4.into(),
        "touch /tmp/stop; for i in 1 2 3 4 5 6 7 8 9 10; do [ -e /tmp/stopped ] && break; sleep 1; done
        cat /tmp/wrong 2> /dev/null; cat /tmp/number",
    )?;
    let last = stopped
        .trim()
        .parse()
        .with_context(|| format!("what the guest found: {stopped}"))?;
    moved()?;
    target.signal("TERM")?;
    target.expect_exit(0, END)?;
    Ok(last)
}

/// Waits until the guest has written more than so many records.
fn grows(pod: &Pod<'_>, before: u64) -> Result<u64> {
    // The file is empty for a moment whenever the number is written.
    let wait = format!(
        "number() {{ n=; until [ -n \"$n\" ]; do n=$(cat /tmp/number 2> /dev/null || echo 0); done; echo $n; }}
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
            [ $(number) -gt {} ] && break; sleep 1
        done; number",
        before + 10
    );
    let number = guest::execute(pod.ipv4.into(), &wait)?;
    let number: u64 = number.trim().parse().with_context(|| number.clone())?;
    ensure!(number > before + 10, "record {number} after {before}");
    Ok(number)
}

/// Each of the last records is where it belongs.
fn is_as_written(disk: &File, last: u64) -> Result<()> {
    ensure!(last > RECORDS, "{last} records are too few to tell");
    for number in last + 1 - RECORDS..=last {
        let mut record = vec![0; 32];
        disk.read_exact_at(&mut record, (FIRST + number % RECORDS) * RECORD)?;
        let expected = format!("record {number}\n");
        ensure!(
            record.starts_with(expected.as_bytes()),
            "in the place of {expected:?}: {:?}",
            String::from_utf8_lossy(&record)
        );
    }
    Ok(())
}

/// The node's kernel as an NFS server for itself; it ends when dropped.
struct Server;

impl Server {
    fn start(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let export = format!("127.0.0.1:{}", directory.display());
        output(Command::new("modprobe").args(["-a", "nfsd", "nfsv4"]))?;
        output(Command::new("mount").args(["-t", "nfsd", "nfsd", "/proc/fs/nfsd"]))?;
        let this = Self;
        // Clients wait for so long after the server has started.
        for file in ["nfsv4leasetime", "nfsv4gracetime"] {
            fs::write(Path::new("/proc/fs/nfsd").join(file), "10")?;
        }
        let options = "rw,no_root_squash,insecure,no_subtree_check,fsid=0";
        output(Command::new("exportfs").args(["-o", options, &export]))?;
        output(Command::new("rpc.mountd").args(["--no-nfs-version", "3"]))?;
        output(Command::new("rpc.nfsd").args(["--no-nfs-version", "3", "--host", "127.0.0.1", "2"]))?;
        Ok(this)
    }

    fn mount(&self, at: &Path) -> Result<Mount> {
        fs::create_dir_all(at)?;
        let options = "vers=4.2,nosharecache";
        output(
            Command::new("mount")
                .args(["-t", "nfs4", "-o", options, "127.0.0.1:/"])
                .arg(at),
        )?;
        Ok(Mount(at.to_owned()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for command in [
            &["rpc.nfsd", "0"][..],
            &["exportfs", "-ua"],
            &["pkill", "rpc.mountd"],
            &["umount", "/proc/fs/nfsd"],
        ] {
            if let [program, arguments @ ..] = command {
                let _ = output(Command::new(program).args(arguments));
            }
        }
    }
}

struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = output(Command::new("umount").arg(&self.0));
    }
}

struct Loop(PathBuf);

impl Loop {
    fn attach(file: &Path) -> Result<Self> {
        output(Command::new("modprobe").arg("loop"))?;
        let device = output(Command::new("losetup").args(["--find", "--show"]).arg(file))?;
        Ok(Self(device.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = output(Command::new("losetup").arg("--detach").arg(&self.0));
    }
}
