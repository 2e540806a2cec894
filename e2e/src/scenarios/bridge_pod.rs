//! What a guest on a bridge means to its pod and to the network: what is seen on the wire, and what is left in the end.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::bridge::{by_link_local, has4, has6, mac_of, manifest, routes6, start, traffic4, traffic6};
use super::running::{Running, WAIT, eventually, exit_code, expect_exit};
use super::traffic::{TcpServer, reaches};
use crate::guests::{Client, Guest};
use crate::netns::Snapshot;
use crate::packets::{Capture, mac};
use crate::pods::{GUEST_MAC, NODE4, POD4, Pod, PodSpec, Privileges, VMM_UID, link_local, set, vmi};
use crate::process::{output, until};
use crate::report::Scenario;
use crate::standin_script::Script;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "without addresses a plain wire",
        run: plain,
    },
    Scenario {
        name: "nothing of hawser's on the pod's wire",
        run: quiet,
    },
    Scenario {
        name: "the interface keeps its name, MAC, addresses and routes, and is of no use to the pod",
        run: kept,
    },
    Scenario {
        name: "the end leaves the pod as it was",
        run: leaves_as_found,
    },
    Scenario {
        name: "killed while the guest runs, then run again",
        run: |c| killed(c, false),
    },
    Scenario {
        name: "killed and its state directory lost, then run again",
        run: |c| killed(c, true),
    },
    Scenario {
        name: "killed at many points of its start and end, its state directory lost or not",
        run: kill_sweep,
    },
    Scenario {
        name: "uid 107 with NET_ADMIN alone and a read-only /proc/sys",
        run: net_admin,
    },
    Scenario {
        name: "set up as root, run with no capability",
        run: setup_then_run,
    },
    Scenario {
        name: "masquerade and bridge in one guest",
        run: two_bindings,
    },
];

/// What a guest asks for goes to whoever is on the network.
fn plain(context: &Context) -> Result<()> {
    let mut before = None;
    let mut running = start(context, PodSpec::default(), &manifest(), |pod| {
        pod.netns.ip("address flush dev eth0 scope global")?;
        pod.netns.ip("-6 route flush dev eth0 proto boot")?;
        before = Some(pod.netns.snapshot()?);
        Ok(())
    })?;
    let links = running.pod.netns.ip("link show")?;
    ensure!(!links.contains("srv0"), "{links}");
    let wire = running.pod.node.run(Capture::start)?;
    let client = running.guest.udhcpc(&[])?;
    until("the guest's DISCOVER on the wire", WAIT, || {
        let asked = wire.frames()?.iter().any(|frame| udp_port(frame) == Some(67));
        Ok(asked.then_some(()))
    })?;
    drop(client);
    let guest = &running.guest.netns;
    guest.ip(&format!("address add {POD4}/24 dev eth0"))?;
    guest.ip(&format!("route add default via {NODE4}"))?;
    traffic4(&running)?;
    running.stop_cleanly()?;
    as_before(&before.context("no snapshot")?, &running.pod)
}

/// Destination port of an IPv4 or IPv6 frame with UDP.
fn udp_port(frame: &[u8]) -> Option<u16> {
    let at = match (frame.get(12..14)?, frame.get(23), frame.get(20)) {
        ([8, 0], Some(17), _) => 36,
        ([0x86, 0xdd], _, Some(17)) => 56,
        _ => return None,
    };
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

/// Everything that the node's end of the pod's wire sees, from before the start to after the end.
fn quiet(context: &Context) -> Result<()> {
    let mut wire = None;
    let mut pods_mac = String::new();
    let mut running = start(context, PodSpec::default(), &manifest(), |pod| {
        by_link_local(pod)?;
        pods_mac = mac_of(&pod.netns, "eth0")?;
        wire = Some(pod.node.run(Capture::start)?);
        Ok(())
    })?;
    let wire = wire.context("no capture")?;
    let clients = running.guest.client(Client::Dhclient)?;
    eventually(&running, &clients, || {
        has4(&running, &format!("{POD4}/24"), Some(NODE4))?;
        has6(&running)
    })?;
    traffic4(&running)?;
    traffic6(&running)?;
    drop(clients);
    running.stop_cleanly()?;
    let frames = wire.frames()?;
    let (guest, node) = (mac(&pods_mac)?, mac(&mac_of(&running.pod.node, "veth0")?)?);
    ensure!(frames.len() > 20, "only {} frames were seen", frames.len());
    for frame in &frames {
        let from = frame.get(6..12).unwrap_or_default();
        ensure!(
            from == guest || from == node,
            "a frame of neither side: {frame:02x?}"
        );
        let dhcp = matches!(udp_port(frame), Some(67 | 68 | 546 | 547));
        ensure!(!dhcp, "DHCP on the pod's wire: {frame:02x?}");
    }
    Ok(())
}

fn kept(context: &Context) -> Result<()> {
    let look = |pod: &Pod| -> Result<String> {
        Ok(mac_of(&pod.netns, "eth0")?
            + &pod.netns.ip("-o address show dev eth0 scope global")?
            + &pod.netns.ip("-4 route show dev eth0")?
            + &pod.netns.ip("-6 route show dev eth0")?)
    };
    let mut before = String::new();
    let running = start(context, PodSpec::default(), &manifest(), |pod| {
        before = look(pod)?;
        Ok(())
    })?;
    let now = look(&running.pod)?;
    ensure!(now == before, "before:\n{before}\nnow:\n{now}");
    let _in_node = TcpServer::start(&running.pod.node, "node", (Ipv4Addr::UNSPECIFIED, 8080))?;
    let error = reaches(&running.pod.netns, (NODE4, 8080), "node")
        .err()
        .context("a process of the pod reached the network")?;
    ensure!(format!("{error:#}").contains("unreachable"), "{error:#}");
    Ok(())
}

pub(super) fn as_before(before: &Snapshot, pod: &Pod) -> Result<()> {
    let mut changes = Vec::new();
    // The kernel makes up a link-local address again once the link has its carrier.
    let waited = until("the pod as it was", WAIT, || {
        changes = before.changes(&pod.netns.snapshot()?);
        Ok(changes.is_empty().then_some(()))
    });
    waited.with_context(|| format!("left behind: {changes:#?}"))
}

fn leaves_as_found(context: &Context) -> Result<()> {
    let mut before = None;
    let mut running = start(context, PodSpec::default(), &manifest(), |pod| {
        before = Some(pod.netns.snapshot()?);
        Ok(())
    })?;
    let clients = running.guest.client(Client::Udhcpc)?;
    eventually(&running, &clients, || {
        has4(&running, &format!("{POD4}/24"), Some(NODE4))
    })?;
    drop(clients);
    running.stop_cleanly()?;
    as_before(&before.context("no snapshot")?, &running.pod)
}

fn killed(context: &Context, lose_state: bool) -> Result<()> {
    let mut before = None;
    let running = start(context, PodSpec::default(), &manifest(), |pod| {
        before = Some(pod.netns.snapshot()?);
        Ok(())
    })?;
    running.hawser.signal(Signal::SIGKILL)?;
    let Running {
        hawser,
        mut guest,
        pod,
    } = running;
    drop(hawser);
    pod.netns.kill_all()?;
    if lose_state {
        forget(&pod)?;
    }
    let hawser = pod.hawser("run", &manifest())?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    let clients = running.guest.client(Client::Udhcpc)?;
    eventually(&running, &clients, || {
        has4(&running, &format!("{POD4}/24"), Some(NODE4))
    })?;
    traffic4(&running)?;
    drop(clients);
    running.stop_cleanly()?;
    as_before(&before.context("no snapshot")?, &running.pod)
}

fn net_admin(context: &Context) -> Result<()> {
    let spec = PodSpec {
        privileges: Privileges::NetAdmin,
        read_only_proc_sys: true,
        ..PodSpec::default()
    };
    let mut before = None;
    let mut running = start(context, spec, &manifest(), |pod| {
        by_link_local(pod)?;
        before = Some(pod.netns.snapshot()?);
        Ok(())
    })?;
    let clients = running.guest.client(Client::Dhclient)?;
    eventually(&running, &clients, || {
        has4(&running, &format!("{POD4}/24"), Some(NODE4))?;
        has6(&running)
    })?;
    traffic4(&running)?;
    traffic6(&running)?;
    drop(clients);
    running.stop_cleanly()?;
    as_before(&before.context("no snapshot")?, &running.pod)
}

/// What the first container moved, the second finds moved, and knows what it was without asking for more.
fn setup_then_run(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    routes6(&pod)?;
    let mut setup = pod.hawser("setup", &manifest())?;
    expect_exit(exit_code(&mut setup)?, 0, &setup)?;
    output(
        std::process::Command::new("chown")
            .args(["-R", &format!("{VMM_UID}:{VMM_UID}")])
            .arg(pod.path("state")),
    )?;
    let mut entry = pod.entry();
    (entry.uid, entry.capabilities) = (Some(VMM_UID), Some(Vec::new()));
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser_as(&entry, "run", &manifest(), &[])?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    let clients = running.guest.client(Client::Dhclient)?;
    eventually(&running, &clients, || {
        has4(&running, &format!("{POD4}/24"), Some(NODE4))?;
        has6(&running)?;
        let routes = running.guest.default6()?;
        ensure!(routes.contains("via fe80:"), "default route: {routes}");
        Ok(())
    })?;
    traffic4(&running)?;
    traffic6(&running)?;
    drop(clients);
    running.stop_cleanly()
}

/// The next run must end with the pod as it was before the first, wherever that was cut.
fn kill_sweep(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let before = pod.netns.snapshot()?;
    let started = Instant::now();
    let mut pod = comes_and_goes(pod)?;
    let whole = started.elapsed();
    for point in 0..16_u32 {
        let hawser = pod.hawser("run", &manifest())?;
        if point % 4 == 3 {
            // In its end, a quarter of which is next to nothing.
            std::thread::sleep(whole);
            hawser.signal(Signal::SIGTERM)?;
            std::thread::sleep(whole * point / 128);
        } else {
            std::thread::sleep(whole * point / 24);
        }
        // It may have ended by itself, which is as good.
        let _ = hawser.signal(Signal::SIGKILL);
        drop(hawser);
        pod.netns.kill_all()?;
        if point % 2 == 0 {
            forget(&pod)?;
        }
        let _ = std::fs::remove_file(pod.port());
        pod = comes_and_goes(pod)?;
        as_before(&before, &pod).with_context(|| format!("killed at point {point} of {whole:?}"))?;
    }
    Ok(())
}

fn comes_and_goes(pod: Pod) -> Result<Pod> {
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", &manifest())?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    running.stop_cleanly()?;
    Ok(running.pod)
}

fn forget(pod: &Pod) -> Result<()> {
    std::fs::remove_dir_all(pod.path("state"))?;
    Ok(std::fs::create_dir(pod.path("state"))?)
}

/// The pod network by masquerade, and a secondary one, which Multus would have made, by bridge.
fn two_bindings(context: &Context) -> Result<()> {
    // The first 11 hex digits of the SHA-256 of "red".
    const SECOND: &str = "podb1f51a511f1";
    let mut vmi = vmi(Value::Null);
    set(
        &mut vmi,
        "/spec/domain/devices/interfaces",
        json!([
            {"name": "default", "masquerade": {}, "macAddress": GUEST_MAC},
            {"name": "red", "bridge": {}},
        ]),
    );
    set(
        &mut vmi,
        "/spec/networks",
        json!([{"name": "default", "pod": {}}, {"name": "red", "multus": {"networkName": "red"}}]),
    );
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.node.ip(&format!(
        "link add red0 type veth peer name {SECOND} netns {}",
        pod.netns.name()
    ))?;
    pod.node.ip("link set red0 up")?;
    pod.netns
        .ip(&format!("address add 198.51.100.5/24 dev {SECOND}"))?;
    pod.netns.ip(&format!("link set {SECOND} up"))?;
    pod.node.ip("address add 198.51.100.1/24 dev red0")?;
    until("its link-local address", WAIT, || link_local(&pod.netns, SECOND))?;
    let before = pod.netns.snapshot()?;
    // The guest's port is that of the secondary network here; the other TAP is opened and leads nowhere.
    let mut script = Script::default();
    script.ports.insert("tapb1f51a511f1".to_owned(), pod.port());
    pod.script(&script)?;
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", &vmi)?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    let clients = running.guest.client(Client::Udhcpc)?;
    eventually(&running, &clients, || has4(&running, "198.51.100.5/24", None))?;
    let _in_node = TcpServer::start(&running.pod.node, "node", (Ipv4Addr::UNSPECIFIED, 8080))?;
    let greeting = running.explain(reaches(
        &running.guest.netns,
        (Ipv4Addr::new(198, 51, 100, 1), 8080),
        "node",
    ))?;
    ensure!(greeting.ends_with("198.51.100.5"), "{greeting}");
    let eth0 = running.pod.netns.ip("address show dev tap0")?;
    ensure!(eth0.contains("10.0.2.1/24"), "the masqueraded TAP: {eth0}");
    drop(clients);
    running.stop_cleanly()?;
    as_before(&before, &running.pod)
}
