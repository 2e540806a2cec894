//! Guests behind binding plugins that move between two pods on one network. The guest is known by its MAC alone: its
//! addresses are its own doing, so hawser has none to announce. What the network hears of the move is cloud-hypervisor's
//! RARP, and what the guest says when cloud-hypervisor asks it to, which is all that there is of `link-refresh`.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::blackout::{OURS, one_nic};
use super::lifecycle::{END, compare};
use super::masquerade::{BOOT, SERVE};
use super::migration::{TLS, TRANSFER, expect_state, migrate, status, url, vmms, wait_with};
use super::migration_network::{Lan, RED, RETRY, announced, red_network};
use super::plugins::{extra, settled};
use super::vmi;
use crate::certificates::Authority;
use crate::cni_tap;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT, Session};
use crate::lab::node::pod::{Launcher, Pod, Privileges, ROOT, UNPRIVILEGED};
use crate::packets::{Capture, mac};

/// `tap` and the hash that is in [`RED`].
const TAP: &str = "tapb1f51a511f1";
/// What the guest gives itself besides its IPv4 address.
const IPV6: &str = "fd96::12";

/// The guest's only NIC is of this plugin.
fn manifest(plugin: &str) -> Value {
    let mut manifest = one_nic();
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "red", "binding": {"name": plugin}, "macAddress": OURS.1}]),
    );
    manifest
}

/// Two pods without an address on the network that they share: the launchers meet on the pod network.
fn on_one_network<'a>(lab: &'a Lab, name: &str, plugin: &str) -> Result<([Pod<'a>; 2], Lan)> {
    let create = |end| Pod::create(lab, &format!("{name}-{end}"), &[]);
    let pods = [create("a")?, create("b")?];
    let lan = red_network(pods.each_ref(), "lan2", &["10.96.0.1/24", "fd96::1/64"], &[])?;
    let authority = Authority::new("migration")?;
    for pod in &pods {
        pod.set_manifest(&manifest(plugin))?;
        authority.issue(&pod.certificates()?, vmi::LAUNCHERS, &pod.addresses())?;
    }
    Ok((pods, lan))
}

/// A guest, and connections that the network has opened to it.
fn start<'a>(pod: &'a Pod<'_>, privileges: Privileges<'_>) -> Result<(Launcher<'a>, Vec<Session>)> {
    let launcher = pod.launch_with("run", privileges, &extra(pod, None)?)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    let address: IpAddr = OURS.0.parse()?;
    guest::greet_within(address, PORT, SERVE)?;
    guest::execute(
        address,
        &format!("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip address add {IPV6}/64 dev eth0"),
    )?;
    let sessions = [address, IPV6.parse()?].map(Session::open);
    Ok((launcher, sessions.into_iter().collect::<Result<_>>()?))
}

/// How often the guest has seen its link go up or down.
fn link_changes() -> Result<u32> {
    let count = guest::execute(OURS.0.parse()?, "cat /sys/class/net/eth0/carrier_changes")?;
    Ok(count.trim().parse()?)
}

/// What docs/plugins.md promises of a move: connections go on, the network learns where the guest is, and its link is up
/// all the time.
fn moves(lab: &Lab, [from, to]: &[Pod<'_>; 2], privileges: Privileges<'_>) -> Result<()> {
    let (mut source, mut sessions) = start(from, privileges)?;
    let before = link_changes()?;
    let mut target = wait_with(to, privileges, extra(to, None)?, &TLS)?;
    let capture = Capture::start_on("lan2")?;
    let to = url(to);
    let mut moving = source.exec(&migrate(&to, &TLS))?;
    moving.expect_exit(0, TRANSFER)?;
    let moved = Instant::now();
    guest::greet_within(OURS.0.parse()?, PORT, SERVE).context("right after")?;
    lab.record(
        "plugins",
        &format!("reached {:.3} s after the move", moved.elapsed().as_secs_f64()),
    )?;
    for session in &mut sessions {
        session.say("after")?;
        session.hear("after", RETRY)?;
    }
    source.expect_exit(0, END)?;
    ensure!(vmms()? == 1, "{} VMMs", vmms()?);
    expect_state(&status(&target)?, "running")?;
    announced(lab, &capture, mac(OURS.1)?, &source)?;
    let after = link_changes()?;
    ensure!(
        before == after,
        "the guest's link has changed {before} times before, {after} after"
    );
    target.signal("TERM")?;
    target.expect_exit(0, END)
}

/// Issue: plugins' row, by the declared method.
pub(super) fn managed_tap(lab: &Lab) -> Result<()> {
    let (pods, lan) = on_one_network(lab, "moving-wire", "moving-wire")?;
    let [_, to] = &pods;
    let before = settled(to)?;
    moves(lab, &pods, ROOT)?;
    compare(&before, &to.snapshot()?)?;
    drop(lan);
    Ok(())
}

/// On TAPs of one name and MAC that a CNI plugin has made in both pods, beside the pod's interface on a bridge.
pub(super) fn tap(lab: &Lab) -> Result<()> {
    let (pods, lan) = on_one_network(lab, "moving-device", "moving-device")?;
    for pod in &pods {
        let wanted = json!({"owner": 107, "group": 107, "mac": "02:00:5e:00:53:aa"});
        cni_tap::call("ADD", &pod.namespace(), TAP, &wanted)?;
        for command in [
            "ip link add br0 type bridge".to_owned(),
            // The bridge takes the TAP's MAC, and with it the same address in both pods.
            "ip link set br0 addrgenmode none up".to_owned(),
            format!("ip link set {RED} master br0"),
            format!("ip link set {TAP} master br0"),
        ] {
            pod.run(&command)?;
        }
    }
    moves(lab, &pods, UNPRIVILEGED)?;
    drop(lan);
    Ok(())
}

/// Issue: plugins' row, without a method. The reason comes before any connection: there is no target.
pub(super) fn undeclared(lab: &Lab) -> Result<()> {
    let ([from, to], lan) = on_one_network(lab, "staying-wire", "wire")?;
    let (source, mut sessions) = start(&from, ROOT)?;
    let mut moving = source.exec(&migrate(&url(&to), &TLS))?;
    moving.expect_exit(9, SERVE)?;
    moving.console.wait_for(
        "interface red (plugin wire): the plugin wire declares no migration",
        SERVE,
    )?;
    for session in &mut sessions {
        session.say("after")?;
        session.hear("after", SERVE)?;
    }
    expect_state(&status(&source)?, "running")?;
    drop(lan);
    Ok(())
}
