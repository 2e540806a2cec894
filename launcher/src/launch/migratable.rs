//! Why a guest cannot migrate, whatever the target is like: the decisions of its parts, together.

use hawser_netsetup::CniNic;

use crate::devices;
use crate::nic;
use crate::spec::{GuestSpec, VolumeSource};

/// A reason for each interface, disk and device with which no guest can migrate, and for CPUs, which stay with the pod.
/// `cni` are the devices that CNI plugins have made, where the pod could be read.
pub(crate) fn obstacles(guest: &GuestSpec, cni: &[CniNic]) -> Vec<String> {
    let pinned = guest.dedicated_cpus.map(|_| {
        "dedicatedCpuPlacement: the VM's configuration names CPUs of this pod, and a migration takes it along as it is".to_owned()
    });
    let written = guest.disks.iter().filter(|disk| !disk.readonly && !disk.shared);
    let written = written.filter_map(|disk| {
        let why = match &disk.volume.source {
            // Its content goes along.
            VolumeSource::EmptyDisk { .. } => return None,
            VolumeSource::Claim { .. } => format!(
                "the guest writes it, and nothing says that the target's pod has the same one; if it is ReadWriteMany, start both \
                 launchers with --shared {}",
                disk.name
            ),
            _ => "what the guest has written is in this pod only, and hawser does not copy disks".to_owned(),
        };
        Some(format!("disk {}: {why}", disk.name))
    });
    nic::obstacles(guest, cni)
        .into_iter()
        .chain(written)
        .chain(pinned)
        .chain(devices::obstacles(guest))
        .collect()
}
