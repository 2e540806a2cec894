//! Guests on a bridge: the pod's address handed on, traffic both ways, and a pod that is then as it was.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::running::{Running, WAIT};
use super::traffic::{TcpServer, reaches};
use crate::guests::{Client, Guest};
use crate::netns::Snapshot;
use crate::packets::{Capture, mac};
use crate::pods::{
    DefaultRoute6, FAR4, FAR6, GUEST_MAC, MTU, NODE4, NODE6, POD4, POD6, Pod, PodSpec, link_local, set, vmi,
};
use crate::process::{Process, until};
use crate::report::Scenario;
use crate::standin_script::Script;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "udhcpc: the pod's IPv4 address, MAC and MTU",
        run: |c| handed_on4(c, Client::Udhcpc),
    },
    Scenario {
        name: "dhclient: the pod's IPv4 address, MAC and MTU",
        run: |c| handed_on4(c, Client::Dhclient),
    },
    Scenario {
        name: "systemd-networkd: the pod's IPv4 address, MAC and MTU",
        run: |c| handed_on4(c, Client::Networkd),
    },
    Scenario {
        name: "dhclient: the pod's IPv6 address, and a router that is silent",
        run: |c| handed_on6(c, Client::Dhclient, by_link_local),
    },
    Scenario {
        name: "dhcpcd: the pod's IPv6 address, and a router that is silent",
        run: |c| handed_on6(c, Client::Dhcpcd, by_link_local),
    },
    Scenario {
        name: "systemd-networkd: the pod's IPv6 address, and a router that is silent",
        run: |c| handed_on6(c, Client::Networkd, by_link_local),
    },
    Scenario {
        name: "dhclient: a router that the pod knows by a global address",
        run: |c| handed_on6(c, Client::Dhclient, routes6),
    },
    Scenario {
        name: "systemd-networkd: a router that the pod knows by a global address",
        run: |c| handed_on6(c, Client::Networkd, routes6),
    },
    Scenario {
        name: "IPv6 from a router that advertises itself",
        run: advertised,
    },
    Scenario {
        name: "no IPv6 default route where no router could be named, and hawser says so",
        run: unknown_router,
    },
    Scenario {
        name: "udhcpc: a /32 with a gateway on the link",
        run: |c| host_address(c, Client::Udhcpc),
    },
    Scenario {
        name: "dhclient: a /32 with a gateway on the link",
        run: |c| host_address(c, Client::Dhclient),
    },
    Scenario {
        name: "udhcpc: a point-to-point address",
        run: |c| point_to_point(c, Client::Udhcpc),
    },
    Scenario {
        name: "a pod without routes",
        run: no_routes,
    },
    Scenario {
        name: "without addresses a plain wire",
        run: plain,
    },
    Scenario {
        name: "the manifest's own MAC",
        run: custom_mac,
    },
    Scenario {
        name: "udhcpc renews and releases",
        run: renews,
    },
    Scenario {
        name: "nothing of hawser's on the pod's wire",
        run: quiet,
    },
    Scenario {
        name: "a device of the old name with the old addresses, down",
        run: stand_in,
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
        name: "masquerade and bridge in one guest",
        run: two_bindings,
    },
];

const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

fn manifest() -> Value {
    let mut vmi = vmi(Value::Null);
    set(
        &mut vmi,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "bridge": {}}]),
    );
    vmi
}

/// A pod whose network `arrange` changes before hawser sees it.
fn start(
    context: &Context,
    spec: PodSpec,
    vmi: &Value,
    arrange: impl FnOnce(&Pod) -> Result<()>,
) -> Result<Running> {
    let pod = Pod::new(&context.programs, spec)?;
    arrange(&pod)?;
    pod.script(&Script::default())?;
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", vmi)?;
    guest.booted_by(&hawser)?;
    Ok(Running { hawser, guest, pod })
}

fn running(context: &Context) -> Result<Running> {
    start(context, PodSpec::default(), &manifest(), |_| Ok(()))
}

/// Runs `check` until it holds; the last reason why not is the failure.
fn eventually(running: &Running, said: &[Process], check: impl Fn() -> Result<()>) -> Result<()> {
    let mut last = None;
    let outcome = until("the guest's configuration", WAIT, || match check() {
        Ok(()) => Ok(Some(())),
        Err(error) => {
            last = Some(error);
            Ok(None)
        }
    });
    let Err(timeout) = outcome else { return Ok(()) };
    let said: String = said.iter().map(Process::transcript).collect();
    running.explain(Err(last
        .unwrap_or(timeout)
        .context(format!("the client said:\n{said}"))))
}

fn has4(running: &Running, address: &str, default: Option<Ipv4Addr>) -> Result<()> {
    let guest = &running.guest;
    ensure!(guest.has_address(address)?, "no {address}");
    let routes = guest.netns.ip("-4 route show")?;
    match default {
        Some(router) => ensure!(
            routes.contains(&format!("default via {router}")),
            "routes: {routes}"
        ),
        None => ensure!(!routes.contains("default"), "routes: {routes}"),
    }
    Ok(())
}

/// In and out, to the node and beyond it, and everybody sees the pod's address.
fn traffic4(running: &Running) -> Result<()> {
    let (guest, node) = (&running.guest.netns, &running.pod.node);
    let _in_guest = TcpServer::start(guest, "guest", (Ipv4Addr::UNSPECIFIED, 80))?;
    let _in_node = TcpServer::start(node, "node", (Ipv4Addr::UNSPECIFIED, 8080))?;
    running.explain(reaches(node, (POD4, 80), "guest"))?;
    for to in [NODE4, FAR4] {
        let greeting = running.explain(reaches(guest, (to, 8080), "node"))?;
        ensure!(greeting.ends_with(&POD4.to_string()), "{to} sees {greeting}");
    }
    Ok(())
}

fn traffic6(running: &Running) -> Result<()> {
    let (guest, node) = (&running.guest.netns, &running.pod.node);
    let _in_guest = TcpServer::start(guest, "guest", (ANY6, 80))?;
    let _in_node = TcpServer::start(node, "node", (ANY6, 8080))?;
    running.explain(reaches(node, (POD6, 80), "guest"))?;
    for to in [NODE6, FAR6] {
        let greeting = running.explain(reaches(guest, (to, 8080), "node"))?;
        ensure!(greeting.ends_with(&POD6.to_string()), "{to} sees {greeting}");
    }
    Ok(())
}

fn mac_of(netns: &crate::netns::Netns, link: &str) -> Result<String> {
    let found = netns.ip_json(&format!("link show dev {link}"))?;
    Ok(found
        .pointer("/0/address")
        .and_then(Value::as_str)
        .context("no MAC")?
        .to_owned())
}

fn handed_on4(context: &Context, client: Client) -> Result<()> {
    let mut pods_mac = String::new();
    let running = start(context, PodSpec::default(), &manifest(), |pod| {
        pods_mac = mac_of(&pod.netns, "eth0")?;
        Ok(())
    })?;
    let clients = running.guest.client(client)?;
    eventually(&running, &clients, || {
        has4(&running, &format!("{POD4}/24"), Some(NODE4))?;
        let guest = &running.guest.netns;
        let mtu = guest.ip("link show dev eth0")? + &guest.ip("-4 route show")?;
        ensure!(mtu.contains(&format!("mtu {MTU}")), "MTU: {mtu}");
        if client != Client::Networkd {
            let resolv = running.guest.resolv_conf()?;
            ensure!(resolv.contains("nameserver 10.96.0.10"), "resolv.conf: {resolv}");
        }
        Ok(())
    })?;
    let guests = mac_of(&running.guest.netns, "eth0")?;
    ensure!(
        guests == pods_mac,
        "the guest has {guests}, the pod had {pods_mac}"
    );
    traffic4(&running)
}

/// A neighbour that does not say that it is a router is forgotten as one (RFC 4861, section 7.2.5).
fn routes6(pod: &Pod) -> Result<()> {
    pod.node.set_sysctl("net.ipv6.conf.all.forwarding", "1")
}

/// The pod's default route by the node's link-local address, as Calico sets it.
fn by_link_local(pod: &Pod) -> Result<()> {
    routes6(pod)?;
    let node = until("the node's link-local address", WAIT, || {
        link_local(&pod.node, "veth0")
    })?;
    pod.netns
        .ip(&format!("-6 route replace default via {node} dev eth0"))?;
    Ok(())
}

fn has6(running: &Running) -> Result<()> {
    let addresses = running
        .guest
        .netns
        .ip("-6 -o address show dev eth0 scope global -tentative")?;
    ensure!(addresses.contains(&format!("{POD6}/")), "no {POD6}: {addresses}");
    Ok(())
}

fn handed_on6(context: &Context, client: Client, arrange: fn(&Pod) -> Result<()>) -> Result<()> {
    let running = start(context, PodSpec::default(), &manifest(), arrange)?;
    let node = link_local(&running.pod.node, "veth0")?.context("no link-local address")?;
    let clients = running.guest.client(client)?;
    eventually(&running, &clients, || {
        has6(&running)?;
        let routes = running.guest.default6()?;
        ensure!(routes.contains(&format!("via {node}")), "default route: {routes}");
        Ok(())
    })?;
    traffic6(&running)
}

fn advertised(context: &Context) -> Result<()> {
    let spec = PodSpec {
        default_route6: DefaultRoute6::Advertised,
        ..PodSpec::default()
    };
    let running = start(context, spec, &manifest(), routes6)?;
    let guest = until("the guest's link-local address", WAIT, || {
        link_local(&running.guest.netns, "eth0")
    })?;
    let node = link_local(&running.pod.node, "veth0")?.context("no link-local address")?;
    let clients = running.guest.client(Client::Dhclient)?;
    eventually(&running, &clients, || {
        running
            .pod
            .node
            .run(|| crate::packets::send_router_advertisement(guest, "veth0"))?;
        has6(&running)?;
        let routes = running.guest.default6()?;
        ensure!(routes.contains(&format!("via {node}")), "default route: {routes}");
        ensure!(routes.matches("via").count() == 1, "a second router: {routes}");
        Ok(())
    })?;
    traffic6(&running)
}

fn unknown_router(context: &Context) -> Result<()> {
    let running = start(context, PodSpec::default(), &manifest(), |pod| {
        let usual = until("the node's link-local address", WAIT, || {
            link_local(&pod.node, "veth0")
        })?;
        pod.node.ip(&format!("address del {usual}/64 dev veth0"))?;
        pod.node.ip("address add fe80::77/64 dev veth0").map(drop)
    })?;
    let clients = running.guest.client(Client::Dhclient)?;
    eventually(&running, &clients, || has6(&running))?;
    let routes = running.guest.default6()?;
    ensure!(!routes.contains("via"), "default route: {routes}");
    let said = running.hawser.stderr();
    ensure!(said.contains("no IPv6 default route"), "{said}");
    let _in_node = TcpServer::start(&running.pod.node, "node", (ANY6, 8080))?;
    reaches(&running.guest.netns, (NODE6, 8080), "node")
        .context("the link itself")
        .map(drop)
}

fn host_address(context: &Context, client: Client) -> Result<()> {
    let running = start(context, PodSpec::default(), &manifest(), |pod| {
        for command in [
            "address flush dev eth0 scope global".to_owned(),
            format!("address add {POD4}/32 dev eth0"),
            "route add 169.254.1.1 dev eth0 scope link".into(),
            "route add default via 169.254.1.1 dev eth0".into(),
        ] {
            pod.netns.ip(&command)?;
        }
        pod.node.ip("address add 169.254.1.1/32 dev veth0").map(drop)
    })?;
    let clients = running.guest.client(client)?;
    let gateway = Ipv4Addr::new(169, 254, 1, 1);
    eventually(&running, &clients, || {
        has4(&running, &format!("{POD4}/32"), Some(gateway))
    })?;
    traffic4(&running)
}

fn point_to_point(context: &Context, client: Client) -> Result<()> {
    let running = start(context, PodSpec::default(), &manifest(), |pod| {
        for command in [
            "address flush dev eth0 scope global".to_owned(),
            format!("address add {POD4} peer {NODE4} dev eth0"),
            format!("route add default via {NODE4} dev eth0"),
        ] {
            pod.netns.ip(&command)?;
        }
        Ok(())
    })?;
    let clients = running.guest.client(client)?;
    eventually(&running, &clients, || {
        has4(&running, &format!("{POD4}/32"), Some(NODE4))
    })?;
    traffic4(&running)
}

fn no_routes(context: &Context) -> Result<()> {
    let running = start(context, PodSpec::default(), &manifest(), |pod| {
        pod.netns.ip("route del default").map(drop)
    })?;
    let clients = running.guest.client(Client::Udhcpc)?;
    eventually(&running, &clients, || has4(&running, &format!("{POD4}/24"), None))?;
    let _in_node = TcpServer::start(&running.pod.node, "node", (Ipv4Addr::UNSPECIFIED, 8080))?;
    reaches(&running.guest.netns, (NODE4, 8080), "node").map(drop)
}

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

fn custom_mac(context: &Context) -> Result<()> {
    let mut vmi = manifest();
    set(
        &mut vmi,
        "/spec/domain/devices/interfaces/0/macAddress",
        json!(GUEST_MAC),
    );
    let running = start(context, PodSpec::default(), &vmi, |_| Ok(()))?;
    let clients = running.guest.client(Client::Udhcpc)?;
    eventually(&running, &clients, || {
        has4(&running, &format!("{POD4}/24"), Some(NODE4))
    })?;
    let guests = mac_of(&running.guest.netns, "eth0")?;
    ensure!(guests == GUEST_MAC, "the guest has {guests}");
    traffic4(&running)
}

/// A renewal goes to the server alone, whose address is on no interface.
fn renews(context: &Context) -> Result<()> {
    let running = running(context)?;
    let client = running.guest.udhcpc(&["-R"])?;
    running.explain(client.wait_for("lease of 10.244.0.5 obtained", 1, WAIT))?;
    client.signal(Signal::SIGUSR1)?;
    running.explain(client.wait_for("lease of 10.244.0.5 obtained", 2, WAIT))?;
    client.signal(Signal::SIGUSR2)?;
    running.explain(client.wait_for("sending release", 1, WAIT))?;
    drop(client);
    let clients = running.guest.client(Client::Udhcpc)?;
    eventually(&running, &clients, || {
        has4(&running, &format!("{POD4}/24"), Some(NODE4))
    })
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

fn stand_in(context: &Context) -> Result<()> {
    let mut pods_mac = String::new();
    let running = start(context, PodSpec::default(), &manifest(), |pod| {
        pods_mac = mac_of(&pod.netns, "eth0")?;
        Ok(())
    })?;
    let found = running.pod.netns.ip_json("address show dev eth0")?;
    let text = found.to_string();
    for wanted in [&pods_mac, &POD4.to_string(), &POD6.to_string(), &MTU.to_string()] {
        ensure!(text.contains(wanted.as_str()), "no {wanted}: {text}");
    }
    ensure!(!text.contains("\"UP\""), "up: {text}");
    Ok(())
}

fn as_before(before: &Snapshot, pod: &Pod) -> Result<()> {
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
        std::fs::remove_dir_all(pod.path("state"))?;
        std::fs::create_dir(pod.path("state"))?;
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
