//! Bindings: how a guest's NIC is joined to the pod. One file each says all about it: what it wants from the pod,
//! from the VMM and from DHCP, and what it answers to "who gives the IP".

mod attachment;
mod bridge;
mod down;
mod explain;
mod masquerade;
mod passt;
mod place;
mod plugin;
mod sidecar;
mod sriov;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use hawser_dhcp::Lease;
use hawser_netsetup::{CniNic, GuestNic, NetSpec, Nic, Owner};

use crate::migration::{NicDescription, VfDescription};
use crate::passt::Frontend;
use crate::pod::networks::pod_interface;
use crate::pod::pci::{PciFunctions, Vf};
use crate::pod::resolv::Resolv;
use crate::spec::{Binding, GuestSpec, Interface, LinkState};
use crate::vmm::config::{DeviceConfig, NetConfig};

pub(crate) use attachment::{Attachment, Device, Server};
pub(crate) use explain::{Explanation, ports_text, text as explanation_text};
pub(crate) use place::tagged;
pub(crate) use plugin::cni_specs;

/// What every interface of the guest wants from the pod's namespace.
pub(crate) fn net_spec(guest: &GuestSpec, owner: Owner) -> NetSpec {
    let nic = |interface: &Interface| match &interface.binding {
        _ if interface.state == LinkState::Down => Some(down::nic(guest, interface)),
        Binding::Masquerade => Some(masquerade::nic(guest, interface)),
        Binding::Bridge => Some(bridge::nic(guest, interface)),
        Binding::Passt => Some(passt::nic(guest, interface)),
        Binding::Plugin { plugin, .. } => plugin::nic(guest, interface, plugin),
        // Wants nothing from the namespace.
        Binding::Sriov => None,
    };
    NetSpec {
        nics: guest.interfaces.iter().filter_map(nic).collect(),
        owner,
    }
}

/// Every interface with what the plan made of it, or with the device that was found for it, in the manifest's order.
/// Sockets are below `directory`.
pub(crate) fn attachments(
    guest: &GuestSpec,
    nics: &[GuestNic],
    found: &Found<'_>,
    resolv: &Resolv,
    directory: &Path,
) -> Vec<Attachment> {
    let attach = |interface: &Interface| {
        if let Binding::Plugin { plugin, .. } = &interface.binding
            && plugin.domain_attachment_type.is_none()
        {
            return Some(sidecar::attachment(guest, interface));
        }
        if let Some(nic) = found.cni.iter().find(|nic| nic.name == interface.name) {
            return Some(plugin::attachment(nic));
        }
        if interface.binding == Binding::Sriov {
            let vf = found.pci.vfs.iter().find(|vf| vf.name == interface.name)?;
            return Some(sriov::attachment(vf, found.pci.access));
        }
        let nic = nics.iter().find(|nic| nic.name == interface.name)?;
        if nic.is_down() {
            return Some(over_tap(nic, None));
        }
        let lease = match interface.binding {
            Binding::Masquerade => masquerade::lease(guest, interface, nic, resolv),
            Binding::Bridge => bridge::lease(guest, interface, nic, resolv),
            Binding::Plugin { .. } => None,
            Binding::Passt => {
                return Some(Attachment {
                    device: Device::Net(NetConfig::vhost_user(nic, &Frontend::path(directory))),
                    server: None,
                    passt: passt::command(guest, interface, nic, resolv),
                });
            }
            _ => return None,
        };
        Some(over_tap(nic, lease))
    };
    let mut attachments: Vec<_> = guest.interfaces.iter().filter_map(attach).collect();
    place::place(guest, &mut attachments);
    attachments
}

/// What the pod has for the interfaces that are not wired here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    /// Devices that CNI plugins have made.
    pub(crate) cni: &'a [CniNic],
    pub(crate) pci: &'a PciFunctions,
}

/// A NIC on a TAP of ours, with our server where there is anything to tell.
fn over_tap(nic: &GuestNic, lease: Option<Lease>) -> Attachment {
    Attachment {
        device: Device::Net(NetConfig::tap(nic)),
        server: lease.zip(nic.server_tap()).map(|(lease, tap)| Server {
            tap: tap.to_owned(),
            lease,
            announces: nic.bridged().is_some(),
        }),
        passt: None,
    }
}

/// Each NIC as two launchers compare it, and as `hawser status` tells it.
pub(crate) fn describe(
    guest: &GuestSpec,
    nics: &[GuestNic],
    found: &Found<'_>,
    attachments: &[Attachment],
) -> Vec<NicDescription> {
    let explanations = explain(guest, &[]);
    let primary_bridge = |nic: &GuestNic| {
        let is = |interface: &Interface| {
            interface.name == nic.name
                && interface.binding == Binding::Bridge
                && interface.network.is_primary()
        };
        guest.interfaces.iter().any(is)
    };
    let binding = |name: &str| {
        let known = explanations.iter().find(|known| known.interface == name);
        known.map_or("", |known| &known.binding).to_owned()
    };
    let describe = |nic: &GuestNic| {
        let served = attachments
            .iter()
            .filter_map(|attachment| attachment.server.as_ref())
            .find(|server| Some(server.tap.as_str()) == nic.server_tap());
        let v4 = served.and_then(|server| server.lease.v4.as_ref());
        let v6 = served.and_then(|server| server.lease.v6.as_ref());
        let by_passt = nic.passt().into_iter().flat_map(passt::addresses);
        NicDescription {
            name: nic.name.clone(),
            binding: binding(&nic.name),
            // Launchers of version 1 compare this name for passt too, which has no TAP.
            tap: nic
                .tap()
                .map_or_else(|| hawser_netsetup::tap_name(&nic.pod_interface), str::to_owned),
            tap_mac: None,
            mac: nic.guest_mac.to_string(),
            mtu: nic.mtu,
            queue_pairs: nic.queue_pairs,
            addresses: v4
                .map(|v4| format!("{}/{}", v4.address, v4.prefix_len))
                .into_iter()
                .chain(v6.map(|v6| v6.address.to_string()))
                .chain(by_passt)
                .collect(),
            passt: nic.passt().cloned(),
            pod: nic.passt().cloned(),
            addresses_may_change: guest.pod_bridge_may_migrate && primary_bridge(nic),
            vf: None,
        }
    };
    let vf = |vf: &Vf| NicDescription {
        name: vf.name.clone(),
        binding: binding(&vf.name),
        tap: String::new(),
        tap_mac: None,
        mac: vf.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: vf.mtu.unwrap_or_default(),
        queue_pairs: 0,
        addresses: Vec::new(),
        passt: None,
        pod: None,
        addresses_may_change: false,
        vf: Some(VfDescription {
            address: vf.address.to_string(),
            attached: false,
        }),
    };
    let of_cni = |nic: &CniNic| NicDescription {
        name: nic.name.clone(),
        binding: binding(&nic.name),
        tap: nic.interface.clone(),
        tap_mac: Some(nic.mac.to_string()),
        mac: nic.guest_mac.to_string(),
        mtu: nic.mtu,
        queue_pairs: nic.queue_pairs,
        addresses: Vec::new(),
        passt: None,
        pod: None,
        addresses_may_change: false,
        vf: None,
    };
    let wired = nics.iter().map(describe);
    let made = found.cni.iter().map(of_cni);
    let functions = found.pci.vfs.iter().map(vf);
    wired.chain(made).chain(functions).collect()
}

/// The node's functions as the VM has them.
pub(crate) fn devices(attachments: &[Attachment]) -> Vec<DeviceConfig> {
    let function = |attachment: &Attachment| match &attachment.device {
        Device::Vfio(config) => Some(config.clone()),
        Device::Net(_) => None,
    };
    attachments.iter().filter_map(function).collect()
}

/// What the user should know of the bindings although nothing is wrong, one line each.
pub(crate) fn notes(guest: &GuestSpec) -> Vec<String> {
    let passts = guest
        .interfaces
        .iter()
        .filter(|interface| interface.binding == Binding::Passt && interface.state == LinkState::Up);
    passts
        .flat_map(|interface| passt::notes(guest, interface))
        .collect()
}

/// Whether any NIC has something to be made in the pod's namespace.
pub(crate) fn needs_wiring(guest: &GuestSpec) -> bool {
    let wired = |interface: &Interface| match &interface.binding {
        _ if interface.state == LinkState::Down => true,
        Binding::Masquerade | Binding::Bridge | Binding::Passt => true,
        Binding::Plugin { plugin, .. } => {
            plugin.domain_attachment_type == Some(crate::spec::DomainAttachment::ManagedTap)
        }
        Binding::Sriov => false,
    };
    guest.interfaces.iter().any(wired)
}

/// Whether any NIC's frames come by a TAP.
pub(crate) fn needs_tap(guest: &GuestSpec) -> bool {
    let tap = |interface: &Interface| {
        interface.state == LinkState::Down || !matches!(interface.binding, Binding::Passt | Binding::Sriov)
    };
    guest.interfaces.iter().any(tap)
}

/// Who gives the IP, and the rest of what is asked about an interface; from the manifest, and from the devices that were
/// found where the pod could be looked into.
pub(crate) fn explain(guest: &GuestSpec, cni: &[CniNic]) -> Vec<Explanation> {
    let answer = |interface: &Interface| match &interface.binding {
        _ if interface.state == LinkState::Down => down::explain(guest, interface),
        Binding::Masquerade => masquerade::explain(guest, interface),
        Binding::Bridge => bridge::explain(guest, interface),
        Binding::Plugin { name, plugin } if plugin.domain_attachment_type.is_none() => {
            sidecar::explain(interface, name, plugin)
        }
        Binding::Plugin { name, plugin } => {
            let found = cni.iter().find(|nic| nic.name == interface.name);
            let explanation = plugin::explain(guest, interface, name, plugin, found);
            sidecar::tuned(explanation, name, plugin)
        }
        Binding::Sriov => sriov::explain(interface),
        Binding::Passt => passt::explain(interface),
    };
    guest.interfaces.iter().map(answer).collect()
}

/// Queue pairs of a virtio NIC: one for each vCPU up to eight, beyond which a pod sees no gain.
fn queue_pairs(guest: &GuestSpec) -> u16 {
    const MOST: u32 = 8;
    if guest.network_interface_multiqueue == Some(false) {
        return 1;
    }
    u16::try_from(guest.vcpus.clamp(1, MOST)).unwrap_or(1)
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
        guest_mac: interface.mac,
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
