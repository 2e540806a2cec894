//! A whole Debian whose only way in and out is its virtio socket: its NIC's link is down. Its systemd reports how far it has
//! booted, root has the manifest's public key without an agent, and ssh reaches it through `hawser vsock`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::debian::{self, STAGE};
use super::lifecycle::END;
use super::migration::status;
use super::vmi;
use crate::lab::debian_guest::{self, SSH_CLIENT};
use crate::lab::node::pod::{Launcher, Pod};
use crate::lab::node::{Lab, PAYLOAD};
use crate::lab::process::output;

const ASKED: Duration = Duration::from_secs(60);

pub(super) fn reached(lab: &Lab) -> Result<()> {
    let make = &debian_guest::DHCPCD;
    let pod = Pod::create(lab, "vsock", &[])?;
    let client = Client::new(&pod)?;
    let mut manifest = debian::manifest(make);
    for (pointer, value) in [
        ("/metadata/name", json!(pod.name())),
        (
            "/metadata/annotations",
            json!({"hawser.dev/ready-when": "booted"}),
        ),
        ("/spec/domain/devices/autoattachVSOCK", json!(true)),
        (
            "/spec/domain/devices/interfaces",
            json!([{"name": "default", "masquerade": {}, "state": "down"}]),
        ),
        ("/spec/terminationGracePeriodSeconds", json!(STAGE.as_secs())),
        (
            "/spec/accessCredentials",
            json!([{"sshPublicKey": {
                "source": {"secret": {"secretName": "keys"}},
                "propagationMethod": {"qemuGuestAgent": {"users": ["root"]}},
            }}]),
        ),
    ] {
        vmi::set(&mut manifest, pointer, value);
    }
    pod.set_manifest(&manifest)?;
    let mut launcher = debian::launch(&pod, make)?;
    launcher.console.wait_for("the guest is running", STAGE)?;
    expect(&launcher, &["status", "--ready"], 6, "has not reported booted")?;
    lab.step("waiting for the guest's systemd to report that it has booted");
    launcher
        .console
        .wait_for(r#"event="guest-booted""#, STAGE + STAGE)?;
    expect(&launcher, &["status", "--ready"], 0, "")?;
    let status = status(&launcher)?;
    let at = |pointer: &str| status.pointer(pointer).cloned().unwrap_or_default();
    lab.step(format!("the guest reports {}", at("/guestBoot")));
    let condition = json!({"type": "GuestBooted", "status": "True", "message": at("/guestBoot/status")});
    for (pointer, wanted) in [
        ("/guestBoot/state", json!("booted")),
        ("/conditions/1", condition),
    ] {
        let found = at(pointer);
        ensure!(found == wanted, "{pointer} is {found}, not {wanted}");
    }
    expect(&launcher, &["vsock", "22"], 0, "SSH-2.0-OpenSSH")?;
    expect(
        &launcher,
        &["vsock", "23"],
        6,
        "nothing in the guest listens at vsock port 23",
    )?;
    let answer = client.run(
        &pod,
        "id -u; ip -o link show dev eth0; cat /root/.ssh/authorized_keys",
    )?;
    lab.step(format!("over ssh: {}", answer.replace('\n', " | ")));
    ensure!(answer.starts_with("0\n"), "not root: {answer}");
    ensure!(answer.contains("the tests' key"), "another key: {answer}");
    launcher.signal("TERM")?;
    launcher
        .console
        .wait_for(r#"event="guest-shutting-down""#, STAGE)?;
    launcher.expect_exit(0, STAGE + END)
}

/// A verb in the launcher's container, its exit code, and what it prints.
fn expect(launcher: &Launcher<'_>, words: &[&str], code: i32, printed: &str) -> Result<()> {
    let mut asked = launcher.exec(&[&["hawser"], words].concat())?;
    asked.expect_exit(code, ASKED)?;
    let said = asked.console.last(100);
    ensure!(said.contains(printed), "hawser {words:?} printed: {said}");
    Ok(())
}

/// The node's SSH client, with a key whose public half is in the pod's secret.
struct Client {
    directory: PathBuf,
    key: PathBuf,
}

impl Client {
    fn new(pod: &Pod<'_>) -> Result<Self> {
        let directory = Path::new(PAYLOAD)
            .join("debian")
            .join(debian_guest::DHCPCD.name)
            .join(SSH_CLIENT);
        let secret = pod.state().join("volumes/keys.access-credential");
        fs::create_dir_all(&secret)?;
        let key = pod.state().with_file_name("ssh-key");
        let this = Self { directory, key };
        output(
            this.program("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "the tests' key", "-f"])
                .arg(&this.key),
        )?;
        let public = this.key.with_extension("pub");
        let file = secret.join("key");
        fs::copy(&public, &file).with_context(|| public.display().to_string())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        Ok(this)
    }

    /// With its own libraries, and without a word about them to what it starts.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.directory.join("ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(&self.directory)
            .arg(self.directory.join(name));
        command
    }

    /// What a command in the guest prints.
    fn run(&self, pod: &Pod<'_>, command: &str) -> Result<String> {
        let proxy = format!("ProxyCommand=podman exec -i {}-run hawser vsock 22", pod.name());
        output(
            self.program("ssh")
                .args([
                    "-F",
                    "none",
                    "-o",
                    "BatchMode=yes",
                    "-o",
                    "StrictHostKeyChecking=no",
                ])
                .args([
                    "-o",
                    "UserKnownHostsFile=/dev/null",
                    "-o",
                    "LogLevel=ERROR",
                    "-o",
                    &proxy,
                ])
                .arg("-i")
                .arg(&self.key)
                .arg(format!("root@{}", pod.name()))
                .arg(command),
        )
    }
}
