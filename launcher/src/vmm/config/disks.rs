//! Disks for cloud-hypervisor's API.

use std::path::PathBuf;

use serde::Serialize;

use crate::disks::{Drive, ImageType};

/// One virtio-blk device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DiskConfig {
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

impl DiskConfig {
    pub(crate) fn new(drive: &Drive, num_queues: u32) -> Self {
        Self {
            // No NIC's name has a dot in it, so that this is nobody else's.
            id: format!("disk.{}", drive.name),
            path: drive.path.clone(),
            image_type: drive.image_type,
            readonly: drive.readonly,
            direct: drive.direct,
            backing_files: drive.base.is_some(),
            num_queues,
            serial: drive.serial.clone(),
        }
    }
}
