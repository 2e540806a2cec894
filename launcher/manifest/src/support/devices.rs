//! Rules for the fields of `spec.domain.devices`.

use super::When::{Code, Given, True};
use super::{Rule, anyway, noted, reduced, refused};

const NO_SCREEN: &str = "cloud-hypervisor has no screen: the guest's console is its serial port";
const VIRTIO: &str = "cloud-hypervisor has no such bus: the guest gets a virtio disk instead";

pub(super) const RULES: &[Rule] = &[
    // Disks.
    reduced("spec.domain.devices.disks.disk.bus", VIRTIO),
    reduced("spec.domain.devices.disks.cdrom.bus", VIRTIO),
    reduced(
        "spec.domain.devices.disks.cdrom",
        "cloud-hypervisor has no CD-ROM drive: the guest gets a virtio disk instead",
    ),
    reduced(
        "spec.domain.devices.disks.serial",
        "a virtio disk shows the guest the first 20 bytes only",
    ),
    reduced(
        "spec.domain.devices.blockMultiQueue",
        "a disk that is an overlay has one queue",
    ),
    refused(
        "spec.domain.devices.disks.lun",
        "cloud-hypervisor has no SCSI: the volume can be a disk",
    ),
    refused("spec.domain.devices.disks.tag", ""),
    refused("spec.domain.devices.disks.changedBlockTracking", ""),
    refused("spec.domain.devices.disks.blockSize.custom", ""),
    refused(
        "spec.domain.devices.disks.disk.pciAddress",
        "disks have the slots in the order in which the guest boots from them",
    ),
    anyway(
        "spec.domain.devices.disks.dedicatedIOThread",
        "each queue of a disk has a thread of its own",
    ),
    // NICs.
    reduced(
        "spec.domain.devices.interfaces.model",
        "cloud-hypervisor has virtio NICs alone: the guest gets one, whatever the model",
    ),
    refused(
        "spec.domain.devices.interfaces.slirp",
        "KubeVirt has removed it: write masquerade or passt",
    ),
    refused(
        "spec.domain.devices.interfaces.macvtap",
        "KubeVirt has removed it: write binding, with the name of a plugin whose domainAttachmentType is tap",
    ),
    noted(
        "spec.domain.devices.interfaces.bootOrder",
        Code,
        "the guest boots from its disks alone: refused for an interface that comes before them, noted after them",
    ),
    reduced(
        "spec.domain.devices.interfaces.acpiIndex",
        "0 alone; any other index is refused, as cloud-hypervisor gives NICs none",
    ),
    // Devices of the node.
    refused("spec.domain.devices.gpus.virtualGPUOptions", ""),
    refused("spec.domain.devices.gpus.tag", ""),
    refused("spec.domain.devices.hostDevices.tag", ""),
    // The rest.
    reduced(
        "spec.domain.devices.tpm",
        "refused, unless it says enabled: false: there is no TPM emulator (swtpm)",
    ),
    anyway("spec.domain.devices.rng", "every guest has an entropy device"),
    anyway(
        "spec.domain.devices.disableHotplug",
        "hawser plugs nothing into a guest on request",
    ),
    noted(
        "spec.domain.devices.autoattachMemBalloon",
        True,
        "the guest has no balloon: its memory is as large as at the start",
    ),
    noted(
        "spec.domain.devices.inputs",
        Given,
        "not passed on: the guest has no screen to point at",
    ),
    refused(
        "spec.domain.devices.watchdog",
        "cloud-hypervisor has no i6300esb, and the one that it has is a virtio device without a driver in Linux; a \
         liveness probe restarts a guest that does not answer",
    ),
    refused("spec.domain.devices.downwardMetrics", ""),
    reduced(
        "spec.domain.devices.panicDevices.model",
        "cloud-hypervisor has pvpanic on PCI alone: the guest gets that",
    ),
    refused("spec.domain.devices.clientPassthrough", ""),
    refused("spec.domain.devices.sound", "cloud-hypervisor has no sound card"),
    refused("spec.domain.devices.video", NO_SCREEN),
];
