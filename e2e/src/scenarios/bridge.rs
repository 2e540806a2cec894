//! Guests on a bridge: the pod's address handed on, traffic both ways, and a pod that is then as it was.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::running::{Running, WAIT, eventually};
use super::traffic::{TcpServer, reaches};
use crate::guests::{Client, Guest};
use crate::pods::{
    DefaultRoute6, FAR4, FAR6, GUEST_MAC, MTU, NODE4, NODE6, POD4, POD6, Pod, PodSpec, link_local, set, vmi,
};
use crate::process::until;
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
        name: "dhclient: a router without a link-local address that could be known",
        run: |c| nameless_router(c, Client::Dhclient),
    },
    Scenario {
        name: "systemd-networkd: a router without a link-local address that could be known",
        run: |c| nameless_router(c, Client::Networkd),
    },
    Scenario {
        name: "no IPv6 default route where no router answers, and hawser says so",
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
        name: "the manifest's own MAC",
        run: custom_mac,
    },
    Scenario {
        name: "udhcpc renews and releases",
        run: renews,
    },
];

const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

pub(super) fn manifest() -> Value {
    let mut vmi = vmi(Value::Null);
    set(
        &mut vmi,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "bridge": {}}]),
    );
    vmi
}

/// A pod whose network `arrange` changes before hawser sees it.
pub(super) fn start(
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

pub(super) fn has4(running: &Running, address: &str, default: Option<Ipv4Addr>) -> Result<()> {
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
pub(super) fn traffic4(running: &Running) -> Result<()> {
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

pub(super) fn traffic6(running: &Running) -> Result<()> {
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

pub(super) fn mac_of(netns: &crate::netns::Netns, link: &str) -> Result<String> {
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
    let clients = running.guest.client_of(client, "-4")?;
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
pub(super) fn routes6(pod: &Pod) -> Result<()> {
    pod.node.set_sysctl("net.ipv6.conf.all.forwarding", "1")
}

/// The pod's default route by the node's link-local address, as Calico sets it.
pub(super) fn by_link_local(pod: &Pod) -> Result<()> {
    routes6(pod)?;
    let node = until("the node's link-local address", WAIT, || {
        link_local(&pod.node, "veth0")
    })?;
    pod.netns
        .ip(&format!("-6 route replace default via {node} dev eth0"))?;
    Ok(())
}

pub(super) fn has6(running: &Running) -> Result<()> {
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

/// Its link-local address does not follow from its MAC.
fn renamed_router(pod: &Pod) -> Result<()> {
    routes6(pod)?;
    let usual = until("the node's link-local address", WAIT, || {
        link_local(&pod.node, "veth0")
    })?;
    pod.node.ip(&format!("address del {usual}/64 dev veth0"))?;
    pod.node.ip("address add fe80::77/64 dev veth0").map(drop)
}

/// And the guest asks again and again whether it is there.
fn nameless_router(context: &Context, client: Client) -> Result<()> {
    let running = start(context, PodSpec::default(), &manifest(), renamed_router)?;
    let guest = &running.guest.netns;
    for setting in ["base_reachable_time_ms=500", "delay_first_probe_time=1"] {
        let (key, value) = setting.split_once('=').unwrap_or_default();
        guest.set_sysctl(&format!("net.ipv6.neigh.eth0.{key}"), value)?;
    }
    let clients = running.guest.client(client)?;
    eventually(&running, &clients, || {
        has6(&running)?;
        let routes = running.guest.default6()?;
        ensure!(routes.contains("via fe80:"), "default route: {routes}");
        Ok(())
    })?;
    traffic6(&running)?;
    running.explain(
        running
            .hawser
            .wait_for("neighbor solicitation for the router answered", 1, WAIT),
    )?;
    traffic6(&running)
}

fn unknown_router(context: &Context) -> Result<()> {
    let running = start(context, PodSpec::default(), &manifest(), |pod| {
        pod.netns.ip("-6 route del default")?;
        pod.netns
            .ip("-6 route add default via fd00:10:244::77 dev eth0")
            .map(drop)
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
    let said = running.hawser.stderr();
    ensure!(
        said.contains("deliver only what is for the pod's own MAC"),
        "{said}"
    );
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
