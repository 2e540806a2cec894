//! GPUs and other devices of the node's: which of the pod's devices each of the manifest's is.
//!
//! Device plugins tell it by variables (`networks::Resources`), drivers of Dynamic Resource Allocation by a claim's
//! metadata. A function that a network has is no other device's. What is asked of the kernel before the VMM gets it is the
//! same as for a VF (`vfio`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::Vf;
use crate::error::Failure;
use crate::pod::networks::{self, Given, Resources};
use crate::spec::{Claim, GuestSpec, HostDevice, HostDeviceKind, HostDeviceSource, PciAddress};

/// Which function a device of the manifest's is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostFunction {
    pub(crate) name: String,
    pub(crate) kind: HostDeviceKind,
    pub(crate) address: PciAddress,
}

impl fmt::Display for HostFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: the function {}", self.kind, self.name, self.address)
    }
}

/// Finds each in this pod. `vfs` are assigned already.
pub(super) fn find(
    guest: &GuestSpec,
    vfs: &[Vf],
    device_metadata: &Path,
) -> Result<Vec<HostFunction>, Failure> {
    if guest.host_devices.is_empty() {
        return Ok(Vec::new());
    }
    let resources = Resources::from_environment().map_err(unknown)?;
    let claimed = |claim: &Claim| networks::claimed(device_metadata, claim).map_err(unknown);
    choose(&guest.host_devices, vfs, &resources, claimed)
}

fn unknown(error: networks::Error) -> Failure {
    Failure::unfit(
        "host devices: cannot determine the PCI device of each",
        "check what writes it: the device plugin, or the DRA driver",
    )
    .because(error)
}

fn choose(
    devices: &[HostDevice],
    vfs: &[Vf],
    resources: &Resources,
    claimed: impl Fn(&Claim) -> Result<PciAddress, Failure>,
) -> Result<Vec<HostFunction>, Failure> {
    let mut taken: BTreeMap<PciAddress, String> = vfs
        .iter()
        .map(|vf| (vf.address, format!("interface {}", vf.name)))
        .collect();
    let mut addresses = BTreeMap::new();
    // Claims first: they say which one, where a resource only says of which kind.
    for (place, device) in devices.iter().enumerate() {
        if let HostDeviceSource::Claim(claim) = &device.source {
            let address = claimed(claim)?;
            if let Some(other) = taken.get(&address) {
                return Err(Failure::unfit(
                    format!(
                        "{}: the claim's device {address} is that of {other} already",
                        device.path
                    ),
                    "check what assigned the addresses: each device of the guest needs one of its own",
                ));
            }
            taken.insert(address, label(device));
            addresses.insert(place, address);
        }
    }
    for (place, device) in devices.iter().enumerate() {
        if let HostDeviceSource::Resource(resource) = &device.source {
            let address = of_resource(device, resource, resources, &taken)?;
            taken.insert(address, label(device));
            addresses.insert(place, address);
        }
    }
    let function = |(place, device): (usize, &HostDevice)| {
        addresses.get(&place).map(|address| HostFunction {
            name: device.name.clone(),
            kind: device.kind,
            address: *address,
        })
    };
    Ok(devices.iter().enumerate().filter_map(function).collect())
}

fn label(device: &HostDevice) -> String {
    format!("{} {}", device.kind, device.name)
}

/// The plugin's first one that nobody has, so that several devices of one resource come in the manifest's order.
fn of_resource(
    device: &HostDevice,
    resource: &str,
    resources: &Resources,
    taken: &BTreeMap<PciAddress, String>,
) -> Result<PciAddress, Failure> {
    let path = format!("{}.deviceName", device.path);
    match resources.given(resource).map_err(unknown)? {
        Given::Functions { variable, addresses } => {
            if let Some(free) = addresses.iter().find(|address| !taken.contains_key(address)) {
                return Ok(*free);
            }
            let list: Vec<_> = addresses
                .iter()
                .map(|address| match taken.get(address) {
                    Some(owner) => format!("{address} is that of {owner}"),
                    None => address.to_string(),
                })
                .collect();
            let list = if list.is_empty() {
                "none".to_owned()
            } else {
                list.join(", ")
            };
            Err(Failure::unfit(
                format!("{path}: {variable} has no function that is free: {list}"),
                format!("request as many of {resource} in the pod's limits as devices of the guest name it"),
            ))
        }
        Given::Mediated { variable } => Err(Failure::unfit(
            format!(
                "{path}: a mediated device ({variable}): not supported: cloud-hypervisor is given whole PCI functions"
            ),
            "use a resource of whole functions on vfio-pci, or of SR-IOV VFs",
        )),
        Given::Usb { variable } => Err(Failure::unfit(
            format!("{path}: a USB device ({variable}): not supported: cloud-hypervisor has no USB"),
            "give the guest the PCI function of a USB controller",
        )),
        Given::Nothing { variables } => Err(Failure::unfit(
            format!(
                "{path}: the pod has no device of {resource}: {} are not set",
                variables.join(" and ")
            ),
            "request the resource in the pod's limits, from a device plugin that sets one of these to PCI addresses",
        )),
    }
}

#[cfg(test)]
#[path = "host_devices_tests.rs"]
mod tests;
