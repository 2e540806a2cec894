//! `bootOrder` of interfaces and disks, which share one order. The guest's firmware boots from disks alone.

use std::collections::HashMap;

use serde_json::Value;

use super::paths;
use crate::document::report::Report;
use crate::v1::Domain;
use crate::v1::net::State;

/// The paths of the interfaces that have one, by it.
pub(super) fn of_interfaces(domain: &Domain) -> HashMap<u32, String> {
    let interfaces = domain.devices.interfaces.iter();
    interfaces
        .filter_map(|(index, interface)| Some((interface.boot_order?, paths::interface(index).to_string())))
        .collect()
}

/// An interface that comes after a disk is what a guest would boot from if that disk had no system on it; one that comes first
/// is what the guest is to boot from.
pub(super) fn check(domain: &Domain, raw: &Value, report: &mut Report) {
    let kernel = raw
        .pointer("/spec/domain/firmware/kernelBoot")
        .is_some_and(|value| !value.is_null());
    let first_disk = domain
        .devices
        .disks
        .iter()
        .filter_map(|(_, disk)| disk.boot_order)
        .min();
    for (index, interface) in domain.devices.interfaces.iter() {
        let Some(order) = interface.boot_order else {
            continue;
        };
        if interface.sriov.is_some() || interface.state == Some(State::Absent) {
            continue;
        }
        let path = paths::interface(index).key("bootOrder");
        if kernel {
            report.note(path, "without effect: the guest boots the kernel of kernelBoot");
        } else if first_disk.is_some_and(|disk| disk < order) {
            report.note(
                path,
                "without effect: the guest boots from its disks alone, and tries no network after them",
            );
        } else {
            report.refuse(
                path,
                "not supported: the guest boots from its disks alone; leave it out, or give a disk a lower bootOrder",
            );
        }
    }
}
