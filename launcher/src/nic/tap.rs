//! What NICs over a TAP of hawser's have in common.

use hawser_dhcp::Lease;
use hawser_netsetup::{GuestNic, Nic, Wiring, server_tap_name, tap_name};

use super::attachment::{Attachment, Device, Server};
use super::own_mac::own_mac;
use crate::pod::networks::pod_interface;
use crate::spec::{GuestSpec, Interface};
use crate::vmm::config::NetConfig;

/// A pod sees no gain beyond.
const MAX_QUEUE_PAIRS: u32 = 8;

/// Queue pairs of a virtio NIC: one for each vCPU, up to a limit.
pub(super) fn queue_pairs(guest: &GuestSpec) -> u16 {
    if guest.network_interface_multiqueue == Some(false) {
        return 1;
    }
    u16::try_from(guest.vcpus.clamp(1, MAX_QUEUE_PAIRS)).unwrap_or(1)
}

/// What such an interface wants from the pod's namespace.
pub(super) fn nic(guest: &GuestSpec, interface: &Interface, wiring: Wiring) -> Nic {
    let pod_interface = pod_interface(&interface.network);
    Nic {
        name: interface.name.clone(),
        tap: tap_name(&pod_interface),
        server_tap: server_tap_name(&pod_interface),
        pod_interface,
        queue_pairs: queue_pairs(guest),
        guest_mac: interface.mac,
        made_mac: own_mac(guest, interface),
        wiring,
    }
}

/// The TAP, with a server of ours where there is a lease to offer.
pub(super) fn attachment(nic: &GuestNic, lease: Option<Lease>) -> Attachment {
    Attachment {
        device: Device::Net(NetConfig::tap(nic)),
        server: lease.zip(nic.server_tap()).map(|(lease, tap)| Server {
            interface: nic.name.clone(),
            tap: tap.to_owned(),
            lease,
            announces: nic.bridged().is_some(),
        }),
        passt: None,
    }
}
