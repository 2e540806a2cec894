//! Bindings: how a guest's NIC is joined to the pod. One file each says all about it: what it wants from the pod,
//! from the VMM and from DHCP.

mod masquerade;

use hawser_dhcp::Lease;
use hawser_netsetup::{GuestNic, NetSpec, Nic, Owner};

use crate::error::{ExitCode, Failure};
use crate::resolv::Resolv;
use crate::spec::{Binding, GuestSpec, Interface};
use crate::vmm::config::NetConfig;

/// The pod network's interface, by the container runtimes' convention.
const POD_INTERFACE: &str = "eth0";

/// What every interface of the guest wants from the pod's namespace.
pub(crate) fn net_spec(guest: &GuestSpec, owner: Owner) -> Result<NetSpec, Failure> {
    let mut nics = Vec::new();
    let mut refusals = Vec::new();
    for interface in &guest.interfaces {
        match &interface.binding {
            Binding::Masquerade => match masquerade::nic(guest, interface) {
                Ok(nic) => nics.push(nic),
                Err(reasons) => refusals.extend(reasons),
            },
            // The manifest's own checks refuse these first.
            other => refusals.push(format!("{}: binding not supported: {other:?}", interface.path)),
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

/// What the guest is told on one NIC.
pub(crate) fn lease(guest: &GuestSpec, nic: &GuestNic, resolv: &Resolv) -> Option<Lease> {
    let interface = interface(guest, nic)?;
    match interface.binding {
        Binding::Masquerade => Some(masquerade::lease(guest, interface, nic, resolv)),
        _ => None,
    }
}

/// What the VMM is told of one NIC.
pub(crate) fn vmm_nic(guest: &GuestSpec, nic: &GuestNic) -> Option<NetConfig> {
    match interface(guest, nic)?.binding {
        Binding::Masquerade => Some(masquerade::vmm_nic(nic)),
        _ => None,
    }
}

fn interface<'a>(guest: &'a GuestSpec, nic: &GuestNic) -> Option<&'a Interface> {
    guest
        .interfaces
        .iter()
        .find(|interface| interface.name == nic.name)
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

/// The whole line of a nic spec that bindings over a TAP share.
fn tap_nic(guest: &GuestSpec, interface: &Interface, wiring: hawser_netsetup::Wiring) -> Nic {
    Nic {
        name: interface.name.clone(),
        pod_interface: POD_INTERFACE.to_owned(),
        tap: hawser_netsetup::tap_name(POD_INTERFACE),
        server_tap: hawser_netsetup::server_tap_name(POD_INTERFACE),
        queue_pairs: queue_pairs(guest),
        guest_mac: interface.mac.map(|mac| mac.0),
        wiring,
    }
}
