//! Pods whose interface real CNI plugins made: hawser's bindings on each kind of it, and the plugins' own view of it
//! (CHECK) while the guest has it, and afterwards.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Context;
use super::bridge::{has4, has6, manifest, traffic4, traffic6};
use super::bridge_pod::as_before;
use super::running::{Running, WAIT, eventually, exit_code, expect_exit};
use super::traffic::{TcpServer, reaches};
use crate::cni::{Network, PLUGINS, require};
use crate::guests::{Client, Guest};
use crate::pods::{GUEST_MAC, NODE4, NODE6, POD4, POD6, Pod, PodSpec, link_local, set, vmi};
use crate::process::{Process, until};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "bridge on an interface by the plugin bridge",
        run: |c| bridged(c, bridge),
    },
    Scenario {
        name: "bridge on an interface by the plugin ptp",
        run: |c| bridged(c, ptp),
    },
    Scenario {
        name: "bridge on an interface by the plugin macvlan",
        run: |c| bridged(c, macvlan),
    },
    Scenario {
        name: "bridge on an interface by the plugin host-device",
        run: |c| bridged(c, host_device),
    },
    Scenario {
        name: "masquerade on an interface by the plugin bridge",
        run: |c| masqueraded(c, bridge),
    },
    Scenario {
        name: "masquerade on an interface by the plugin ptp",
        run: |c| masqueraded(c, ptp),
    },
    Scenario {
        name: "masquerade on an interface by the plugin macvlan",
        run: |c| masqueraded(c, macvlan),
    },
    Scenario {
        name: "masquerade on an interface by the plugin host-device",
        run: |c| masqueraded(c, host_device),
    },
    Scenario {
        name: "ptp: what the pod has behind its gateway the guest has behind it too",
        run: behind_the_gateway,
    },
    Scenario {
        name: "macvlan and a guest of another MAC: refused with the reason",
        run: macvlan_other_mac,
    },
    Scenario {
        name: "bridge on an address by the network's own DHCP",
        run: |c| by_dhcp(c, &manifest()),
    },
    Scenario {
        name: "masquerade on an address by the network's own DHCP",
        run: |c| by_dhcp(c, &vmi(Value::Null)),
    },
];

/// What a plugin is to do, once the node has what it needs.
type Arrange = fn(&Pod) -> Result<Value>;

fn routes() -> Value {
    json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
}

fn host_local(pod: &Pod) -> Value {
    json!({
        "type": "host-local",
        "dataDir": pod.path("cni"),
        "ranges": [
            [{"subnet": "10.244.0.0/24", "rangeStart": POD4, "rangeEnd": POD4, "gateway": NODE4}],
            [{"subnet": "fd00:10:244::/64", "rangeStart": POD6, "rangeEnd": POD6, "gateway": NODE6}],
        ],
        "routes": routes(),
    })
}

fn fixed() -> Value {
    json!({
        "type": "static",
        "addresses": [
            {"address": format!("{POD4}/24"), "gateway": NODE4},
            {"address": format!("{POD6}/64"), "gateway": NODE6},
        ],
        "routes": routes(),
    })
}

/// A wire in the node whose one end has the gateway's addresses.
fn uplink(pod: &Pod, addresses: &[String]) -> Result<()> {
    pod.node.ip("link add up0 type veth peer name up1")?;
    for link in ["up0", "up1"] {
        pod.node.ip(&format!("link set {link} up"))?;
    }
    for address in addresses {
        pod.node.ip(&format!("address add {address} dev up1"))?;
    }
    Ok(())
}

fn gateways() -> Vec<String> {
    vec![format!("{NODE4}/24"), format!("{NODE6}/64")]
}

fn bridge(pod: &Pod) -> Result<Value> {
    Ok(json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": host_local(pod)}))
}

fn ptp(pod: &Pod) -> Result<Value> {
    Ok(json!({"type": "ptp", "mtu": 1400, "ipam": host_local(pod)}))
}

fn macvlan(pod: &Pod) -> Result<Value> {
    uplink(pod, &gateways())?;
    Ok(json!({"type": "macvlan", "master": "up0", "ipam": fixed()}))
}

fn host_device(pod: &Pod) -> Result<Value> {
    uplink(pod, &gateways())?;
    Ok(json!({"type": "host-device", "device": "up0", "ipam": fixed()}))
}

fn pod(context: &Context) -> Result<Pod> {
    let spec = PodSpec {
        by_cni: true,
        ..PodSpec::default()
    };
    Pod::new(&context.programs, spec)
}

fn network(pod: &Pod, plugin: Value) -> Network {
    let enter = ["ip", "netns", "exec", pod.node.name()]
        .map(str::to_owned)
        .to_vec();
    Network {
        name: pod.netns.name().to_owned(),
        plugins: vec![plugin],
        enter,
    }
}

/// From ADD to DEL, with a guest in between that `meet` gets to know.
fn through(
    context: &Context,
    arrange: Arrange,
    vmi: &Value,
    meet: impl FnOnce(&Running) -> Result<()>,
) -> Result<()> {
    let pod = pod(context)?;
    let network = network(&pod, arrange(&pod)?);
    let attached = network.attach(&pod.netns.path(), "eth0")?;
    pod.node.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
    until("its link-local address", WAIT, || link_local(&pod.netns, "eth0"))?;
    attached.check().context("before the guest")?;
    let before = pod.netns.snapshot()?;
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", vmi)?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    meet(&running)?;
    attached.check().context("while the guest has the interface")?;
    running.stop_cleanly()?;
    as_before(&before, &running.pod)?;
    attached.check().context("after the guest")?;
    attached.detach()?;
    let left = running.pod.netns.ip("link show")?;
    ensure!(!left.contains("eth0"), "after DEL: {left}");
    Ok(())
}

fn bridged(context: &Context, arrange: Arrange) -> Result<()> {
    through(context, arrange, &manifest(), |running| {
        let clients = running.guest.client(Client::Dhclient)?;
        eventually(running, &clients, || {
            ensure!(
                running
                    .guest
                    .netns
                    .ip("address show dev eth0")?
                    .contains(&format!("{POD4}/")),
                "no {POD4}"
            );
            // The client's script sets the address first.
            let routes = running.guest.netns.ip("-4 route show")?;
            ensure!(routes.contains("default via "), "routes: {routes}");
            has6(running)?;
            let routes = running.guest.default6()?;
            ensure!(routes.contains("via fe80:"), "default route: {routes}");
            Ok(())
        })?;
        traffic4(running)?;
        traffic6(running)
    })
}

fn masqueraded(context: &Context, arrange: Arrange) -> Result<()> {
    through(context, arrange, &vmi(Value::Null), |running| {
        running.guest.configure()?;
        traffic4(running)?;
        traffic6(running)
    })
}

/// The mask of a ptp interface says nothing of who is on the link.
fn behind_the_gateway(context: &Context) -> Result<()> {
    through(context, ptp, &manifest(), |running| {
        let clients = running.guest.client(Client::Dhclient)?;
        eventually(running, &clients, || {
            has4(running, &format!("{POD4}/32"), Some(NODE4))
        })?;
        let neighbour = Ipv4Addr::new(10, 244, 0, 77);
        running
            .pod
            .node
            .ip(&format!("address add {neighbour}/32 dev lo"))?;
        let _other_pod = TcpServer::start(&running.pod.node, "neighbour", (neighbour, 80))?;
        running
            .explain(reaches(&running.guest.netns, (neighbour, 80), "neighbour"))
            .map(drop)
    })
}

fn macvlan_other_mac(context: &Context) -> Result<()> {
    let pod = pod(context)?;
    let network = network(&pod, macvlan(&pod)?);
    let attached = network.attach(&pod.netns.path(), "eth0")?;
    let mut vmi = manifest();
    set(
        &mut vmi,
        "/spec/domain/devices/interfaces/0/macAddress",
        json!(GUEST_MAC),
    );
    let mut hawser = pod.hawser("run", &vmi)?;
    expect_exit(exit_code(&mut hawser)?, 4, &hawser)?;
    let said = hawser.stderr();
    ensure!(said.contains("it is a macvlan"), "{said}");
    attached.check()?;
    attached.detach()
}

/// A server of the network that leases one address, and for as short as it does.
fn udhcpd(pod: &Pod) -> Result<Process> {
    let (configuration, leases) = (pod.path("udhcpd.conf"), pod.path("udhcpd.leases"));
    std::fs::write(&leases, "")?;
    let text = format!(
        "start {POD4}\nend {POD4}\nmax_leases 1\ninterface up1\nmin_lease 5\nlease_file {}\npidfile {}\n\
         opt subnet 255.255.255.0\nopt router {NODE4}\nopt lease {LEASE}\n",
        leases.display(),
        pod.path("udhcpd.pid").display()
    );
    std::fs::write(&configuration, text)?;
    let mut server = Command::new("ip");
    server.args([
        "netns",
        "exec",
        pod.node.name(),
        "busybox",
        "udhcpd",
        "-f",
        "-a",
        "10",
    ]);
    let server = Process::spawn("udhcpd", server.arg(&configuration))?;
    server.wait_for("started", 1, WAIT)?;
    Ok(server)
}

/// Seconds. A client renews after half of it.
const LEASE: u32 = 10;

/// The plugin's daemon has the lease, from a server on the network. The guest's own DHCP is not seen there.
fn by_dhcp(context: &Context, vmi: &Value) -> Result<()> {
    require("dhcp")?;
    let pod = pod(context)?;
    uplink(&pod, &[format!("{NODE4}/24")])?;
    let server = udhcpd(&pod)?;
    let socket = pod.path("dhcp.sock");
    let mut daemon = Command::new("ip");
    daemon.args(["netns", "exec", pod.node.name()]);
    daemon
        .arg(format!("{PLUGINS}/dhcp"))
        .args(["daemon", "-socketpath"])
        .arg(&socket);
    let daemon = Process::spawn("dhcp daemon", &mut daemon)?;
    until("the daemon's socket", WAIT, || Ok(socket.exists().then_some(())))?;
    let ipam = json!({"type": "dhcp", "daemonSocketPath": socket});
    let network = network(&pod, json!({"type": "macvlan", "master": "up0", "ipam": ipam}));
    let attached = network.attach(&pod.netns.path(), "eth0")?;
    let leased = pod.netns.ip("-4 -o address show dev eth0")?;
    ensure!(leased.contains(&format!("{POD4}/24")), "{leased}");
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", vmi)?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    let clients = running.guest.client(Client::Udhcpc)?;
    eventually(&running, &clients, || {
        let has = running.guest.netns.ip("-4 -o address show dev eth0")?;
        ensure!(has.contains("inet "), "no address");
        let routes = running.guest.netns.ip("-4 route show")?;
        ensure!(routes.contains("default via "), "routes: {routes}");
        Ok(())
    })?;
    drop(clients);
    traffic4(&running)?;
    ensure!(
        !server.has_said("sending OFFER", 2),
        "the guest's DHCP reached the network's server: {}",
        server.transcript()
    );
    server
        .wait_for("sending ACK", 3, WAIT * 2)
        .with_context(|| format!("no renewal; the daemon said {}", daemon.transcript()))?;
    // By now the first lease is over; without a renewal the daemon had taken the interface down.
    traffic4(&running)?;
    attached.check().context("while the guest has the interface")?;
    running.stop_cleanly()?;
    attached.check().context("after the guest")?;
    attached.detach()
}
