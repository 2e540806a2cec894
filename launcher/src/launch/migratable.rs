//! Why a guest cannot migrate, whatever the target is like: the decisions of its parts, together.

use hawser_netsetup::CniNic;

use crate::devices;
use crate::nic;
use crate::spec::GuestSpec;

/// A reason for each interface, disk and device with which no guest can migrate, and for CPUs, which stay with the pod.
/// `cni` are the devices that CNI plugins have made, where the pod could be read.
pub(crate) fn obstacles(guest: &GuestSpec, cni: &[CniNic]) -> Vec<String> {
    let pinned = guest.dedicated_cpus.map(|_| {
        "dedicatedCpuPlacement: the VM's configuration names CPUs of this pod, and a migration takes it along as it is".to_owned()
    });
    let writable = guest.disks.iter().filter(|disk| !disk.readonly).map(|disk| {
        format!(
            "disk {}: this version of hawser migrates read-only disks only; the target does not have what the guest has \
             written",
            disk.name
        )
    });
    nic::obstacles(guest, cni)
        .into_iter()
        .chain(writable)
        .chain(pinned)
        .chain(devices::obstacles(guest))
        .collect()
}
