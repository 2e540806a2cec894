//! Which network a masqueraded guest has: the manifest's, or the usual one unless the pod's own network needs its addresses.
//!
//! What is inside the guest's network, the guest looks for on its own link. A name server, a peer or a route of the pod with such
//! an address would be out of its reach. Where the manifest names no network, the next one of a list is taken then. The list is
//! the same in every pod of the guest, so that the guest can migrate between pods that have the same conflict.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::Error;
use crate::observed::Observed;
use crate::spec::{Masquerade, Nic};

/// How much of a cluster has addresses like a known one's, where only a part of it can be seen from a pod: Cilium gives each node a
/// /24 of one network, and AKS gives its services a /16.
const CLUSTER_PREFIX: u8 = 16;

/// Why a network does not suit.
struct Conflict {
    kind: Kind,
    what: String,
}

#[derive(PartialEq)]
enum Kind {
    /// The pod itself would not work.
    Address(String),
    /// Something that is known would be out of the guest's reach.
    Known,
    /// Something may be.
    Likely,
}

pub(super) fn choose_v4(
    nic: &Nic,
    wanted: &Masquerade,
    observed: &Observed,
    peers: &[IpAddr],
    notes: &mut Vec<String>,
) -> Result<Ipv4Net, Error> {
    let find = |net: &Ipv4Net| conflict(IpNet::V4(*net), nic, observed, peers);
    let choice = choose(wanted.v4, &wanted.v4_else, find);
    note(nic, choice, "vmNetworkCIDR", wanted.v4_else.is_empty(), notes)
}

pub(super) fn choose_v6(
    nic: &Nic,
    wanted: &Masquerade,
    observed: &Observed,
    peers: &[IpAddr],
    notes: &mut Vec<String>,
) -> Result<Ipv6Net, Error> {
    let find = |net: &Ipv6Net| conflict(IpNet::V6(*net), nic, observed, peers);
    let choice = choose(wanted.v6, &wanted.v6_else, find);
    note(nic, choice, "vmIPv6NetworkCIDR", wanted.v6_else.is_empty(), notes)
}

struct Choice<N> {
    usual: N,
    network: N,
    /// What is wrong with the usual one.
    conflict: Option<Conflict>,
}

fn choose<N: Copy>(usual: N, others: &[N], find: impl Fn(&N) -> Option<Conflict>) -> Choice<N> {
    let conflict = find(&usual);
    let better = others.iter().find(|net| find(net).is_none());
    let network = match (&conflict, better) {
        (Some(_), Some(better)) => *better,
        _ => usual,
    };
    Choice {
        usual,
        network,
        conflict,
    }
}

fn note<N: Copy + PartialEq + std::fmt::Display>(
    nic: &Nic,
    choice: Choice<N>,
    field: &str,
    named: bool,
    notes: &mut Vec<String>,
) -> Result<N, Error> {
    let Choice {
        usual,
        network,
        conflict,
    } = choice;
    let Some(Conflict { kind, what }) = conflict else {
        return Ok(network);
    };
    match kind {
        _ if network != usual => notes.push(format!(
            "{}: the guest network is {network}, not {usual}: {what}",
            nic.name
        )),
        Kind::Address(object) => {
            return Err(Error::Unfit {
                object,
                why: format!("{what}: set a different one in {field}"),
            });
        }
        Kind::Known => notes.push(format!(
            "{}: the guest cannot reach part of the pod's network: {what}: set a different one in {field}",
            nic.name
        )),
        Kind::Likely if named => {}
        Kind::Likely => notes.push(format!(
            "{}: {what}: if so, set a different one in {field}",
            nic.name
        )),
    }
    Ok(network)
}

fn conflict(guest: IpNet, nic: &Nic, observed: &Observed, peers: &[IpAddr]) -> Option<Conflict> {
    let overlaps = |other: &IpNet| guest.contains(other) || other.contains(&guest);
    let others = || {
        observed
            .links
            .iter()
            .filter(|link| link.name != nic.tap && link.name != "lo")
    };
    let mut likely = None;
    for link in others() {
        for address in &link.addresses {
            let Ok(used) = IpNet::new(address.ip, address.prefix_len) else {
                continue;
            };
            if overlaps(&used) {
                return Some(Conflict {
                    kind: Kind::Address(link.name.clone()),
                    what: format!("its address {used} overlaps the guest network {guest}"),
                });
            }
            if near(guest, address.ip) {
                likely = Some(Conflict {
                    kind: Kind::Likely,
                    what: format!(
                        "the pod has {}, so others may have addresses in {guest}",
                        address.ip
                    ),
                });
            }
        }
    }
    for link in others() {
        if let Some(route) = link.routes.iter().find(|route| leads_into(route, overlaps)) {
            return Some(Conflict {
                kind: Kind::Known,
                what: format!(
                    "the route to {} by {} overlaps the guest network {guest}",
                    route.destination, link.name
                ),
            });
        }
    }
    for peer in peers {
        if guest.contains(peer) {
            return Some(Conflict {
                kind: Kind::Known,
                what: format!("{peer}, which the pod uses, is in the guest network {guest}"),
            });
        }
        if near(guest, *peer) {
            likely = Some(Conflict {
                kind: Kind::Likely,
                what: format!("the cluster has {peer}, so others may have addresses in {guest}"),
            });
        }
    }
    likely
}

fn leads_into(route: &crate::Route, overlaps: impl Fn(&IpNet) -> bool) -> bool {
    !route.is_default() && !route.destination.addr().is_multicast() && overlaps(&route.destination)
}

/// Whether addresses of the guest network are in the part of a cluster that `known` is of.
fn near(guest: IpNet, known: IpAddr) -> bool {
    let (IpNet::V4(guest), IpAddr::V4(known)) = (guest, known) else {
        return false;
    };
    // Link-local and loopback addresses say nothing of where the cluster's are.
    let says = |ip: Ipv4Addr| !ip.is_link_local() && !ip.is_loopback();
    says(known) && Ipv4Net::new(known, CLUSTER_PREFIX).is_ok_and(|cluster| cluster.contains(&guest.network()))
}
