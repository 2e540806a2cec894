//! Which virtual function each SR-IOV interface of the guest has.
//!
//! The pod's network-status names it, or a claim's metadata, or the variables of the SR-IOV device plugin (`networks`).
//! What is asked of the kernel about such a function is the same as for any other (`vfio`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::error::{ExitCode, Failure};
use crate::pod::finding::Part;
use crate::pod::networks::{self, PodNetworks, Resources, pod_interface};
use crate::spec::{Claim, GuestSpec, Interface, Mac, NetworkSource, PciAddress};

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

/// Which function each of the SR-IOV interfaces `with_vf` has. `networks` is the pod's network-status.
pub(crate) fn find(
    guest: &GuestSpec,
    with_vf: &[&Interface],
    networks: Option<&PodNetworks>,
    device_metadata: &Path,
) -> Part<Vec<Vf>> {
    if with_vf.is_empty() {
        return Part::silent(Vec::new());
    }
    let fail = |error: networks::Error| {
        Failure::unfit(
            "SR-IOV: cannot determine the VF of each network",
            "check what writes it: Multus' annotation by the downward API, the device plugin, or the DRA driver",
        )
        .because(error)
    };
    let claimed = |claim: &Claim| networks::claimed(device_metadata, claim).map_err(fail);
    let found = Resources::from_environment()
        .map_err(fail)
        .and_then(|resources| choose(guest, with_vf, networks, &resources, claimed));
    match found {
        Ok((vfs, notes)) => Part::silent(vfs).with_notes(notes),
        Err(failure) => Part::bad(failure),
    }
}

fn choose(
    guest: &GuestSpec,
    with_vf: &[&Interface],
    networks: Option<&PodNetworks>,
    resources: &Resources,
    claimed: impl Fn(&Claim) -> Result<PciAddress, Failure>,
) -> Result<(Vec<Vf>, Vec<String>), Failure> {
    let in_status = networks.map(|networks| networks.of_guest(guest, pod_interface));
    let in_status = in_status.unwrap_or_default();
    let mut addresses: BTreeMap<&str, PciAddress> = BTreeMap::new();
    for interface in with_vf {
        let name = interface.network.name.as_str();
        let address = match &interface.network.source {
            NetworkSource::ResourceClaim(claim) => Some(claimed(claim)?),
            _ => in_status.get(name).and_then(|network| network.pci),
        };
        if let Some(address) = address {
            addresses.insert(name, address);
        }
    }
    let from_plugin = from_resources(with_vf, resources, &addresses)?;
    addresses.extend(from_plugin);

    let mut vfs: Vec<Vf> = Vec::new();
    let mut notes = Vec::new();
    for interface in with_vf {
        let network = &interface.network;
        let Some(address) = addresses.get(network.name.as_str()).copied() else {
            return Err(Failure::new(
                ExitCode::Internal,
                format!("{}: left without a VF", network.path),
            ));
        };
        if let Some(other) = vfs.iter().find(|vf| vf.address == address) {
            return Err(Failure::unfit(
                format!(
                    "{}: network {} has the VF {address}, and so has {}",
                    network.path, network.name, other.name
                ),
                "check what assigned the addresses: each network needs a VF of its own",
            ));
        }
        let entry = in_status.get(&network.name);
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

/// The device plugin's functions, for the networks that nothing else names one of.
///
/// Those of one resource are taken in the plugin's order by the networks in the manifest's order, which is how Multus
/// hands them to the CNI plugin too; but only where there are as many of the one as of the other.
fn from_resources<'a>(
    with_vf: &[&'a Interface],
    resources: &Resources,
    known: &BTreeMap<&str, PciAddress>,
) -> Result<BTreeMap<&'a str, PciAddress>, Failure> {
    let pending: Vec<&Interface> = with_vf
        .iter()
        .copied()
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
            return Err(Failure::unfit(
                format!(
                    "networks {}: of the resource {resource} there are {} VFs for {}: {}",
                    names.join(", "),
                    free.len(),
                    interfaces.len(),
                    list(&free),
                ),
                "request as many of the resource as there are networks, or pass --network-status, which names the VF of each network",
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
        [] => Err(Failure::unfit(
            format!(
                "{}: cannot determine the VF of network {} in this pod",
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
            Err(Failure::unfit(
                format!(
                    "{}: network {} may have a VF of any of {}",
                    network.path,
                    network.name,
                    candidates.join(" ")
                ),
                format!(
                    "set KUBEVIRT_RESOURCE_NAME_{}=<resource>, or pass --network-status",
                    network.name
                ),
            ))
        }
    }
}

/// A guest whose MAC is not the manifest's would surprise those who rely on the manifest.
fn compare_macs(
    interface: &Interface,
    address: PciAddress,
    set: Option<Mac>,
) -> Result<Option<String>, Failure> {
    let field = format!("{}.macAddress", interface.path);
    match (interface.mac, set) {
        (Some(wanted), Some(set)) if wanted != set => Err(Failure::unfit(
            format!("{field}: {wanted} is wanted, but the VF {address} has {set}"),
            format!(
                "a VF's MAC is set on the physical function: ask the CNI plugin for it (\"mac\": \"{wanted}\" in the pod's \
                 annotation k8s.v1.cni.cncf.io/networks), or leave macAddress out"
            ),
        )),
        (Some(wanted), None) => Ok(Some(format!(
            "{field}: {wanted} is wanted; the VF {address} has what was set on the physical function, which cannot be read in the pod"
        ))),
        _ => Ok(None),
    }
}

fn list(addresses: &[PciAddress]) -> String {
    let texts: Vec<_> = addresses.iter().map(PciAddress::to_string).collect();
    texts.join(",")
}

#[cfg(test)]
#[path = "vfs_tests.rs"]
mod tests;
