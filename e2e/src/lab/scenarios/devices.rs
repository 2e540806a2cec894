//! What a guest has besides NICs and disks, all in one: two functions of the node's card as devices of no network, two
//! directories of the pod's by virtiofs, and a virtio socket.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::lifecycle::{END, compare};
use super::masquerade::{BOOT, SERVE};
use super::sriov::MEMLOCK;
use super::sriov_card::{Card, Function, PF_ADDRESSES, extra};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pace;
use crate::lab::node::pod::{FORWARD_IPV6, Launcher, Pod, ROOT};
use crate::lab::node::prepare::SIDECARS;

const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
/// The guest's and the host's vsock ports.
const SERVED: u32 = 1024;
const ASKED: u32 = 1025;
const CID: u32 = 77;
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn all(lab: &Lab) -> Result<()> {
    let card = Card::with_functions()?;
    let [one, two] = card.functions.as_slice() else {
        bail!("two functions were wanted");
    };
    let pod = Pod::create(lab, "devices", &[FORWARD_IPV6])?;
    let before = pod.snapshot()?;
    pod.set_manifest(&manifest(one, two))?;
    volumes(&pod.state())?;

    // The device plugin's order is not that of the addresses.
    let mut extra = extra(&[two, one], MEMLOCK);
    extra.podman.retain(|option| !option.starts_with("--env"));
    let addresses = format!("{},{}", two.address, one.address);
    extra
        .podman
        .push(format!("--env=PCI_RESOURCE_EXAMPLE_COM_CARD={addresses}"));
    let mut check = pod.launch_with("check", ROOT, &extra)?;
    check.expect_exit(0, END)?;
    for line in [
        &format!("ok    GPU first: the function {}", two.address),
        &format!("ok    host device second: the function {}", one.address),
        "ok    virtiofsd: /usr/bin/virtiofsd",
    ] {
        check.console.wait_for(line, END)?;
    }

    let mut launcher = pod.launch_with("run", ROOT, &extra)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;
    functions(&pod, &launcher, &[two, one])?;
    file_systems(&pod)?;
    virtio_socket(&pod, &launcher)?;
    virtiofsd_killed(&pod, &launcher)?;
    launcher.signal("TERM")?;
    // A guest that waits for the dead one does not come to its end, and is killed.
    let code = launcher.exit_code(END)?;
    ensure!([0, 7].contains(&code), "the launcher ended with {code}");
    compare(&before, &pod.snapshot()?)
}

fn manifest(one: &Function, two: &Function) -> Value {
    let mut manifest = vmi::masquerade("devices", &[]);
    let devices = "/spec/domain/devices";
    let source = |name: &str| json!([{"name": name, "deviceName": "example.com/card"}]);
    let arguments = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off guest.ip.{}=10.91.0.2/24 guest.ip.{}=10.92.0.2/24",
        two.mac, one.mac
    );
    for (pointer, value) in [
        (&*format!("{devices}/gpus"), source("first")),
        (&*format!("{devices}/hostDevices"), source("second")),
        (
            &*format!("{devices}/filesystems"),
            json!([{"name": "data", "virtiofs": {}}, {"name": "settings", "virtiofs": {}}]),
        ),
        (&*format!("{devices}/autoattachVSOCK"), json!(true)),
        ("/status", json!({"VSOCKCID": CID})),
        (
            "/spec/volumes",
            json!([
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "settings", "configMap": {"name": "settings"}},
            ]),
        ),
        ("/spec/domain/firmware/kernelBoot/kernelArgs", json!(arguments)),
    ] {
        vmi::set(&mut manifest, pointer, value);
    }
    manifest
}

/// The claim is the guest's user's. In it is the program for the guest's end of the socket, with what it loads.
fn volumes(state: &Path) -> Result<()> {
    const USER: u32 = 107;
    let data = state.join("volumes/data");
    fs::create_dir_all(&data)?;
    for (from, name) in [
        (format!("{SIDECARS}/vsock"), "vsock"),
        ("/usr/lib64/ld-linux-x86-64.so.2".to_owned(), "ld.so"),
        (format!("{LIBRARIES}/libc.so.6"), "libc.so.6"),
        (format!("{LIBRARIES}/libgcc_s.so.1"), "libgcc_s.so.1"),
    ] {
        let file = data.join(name);
        fs::copy(&from, &file).with_context(|| from.clone())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        chown(&file, Some(USER), Some(USER))?;
    }
    chown(&data, Some(USER), Some(USER))?;
    let settings = state.join("volumes/settings");
    fs::create_dir_all(&settings)?;
    fs::write(settings.join("colour"), "green")?;
    // Beside the volumes, and so out of the guest's reach.
    fs::write(state.join("volumes/secret"), "not for the guest")?;
    Ok(())
}

/// Each is a NIC for the guest's driver, and reaches the card.
fn functions(pod: &Pod<'_>, launcher: &Launcher<'_>, functions: &[&Function]) -> Result<()> {
    for (function, pf) in functions.iter().zip(PF_ADDRESSES) {
        let line = launcher
            .console
            .wait_for(&format!(" mac {} ", function.mac), BOOT)?;
        let nic = line.split_whitespace().nth(2).context("no name")?.to_owned();
        guest::execute(pod.ipv4.into(), &format!("ping -c 2 -w 20 -I {nic} {pf}"))?;
    }
    Ok(())
}

fn file_systems(pod: &Pod<'_>) -> Result<()> {
    let run = |script: &str| guest::execute(pod.ipv4.into(), script);
    run("mkdir -p /data /settings && mount -t virtiofs data /data && mount -t virtiofs settings /settings")?;
    let colour = run("cat /settings/colour")?;
    ensure!(colour == "green", "the guest read {colour:?}");
    let tried = run("(echo red > /settings/colour) 2>&1; true")?;
    ensure!(
        tried.contains("Read-only file system"),
        "the guest wrote to a configMap: {tried:?}"
    );
    let kept = fs::read_to_string(pod.state().join("volumes/settings/colour"))?;
    ensure!(kept == "green", "the node read {kept:?}");
    run("echo from the guest > /data/note && mkdir /data/new && mv /data/note /data/new/note && sync")?;
    let note = pod.state().join("volumes/data/new/note");
    let written = fs::read_to_string(&note)?;
    ensure!(written == "from the guest\n", "the node read {written:?}");
    fs::write(pod.state().join("volumes/data/answer"), "from the node")?;
    let answer = run("cat /data/answer")?;
    ensure!(answer == "from the node", "the guest read {answer:?}");
    // A link is the guest's own to follow.
    let link = run("ln -s ../secret /data/link; cat /data/link 2>&1; true")?;
    ensure!(!link.contains("not for the guest"), "the guest read {link:?}");
    Ok(())
}

fn virtio_socket(pod: &Pod<'_>, launcher: &Launcher<'_>) -> Result<()> {
    let run = |script: &str| guest::execute(pod.ipv4.into(), script);
    run("for module in vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport; do insmod /modules/$module.ko || exit 1; done
        mknod /dev/vsock c 10 $(sed -n 's/ vsock$//p' /proc/misc) 2> /dev/null; true")?;
    let program = "/data/ld.so --library-path /data /data/vsock";
    // It is told when it serves, by what it says.
    run(&format!(
        "mkfifo /tmp/said && ({program} serve {SERVED} > /tmp/said 2>&1 &) && head -n 1 /tmp/said"
    ))?;
    let socket = pod.state().join("vmm/vsock/guest.sock");
    let mut stream = UnixStream::connect(&socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(pace::allowed(PATIENCE)))?;
    stream.write_all(format!("CONNECT {SERVED}\n").as_bytes())?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut answer = String::new();
    reader.read_line(&mut answer)?;
    ensure!(answer.starts_with("OK "), "the VMM answered {answer:?}");
    stream.write_all(b"over vsock")?;
    let mut echo = [0; 10];
    reader.read_exact(&mut echo)?;
    ensure!(&echo == b"over vsock", "the guest echoed {echo:?}");
    drop((stream, reader));
    let mut asked = launcher.exec_typing(&["hawser", "vsock", &SERVED.to_string()], "by hawser vsock\n")?;
    asked.expect_exit(0, END)?;
    let said = asked.console.last(5);
    ensure!(said.contains("by hawser vsock"), "hawser vsock printed {said:?}");
    let mut asked = launcher.exec(&["hawser", "vsock", &ASKED.to_string()])?;
    asked.expect_exit(6, END)?;

    // The other way: a socket of this name is the host's port.
    let path = pod.state().join(format!("vmm/vsock/guest.sock_{ASKED}"));
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    let host = thread::spawn(move || -> Result<()> {
        let (mut peer, _) = listener.accept()?;
        peer.set_read_timeout(Some(pace::allowed(PATIENCE)))?;
        let mut asked = String::new();
        peer.read_to_string(&mut asked)?;
        peer.write_all(format!("{asked}? yes").as_bytes())?;
        Ok(peer.shutdown(Shutdown::Both)?)
    });
    let answer = run(&format!("{program} ask {ASKED} anybody"))?;
    ensure!(answer.trim() == "anybody? yes", "the guest heard {answer:?}");
    host.join()
        .map_err(|_| anyhow::anyhow!("the host's end panicked"))??;
    Ok(())
}

/// The guest mounts again, over a fresh one.
fn virtiofsd_killed(pod: &Pod<'_>, launcher: &Launcher<'_>) -> Result<()> {
    let run = |script: &str| guest::execute(pod.ipv4.into(), script);
    // One of two: the other file system's goes on.
    run("umount /settings")?;
    for pid in pids_of("virtiofsd", "volumes/settings")? {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    }
    launcher
        .console
        .wait_for(r#"event="virtiofsd-exited" filesystem=settings"#, END)?;
    let answer = run("cat /data/answer")?;
    ensure!(
        answer == "from the node",
        "after the other's end the guest read {answer:?}"
    );
    Ok(())
}

/// Processes of that name with that in their arguments.
fn pids_of(name: &str, argument: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let path = entry.path();
        let is = fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
            && fs::read_to_string(path.join("cmdline")).is_ok_and(|line| line.contains(argument));
        if is && let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) {
            found.push(pid);
        }
    }
    ensure!(!found.is_empty(), "no {name} with {argument}");
    Ok(found)
}
