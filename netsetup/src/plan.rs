//! From what is wanted and what is there to the ordered steps between them: pure, printable, checkable.
//!
//! The order holds because of two things. The TAPs come before the rule set, which hooks them by name, and the
//! rule set comes before forwarding, so that at no moment is a packet forwarded that the rules have not seen. The
//! mark comes last: a TAP that carries it with the digest of the same plan needs nothing more done, and one
//! without it was left by a start that did not finish and is gone through again.

mod bridge;
mod down;
mod guest_network;
mod masquerade;
mod passt;

use std::mem::take;
use std::net::IpAddr;

use hawser_mac::Mac;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::guest_nic::{GuestNic, Joined, Masqueraded};
use crate::journal::Journal;
use crate::observed::{Address, IPV6_FORWARDING, Link, Observed, SIGNATURE, Sysctl};
use crate::ruleset;
use crate::spec::{
    BRIDGE_PREFIX, GATEWAY_LINK_LOCAL, GATEWAY_MAC, NetSpec, Nic, Owner, Wiring, other_tap_names,
};
use crate::step::{Step, TapStep};
use crate::undo::Undo;

/// IPv6 does not work below this (RFC 8200, section 5).
const IPV6_MIN_MTU: u32 = 1280;

/// What will be done, and what the guest's NICs will then be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Empty when the namespace is already as wanted.
    pub steps: Vec<Step>,
    /// After the steps, an addition to their rule set that not every kernel takes and that nothing depends on ([`crate::offload`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offloading: Option<serde_json::Value>,
    pub nics: Vec<GuestNic>,
    /// What the user should know although nothing is wrong, one line each.
    pub notes: Vec<String>,
    #[serde(skip)]
    pub journal: Journal,
}

impl Plan {
    /// Whether carrying it out takes CAP_NET_ADMIN: all of it does but writing to /proc/sys.
    pub fn needs_net_admin(&self) -> bool {
        let sysctl = |step: &Step| matches!(step, Step::Sysctl { .. });
        !self.steps.iter().all(sysctl)
    }

    /// Compares. Every reason to stop is found here, before anything is changed.
    pub fn new(spec: &NetSpec, observed: &Observed) -> Result<Self, Error> {
        let mut plan = Self {
            steps: Vec::new(),
            offloading: None,
            nics: Vec::new(),
            notes: Vec::new(),
            journal: Journal::default(),
        };
        let spec = &with_free_names(spec, observed);
        refuse_foreign(spec, observed)?;
        for nic in &spec.nics {
            let notes = &mut plan.notes;
            plan.nics.push(match &nic.wiring {
                Wiring::Masquerade(masquerade) => {
                    masquerade::guest_nic(nic, masquerade, spec, observed, notes)?
                }
                Wiring::Bridge | Wiring::ManagedTap => bridge::guest_nic(nic, observed, notes)?,
                Wiring::Passt(passt) => passt::guest_nic(nic, passt, spec.owner, observed, notes)?,
                Wiring::Down => down::guest_nic(nic, observed)?,
            });
        }
        let wanted = plan.wanted(spec, observed);
        // Also when nothing is left to do: a launcher that finds the pod wired takes the wiring down, even if the
        // journal of the start that wired it is lost.
        plan.journal.undo = wanted
            .iter()
            .filter_map(|step| undo_of(step, observed).or_else(|| bridge::undo_of(step)))
            .collect();
        if !is_done(&wanted, observed) {
            plan.steps = wanted;
            plan.offloading = ruleset::offloading(&plan.nics);
        }
        Ok(plan)
    }

    fn wanted(&self, spec: &NetSpec, observed: &Observed) -> Vec<Step> {
        let mut steps = Vec::new();
        for nic in &self.nics {
            steps.extend(bridge::bridge_step(nic));
            steps.extend(server_tap_step(nic, spec.owner, observed).map(Step::Tap));
            steps.extend(tap_step(nic, spec.owner, observed).map(Step::Tap));
            if let Joined::Masquerade(masqueraded) = &nic.joined {
                steps.extend(addressing(masqueraded, nic.guest_mac));
            }
        }
        if self.taps().next().is_some() {
            let document = Box::new(ruleset::document(spec, &self.nics));
            steps.push(Step::Ruleset { document });
        }
        let masqueraded = || self.nics.iter().filter_map(|nic| Some((nic, nic.masqueraded()?)));
        for (nic, masqueraded) in masqueraded() {
            if masqueraded.v4.is_some() {
                let link = nic.pod_interface.clone();
                steps.push(Step::Ipv4Forwarding { link });
            }
        }
        steps.extend(self.nics.iter().filter_map(bridge::port_step));
        let digest = digest(&steps);
        for step in &mut steps {
            if let Step::Ruleset { document } = step {
                let known =
                    ruleset::with_own_connections(take(&mut **document), &self.nics, &observed.connections);
                **document = known;
            }
        }
        if masqueraded().any(|(_, masqueraded)| masqueraded.v6.is_some()) {
            steps.extend(ipv6_forwarding(observed));
        }
        steps.extend(passt::steps(spec, observed));
        for (nic, tap) in self.taps() {
            steps.push(Step::Mark {
                link: tap.to_owned(),
                alias: format!("{SIGNATURE}{} {digest}", nic.name),
            });
        }
        steps
    }

    fn taps(&self) -> impl Iterator<Item = (&GuestNic, &str)> {
        self.nics.iter().filter_map(|nic| Some((nic, nic.tap()?)))
    }
}

/// Names of TAPs that nobody else has taken: rootless podman calls the pod's own interface `tap0`, for one.
fn with_free_names(spec: &NetSpec, observed: &Observed) -> NetSpec {
    let mut spec = spec.clone();
    let is_foreign = |name: &str| observed.link(name).is_some_and(|link| !is_ours(link));
    for nic in spec.nics.iter_mut() {
        if is_foreign(&nic.tap) || is_foreign(&nic.server_tap) {
            let (tap, server_tap) = other_tap_names(&nic.pod_interface);
            (nic.tap, nic.server_tap) = (tap, server_tap);
        }
    }
    spec
}

/// What hawser did not create is left alone, however much it looks like the work of a launcher.
fn refuse_foreign(spec: &NetSpec, observed: &Observed) -> Result<(), Error> {
    let with_tap = |nic: &&Nic| !matches!(nic.wiring, Wiring::Passt(_));
    for nic in spec.nics.iter().filter(with_tap) {
        for name in [&nic.tap, &nic.server_tap] {
            if observed.link(name).is_some_and(|link| !is_ours(link)) {
                return Err(Error::NotOurs {
                    object: name.clone(),
                    why: "an interface of this name exists, and hawser did not create it: remove it, or start in a fresh pod"
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
            why:
                "KubeVirt's node agent has wired this pod: run hawser in a pod that KubeVirt does not manage"
                    .into(),
        }),
        None => Ok(()),
    }
}

fn is_ours(link: &Link) -> bool {
    link.kind.as_deref() == Some("tun") && link.is_ours()
}

/// The TAP that the guest's frames come by.
fn tap_step(nic: &GuestNic, owner: Owner, observed: &Observed) -> Option<TapStep> {
    let (tap, addresses, bridge) = match &nic.joined {
        Joined::Masquerade(masqueraded) => (&masqueraded.tap, gateway_addresses(masqueraded), None),
        Joined::Bridge(bridged) => (&bridged.tap, Vec::new(), Some(bridged.bridge.clone())),
        Joined::Down { tap } => (tap, Vec::new(), None),
        Joined::Passt(_) => return None,
    };
    let multi_queue = nic.queue_pairs > 1;
    Some(TapStep {
        name: tap.clone(),
        owner,
        multi_queue,
        mac: GATEWAY_MAC,
        mtu: nic.mtu,
        alias: unfinished(nic),
        gateway: nic.masqueraded().is_some(),
        bridge,
        replace: is_made_otherwise(tap, multi_queue, owner, &addresses, observed),
    })
}

/// The helper TAP of the server, for a guest that is served.
fn server_tap_step(nic: &GuestNic, owner: Owner, observed: &Observed) -> Option<TapStep> {
    let tap = nic.server_tap()?;
    Some(TapStep {
        name: tap.to_owned(),
        owner,
        multi_queue: false,
        // Its own address is never on the wire; it only must not be the gateway's.
        mac: Mac([0x02, 0, 0, 0, 0, 1]),
        mtu: nic.mtu,
        alias: unfinished(nic),
        gateway: false,
        bridge: None,
        replace: is_made_otherwise(tap, false, owner, &[], observed),
    })
}

fn unfinished(nic: &GuestNic) -> String {
    format!("{SIGNATURE}{} unfinished", nic.name)
}

/// Whether there is such a TAP that the kernel cannot change into the one that is wanted.
fn is_made_otherwise(
    tap: &str,
    multi_queue: bool,
    owner: Owner,
    addresses: &[Address],
    observed: &Observed,
) -> bool {
    observed.link(tap).is_some_and(|link| {
        let otherwise_made = link.tap.as_ref().is_none_or(|tap| {
            tap.multi_queue != multi_queue || tap.owner != Some(owner.uid) || tap.group != Some(owner.gid)
        });
        // Of another network, and with it neighbours and routes.
        otherwise_made || link.addresses.iter().any(|address| !addresses.contains(address))
    })
}

/// Addresses of the gateway and the neighbour behind it, on a masqueraded guest's TAP.
fn addressing(nic: &Masqueraded, guest_mac: Mac) -> Vec<Step> {
    let link = || nic.tap.clone();
    let mut steps = Vec::new();
    for Address { ip, prefix_len } in gateway_addresses(nic) {
        let link = link();
        steps.push(Step::AddAddress { link, ip, prefix_len });
    }
    let guests = [nic.v4.map(|v4| v4.guest.into()), nic.v6.map(|v6| v6.guest.into())];
    for ip in guests.into_iter().flatten() {
        let (link, mac) = (link(), guest_mac);
        steps.push(Step::Neighbour { link, ip, mac });
    }
    if nic.v6.is_some() {
        steps.push(Step::LoopbackRoute { link: link() });
    }
    steps
}

fn gateway_addresses(nic: &Masqueraded) -> Vec<Address> {
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
/// wanted: so neither `replace` nor the sysctls nor the connections of the pod's processes.
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
        Step::Sysctl { path, value } => observed.sysctl(path) == Some(value),
        Step::Mark { link: name, alias } => link(name).and_then(|l| l.alias.as_ref()) == Some(alias),
        // Not read back (the rule set only a privileged process could); the mark stands for them.
        Step::Neighbour { .. } | Step::LoopbackRoute { .. } | Step::Ruleset { .. } => true,
        Step::Bridge(_) | Step::Port(_) => bridge::is_done(step, observed),
    })
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
            value: observed.sysctl(path)?.clone(),
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
