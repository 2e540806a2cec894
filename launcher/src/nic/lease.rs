//! What the leases of several kinds have in common: the pod's DNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hawser_netsetup::{Bridged, BridgedV4, GuestNic, Joined, Masqueraded};

use crate::pod::resolv::Resolv;
use crate::spec::GuestSpec;

/// With a subdomain, the guest's own domain comes first: `<subdomain>.<namespace>.svc.<cluster domain>`.
pub(super) fn search_list(guest: &GuestSpec, resolv: &Resolv) -> Vec<String> {
    let mut search = resolv.search.clone();
    let Some(subdomain) = &guest.subdomain else {
        return search;
    };
    let prefix = format!("{}.svc.", guest.namespace);
    if let Some(services) = resolv.search.iter().find(|name| name.starts_with(&prefix)) {
        let own = format!("{subdomain}.{services}");
        if !search.contains(&own) {
            search.insert(0, own);
        }
    }
    search
}

/// The pod's name servers of this family. Whoever asks `for_loopback` asks the one on the pod's loopback.
pub(super) fn dns_v4(resolv: &Resolv, for_loopback: Option<Ipv4Addr>) -> Vec<Ipv4Addr> {
    let of_family = |server| match server {
        IpAddr::V4(server) => Some((server, server.is_loopback())),
        IpAddr::V6(_) => None,
    };
    asked(resolv, of_family, for_loopback)
}

pub(super) fn dns_v6(resolv: &Resolv, for_loopback: Option<Ipv6Addr>) -> Vec<Ipv6Addr> {
    let of_family = |server| match server {
        IpAddr::V6(server) => Some((server, server.is_loopback())),
        IpAddr::V4(_) => None,
    };
    asked(resolv, of_family, for_loopback)
}

/// Each server once, with another in the place of those on the loopback.
fn asked<T: Copy + PartialEq>(
    resolv: &Resolv,
    of_family: impl Fn(IpAddr) -> Option<(T, bool)>,
    for_loopback: Option<T>,
) -> Vec<T> {
    let mut list = Vec::new();
    for (server, is_loopback) in resolv.nameservers.iter().copied().filter_map(of_family) {
        let asked = if is_loopback { for_loopback } else { Some(server) };
        list.extend(asked.filter(|asked| !list.contains(asked)));
    }
    list
}

/// Whether the guest's packets for a link-local name server have a way: a network's gateway may answer for it.
pub(super) fn reaches(v4: &BridgedV4, server: Ipv4Addr) -> bool {
    let on_a_route = |(destination, _): &(ipnet::Ipv4Net, Ipv4Addr)| destination.contains(&server);
    !server.is_link_local() || v4.router.is_some() || v4.routes.iter().any(on_a_route)
}

/// Why the guest is not told of some of the pod's name servers.
fn bridged_obstacle(bridged: &Bridged, server: IpAddr) -> Option<&'static str> {
    match (server, &bridged.v4) {
        _ if server.is_loopback() => {
            Some("is on the pod's loopback, and a bridged guest cannot reach the pod")
        }
        (IpAddr::V4(server), Some(v4)) if !reaches(v4, server) => {
            Some("is a link-local address, and the pod has no route to it that the guest could have")
        }
        _ => None,
    }
}

/// One line for each of the pod's name servers that a guest cannot ask by its NIC, which hawser serves.
pub(super) fn dns_notes(nic: &GuestNic, resolv: &Resolv) -> Vec<String> {
    let obstacle = |server: IpAddr| match &nic.joined {
        Joined::Bridge(bridged) if bridged.is_served() => bridged_obstacle(bridged, server),
        Joined::Masquerade(Masqueraded { v4, v6, .. }) => led(server, v4.is_some(), v6.is_some(), resolv),
        Joined::Passt(handed) => led(server, handed.v4.is_some(), handed.v6.is_some(), resolv),
        Joined::Bridge(_) | Joined::Down { .. } => None,
    };
    let note = |server: &IpAddr| {
        let why = obstacle(*server)?;
        Some(format!(
            "{}: the guest is not offered the name server {server}: it {why}",
            nic.name
        ))
    };
    resolv.nameservers.iter().filter_map(note).collect()
}

/// Why a name server on the pod's loopback is not led to.
fn led(server: IpAddr, v4: bool, v6: bool, resolv: &Resolv) -> Option<&'static str> {
    if !server.is_loopback() {
        return None;
    }
    if !resolv.resolvers().contains(&server) {
        return Some(
            "is on the pod's loopback, and hawser leads the guest to the first there of each family only",
        );
    }
    let of_guest = if server.is_ipv4() { v4 } else { v6 };
    (!of_guest).then_some("is on the pod's loopback, in a family that the guest has no address of")
}
