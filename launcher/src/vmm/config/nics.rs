//! NICs and functions of the node's PCI, for cloud-hypervisor's API.

use std::path::{Path, PathBuf};

use hawser_netsetup::{CniDevice, CniNic, GATEWAY_MAC, GuestNic};
use serde::Serialize;

use super::LandlockConfig;
use super::limiter::RateLimiterConfig;
use crate::pod::pci::vfio::Access;
use crate::spec::{Mac, PciAddress, Rate};

/// cloud-hypervisor's own default.
const QUEUE_SIZE: u16 = 256;

/// One virtio-net device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NetConfig {
    id: String,
    /// Absent for a device that is handed over as a descriptor, or that a process serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    tap: Option<String>,
    mac: String,
    /// Travels in a live migration, so it is the same in every pod. Absent for a device that is not ours to name.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_mac: Option<String>,
    #[serde(skip_serializing_if = "super::is_false")]
    vhost_user: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    vhost_socket: Option<PathBuf>,
    /// Receive and transmit queues together.
    num_queues: u16,
    queue_size: u16,
    #[serde(flatten)]
    slot: Option<Slot>,
    #[serde(flatten)]
    limit: Option<Limit>,
}

/// What a NIC may transfer, in each direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Limit {
    rate_limiter_config: RateLimiterConfig,
    #[serde(flatten)]
    segmentation: Option<Segmentation>,
}

/// Segments of 64 KiB, instead of frames, between the guest and the TAP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Segmentation {
    offload_tso: bool,
    offload_ufo: bool,
}

/// Whenever a limit is reached, cloud-hypervisor lets one more frame through that it does not count, up to ten times a second
/// (net_util/src/queue_pair.rs): 640 KiB a second with segments. From so many bytes a second on that is less than one part in
/// a hundred; a NIC that is slower than that gets by without segments.
const WITH_SEGMENTS: u64 = 64 << 20;

/// A slot of the guest's PCI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Slot {
    #[serde(skip_serializing_if = "Option::is_none")]
    pci_segment: Option<u16>,
    pci_device_id: u8,
}

impl NetConfig {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn mac(&self) -> &str {
        &self.mac
    }

    pub(crate) fn limited(mut self, rate: Option<&Rate>) -> Self {
        self.limit = rate.map(|rate| Limit {
            rate_limiter_config: RateLimiterConfig::new(rate),
            segmentation: rate
                .bytes
                .is_some_and(|bytes| bytes < WITH_SEGMENTS)
                .then_some(Segmentation {
                    offload_tso: false,
                    offload_ufo: false,
                }),
        });
        self
    }

    /// Whether it is a TAP that cloud-hypervisor opens by its name.
    pub(crate) fn has_tap(&self) -> bool {
        self.tap.is_some()
    }

    /// Whether a process serves it from the guest's memory.
    pub(crate) fn is_vhost_user(&self) -> bool {
        self.vhost_user
    }

    pub(crate) fn pci_address(&self) -> Option<PciAddress> {
        self.slot
            .map(|slot| address(slot.pci_segment, slot.pci_device_id))
    }

    pub(crate) fn set_pci_address(&mut self, address: PciAddress) {
        self.slot = Some(Slot {
            pci_segment: Some(address.domain).filter(|domain| *domain > 0),
            pci_device_id: address.slot,
        });
    }

    /// A persistent TAP, opened by name: a NIC given by descriptor cannot migrate. `mtu` stays unset: the guest
    /// then sees the TAP's own.
    pub(crate) fn tap(nic: &GuestNic) -> Self {
        Self {
            id: nic.name.clone(),
            tap: nic.tap().map(str::to_owned),
            mac: nic.guest_mac.to_string(),
            host_mac: Some(GATEWAY_MAC.to_string()),
            vhost_user: false,
            vhost_socket: None,
            num_queues: nic.queue_pairs.saturating_mul(2),
            queue_size: QUEUE_SIZE,
            slot: None,
            limit: None,
        }
    }

    /// A NIC that a process behind `socket` serves; cloud-hypervisor connects when the guest boots, from / as its
    /// directory.
    pub(crate) fn vhost_user(nic: &GuestNic, socket: &Path) -> Self {
        Self {
            id: nic.name.clone(),
            tap: None,
            mac: nic.guest_mac.to_string(),
            host_mac: None,
            vhost_user: true,
            vhost_socket: Some(std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned())),
            num_queues: nic.queue_pairs.saturating_mul(2),
            queue_size: QUEUE_SIZE,
            slot: None,
            limit: None,
        }
    }

    /// A NIC whose backend a binding plugin's sidecar will name.
    pub(crate) fn without_backend(name: &str, mac: Mac) -> Self {
        Self {
            id: name.to_owned(),
            tap: None,
            mac: mac.to_string(),
            host_mac: None,
            vhost_user: false,
            vhost_socket: None,
            num_queues: 2,
            queue_size: QUEUE_SIZE,
            slot: None,
            limit: None,
        }
    }

    /// What a CNI plugin made: a TAP by name, which keeps its own MAC, or a macvtap by descriptors.
    pub(crate) fn of_cni(nic: &CniNic) -> Self {
        Self {
            id: nic.name.clone(),
            tap: (nic.device == CniDevice::Tap).then(|| nic.interface.clone()),
            mac: nic.guest_mac.to_string(),
            host_mac: None,
            vhost_user: false,
            vhost_socket: None,
            num_queues: nic.queue_pairs.saturating_mul(2),
            queue_size: QUEUE_SIZE,
            slot: None,
            limit: None,
        }
    }
}

/// A function of the node's PCI, by VFIO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DeviceConfig {
    id: String,
    path: PathBuf,
    /// Of the guest, as is the slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pci_segment: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pci_device_id: Option<u8>,
    #[serde(skip)]
    access: Access,
}

fn address(segment: Option<u16>, slot: u8) -> PciAddress {
    PciAddress {
        domain: segment.unwrap_or(0),
        bus: 0,
        slot,
        function: 0,
    }
}

impl DeviceConfig {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn pci_address(&self) -> Option<PciAddress> {
        self.pci_device_id.map(|slot| address(self.pci_segment, slot))
    }

    pub(crate) fn set_pci_address(&mut self, address: PciAddress) {
        self.pci_segment = Some(address.domain).filter(|domain| *domain > 0);
        self.pci_device_id = Some(address.slot);
    }

    /// The path must be the link in `bus/pci`, which cloud-hypervisor reads to know the device.
    pub(crate) fn function(id: &str, address: PciAddress, guest: Option<PciAddress>, access: Access) -> Self {
        Self {
            id: id.to_owned(),
            path: format!("/sys/bus/pci/devices/{address}").into(),
            pci_segment: guest.map(|guest| guest.domain).filter(|domain| *domain > 0),
            pci_device_id: guest.map(|guest| guest.slot),
            access,
        }
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// What cloud-hypervisor opens for functions. Its own rule for them names a node by the PCI address, and there is none of
/// that name. The rules go along in a live migration, so they are the same in every pod: they name no function.
pub(crate) fn vfio_rules(devices: &[DeviceConfig]) -> Vec<LandlockConfig> {
    let mut rules = Vec::new();
    if !devices.is_empty() {
        rules.push(LandlockConfig::write("/dev/vfio"));
    }
    if devices.iter().any(|device| device.access == Access::Iommufd) {
        rules.push(LandlockConfig::write("/dev/iommu"));
        // Where the device's own node is called by its name.
        rules.push(LandlockConfig::read("/sys/devices"));
    }
    rules
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_slow_nic_has_frames_that_the_limiter_counts() {
        let nic = NetConfig::without_backend("default", GATEWAY_MAC);
        let config = |bytes| {
            let rate = Rate {
                bytes,
                operations: Some(1000),
            };
            serde_json::to_value(nic.clone().limited(Some(&rate))).unwrap()
        };
        let slow = config(Some(64 << 10));
        assert_eq!(slow["rate_limiter_config"]["bandwidth"]["size"], json!(6553));
        assert_eq!(
            (&slow["offload_tso"], &slow["offload_ufo"]),
            (&json!(false), &json!(false))
        );
        for fast in [config(Some(64 << 20)), config(None)] {
            assert!(fast["rate_limiter_config"].is_object());
            assert_eq!(fast.get("offload_tso"), None);
        }
        let free = serde_json::to_value(nic.limited(None)).unwrap();
        assert_eq!(
            (free.get("rate_limiter_config"), free.get("offload_tso")),
            (None, None)
        );
    }
}
