//! What a network sees of a guest that moves and keeps its address: connections that were open go on.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::lifecycle::END;
use super::masquerade::{BOOT, SERVE, wait_for_both_families};
use super::migration::{TLS, TRANSFER, manifest, migrate, url, wait_for_it};
use super::{bridge, vmi};
use crate::certificates::Authority;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, Counter, PORT, Session, Talk};
use crate::lab::node::pod::{FORWARD_IPV6, Launcher, Pod, ROOT};
use crate::lab::node::prepare::{NODE_IPV4, NODE_IPV6};
use crate::lab::process::output;
use crate::packets::Capture;

/// For a TCP connection to try again after it was cut off for a while: it waits twice as long each time.
pub(super) const RETRY: Duration = Duration::from_secs(60);
/// The target's on the wire that the launchers meet on.
const MEETING: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
/// The pod's interface of the network called red.
pub(super) const RED: &str = "podb1f51a511f1";
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// A bridge of the node that is down.
const NOWHERE: &str = "nowhere0";

pub(super) fn ip(command: &str) -> Result<String> {
    output(Command::new("ip").args(command.split(' ')))
}

/// Two pods with the same addresses and MAC on the pod network, of which one is plugged in: as where a network gives a
/// guest's new pod the address of the one before. The launchers meet on a wire of their own.
pub(super) struct Twins<'a> {
    pub(super) source: Pod<'a>,
    target: Pod<'a>,
    /// The node's ends.
    ports: [String; 2],
    switch: String,
}

impl<'a> Twins<'a> {
    pub(super) fn create(lab: &'a Lab, name: &str, manifest: &Value) -> Result<Self> {
        let source = Pod::create(lab, &format!("{name}-a"), &[FORWARD_IPV6])?;
        let mut target = Pod::create(lab, &format!("{name}-b"), &[FORWARD_IPV6])?;
        let (port, switch) = plug(&source)?;
        let (other, _) = plug(&target)?;
        // Into a switch that passes nothing: an end that is in none would be an interface of the node.
        if !Path::new("/sys/class/net").join(NOWHERE).exists() {
            ip(&format!("link add {NOWHERE} type bridge"))?;
        }
        ip(&format!("link set {other} master {NOWHERE}"))?;
        let link: Value = serde_json::from_str(&source.run("ip -j link show dev eth0")?)?;
        let mac = link.pointer("/0/address").and_then(Value::as_str);
        let mac = mac.context("the pod has no MAC")?;
        for command in [
            "ip link set eth0 down".to_owned(),
            format!("ip link set eth0 address {mac}"),
            "ip address flush dev eth0".to_owned(),
            "ip link set eth0 up".to_owned(),
            format!("ip address add {}/24 dev eth0", source.ipv4),
            format!("ip address add {}/64 dev eth0 nodad", source.ipv6),
            format!("ip route replace default via {NODE_IPV4}"),
            format!("ip -6 route replace default via {NODE_IPV6}"),
        ] {
            target.run(&command)?;
        }
        (target.ipv4, target.ipv6) = (source.ipv4, source.ipv6);

        let pods = [&source, &target];
        ip("link add meet-a type veth peer name meet-b")?;
        let authority = Authority::new("migration")?;
        for ((pod, end), address) in pods.into_iter().zip(["meet-a", "meet-b"]).zip(MEETING) {
            give(pod, end, "meet0")?;
            pod.run(&format!("ip address add {address}/24 dev meet0"))?;
            pod.run("ip link set meet0 up")?;
            pod.set_manifest(manifest)?;
            authority.issue(&pod.certificates()?, vmi::LAUNCHERS, &[address.parse()?])?;
        }
        Ok(Self {
            source,
            target,
            ports: [port, other],
            switch,
        })
    }

    /// Moves the address to the target's pod.
    fn swap(&self) -> Result<()> {
        let [from, to] = &self.ports;
        ip(&format!("link set {from} master {NOWHERE}"))?;
        ip(&format!("link set {to} master {}", self.switch))?;
        Ok(())
    }
}

/// Moves a link of the node into a pod.
pub(super) fn give(pod: &Pod<'_>, link: &str, name: &str) -> Result<()> {
    ip(&format!("link set {link} netns {}", pod.namespace().display()))?;
    pod.run(&format!("ip link set {link} name {name}")).map(drop)
}

/// The node's end of a pod's interface, and what it is plugged into.
pub(super) fn plug(pod: &Pod<'_>) -> Result<(String, String)> {
    let link: Value = serde_json::from_str(&pod.run("ip -j link show dev eth0")?)?;
    let index = link.pointer("/0/link_index").and_then(Value::as_u64);
    let index = index.context("eth0 is no veth")?;
    let links: Vec<Value> = serde_json::from_str(&ip("-j link show")?)?;
    let own = links
        .iter()
        .find(|link| link.get("ifindex").and_then(Value::as_u64) == Some(index))
        .context("no end on the node")?;
    let text = |key: &str| own.get(key).and_then(Value::as_str).map(str::to_owned);
    let name = text("ifname").context("a link without a name")?;
    let switch = text("master").with_context(|| format!("{name} is plugged into nothing"))?;
    Ok((name, switch))
}

/// Moves the guest, and the address once the source has ended: until then whoever is connected speaks to a pod without
/// a guest, which must not answer in its name.
fn move_and_swap(twins: &Twins<'_>, source: &mut Launcher<'_>, sessions: &mut [Session]) -> Result<()> {
    let target = wait_for_it(&twins.target, &TLS)?;
    let to = format!("tcp:{}:49152", MEETING[1]);
    let mut moving = source.exec(&migrate(&to, &TLS))?;
    moving.expect_exit(0, TRANSFER)?;
    source.expect_exit(0, END)?;
    for session in &mut *sessions {
        session.say("meanwhile")?;
    }
    // A reset would be here by now, by the answer of a kernel on the same machine.
    for session in &mut *sessions {
        let error = session.hear("meanwhile", Duration::from_secs(1)).err();
        let error = format!(
            "{:#}",
            error.context("the guest was reached in the pod that it has left")?
        );
        ensure!(error.contains("no meanwhile in"), "{error}");
    }
    twins.swap()?;
    for session in &mut *sessions {
        session.hear("meanwhile", RETRY)?;
        session.say("after")?;
        session.hear("after", SERVE)?;
    }
    drop(target);
    Ok(())
}

/// Issue: masquerade's row, "a guest behind a pod whose IP stays the same keeps its TCP connections".
pub(super) fn masquerade_at_the_same_address(lab: &Lab) -> Result<()> {
    let twins = Twins::create(lab, "same", &manifest())?;
    let mut source = twins.source.launch("run", ROOT)?;
    wait_for_both_families(&source)?;
    connections_go_on(&twins, &mut source)
}

/// Connections that others have opened, and one of the guest's own.
pub(super) fn connections_go_on(twins: &Twins<'_>, source: &mut Launcher<'_>) -> Result<()> {
    let mut sessions = Vec::new();
    for address in twins.source.addresses() {
        guest::greet_within(address, PORT, SERVE)?;
        sessions.push(Session::open(address)?);
    }
    let node: IpAddr = NODE_IPV4.parse()?;
    let counter = Counter::listen(node)?;
    guest::execute(twins.source.ipv4.into(), &counter.script(node))?;
    counter
        .beyond(3, SERVE)
        .context("a connection of the guest's own")?;
    let talks: Vec<_> = twins
        .source
        .addresses()
        .into_iter()
        .map(|address| Session::open(address).map(Talk::begin))
        .collect::<Result<_>>()?;
    move_and_swap(twins, source, &mut sessions)?;
    for talk in talks {
        talk.end(RETRY).context("what was said all the time")?;
    }
    let counted = counter.counted();
    counter.beyond(counted + 3, RETRY).with_context(|| {
        let seen = guest::execute(
            twins.source.ipv4.into(),
            "cat /proc/uptime /tmp/number; tail -n 1 /tmp/counted; netstat -tn; ps",
        );
        let known = twins.target.run("conntrack -L -p tcp");
        let own = output(Command::new("ss").args(["-tnoi", "sport", "=", &counter.port.to_string()]));
        format!("the guest's own connection, after the move: {seen:?}; {known:?}; {own:?}")
    })?;
    Ok(())
}

/// Issue: bridge's row, on the pod network, where KubeVirt's annotation allows it.
pub(super) fn bridge_on_the_pod_network(lab: &Lab) -> Result<()> {
    let mut manifest = bridge::manifest("podbridge");
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces/0/macAddress",
        json!("02:00:5e:00:53:08"),
    );
    vmi::set(
        &mut manifest,
        "/metadata/annotations",
        json!({"kubevirt.io/allow-pod-bridge-network-live-migration": ""}),
    );
    let twins = Twins::create(lab, "podbridge", &manifest)?;
    let mut source = twins.source.launch("run", ROOT)?;
    bridge::wait_for_the_pods_addresses(&twins.source, &source)?;
    let mut sessions = Vec::new();
    for address in twins.source.addresses() {
        guest::greet_within(address, PORT, SERVE)?;
        sessions.push(Session::open(address)?);
    }
    move_and_swap(&twins, &mut source, &mut sessions)
}

/// A network of the node that both pods are on, by an interface called [`RED`]. The pods have what `addresses` says.
pub(super) fn red_network(pods: [&Pod<'_>; 2], name: &str, node: &[&str], addresses: &[&str]) -> Result<Lan> {
    ip(&format!("link add {name} type bridge"))?;
    let lan = Lan(name.to_owned());
    for address in node {
        ip(&format!("address add {address} dev {name} nodad"))?;
    }
    ip(&format!("link set {name} up"))?;
    for (index, pod) in pods.into_iter().enumerate() {
        let (ours, theirs) = (format!("{name}-{index}"), format!("{name}-{index}p"));
        ip(&format!("link add {ours} type veth peer name {theirs}"))?;
        ip(&format!("link set {ours} master {name} up"))?;
        give(pod, &theirs, RED)?;
        // Each kernel would find the other's address.
        pod.run(&format!("sysctl -q -w net.ipv6.conf.{RED}.accept_dad=0"))?;
        for address in addresses {
            pod.run(&format!("ip address add {address} dev {RED}"))?;
        }
        pod.run(&format!("ip link set {RED} up"))?;
    }
    Ok(lan)
}

/// Gone when dropped; the pods' ends go with the pods.
#[derive(Debug)]
pub(super) struct Lan(String);

impl Lan {
    fn unplug(&self, index: usize) -> Result<()> {
        ip(&format!("link set {}-{index} nomaster", self.0)).map(drop)
    }

    fn plug(&self, index: usize) -> Result<()> {
        ip(&format!("link set {0}-{index} master {0}", self.0)).map(drop)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("link del {}", self.0)) {
            eprintln!("node: {error:#}");
        }
    }
}

/// What kind of announcement a frame of this sender is.
fn announcement(frame: &[u8], sender: [u8; 6]) -> Option<&'static str> {
    if frame.get(6..12)? != sender {
        return None;
    }
    match frame.get(12..14)? {
        [0x80, 0x35] => Some("RARP"),
        [8, 6] => (frame.get(28..32)? == frame.get(38..42)?).then_some("gratuitous ARP"),
        [0x86, 0xdd] => {
            let to_all = frame.get(..6)? == ALL_NODES;
            (to_all && frame.get(20) == Some(&58) && frame.get(54) == Some(&136))
                .then_some("neighbour advertisement")
        }
        _ => None,
    }
}

/// Seconds of the day in a line of hawser's log.
fn second_of_day(line: &str) -> Result<f64> {
    let time = line
        .split_once('T')
        .and_then(|(_, rest)| rest.split_once('Z'))
        .with_context(|| format!("no time in {line:?}"))?
        .0;
    let mut seconds = 0.0;
    for part in time.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>()?;
    }
    Ok(seconds)
}

/// Each kind of announcement of this sender is in the capture, and none from before the commit that the source tells of.
pub(super) fn announced(lab: &Lab, capture: &Capture, mac: [u8; 6], source: &Launcher<'_>) -> Result<()> {
    // The last of them comes some seconds later.
    let committed = second_of_day(
        &source
            .console
            .wait_for(r#"event="migration-step" step="committed""#, SERVE)?,
    )?;
    std::thread::sleep(Duration::from_secs(5));
    let mut seen: Vec<(f64, &str)> = Vec::new();
    for (time, frame) in capture.timed_frames()? {
        if let Some(kind) = announcement(&frame, mac) {
            seen.push((time.as_secs_f64() % 86400.0 - committed, kind));
        }
    }
    for (time, kind) in &seen {
        lab.record("announcements", &format!("{time:.3} s after the commit: {kind}"))?;
    }
    let early = seen.iter().find(|(time, _)| *time < 0.0);
    ensure!(early.is_none(), "before the commit: {early:?}");
    for kind in ["RARP", "gratuitous ARP", "neighbour advertisement"] {
        ensure!(
            seen.iter().any(|(_, other)| *other == kind),
            "no {kind}: {seen:?}"
        );
    }
    Ok(())
}

/// Issue: bridge's row on a shared L2, and what is announced there, and when.
pub(super) fn bridge_on_a_shared_network(lab: &Lab) -> Result<()> {
    let source = Pod::create(lab, "shared-a", &[FORWARD_IPV6])?;
    let target = Pod::create(lab, "shared-b", &[FORWARD_IPV6])?;
    let pods = [&source, &target];
    let lan = red_network(
        pods,
        "lan0",
        &["10.95.0.1/24", "fd95::1/64"],
        &["10.95.0.5/24", "fd95::5/64"],
    )?;
    // Two pods with one address: not before the target's is the guest's alone.
    lan.unplug(1)?;
    let mac = [2, 0, 0x5e, 0, 0x53, 9];
    let mut manifest = manifest();
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([
            {"name": "default", "masquerade": {}, "macAddress": "02:00:5e:00:53:07"},
            {"name": "red", "bridge": {}, "macAddress": "02:00:5e:00:53:09"},
        ]),
    );
    vmi::set(
        &mut manifest,
        "/spec/networks",
        json!([{"name": "default", "pod": {}}, {"name": "red", "multus": {"networkName": "red"}}]),
    );
    let authority = Authority::new("migration")?;
    for pod in pods {
        pod.set_manifest(&manifest)?;
        authority.issue(&pod.certificates()?, vmi::LAUNCHERS, &pod.addresses())?;
    }
    let mut launcher = source.launch("run", ROOT)?;
    launcher
        .console
        .wait_for("guest: ipv4 eth1 10.95.0.5/24 ", BOOT)?;
    launcher.console.wait_for("guest: ipv6 eth1 fd95::5 ", BOOT)?;
    let mut sessions = Vec::new();
    for address in ["10.95.0.5", "fd95::5"] {
        let address: IpAddr = address.parse()?;
        guest::greet_within(address, PORT, SERVE)?;
        sessions.push(Session::open(address)?);
    }
    let arrived = wait_for_it(&target, &TLS)?;
    lan.plug(1)?;
    let capture = Capture::start_on("lan0")?;
    let to = url(&target);
    let mut moving = launcher.exec(&migrate(&to, &TLS))?;
    moving.expect_exit(0, TRANSFER)?;
    launcher.expect_exit(0, END)?;
    for session in &mut sessions {
        session.say("after")?;
        session.hear("after", RETRY)?;
    }
    arrived
        .console
        .wait_for(r#"event="addresses-announced""#, SERVE)?;
    announced(lab, &capture, mac, &launcher)?;
    ensure!(Path::new("/sys/class/net/lan0").exists(), "the network is gone");
    drop(lan);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_told_from_other_frames() {
        let mac = [2, 0, 0, 0, 0, 7];
        let arp = |sender: u8, wanted: u8| {
            let mut frame = vec![0xff; 6];
            frame.extend(mac);
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(mac);
            frame.extend([10, 0, 0, sender, 0, 0, 0, 0, 0, 0, 10, 0, 0, wanted]);
            frame
        };
        assert_eq!(announcement(&arp(5, 5), mac), Some("gratuitous ARP"));
        assert_eq!(announcement(&arp(5, 6), mac), None);
        assert_eq!(announcement(&arp(5, 5), [9; 6]), None);
        let mut rarp = arp(5, 5);
        rarp.splice(12..14, [0x80, 0x35]);
        assert_eq!(announcement(&rarp, mac), Some("RARP"));
    }

    #[test]
    fn the_time_of_a_line() {
        let line =
            "2026-11-26T01:02:03.500000Z  INFO migration: committed: the guest is committed to the target";
        assert_eq!(second_of_day(line).unwrap(), 3723.5);
        assert!(second_of_day("guest: ready").is_err());
    }
}
