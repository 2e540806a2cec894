//! What a binding has made of an interface, for the phases after it: a device of the VM, and who serves the guest on it.

use hawser_dhcp::Lease;

use crate::daemons::passt;
use crate::spec::PciAddress;
use crate::vmm::config::{DeviceConfig, NetConfig};

/// One interface of the guest, joined to the pod. In the manifest's order, which is the guest's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) device: Device,
    /// Absent where hawser serves the guest no addresses.
    pub(crate) server: Option<Server>,
    /// What to run behind the device, where it is passt's.
    pub(crate) passt: Option<passt::Command>,
}

/// What the VM has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Device {
    Net(NetConfig),
    /// A function of the node's PCI.
    Vfio(DeviceConfig),
}

impl Device {
    /// The interface's name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Net(net) => net.id(),
            Self::Vfio(device) => device.id(),
        }
    }

    pub(crate) fn is_function(&self) -> bool {
        matches!(self, Self::Vfio(_))
    }

    /// Present for a virtio NIC.
    pub(crate) fn mac(&self) -> Option<&str> {
        match self {
            Self::Net(net) => Some(net.mac()),
            Self::Vfio(_) => None,
        }
    }

    /// Where it is in the guest, if the VM's configuration says so.
    pub(crate) fn pci_address(&self) -> Option<PciAddress> {
        match self {
            Self::Net(net) => net.pci_address(),
            Self::Vfio(device) => device.pci_address(),
        }
    }

    pub(crate) fn set_pci_address(&mut self, address: PciAddress) {
        match self {
            Self::Net(net) => net.set_pci_address(address),
            Self::Vfio(device) => device.set_pci_address(address),
        }
    }
}

/// A DHCP and RA server of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// The interface's name.
    pub(crate) interface: String,
    /// Carries its frames.
    pub(crate) tap: String,
    pub(crate) lease: Lease,
    /// The lease's addresses are those of the pod's network, to which the target of a migration announces where they
    /// are now.
    pub(crate) announces: bool,
}
