//! SR-IOV: the guest has a virtual function of the node's NIC itself.
//!
//! - From the pod: nothing in its network namespace. What it must have are the VFIO nodes of the function; which function
//!   a network has stands in what the CNI plugin, the device plugin or the claim's driver wrote down (`pod::networks`).
//!   `pod::pci::vfio` asks the kernel beforehand whether the VMM will get it.
//! - From the VMM: the function by its path in sysfs, at the guest's PCI address that the manifest asks for as far as
//!   cloud-hypervisor's PCI has it: segments of one bus each, without bridges and with one function a slot.
//! - From DHCP: nothing. The guest is on the function's network, and that network's servers serve the guest.
//! - MAC, VLAN and MTU are set on the physical function, by the CNI plugin: nothing in the pod can. So a MAC in the
//!   manifest is only compared with the one that the plugin reports.
//! - Migration: without the function, since its state is in the card: it is unplugged before, and the target pod's own is
//!   plugged after.

use super::attachment::{Attachment, Device};
use super::explain::{Explanation, Hop};
use super::{Kind, Source};
use crate::may_migrate::MayMigrate;
use crate::pod::networks::PodInterface;
use crate::pod::pci::{Access, Vf};
use crate::spec::Interface;
use crate::vmm::config::DeviceConfig;

pub(super) static ROW: Kind = Kind {
    name: "sriov",
    needs_tap: false,
    // While the guest has the VF, the pod has no interface of it.
    pod_interface: PodInterface::None,
    device: Source::Vf { attach },
    has_pods_addresses: false,
    daemon: None,
    notes: super::no_notes,
    may_migrate: |_, _, _| may_migrate(),
    explain: |_, interface, _| explain(interface),
};

/// The VM's device.
fn attach(vf: &Vf, access: Access) -> Attachment {
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

fn may_migrate() -> MayMigrate {
    MayMigrate::yes(
        "hawser unplugs the VF before the migration, for which the guest has 30 s, and plugs the target pod's own VF after it; in \
         between the guest has no VF, and its connections over it end unless the guest bonds it with another NIC",
    )
}

/// What is asked about this interface.
fn explain(interface: &Interface) -> Explanation {
    Explanation {
        interface: interface.name.clone(),
        binding: ROW.label(interface),
        pod_interface: "a VF".into(),
        path: vec![Hop::new(&format!("VF of {}", interface.network.name), "VFIO")],
        ip_from: "a DHCP server or router of the VF's network; hawser does not serve a VF, and no CNI plugin can reach the guest".into(),
        guest_address: "the address that it gets there, or sets itself".into(),
        mac: "the VF's, which the CNI plugin sets".into(),
        others_use: "the same address".into(),
        ports: "all: every frame is the guest's".into(),
        mtu: "that of the guest's driver, at most the physical function's".into(),
        queue_pairs: 0,
        migration: may_migrate(),
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
