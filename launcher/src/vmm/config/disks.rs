//! Disks for cloud-hypervisor's API.

use std::path::PathBuf;

use serde::Serialize;

use super::limiter::RateLimiterConfig;
use crate::disks::{Drive, ImageType};
use crate::spec::Rate;

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
    /// Whether the guest may discard what it does not need, and the VMM frees the space.
    sparse: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pci_segment: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limiter_config: Option<RateLimiterConfig>,
}

impl DiskConfig {
    /// With `num_queues` where the disk stands it.
    ///
    /// cloud-hypervisor 53 does not keep several queues of one qcow2 file apart: what is written is damaged, or freed after it
    /// was given out again (its issues 8621 and 8624).
    pub(crate) fn new(drive: &Drive, num_queues: u32, segment: u16) -> Self {
        let written_qcow2 = drive.image_type == ImageType::Qcow2 && !drive.readonly;
        Self {
            // No NIC's name has a dot in it, so that this is nobody else's.
            id: format!("disk.{}", drive.name),
            path: drive.path.clone(),
            image_type: drive.image_type,
            readonly: drive.readonly,
            direct: drive.direct,
            backing_files: drive.base.is_some(),
            num_queues: if written_qcow2 { 1 } else { num_queues },
            sparse: !written_qcow2,
            serial: drive.serial.clone(),
            pci_segment: Some(segment).filter(|segment| *segment > 0),
            rate_limiter_config: None,
        }
    }

    pub(crate) fn limited(mut self, rate: Option<&Rate>) -> Self {
        self.rate_limiter_config = rate.map(RateLimiterConfig::new);
        self
    }

    pub(crate) fn pci_segment(&self) -> Option<u16> {
        self.pci_segment
    }
}
