//! A guest in its pod's place on the pod network.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::lifecycle::{END, compare};
use super::masquerade::{BOOT, SERVE, reach_out};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, OTHER_PORT, PORT};
use crate::lab::node::pod::{Launcher, Pod, ROOT};
use crate::lab::node::prepare::{NODE_IPV4, NODE_IPV6};

pub(super) fn manifest(name: &str) -> serde_json::Value {
    let mut manifest = vmi::masquerade(name, &[]);
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "bridge": {}}]),
    );
    manifest
}

/// The guest has what the pod had.
pub(super) fn wait_for_the_pods_addresses(pod: &Pod<'_>, launcher: &Launcher<'_>) -> Result<()> {
    let console = &launcher.console;
    console.wait_for(
        &format!("guest: ipv4 eth0 {}/24 via {NODE_IPV4} ", pod.ipv4),
        BOOT,
    )?;
    console.wait_for(&format!("guest: ipv6 eth0 {} ", pod.ipv6), BOOT)?;
    console.wait_for("guest: ipv6-route eth0 default via fe80::", BOOT)?;
    Ok(())
}

/// The network is podman's own, by its netavark: what a CNI bridge plugin would make. No sysctl is needed here.
pub(super) fn dual_stack(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "bridged", &[])?;
    let before = pod.snapshot()?;
    pod.set_manifest(&manifest("bridged"))?;
    let mut first = pod.launch("run", ROOT)?;
    wait_for_the_pods_addresses(&pod, &first)?;
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE).context("at the pod's address")?;
        guest::greet(address, OTHER_PORT).context("every port is the guest's")?;
    }
    reach_out(&pod, pod.ipv4.into(), NODE_IPV4.parse()?)?;
    reach_out(&pod, pod.ipv6.into(), NODE_IPV6.parse()?)?;

    first.signal("KILL")?;
    ensure!(first.exit_code(END)? != 0, "a killed launcher ended with 0");
    let mut second = pod.launch("run", ROOT).context("the second start")?;
    wait_for_the_pods_addresses(&pod, &second).context("the second start")?;
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE).context("the second start")?;
    }
    second.signal("TERM")?;
    second.expect_exit(0, END)?;
    compare(&before, &pod.snapshot()?)
}

pub(super) fn multi_queue(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "bridgedq", &[])?;
    let mut manifest = manifest("bridgedq");
    vmi::set(&mut manifest, "/spec/domain/cpu", json!({"cores": 2}));
    pod.set_manifest(&manifest)?;
    let launcher = pod.launch("run", ROOT)?;
    let nic = launcher.console.wait_for("guest: nic eth0 ", BOOT)?;
    ensure!(
        nic.contains(" queues 2"),
        "two processors, but the guest says: {nic}"
    );
    wait_for_the_pods_addresses(&pod, &launcher)?;
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE)?;
    }
    Ok(())
}
