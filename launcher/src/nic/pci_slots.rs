//! The PCI slots that the guest finds its NICs in.
//!
//! cloud-hypervisor reserves the slots that its configuration names and assigns the others in a fixed order: disks,
//! virtio NICs, everything else of virtio, functions. A NIC has a slot in the configuration where the manifest asks for
//! one (`pciAddress`), and where the guest's metadata names the slots of tagged NICs (`tag`, with
//! `cloudInitConfigDrive`), so that the metadata is right: virtio NICs then have the slots that they would have had
//! anyway, and functions the last ones, which keeps all of them in the manifest's order.

use super::Attachment;
use crate::disks::TaggedDevice;
use crate::spec::{CloudInitSource, GuestSpec, Interface, PciAddress, VolumeSource};

/// Slots of a segment; the host bridge has the first.
const SLOTS: u8 = 32;

/// Whether the guest's metadata names the slots of tagged NICs.
fn are_in_metadata(guest: &GuestSpec) -> bool {
    let config_drive = guest.disks.iter().any(|disk| match &disk.volume.source {
        VolumeSource::CloudInit(seed) => seed.source == CloudInitSource::ConfigDrive,
        _ => false,
    });
    config_drive && guest.interfaces.iter().any(|interface| interface.tag.is_some())
}

/// Assigns the slots that the configuration has to name.
pub(super) fn assign(guest: &GuestSpec, attachments: &mut [Attachment]) {
    let wanted = |name: &str| guest.interfaces.iter().find(|one| one.name == name)?.pci_address;
    for attachment in attachments.iter_mut() {
        if let Some(address) = wanted(attachment.device.name()) {
            attachment.device.set_pci_address(address);
        }
    }
    if !are_in_metadata(guest) {
        return;
    }
    let mut free = Free::besides(guest);
    // Disks come before.
    for _ in guest.disks.iter().take(guest.disks_on_first_segment()) {
        free.first();
    }
    for attachment in attachments.iter_mut() {
        if !attachment.device.is_function()
            && attachment.device.pci_address().is_none()
            && let Some(slot) = free.first()
        {
            attachment.device.set_pci_address(slot);
        }
    }
    for attachment in attachments.iter_mut().rev() {
        if attachment.device.is_function()
            && attachment.device.pci_address().is_none()
            && let Some(slot) = free.last()
        {
            attachment.device.set_pci_address(slot);
        }
    }
}

/// Slots of segment 0 that no interface asks for.
struct Free(Vec<u8>);

impl Free {
    fn besides(guest: &GuestSpec) -> Self {
        let taken = |slot: &u8| {
            let addresses = guest
                .interfaces
                .iter()
                .filter_map(|interface| interface.pci_address);
            addresses
                .into_iter()
                .any(|address| address.domain == 0 && address.slot == *slot)
        };
        Self((1..SLOTS).filter(|slot| !taken(slot)).collect())
    }

    fn first(&mut self) -> Option<PciAddress> {
        (!self.0.is_empty()).then(|| at(self.0.remove(0)))
    }

    fn last(&mut self) -> Option<PciAddress> {
        self.0.pop().map(at)
    }
}

fn at(slot: u8) -> PciAddress {
    PciAddress {
        domain: 0,
        bus: 0,
        slot,
        function: 0,
    }
}

/// The tagged NICs, in the manifest's order.
pub(crate) fn tagged(guest: &GuestSpec, attachments: &[Attachment]) -> Vec<TaggedDevice> {
    let device = |interface: &Interface| {
        let tag = interface.tag.clone()?;
        let attachment = attachments
            .iter()
            .find(|attachment| attachment.device.name() == interface.name)?;
        Some(TaggedDevice::nic(
            attachment.device.pci_address()?.to_string(),
            attachment.device.mac().map(str::to_owned),
            tag,
        ))
    };
    guest.interfaces.iter().filter_map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nic::Device;
    use crate::pod::pci::vfio::Access;
    use crate::spec::Mac;
    use crate::vmm::config::{DeviceConfig, NetConfig};

    fn guest(interfaces: &str, source: &str) -> GuestSpec {
        let manifest = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web}},
              spec: {{domain: {{memory: {{guest: 256Mi}}, devices: {{interfaces: [{interfaces}]}}}},
              networks: [{{name: a, pod: {{}}}}, {{name: b, multus: {{networkName: b}}}}, {{name: c, multus: {{networkName: c}}}}],
              volumes: [{{name: root, emptyDisk: {{capacity: 1Gi}}}}, {{name: seed, {source}: {{userData: u}}}}]}}}}"
        );
        crate::spec::load(&manifest)
            .unwrap_or_else(|refusals| panic!("{refusals}"))
            .spec
    }

    fn devices(guest: &GuestSpec) -> Vec<Attachment> {
        let attachment = |interface: &Interface| Attachment {
            device: match interface.binding {
                crate::spec::Binding::Sriov => Device::Vfio(DeviceConfig::function(
                    &interface.name,
                    "0000:01:10.0".parse().unwrap(),
                    interface.pci_address,
                    Access::Group,
                )),
                _ => Device::Net(NetConfig::without_backend(
                    &interface.name,
                    Mac([2, 0, 0, 0, 0, 1]),
                )),
            },
            server: None,
            passt: None,
        };
        let mut attachments: Vec<_> = guest.interfaces.iter().map(attachment).collect();
        assign(guest, &mut attachments);
        attachments
    }

    fn addresses(attachments: &[Attachment]) -> Vec<Option<String>> {
        let address = |attachment: &Attachment| Some(attachment.device.pci_address()?.to_string());
        attachments.iter().map(address).collect()
    }

    const TAGGED: &str =
        "{name: a, masquerade: {}}, {name: b, bridge: {}, tag: red}, {name: c, sriov: {}, tag: blue}";

    #[test]
    fn the_metadata_names_the_slots_of_tagged_nics() {
        let guest = guest(TAGGED, "cloudInitConfigDrive");
        let attachments = devices(&guest);
        // Slots 1 and 2 are the disks'.
        let expected = ["0000:00:03.0", "0000:00:04.0", "0000:00:1f.0"];
        assert_eq!(
            addresses(&attachments),
            expected.map(|address| Some(address.to_owned()))
        );
        assert_eq!(
            serde_json::to_value(tagged(&guest, &attachments)).unwrap(),
            serde_json::json!([
                {"type": "nic", "bus": "pci", "address": "0000:00:04.0", "mac": "02:00:00:00:00:01", "tags": ["red"]},
                {"type": "nic", "bus": "pci", "address": "0000:00:1f.0", "tags": ["blue"]},
            ])
        );
    }

    #[test]
    fn a_slot_that_is_asked_for_is_assigned_to_no_other() {
        let interfaces = TAGGED
            .replace("tag: red", "tag: red, pciAddress: 0000:00:03.0")
            .replace("tag: blue", "tag: blue, pciAddress: 0001:00:1f.0");
        let guest = guest(&interfaces, "cloudInitConfigDrive");
        let expected = ["0000:00:04.0", "0000:00:03.0", "0001:00:1f.0"];
        assert_eq!(
            addresses(&devices(&guest)),
            expected.map(|address| Some(address.to_owned()))
        );
    }

    #[test]
    fn without_metadata_cloud_hypervisor_assigns_every_slot() {
        let guest = guest(TAGGED, "cloudInitNoCloud");
        assert!(!are_in_metadata(&guest));
        assert_eq!(addresses(&devices(&guest)), [None, None, None]);
    }
}
