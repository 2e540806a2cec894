//! SR-IOV: the guest has a virtual function of the node's NIC itself.
//!
//! - From the pod: nothing in its network namespace. What it must have are the VFIO nodes of the function; which function
//!   a network has stands in what the CNI plugin, the device plugin or the claim's driver wrote down (`pod_networks`).
//!   `vfio` asks the kernel beforehand whether the VMM will get it.
//! - From the VMM: the function by its path in sysfs, at the guest's PCI address that the manifest asks for as far as
//!   cloud-hypervisor's PCI has it: segments of one bus each, without bridges and with one function a slot.
//! - From DHCP: nothing. The guest is on the function's network, and whoever serves that serves the guest.
//! - MAC, VLAN and MTU are set on the physical function, by the CNI plugin: nobody in the pod can. So a MAC in the
//!   manifest is only compared with the one that the plugin says it set.
//! - Migration: without the function, since its state is in the card: the guest lets go of it before, and is given the
//!   target pod's own after.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::explain::{Explanation, Hop, Migration};
use super::place::misplaced;
use super::{Attachment, Device, pod_interface};
use crate::cli::PodArgs;
use crate::error::{ExitCode, Failure};
use crate::pod::networks::{self, PodNetworks, Resources};
use crate::pod::vfio::Access;
use crate::spec::{Binding, Claim, DhcpOptions, GuestSpec, Interface, Mac, NetworkSource, PciAddress};
use crate::vmm::config::DeviceConfig;

/// Which function an interface of the guest has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Vf {
    /// The interface's name.
    pub(crate) name: String,
    pub(crate) address: PciAddress,
    /// Of the guest.
    pub(crate) guest_address: Option<PciAddress>,
    /// As it was set on the physical function, where that is known.
    pub(crate) mac: Option<Mac>,
    /// Bytes, where that is known.
    pub(crate) mtu: Option<u32>,
}

impl fmt::Display for Vf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = || "not known here".to_owned();
        let mac = self.mac.map_or_else(unknown, |mac| mac.to_string());
        let mtu = self.mtu.map_or_else(unknown, |mtu| mtu.to_string());
        write!(f, "{}: the VF {}, MAC {mac}, MTU {mtu}", self.name, self.address)
    }
}

/// What of this interface cannot be heeded.
pub(super) fn refusals(interface: &Interface) -> Vec<String> {
    let path = &interface.path;
    let mut refusals = Vec::new();
    if interface.acpi_index.is_some() {
        refusals.push(format!(
            "{path}.acpiIndex: not supported: cloud-hypervisor gives NICs no ACPI index"
        ));
    }
    if interface.boot_order.is_some() {
        refusals.push(format!(
            "{path}.bootOrder: not supported: cloud-hypervisor boots from no VF"
        ));
    }
    if interface.dhcp_options != DhcpOptions::default() {
        refusals.push(format!(
            "{path}.dhcpOptions: not possible on SR-IOV: the VF's network has its own server, or none"
        ));
    }
    if let Some(problem) = interface.pci_address.and_then(misplaced) {
        refusals.push(format!("{path}.pciAddress: {problem}"));
    }
    refusals
}

/// Which function each SR-IOV interface has, and what the user should know of it. `patience` is for a status file that is
/// still empty.
pub(crate) fn vfs(
    guest: &GuestSpec,
    pod: &PodArgs,
    patience: Duration,
) -> Result<(Vec<Vf>, Vec<String>), Failure> {
    if of_guest(guest).next().is_none() {
        return Ok((Vec::new(), Vec::new()));
    }
    let fail = |error: networks::Error| {
        Failure::new(ExitCode::PodUnfit, "SR-IOV: which VF a network has")
            .because(error)
            .remedy("see to what writes it: Multus' annotation by the downward API, the device plugin, or the DRA driver")
    };
    let networks = PodNetworks::await_file(pod.network_status.as_deref(), patience).map_err(fail)?;
    let resources = Resources::from_environment().map_err(fail)?;
    let claimed = |claim: &Claim| networks::claimed(&pod.device_metadata, claim).map_err(fail);
    choose(guest, networks.as_ref(), &resources, claimed)
}

fn of_guest(guest: &GuestSpec) -> impl Iterator<Item = &Interface> {
    guest
        .interfaces
        .iter()
        .filter(|interface| interface.binding == Binding::Sriov)
}

fn choose(
    guest: &GuestSpec,
    networks: Option<&PodNetworks>,
    resources: &Resources,
    claimed: impl Fn(&Claim) -> Result<PciAddress, Failure>,
) -> Result<(Vec<Vf>, Vec<String>), Failure> {
    let told = networks.map(|networks| networks.of_guest(guest, pod_interface));
    let told = told.unwrap_or_default();
    let mut addresses: BTreeMap<&str, PciAddress> = BTreeMap::new();
    for interface in of_guest(guest) {
        let name = interface.network.name.as_str();
        let address = match &interface.network.source {
            NetworkSource::ResourceClaim(claim) => Some(claimed(claim)?),
            _ => told.get(name).and_then(|network| network.pci),
        };
        if let Some(address) = address {
            addresses.insert(name, address);
        }
    }
    let from_plugin = from_resources(guest, resources, &addresses)?;
    addresses.extend(from_plugin);

    let mut vfs: Vec<Vf> = Vec::new();
    let mut notes = Vec::new();
    for interface in of_guest(guest) {
        let network = &interface.network;
        let Some(address) = addresses.get(network.name.as_str()).copied() else {
            return Err(Failure::new(
                ExitCode::Internal,
                format!("{}: left without a VF", network.path),
            ));
        };
        if let Some(other) = vfs.iter().find(|vf| vf.address == address) {
            return Err(unfit(
                format!(
                    "{}: network {} has the VF {address}, and so has {}",
                    network.path, network.name, other.name
                ),
                "see to what told the addresses: each network needs a VF of its own",
            ));
        }
        let entry = told.get(&network.name);
        let mac = entry.and_then(|entry| entry.mac);
        notes.extend(compare_macs(interface, address, mac)?);
        vfs.push(Vf {
            name: interface.name.clone(),
            address,
            guest_address: interface.pci_address,
            mac,
            mtu: entry.and_then(|entry| entry.mtu),
        });
    }
    Ok((vfs, notes))
}

/// Functions of the device plugin's, for the networks that nothing else tells one of.
///
/// Those of one resource are taken in the plugin's order by the networks in the manifest's order, which is how Multus
/// hands them to the CNI plugin too; but only where there are as many of the one as of the other.
fn from_resources<'a>(
    guest: &'a GuestSpec,
    resources: &Resources,
    known: &BTreeMap<&str, PciAddress>,
) -> Result<BTreeMap<&'a str, PciAddress>, Failure> {
    let pending: Vec<_> = of_guest(guest)
        .filter(|interface| !known.contains_key(interface.network.name.as_str()))
        .collect();
    let mut by_resource: BTreeMap<&str, Vec<&Interface>> = BTreeMap::new();
    for interface in &pending {
        let resource = resource_of(interface, resources)?;
        by_resource.entry(resource).or_default().push(interface);
    }
    let used: BTreeSet<_> = known.values().collect();
    let mut found = BTreeMap::new();
    for (resource, interfaces) in by_resource {
        let devices = resources.devices(resource).iter();
        let free: Vec<_> = devices.filter(|device| !used.contains(device)).copied().collect();
        if free.len() != interfaces.len() {
            let names: Vec<_> = interfaces
                .iter()
                .map(|interface| interface.network.name.as_str())
                .collect();
            return Err(unfit(
                format!(
                    "networks {}: of the resource {resource} there are {} VFs for {}: {}",
                    names.join(", "),
                    free.len(),
                    interfaces.len(),
                    list(&free),
                ),
                "request as many of the resource as there are networks, or tell by --network-status which VF is whose",
            ));
        }
        let names = interfaces.iter().map(|interface| interface.network.name.as_str());
        found.extend(names.zip(free));
    }
    Ok(found)
}

/// The resource that is named for the network, else the only one that there is.
fn resource_of<'a>(interface: &Interface, resources: &'a Resources) -> Result<&'a str, Failure> {
    let network = &interface.network;
    if let Some(named) = resources.of_network(&network.name) {
        return Ok(named);
    }
    let names: Vec<_> = resources.names().collect();
    match names.as_slice() {
        [only] => Ok(only),
        [] => Err(unfit(
            format!(
                "{}: nothing in this pod tells which VF network {} has",
                network.path, network.name
            ),
            "mount the annotation k8s.v1.cni.cncf.io/network-status by the downward API and name the file with \
             --network-status, or request the VF from the SR-IOV device plugin, which sets PCIDEVICE_<RESOURCE>",
        )),
        several => {
            let candidates: Vec<_> = several
                .iter()
                .map(|name| format!("PCIDEVICE_{name}={}", list(resources.devices(name))))
                .collect();
            Err(unfit(
                format!(
                    "{}: network {} may have a VF of any of {}",
                    network.path,
                    network.name,
                    candidates.join(" ")
                ),
                format!(
                    "say of which: KUBEVIRT_RESOURCE_NAME_{}=<resource>, or --network-status",
                    network.name
                ),
            ))
        }
    }
}

/// A guest that has another MAC than its manifest says would be a surprise to whoever relies on that.
fn compare_macs(
    interface: &Interface,
    address: PciAddress,
    set: Option<Mac>,
) -> Result<Option<String>, Failure> {
    let field = format!("{}.macAddress", interface.path);
    match (interface.mac, set) {
        (Some(wanted), Some(set)) if wanted != set => Err(unfit(
            format!("{field}: {wanted} is wanted, but the VF {address} has {set}"),
            format!(
                "a VF's MAC is set on the physical function: ask the CNI plugin for it (\"mac\": \"{wanted}\" in the pod's \
                 annotation k8s.v1.cni.cncf.io/networks), or leave macAddress out"
            ),
        )),
        (Some(wanted), None) => Ok(Some(format!(
            "{field}: {wanted} is wanted; the VF {address} has what was set on the physical function, which nothing here tells"
        ))),
        _ => Ok(None),
    }
}

fn list(addresses: &[PciAddress]) -> String {
    let texts: Vec<_> = addresses.iter().map(PciAddress::to_string).collect();
    texts.join(",")
}

fn unfit(what: String, remedy: impl Into<String>) -> Failure {
    Failure::new(ExitCode::PodUnfit, what).remedy(remedy)
}

/// The VM's device.
pub(super) fn attachment(vf: &Vf, access: Access) -> Attachment {
    Attachment {
        device: Device::Vfio(DeviceConfig::function(
            &vf.name,
            vf.address,
            vf.guest_address,
            access,
        )),
        server: None,
        passt: None,
    }
}

/// What is asked about this interface.
pub(super) fn explain(interface: &Interface) -> Explanation {
    Explanation {
        interface: interface.name.clone(),
        binding: "sriov".into(),
        pod_interface: "a VF".into(),
        path: vec![Hop::new(&format!("VF of {}", interface.network.name), "VFIO")],
        ip_from: "whoever serves the VF's network; hawser does not, and no CNI plugin can tell the guest".into(),
        guest_address: "whatever it is told there, or sets itself".into(),
        others_use: "the same address".into(),
        ports: "all: every frame is the guest's".into(),
        mtu: "that of the guest's driver, at most the physical function's".into(),
        queue_pairs: 0,
        migration: Migration::possible(
            "the guest is asked to let go of the VF before, for which it has 30 s, and is given the target pod's own after; in \
             between it is without, and what was open over it ends unless the guest bonds it with another NIC",
        ),
        privileges: vec![
            "none in the network; the VMM's user must own the VFIO nodes and may lock the guest's memory (RLIMIT_MEMLOCK)"
                .into(),
        ],
        devices: vec![
            "/dev/kvm".into(),
            "/dev/vfio/vfio and /dev/vfio/<group>, or /dev/iommu and /dev/vfio/devices/vfio<n>".into(),
        ],
        cost: "one VF of the node, and all of the guest's memory locked; the pod's kernel sees not a frame, so neither \
               network policies nor nft rules apply; MAC, VLAN, MTU and link state are set on the physical function alone"
            .into(),
    }
}

#[cfg(test)]
#[path = "sriov_tests.rs"]
mod tests;
