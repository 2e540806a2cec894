//! Devices besides NICs and disks: GPUs and other devices of the node's, shared file systems, and the virtio socket.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::networks;
use super::volumes::{self, Resolved};
use crate::document::fields::List;
use crate::document::report::{FieldPath, Report, quoted};
use crate::document::text::given;
use crate::guest::devices::{Filesystem, HostDevice, HostDeviceKind, HostDeviceSource, ReadyWhen, Vsock};
use crate::guest::storage::VolumeSource;
use crate::support;
use crate::v1;

/// Where the cluster gives none. Each guest has a socket of its own here, so it need not be another guest's.
const DEFAULT_CID: u32 = 3;
const READY_WHEN: &str = "hawser.dev/ready-when";
/// Bytes of a unit's name that is waited for.
const UNIT_MAX: usize = 64;
/// Bytes of the name that the guest mounts by (virtio, "File System Device").
const TAG_MAX: usize = 36;

fn path_of(list: &str) -> FieldPath {
    FieldPath::of("spec.domain.devices").key(list)
}

/// How many PCI slots these take, besides those of NICs and disks.
pub(crate) fn count(devices: &v1::Devices) -> usize {
    let listed = [
        devices.gpus.iter().count(),
        devices.host_devices.iter().count(),
        devices.filesystems.iter().count(),
    ];
    let vsock = usize::from(devices.autoattach_vsock == Some(true));
    let pvpanic = usize::from(!devices.panic_devices.is_empty());
    listed
        .into_iter()
        .fold(vsock.saturating_add(pvpanic), usize::saturating_add)
}

/// With the CID that the cluster has given the guest, where it has.
pub(crate) fn vsock(
    vmi: &v1::VirtualMachineInstance,
    devices: &v1::Devices,
    report: &mut Report,
) -> Option<Vsock> {
    let has = devices.autoattach_vsock == Some(true);
    let ready_when = ready_when(vmi, has, report);
    let given = vmi.status.as_ref().and_then(|status| status.vsock_cid);
    has.then(|| Vsock {
        cid: given.unwrap_or(DEFAULT_CID),
        ready_when,
    })
}

/// The guest reports over its virtio socket, so there is nothing to wait for without one.
fn ready_when(vmi: &v1::VirtualMachineInstance, has_vsock: bool, report: &mut Report) -> Option<ReadyWhen> {
    let annotations = vmi.metadata.as_ref().map(|metadata| &metadata.annotations)?;
    let text = annotations.get(READY_WHEN)?.as_str();
    let path = FieldPath::of("metadata.annotations").key(READY_WHEN);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:@\\".contains(&b);
    let wanted = match text {
        "running" => return None,
        "booted" => ReadyWhen::Booted,
        name if name.len() <= UNIT_MAX && name.ends_with(".target") && name.bytes().all(plain) => {
            ReadyWhen::Target(name.to_owned())
        }
        other => {
            let form = "expected running, booted, or a target unit of systemd's such as multi-user.target";
            report.refuse(path, format!("{form}, found {}", quoted(other)));
            return None;
        }
    };
    if !has_vsock {
        report.refuse(
            path,
            "the guest's systemd reports over the guest's virtio socket: set spec.domain.devices.autoattachVSOCK to true",
        );
        return None;
    }
    Some(wanted)
}

/// cloud-hypervisor's device is the one on PCI, and one is enough.
pub(crate) fn pvpanic(devices: &v1::Devices, report: &mut Report) -> bool {
    for (index, device) in devices.panic_devices.iter() {
        if device
            .model
            .is_some_and(|model| model != v1::devices::PanicModel::Pvpanic)
        {
            let path = path_of("panicDevices").index(index).key("model");
            report.note(path, support::why("spec.domain.devices.panicDevices.model"));
        }
    }
    !devices.panic_devices.is_empty()
}

/// Named, it is on unless it says otherwise.
pub(crate) fn no_tpm(devices: &v1::Devices, report: &mut Report) {
    let Some(tpm) = &devices.tpm else { return };
    if tpm.enabled != Some(false) {
        report.refuse(
            path_of("tpm"),
            "not supported by this version of hawser: it has no TPM emulator (swtpm) to put behind it; \
             leave it out, or say enabled: false",
        );
    }
}

/// GPUs, then other devices, each list in the manifest's order. The order decides who gets which of a resource.
pub(crate) fn host_devices(
    spec: &v1::Spec,
    devices: &v1::Devices,
    report: &mut Report,
) -> Option<Vec<HostDevice>> {
    let lists = [
        ("gpus", HostDeviceKind::Gpu, &devices.gpus),
        ("hostDevices", HostDeviceKind::HostDevice, &devices.host_devices),
    ];
    let mut seen = BTreeMap::new();
    let mut claimed = BTreeMap::new();
    let mut complete = true;
    let mut found = Vec::new();
    for (list, kind, written) in lists {
        for (index, device) in written.iter() {
            let path = path_of(list).index(index);
            let name = device_name(&device.name, &path, report);
            if let Some(name) = &name
                && let Some(first) = seen.insert(name.clone(), path.to_string())
            {
                report.refuse(path.key("name"), format!("the same as that of {first}"));
            }
            let source = source(device, &spec.resource_claims, &path, report);
            if let Some(HostDeviceSource::Claim(claim)) = &source
                && let Some(first) =
                    claimed.insert((claim.name.clone(), claim.request.clone()), path.to_string())
            {
                report.refuse(path.clone(), format!("the same claim and request as {first}"));
            }
            match (name, source) {
                (Some(name), Some(source)) => found.push(HostDevice {
                    path: report.in_place(path).to_string(),
                    name,
                    kind,
                    source,
                }),
                _ => complete = false,
            }
        }
    }
    complete.then_some(found)
}

/// It becomes a part of the VMM's own name for the device.
fn device_name(name: &Option<String>, path: &FieldPath, report: &mut Report) -> Option<String> {
    let text = name.as_deref()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if text.is_empty() {
        report.refuse(path.key("name"), "required");
    } else if text.len() > 63 || !text.bytes().all(plain) {
        let form = "expected at most 63 letters, digits, '-', '_' and '.'";
        report.refuse(path.key("name"), format!("{form}, found {}", quoted(text)));
    } else {
        return Some(text.to_owned());
    }
    None
}

fn source(
    device: &v1::devices::HostDevice,
    claims: &List<v1::net::ResourceClaim>,
    path: &FieldPath,
    report: &mut Report,
) -> Option<HostDeviceSource> {
    let resource = given(&device.device_name);
    let claim = given(&device.claim_name);
    let request = given(&device.request_name);
    match (resource, claim, request) {
        (Some(resource), None, None) => Some(HostDeviceSource::Resource(resource.to_owned())),
        (None, Some(_), Some(_)) => {
            let request = v1::net::ClaimRequest {
                claim_name: device.claim_name.clone(),
                request_name: device.request_name.clone(),
            };
            networks::claim(&request, claims, path, report).map(HostDeviceSource::Claim)
        }
        _ => {
            report.refuse(
                path.clone(),
                "expected either deviceName, or claimName with requestName",
            );
            None
        }
    }
}

/// Each joined to its volume.
pub(crate) fn filesystems(
    spec: &v1::Spec,
    devices: &v1::Devices,
    volumes: &BTreeMap<String, Resolved>,
    raw: &Value,
    report: &mut Report,
) -> Option<Vec<Filesystem>> {
    let whole = volumes::is_whole(&spec.volumes, raw);
    let as_disks: BTreeSet<&str> = devices
        .disks
        .iter()
        .filter_map(|(_, disk)| disk.name.as_deref())
        .collect();
    let mut seen = BTreeSet::new();
    let mut complete = true;
    let mut list = Vec::new();
    for (index, written) in devices.filesystems.iter() {
        let path = path_of("filesystems").index(index);
        volumes::name(&written.name, &path, report);
        let Some(name) = given(&written.name) else {
            complete = false;
            continue;
        };
        if name.len() > TAG_MAX {
            let form = format!("the guest mounts it by this name, of at most {TAG_MAX} bytes");
            report.refuse(path.key("name"), format!("{form}, found {}", quoted(name)));
        }
        if !seen.insert(name) {
            report.refuse(path.key("name"), format!("duplicate name {}", quoted(name)));
        }
        if as_disks.contains(name) {
            let message = format!("the volume {} is already a disk of the guest", quoted(name));
            report.refuse(path.key("name"), message);
        }
        let Some(volume) = volumes.get(name) else {
            if whole && !volumes::is_written(raw, name) {
                report.refuse(path.key("name"), format!("no volume is named {}", quoted(name)));
            }
            complete = false;
            continue;
        };
        if !is_directory(&volume.volume.source) {
            let source = volume.volume.path.rsplit('.').next().unwrap_or_default();
            report.refuse(
                path.key("name"),
                format!(
                    "the volume is of {source}, which is no directory: only persistentVolumeClaim, dataVolume, configMap, \
                     secret, serviceAccount and downwardAPI can be shared"
                ),
            );
        }
        list.push(Filesystem {
            path: report.in_place(path).to_string(),
            name: name.to_owned(),
            readonly: volume.readonly,
            volume: volume.volume.clone(),
        });
    }
    complete.then_some(list)
}

fn is_directory(source: &VolumeSource) -> bool {
    matches!(source, VolumeSource::Claim { .. } | VolumeSource::Files { .. })
}
