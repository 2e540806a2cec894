//! The plan of a bridged NIC: the guest takes the place of the pod's interface on its network.
//!
//! The order holds because the interface is off its network only between its renaming and its becoming a port, so
//! everything else is there by then; and because what it was is written into the aliases of bridge and interface
//! before the first change that loses any of it.

mod told;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{GuestNic, SIGNATURE};
use crate::error::Error;
use crate::journal::Undo;
use crate::observe::{Link, Observed};
use crate::original::{ALIAS_MAX, Assigned, Original};
use crate::spec::{GATEWAY_MAC, Nic, Wiring, bridge_name, port_name};
use crate::step::{BridgeStep, PlaceholderStep, PortStep, Step};

pub use told::{BridgedV4, BridgedV6, Router6};

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
    let (v4, v6) = match nic.wiring {
        Wiring::ManagedTap => (None, None),
        _ => (told::v4(nic, &original, notes), told::v6(nic, &original, notes)),
    };
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
            v4,
            v6,
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
