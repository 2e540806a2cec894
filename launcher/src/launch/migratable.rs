//! Why a guest cannot migrate, whatever the target is like: the decisions of its parts, together.

use hawser_netsetup::CniNic;

use crate::devices;
use crate::disks::Drive;
use crate::may_migrate::MayMigrate;
use crate::nic;
use crate::spec::{Disk, GuestSpec, VolumeSource};

/// A reason for each interface, disk and device with which no guest can migrate, and for CPUs, which stay with the pod.
/// `cni` are the devices that CNI plugins have made, where the pod could be read.
pub(crate) fn obstacles(guest: &GuestSpec, cni: &[CniNic]) -> Vec<String> {
    let pinned = guest.dedicated_cpus.map(|_| {
        "dedicatedCpuPlacement: the VM's configuration names CPUs of this pod, and a migration takes it along as it is".to_owned()
    });
    let disks = guest.disks.iter().filter_map(|disk| {
        let decision = disk_may_migrate(guest, disk);
        Some(format!("disk {}: {}", disk.name, decision.obstacle()?))
    });
    nic::obstacles(guest, cni)
        .into_iter()
        .chain(disks)
        .chain(pinned)
        .chain(devices::obstacles(guest))
        .collect()
}

/// As far as the manifest says.
pub(super) fn disk_may_migrate(guest: &GuestSpec, disk: &Disk) -> MayMigrate {
    if disk.readonly {
        return MayMigrate::yes("the guest does not write it; its content has to be the same in both pods");
    }
    if disk.shared {
        return MayMigrate::yes("started with --shared; it has to be the same in both pods");
    }
    match &disk.volume.source {
        VolumeSource::EmptyDisk { .. } => MayMigrate::yes("its content goes along"),
        VolumeSource::ContainerDisk { .. } if guest.live_migrate => {
            MayMigrate::yes("a raw copy of the image, whose content goes along")
        }
        VolumeSource::ContainerDisk { .. } => MayMigrate::no(
            "what the guest writes is in an overlay, which cannot be copied while cloud-hypervisor has it open; with \
             evictionStrategy: LiveMigrate the disk is a copy of the image instead, and goes along",
        ),
        VolumeSource::Claim { .. } => MayMigrate::no(format!(
            "the guest writes it, and nothing says that the target's pod has the same one; if it is ReadWriteMany, start both \
             launchers with --shared {}",
            disk.name
        )),
        VolumeSource::Ephemeral { .. } => MayMigrate::no(
            "what the guest writes is in an overlay, which cannot be copied while cloud-hypervisor has it open",
        ),
        _ => MayMigrate::no("what the guest has written is on this node only, and stays there"),
    }
}

/// The same for container disks whose image could not be copied, so that they have overlays.
pub(super) fn overlays(guest: &GuestSpec, drives: &[Drive]) -> Vec<String> {
    let has_overlay = |disk: &&Disk| {
        let drive = drives.iter().find(|drive| drive.name == disk.name);
        let image = matches!(disk.volume.source, VolumeSource::ContainerDisk { .. });
        guest.live_migrate && image && !disk.readonly && drive.is_some_and(|drive| !drive.goes_along())
    };
    let reason = |disk: &Disk| {
        format!(
            "disk {}: its qcow2 image has extended tables or is compressed with zstd, which hawser does not read; convert it to \
             raw, or to qcow2 without: qemu-img convert -O qcow2",
            disk.name
        )
    };
    guest.disks.iter().filter(has_overlay).map(reason).collect()
}
