//! Binding plugins with a sidecar: a container of the pod that gives the guest a NIC with a backend of its own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::lifecycle::{END, compare};
use super::masquerade::{BOOT, SERVE, reach_out};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{Launcher, Pod, UNPRIVILEGED};
use crate::lab::node::prepare::{NODE_IPV4, NODE_IPV6};
use crate::lab::node::sidecar::{Program, Sidecar, with_plugin};

const PLUGIN: &str = "userspace";

fn manifest(name: &str) -> Value {
    let mut manifest = vmi::masquerade(name, &[]);
    vmi::set(
        &mut manifest,
        "/spec/domain/devices",
        json!({"interfaces": [{
            "name": "default",
            "binding": {"name": PLUGIN},
            "macAddress": "02:00:00:00:00:07",
            "ports": [{"port": PORT}],
        }]}),
    );
    manifest
}

/// passt gives the guest the pod's own addresses.
fn wait_for_the_pods_addresses(pod: &Pod<'_>, launcher: &Launcher<'_>) -> Result<()> {
    let console = &launcher.console;
    console.wait_for("mac 02:00:00:00:00:07", BOOT)?;
    console.wait_for(&format!("guest: ipv4 eth0 {}/24", pod.ipv4), BOOT)?;
    console.wait_for(&format!("guest: ipv6 eth0 {}", pod.ipv6), BOOT)?;
    Ok(())
}

/// The sidecar comes up after the launcher, which has no privilege and wires nothing.
pub(super) fn vhost_user(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "sidecar", &[])?;
    let before = pod.snapshot()?;
    pod.set_manifest(&manifest("sidecar"))?;
    let mut launcher = pod.launch_with("run", UNPRIVILEGED, &with_plugin(&pod, PLUGIN)?)?;
    launcher
        .console
        .wait_for(r#"event="waiting-for-sidecar" plugin=userspace"#, BOOT)?;
    let mut sidecar = Sidecar::start(&pod, PLUGIN, Program::Passt)?;
    wait_for_the_pods_addresses(&pod, &launcher)?;
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE).context("from outside, through the sidecar's backend")?;
    }
    reach_out(&pod, pod.ipv4.into(), NODE_IPV4.parse()?)?;
    reach_out(&pod, pod.ipv6.into(), NODE_IPV6.parse()?)?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)?;
    sidecar.expect_end(Duration::from_secs(10))?;
    compare(&before, &pod.snapshot()?)
}

pub(super) fn killed(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "sidekill", &[])?;
    let before = pod.snapshot()?;
    pod.set_manifest(&manifest("sidekill"))?;
    let sidecar = Sidecar::start(&pod, PLUGIN, Program::Passt)?;
    let mut launcher = pod.launch_with("run", UNPRIVILEGED, &with_plugin(&pod, PLUGIN)?)?;
    wait_for_the_pods_addresses(&pod, &launcher)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    sidecar.kill()?;
    launcher
        .console
        .wait_for(r#"event="sidecar-exited" plugin=userspace"#, END)?;
    // Without a network it goes on, and hears the power button.
    launcher.signal("TERM")?;
    launcher.console.wait_for("guest: power button", END)?;
    launcher.expect_exit(0, END)?;
    compare(&before, &pod.snapshot()?)
}

pub(super) fn lies(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "sidelie", &[])?;
    let before = pod.snapshot()?;
    pod.set_manifest(&manifest("sidelie"))?;
    let sidecar = Sidecar::start(&pod, PLUGIN, Program::Standin("lie"))?;
    let mut launcher = pod.launch_with("run", UNPRIVILEGED, &with_plugin(&pod, PLUGIN)?)?;
    launcher.expect_exit(4, BOOT)?;
    for line in [
        "the sidecar of binding plugin userspace: OnDefineVm of interface default: its answer is refused",
        "memory.size: the sidecar changed it from ",
        "payload.cmdline: the sidecar changed it from ",
        "net[1]: the sidecar added an object",
    ] {
        launcher.console.wait_for(line, END)?;
    }
    let said = launcher.console.last(100);
    ensure!(!said.contains("guest: "), "a guest ran: {said}");
    drop(sidecar);
    compare(&before, &pod.snapshot()?)
}
