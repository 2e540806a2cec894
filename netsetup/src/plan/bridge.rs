//! The plan of a bridged NIC: the guest takes the place of the pod's interface on its network.
//!
//! The order holds because the interface is off its network only between its renaming and its becoming a port, so
//! everything else is there by then; and because what it was is written into the aliases of bridge and interface
//! before the first change that loses any of it.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{GuestNic, IPV6_MIN_MTU, SIGNATURE};
use crate::error::Error;
use crate::journal::Undo;
use crate::observe::{Link, Observed};
use crate::original::{ALIAS_MAX, Assigned, Original, Route};
use crate::spec::{GATEWAY_MAC, Nic, bridge_name, port_name};
use crate::step::{BridgeStep, PlaceholderStep, PortStep, Step};

/// Alias of the interface that stands in for the pod's.
const PLACEHOLDER: &str = "hawser placeholder";

/// What a bridged NIC adds to a [`GuestNic`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bridged {
    pub bridge: String,
    /// What the pod's interface is now called.
    pub port: String,
    /// MAC of both. The pod interface's own is the guest's.
    pub mac: [u8; 6],
    /// What the guest is told by DHCP; without an address of the family nothing is told and nothing is kept from it.
    pub v4: Option<BridgedV4>,
    pub v6: Option<BridgedV6>,
    pub original: Original,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BridgedV4 {
    pub address: Ipv4Addr,
    /// 32 on a point-to-point link.
    pub prefix_len: u8,
    /// Next hop of the default route.
    pub router: Option<Ipv4Addr>,
    /// Destination and next hop, 0.0.0.0 for the link itself, in an order in which each next hop can be reached.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BridgedV6 {
    pub address: Ipv6Addr,
    pub on_link: Option<Ipv6Net>,
    pub router: Router6,
}

/// Where the guest's IPv6 default route comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Router6 {
    /// The network's own router advertises itself; the bridge lets it through.
    Advertises,
    /// A router of this link-local address does not: it is announced to the guest in its name.
    Silent(Ipv6Addr),
    /// There is none, or none that an advertisement could name.
    Unknown,
}

impl Bridged {
    /// Whether the guest is told anything.
    pub fn is_served(&self) -> bool {
        self.v4.is_some() || self.v6.is_some()
    }
}

pub(super) fn guest_nic(nic: &Nic, observed: &Observed, notes: &mut Vec<String>) -> Result<GuestNic, Error> {
    let unfit = |why: String| Error::Unfit {
        object: nic.pod_interface.clone(),
        why,
    };
    let original = original(nic, observed)?;
    for alias in [original.interface_alias(), original.routes_alias()] {
        if alias.len() > ALIAS_MAX {
            return Err(unfit(format!(
                "it has more addresses or routes than can be kept across a restart ({} bytes of {ALIAS_MAX})",
                alias.len()
            )));
        }
    }
    let guest_mac = nic.guest_mac.unwrap_or(original.mac);
    let mac = own_mac(original.mac);
    if guest_mac == GATEWAY_MAC || guest_mac == mac {
        return Err(unfit(
            "the guest's MAC is one that hawser's own links have: set macAddress to another".into(),
        ));
    }
    Ok(GuestNic {
        name: nic.name.clone(),
        pod_interface: nic.pod_interface.clone(),
        tap: nic.tap.clone(),
        server_tap: nic.server_tap.clone(),
        queue_pairs: nic.queue_pairs,
        guest_mac,
        gateway_mac: GATEWAY_MAC,
        mtu: original.mtu,
        v4: None,
        v6: None,
        bridge: Some(Bridged {
            bridge: bridge_name(&nic.pod_interface),
            port: port_name(&nic.pod_interface),
            mac,
            v4: v4(nic, &original, notes),
            v6: v6(nic, &original, notes),
            original,
        }),
    })
}

/// What the pod's interface is, or was before an earlier start moved it.
fn original(nic: &Nic, observed: &Observed) -> Result<Original, Error> {
    let name = &nic.pod_interface;
    let bridge = observed
        .link(&bridge_name(name))
        .and_then(|link| link.alias.as_deref());
    let remembered = |link: &Link| {
        let alias = link.alias.as_deref().unwrap_or_default();
        Original::from_aliases(alias, bridge.unwrap_or_default()).ok_or_else(|| Error::NotOurs {
            object: link.name.clone(),
            why: "its alias does not say what the pod's interface was: start in a fresh pod".into(),
        })
    };
    let here = observed.link(name);
    if let Some(port) = observed.link(&port_name(name)) {
        let original = remembered(port)?;
        return match here.filter(|link| !is_placeholder(link, &original)) {
            Some(other) => Err(Error::NotOurs {
                object: other.name.clone(),
                why: "an interface of this name came while the pod's own was bridged: start in a fresh pod"
                    .into(),
            }),
            None => Ok(original),
        };
    }
    let link = here.ok_or_else(|| Error::Unfit {
        object: name.clone(),
        why: "the pod's network namespace has no such interface".into(),
    })?;
    if link.alias.as_deref().is_some_and(Original::is_interface_alias) {
        return remembered(link);
    }
    Original::of(link).ok_or_else(|| Error::Unfit {
        object: name.clone(),
        why: "it has no MAC, and so cannot be a bridge's port".into(),
    })
}

/// By its alias, or, if its start was cut short, by what it was made with.
fn is_placeholder(link: &Link, original: &Original) -> bool {
    let kind = matches!(link.kind.as_deref(), Some("dummy" | "bridge"));
    kind && (link.alias.as_deref() == Some(PLACEHOLDER) || link.mac == Some(original.mac))
}

/// Whether a bridge of KubeVirt's name is ours: by its alias, or, if its start was cut short, by its MAC.
pub(super) fn is_our_bridge(link: &Link, nics: &[Nic], observed: &Observed) -> bool {
    let signed = |link: &Link| {
        link.alias
            .as_deref()
            .is_some_and(|alias| alias.starts_with(SIGNATURE))
    };
    let made = |nic: &Nic| {
        let pod = observed.link(&nic.pod_interface);
        bridge_name(&nic.pod_interface) == link.name
            && pod
                .and_then(|pod| pod.mac)
                .is_some_and(|mac| link.mac == Some(own_mac(mac)))
    };
    signed(link) || nics.iter().any(made)
}

/// Whether the pod's interface is away at a bridge, or about to be.
pub(super) fn is_bridged(nic: &Nic, observed: &Observed) -> bool {
    let remembers = |name: &str| {
        observed
            .link(name)
            .and_then(|link| link.alias.as_deref())
            .is_some_and(|alias| Original::is_interface_alias(alias) || alias == PLACEHOLDER)
    };
    remembers(&nic.pod_interface) || remembers(&port_name(&nic.pod_interface))
}

/// Locally administered, and the same every time: a plan made again is to be the same plan.
fn own_mac(of: [u8; 6]) -> [u8; 6] {
    let mut hash = Sha256::new();
    hash.update(b"hawser bridge");
    hash.update(of);
    let mut mac = [0x0a; 6];
    for (byte, random) in mac.iter_mut().skip(1).zip(hash.finalize()) {
        *byte = random;
    }
    mac
}

fn v4(nic: &Nic, original: &Original, notes: &mut Vec<String>) -> Option<BridgedV4> {
    let mut all =
        original
            .addresses
            .iter()
            .filter_map(|assigned| match IpNet::new(assigned.ip, assigned.prefix_len) {
                Ok(IpNet::V4(net)) if is_global_v4(net.addr()) => Some((assigned, net)),
                _ => None,
            });
    let (assigned, net) = all.next()?;
    for (_, other) in all {
        notes.push(format!(
            "{}: the guest is given {net}; {other} of {} is not handed on: DHCP gives one address",
            nic.name, nic.pod_interface
        ));
    }
    let mut on_link = Vec::new();
    let mut by_router = Vec::new();
    let mut router = None;
    if let Some(std::net::IpAddr::V4(peer)) = assigned.peer {
        let peers = Ipv4Net::new(peer, assigned.prefix_len).unwrap_or_else(|_| peer.into());
        on_link.push((peers.trunc(), Ipv4Addr::UNSPECIFIED));
    }
    let prefix_len = if assigned.peer.is_some() {
        32
    } else {
        net.prefix_len()
    };
    let subnet = Ipv4Net::new(net.addr(), prefix_len).unwrap_or(net);
    for route in sorted(&original.routes) {
        match (route.destination, route.gateway) {
            (IpNet::V4(_), Some(std::net::IpAddr::V4(gateway))) if route.is_default() => {
                router = router.or(Some(gateway));
            }
            (IpNet::V4(destination), Some(std::net::IpAddr::V4(gateway))) => {
                by_router.push((destination, gateway));
            }
            (IpNet::V4(destination), None) => on_link.push((destination, Ipv4Addr::UNSPECIFIED)),
            _ => {}
        }
    }
    let gateways: Vec<_> = by_router.iter().map(|(_, via)| *via).chain(router).collect();
    for gateway in gateways {
        let reachable = subnet.contains(&gateway) || on_link.iter().any(|(net, _)| net.contains(&gateway));
        if !reachable {
            on_link.push((gateway.into(), Ipv4Addr::UNSPECIFIED));
        }
    }
    on_link.extend(by_router);
    Some(BridgedV4 {
        address: net.addr(),
        prefix_len,
        router,
        routes: on_link,
    })
}

/// The kernel takes the route of the least metric.
fn sorted(routes: &[Route]) -> Vec<Route> {
    let mut routes = routes.to_vec();
    routes.sort_by_key(|route| route.metric);
    routes
}

fn v6(nic: &Nic, original: &Original, notes: &mut Vec<String>) -> Option<BridgedV6> {
    let mut all =
        original
            .addresses
            .iter()
            .filter_map(|assigned| match IpNet::new(assigned.ip, assigned.prefix_len) {
                Ok(IpNet::V6(net)) if is_global_v6(net.addr()) => Some((assigned, net)),
                _ => None,
            });
    let (assigned, net) = all.next()?;
    if original.mtu < IPV6_MIN_MTU {
        notes.push(format!(
            "{}: IPv6 is off for the guest: the MTU of {} is {}, and IPv6 needs {IPV6_MIN_MTU}",
            nic.name, nic.pod_interface, original.mtu
        ));
        return None;
    }
    for (_, other) in all {
        notes.push(format!(
            "{}: the guest is given {net}; {other} of {} is not handed on: its lease has one address",
            nic.name, nic.pod_interface
        ));
    }
    let (defaults, others): (Vec<_>, Vec<_>) = sorted(&original.routes)
        .into_iter()
        .filter(|route| route.destination.addr().is_ipv6())
        .partition(Route::is_default);
    for route in others.iter().filter(|route| !route.is_advertised()) {
        notes.push(format!(
            "{}: the IPv6 route to {} is not handed on: nothing that a guest reads could name its router",
            nic.name, route.destination
        ));
    }
    let router = match defaults.first() {
        Some(route) if route.is_advertised() => Router6::Advertises,
        Some(Route {
            gateway: Some(std::net::IpAddr::V6(gateway)),
            ..
        }) if gateway.is_unicast_link_local() => Router6::Silent(*gateway),
        Some(Route {
            link_local: Some(router),
            ..
        }) => Router6::Silent(*router),
        Some(Route {
            gateway: Some(gateway),
            ..
        }) => {
            notes.push(format!(
                "{}: the guest has no IPv6 default route: the pod's is by {gateway}, and a router advertisement can \
                 only name a link-local address (RFC 4861, section 4.2), which this router does not have of its MAC",
                nic.name
            ));
            Router6::Unknown
        }
        _ => Router6::Unknown,
    };
    let on_link = assigned.peer.is_none() && !assigned.noprefixroute && net.prefix_len() < 128;
    Some(BridgedV6 {
        address: net.addr(),
        on_link: on_link.then_some(net.trunc()),
        router,
    })
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    !ip.is_loopback() && !ip.is_link_local() && !ip.is_multicast() && !ip.is_unspecified()
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_multicast() && !ip.is_unspecified()
}

/// The bridge, before the TAP becomes its port.
pub(super) fn bridge_step(nic: &GuestNic) -> Option<Step> {
    let bridged = nic.bridge.as_ref()?;
    Some(Step::Bridge(BridgeStep {
        name: bridged.bridge.clone(),
        mac: bridged.mac,
        mtu: nic.mtu,
        alias: bridged.original.routes_alias(),
    }))
}

/// The move itself, after everything else.
pub(super) fn move_steps(nic: &GuestNic) -> Vec<Step> {
    let Some(bridged) = &nic.bridge else {
        return Vec::new();
    };
    let original = &bridged.original;
    let quietly = |assigned: &Assigned| Assigned {
        nodad: assigned.ip.is_ipv6(),
        noprefixroute: true,
        ..*assigned
    };
    vec![
        Step::Remember {
            interface: nic.pod_interface.clone(),
            port: bridged.port.clone(),
            alias: original.interface_alias(),
        },
        Step::Port(PortStep {
            interface: nic.pod_interface.clone(),
            port: bridged.port.clone(),
            bridge: bridged.bridge.clone(),
            mac: bridged.mac,
        }),
        Step::Placeholder(PlaceholderStep {
            name: nic.pod_interface.clone(),
            mac: original.mac,
            mtu: original.mtu,
            addresses: original.addresses.iter().map(quietly).collect(),
            alias: PLACEHOLDER.into(),
        }),
    ]
}

/// What takes a step of this file back.
pub(super) fn undo_of(step: &Step, nics: &[GuestNic]) -> Option<Undo> {
    match step {
        Step::Bridge(bridge) => Some(Undo::DeleteLink {
            link: bridge.name.clone(),
        }),
        Step::Port(port) => {
            let of = |nic: &GuestNic| nic.bridge.clone().filter(|bridged| bridged.port == port.port);
            Some(Undo::RestoreInterface {
                interface: port.interface.clone(),
                port: port.port.clone(),
                bridge: port.bridge.clone(),
                original: nics.iter().find_map(of)?.original,
            })
        }
        _ => None,
    }
}

pub(super) fn is_done(step: &Step, observed: &Observed) -> bool {
    let link = |name: &str| observed.link(name);
    match step {
        Step::Bridge(bridge) => link(&bridge.name)
            .is_some_and(|l| l.up && l.mtu == bridge.mtu && l.alias.as_ref() == Some(&bridge.alias)),
        Step::Remember { port, alias, .. } => link(port).and_then(|l| l.alias.as_ref()) == Some(alias),
        Step::Port(port) => link(&port.port)
            .is_some_and(|l| l.up && l.mac == Some(port.mac) && is_port_of(l, &port.bridge, observed)),
        Step::Placeholder(stand_in) => link(&stand_in.name).is_some_and(|l| {
            l.alias.as_ref() == Some(&stand_in.alias)
                && stand_in.addresses.iter().all(|a| l.assigned.contains(a))
        }),
        _ => true,
    }
}

/// Whether `link` is a port of the bridge of this name.
pub(super) fn is_port_of(link: &Link, bridge: &str, observed: &Observed) -> bool {
    let index = observed.link(bridge).map(|bridge| bridge.index);
    index.is_some() && link.controller == index
}
