//! A guest behind the pod's own addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, OTHER_PORT, PORT, WhoAmI};
use crate::lab::node::pod::{FORWARD_IPV6, Launcher, Pod, ROOT};
use crate::lab::node::prepare::{NODE_IPV4, NODE_IPV6};

/// From the launcher's start to a guest with both addresses, with everything emulated.
pub(super) const BOOT: Duration = Duration::from_secs(120);
/// For a server in the guest to answer once the guest has its addresses.
pub(super) const SERVE: Duration = Duration::from_secs(15);

/// Waits until the guest says that it has an address and a route of each family.
pub(super) fn wait_for_both_families(launcher: &Launcher<'_>) -> Result<()> {
    let console = &launcher.console;
    console.wait_for("guest: ipv4 eth0 10.0.2.2/24 via 10.0.2.1 ", BOOT)?;
    console.wait_for("guest: ipv6 eth0 fd10:0:2::2 ", BOOT)?;
    console.wait_for("guest: ipv6-route eth0 default via fe80::", BOOT)?;
    Ok(())
}

pub(super) fn dual_stack(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "dual", &[FORWARD_IPV6])?;
    pod.set_manifest(&vmi::masquerade("dual", &[]))?;
    let launcher = pod.launch("run", ROOT)?;
    wait_for_both_families(&launcher)?;

    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE).context("from outside, through the pod's address")?;
        guest::greet(address, OTHER_PORT).context("without a list every port is the guest's")?;
    }
    for address in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ] {
        pod.enter(|| guest::greet_within(address, PORT, SERVE))
            .context("from inside the pod")?;
    }
    reach_out(&pod, pod.ipv4.into(), NODE_IPV4.parse()?)?;
    reach_out(&pod, pod.ipv6.into(), NODE_IPV6.parse()?)?;
    resolve(&pod, "dual")
}

/// The guest fetches a page from the node, which must see the pod's address.
pub(super) fn reach_out(pod: &Pod<'_>, expected: IpAddr, node: IpAddr) -> Result<()> {
    let server = WhoAmI::listen(node)?;
    let host = if node.is_ipv6() {
        format!("[{node}]")
    } else {
        node.to_string()
    };
    let seen = guest::execute(
        pod.ipv4.into(),
        &format!("wget -q -T 10 -O - http://{host}:{}/", server.port),
    )
    .context("from the guest to the node")?;
    ensure!(
        seen.trim() == expected.to_string(),
        "the node saw {}, not the pod's {expected}",
        seen.trim()
    );
    Ok(())
}

/// The pod network has a name server; the guest knows it from its lease, and finds its own pod by name.
pub(super) fn resolve(pod: &Pod<'_>, name: &str) -> Result<()> {
    let answer = guest::execute(pod.ipv4.into(), &format!("cat /etc/resolv.conf; nslookup {name}"))?;
    ensure!(
        answer.contains(&pod.ipv4.to_string()),
        "no answer to the guest's question: {answer}"
    );
    Ok(())
}

pub(super) fn listed_ports_only(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "ports", &[FORWARD_IPV6])?;
    pod.set_manifest(&vmi::masquerade("ports", &[PORT]))?;
    let launcher = pod.launch("run", ROOT)?;
    wait_for_both_families(&launcher)?;
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE)?;
        if guest::greet(address, OTHER_PORT).is_ok() {
            bail!("port {OTHER_PORT} is not listed, but the guest answers on it at {address}");
        }
    }
    for address in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ] {
        pod.enter(|| guest::greet(address, PORT))
            .context("from inside the pod")?;
    }
    Ok(())
}

pub(super) fn multi_queue(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "queues", &[FORWARD_IPV6])?;
    let mut manifest = vmi::masquerade("queues", &[]);
    vmi::set(&mut manifest, "/spec/domain/cpu", json!({"cores": 2}));
    pod.set_manifest(&manifest)?;
    let launcher = pod.launch("run", ROOT)?;
    let nic = launcher.console.wait_for("guest: nic eth0 ", BOOT)?;
    ensure!(
        nic.contains(" queues 2"),
        "two processors, but the guest says: {nic}"
    );
    wait_for_both_families(&launcher)?;
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE)?;
    }
    Ok(())
}

/// For people to watch: the guest's console is shown as it comes, and each step is said.
pub(super) fn demo(lab: &Lab) -> Result<()> {
    let say = lab.narrator();
    let pod = Pod::create(lab, "demo", &[FORWARD_IPV6])?;
    pod.set_manifest(&vmi::masquerade("demo", &[]))?;
    say(&format!("the pod's addresses: {} and {}", pod.ipv4, pod.ipv6));
    say("starting the launcher in the pod; what follows is its log and the guest's own console");
    let mut launcher = pod.launch("run", ROOT)?;
    wait_for_both_families(&launcher)?;
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE)?;
        say(&format!(
            "http to {address} port {PORT}, from outside the pod: \"{}\"",
            guest::GREETING
        ));
    }
    say("asking the launcher to stop (SIGTERM): it presses the guest's power button");
    launcher.signal("TERM")?;
    launcher.expect_exit(0, Duration::from_secs(60))?;
    say("the guest is down, the launcher ended with 0");
    Ok(())
}
