//! The plan of a masqueraded NIC: which families the guest can have, and with which addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{IPV6_MIN_MTU, bridge, guest_network};
use crate::error::Error;
use crate::guest_nic::{FamilyPlan, GuestNic, Joined, Masqueraded, Resolver};
use crate::observed::{Link, Observed};
use crate::spec::{Masquerade, NetSpec, Nic, Protocol};

pub(super) fn guest_nic(
    nic: &Nic,
    wanted: &Masquerade,
    spec: &NetSpec,
    observed: &Observed,
    notes: &mut Vec<String>,
) -> Result<GuestNic, Error> {
    let unfit = |why: String| Error::Unfit {
        object: nic.pod_interface.clone(),
        why,
    };
    let Some(pod) = observed.link(&nic.pod_interface) else {
        return Err(unfit("the pod's network namespace has no such interface".into()));
    };
    if bridge::is_bridged(nic, observed) {
        return Err(Error::NotOurs {
            object: nic.pod_interface.clone(),
            why: "hawser bridged it at an earlier start in this pod, and masquerade needs an interface outside of a bridge: start in a fresh pod".into(),
        });
    }
    let v4_network = guest_network::choose_v4(nic, wanted, observed, &spec.peers, notes)?;
    let v6_network = guest_network::choose_v6(nic, wanted, observed, &spec.peers, notes)?;
    let v4 = pod.global_v4().next().map(|address| {
        let first = u32::from(v4_network.network());
        FamilyPlan {
            network: v4_network.trunc(),
            gateway: Ipv4Addr::from(first.saturating_add(1)),
            guest: Ipv4Addr::from(first.saturating_add(2)),
            pod: address,
            resolver: spec.resolvers.iter().find_map(|ip| match ip {
                IpAddr::V4(address) => Some(resolver(*address, observed)),
                IpAddr::V6(_) => None,
            }),
        }
    });
    let v6 = match (pod.global_v6().next(), ipv6_obstacle(pod, observed)) {
        (Some(address), None) => {
            let first = u128::from(v6_network.network());
            Some(FamilyPlan {
                network: v6_network.trunc(),
                gateway: Ipv6Addr::from(first.saturating_add(1)),
                guest: Ipv6Addr::from(first.saturating_add(2)),
                pod: address,
                resolver: spec.resolvers.iter().find_map(|ip| match ip {
                    IpAddr::V6(address) => Some(resolver(*address, observed)),
                    IpAddr::V4(_) => None,
                }),
            })
        }
        (Some(_), Some(obstacle)) if wanted.v6_required => return Err(unfit(obstacle)),
        (Some(_), Some(obstacle)) if v4.is_none() => {
            return Err(unfit(format!("the pod has IPv6 only, and {obstacle}")));
        }
        (Some(_), Some(obstacle)) => {
            notes.push(format!("{}: the guest has no IPv6: {obstacle}", nic.name));
            None
        }
        (None, _) if wanted.v6_required => {
            return Err(unfit(
                "the manifest sets vmIPv6NetworkCIDR, but the pod has no global IPv6 address: remove the field, or give the pod \
                 an address"
                    .into(),
            ));
        }
        (None, _) => None,
    };
    if v4.is_none() && v6.is_none() {
        return Err(unfit(
            "the interface has no address that masquerade can use: the pod needs a global IPv4 or IPv6 address on it".into(),
        ));
    }
    Ok(GuestNic {
        name: nic.name.clone(),
        pod_interface: nic.pod_interface.clone(),
        queue_pairs: nic.queue_pairs,
        guest_mac: nic.guest_mac.unwrap_or(nic.made_mac),
        mtu: pod.usable_mtu(),
        joined: Joined::Masquerade(Masqueraded {
            tap: nic.tap.clone(),
            server_tap: nic.server_tap.clone(),
            v4,
            v6,
        }),
    })
}

/// Why the guest cannot have IPv6 although the pod has it.
fn ipv6_obstacle(pod: &Link, observed: &Observed) -> Option<String> {
    let mtu = pod.usable_mtu();
    if mtu < IPV6_MIN_MTU {
        return Some(format!(
            "the MTU of {} is {mtu}, but IPv6 requires at least {IPV6_MIN_MTU}",
            pod.name
        ));
    }
    if observed.ipv6_disabled_by_default {
        return Some(
            "net.ipv6.conf.default.disable_ipv6 is 1 in this pod: add the sysctl net.ipv6.conf.default.disable_ipv6=0 to the pod"
                .into(),
        );
    }
    match &observed.ipv6_forwarding {
        None => Some("the kernel has no net.ipv6.conf.all.forwarding".into()),
        Some(sysctl) if sysctl.value == "1" || sysctl.writable => None,
        Some(_) => Some(
            "net.ipv6.conf.all.forwarding is 0 and read-only in this pod: add the sysctl net.ipv6.conf.all.forwarding=1 to the \
             pod (securityContext.sysctls, or podman run --sysctl)"
                .into(),
        ),
    }
}

/// Where a name server on the pod's loopback takes requests. Docker's has no socket at its port 53: rules in its container lead
/// there, and only from processes of the container.
fn resolver<A: Copy + Into<IpAddr>>(address: A, observed: &Observed) -> Resolver<A> {
    const DOMAIN: u16 = 53;
    let ip: IpAddr = address.into();
    let port = |protocol: Protocol| {
        let sockets = observed.listeners.iter();
        let ports: Vec<u16> = sockets
            .filter(|socket| socket.protocol == protocol && socket.local.ip() == ip)
            .map(|socket| socket.local.port())
            .collect();
        match ports.as_slice() {
            [only] => *only,
            _ => DOMAIN,
        }
    };
    Resolver {
        address,
        udp: port(Protocol::Udp),
        tcp: port(Protocol::Tcp),
    }
}
