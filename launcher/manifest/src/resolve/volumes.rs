//! `spec.volumes`: one source each, every source with what it needs, and the rules of KubeVirt's admission.

use std::collections::BTreeMap;

use serde_json::Value;

use super::amounts::amount;
use super::one_of::exactly_one;
use super::{cloud_init, paths};
use crate::document::report::{FieldPath, Report, quoted};
use crate::document::text::{given, is_label};
use crate::guest::storage::{CloudInitSource, Volume, VolumeLabel, VolumeSource};
use crate::v1::storage::{self, HostDiskType};

/// KubeVirt's fields for a source, of which a volume has exactly one.
const SOURCE_FIELDS: &[&str] = &[
    "containerDisk",
    "hostDisk",
    "persistentVolumeClaim",
    "dataVolume",
    "emptyDisk",
    "ephemeral",
    "cloudInitNoCloud",
    "cloudInitConfigDrive",
    "configMap",
    "secret",
    "serviceAccount",
    "downwardAPI",
    "downwardMetrics",
    "sysprep",
    "memoryDump",
];

/// What KubeVirt calls the disk of a configMap and its like, where the manifest does not say.
const DEFAULT_LABEL: &str = "cfgdata";
/// Sectors of a disk, in bytes (virtio, "Block Device").
pub(crate) const SECTOR: u64 = 512;

/// A volume, and whether its source alone makes the disk read-only.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    pub(crate) index: usize,
    pub(crate) volume: Volume,
    pub(crate) readonly: bool,
}

/// The volumes by name; of those with the same name the first.
pub(crate) fn resolve(
    volumes: &storage::Volumes,
    raw: &Value,
    report: &mut Report,
) -> BTreeMap<String, Resolved> {
    single_service_account(volumes, report);
    let mut by_name = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for (index, volume) in volumes.iter() {
        let path = paths::volume(index);
        name(&volume.name, &path, report);
        let named = given(&volume.name);
        if let Some(name) = named
            && !seen.insert(name)
        {
            let message = format!("duplicate name {}: a volume has one disk", quoted(name));
            report.refuse(path.key("name"), message);
        }
        exactly_one(
            raw,
            ("/spec/volumes", index),
            SOURCE_FIELDS,
            "source",
            &path,
            report,
        );
        if let (Some(name), Some(resolved)) = (named, source(index, volume, report)) {
            by_name.entry(name.to_owned()).or_insert(resolved);
        }
    }
    by_name
}

/// Whether every volume as written has been read, so that one that is missed is missing.
pub(crate) fn is_whole(volumes: &storage::Volumes, raw: &Value) -> bool {
    match raw.pointer("/spec/volumes") {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => {
            items.len()
                == volumes
                    .iter()
                    .filter(|(_, volume)| given(&volume.name).is_some())
                    .count()
        }
        Some(_) => false,
    }
}

/// Whether a volume of that name is in the manifest, even if it has been refused.
pub(crate) fn is_written(raw: &Value, name: &str) -> bool {
    let items = raw.pointer("/spec/volumes").and_then(Value::as_array);
    items
        .into_iter()
        .flatten()
        .any(|volume| volume.get("name").and_then(Value::as_str) == Some(name))
}

/// Names of disks and volumes become names of containers in KubeVirt's pods.
pub(crate) fn name(name: &Option<String>, path: &FieldPath, report: &mut Report) {
    match name.as_deref() {
        Some("") => report.refuse(path.key("name"), "required"),
        Some(text) if !is_label(text) => {
            let form = "expected at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
            report.refuse(path.key("name"), format!("{form}, found {}", quoted(text)));
        }
        _ => {}
    }
}

fn single_service_account(volumes: &storage::Volumes, report: &mut Report) {
    let mut first = None;
    for (index, _) in volumes
        .iter()
        .filter(|(_, volume)| volume.service_account.is_some())
    {
        match first {
            None => first = Some(index),
            Some(first) => {
                let message = format!("only one service account, and volumes[{first}] is one already");
                report.refuse(paths::volume(index).key("serviceAccount"), message);
            }
        }
    }
}

fn source(index: usize, volume: &storage::Volume, report: &mut Report) -> Option<Resolved> {
    let path = paths::volume(index);
    let (field, source, readonly) = if let Some(disk) = &volume.container_disk {
        (
            "containerDisk",
            container_disk(disk, &path.key("containerDisk"), report)?,
            false,
        )
    } else if let Some(disk) = &volume.host_disk {
        ("hostDisk", host_disk(disk, &path.key("hostDisk"), report)?, false)
    } else if let Some(claim) = &volume.persistent_volume_claim {
        let at = path.key("persistentVolumeClaim");
        let name = required(&claim.claim_name, at.key("claimName"), report)?;
        let readonly = claim.read_only.unwrap_or(false);
        ("persistentVolumeClaim", VolumeSource::Claim { name }, readonly)
    } else if let Some(volume) = &volume.data_volume {
        let name = required(&volume.name, path.key("dataVolume").key("name"), report)?;
        ("dataVolume", VolumeSource::Claim { name }, false)
    } else if let Some(disk) = &volume.empty_disk {
        let at = path.key("emptyDisk").key("capacity");
        let capacity = capacity(&disk.capacity.as_ref()?.0, at, report)?;
        ("emptyDisk", VolumeSource::EmptyDisk { capacity }, false)
    } else if let Some(ephemeral) = &volume.ephemeral {
        let at = path
            .key("ephemeral")
            .key("persistentVolumeClaim")
            .key("claimName");
        let name = required(
            &ephemeral.persistent_volume_claim.as_ref()?.claim_name,
            at,
            report,
        )?;
        ("ephemeral", VolumeSource::Ephemeral { name }, false)
    } else if let Some(data) = &volume.cloud_init_no_cloud {
        let at = path.key("cloudInitNoCloud");
        let seed = cloud_init::resolve(data, CloudInitSource::NoCloud, &at, report)?;
        ("cloudInitNoCloud", VolumeSource::CloudInit(seed), true)
    } else if let Some(data) = &volume.cloud_init_config_drive {
        let at = path.key("cloudInitConfigDrive");
        let seed = cloud_init::resolve(data, CloudInitSource::ConfigDrive, &at, report)?;
        ("cloudInitConfigDrive", VolumeSource::CloudInit(seed), true)
    } else {
        let (field, source) = files(volume, &path, report)?;
        (field, source, true)
    };
    Some(Resolved {
        index,
        volume: Volume {
            path: report.in_place(path.key(field)).to_string(),
            source,
        },
        readonly,
    })
}

fn files(
    volume: &storage::Volume,
    path: &FieldPath,
    report: &mut Report,
) -> Option<(&'static str, VolumeSource)> {
    let (field, written, optional) = if let Some(map) = &volume.config_map {
        required(&map.name, path.key("configMap").key("name"), report)?;
        ("configMap", &map.volume_label, map.optional)
    } else if let Some(secret) = &volume.secret {
        required(&secret.secret_name, path.key("secret").key("secretName"), report)?;
        ("secret", &secret.volume_label, secret.optional)
    } else if let Some(account) = &volume.service_account {
        let at = path.key("serviceAccount").key("serviceAccountName");
        required(&account.service_account_name, at, report)?;
        ("serviceAccount", &None, None)
    } else {
        ("downwardAPI", &volume.downward_api.as_ref()?.volume_label, None)
    };
    let text = given(written).unwrap_or(DEFAULT_LABEL);
    let Some(label) = VolumeLabel::new(text) else {
        let form = "the disk is a FAT volume, whose label is at most 11 letters, digits, '-' and '_'";
        let message = format!("{form}, found {}", quoted(text));
        report.refuse(path.key(field).key("volumeLabel"), message);
        return None;
    };
    let optional = optional.unwrap_or(false);
    Some((field, VolumeSource::Files { optional, label }))
}

fn container_disk(
    disk: &storage::ContainerDisk,
    path: &FieldPath,
    report: &mut Report,
) -> Option<VolumeSource> {
    let image = required(&disk.image, path.key("image"), report);
    let inside = match given(&disk.path) {
        Some(text) => Some(file_path(text, path.key("path"), report)?),
        None => None,
    };
    Some(VolumeSource::ContainerDisk {
        image: image?,
        path: inside,
    })
}

fn host_disk(disk: &storage::HostDisk, path: &FieldPath, report: &mut Report) -> Option<VolumeSource> {
    let written = required(&disk.path, path.key("path"), report)?;
    let whole = file_path(&written, path.key("path"), report)?;
    let create = match (disk.r#type?, &disk.capacity) {
        (HostDiskType::Disk, None) => None,
        (HostDiskType::Disk, Some(_)) => {
            report.refuse(path.key("capacity"), "only together with the type DiskOrCreate");
            return None;
        }
        (HostDiskType::DiskOrCreate, None) => {
            report.refuse(path.key("capacity"), "required with the type DiskOrCreate");
            return None;
        }
        (HostDiskType::DiskOrCreate, Some(text)) => Some(capacity(&text.0, path.key("capacity"), report)?),
    };
    let file = whole.rsplit('/').next().unwrap_or_default().to_owned();
    Some(VolumeSource::HostDisk { file, create })
}

fn required(text: &Option<String>, path: FieldPath, report: &mut Report) -> Option<String> {
    // What is absent has been reported by the check against the schema.
    let text = text.as_ref()?;
    if text.is_empty() {
        report.refuse(path, "required");
        return None;
    }
    Some(text.clone())
}

/// A disk's size, rounded up to whole sectors.
fn capacity(text: &str, path: FieldPath, report: &mut Report) -> Option<u64> {
    let bytes = amount(text, &path, report)?;
    let rounded = bytes.div_ceil(SECTOR).checked_mul(SECTOR);
    match rounded.filter(|bytes| (SECTOR..=1 << 60).contains(bytes)) {
        Some(bytes) => Some(bytes),
        None => {
            report.refuse(path, format!("must be from 1 byte to 1Ei, found {bytes} bytes"));
            None
        }
    }
}

/// An absolute path of plain components, so that it cannot lead out by its own text.
pub(crate) fn file_path(text: &str, path: FieldPath, report: &mut Report) -> Option<String> {
    let parts = || text.split('/').skip(1);
    let problem = if !text.starts_with('/') {
        "must be an absolute path"
    } else if parts().any(|part| part == "..") {
        "must not contain '..'"
    } else if text.ends_with('/') {
        "must name a file"
    } else if parts().any(|part| part.is_empty() || part == ".") {
        "must be without relative or empty components"
    } else if text.len() > 4095 || text.chars().any(char::is_control) {
        "must be at most 4095 bytes without control characters"
    } else {
        return Some(text.to_owned());
    };
    report.refuse(path, format!("{problem}, found {}", quoted(text)));
    None
}
