//! Pods of `podman kube play`, as `hawser pod --for podman` prints them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::masquerade::{BOOT, SERVE};
use super::{bridge, vmi};
use crate::lab::node::console::Console;
use crate::lab::node::{Lab, RESULTS};
use crate::lab::process::output;

use crate::lab::node::guest::{self, PORT};
use crate::lab::node::prepare::{GUEST_IMAGE, LAUNCHER, NETWORK, SANDBOX, podman};

/// The guest's kernel and initramfs as an image: podman mounts it, as a kubelet does.
const GUEST: &str = "localhost/guest";
/// podman makes the container that holds a pod's namespaces of catatonit, which the node does not have.
const SANDBOX_CONF: &str = "/var/lib/lab/sandbox.conf";
/// For the guest's console to be whole once its container has ended.
const END: Duration = Duration::from_secs(20);

/// A guest of each binding at once, on one host: they share nothing, and what is taken down leaves nothing.
pub(super) fn of_each_binding(lab: &Lab) -> Result<()> {
    import_guest()?;
    let before = left()?;
    let bindings = [
        ("masqueraded", vmi::masquerade("masqueraded", &[])),
        ("bridged", bridge::manifest("bridged")),
        ("passted", passt("passted")),
    ];
    let mut played = Vec::new();
    for (name, mut manifest) in bindings {
        vmi::set(
            &mut manifest,
            "/spec/domain/firmware/kernelBoot/container/image",
            json!(GUEST),
        );
        lab.step(format!("podman kube play: {name}"));
        played.push(Played::play(lab, name, &manifest)?);
    }
    for pod in &played {
        pod.console
            .wait_for("guest: ipv4 eth0 ", BOOT)
            .with_context(|| format!("{}: {}", pod.name, pod.console.last(8)))?;
        pod.console.wait_for("guest: ipv6 eth0 ", BOOT)?;
        for address in pod.addresses {
            guest::greet_within(address, PORT, SERVE)
                .with_context(|| format!("{} at {address}", pod.name))?;
        }
    }
    for pod in played {
        pod.end()?;
    }
    let after = left()?;
    ensure!(before == after, "left over: {before:?} before, {after:?} after");
    Ok(())
}

/// With a list: for all ports of both families passt takes more files than podman's containers may have.
fn passt(name: &str) -> Value {
    let mut manifest = vmi::masquerade(name, &[]);
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "passt": {}, "ports": [{"port": PORT, "protocol": "TCP"}]}]),
    );
    manifest
}

fn import_guest() -> Result<()> {
    fs::write(SANDBOX_CONF, format!("[engine]\ninfra_image = \"{SANDBOX}\"\n"))?;
    let archive = "/var/lib/lab/guest.tar";
    output(Command::new("tar").args(["-C", GUEST_IMAGE, "-cf", archive, "."]))?;
    output(podman().args(["import", "--quiet", archive, GUEST]))?;
    Ok(())
}

/// Containers, pods, and volumes.
fn left() -> Result<Vec<String>> {
    ["ps --all --quiet", "pod ps --quiet", "volume ls --quiet"]
        .into_iter()
        .map(|arguments| output(podman().args(arguments.split(' '))))
        .collect()
}

struct Played {
    name: String,
    objects: PathBuf,
    console: Console,
    addresses: [IpAddr; 2],
}

impl Played {
    /// What the documentation says to do, with the image's own hawser.
    fn play(lab: &Lab, name: &str, manifest: &Value) -> Result<Self> {
        let dir = Path::new("/var/lib/lab/pods");
        fs::create_dir_all(dir)?;
        let written = dir.join(format!("{name}.json"));
        fs::write(&written, serde_json::to_vec_pretty(manifest)?)?;
        let mut print = podman();
        print
            .args(["run", "--rm", "--interactive", LAUNCHER, "pod", "--for", "podman"])
            .args(["--launcher-image", LAUNCHER, "--vmi", "-"])
            .stdin(fs::File::open(&written)?);
        let printed = print.output().context("cannot start podman")?;
        ensure!(
            printed.status.success(),
            "hawser pod: {}",
            String::from_utf8_lossy(&printed.stderr)
        );
        let objects = dir.join(format!("{name}.yaml"));
        fs::write(&objects, &printed.stdout)?;
        let mut play = podman();
        play.args(["kube", "play", "--network", NETWORK]).arg(&objects);
        output(play.env("CONTAINERS_CONF_OVERRIDE", SANDBOX_CONF))
            .with_context(|| format!("podman does not take {}", objects.display()))?;
        // From here on dropping it takes it down.
        let mut played = Self {
            name: name.to_owned(),
            objects,
            console: Console::default(),
            addresses: [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        let mut follow = podman()
            .args(["logs", "--follow", &played.container()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot follow the container's log")?;
        let log = Path::new(RESULTS).join(format!("podman-{name}.log"));
        if let Some(stdout) = follow.stdout.take() {
            played.console.follow(stdout, &log, lab.narrator())?;
        }
        if let Some(stderr) = follow.stderr.take() {
            played.console.follow(stderr, &log, lab.narrator())?;
        }
        // Ends with the container.
        std::thread::spawn(move || follow.wait());
        let infra = output(podman().args(["pod", "inspect", "--format", "{{.InfraContainerID}}", name]))?;
        let format = format!(
            "{{{{with index .NetworkSettings.Networks \"{NETWORK}\"}}}}{{{{.IPAddress}}}} {{{{.GlobalIPv6Address}}}}{{{{end}}}}"
        );
        let addresses = output(podman().args(["inspect", "--format", &format, infra.trim()]))?;
        let mut words = addresses.split_whitespace();
        let ipv4 = words.next().context("the pod has no IPv4 address")?;
        let ipv6 = words.next().context("the pod has no IPv6 address")?;
        played.addresses = [ipv4.parse()?, ipv6.parse()?];
        Ok(played)
    }

    fn container(&self) -> String {
        format!("{}-guest", self.name)
    }

    /// The guest is powered off within the pod's grace period, and hawser ends with 0.
    fn end(self) -> Result<()> {
        output(podman().args(["pod", "stop", &self.name]))?;
        let code = output(podman().args(["inspect", "--format", "{{.State.ExitCode}}", &self.container()]))?;
        ensure!(
            code.trim() == "0",
            "{}: exit code {}: {}",
            self.name,
            code.trim(),
            self.console.last(12)
        );
        self.console.wait_for_end(END)
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        let mut down = podman();
        down.args(["kube", "down", "--force"]).arg(&self.objects);
        if let Err(error) = output(&mut down) {
            eprintln!("node: cannot take down {}: {error:#}", self.name);
        }
    }
}
