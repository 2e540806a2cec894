//! Why a guest cannot leave its pod, whatever the target is like.

use hawser_netsetup::CniNic;

use crate::binding;
use crate::devices;
use crate::spec::GuestSpec;

/// A reason for each interface, disk and device that keeps the guest where it is, and for CPUs, which stay with the pod. `cni`
/// are the devices that CNI plugins have made, where the pod has been looked into.
pub(crate) fn obstacles(guest: &GuestSpec, cni: &[CniNic]) -> Vec<String> {
    let interfaces = binding::explain(guest, cni);
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
    interfaces
        .iter()
        .filter_map(binding::Explanation::obstacle)
        .chain(writable)
        .chain(pinned)
        .chain(devices::obstacles(guest))
        .collect()
}
