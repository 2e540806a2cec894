//! The pod's network namespace: what it holds, what wiring the guest's NICs would change in it, and what that takes.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use hawser_netsetup::{
    CniDevice, CniNic, MacvtapError, NetSpec, Observed, Owner, Plan, Step, find_routers, interfaces,
    missing_expressions, observe, open_macvtap,
};

use super::Look;
use crate::error::{ExitCode, Failure};
use crate::nic;
use crate::pod::finding::{Finding, Part};
use crate::pod::networks::primary_interface;
use crate::pod::resolv::Resolv;
use crate::privileges;
use crate::spec::GuestSpec;

/// What is to be done in the pod, and what CNI plugins have made there for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) plan: Plan,
    pub(crate) cni: Vec<CniNic>,
}

/// The devices of NICs that the VMM gets as descriptors, by the NIC's name: one for each queue pair.
pub(crate) type Descriptors = BTreeMap<String, Vec<OwnedFd>>;

/// Reads the namespace and plans the wiring.
pub(super) fn network(guest: &GuestSpec, owner: Owner, resolv: &Resolv) -> Part<Network> {
    let net = nic::net_spec(guest, owner, resolv);
    let mut notes = Vec::new();
    let network = block_on(look(guest, &net, &mut notes));
    Part::or_bad(network).with_notes(notes)
}

async fn look(guest: &GuestSpec, net: &NetSpec, notes: &mut Vec<String>) -> Result<Network, Failure> {
    let mut observed = observe().await?;
    find_routers(net, &mut observed).await?;
    let mut cni = Vec::new();
    let mut failures = Vec::new();
    for spec in nic::cni_specs(guest) {
        match CniNic::find(&spec, net.owner, &observed, notes) {
            Ok(found) => cni.push(found),
            Err(error) => failures.push(error.into()),
        }
    }
    let plan = match Plan::new(net, &observed) {
        Ok(plan) => Some(plan),
        Err(error) => {
            failures.push(error.into());
            None
        }
    };
    match (Failure::all(failures), plan) {
        (Some(failure), _) => Err(failure),
        (None, Some(plan)) => Ok(Network { plan, cni }),
        (None, None) => Err(Failure::new(ExitCode::Internal, "neither a plan nor a reason")),
    }
}

/// What CNI plugins have made for the guest, as far as that can be seen here.
pub(super) fn cni_devices(guest: &GuestSpec, owner: Owner) -> Vec<CniNic> {
    let specs = nic::cni_specs(guest);
    if specs.is_empty() {
        return Vec::new();
    }
    let Ok(observed) = block_on(async { Ok(observe().await?) }) else {
        return Vec::new();
    };
    let find = |spec| CniNic::find(spec, owner, &observed, &mut Vec::new()).ok();
    specs.iter().filter_map(find).collect()
}

/// What it takes to carry the plan out.
pub(super) fn wiring(plan: &Plan, look: Look) -> Part<()> {
    let mut part = Part::silent(());
    if plan.nics.is_empty() {
        return part;
    }
    if plan.needs_net_admin() {
        part = part.with(net_admin());
    }
    if let Some(rules) = ruleset(plan) {
        part = part.with(match look {
            Look::Check => loadable(rules).unwrap_or_else(nft),
            // A start finds out when it loads them.
            Look::Start { .. } | Look::Glance => nft(),
        });
    }
    part
}

fn ruleset(plan: &Plan) -> Option<&serde_json::Value> {
    plan.steps.iter().find_map(|step| match step {
        Step::Ruleset { document } => Some(&**document),
        _ => None,
    })
}

/// Nothing where it cannot be tried, which is a finding of its own.
fn loadable(rules: &serde_json::Value) -> Option<Finding> {
    privileges::raise_net_admin().ok()?;
    match missing_expressions(rules) {
        Ok(missing) if missing.is_empty() => Some(Finding::Good("nft: the rule set can be loaded".into())),
        Ok(missing) => Some(Finding::Bad(not_loadable(&missing))),
        Err(_) => None,
    }
}

/// What of the plan's rules this node cannot load, if that is what an error is about.
pub(crate) fn why_not_loaded(plan: &Plan) -> Option<Failure> {
    let missing = missing_expressions(ruleset(plan)?).ok()?;
    (!missing.is_empty()).then(|| not_loadable(&missing))
}

fn not_loadable(missing: &[String]) -> Failure {
    Failure::unfit(
        format!(
            "nft: this node's kernel cannot load hawser's rules: it lacks {}",
            missing.join(", ")
        ),
        "load the kernel's modules for them on the node (nft_fib_inet, nft_fwd_netdev, nft_dup_netdev, nft_masq, nft_nat, nft_reject_inet, nft_limit, nft_ct), or choose another binding",
    )
}

pub(super) fn net_admin() -> Finding {
    match privileges::need_net_admin() {
        Ok(()) => Finding::Good("capabilities: NET_ADMIN".into()),
        Err(failure) => Finding::Bad(failure),
    }
}

pub(super) fn nft() -> Finding {
    match hawser_linux::programs::find(Path::new("nft")) {
        Some(path) => Finding::Good(format!("nft: {}", path.display())),
        None => Finding::Bad(Failure::unfit(
            "nft: not found on PATH",
            "install nftables in the image",
        )),
    }
}

/// Opens what the VMM gets as descriptors: as the user that hawser was started as, before anything is wired.
pub(super) fn descriptors(cni: &[CniNic], owner: Owner) -> Part<Descriptors> {
    let mut opened = BTreeMap::new();
    let mut failures = Vec::new();
    for nic in cni {
        let CniDevice::Macvtap { index } = nic.device else {
            continue;
        };
        match open_macvtap(&nic.interface, index, nic.queue_pairs) {
            Ok(queues) => drop(opened.insert(nic.name.clone(), queues)),
            Err(error) => failures.push(cannot_open(error, &nic.interface, owner)),
        }
    }
    Part::or_bad(match Failure::all(failures) {
        Some(failure) => Err(failure),
        None => Ok(opened),
    })
}

fn cannot_open(error: MacvtapError, interface: &str, owner: Owner) -> Failure {
    let remedy = match &error {
        MacvtapError::Open { path, .. } => format!(
            "let user {} read and write {} (chown it on the node), and allow the pod the device",
            owner.uid,
            path.display()
        ),
        MacvtapError::NoNode { .. } | MacvtapError::Other { .. } => format!(
            "give the pod the device of its interface {interface}: a device plugin in Kubernetes, --device /dev/tapN with \
             podman, where N is the interface's index when it was made"
        ),
    };
    Failure::unfit("network", remedy).because(error)
}

/// What is found in the namespace without a guest.
pub(super) fn facts() -> Part<()> {
    match block_on(async { Ok(observe().await?) }) {
        Ok(observed) => describe(&observed),
        Err(failure) => Part::bad(failure),
    }
}

fn describe(observed: &Observed) -> Part<()> {
    let there = interfaces();
    let pod = primary_interface(&there).and_then(|name| observed.link(name));
    let Some(pod) = pod else {
        let names: Vec<_> = there.iter().map(|interface| interface.name.as_str()).collect();
        return Part::bad(Failure::unfit(
            format!(
                "eth0: the pod's network namespace has no such interface, nor one other with a default route, only {}",
                names.join(", ")
            ),
            "run in a pod with a network of its own, not in the host's",
        ));
    };
    let v4 = pod.global_v4().map(|ip| ip.to_string());
    let addresses: Vec<_> = v4.chain(pod.global_v6().map(|ip| ip.to_string())).collect();
    if addresses.is_empty() {
        return Part::bad(Failure::unfit(
            format!("{}: no global address", pod.name),
            "check the configuration of the pod's CNI plugin",
        ));
    }
    let mut part = Part::silent(()).with(Finding::Good(format!(
        "{}: {}, MTU {}",
        pod.name,
        addresses.join(", "),
        pod.usable_mtu()
    )));
    part = part.with(Finding::Good(
        "forwarding: IPv4 is switched on per interface over netlink".into(),
    ));
    if pod.global_v6().next().is_none() {
        return part;
    }
    part.with(match &observed.ipv6_forwarding {
        Some(sysctl) if sysctl.value == "1" => Finding::Good("forwarding: IPv6 is on".into()),
        Some(sysctl) if sysctl.writable => Finding::Good("forwarding: IPv6 can be switched on".into()),
        _ => Finding::Note(
            "forwarding: IPv6 is off and /proc/sys is read-only: the guest gets IPv4 alone unless the pod has the sysctl \
             net.ipv6.conf.all.forwarding=1"
                .into(),
        ),
    })
}

/// A runtime that is gone when this returns: the process forks later, and there must be no thread then.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Internal, "start the runtime").because(error))?;
    runtime.block_on(work)
}
