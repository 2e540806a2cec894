//! Devices of the node that the pod asks for: by extended resources, or by claims (Dynamic Resource Allocation).

use std::collections::BTreeMap;

use hawser_manifest::{Binding, Claim, FieldPath, HostDeviceSource, NetworkSource, Report, quoted};
use serde_json::{Value, json};

use crate::source::Source;

/// Extended resources and how many of each, by name.
pub(crate) type Counts = BTreeMap<String, u64>;

/// What hawser opens to run a guest.
pub(crate) fn of_the_vmm(source: &Source<'_>) -> Counts {
    let devices = &source.options.devices;
    let mut counts = Counts::from([(devices.kvm.clone(), 1)]);
    if source.facts.needs_tap {
        counts.insert(devices.tun.clone(), 1);
    }
    counts
}

/// What the guest is assigned: VFs, GPUs and other devices.
pub(crate) fn of_the_guest(source: &Source<'_>, report: &mut Report) -> Counts {
    let mut counts = Counts::new();
    let mut add = |resource: &str| *counts.entry(resource.to_owned()).or_default() += 1;
    for device in &source.guest.host_devices {
        if let HostDeviceSource::Resource(name) = &device.source {
            add(name);
        }
    }
    let by_network = &source.options.network_resources;
    for interface in &source.guest.interfaces {
        let network = &interface.network;
        if let Some(resource) = by_network.get(&network.name) {
            add(resource);
        } else if interface.binding == Binding::Sriov
            && matches!(network.source, NetworkSource::Multus { .. })
        {
            report.note(
                path_of(&network.path),
                format!(
                    "the VF's resource is not known here: add --network-resource {}=RESOURCE, or have the cluster's \
                     network resources injector add it",
                    network.name
                ),
            );
        }
    }
    for name in by_network.keys() {
        if !source
            .guest
            .interfaces
            .iter()
            .any(|interface| interface.network.name == *name)
        {
            report.refuse_owner(
                FieldPath::of("--network-resource"),
                format!(
                    "no interface of the manifest is on a network named {}",
                    quoted(name)
                ),
            );
        }
    }
    counts
}

/// Whether any device reaches the guest by VFIO, with the field of the first.
pub(crate) fn vfio(source: &Source<'_>) -> Option<FieldPath> {
    let device = source.guest.host_devices.first().map(|device| &device.path);
    let vf = source
        .guest
        .interfaces
        .iter()
        .find(|interface| interface.binding == Binding::Sriov)
        .map(|interface| &interface.path);
    vf.or(device).map(|path| path_of(path))
}

/// `resources.claims` of the guest's container.
pub(crate) fn claims(source: &Source<'_>) -> Vec<Value> {
    let of_nics = source
        .guest
        .interfaces
        .iter()
        .filter_map(|interface| match &interface.network.source {
            NetworkSource::ResourceClaim(claim) => Some(claim),
            _ => None,
        });
    let of_devices = source
        .guest
        .host_devices
        .iter()
        .filter_map(|device| match &device.source {
            HostDeviceSource::Claim(claim) => Some(claim),
            HostDeviceSource::Resource(_) => None,
        });
    of_nics
        .chain(of_devices)
        .map(|Claim { name, request, .. }| json!({"name": name, "request": request}))
        .collect()
}

/// A path that an earlier phase has written out. The report would put it into the template once more.
fn path_of(written: &str) -> FieldPath {
    let instance = written
        .strip_prefix("spec.virtualMachineTemplate.spec.template.")
        .or_else(|| written.strip_prefix("spec.template."))
        .unwrap_or(written);
    let mut path: Option<FieldPath> = None;
    for part in instance.split('.') {
        let (key, indices) = part.split_once('[').unwrap_or((part, ""));
        let mut next = match &path {
            None => FieldPath::of(key),
            Some(path) => path.key(key),
        };
        for index in indices.split(['[', ']']).filter_map(|index| index.parse().ok()) {
            next = next.index(index);
        }
        path = Some(next);
    }
    path.unwrap_or_default()
}
