//! The plan of a bridged NIC: the guest takes the place of the pod's interface on its network.
//!
//! The interface becomes a bridge port and keeps everything else: name, kind, MAC, addresses and routes. So the CNI
//! plugin finds it unchanged (CNI's CHECK), a driver or a macvlan that receives frames for its own MAC only still receives
//! the guest's, only the port has to be undone, and a start after a kill reads from the kernel what the first start read.
//! Two things make room for the guest. hawser deletes the bridge's entry that the MAC is its port's own, so the bridge
//! forwards frames for it. And the rules drop what the pod's kernel would send by the interface.
//!
//! The order holds because the rules are there before the interface becomes a port.

mod bridged_lease;

use std::net::{Ipv4Addr, Ipv6Addr};

use hawser_mac::Mac;
use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::guest_nic::{Bridged, BridgedV4, GuestNic, Joined, Router6};
use crate::observed::{Link, Observed};
use crate::spec::{GATEWAY_MAC, Nic, Wiring, bridge_name};
use crate::step::{BridgeStep, PortStep, Step};
use crate::undo::Undo;

/// Alias of the bridge; with the words of [`Router6`] behind it.
const BRIDGE: &str = "hawser bridge, IPv6 router ";

/// Kinds of interfaces that the kernel refuses as a port of a bridge (EINVAL), with the MACs and the addresses that others have.
const NEVER_PORTS: [&str; 2] = ["ipvlan", "ipvtap"];

pub(super) fn guest_nic(nic: &Nic, observed: &Observed, notes: &mut Vec<String>) -> Result<GuestNic, Error> {
    let unfit = |why: &str| Error::Unfit {
        object: nic.pod_interface.clone(),
        why: why.into(),
    };
    let link = observed
        .link(&nic.pod_interface)
        .ok_or_else(|| unfit("the pod's network namespace has no such interface"))?;
    if link.controller.is_some() && !is_bridged(nic, observed) {
        return Err(Error::NotOurs {
            object: link.name.clone(),
            why: "another program has attached it to a bridge: start in a fresh pod".into(),
        });
    }
    let pods = link
        .usable_mac()
        .ok_or_else(|| unfit("it has no MAC, so it cannot be a bridge port: choose another binding"))?;
    if link
        .kind
        .as_deref()
        .is_some_and(|kind| NEVER_PORTS.contains(&kind))
    {
        return Err(unfit(
            "it is an ipvlan, which cannot be a bridge port and has the MAC of its node's interface: choose another binding, such as \
             masquerade",
        ));
    }
    if link.no_arp {
        return Err(unfit(
            "nothing on it answers ARP or neighbor solicitations (NOARP), so the guest would find no router there: choose \
             another binding, such as masquerade",
        ));
    }
    let guest_mac = nic.guest_mac.unwrap_or(pods);
    let mac = own_mac(pods);
    if guest_mac == GATEWAY_MAC || guest_mac == mac {
        return Err(unfit(
            "hawser uses the guest's MAC for a link of its own: set a different macAddress",
        ));
    }
    if link.own_mac_only && guest_mac != pods {
        return Err(unfit(
            "it is a macvlan, which receives no frames for a MAC other than its own: omit macAddress, or configure the \
             CNI plugin to create it with the guest's MAC or in mode passthru",
        ));
    }
    if guest_mac != pods {
        notes.push(format!(
            "{}: the guest has the MAC {guest_mac}, and {} has {pods}: many networks of pods deliver only what is for the pod's own \
             MAC: omit macAddress, or have the CNI plugin set it on the interface",
            nic.name, link.name
        ));
    }
    let (v4, v6) = match nic.wiring {
        Wiring::ManagedTap => (None, None),
        _ => (
            bridged_lease::v4(nic, link, notes),
            bridged_lease::v6(nic, link, remembered(nic, observed), notes),
        ),
    };
    if let Some(router) = v4.as_ref().and_then(|v4| unasked_router(v4, link)) {
        return Err(unfit(&format!(
            "its gateway {router} is a permanent neighbor outside of its subnet, so that nobody has to answer a guest that asks for \
             the gateway's MAC: choose another binding, such as masquerade"
        )));
    }
    Ok(GuestNic {
        name: nic.name.clone(),
        pod_interface: nic.pod_interface.clone(),
        queue_pairs: nic.queue_pairs,
        guest_mac,
        mtu: link.usable_mtu(),
        joined: Joined::Bridge(Bridged {
            tap: nic.tap.clone(),
            server_tap: nic.server_tap.clone(),
            bridge: bridge_name(&nic.pod_interface),
            mac,
            pod_mac: pods,
            v4,
            v6,
        }),
    })
}

/// A gateway that the pod was told the MAC of, where that is how it reaches it: AWS's and Azure's plugins do so, and nothing on the
/// node answers ARP for it.
fn unasked_router(v4: &BridgedV4, link: &Link) -> Option<Ipv4Addr> {
    let router = v4.router?;
    let subnet = Ipv4Net::new(v4.address, v4.prefix_len).ok()?;
    (!subnet.contains(&router) && link.permanent_neighbours.contains(&router)).then_some(router)
}

/// Where the first start found the guest's IPv6 default route to come from. A port hears no router advertisements and
/// cannot ask for its neighbours, so this cannot be found out again.
fn remembered(nic: &Nic, observed: &Observed) -> Option<Router6> {
    if !is_bridged(nic, observed) {
        return None;
    }
    let alias = observed.link(&bridge_name(&nic.pod_interface))?.alias.as_ref()?;
    match alias.strip_prefix(BRIDGE)? {
        "advertises" => Some(Router6::Advertises),
        "unknown" => Some(Router6::Unknown),
        router => {
            let link_local = router.parse::<Ipv6Addr>().ok().map(Router6::Silent);
            link_local.or_else(|| router.parse().ok().map(Router6::By))
        }
    }
}

fn alias(bridged: &Bridged) -> String {
    let router = bridged.v6.as_ref().map_or(Router6::Unknown, |v6| v6.router);
    match router {
        Router6::Advertises => format!("{BRIDGE}advertises"),
        Router6::Unknown => format!("{BRIDGE}unknown"),
        Router6::Silent(router) => format!("{BRIDGE}{router}"),
        Router6::By(mac) => format!("{BRIDGE}{mac}"),
    }
}

/// Whether a bridge of KubeVirt's name is ours: by its alias, or, if its start was cut short, by its MAC.
pub(super) fn is_our_bridge(link: &Link, nics: &[Nic], observed: &Observed) -> bool {
    let signed = Link::is_ours;
    let made = |nic: &Nic| {
        let pod = observed.link(&nic.pod_interface);
        bridge_name(&nic.pod_interface) == link.name
            && pod
                .and_then(|pod| pod.mac)
                .is_some_and(|mac| link.mac == Some(own_mac(mac)))
    };
    signed(link) || nics.iter().any(made)
}

/// Whether the pod's interface is a port of the bridge that an earlier start made for it.
pub(super) fn is_bridged(nic: &Nic, observed: &Observed) -> bool {
    let bridge = bridge_name(&nic.pod_interface);
    observed
        .link(&nic.pod_interface)
        .is_some_and(|link| is_port_of(link, &bridge, observed))
}

/// Locally administered, and the same every time: a plan made again is to be the same plan.
fn own_mac(of: Mac) -> Mac {
    let mut hash = Sha256::new();
    hash.update(b"hawser bridge");
    hash.update(of.0);
    let mut mac = [0x0a; 6];
    for (byte, random) in mac.iter_mut().skip(1).zip(hash.finalize()) {
        *byte = random;
    }
    Mac(mac)
}

/// The bridge, before the TAP becomes its port.
pub(super) fn bridge_step(nic: &GuestNic) -> Option<Step> {
    let bridged = nic.bridged()?;
    Some(Step::Bridge(BridgeStep {
        name: bridged.bridge.clone(),
        mac: bridged.mac,
        mtu: nic.mtu,
        alias: alias(bridged),
    }))
}

/// The move itself, after everything else.
pub(super) fn port_step(nic: &GuestNic) -> Option<Step> {
    let bridged = nic.bridged()?;
    Some(Step::Port(PortStep {
        interface: nic.pod_interface.clone(),
        bridge: bridged.bridge.clone(),
    }))
}

/// What takes a step of this file back: with the bridge its ports are gone.
pub(super) fn undo_of(step: &Step) -> Option<Undo> {
    match step {
        Step::Bridge(bridge) => Some(Undo::DeleteLink {
            link: bridge.name.clone(),
        }),
        _ => None,
    }
}

/// The bridge's table of addresses is not read back; the mark stands for it.
pub(super) fn is_done(step: &Step, observed: &Observed) -> bool {
    let link = |name: &str| observed.link(name);
    match step {
        Step::Bridge(bridge) => link(&bridge.name)
            .is_some_and(|l| l.up && l.mtu == bridge.mtu && l.alias.as_ref() == Some(&bridge.alias)),
        Step::Port(port) => {
            link(&port.interface).is_some_and(|l| l.up && is_port_of(l, &port.bridge, observed))
        }
        _ => true,
    }
}

/// Whether `link` is a port of the bridge of this name.
pub(super) fn is_port_of(link: &Link, bridge: &str, observed: &Observed) -> bool {
    let index = observed.link(bridge).map(|bridge| bridge.index);
    index.is_some() && link.controller == index
}
