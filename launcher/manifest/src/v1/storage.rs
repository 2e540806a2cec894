//! Disks, volumes and what boots from them, as written, in KubeVirt's syntax.
//!
//! Settings of which cloud-hypervisor can honour some values only have only those in their types: the others are refused
//! by the value's own path, and editors that use the schema offer none of them.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::fields::{Accepted, List, Off, On, Quantity, fields};

fields! {
    Disk {
        #[schemars(required)] name: Option<String>,
        disk: Option<DiskTarget>,
        cdrom: Option<CdromTarget>,
        serial: Option<String>,
        #[schemars(range(min = 1))] boot_order: Option<u32>,
        cache: Option<Cache>,
        io: Option<Io>,
        error_policy: Option<ErrorPolicy>,
        block_size: Option<BlockSize>,
        shareable: Option<Off>,
        // Every disk of a cloud-hypervisor guest has a thread of its own.
        #[serde(default, rename = "dedicatedIOThread")] dedicated_io_thread: Accepted,
    } accepted {}
}

fields! {
    DiskTarget {
        bus: Option<Bus>,
        readonly: Option<bool>,
        pci_address: Option<String>,
    } accepted {}
}

fields! {
    CdromTarget {
        bus: Option<Bus>,
        readonly: Option<bool>,
        tray: Option<Tray>,
    } accepted {}
}

/// The buses that KubeVirt knows. cloud-hypervisor has virtio only, so the others become that, with a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Bus {
    Virtio,
    Sata,
    Scsi,
    Usb,
}

/// There is no tray: the medium is always in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tray {
    Closed,
}

/// Without the page cache, or through it with the guest's flushes honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cache {
    None,
    Writeback,
}

/// io_uring, or Linux AIO where the kernel has no io_uring for us.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Io {
    Native,
}

/// The guest is told of the error, and goes on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ErrorPolicy {
    Report,
}

fields! {
    BlockSize {
        match_volume: Option<MatchVolume>,
    } accepted {}
}

fields! {
    /// The guest always sees the block size of what the disk is on.
    MatchVolume {
        enabled: Option<On>,
    } accepted {}
}

fields! {
    Volume {
        #[schemars(required)] name: Option<String>,
        container_disk: Option<ContainerDisk>,
        host_disk: Option<HostDisk>,
        persistent_volume_claim: Option<Claim>,
        data_volume: Option<DataVolume>,
        empty_disk: Option<EmptyDisk>,
        ephemeral: Option<Ephemeral>,
        cloud_init_no_cloud: Option<CloudInit>,
        cloud_init_config_drive: Option<CloudInit>,
        config_map: Option<ConfigMap>,
        secret: Option<Secret>,
        service_account: Option<ServiceAccount>,
        #[serde(rename = "downwardAPI")] downward_api: Option<DownwardApi>,
    } accepted {}
}

fields! {
    /// The pod has pulled and mounted the image already.
    ContainerDisk {
        #[schemars(required)] image: Option<String>,
        path: Option<String>,
    } accepted { image_pull_policy, image_pull_secret, }
}

fields! {
    HostDisk {
        #[schemars(required)] path: Option<String>,
        #[schemars(required)] r#type: Option<HostDiskType>,
        capacity: Option<Quantity>,
        shared: Option<Off>,
    } accepted {}
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum HostDiskType {
    Disk,
    DiskOrCreate,
}

fields! {
    Claim {
        #[schemars(required)] claim_name: Option<String>,
        read_only: Option<bool>,
    } accepted { hotpluggable, }
}

fields! {
    DataVolume {
        #[schemars(required)] name: Option<String>,
    } accepted { hotpluggable, }
}

fields! {
    EmptyDisk {
        #[schemars(required)] capacity: Option<Quantity>,
    } accepted {}
}

fields! {
    Ephemeral {
        #[schemars(required)] persistent_volume_claim: Option<EphemeralClaim>,
    } accepted {}
}

fields! {
    EphemeralClaim {
        #[schemars(required)] claim_name: Option<String>,
    } accepted { read_only, }
}

fields! {
    CloudInit {
        user_data: Option<String>,
        user_data_base64: Option<String>,
        secret_ref: Option<Reference>,
        network_data: Option<String>,
        network_data_base64: Option<String>,
        network_data_secret_ref: Option<Reference>,
    } accepted {}
}

fields! {
    Reference {
        #[schemars(required)] name: Option<String>,
    } accepted {}
}

fields! {
    ConfigMap {
        #[schemars(required)] name: Option<String>,
        optional: Option<bool>,
        volume_label: Option<String>,
    } accepted {}
}

fields! {
    Secret {
        #[schemars(required)] secret_name: Option<String>,
        optional: Option<bool>,
        volume_label: Option<String>,
    } accepted {}
}

fields! {
    ServiceAccount {
        #[schemars(required)] service_account_name: Option<String>,
    } accepted {}
}

fields! {
    /// What the fields are is the pod's matter, which mounts them.
    DownwardApi {
        volume_label: Option<String>,
    } accepted { fields, }
}

fields! {
    Bootloader {
        efi: Option<Efi>,
    } accepted {}
}

fields! {
    Efi {
        secure_boot: Option<bool>,
        persistent: Option<Off>,
    } accepted {}
}

pub(crate) type Disks = List<Disk>;
pub(crate) type Volumes = List<Volume>;
