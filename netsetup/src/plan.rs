//! From what is wanted and what is there to the ordered steps between them: pure, printable, checkable.
//!
//! The order holds because of two things. The TAPs come before the rule set, which hooks them by name, and the
//! rule set comes before forwarding, so that at no moment is a packet forwarded that the rules have not seen. The
//! mark comes last: a TAP that carries it with the digest of the same plan needs nothing more done, and one
//! without it was left by a start that did not finish and is gone through again.

mod bridge;
mod down;
mod masquerade;
mod passt;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::journal::{Journal, Undo};
use crate::observe::{Address, Link, Observed, Sysctl};
use crate::ruleset;
use crate::spec::{BRIDGE_PREFIX, GATEWAY_LINK_LOCAL, NetSpec, Nic, Owner, Wiring};
use crate::step::{Step, TapStep};

pub use bridge::{Bridged, BridgedV4, BridgedV6, Router6};
pub use passt::{Handed, HandedV4};
pub(crate) use passt::{PING_GROUP_RANGE, UNPRIVILEGED_PORT_START};

/// Sysctl without which the kernel forwards no IPv6 at all.
pub(crate) const IPV6_FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// IPv6 does not work below this (RFC 8200, section 5).
const IPV6_MIN_MTU: u32 = 1280;

/// Every link of ours carries an alias that begins so.
pub(crate) const SIGNATURE: &str = "hawser ";

/// What will be done, and what the guest's NICs will then be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Empty when the namespace is already as wanted.
    pub steps: Vec<Step>,
    pub nics: Vec<GuestNic>,
    /// What the user should know although nothing is wrong, one line each.
    pub notes: Vec<String>,
    #[serde(skip)]
    pub journal: Journal,
}

/// A guest NIC as it will be: the input of the VM's configuration and of the guest's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestNic {
    pub name: String,
    pub pod_interface: String,
    pub tap: String,
    pub server_tap: String,
    pub queue_pairs: u16,
    pub guest_mac: [u8; 6],
    pub gateway_mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    pub v4: Option<FamilyPlan<Ipv4Net, Ipv4Addr>>,
    pub v6: Option<FamilyPlan<Ipv6Net, Ipv6Addr>>,
    /// Instead of `v4` and `v6`, for a NIC on a bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Bridged>,
    /// Instead of `v4` and `v6`, for a NIC that passt serves. It has no TAP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passt: Option<Handed>,
}

/// One address family of a masqueraded NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FamilyPlan<N, A> {
    pub network: N,
    pub gateway: A,
    pub guest: A,
    /// The address that others use.
    pub pod: A,
}

impl GuestNic {
    /// Whether the guest is told anything by DHCP and router advertisement of ours.
    pub fn is_served(&self) -> bool {
        self.has_tap() && !self.is_down() && self.bridge.as_ref().is_none_or(Bridged::is_served)
    }

    /// Whether it leads nowhere.
    pub fn is_down(&self) -> bool {
        self.has_tap() && self.bridge.is_none() && self.v4.is_none() && self.v6.is_none()
    }

    /// Whether its frames come and go by a TAP.
    pub fn has_tap(&self) -> bool {
        self.passt.is_none()
    }
}

impl Plan {
    /// Whether carrying it out takes CAP_NET_ADMIN: all of it does but writing to /proc/sys.
    pub fn needs_net_admin(&self) -> bool {
        let sysctl = |step: &Step| matches!(step, Step::Sysctl { .. });
        !self.steps.iter().all(sysctl)
    }

    /// Compares. Every reason not to go on is found here, before anything has moved.
    pub fn new(spec: &NetSpec, observed: &Observed) -> Result<Self, Error> {
        let mut plan = Self {
            steps: Vec::new(),
            nics: Vec::new(),
            notes: Vec::new(),
            journal: Journal::default(),
        };
        refuse_foreign(spec, observed)?;
        for nic in &spec.nics {
            let notes = &mut plan.notes;
            plan.nics.push(match &nic.wiring {
                Wiring::Masquerade(masquerade) => masquerade::guest_nic(nic, masquerade, observed, notes)?,
                Wiring::Bridge | Wiring::ManagedTap => bridge::guest_nic(nic, observed, notes)?,
                Wiring::Passt(passt) => passt::guest_nic(nic, passt, spec.owner, observed, notes)?,
                Wiring::Down => down::guest_nic(nic, observed)?,
            });
        }
        let wanted = plan.wanted(spec, observed);
        // Also when nothing is left to do: whoever finds the pod wired takes it down, even if the journal of the start
        // that wired it is lost.
        plan.journal.undo = wanted
            .iter()
            .filter_map(|step| undo_of(step, observed).or_else(|| bridge::undo_of(step)))
            .collect();
        if !is_done(&wanted, observed) {
            plan.steps = wanted;
        }
        Ok(plan)
    }

    fn wanted(&self, spec: &NetSpec, observed: &Observed) -> Vec<Step> {
        let mut steps = Vec::new();
        for nic in self.with_tap() {
            steps.extend(bridge::bridge_step(nic));
            if nic.is_served() {
                steps.push(Step::Tap(tap_step(nic, spec.owner, false, observed)));
            }
            steps.push(Step::Tap(tap_step(nic, spec.owner, true, observed)));
            for Address { ip, prefix_len } in addresses(nic) {
                let link = nic.tap.clone();
                steps.push(Step::AddAddress { link, ip, prefix_len });
            }
            let guests = [nic.v4.map(|v4| v4.guest.into()), nic.v6.map(|v6| v6.guest.into())];
            for ip in guests.into_iter().flatten() {
                let (link, mac) = (nic.tap.clone(), nic.guest_mac);
                steps.push(Step::Neighbour { link, ip, mac });
            }
            if nic.v6.is_some() {
                let link = nic.tap.clone();
                steps.push(Step::LoopbackRoute { link });
            }
        }
        if self.nics.iter().any(GuestNic::has_tap) {
            let document = Box::new(ruleset::document(spec, &self.nics));
            steps.push(Step::Ruleset { document });
        }
        for nic in &self.nics {
            if nic.v4.is_some() {
                let link = nic.pod_interface.clone();
                steps.push(Step::Ipv4Forwarding { link });
            }
        }
        steps.extend(self.nics.iter().filter_map(bridge::port_step));
        let digest = digest(&steps);
        if self.nics.iter().any(|nic| nic.v6.is_some()) {
            steps.extend(ipv6_forwarding(observed));
        }
        steps.extend(passt::steps(spec, observed));
        for nic in self.with_tap() {
            steps.push(Step::Mark {
                link: nic.tap.clone(),
                alias: format!("{SIGNATURE}{} {digest}", nic.name),
            });
        }
        steps
    }

    fn with_tap(&self) -> impl Iterator<Item = &GuestNic> {
        self.nics.iter().filter(|nic| nic.has_tap())
    }
}

/// What Hawser did not make is left alone, however much it looks like the work of a launcher.
fn refuse_foreign(spec: &NetSpec, observed: &Observed) -> Result<(), Error> {
    let with_tap = |nic: &&Nic| !matches!(nic.wiring, Wiring::Passt(_));
    for nic in spec.nics.iter().filter(with_tap) {
        for name in [&nic.tap, &nic.server_tap] {
            if observed.link(name).is_some_and(|link| !is_ours(link)) {
                return Err(Error::NotOurs {
                    object: name.clone(),
                    why: "an interface of this name is there and was not made by hawser: remove it, or start in a fresh pod"
                        .into(),
                });
            }
        }
    }
    let foreign = |link: &&Link| {
        link.name.starts_with(BRIDGE_PREFIX) && !bridge::is_our_bridge(link, &spec.nics, observed)
    };
    match observed.links.iter().find(foreign) {
        Some(bridge) => Err(Error::NotOurs {
            object: bridge.name.clone(),
            why: "KubeVirt's node agent has wired this pod: hawser does its own wiring, in a pod of its own"
                .into(),
        }),
        None => Ok(()),
    }
}

fn is_ours(link: &Link) -> bool {
    link.kind.as_deref() == Some("tun")
        && link
            .alias
            .as_deref()
            .is_some_and(|alias| alias.starts_with(SIGNATURE))
}

fn tap_step(nic: &GuestNic, owner: Owner, guests: bool, observed: &Observed) -> TapStep {
    let name = if guests { &nic.tap } else { &nic.server_tap };
    let multi_queue = guests && nic.queue_pairs > 1;
    let addresses = if guests { addresses(nic) } else { Vec::new() };
    let replace = observed.link(name).is_some_and(|link| {
        let otherwise_made = link.tap.as_ref().is_none_or(|tap| {
            tap.multi_queue != multi_queue || tap.owner != Some(owner.uid) || tap.group != Some(owner.gid)
        });
        // Of another network, and with it neighbours and routes.
        otherwise_made || link.addresses.iter().any(|address| !addresses.contains(address))
    });
    TapStep {
        name: name.clone(),
        owner,
        multi_queue,
        // The helper's own address is never on the wire; it only must not be the gateway's.
        mac: if guests {
            nic.gateway_mac
        } else {
            [0x02, 0, 0, 0, 0, 1]
        },
        mtu: nic.mtu,
        alias: format!("{SIGNATURE}{} unfinished", nic.name),
        gateway: guests && nic.bridge.is_none() && !nic.is_down(),
        bridge: nic
            .bridge
            .as_ref()
            .filter(|_| guests)
            .map(|bridged| bridged.bridge.clone()),
        replace,
    }
}

/// The gateway's, on the guest's TAP.
fn addresses(nic: &GuestNic) -> Vec<Address> {
    let address = |ip: IpAddr, prefix_len| Address { ip, prefix_len };
    let mut all = Vec::new();
    if let Some(v4) = &nic.v4 {
        all.push(address(v4.gateway.into(), v4.network.prefix_len()));
    }
    if let Some(v6) = &nic.v6 {
        all.push(address(v6.gateway.into(), v6.network.prefix_len()));
        all.push(address(GATEWAY_LINK_LOCAL.into(), 64));
    }
    all
}

/// Turning forwarding on makes the kernel forget default routes that it learnt by RA, unless `accept_ra` is 2.
///
/// Only what is not so already and can be written.
fn ipv6_forwarding(observed: &Observed) -> Vec<Step> {
    let write = |sysctl: Option<&Sysctl>, path: String, value: &str| {
        let value = value.to_owned();
        sysctl
            .filter(|sysctl| sysctl.writable && sysctl.value != value)
            .map(|_| Step::Sysctl { path, value })
    };
    let learnt = observed.links.iter().filter(|link| link.default_route_by_ra);
    let kept = learnt.filter_map(|link| {
        let path = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", link.name);
        write(link.accept_ra.as_ref(), path, "2")
    });
    let forwarding = write(observed.ipv6_forwarding.as_ref(), IPV6_FORWARDING.into(), "1");
    kept.chain(forwarding).collect()
}

/// Short, but long enough that two plans of one pod do not collide. What is there has no part in it, only what is
/// wanted: so neither `replace` nor the sysctls.
fn digest(steps: &[Step]) -> String {
    let mut hash = Sha256::new();
    for step in steps {
        let mut step = step.clone();
        if let Step::Tap(tap) = &mut step {
            tap.replace = false;
        }
        hash.update(serde_json::to_vec(&step).unwrap_or_default());
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The mark says that the plan was carried out to its end; what can be seen must still be so.
fn is_done(wanted: &[Step], observed: &Observed) -> bool {
    let link = |name: &str| observed.link(name);
    wanted.iter().all(|step| match step {
        Step::Tap(tap) => {
            let routes = |l: &Link| l.devconf.forwarding && l.devconf.route_localnet;
            !tap.replace
                && link(&tap.name).is_some_and(|l| {
                    let attached = |bridge: &String| bridge::is_port_of(l, bridge, observed);
                    l.up && l.mtu == tap.mtu
                        && l.mac == Some(tap.mac)
                        && (routes(l) || !tap.gateway)
                        && tap.bridge.as_ref().is_none_or(attached)
                })
        }
        Step::AddAddress {
            link: name,
            ip,
            prefix_len,
        } => link(name).is_some_and(|l| {
            let (ip, prefix_len) = (*ip, *prefix_len);
            l.addresses.contains(&Address { ip, prefix_len })
        }),
        Step::Ipv4Forwarding { link: name } => link(name).is_some_and(|l| l.devconf.forwarding),
        Step::Sysctl { path, value } => current(observed, path) == Some(value),
        Step::Mark { link: name, alias } => link(name).and_then(|l| l.alias.as_ref()) == Some(alias),
        // Not read back (the rule set only a privileged process could); the mark stands for them.
        Step::Neighbour { .. } | Step::LoopbackRoute { .. } | Step::Ruleset { .. } => true,
        Step::Bridge(_) | Step::Port(_) => bridge::is_done(step, observed),
    })
}

fn current<'a>(observed: &'a Observed, path: &str) -> Option<&'a String> {
    let whole = match path {
        IPV6_FORWARDING => Some(&observed.ipv6_forwarding),
        PING_GROUP_RANGE => Some(&observed.ping_group_range),
        UNPRIVILEGED_PORT_START => Some(&observed.unprivileged_port_start),
        _ => None,
    };
    if let Some(sysctl) = whole {
        return sysctl.as_ref().map(|sysctl| &sysctl.value);
    }
    let name = path
        .strip_prefix("/proc/sys/net/ipv6/conf/")?
        .strip_suffix("/accept_ra")?;
    observed
        .link(name)?
        .accept_ra
        .as_ref()
        .map(|sysctl| &sysctl.value)
}

fn undo_of(step: &Step, observed: &Observed) -> Option<Undo> {
    match step {
        Step::Tap(tap) => Some(Undo::DeleteLink {
            link: tap.name.clone(),
        }),
        Step::Ruleset { .. } => Some(Undo::DeleteTables),
        Step::Ipv4Forwarding { link } => Some(Undo::Ipv4Forwarding {
            link: link.clone(),
            value: observed.link(link).is_some_and(|l| l.devconf.forwarding),
        }),
        Step::Sysctl { path, .. } => Some(Undo::Sysctl {
            path: path.clone(),
            value: current(observed, path)?.clone(),
        }),
        // These go with their TAP.
        Step::AddAddress { .. } | Step::Neighbour { .. } | Step::LoopbackRoute { .. } | Step::Mark { .. } => {
            None
        }
        // See `bridge`.
        Step::Bridge(_) | Step::Port(_) => None,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
