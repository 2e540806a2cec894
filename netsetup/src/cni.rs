//! NICs whose device a CNI plugin has made: a TAP or a macvtap that is the guest's as it is.
//!
//! Nothing is wired for them and nothing about them is changed, neither now nor at the end: they are not signed, and so
//! not ours. What is to be known is whether the VMM's user will be able to open the device and use it as it is. If not,
//! whoever made it has to make it otherwise.

use std::fmt::Write;

use hawser_mac::Mac;
use serde::Serialize;

use crate::error::Error;
use crate::observed::{Link, Observed};
use crate::plan::SIGNATURE;
use crate::spec::Owner;

/// What is wanted of a NIC of this kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniSpec {
    /// The network's name in the manifest; also the NIC's id at the VMM.
    pub name: String,
    /// What its device may be called, the likeliest first.
    pub devices: Vec<String>,
    /// What the pod's interface beside it may be called, which then tells the guest's MAC. It may be the device itself.
    pub pod_interfaces: Vec<String>,
    /// At most.
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
    /// Looks the device up and says what stands in the way of using it. What the user should know although nothing does
    /// goes to `notes`.
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
            return Err(nothing_there(spec, observed));
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
                why: "an earlier start of hawser made this for another binding of the same network: start in a fresh pod"
                    .into(),
            });
        }
        let device = match (link.kind.as_deref(), link.mac) {
            (Some("tun"), Some(_)) => CniDevice::Tap,
            (Some("macvtap"), Some(_)) => CniDevice::Macvtap { index: link.index },
            (Some("tun"), None) => {
                return Err(unfit(
                    "a TUN, which carries no Ethernet frames: the CNI plugin of this network has to make a TAP".into(),
                ));
            }
            (kind, _) => {
                return Err(unfit(format!(
                    "neither a TAP nor a macvtap but {}: the CNI plugin of this network has to make one of them, called \
                     {}",
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
                "down: its CNI plugin has to bring it up (ip link set {} up)",
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

fn nothing_there(spec: &CniSpec, observed: &Observed) -> Error {
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
        there.push_str("nothing but lo");
    }
    Error::Unfit {
        object: format!("network {}", spec.name),
        why: format!(
            "the pod has no TAP or macvtap for it, which would be called {}; it has {there}: attach the pod to the network \
             whose CNI plugin makes the device",
            names.join(" or ")
        ),
    }
}

/// A TAP without an owner is everybody's (linux/drivers/net/tun.c, `tun_not_capable`).
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
            "a TAP of {whose}, which {}:{} may not open: its CNI plugin has to make it with owner {} and group {}, or with \
             none",
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
            why: "a multi-queue TAP, and the guest's NIC has one queue pair: give the guest more than one vCPU and do not \
                  set networkInterfaceMultiqueue to false, or have the CNI plugin make it without multi-queue"
                .into(),
        }),
        (false, true) => {
            notes.push(format!(
                "{}: one queue pair for the guest, not {}: the TAP {} was made without multi-queue",
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
                "a macvtap with MAC {}, which takes no frames for {}: leave macAddress out of the manifest, or have the CNI \
                 plugin make it with that",
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
                "a bridge's port with the MAC {} that the guest would have too, and the bridge keeps to itself what is for \
                 a port's own MAC: set macAddress to another",
                own
            )));
        }
        if link.addresses.iter().any(|address| address.ip.is_ipv6()) {
            notes.push(format!(
                "{}: the guest has the MAC of the TAP {} itself, and so the same link-local IPv6 address: set macAddress to \
                 another if the guest is to speak IPv6 to the pod",
                spec.name, link.name
            ));
        }
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Address, TapFacts};

    const OWNER: Owner = Owner { uid: 107, gid: 107 };
    const OWN: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 8]);

    fn link(index: u32, name: &str, kind: &str, mac: Mac) -> Link {
        Link {
            index,
            name: name.into(),
            kind: Some(kind.into()),
            mac: Some(mac),
            mtu: 1400,
            up: true,
            ..Link::default()
        }
    }

    fn tap() -> Link {
        Link {
            tap: Some(TapFacts {
                persistent: true,
                ..TapFacts::default()
            }),
            ..link(5, "tapred", "tun", OWN)
        }
    }

    fn spec() -> CniSpec {
        CniSpec {
            name: "red".into(),
            devices: vec!["tapred".into()],
            pod_interfaces: vec!["podred".into(), "net1".into()],
            queue_pairs: 1,
            guest_mac: None,
        }
    }

    fn find(spec: &CniSpec, links: &[Link]) -> (Result<CniNic, String>, Vec<String>) {
        let observed = Observed {
            links: links.to_vec(),
            ..Observed::default()
        };
        let mut notes = Vec::new();
        let found = CniNic::find(spec, OWNER, &observed, &mut notes);
        (found.map_err(|error| error.to_string()), notes)
    }

    fn found(spec: &CniSpec, links: &[Link]) -> CniNic {
        let (found, notes) = find(spec, links);
        assert_eq!(notes, [""; 0]);
        found.unwrap()
    }

    fn refused(spec: &CniSpec, links: &[Link], wanted: &str) {
        let said = find(spec, links).0.unwrap_err();
        assert!(said.contains(wanted), "{said}");
    }

    #[test]
    fn a_tap_comes_before_a_macvtap_and_each_has_the_mac_that_the_guest_needs() {
        let macvtap = link(6, "podred", "macvtap", OTHER);
        let nic = found(&spec(), std::slice::from_ref(&macvtap));
        assert_eq!(nic.device, CniDevice::Macvtap { index: 6 });
        assert_eq!(
            (nic.interface.as_str(), nic.guest_mac, nic.mtu),
            ("podred", OTHER, 1400)
        );
        let nic = found(&spec(), &[tap()]);
        assert_eq!(
            (nic.interface.as_str(), nic.device, nic.guest_mac),
            ("tapred", CniDevice::Tap, OWN)
        );
        // An interface beside a TAP is there to say what the guest's MAC is.
        let nic = found(&spec(), &[link(6, "net1", "dummy", OTHER), tap()]);
        assert_eq!((nic.device, nic.guest_mac), (CniDevice::Tap, OTHER));
        // CNI's own `tap` plugin gives the TAP the interface's name.
        let named = Link {
            name: "net1".into(),
            ..tap()
        };
        let nic = found(&spec(), &[named]);
        assert_eq!(
            (nic.interface.as_str(), nic.device, nic.guest_mac),
            ("net1", CniDevice::Tap, OWN)
        );
        let wanted = CniSpec {
            guest_mac: Some(OTHER),
            ..spec()
        };
        assert_eq!(found(&wanted, &[tap()]).guest_mac, OTHER);
        let wanted = CniSpec {
            guest_mac: Some(OTHER),
            ..spec()
        };
        assert_eq!(found(&wanted, &[macvtap]).guest_mac, OTHER);
    }

    #[test]
    fn queue_pairs_follow_the_tap() {
        let multi = |multi_queue| Link {
            tap: Some(TapFacts {
                multi_queue,
                ..TapFacts::default()
            }),
            ..tap()
        };
        let four = CniSpec {
            queue_pairs: 4,
            ..spec()
        };
        assert_eq!(found(&four, &[multi(true)]).queue_pairs, 4);
        let (nic, notes) = find(&four, &[multi(false)]);
        assert_eq!(nic.unwrap().queue_pairs, 1);
        assert!(notes[0].contains("made without multi-queue"), "{notes:?}");
        refused(
            &spec(),
            &[multi(true)],
            "tapred: a multi-queue TAP, and the guest's NIC has one",
        );
        assert_eq!(
            found(&four, &[link(6, "podred", "macvtap", OTHER)]).queue_pairs,
            4
        );
    }

    #[test]
    fn whose_tap_it_is() {
        let of = |owner, group| Link {
            tap: Some(TapFacts {
                owner,
                group,
                ..TapFacts::default()
            }),
            ..tap()
        };
        for (owner, group) in [
            (None, None),
            (Some(107), None),
            (None, Some(107)),
            (Some(107), Some(107)),
        ] {
            found(&spec(), &[of(owner, group)]);
        }
        refused(
            &spec(),
            &[of(Some(0), Some(107))],
            "tapred: a TAP of user 0, which 107:107 may not open",
        );
        refused(
            &spec(),
            &[of(Some(107), Some(5))],
            "tapred: a TAP of group 5, which 107:107 may not open",
        );
    }

    #[test]
    fn what_cannot_be_used_as_it_is() {
        refused(
            &spec(),
            &[link(1, "lo", "", OWN), link(2, "eth0", "veth", OWN)],
            "network red: the pod has no TAP or macvtap for it, which would be called tapred or podred or net1; it has eth0 \
             (veth): attach",
        );
        refused(
            &spec(),
            &[link(6, "podred", "macvlan", OWN)],
            "podred: neither a TAP nor a macvtap but a macvlan",
        );
        refused(&spec(), &[Link { mac: None, ..tap() }], "tapred: a TUN");
        refused(
            &spec(),
            &[Link { up: false, ..tap() }],
            "tapred: down: its CNI plugin has to bring it up",
        );
        let ours = Link {
            alias: Some("hawser red 0123".into()),
            ..tap()
        };
        refused(&spec(), &[ours], "tapred: an earlier start of hawser made this");
        let wanted = CniSpec {
            guest_mac: Some(OTHER),
            ..spec()
        };
        refused(
            &wanted,
            &[link(6, "podred", "macvtap", OWN)],
            "podred: a macvtap with MAC 02:00:00:00:00:07, which takes no frames for 02:00:00:00:00:08",
        );
    }

    #[test]
    fn a_guest_with_the_taps_own_mac() {
        let port = Link {
            controller: Some(9),
            ..tap()
        };
        let bridge = link(9, "br0", "bridge", OTHER);
        refused(
            &spec(),
            &[port.clone(), bridge.clone()],
            "tapred: a bridge's port with the MAC",
        );
        let wanted = CniSpec {
            guest_mac: Some(OTHER),
            ..spec()
        };
        found(&wanted, &[port, bridge]);
        let with_ipv6 = Link {
            addresses: vec![Address {
                ip: "fe80::7".parse().unwrap(),
                prefix_len: 64,
            }],
            ..tap()
        };
        let (nic, notes) = find(&spec(), &[with_ipv6]);
        assert_eq!(nic.unwrap().guest_mac, OWN);
        assert!(notes[0].contains("the same link-local IPv6 address"), "{notes:?}");
    }
}
