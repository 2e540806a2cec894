//! Each NIC as the launchers of a migration compare it, and as `hawser status` reports it.

use std::collections::BTreeMap;

use hawser_netsetup::{CniNic, GuestNic};

use super::{Attachment, Found, Kind, passt};
use crate::migration::{NicDescription, VfDescription};
use crate::pod::pci::Vf;
use crate::spec::{GuestSpec, Interface};

/// Those that hawser wires, those that CNI plugins made, and VFs.
pub(crate) fn describe(
    guest: &GuestSpec,
    nics: &[GuestNic],
    found: &Found<'_>,
    attachments: &[Attachment],
) -> Vec<NicDescription> {
    let wired = nics.iter().map(|nic| wired(guest, nic, attachments));
    let made = found.cni.iter().map(|nic| made_by_cni(guest, nic));
    let vfs = found.pci.vfs.iter().map(|function| vf(guest, function));
    wired.chain(made).chain(vfs).collect()
}

/// By the NIC's name: the pod's interface that it is joined to. A VF has none.
pub(crate) fn pod_interfaces(nics: &[GuestNic], found: &Found<'_>) -> BTreeMap<String, String> {
    let wired = nics
        .iter()
        .map(|nic| (nic.name.clone(), nic.pod_interface.clone()));
    let made = found
        .cni
        .iter()
        .map(|nic| (nic.name.clone(), nic.interface.clone()));
    wired.chain(made).collect()
}

fn interface<'a>(guest: &'a GuestSpec, name: &str) -> Option<&'a Interface> {
    guest.interfaces.iter().find(|interface| interface.name == name)
}

fn label(guest: &GuestSpec, name: &str) -> String {
    let label = |interface| Kind::of(interface).label(interface);
    interface(guest, name).map(label).unwrap_or_default()
}

fn wired(guest: &GuestSpec, nic: &GuestNic, attachments: &[Attachment]) -> NicDescription {
    let served = attachments
        .iter()
        .filter_map(|attachment| attachment.server.as_ref())
        .find(|server| Some(server.tap.as_str()) == nic.server_tap());
    let v4 = served.and_then(|server| server.lease.v4.as_ref());
    let v6 = served.and_then(|server| server.lease.v6.as_ref());
    let by_passt = nic.passt().into_iter().flat_map(passt::addresses);
    NicDescription {
        name: nic.name.clone(),
        binding: label(guest, &nic.name),
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
        addresses_may_change: interface(guest, &nic.name).is_some_and(|interface| {
            // The manifest's annotation is about the pod network.
            let has_pods_addresses = Kind::of(interface).has_pods_addresses && interface.network.is_primary();
            guest.pod_bridge_may_migrate && has_pods_addresses
        }),
        vf: None,
    }
}

fn made_by_cni(guest: &GuestSpec, nic: &CniNic) -> NicDescription {
    NicDescription {
        name: nic.name.clone(),
        binding: label(guest, &nic.name),
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
    }
}

fn vf(guest: &GuestSpec, vf: &Vf) -> NicDescription {
    NicDescription {
        name: vf.name.clone(),
        binding: label(guest, &vf.name),
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
    }
}
