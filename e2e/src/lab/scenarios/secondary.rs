//! A guest with two NICs: masquerade on the pod network, and bridge on a secondary network that a chain of CNI plugins
//! made, as Multus would have it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::lifecycle::{END, compare};
use super::masquerade::{BOOT, SERVE, reach_out, wait_for_both_families};
use super::vmi;
use crate::cni::Network;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT, WhoAmI};
use crate::lab::node::pace;
use crate::lab::node::pod::{FORWARD_IPV6, Pod, ROOT};
use crate::lab::node::prepare::{NODE_IPV4, NODE_IPV6};

/// `pod` and the first 11 hex digits of the SHA-256 of "red".
const INTERFACE: &str = "podb1f51a511f1";
const MTU: u32 = 1400;

pub(super) fn masquerade_and_bridge(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "twonics", &[FORWARD_IPV6])?;
    let ipam = json!({
        "type": "host-local",
        "ranges": [
            [{"subnet": "10.94.0.0/24", "rangeStart": "10.94.0.5", "rangeEnd": "10.94.0.5"}],
            [{"subnet": "fd94::/64", "rangeStart": "fd94::5", "rangeEnd": "fd94::5"}],
        ],
    });
    let network = Network {
        name: "red".into(),
        plugins: vec![
            json!({"type": "bridge", "bridge": "red0", "isGateway": true, "ipam": ipam}),
            // Its CHECK compares the interface's promiscuity with this, and a bridge's ports are always promiscuous.
            json!({"type": "tuning", "mtu": MTU, "promisc": true}),
        ],
        enter: Vec::new(),
    };
    let attached = network.attach(&pod.namespace(), INTERFACE)?;
    let before = settled(&pod)?;

    let mut manifest = vmi::masquerade("twonics", &[]);
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "masquerade": {}}, {"name": "red", "bridge": {}}]),
    );
    vmi::set(
        &mut manifest,
        "/spec/networks",
        json!([{"name": "default", "pod": {}}, {"name": "red", "multus": {"networkName": "red"}}]),
    );
    pod.set_manifest(&manifest)?;
    let mut launcher = pod.launch("run", ROOT)?;
    wait_for_both_families(&launcher)?;
    let told = launcher
        .console
        .wait_for("guest: ipv4 eth1 10.94.0.5/24 via none ", BOOT)?;
    ensure!(told.contains(&format!("mtu {MTU}")), "{told}");
    launcher.console.wait_for("guest: ipv6 eth1 fd94::5 ", BOOT)?;

    let second: [IpAddr; 2] = ["10.94.0.5".parse()?, "fd94::5".parse()?];
    for address in pod.addresses().into_iter().chain(second) {
        guest::greet_within(address, PORT, SERVE).with_context(|| format!("at {address}"))?;
    }
    reach_out(&pod, pod.ipv4.into(), NODE_IPV4.parse()?)?;
    reach_out(&pod, pod.ipv6.into(), NODE_IPV6.parse()?)?;
    for (gateway, own) in [("10.94.0.1", "10.94.0.5"), ("fd94::1", "fd94::5")] {
        let server = WhoAmI::listen(gateway.parse()?)?;
        let host = if gateway.contains(':') {
            format!("[{gateway}]")
        } else {
            gateway.to_owned()
        };
        let fetch = format!("wget -q -T 10 -O - http://{host}:{}/", server.port);
        let seen = guest::execute(pod.ipv4.into(), &fetch)?;
        ensure!(seen.trim() == own, "{gateway} saw {seen}, not {own}");
    }

    attached.check().context("while the guest has the interface")?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)?;
    compare(&before, &settled(&pod)?)?;
    attached.check().context("after the guest")?;
    attached.detach()
}

/// The pod as it is once the kernel has looked for duplicates of its addresses.
fn settled(pod: &Pod<'_>) -> Result<String> {
    let deadline = pace::deadline(Duration::from_secs(10));
    loop {
        let snapshot = pod.snapshot()?;
        if !snapshot.contains("tentative") {
            return Ok(snapshot);
        }
        if Instant::now() > deadline {
            bail!("addresses are still tentative: {snapshot}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
