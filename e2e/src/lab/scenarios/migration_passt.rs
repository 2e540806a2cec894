//! A guest behind a passt that moves from one pod to another, with other addresses, by launchers without a capability.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::lifecycle::{END, compare};
use super::masquerade::{BOOT, SERVE, reach_out};
use super::migration::{TLS, TRANSFER, expect_state, migrate, status, url, vmms};
use super::migration_network::{Twins, connections_go_on};
use super::passt::{PING, wait_for_the_pods_addresses};
use super::vmi;
use crate::certificates::Authority;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT, Session};
use crate::lab::node::pod::{Extra, Launcher, NET_ADMIN_ONLY, Pod, UNPRIVILEGED};
use crate::lab::node::prepare::{NODE_IPV4, NODE_IPV6};

const MAC: &str = "02:00:5e:00:53:09";

fn manifest() -> Value {
    let mut manifest = vmi::masquerade("mover", &[]);
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "passt": {}, "macAddress": MAC, "ports": [{"port": PORT}]}]),
    );
    vmi::set(
        &mut manifest,
        "/metadata/uid",
        json!("4f2b0f5e-0000-4000-8000-000000000002"),
    );
    manifest
}

/// Pods on one network, and certificates for all.
fn pods<'a, const N: usize>(lab: &'a Lab, names: [&str; N]) -> Result<Vec<Pod<'a>>> {
    let authority = Authority::new("migration")?;
    names
        .iter()
        .map(|name| {
            let pod = Pod::create(lab, name, &[PING])?;
            pod.set_manifest(&manifest())?;
            authority.issue(&pod.certificates()?, vmi::LAUNCHERS, &pod.addresses())?;
            Ok(pod)
        })
        .collect()
}

fn wait_for_it<'a>(target: &'a Pod<'_>) -> Result<Launcher<'a>> {
    let options = std::iter::once("--incoming").chain(TLS);
    let extra = Extra {
        hawser: options.map(str::to_owned).collect(),
        ..Extra::default()
    };
    let launcher = target.launch_with("run", UNPRIVILEGED, &extra)?;
    launcher.console.wait_for(r#"event="waiting-for-guest""#, BOOT)?;
    Ok(launcher)
}

/// By both families, in and out, at this pod's addresses; nothing is tried twice.
fn reached_at_once(pod: &Pod<'_>) -> Result<()> {
    for address in pod.addresses() {
        guest::greet(address, PORT).with_context(|| format!("to the guest at {address}"))?;
    }
    reach_out(pod, pod.ipv4.into(), NODE_IPV4.parse()?)?;
    reach_out(pod, pod.ipv6.into(), NODE_IPV6.parse()?)
}

fn reached_soon(pod: &Pod<'_>) -> Result<()> {
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE)?;
    }
    Ok(())
}

/// The guest in `here` has what the pod `from` gave it.
fn has_the_addresses_of(from: &Pod<'_>, here: &Pod<'_>) -> Result<()> {
    let seen = guest::execute(here.ipv4.into(), "ip address show dev eth0")?;
    for part in [MAC.to_owned(), format!("{}/24", from.ipv4), from.ipv6.to_string()] {
        ensure!(seen.contains(&part), "no {part} in the guest: {seen}");
    }
    ensure!(
        !seen.contains(&format!("{}/", here.ipv4)),
        "the guest has the address of the pod that it is in: {seen}"
    );
    Ok(())
}

/// A connection on which nothing is said for now. Not one to the web server itself, which ends it after a minute by itself.
fn open(pod: &Pod<'_>) -> Result<Session> {
    Session::open(pod.ipv4.into())
}

/// The target's passt renews the IPv4 lease, and gives the same one again after it was given back.
fn leases(from: &Pod<'_>, here: &Pod<'_>, target: &Launcher<'_>) -> Result<()> {
    let (console, address) = (&target.console, here.ipv4.into());
    let v4 = format!("guest: ipv4 eth0 {}/24 via {NODE_IPV4} ", from.ipv4);
    guest::execute(address, "killall -USR1 udhcpc")?;
    console
        .wait_for_nth(&[&v4, "event renew"], 1, SERVE)
        .context("renewal")?;
    let again = "(sleep 1; killall -USR2 udhcpc; sleep 2; killall -USR1 udhcpc) > /dev/null 2>&1 &";
    guest::execute(address, again)?;
    console
        .wait_for_nth(&[&v4, "event bound"], 1, SERVE)
        .context("release")?;
    guest::greet_within(address, PORT, SERVE).context("after the release")
}

fn reboot(from: &Pod<'_>, here: &Pod<'_>, target: &Launcher<'_>) -> Result<()> {
    guest::execute(here.ipv4.into(), "(sleep 1; reboot -f) > /dev/null 2>&1 &")?;
    let console = &target.console;
    console
        .wait_for("guest: init, Linux", BOOT)
        .context("the guest does not start anew")?;
    console.wait_for("guest: ready", BOOT)?;
    console.wait_for_nth(
        &[&format!("guest: ipv6 eth0 {} ", from.ipv6), "event bound"],
        1,
        BOOT,
    )?;
    reached_soon(here)
}

/// Issue: passt's row. To a pod with other addresses, and on to a third.
pub(super) fn to_other_addresses(lab: &Lab) -> Result<()> {
    let pods = pods(lab, ["passt-moves-a", "passt-moves-b", "passt-moves-c"])?;
    let [first, second, third] = pods.as_slice() else {
        bail!("three pods were asked for");
    };
    let before = second.snapshot()?;
    let mut source = first.launch("run", UNPRIVILEGED)?;
    wait_for_the_pods_addresses(first, &source)?;
    reached_soon(first)?;
    reached_at_once(first).context("before")?;
    guest::execute(first.ipv4.into(), "echo here > /tmp/mark")?;
    let mut target = wait_for_it(second)?;

    let to = url(second);
    let mut idle = open(first)?;
    let mut moving = source.exec(&migrate(&to, &TLS))?;
    moving.expect_exit(0, TRANSFER)?;
    reached_at_once(second).context("after")?;
    ensure!(idle.has_ended()?, "a connection that was open did not end");
    source.expect_exit(0, END)?;
    source.console.wait_for(r#"event="guest-migrated""#, SERVE)?;
    ensure!(vmms()? == 1, "{} VMMs", vmms()?);
    let mark = guest::execute(second.ipv4.into(), "cat /tmp/mark")?;
    ensure!(mark.trim() == "here", "another guest: {mark}");
    has_the_addresses_of(first, second)?;
    let shown = status(&target)?;
    expect_state(&shown, "running")?;
    let addresses = shown.pointer("/nics/0/addresses");
    ensure!(
        addresses == Some(&json!([format!("{}/24", first.ipv4), first.ipv6])),
        "status: {shown}"
    );
    leases(first, second, &target)?;

    // A guest that came goes on only after a reboot.
    let onward = wait_for_it(third)?;
    let to = url(third);
    let mut moving = target.exec(&migrate(&to, &TLS))?;
    moving.expect_exit(9, TRANSFER)?;
    moving.console.wait_for("until it reboots", SERVE)?;
    reached_at_once(second).context("where it stayed")?;
    reboot(first, second, &target)?;
    has_the_addresses_of(first, second)?;
    let mut moving = target.exec(&migrate(&to, &TLS))?;
    moving.expect_exit(0, TRANSFER)?;
    reached_at_once(third).context("in the third pod")?;
    has_the_addresses_of(first, third)?;
    target.expect_exit(0, END)?;
    compare(&before, &second.snapshot()?)?;

    let mut target = onward;
    target.signal("TERM")?;
    target.expect_exit(0, END)
}

/// Issue: passt's row, where the pod's address is the same: what was open goes on, by passt-repair, which runs as user 107
/// at the source and as root at the target.
pub(super) fn at_the_same_address(lab: &Lab) -> Result<()> {
    let twins = Twins::create(lab, "passt-same", &manifest())?;
    let mut source = twins.source.launch("run", NET_ADMIN_ONLY)?;
    wait_for_the_pods_addresses(&twins.source, &source)?;
    connections_go_on(&twins, &mut source)
}

/// Before the guest's last state is taken nothing has happened to the source's passt; after it the NIC is put back.
pub(super) fn failures(lab: &Lab) -> Result<()> {
    let pods = pods(lab, ["passt-stays-a", "passt-stays-b"])?;
    let [from, to] = pods.as_slice() else {
        bail!("two pods were asked for");
    };
    let before = to.snapshot()?;
    let source = from.launch("run", UNPRIVILEGED)?;
    wait_for_the_pods_addresses(from, &source)?;
    reached_soon(from)?;
    let passt = from.process("passt")?;

    let mut target = wait_for_it(to)?;
    let address = url(to);
    let mut idle = open(from)?;
    let mut moving = source.exec(&migrate(&address, &TLS))?;
    moving.console.wait_for("sending", TRANSFER)?;
    target.signal("KILL")?;
    moving.expect_exit(9, TRANSFER)?;
    moving.console.wait_for("stays here", SERVE)?;
    ensure!(!idle.has_ended()?, "a connection that was open has ended");
    ensure!(target.exit_code(END)? != 0, "a killed launcher ended with 0");
    reached_at_once(from).context("after the target was killed")?;
    ensure!(from.process("passt")? == passt, "passt is another one");
    compare(&before, &to.snapshot()?)?;

    // The target's VMM finds no passt: by then the source's has given the NIC away.
    let mut target = wait_for_it(to).context("a second target in the same pod")?;
    fs::remove_file(to.state().join("vmm/passt.sock"))?;
    // What an operating system does about a NIC that comes: the test's guest does nothing.
    let plugged = "(while [ -e /sys/class/net/eth0 ]; do sleep 0.1; done; until [ -e /sys/class/net/eth0 ]; do sleep 0.1; \
                   done; ip link set eth0 up; killall udhcpc udhcpc6) > /dev/null 2>&1 &";
    guest::execute(from.ipv4.into(), plugged)?;
    let mut moving = source.exec(&migrate(&address, &TLS))?;
    moving.expect_exit(9, TRANSFER)?;
    moving.console.wait_for("stays here", SERVE)?;
    source.console.wait_for(r#"event="nic-replug-started""#, SERVE)?;
    source.console.wait_for(r#"event="nic-plugged""#, SERVE)?;
    ensure!(target.exit_code(END)? == 9, "the target kept waiting");
    reached_soon(from).context("after the NIC was put back")?;
    reached_at_once(from).context("after the NIC was put back")?;

    let target = wait_for_it(to).context("a third target in the same pod")?;
    let mut moving = source.exec(&migrate(&address, &TLS))?;
    moving.expect_exit(0, TRANSFER)?;
    reached_at_once(to).context("after all")?;
    has_the_addresses_of(from, to)?;
    drop(target);
    Ok(())
}
