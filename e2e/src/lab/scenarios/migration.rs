//! A guest that moves from one pod to another.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::lifecycle::{END, compare};
use super::masquerade::{BOOT, SERVE, reach_out, wait_for_both_families};
use super::vmi;
use crate::certificates::Authority;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pace;
use crate::lab::node::pod::{Extra, FORWARD_IPV6, Launcher, Pod, Privileges, ROOT};
use crate::lab::node::prepare::{NODE_IPV4, NODE_IPV6};

/// For the guest's memory to go over, with everything emulated.
pub(super) const TRANSFER: Duration = Duration::from_secs(240);
pub(super) const TLS: [&str; 2] = ["--tls-dir", "/certificates"];

pub(super) fn manifest() -> Value {
    let mut manifest = vmi::masquerade("mover", &[]);
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces/0/macAddress",
        json!("02:00:5e:00:53:07"),
    );
    vmi::set(
        &mut manifest,
        "/metadata/uid",
        json!("4f2b0f5e-0000-4000-8000-000000000001"),
    );
    manifest
}

/// Two pods on one network, and certificates for both. A pod of a name keeps its state, and with it the note that its
/// guest was given away: so each scenario has a name of its own.
pub(super) fn two_pods<'a>(lab: &'a Lab, name: &str) -> Result<(Pod<'a>, Pod<'a>)> {
    let source = Pod::create(lab, &format!("{name}-a"), &[FORWARD_IPV6])?;
    let target = Pod::create(lab, &format!("{name}-b"), &[FORWARD_IPV6])?;
    let authority = Authority::new("migration")?;
    for pod in [&source, &target] {
        pod.set_manifest(&manifest())?;
        authority.issue(&pod.certificates()?, vmi::LAUNCHERS, &pod.addresses())?;
    }
    Ok((source, target))
}

/// A target that waits for its guest.
pub(super) fn wait_for_it<'a>(target: &'a Pod<'_>, security: &[&str]) -> Result<Launcher<'a>> {
    wait_with(target, ROOT, Extra::default(), security)
}

/// The same with what else its container has.
pub(super) fn wait_with<'a>(
    target: &'a Pod<'_>,
    privileges: Privileges<'_>,
    mut extra: Extra,
    security: &[&str],
) -> Result<Launcher<'a>> {
    let options = std::iter::once("--incoming").chain(security.iter().copied());
    extra.hawser.extend(options.map(str::to_owned));
    let launcher = target.launch_with("run", privileges, &extra)?;
    launcher.console.wait_for(r#"event="waiting-for-guest""#, BOOT)?;
    Ok(launcher)
}

/// The command line, with the downtime and the time that this node's guests need. It gives up before the scenario does, and
/// says why.
pub(super) fn migrate(to: &str, security: &[&str]) -> Vec<String> {
    let downtime = format!("{}ms", pace::downtime().as_millis());
    let timeout = format!("{}s", (pace::allowed(TRANSFER) * 3 / 4).as_secs());
    let options = ["--to", to, "--downtime", &downtime, "--timeout", &timeout];
    ["hawser", "migrate"]
        .iter()
        .chain(&options)
        .chain(security)
        .map(|&word| word.to_owned())
        .collect()
}

pub(super) fn url(pod: &Pod<'_>) -> String {
    format!("tcp:{}:49152", pod.ipv4)
}

pub(super) fn status(launcher: &Launcher<'_>) -> Result<Value> {
    let mut asked = launcher.exec(&["hawser", "status"])?;
    asked.expect_exit(0, SERVE)?;
    Ok(serde_json::from_str(
        &asked.console.last(1000).replace(" | ", "\n"),
    )?)
}

pub(super) fn expect_state(status: &Value, wanted: &str) -> Result<()> {
    ensure!(
        status.get("state") == Some(&json!(wanted)),
        "not {wanted}: {status}"
    );
    Ok(())
}

/// How many cloud-hypervisors there are on the node.
pub(super) fn vmms() -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir("/proc")? {
        let comm = entry?.path().join("comm");
        if fs::read_to_string(comm).is_ok_and(|comm| comm.trim() == "cloud-hyperviso") {
            count += 1;
        }
    }
    Ok(count)
}

/// The guest is reached at this pod's addresses, and reaches out from them.
pub(super) fn at_home_in(pod: &Pod<'_>) -> Result<()> {
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE)?;
    }
    reach_out(pod, pod.ipv4.into(), NODE_IPV4.parse()?)?;
    reach_out(pod, pod.ipv6.into(), NODE_IPV6.parse()?)
}

/// Issue: masquerade's row. With TLS, and everything that has to work at once on the target.
pub(super) fn masquerade_with_tls(lab: &Lab) -> Result<()> {
    let (from, to) = two_pods(lab, "mover")?;
    let before = to.snapshot()?;
    let mut source = from.launch("run", ROOT)?;
    wait_for_both_families(&source)?;
    at_home_in(&from).context("before")?;
    guest::execute(from.ipv4.into(), "echo here > /tmp/mark")?;
    let mut target = wait_for_it(&to, &TLS)?;
    expect_state(&status(&target)?, "receiving")?;

    let mut moving = source.exec(&migrate(&url(&to), &TLS))?;
    moving.expect_exit(0, TRANSFER)?;
    moving
        .console
        .wait_for("migrated: the guest runs at tcp:", SERVE)?;
    source.expect_exit(0, END)?;
    source.console.wait_for(r#"event="guest-migrated""#, SERVE)?;
    verified(&source)?;
    ensure!(vmms()? == 1, "{} VMMs", vmms()?);
    let last: Value = serde_json::from_str(&fs::read_to_string(Path::new(
        "/var/lib/lab/pods/mover-a/state/vmm/status.json",
    ))?)?;
    expect_state(&last, "migrated")?;
    ensure!(
        last.get("handedOverTo") == Some(&json!(url(&to))),
        "the source's last status: {last}"
    );
    expect_state(&status(&target)?, "running")?;

    at_home_in(&to).context("after")?;
    let address = to.ipv4.into();
    let seen = guest::execute(address, "cat /tmp/mark; ip address show dev eth0")?;
    for part in ["here", "10.0.2.2/24", "fd10:0:2::2"] {
        ensure!(seen.contains(part), "no {part} in the guest: {seen}");
    }
    // Renewal is by unicast to the server that the guest knows; the new one answers as the same.
    guest::execute(address, "killall -USR1 udhcpc")?;
    target
        .console
        .wait_for("DHCPACK 10.0.2.2", SERVE)
        .context("renewal")?;
    target.console.wait_for("event renew", SERVE).context("renewal")?;
    guest::execute(
        address,
        "(sleep 1; killall -USR2 udhcpc; sleep 2; killall -USR1 udhcpc) > /dev/null 2>&1 &",
    )?;
    target.console.wait_for("event bound", SERVE).context("release")?;
    guest::greet_within(address, PORT, SERVE).context("after the release")?;
    guest::execute(address, "(sleep 1; reboot -f) > /dev/null 2>&1 &")?;
    target
        .console
        .wait_for("guest: init, Linux", BOOT)
        .context("reboot")?;
    target.console.wait_for("guest: ready", BOOT).context("reboot")?;
    target
        .console
        .wait_for("guest: ipv6-route eth0 default via fe80::", BOOT)?;
    at_home_in(&to).context("after a reboot")?;

    // A container that is started again in the source's pod leaves the guest alone.
    let mut again = from.launch("run", ROOT)?;
    again.expect_exit(5, END)?;
    again.console.wait_for("was migrated to tcp:", SERVE)?;

    target.signal("TERM")?;
    target.expect_exit(0, END)?;
    compare(&before, &to.snapshot()?)
}

/// The kernel shows the source's launcher that the connections to its relay are its VMM's.
fn verified(source: &Launcher<'_>) -> Result<()> {
    let said = source.console.last(1000);
    for event in ["relay-connection-unverified", "migration-connection-rejected"] {
        ensure!(!said.contains(event), "{said}");
    }
    Ok(())
}

/// cloud-hypervisor opens its connections for memory all at once where there is no TLS. Strangers have been there before.
pub(super) fn many_connections(lab: &Lab) -> Result<()> {
    const PLAIN: &str = "--insecure-plain-tcp";
    let (from, to) = two_pods(lab, "many")?;
    let mut source = from.launch("run", ROOT)?;
    wait_for_both_families(&source)?;
    let target = wait_for_it(&to, &[PLAIN])?;
    let port = (to.ipv4, 49152);
    let strangers = (0..100)
        .map(|_| TcpStream::connect(port))
        .collect::<Result<Vec<_>, _>>()?;
    let mut moving = source.exec(&migrate(&url(&to), &[PLAIN, "--connections", "64"]))?;
    moving.expect_exit(0, TRANSFER)?;
    source.expect_exit(0, END)?;
    verified(&source)?;
    drop(strangers);
    at_home_in(&to).context("after")?;
    expect_state(&status(&target)?, "running")
}

/// Nobody but a launcher of the same CA gets anything; plain TCP only on the user's word.
pub(super) fn wrong_certificate(lab: &Lab) -> Result<()> {
    let (from, to) = two_pods(lab, "stranger")?;
    let source = from.launch("run", ROOT)?;
    wait_for_both_families(&source)?;
    let target = wait_for_it(&to, &TLS)?;
    Authority::new("stranger")?.issue(&from.certificates()?, vmi::LAUNCHERS, &from.addresses())?;
    let mut moving = source.exec(&migrate(&url(&to), &TLS))?;
    moving.expect_exit(9, TRANSFER)?;
    moving.console.wait_for("stays here", SERVE)?;
    let mut plain = source.exec(&migrate(&url(&to), &[]))?;
    plain.expect_exit(2, TRANSFER)?;
    let mut plain = source.exec(&migrate(&url(&to), &["--insecure-plain-tcp"]))?;
    plain.expect_exit(9, TRANSFER)?;
    at_home_in(&from).context("the guest at the source")?;
    expect_state(&status(&target)?, "receiving")?;
    expect_state(&status(&source)?, "running")?;
    Ok(())
}

/// The target's launcher dies while the memory goes over: the guest goes on where it is, and can go elsewhere later.
pub(super) fn target_killed(lab: &Lab) -> Result<()> {
    let (from, to) = two_pods(lab, "killed")?;
    let mut source = from.launch("run", ROOT)?;
    wait_for_both_families(&source)?;
    let mut target = wait_for_it(&to, &TLS)?;
    let mut moving = source.exec(&migrate(&url(&to), &TLS))?;
    moving.console.wait_for("sending", TRANSFER)?;
    target.signal("KILL")?;
    moving.expect_exit(9, TRANSFER)?;
    moving.console.wait_for("stays here", SERVE)?;
    ensure!(target.exit_code(END)? != 0, "a killed launcher ended with 0");
    at_home_in(&from).context("the guest at the source")?;
    ensure!(vmms()? == 1, "{} VMMs", vmms()?);

    let target = wait_for_it(&to, &TLS).context("a second target in the same pod")?;
    let mut moving = source.exec(&migrate(&url(&to), &TLS))?;
    moving.expect_exit(0, TRANSFER)?;
    source.expect_exit(0, END)?;
    at_home_in(&to).context("at the second target")?;
    drop(target);
    Ok(())
}
