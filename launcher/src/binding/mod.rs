//! Bindings: how a guest's NIC is joined to the pod. One file each says all about it: what it wants from the pod,
//! from the VMM and from DHCP, and what it answers to "who gives the IP".

mod attachment;
mod bridge;
mod explain;
mod masquerade;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hawser_dhcp::Lease;
use hawser_netsetup::{GuestNic, NetSpec, Nic, Owner};
use sha2::{Digest, Sha256};

use crate::error::{ExitCode, Failure};
use crate::migration::NicDescription;
use crate::resolv::Resolv;
use crate::spec::{Binding, GuestSpec, Interface, Mac, Network, NetworkSource};
use crate::vmm::config::NetConfig;

pub(crate) use attachment::{Attachment, Device, Server};
pub(crate) use explain::{Explanation, ports_text, text as explanation_text};

/// The pod network's interface, by the container runtimes' convention.
const POD_INTERFACE: &str = "eth0";

/// What every interface of the guest wants from the pod's namespace.
pub(crate) fn net_spec(guest: &GuestSpec, owner: Owner) -> Result<NetSpec, Failure> {
    let mut nics = Vec::new();
    let mut refusals = Vec::new();
    for interface in &guest.interfaces {
        let nic = match &interface.binding {
            Binding::Masquerade => masquerade::nic(guest, interface),
            Binding::Bridge => bridge::nic(guest, interface),
            // The manifest's own checks refuse these first.
            other => Err(vec![format!(
                "{}: binding not supported: {other:?}",
                interface.path
            )]),
        };
        match nic {
            Ok(nic) => nics.push(nic),
            Err(reasons) => refusals.extend(reasons),
        }
    }
    if refusals.is_empty() {
        return Ok(NetSpec { nics, owner });
    }
    let mut text = String::from("the manifest is refused");
    for refusal in refusals {
        text.push_str("\n  ");
        text.push_str(&refusal);
    }
    Err(Failure::new(ExitCode::Manifest, text))
}

/// Every interface with what the plan made of it, in the manifest's order.
pub(crate) fn attachments(guest: &GuestSpec, nics: &[GuestNic], resolv: &Resolv) -> Vec<Attachment> {
    let attach = |interface: &Interface| {
        let nic = nics.iter().find(|nic| nic.name == interface.name)?;
        let lease = match interface.binding {
            Binding::Masquerade => Some(masquerade::lease(guest, interface, nic, resolv)),
            Binding::Bridge => bridge::lease(guest, interface, nic, resolv),
            _ => return None,
        };
        Some(over_tap(nic, lease))
    };
    guest.interfaces.iter().filter_map(attach).collect()
}

/// A NIC on a TAP of ours, with our server where there is anything to tell.
fn over_tap(nic: &GuestNic, lease: Option<Lease>) -> Attachment {
    Attachment {
        device: Device::Net(NetConfig::tap(nic)),
        server: lease.map(|lease| Server {
            tap: nic.server_tap.clone(),
            lease,
        }),
    }
}

/// Each NIC as two launchers compare it, and as `hawser status` tells it.
pub(crate) fn describe(
    guest: &GuestSpec,
    nics: &[GuestNic],
    attachments: &[Attachment],
) -> Vec<NicDescription> {
    let explanations = explain(guest);
    let describe = |nic: &GuestNic| {
        let binding = explanations.iter().find(|known| known.interface == nic.name);
        let served = attachments
            .iter()
            .filter_map(|attachment| attachment.server.as_ref())
            .find(|server| server.tap == nic.server_tap);
        let v4 = served.and_then(|server| server.lease.v4.as_ref());
        let v6 = served.and_then(|server| server.lease.v6.as_ref());
        NicDescription {
            name: nic.name.clone(),
            binding: binding.map_or("", |known| known.binding).to_owned(),
            tap: nic.tap.clone(),
            mac: Mac(nic.guest_mac).to_string(),
            mtu: nic.mtu,
            queue_pairs: nic.queue_pairs,
            addresses: v4
                .map(|v4| format!("{}/{}", v4.address, v4.prefix_len))
                .into_iter()
                .chain(v6.map(|v6| v6.address.to_string()))
                .collect(),
        }
    };
    nics.iter().map(describe).collect()
}

/// Who gives the IP, and the rest of what is asked about an interface; from the manifest alone.
pub(crate) fn explain(guest: &GuestSpec) -> Vec<Explanation> {
    let answer = |interface: &Interface| match interface.binding {
        Binding::Masquerade => Some(masquerade::explain(guest, interface)),
        Binding::Bridge => Some(bridge::explain(guest, interface)),
        _ => None,
    };
    guest.interfaces.iter().filter_map(answer).collect()
}

/// Queue pairs of a virtio NIC: one for each vCPU up to eight, beyond which a pod sees no gain.
fn queue_pairs(guest: &GuestSpec) -> u16 {
    const MOST: u32 = 8;
    if guest.network_interface_multiqueue == Some(false) {
        return 1;
    }
    u16::try_from(guest.vcpus.clamp(1, MOST)).unwrap_or(1)
}

/// Fields that cloud-hypervisor's virtio-net has no counterpart for.
fn refuse_unheeded(interface: &Interface) -> Vec<String> {
    let path = &interface.path;
    let mut refusals = Vec::new();
    if interface.acpi_index.is_some() {
        refusals.push(format!(
            "{path}.acpiIndex: not supported: cloud-hypervisor gives NICs no ACPI index"
        ));
    }
    if interface.pci_address.is_some() {
        refusals.push(format!(
            "{path}.pciAddress: not supported by this version of hawser"
        ));
    }
    if interface.state != crate::spec::LinkState::Up {
        refusals.push(format!(
            "{path}.state: only up is supported by this version of hawser"
        ));
    }
    refusals
}

/// The pod's interface of a network: `eth0` for the primary one, else `pod` and the first 11 hex digits of the
/// SHA-256 of the network's name, as KubeVirt tells Multus to call it.
fn pod_interface(network: &Network) -> String {
    match &network.source {
        NetworkSource::Pod { .. } | NetworkSource::Multus { default: true, .. } => POD_INTERFACE.to_owned(),
        NetworkSource::Multus { .. } => {
            let hash = Sha256::digest(network.name.as_bytes());
            let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("pod{}", hex.get(..11).unwrap_or(&hex))
        }
    }
}

/// The whole line of a nic spec that bindings over a TAP share.
fn tap_nic(guest: &GuestSpec, interface: &Interface, wiring: hawser_netsetup::Wiring) -> Nic {
    let pod_interface = pod_interface(&interface.network);
    Nic {
        name: interface.name.clone(),
        tap: hawser_netsetup::tap_name(&pod_interface),
        server_tap: hawser_netsetup::server_tap_name(&pod_interface),
        pod_interface,
        queue_pairs: queue_pairs(guest),
        guest_mac: interface.mac.map(|mac| mac.0),
        wiring,
    }
}

/// With a subdomain, the guest's own domain comes first: `<subdomain>.<namespace>.svc.<cluster domain>`.
fn search_list(guest: &GuestSpec, pods: &[String]) -> Vec<String> {
    let mut search = pods.to_vec();
    let Some(subdomain) = &guest.subdomain else {
        return search;
    };
    let prefix = format!("{}.svc.", guest.namespace);
    if let Some(services) = pods.iter().find(|name| name.starts_with(&prefix)) {
        let own = format!("{subdomain}.{services}");
        if !search.contains(&own) {
            search.insert(0, own);
        }
    }
    search
}

fn only_v4(ip: &IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    }
}

fn only_v6(ip: &IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_called_as_kubevirt_calls_them() {
        let network = |name: &str, source| Network {
            name: name.into(),
            path: String::new(),
            source,
        };
        let multus = |default| NetworkSource::Multus {
            network_name: "ns/net".into(),
            default,
        };
        // printf red | sha256sum
        assert_eq!(pod_interface(&network("red", multus(false))), "podb1f51a511f1");
        assert_eq!(pod_interface(&network("red", multus(true))), "eth0");
    }
}
