//! Disks: each joined to its volume, and every rule of KubeVirt's admission applied.
//!
//! As in KubeVirt, a volume that no disk names gets a plain disk, after the others.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::volumes::{self, Resolved};
use super::{boot_orders, devices, paths};
use crate::document::report::{FieldPath, Report, quoted};
use crate::document::text::given;
use crate::guest::GuestSpec;
use crate::guest::storage::Disk;
use crate::support;
use crate::v1::storage::{self, Bus, Cache};
use crate::v1::{Domain, Spec};

/// Bytes of a serial number that the guest can read (virtio, VIRTIO_BLK_T_GET_ID).
const SERIAL_VISIBLE: usize = 20;
/// Characters of a serial number that KubeVirt accepts.
const SERIAL_MAX: usize = 256;

/// The disks in the manifest's order.
pub(crate) fn resolve(
    spec: &Spec,
    domain: &Domain,
    volumes: &BTreeMap<String, Resolved>,
    raw: &Value,
    report: &mut Report,
) -> Option<Vec<Disk>> {
    let whole = volumes::is_whole(&spec.volumes, raw);
    let mut orders = boot_orders::of_interfaces(domain);
    let mut seen = BTreeSet::new();
    let mut complete = true;
    let mut list = Vec::new();
    for (index, disk) in domain.devices.disks.iter() {
        let path = paths::disk(index);
        check(disk, &path, report);
        if let Some(order) = disk.boot_order
            && let Some(first) = orders.insert(order, path.to_string())
        {
            report.refuse(path.key("bootOrder"), format!("the same as that of {first}"));
        }
        let volume = given(&disk.name).and_then(|name| {
            if !seen.insert(name) {
                report.refuse(
                    path.key("name"),
                    format!("duplicate name {}: a volume has one disk", quoted(name)),
                );
                return None;
            }
            let volume = volumes.get(name);
            if volume.is_none() && whole && !volumes::is_written(raw, name) {
                report.refuse(path.key("name"), format!("no volume is named {}", quoted(name)));
            }
            volume
        });
        match volume {
            Some(volume) => list.push(join(disk, &path, volume, report)),
            None => complete = false,
        }
    }
    list.extend(without_disk(volumes, &seen, raw, report));
    if !fits(list.len(), domain, report) {
        return None;
    }
    complete.then_some(list)
}

/// Whether the guest has PCI slots for that many disks and for everything else, which is on the first segment.
fn fits(disks: usize, domain: &Domain, report: &mut Report) -> bool {
    let interfaces = domain.devices.interfaces.iter().count();
    let others = interfaces.saturating_add(devices::count(&domain.devices));
    // The firmware finds the first disk there too.
    let room = GuestSpec::FIRST_SEGMENT.saturating_sub(disks.min(1));
    if others > room {
        let message = format!(
            "at most {room} interfaces and other devices besides disks, found {others}: a PCI segment has 32 slots"
        );
        report.refuse(FieldPath::of("spec.domain.devices"), message);
        return false;
    }
    let further = GuestSpec::SEGMENT.saturating_mul(GuestSpec::SEGMENTS.saturating_sub(1));
    let most = GuestSpec::FIRST_SEGMENT
        .saturating_sub(others)
        .saturating_add(further);
    if disks > most {
        let message = format!("at most {most} disks beside {others} other devices, found {disks}");
        report.refuse(FieldPath::of("spec.domain.devices.disks"), message);
        return false;
    }
    true
}

/// What is wrong with a disk whatever its volume is.
fn check(disk: &storage::Disk, path: &FieldPath, report: &mut Report) {
    volumes::name(&disk.name, path, report);
    if disk.disk.is_some() && disk.cdrom.is_some() {
        report.refuse(path.clone(), "expected at most one of disk and cdrom, found both");
    }
    if let Some(target) = &disk.disk {
        bus(target.bus, &path.key("disk"), report);
        if target.bus == Some(Bus::Sata) && target.readonly == Some(true) {
            report.refuse(
                path.key("disk").key("bus"),
                "a sata disk cannot be read-only, except as cdrom",
            );
        }
        if given(&target.pci_address).is_some() {
            report.refuse(
                path.key("disk").key("pciAddress"),
                format!(
                    "not supported: {}",
                    support::why("spec.domain.devices.disks.disk.pciAddress")
                ),
            );
        }
    }
    if let Some(target) = &disk.cdrom {
        match target.bus {
            Some(Bus::Virtio) => report.refuse(
                path.key("cdrom").key("bus"),
                "a cdrom cannot be on the bus virtio",
            ),
            _ => report.note(
                path.key("cdrom"),
                "cloud-hypervisor has no CD-ROM drive: the guest gets a virtio disk instead",
            ),
        }
    }
    if let Some(serial) = given(&disk.serial) {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.+-".contains(&b);
        if !serial.bytes().all(plain) || serial.len() > SERIAL_MAX {
            let form = "expected at most 256 letters, digits, '_', '.', '+' and '-'";
            report.refuse(path.key("serial"), format!("{form}, found {}", quoted(serial)));
        } else if serial.len() > SERIAL_VISIBLE {
            let message = format!("a virtio disk shows the guest the first {SERIAL_VISIBLE} bytes only");
            report.note(path.key("serial"), message);
        }
    }
}

fn bus(bus: Option<Bus>, path: &FieldPath, report: &mut Report) {
    if bus.is_some_and(|bus| bus != Bus::Virtio) {
        report.note(
            path.key("bus"),
            "cloud-hypervisor has no such bus: the guest gets a virtio disk instead",
        );
    }
}

fn join(disk: &storage::Disk, path: &FieldPath, volume: &Resolved, report: &mut Report) -> Disk {
    let asked = match (&disk.disk, &disk.cdrom) {
        (_, Some(cdrom)) => cdrom.readonly.unwrap_or(true),
        (Some(target), None) => target.readonly.unwrap_or(false),
        (None, None) => false,
    };
    let written = |target: Option<bool>| target == Some(false);
    if volume.readonly && disk.cdrom.as_ref().is_some_and(|cdrom| written(cdrom.readonly)) {
        report.note(
            path.key("cdrom").key("readonly"),
            "the volume is read-only, and so is the disk",
        );
    }
    Disk {
        path: report.in_place(path.clone()).to_string(),
        name: disk.name.clone().unwrap_or_default(),
        readonly: asked || volume.readonly,
        serial: given(&disk.serial).map(|serial| serial.chars().take(SERIAL_VISIBLE).collect()),
        boot_order: disk.boot_order,
        direct: disk.cache == Some(Cache::None),
        shared: false,
        volume: volume.volume.clone(),
    }
}

/// Where `blockMultiQueue` is not honoured, which only the launcher can do something about.
pub(crate) fn note_one_queue(disks: &[Disk], report: &mut Report) {
    let overlaid = |disk: &&Disk| !disk.readonly && disk.volume.source.is_overlaid();
    let names: Vec<_> = disks
        .iter()
        .filter(overlaid)
        .map(|disk| disk.name.as_str())
        .collect();
    if !names.is_empty() {
        let message = format!(
            "the guest gets one queue for {}: cloud-hypervisor 53 damages an overlay that is written by several queues (its issues 8621 and 8624)",
            names.join(", ")
        );
        report.note(FieldPath::of("spec.domain.devices.blockMultiQueue"), message);
    }
}

/// Plain disks for the volumes that no disk and no shared file system names, in the manifest's order.
fn without_disk(
    volumes: &BTreeMap<String, Resolved>,
    named: &BTreeSet<&str>,
    raw: &Value,
    report: &Report,
) -> Vec<Disk> {
    let shared = raw
        .pointer("/spec/domain/devices/filesystems")
        .and_then(Value::as_array);
    let shared: BTreeSet<&str> = shared
        .into_iter()
        .flatten()
        .filter_map(|filesystem| filesystem.get("name")?.as_str())
        .collect();
    let mut rest: Vec<_> = volumes
        .iter()
        .filter(|(name, _)| !named.contains(name.as_str()) && !shared.contains(name.as_str()))
        .collect();
    rest.sort_by_key(|(_, volume)| volume.index);
    let disk = |(name, volume): (&String, &Resolved)| Disk {
        path: report.in_place(paths::volume(volume.index)).to_string(),
        name: name.clone(),
        readonly: volume.readonly,
        serial: None,
        boot_order: None,
        direct: false,
        shared: false,
        volume: volume.volume.clone(),
    };
    rest.into_iter().map(disk).collect()
}
