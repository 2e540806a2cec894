//! Disks for cloud-hypervisor's API.
//!
//! The firmware tries disks in the order of their PCI slots, which is the order of this list, so the boot order is made by
//! sorting: disks with a `bootOrder` first, by that; the rest as in the manifest.

use std::path::PathBuf;

use serde::Serialize;

use super::LandlockConfig;
use crate::disks::{Drive, ImageType};
use crate::spec::GuestSpec;

/// One virtio-blk device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct DiskConfig {
    id: String,
    path: PathBuf,
    image_type: ImageType,
    readonly: bool,
    direct: bool,
    /// Only an overlay of ours has a base.
    backing_files: bool,
    num_queues: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
}

pub(super) fn disks(guest: &GuestSpec, drives: &[Drive]) -> Vec<DiskConfig> {
    let mut sorted: Vec<&Drive> = drives.iter().collect();
    // Stable: what is equal stays in the manifest's order.
    sorted.sort_by_key(|drive| drive.boot_order.unwrap_or(u32::MAX));
    sorted.into_iter().map(|drive| disk(guest, drive)).collect()
}

fn disk(guest: &GuestSpec, drive: &Drive) -> DiskConfig {
    DiskConfig {
        // No NIC's name has a dot in it, so that this is nobody else's.
        id: format!("disk.{}", drive.name),
        path: drive.path.clone(),
        image_type: drive.image_type,
        readonly: drive.readonly,
        direct: drive.direct,
        backing_files: drive.base.is_some(),
        num_queues: if guest.block_multi_queue { guest.vcpus } else { 1 },
        serial: drive.serial.clone(),
    }
}

/// cloud-hypervisor lets itself read the disks that it is told of, and knows nothing of their bases.
pub(super) fn landlock(drives: &[Drive]) -> impl Iterator<Item = LandlockConfig> {
    drives
        .iter()
        .filter_map(|drive| drive.base.clone())
        .map(|path| LandlockConfig { path, access: "r" })
}
