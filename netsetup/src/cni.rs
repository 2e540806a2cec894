//! NICs whose device a CNI plugin has made: a TAP or a macvtap that is the guest's as it is.
//!
//! hawser wires nothing for them and changes nothing about them, neither at the start nor at the end. It only finds out
//! whether the VMM's user can open the device and use it as it is. If not, the CNI plugin has to be configured otherwise.

use std::fmt::Write;

use hawser_mac::Mac;
use serde::Serialize;

use crate::error::Error;
use crate::observed::SIGNATURE;
use crate::observed::{Link, Observed};
use crate::spec::Owner;

/// What is wanted of a NIC of this kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniSpec {
    /// The network's name in the manifest; also the NIC's id at the VMM.
    pub name: String,
    /// Possible names of its device, the likeliest first.
    pub devices: Vec<String>,
    /// Possible names of the pod's interface beside it, whose MAC the guest then gets. It may be the device itself.
    pub pod_interfaces: Vec<String>,
    /// At most so many.
    pub queue_pairs: u16,
    pub guest_mac: Option<Mac>,
}

/// A device that was found, and what the guest's NIC will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CniNic {
    pub name: String,
    /// The device's name in the pod.
    pub interface: String,
    pub device: CniDevice,
    pub queue_pairs: u16,
    pub guest_mac: Mac,
    /// The device's own.
    pub mac: Mac,
    /// Bytes.
    pub mtu: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CniDevice {
    /// Opened by name.
    Tap,
    /// Opened by its character device, which the kernel names after the interface's index.
    Macvtap { index: u32 },
}

impl CniNic {
    /// Finds the device, or the reason why the guest cannot use it. What the user should know in either case goes to
    /// `notes`.
    ///
    /// # Errors
    /// [`Error::Unfit`] and [`Error::NotOurs`], with what to do.
    pub fn find(
        spec: &CniSpec,
        owner: Owner,
        observed: &Observed,
        notes: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let candidates = spec.devices.iter().chain(&spec.pod_interfaces);
        let Some(link) = candidates.into_iter().find_map(|name| observed.link(name)) else {
            return Err(no_device(spec, observed));
        };
        let unfit = |why: String| Error::Unfit {
            object: link.name.clone(),
            why,
        };
        if link
            .alias
            .as_deref()
            .is_some_and(|alias| alias.starts_with(SIGNATURE))
        {
            return Err(Error::NotOurs {
                object: link.name.clone(),
                why: "hawser created it at an earlier start, for another binding of the same network: start in a fresh pod"
                    .into(),
            });
        }
        let device = match (link.kind.as_deref(), link.mac) {
            (Some("tun"), Some(_)) => CniDevice::Tap,
            (Some("macvtap"), Some(_)) => CniDevice::Macvtap { index: link.index },
            (Some("tun"), None) => {
                return Err(unfit(
                    "it is a TUN, which carries no Ethernet frames: configure the network's CNI plugin to create a TAP".into(),
                ));
            }
            (kind, _) => {
                return Err(unfit(format!(
                    "it is {}, not a TAP or a macvtap: configure the network's CNI plugin to create one of these, named {}",
                    kind.map_or_else(|| "a physical device".into(), |kind| format!("a {kind}")),
                    spec.devices.join(" or ")
                )));
            }
        };
        let queue_pairs = match device {
            CniDevice::Tap => {
                openable(link, owner)?;
                queue_pairs(spec, link, notes)?
            }
            CniDevice::Macvtap { .. } => spec.queue_pairs,
        };
        if !link.up {
            return Err(unfit(format!(
                "the device is down: its CNI plugin must bring it up (ip link set {} up)",
                link.name
            )));
        }
        Ok(Self {
            name: spec.name.clone(),
            interface: link.name.clone(),
            device,
            queue_pairs,
            guest_mac: guest_mac(spec, link, device, observed, notes)?,
            mac: link.mac.unwrap_or_default(),
            mtu: link.mtu,
        })
    }
}

fn no_device(spec: &CniSpec, observed: &Observed) -> Error {
    let names: Vec<&str> = spec
        .devices
        .iter()
        .chain(&spec.pod_interfaces)
        .map(String::as_str)
        .collect();
    let mut there = String::new();
    for link in observed.links.iter().filter(|link| link.name != "lo") {
        let kind = link.kind.as_deref().unwrap_or("physical");
        let _ = write!(
            there,
            "{}{} ({kind})",
            if there.is_empty() { "" } else { ", " },
            link.name
        );
    }
    if there.is_empty() {
        there.push_str("lo");
    }
    Error::Unfit {
        object: format!("network {}", spec.name),
        why: format!(
            "the pod has no TAP or macvtap for it: hawser looked for {} and found only {there}: attach the pod to a network \
             whose CNI plugin creates the device",
            names.join(" or ")
        ),
    }
}

/// Every user can open a TAP without an owner (linux/drivers/net/tun.c, `tun_not_capable`).
fn openable(link: &Link, owner: Owner) -> Result<(), Error> {
    let tap = link.tap.clone().unwrap_or_default();
    let others = |id: Option<u32>, ours: u32| id.filter(|id| *id != ours);
    let whose = match (others(tap.owner, owner.uid), others(tap.group, owner.gid)) {
        (Some(uid), _) => format!("user {uid}"),
        (None, Some(gid)) => format!("group {gid}"),
        (None, None) => return Ok(()),
    };
    Err(Error::Unfit {
        object: link.name.clone(),
        why: format!(
            "the TAP belongs to {whose}, so hawser as {}:{} cannot open it: configure its CNI plugin to create it with owner \
             {} and group {}, or without an owner",
            owner.uid, owner.gid, owner.uid, owner.gid
        ),
    })
}

/// The kernel opens a TAP only in the queue mode that it was made with.
fn queue_pairs(spec: &CniSpec, link: &Link, notes: &mut Vec<String>) -> Result<u16, Error> {
    let multi_queue = link.tap.as_ref().is_some_and(|tap| tap.multi_queue);
    match (multi_queue, spec.queue_pairs > 1) {
        (true, false) => Err(Error::Unfit {
            object: link.name.clone(),
            why: "the TAP is multi-queue, but the guest's NIC has one queue pair: give the guest more than one vCPU and do not \
                  set networkInterfaceMultiqueue to false, or configure the CNI plugin to create the TAP without multi-queue"
                .into(),
        }),
        (false, true) => {
            notes.push(format!(
                "{}: the guest's NIC has one queue pair instead of {}: the TAP {} was created without multi-queue",
                spec.name, spec.queue_pairs, link.name
            ));
            Ok(1)
        }
        _ => Ok(spec.queue_pairs),
    }
}

/// The manifest's; else that of the interface beside a TAP, as in KubeVirt; else the device's own.
fn guest_mac(
    spec: &CniSpec,
    link: &Link,
    device: CniDevice,
    observed: &Observed,
    notes: &mut Vec<String>,
) -> Result<Mac, Error> {
    let unfit = |why: String| Error::Unfit {
        object: link.name.clone(),
        why,
    };
    let own = link.mac.unwrap_or_default();
    if let CniDevice::Macvtap { .. } = device {
        return match spec.guest_mac {
            Some(wanted) if wanted != own => Err(unfit(format!(
                "the macvtap has the MAC {} and receives no frames for {}: omit macAddress from the manifest, or configure \
                 the CNI plugin to create the macvtap with that MAC",
                own, wanted
            ))),
            _ => Ok(own),
        };
    }
    let beside = || {
        let beside = spec.pod_interfaces.iter().find_map(|name| observed.link(name))?;
        beside.mac.filter(|_| beside.index != link.index)
    };
    let mac = spec.guest_mac.or_else(beside).unwrap_or(own);
    if mac == own {
        let bridged =
            |bridge: &Link| Some(bridge.index) == link.controller && bridge.kind.as_deref() == Some("bridge");
        if observed.links.iter().any(bridged) {
            return Err(unfit(format!(
                "the TAP is a bridge port and the guest would share its MAC {}; a bridge does not forward frames for its \
                 port's own MAC: set a different macAddress",
                own
            )));
        }
        if link.addresses.iter().any(|address| address.ip.is_ipv6()) {
            notes.push(format!(
                "{}: the guest shares the MAC of the TAP {}, and so its link-local IPv6 address: set a different macAddress \
                 if the guest has to reach the pod by IPv6",
                spec.name, link.name
            ));
        }
    }
    Ok(mac)
}

#[cfg(test)]
mod tests;
