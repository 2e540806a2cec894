//! What a bridged guest is offered: the addresses and routes of the pod's interface, as far as DHCP, DHCPv6 and router
//! advertisements can express them. What they cannot is a note.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::addressing::Route;
use crate::guest_nic::{BridgedV4, BridgedV6, Router6};
use crate::observed::Link;
use crate::plan::IPV6_MIN_MTU;
use crate::spec::Nic;

pub(super) fn v4(nic: &Nic, link: &Link, notes: &mut Vec<String>) -> Option<BridgedV4> {
    let mut all =
        link.assigned
            .iter()
            .filter_map(|assigned| match IpNet::new(assigned.ip, assigned.prefix_len) {
                Ok(IpNet::V4(net)) if is_global_v4(net.addr()) => Some((assigned, net)),
                _ => None,
            });
    let (assigned, net) = all.next()?;
    for (_, other) in all {
        notes.push(format!(
            "{}: the guest is offered {net} only: {} also has {other}, but DHCP assigns a single address",
            nic.name, nic.pod_interface
        ));
    }
    if !link.other_tables.is_empty() {
        notes.push(format!(
            "{}: the guest is not offered the routes of {} in the routing tables {:?}: hawser offers those of the main table",
            nic.name, nic.pod_interface, link.other_tables
        ));
    }
    let mut on_link = Vec::new();
    let mut by_router = Vec::new();
    let mut router = None;
    if let Some(IpAddr::V4(peer)) = assigned.peer {
        let peers = Ipv4Net::new(peer, assigned.prefix_len).unwrap_or_else(|_| peer.into());
        on_link.push((peers.trunc(), Ipv4Addr::UNSPECIFIED));
    }
    let prefix_len = if assigned.peer.is_some() || !assigned.on_link && link.up {
        32
    } else {
        net.prefix_len()
    };
    let subnet = Ipv4Net::new(net.addr(), prefix_len).unwrap_or(net);
    for route in best(nic, link, false, notes) {
        match (route.destination, route.gateway) {
            (IpNet::V4(_), Some(IpAddr::V4(gateway))) if route.is_default() => {
                router = Some(gateway);
            }
            (IpNet::V4(destination), Some(IpAddr::V4(gateway))) => {
                by_router.push((destination, gateway));
            }
            (IpNet::V4(destination), None) => on_link.push((destination, Ipv4Addr::UNSPECIFIED)),
            (destination, Some(gateway)) => notes.push(format!(
                "{}: the guest is not offered the route to {destination}: its next hop is {gateway}, and DHCPv4 can only \
                 name IPv4 routers",
                nic.name
            )),
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

/// For each destination the route with the lowest metric, which is the one that the kernel uses. If that has several next
/// hops, the first of them.
fn best(nic: &Nic, link: &Link, v6: bool, notes: &mut Vec<String>) -> Vec<Route> {
    let mut routes: Vec<_> = link
        .routes
        .iter()
        // Every guest's kernel sends multicast by the link anyway.
        .filter(|route| route.destination.addr().is_ipv6() == v6 && !route.destination.addr().is_multicast())
        .collect();
    routes.sort_by_key(|route| route.metric);
    let mut best: Vec<Route> = Vec::new();
    for route in routes {
        match best.iter().find(|better| better.destination == route.destination) {
            None => best.push(*route),
            Some(better) if better.metric == route.metric && !route.is_advertised() => notes.push(format!(
                "{}: the guest is offered {} as the next hop to {}, but not {}: it gets one for each destination",
                nic.name,
                hop(better),
                route.destination,
                hop(route)
            )),
            Some(_) => {}
        }
    }
    best
}

fn hop(route: &Route) -> String {
    route
        .gateway
        .map_or_else(|| "the link".to_owned(), |gateway| gateway.to_string())
}

/// `remembered` is the router that an earlier start found.
pub(super) fn v6(
    nic: &Nic,
    link: &Link,
    remembered: Option<Router6>,
    notes: &mut Vec<String>,
) -> Option<BridgedV6> {
    let mut all =
        link.assigned
            .iter()
            .filter_map(|assigned| match IpNet::new(assigned.ip, assigned.prefix_len) {
                Ok(IpNet::V6(net)) if is_global_v6(net.addr()) => Some((assigned, net)),
                _ => None,
            });
    let (assigned, net) = all.next()?;
    let mtu = link.usable_mtu();
    if mtu < IPV6_MIN_MTU {
        notes.push(format!(
            "{}: the guest has no IPv6: the MTU of {} is {mtu}, but IPv6 requires at least {IPV6_MIN_MTU}",
            nic.name, nic.pod_interface
        ));
        return None;
    }
    for (_, other) in all {
        notes.push(format!(
            "{}: the guest is offered {net} only: {} also has {other}, but hawser assigns a single address",
            nic.name, nic.pod_interface
        ));
    }
    let (defaults, others): (Vec<_>, Vec<_>) = best(nic, link, true, notes)
        .into_iter()
        .partition(Route::is_default);
    for route in others.iter().filter(|route| !route.is_advertised()) {
        notes.push(format!(
            "{}: the guest is not offered the IPv6 route to {}: hawser's router advertisements can only name a default route",
            nic.name, route.destination
        ));
    }
    let router = match (remembered, defaults.first()) {
        (Some(router), _) => router,
        (None, route) => default_router(nic, route, notes),
    };
    let on_link = assigned.peer.is_none() && (assigned.on_link || !link.up) && net.prefix_len() < 128;
    Some(BridgedV6 {
        address: net.addr(),
        on_link: on_link.then_some(net.trunc()),
        router,
    })
}

fn default_router(nic: &Nic, route: Option<&Route>, notes: &mut Vec<String>) -> Router6 {
    match route {
        Some(route) if route.is_advertised() => Router6::Advertises,
        Some(Route {
            gateway: Some(IpAddr::V6(gateway)),
            ..
        }) if gateway.is_unicast_link_local() => Router6::Silent(*gateway),
        Some(Route {
            link_local: Some(router),
            ..
        }) => Router6::Silent(*router),
        Some(Route {
            router_mac: Some(mac),
            ..
        }) => Router6::By(*mac),
        Some(Route {
            gateway: Some(gateway),
            ..
        }) => {
            notes.push(format!(
                "{}: the guest has no IPv6 default route: the pod's router {gateway} did not answer when hawser asked for its \
                 MAC",
                nic.name
            ));
            Router6::Unknown
        }
        _ => Router6::Unknown,
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    !ip.is_loopback() && !ip.is_link_local() && !ip.is_multicast() && !ip.is_unspecified()
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_multicast() && !ip.is_unspecified()
}
