//! Binding plugins: devices that are the guest's as somebody else made them, and a bridge without a server.
//!
//! The macvtaps are real, on a wire of the node's; the TAPs are made by what stands in for CNI's `tap` plugin.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::chown;
use serde_json::{Value, json};

use super::Context;
use super::bridge::mac_of;
use super::running::{Running, WAIT, eventually, exit_code, expect_exit, processes};
use super::traffic::{TcpServer, reaches};
use crate::cni_tap;
use crate::guests::{Client, Guest};
use crate::netns::{Netns, Snapshot};
use crate::pods::{Pod, PodSpec, Privileges, VMM_UID, set, vmi};
use crate::process::{Process, until};
use crate::report::Scenario;
use crate::standin_script::Script;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "tap: a macvtap, as root",
        run: |c| macvtap_guest(c, Privileges::Root),
    },
    Scenario {
        name: "tap: a macvtap, as uid 107 without a capability",
        run: |c| macvtap_guest(c, Privileges::Nothing),
    },
    Scenario {
        name: "tap: a macvtap of two queue pairs in front of a masqueraded NIC, in the manifest's order",
        run: order,
    },
    Scenario {
        name: "tap: a TAP by a CNI plugin, as uid 107 without a capability",
        run: cni_tap_guest,
    },
    Scenario {
        name: "managedTap: two guests on one network",
        run: two_guests,
    },
    Scenario {
        name: "managedTap: a lease from the network's own DHCP server",
        run: own_server,
    },
    Scenario {
        name: "bridge on the interface that network-status names",
        run: by_status,
    },
    Scenario {
        name: "plan and explain",
        run: shown,
    },
];

/// The network's name, and what KubeVirt calls its interface: printf l2 | sha256sum.
pub(super) const NETWORK: &str = "l2";
pub(super) const INTERFACE: &str = "pod8a1cee436cb";
pub(super) const TAP: &str = "tap8a1cee436cb";
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

const BINDINGS: &str = "
binding:
  device: {domainAttachmentType: tap, migration: {method: link-refresh}}
  wire: {domainAttachmentType: managedTap}
";

/// One NIC, of the plugin of this name.
pub(super) fn manifest(plugin: &str) -> Value {
    let mut vmi = vmi(Value::Null);
    set(
        &mut vmi,
        "/spec/domain/devices/interfaces",
        json!([{"name": NETWORK, "binding": {"name": plugin}}]),
    );
    set(
        &mut vmi,
        "/spec/networks",
        json!([{"name": NETWORK, "multus": {"networkName": "l2-net"}}]),
    );
    vmi
}

/// hawser with the registry of plugins.
pub(super) fn hawser(pod: &Pod, verb: &str, vmi: &Value, more: &[&str]) -> Result<Process> {
    let file = pod.path("bindings.yaml");
    std::fs::write(&file, BINDINGS)?;
    let file = file.to_str().context("path is not UTF-8")?;
    let mut args = vec!["--bindings", file];
    args.extend(more);
    pod.hawser_as(&pod.entry(), verb, vmi, &args)
}

/// Runs a guest whose port is that of `device`.
fn start(pod: Pod, device: &str, vmi: &Value) -> Result<Running> {
    let mut script = Script::default();
    script.ports.insert(device.to_owned(), pod.port());
    pod.script(&script)?;
    let mut guest = Guest::new(&pod)?;
    let hawser = hawser(&pod, "run", vmi, &[])?;
    guest.booted_by(&hawser)?;
    Ok(Running { hawser, guest, pod })
}

/// A macvtap in the pod on a wire of the node's, as a CNI plugin leaves it. The kernel names its device after an index
/// that no other interface on this machine has.
pub(super) fn macvtap(pod: &Pod) -> Result<u32> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let index = 100_000 + (std::process::id() % 10_000) * 20 + NEXT.fetch_add(1, Ordering::Relaxed);
    let node = &pod.node;
    node.ip("link add up0 type veth peer name up1")?;
    node.ip("link set up0 up")?;
    node.ip("link set up1 up")?;
    node.ip(&format!("address add {OTHER}/24 dev up1"))?;
    node.ip(&format!(
        "link add link up0 name {INTERFACE} index {index} netns {} type macvtap mode bridge",
        pod.netns.name()
    ))?;
    pod.netns.ip(&format!("link set {INTERFACE} up"))?;
    Ok(index)
}

/// As a device plugin hands it out.
fn hand_over(index: u32) -> Result<()> {
    let device = format!("/dev/tap{index}");
    Ok(chown(
        device.as_str(),
        Some(VMM_UID.into()),
        Some(VMM_UID.into()),
    )?)
}

/// In and out, between the guest and whoever is at `OTHER`.
fn traffic(running: &Running, other: &Netns) -> Result<()> {
    let guest = &running.guest.netns;
    guest.ip(&format!("address add {GUEST}/24 dev eth0"))?;
    let _in_guest = TcpServer::start(guest, "guest", (ANY, 80))?;
    let _elsewhere = TcpServer::start(other, "other", (ANY, 8080))?;
    let greeting = running.explain(reaches(guest, (OTHER, 8080), "other"))?;
    ensure!(greeting.ends_with(&GUEST.to_string()), "{OTHER} sees {greeting}");
    running.explain(reaches(other, (GUEST, 80), "guest")).map(drop)
}

/// The processes of the pod that have a file open, by name.
fn holders(pod: &Pod, file: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (pid, name) in processes(pod)? {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
        let mut links = open
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok());
        if links.any(|link| link == Path::new(file)) {
            names.push(name);
        }
    }
    Ok(names)
}

fn unchanged(before: &Snapshot, pod: &Pod) -> Result<()> {
    let mut changes = before.changes(&pod.netns.snapshot()?);
    // The kernel adds it to a TAP that has been open once.
    changes.retain(|change| !change.contains(&format!("multicast ff00::/8 dev {INTERFACE} ")));
    ensure!(changes.is_empty(), "left behind: {changes:#?}");
    Ok(())
}

fn macvtap_guest(context: &Context, privileges: Privileges) -> Result<()> {
    let spec = PodSpec {
        privileges,
        ..PodSpec::default()
    };
    let pod = Pod::new(&context.programs, spec)?;
    let index = macvtap(&pod)?;
    if privileges == Privileges::Nothing {
        hand_over(index)?;
    }
    let before = pod.netns.snapshot()?;
    let mut running = start(pod, INTERFACE, &manifest("device"))?;
    let (macvtaps, guests) = (
        mac_of(&running.pod.netns, INTERFACE)?,
        mac_of(&running.guest.netns, "eth0")?,
    );
    ensure!(
        guests == macvtaps,
        "the guest has {guests}, the macvtap {macvtaps}"
    );
    traffic(&running, &running.pod.node)?;
    let holders = holders(&running.pod, &format!("/dev/tap{index}"))?;
    ensure!(holders == ["standin-vmm"], "the device is open in {holders:?}");
    // Nothing is changed while it runs either.
    unchanged(&before, &running.pod)?;
    running.stop_cleanly()?;
    unchanged(&before, &running.pod)
}

fn order(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    macvtap(&pod)?;
    let mut vmi = manifest("device");
    set(&mut vmi, "/spec/domain/cpu", json!({"cores": 2}));
    set(
        &mut vmi,
        "/spec/domain/devices/interfaces",
        json!([{"name": NETWORK, "binding": {"name": "device"}}, {"name": "default", "masquerade": {}}]),
    );
    set(
        &mut vmi,
        "/spec/networks",
        json!([{"name": "default", "pod": {}}, {"name": NETWORK, "multus": {"networkName": "l2-net"}}]),
    );
    let before = pod.netns.snapshot()?;
    let mut running = start(pod, INTERFACE, &vmi)?;
    let said = running.hawser.stdout();
    let place = |device: &str| said.find(&format!("frames of {device} "));
    let (first, second) = (place(INTERFACE), place("tap0"));
    ensure!(
        first.is_some() && first < second,
        "the NICs in another order: {said}"
    );
    traffic(&running, &running.pod.node)?;
    running.stop_cleanly()?;
    unchanged(&before, &running.pod)
}

fn cni_tap_guest(context: &Context) -> Result<()> {
    let spec = PodSpec {
        privileges: Privileges::Nothing,
        ..PodSpec::default()
    };
    let pod = Pod::new(&context.programs, spec)?;
    let before_cni = pod.netns.snapshot()?;
    let configuration = json!({"owner": VMM_UID, "group": VMM_UID, "mtu": 1400});
    let namespace = pod.netns.path();
    cni_tap::call("ADD", &namespace, INTERFACE, &configuration)?;
    // Or the kernel makes one up once somebody has the TAP open, whoever that is.
    pod.netns.ip(&format!("link set {INTERFACE} addrgenmode none"))?;
    pod.netns.ip(&format!("address add {OTHER}/24 dev {INTERFACE}"))?;
    let before = pod.netns.snapshot()?;
    let mut running = start(pod, INTERFACE, &manifest("device"))?;
    let (taps, guests) = (
        mac_of(&running.pod.netns, INTERFACE)?,
        mac_of(&running.guest.netns, "eth0")?,
    );
    ensure!(guests == taps, "the guest has {guests}, the TAP {taps}");
    traffic(&running, &running.pod.netns)?;
    running.stop_cleanly()?;
    unchanged(&before, &running.pod)?;
    cni_tap::call("CHECK", &namespace, INTERFACE, &configuration)?;
    cni_tap::call("DEL", &namespace, INTERFACE, &configuration)?;
    unchanged(&before_cni, &running.pod)
}

/// The two pods' interfaces are the ends of one wire.
fn two_guests(context: &Context) -> Result<()> {
    let pods = [
        Pod::new(&context.programs, PodSpec::default())?,
        Pod::new(&context.programs, PodSpec::default())?,
    ];
    let [one, two] = &pods;
    one.netns.ip(&format!(
        "link add {INTERFACE} type veth peer name {INTERFACE} netns {}",
        two.netns.name()
    ))?;
    for pod in &pods {
        pod.netns.ip(&format!("link set {INTERFACE} up"))?;
        // What a CNI plugin's IPAM gave, which a plain wire has no use for.
        pod.netns.ip(&format!("address add {OTHER}/24 dev {INTERFACE}"))?;
    }
    let [one, two] = pods;
    let mut before = Vec::new();
    let mut running = Vec::new();
    for pod in [one, two] {
        before.push(pod.netns.snapshot()?);
        running.push(start(pod, TAP, &manifest("wire"))?);
    }
    if let [one, two] = running.as_slice() {
        two.guest.netns.ip(&format!("address add {OTHER}/24 dev eth0"))?;
        traffic(one, &two.guest.netns)?;
        let links = one.pod.netns.ip("link show")?;
        ensure!(!links.contains("srv"), "a server: {links}");
        let rules = one.pod.netns.nft("list ruleset")?;
        // Those that keep the pod's kernel off the wire, and none that takes frames from the guest.
        ensure!(
            rules.contains("chain local-in") && !rules.contains("fwd to"),
            "rules: {rules}"
        );
    }
    for (running, before) in running.iter_mut().zip(&before) {
        running.stop_cleanly()?;
        until("the pod as it was", WAIT, || {
            Ok(before
                .changes(&running.pod.netns.snapshot()?)
                .is_empty()
                .then_some(()))
        })
        .or_else(|_| unchanged(before, &running.pod))?;
    }
    Ok(())
}

/// busybox' server on the network outside the pod.
fn udhcpd(pod: &Pod, interface: &str) -> Result<Process> {
    let (file, leases) = (pod.path("udhcpd.conf"), pod.path("udhcpd.leases"));
    std::fs::write(&leases, "")?;
    std::fs::write(
        &file,
        format!(
            "start 10.9.0.5\nend 10.9.0.5\ninterface {interface}\nlease_file {}\nopt subnet 255.255.255.0\nopt router              10.9.0.1\n",
            leases.display()
        ),
    )?;
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", pod.node.name(), "/usr/sbin/udhcpd", "-f"])
        .arg(file);
    Process::spawn("udhcpd", &mut command)
}

fn own_server(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.node.ip(&format!(
        "link add up0 type veth peer name {INTERFACE} netns {}",
        pod.netns.name()
    ))?;
    pod.node.ip("link set up0 up")?;
    pod.node.ip(&format!("address add {OTHER}/24 dev up0"))?;
    pod.netns.ip(&format!("link set {INTERFACE} up"))?;
    let server = udhcpd(&pod, "up0")?;
    let running = start(pod, TAP, &manifest("wire"))?;
    let clients = running.guest.client(Client::Udhcpc)?;
    eventually(&running, &clients, || {
        ensure!(
            running.guest.has_address(&format!("{GUEST}/24"))?,
            "no lease; the server said:\n{}",
            server.transcript()
        );
        Ok(())
    })?;
    let _node = TcpServer::start(&running.pod.node, "node", (ANY, 8080))?;
    running
        .explain(reaches(&running.guest.netns, (OTHER, 8080), "node"))
        .map(drop)
}

/// A file as Multus writes the annotation.
pub(super) fn status(pod: &Pod, interface: &str) -> Result<String> {
    let file = pod.path("network-status");
    let entries = json!([
        {"name": "cbr0", "interface": "eth0", "default": true, "ips": []},
        {"name": "ns/l2-net", "interface": interface, "mac": "02:00:00:00:00:07"},
    ]);
    std::fs::write(&file, entries.to_string())?;
    Ok(file.to_str().context("path is not UTF-8")?.to_owned())
}

fn by_status(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.node.ip(&format!(
        "link add up0 type veth peer name ens7 netns {}",
        pod.netns.name()
    ))?;
    pod.node.ip("link set up0 up")?;
    pod.node.ip(&format!("address add {OTHER}/24 dev up0"))?;
    pod.netns.ip("link set ens7 up")?;
    pod.netns.ip(&format!("address add {GUEST}/24 dev ens7"))?;
    let mut vmi = manifest("wire");
    set(
        &mut vmi,
        "/spec/domain/devices/interfaces",
        json!([{"name": NETWORK, "bridge": {}}]),
    );
    let file = status(&pod, "ens7")?;
    let before = pod.netns.snapshot()?;
    let mut planned = hawser(&pod, "plan", &vmi, &["--network-status", &file, "-o", "json"])?;
    expect_exit(exit_code(&mut planned)?, 0, &planned)?;
    let plan: Value = serde_json::from_str(&planned.stdout())?;
    let tap = plan
        .pointer("/plan/nics/0/tap")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let mut script = Script::default();
    script.ports.insert(tap, pod.port());
    pod.script(&script)?;
    let mut guest = Guest::new(&pod)?;
    let hawser = hawser(&pod, "run", &vmi, &["--network-status", &file])?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    let clients = running.guest.client(Client::Udhcpc)?;
    eventually(&running, &clients, || {
        ensure!(running.guest.has_address(&format!("{GUEST}/24"))?, "no lease");
        Ok(())
    })?;
    drop(clients);
    running.stop_cleanly()?;
    until("the pod as it was", WAIT, || {
        Ok(before
            .changes(&running.pod.netns.snapshot()?)
            .is_empty()
            .then_some(()))
    })
    .or_else(|_| unchanged(&before, &running.pod))
}

fn shown(context: &Context) -> Result<()> {
    let spec = PodSpec {
        privileges: Privileges::Nothing,
        ..PodSpec::default()
    };
    let pod = Pod::new(&context.programs, spec)?;
    let index = macvtap(&pod)?;
    let before = pod.netns.snapshot()?;
    let say = |verb: &str, more: &[&str]| -> Result<String> {
        let mut hawser = hawser(&pod, verb, &manifest("device"), more)?;
        expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
        Ok(hawser.stdout())
    };
    let text = say("plan", &[])?;
    for part in [
        format!("/dev/tap{index}, the macvtap {INTERFACE}"),
        "no NIC needs the pod wired".to_owned(),
    ] {
        ensure!(text.contains(&part), "no {part:?} in: {text}");
    }
    let plan: Value = serde_json::from_str(&say("plan", &["-o", "json"])?)?;
    ensure!(
        plan.pointer("/cni/0/device/macvtap/index") == Some(&json!(index)),
        "{plan:#}"
    );
    ensure!(plan.pointer("/plan/steps") == Some(&json!([])), "{plan:#}");
    let dot = say("plan", &["-o", "dot"])?;
    ensure!(dot.contains(INTERFACE) && dot.contains("by descriptor"), "{dot}");
    let text = say("explain", &[])?;
    ensure!(
        text.contains("can migrate  no: cloud-hypervisor gets a macvtap"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&say("explain", &["-o", "json"])?)?;
    ensure!(
        json.pointer("/interfaces/0/migration/possible") == Some(&json!(false)),
        "{json:#}"
    );
    unchanged(&before, &pod)
}
