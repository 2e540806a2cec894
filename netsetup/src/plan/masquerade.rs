//! The plan of a masqueraded NIC: which families the guest can have, and with which addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{IPV6_MIN_MTU, bridge};
use crate::error::Error;
use crate::guest_nic::{FamilyPlan, GuestNic, Joined, Masqueraded};
use crate::observed::{Link, Observed};
use crate::spec::{Masquerade, Nic};

pub(super) fn guest_nic(
    nic: &Nic,
    wanted: &Masquerade,
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
    refuse_overlap(nic, wanted, observed)?;
    let v4 = pod.global_v4().next().map(|address| {
        let first = u32::from(wanted.v4.network());
        FamilyPlan {
            network: wanted.v4.trunc(),
            gateway: Ipv4Addr::from(first.saturating_add(1)),
            guest: Ipv4Addr::from(first.saturating_add(2)),
            pod: address,
        }
    });
    let v6 = match (pod.global_v6().next(), ipv6_obstacle(pod, observed)) {
        (Some(address), None) => {
            let first = u128::from(wanted.v6.network());
            Some(FamilyPlan {
                network: wanted.v6.trunc(),
                gateway: Ipv6Addr::from(first.saturating_add(1)),
                guest: Ipv6Addr::from(first.saturating_add(2)),
                pod: address,
            })
        }
        (Some(_), Some(obstacle)) if wanted.v6_required => return Err(unfit(obstacle)),
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
    let Some(guest_mac) = nic.guest_mac.or(pod.mac) else {
        return Err(unfit(
            "the interface has no MAC that the guest could use: set macAddress".into(),
        ));
    };
    Ok(GuestNic {
        name: nic.name.clone(),
        pod_interface: nic.pod_interface.clone(),
        queue_pairs: nic.queue_pairs,
        guest_mac,
        mtu: pod.mtu,
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
    if pod.mtu < IPV6_MIN_MTU {
        return Some(format!(
            "the MTU of {} is {}, but IPv6 requires at least {IPV6_MIN_MTU}",
            pod.name, pod.mtu
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

/// If the guest network contained the pod's neighbours, the pod could not reach them.
fn refuse_overlap(nic: &Nic, wanted: &Masquerade, observed: &Observed) -> Result<(), Error> {
    for link in observed
        .links
        .iter()
        .filter(|link| link.name != nic.tap && link.name != "lo")
    {
        for address in &link.addresses {
            let Ok(used) = IpNet::new(address.ip, address.prefix_len) else {
                continue;
            };
            let (guest, field) = match used {
                IpNet::V4(_) => (IpNet::V4(wanted.v4), "vmNetworkCIDR"),
                IpNet::V6(_) => (IpNet::V6(wanted.v6), "vmIPv6NetworkCIDR"),
            };
            if guest.contains(&used) || used.contains(&guest) {
                return Err(Error::Unfit {
                    object: link.name.clone(),
                    why: format!(
                        "its address {used} overlaps the guest network {guest}: set a different one in {field}"
                    ),
                });
            }
        }
    }
    Ok(())
}
