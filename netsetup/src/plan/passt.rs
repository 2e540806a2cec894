//! The plan of a NIC that passt serves: what the pod's interface has, which passt offers to the guest, and the two sysctls
//! without which passt, which has no capability, could neither listen nor ping. The interface is read and not changed.

use std::net::IpAddr;

use super::bridge;
use crate::error::Error;
use crate::guest_nic::{GuestNic, Handed, HandedV4, Joined};
use crate::observed::{Link, Observed, PING_GROUP_RANGE, Sysctl, UNPRIVILEGED_PORT_START};
use crate::spec::{NetSpec, Nic, Owner, Passt, Wiring};
use crate::step::Step;

pub(super) fn guest_nic(
    nic: &Nic,
    wanted: &Passt,
    owner: Owner,
    observed: &Observed,
    notes: &mut Vec<String>,
) -> Result<GuestNic, Error> {
    let unfit = |why: &str| Error::Unfit {
        object: nic.pod_interface.clone(),
        why: why.into(),
    };
    let Some(pod) = observed.link(&nic.pod_interface) else {
        return Err(unfit("the pod's network namespace has no such interface"));
    };
    if bridge::is_bridged(nic, observed) {
        return Err(Error::NotOurs {
            object: nic.pod_interface.clone(),
            why: "hawser bridged it at an earlier start in this pod, and passt needs an interface outside of a bridge: start \
                  in a fresh pod"
                .into(),
        });
    }
    let handed = handed(pod);
    if handed.v4.is_none() && handed.v6.is_none() {
        return Err(unfit(
            "the interface has no address that passt can use: the pod needs a global IPv4 or IPv6 address on it",
        ));
    }
    check_ports(wanted, observed.unprivileged_port_start.as_ref(), nic, notes)?;
    if !pings(observed.ping_group_range.as_ref(), owner) {
        notes.push(format!(
            "{}: the guest cannot ping: net.ipv4.ping_group_range excludes group {gid} and is read-only in this pod: add the \
             sysctl net.ipv4.ping_group_range=\"{gid} {gid}\" to the pod (securityContext.sysctls)",
            nic.name,
            gid = owner.gid
        ));
    }
    Ok(GuestNic {
        name: nic.name.clone(),
        pod_interface: nic.pod_interface.clone(),
        queue_pairs: nic.queue_pairs,
        guest_mac: nic.guest_mac.unwrap_or(nic.made_mac),
        mtu: pod.usable_mtu(),
        joined: Joined::Passt(handed),
    })
}

fn handed(pod: &Link) -> Handed {
    let v4 = pod.global_v4().next().map(|address| {
        let prefix_len = pod
            .addresses
            .iter()
            .find(|other| other.ip == IpAddr::V4(address))
            .map_or(32, |other| other.prefix_len);
        let defaults = pod.routes.iter().filter(|route| route.is_default());
        let gateway = defaults
            .filter_map(|route| match route.gateway {
                Some(IpAddr::V4(gateway)) => Some((route.metric, gateway)),
                _ => None,
            })
            .min()
            .map(|(_, gateway)| gateway);
        HandedV4 {
            address,
            prefix_len,
            gateway,
        }
    });
    Handed {
        v4,
        v6: pod.global_v6().next(),
    }
}

/// Each port of a list must be forwarded; where the guest has all ports, those that passt can have.
fn check_ports(
    wanted: &Passt,
    start: Option<&Sysctl>,
    nic: &Nic,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let Some(lowest) = wanted.lowest_port else {
        return Ok(());
    };
    let Some(start) = start.filter(|start| !start.writable && first_port(start) > u32::from(lowest)) else {
        return Ok(());
    };
    let from = first_port(start);
    if wanted.all_ports {
        notes.push(format!(
            "{}: ports below {from} do not reach the guest: net.ipv4.ip_unprivileged_port_start is {from} and read-only \
             in this pod: add the sysctl net.ipv4.ip_unprivileged_port_start=0 to the pod (securityContext.sysctls)",
            nic.name
        ));
        return Ok(());
    }
    Err(Error::Unfit {
        object: nic.name.clone(),
        why: format!(
            "passt cannot forward port {lowest}, since it may not listen below port {from} and \
             net.ipv4.ip_unprivileged_port_start is read-only in this pod: add the sysctl \
             net.ipv4.ip_unprivileged_port_start={lowest} to the pod (securityContext.sysctls, or podman run --sysctl)"
        ),
    })
}

fn first_port(start: &Sysctl) -> u32 {
    start.value.parse().unwrap_or(u32::MAX)
}

/// Whether the owner's group may open ping sockets, or can be made one that may.
fn pings(range: Option<&Sysctl>, owner: Owner) -> bool {
    range.is_none_or(|range| range.writable || holds(&range.value, owner.gid))
}

fn holds(range: &str, gid: u32) -> bool {
    bounds(range).is_some_and(|(low, high)| (low..=high).contains(&gid))
}

fn bounds(range: &str) -> Option<(u32, u32)> {
    let mut words = range.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// The settings that are not so already and can be written. The kernel reads them when a socket is opened, so there is
/// nothing that they have to come before but passt.
pub(super) fn steps(spec: &NetSpec, observed: &Observed) -> Vec<Step> {
    let wanted = spec.nics.iter().filter_map(|nic| match &nic.wiring {
        Wiring::Passt(passt) => Some(passt),
        Wiring::Masquerade(_) | Wiring::Bridge | Wiring::ManagedTap | Wiring::Down => None,
    });
    let mut steps = Vec::new();
    for passt in wanted {
        let sysctl = |path: &str, value| Step::Sysctl {
            path: path.into(),
            value,
        };
        let gid = spec.owner.gid;
        let range = observed.ping_group_range.as_ref();
        if let Some(range) = range.filter(|range| range.writable && !holds(&range.value, gid)) {
            // Every group that could ping still can.
            let (low, high) = bounds(&range.value)
                .filter(|(low, high)| low <= high)
                .map_or((gid, gid), |(low, high)| (low.min(gid), high.max(gid)));
            steps.push(sysctl(PING_GROUP_RANGE, format!("{low}\t{high}")));
        }
        let start = observed.unprivileged_port_start.as_ref();
        if let (Some(lowest), Some(start)) = (passt.lowest_port, start.filter(|start| start.writable))
            && first_port(start) > u32::from(lowest)
        {
            steps.push(sysctl(UNPRIVILEGED_PORT_START, lowest.to_string()));
        }
    }
    steps
}
