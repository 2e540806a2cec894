//! How much memory a pod needs beside its guest's own.
//!
//! These are estimates, each generous: when a container exceeds its limit, the kernel ends all of its processes, and the guest
//! with them. No benchmark measures them yet; of the parts only hawser's own two processes have been (6 MiB).

use hawser_manifest::{Binding, GuestSpec};

const MIB: u64 = 1 << 20;
/// hawser's processes, cloud-hypervisor without its guest, and what `kubectl exec` and probes run beside them.
const BASE: u64 = 128 * MIB;
/// Threads of a vCPU, and the queues of the devices that have one for each.
const VCPU: u64 = 4 * MIB;
/// Queues and buffers of a NIC or a disk.
const DEVICE: u64 = 8 * MIB;
/// Page tables: 8 bytes a 4 KiB page, once for the VMM's mapping and once for the guest's.
const PAGE_TABLES: u64 = 256;
/// A passt process.
const PASST: u64 = 64 * MIB;
/// A virtiofsd process, with the files that the guest has open.
const VIRTIOFSD: u64 = 128 * MIB;
/// A device by VFIO maps the guest's memory into an IOMMU domain: page tables once more, and the kernel's own records.
const VFIO: u64 = 64 * MIB;

/// Bytes beside the guest's memory.
pub fn overhead(guest: &GuestSpec) -> u64 {
    let count = |matches: fn(&Binding) -> bool| {
        let matching = guest
            .interfaces
            .iter()
            .filter(|interface| matches(&interface.binding));
        matching.count() as u64
    };
    let passts = count(|binding| *binding == Binding::Passt);
    let vfio = count(|binding| *binding == Binding::Sriov) + guest.host_devices.len() as u64;
    let devices = (guest.interfaces.len() + guest.disks.len()) as u64;
    let mappings = if vfio > 0 { 2 } else { 1 };
    let parts = [
        BASE,
        u64::from(guest.vcpus).saturating_mul(VCPU),
        devices.saturating_mul(DEVICE),
        (guest.memory / PAGE_TABLES).saturating_mul(mappings),
        passts.saturating_mul(PASST),
        (guest.filesystems.len() as u64).saturating_mul(VIRTIOFSD),
        vfio.saturating_mul(VFIO),
    ];
    parts.into_iter().fold(0, u64::saturating_add)
}
