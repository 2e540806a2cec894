//! Rate limits, by annotation: KubeVirt has no field for them.
//!
//! `hawser.dev/interface-rates: "default: 10Mi 20000ops; second: 1Mi"`: for each device bytes a second, operations a second, or both.
//! The VMM's own devices have limiters. What another program or the node serves has none, and is refused.

use std::collections::BTreeMap;

use crate::document::quantity;
use crate::document::report::{FieldPath, Report, quoted};
use crate::guest::rates::{Rate, Rates};
use crate::guest::storage::Disk;
use crate::guest::{Binding, Interface};
use crate::v1;

const INTERFACES: &str = "hawser.dev/interface-rates";
const DISKS: &str = "hawser.dev/disk-rates";
const FORM: &str = "expected NAME: BYTES, NAME: NUMBERops or both, a second, and ; between devices, such as \"root: 50Mi 1000ops\"";

pub(super) fn resolve(
    metadata: &v1::Metadata,
    interfaces: Option<&[Interface]>,
    disks: Option<&[Disk]>,
    report: &mut Report,
) -> Rates {
    let of = |annotation: &str| {
        let text = metadata.annotations.get(annotation);
        text.map(String::as_str).unwrap_or_default()
    };
    let on_interface = |name: &str| {
        let found = interfaces.map(|all| all.iter().find(|one| one.name == name));
        match found {
            Some(None) => Err(format!("there is no interface {}", quoted(name))),
            Some(Some(interface)) => may_limit(interface).map_err(str::to_owned),
            // They are refused for themselves.
            None => Ok(()),
        }
    };
    let on_disk = |name: &str| match disks.is_none_or(|all| all.iter().any(|disk| disk.name == name)) {
        true => Ok(()),
        false => Err(format!("there is no disk {}", quoted(name))),
    };
    Rates {
        interfaces: rates(INTERFACES, of(INTERFACES), on_interface, report),
        disks: rates(DISKS, of(DISKS), on_disk, report),
    }
}

fn may_limit(interface: &Interface) -> Result<(), &'static str> {
    match &interface.binding {
        Binding::Masquerade | Binding::Bridge => Ok(()),
        Binding::Passt => {
            Err("a NIC that passt serves has no limiter: cloud-hypervisor does not see its packets")
        }
        Binding::Sriov => {
            Err("a virtual function has no limiter of the VMM's: limit it at the physical function")
        }
        Binding::Plugin { plugin, .. } if plugin.domain_attachment_type.is_some() => Ok(()),
        Binding::Plugin { .. } => Err("a NIC that a sidecar completes has no limiter of hawser's"),
    }
}

fn rates(
    annotation: &str,
    text: &str,
    may: impl Fn(&str) -> Result<(), String>,
    report: &mut Report,
) -> BTreeMap<String, Rate> {
    let mut all = BTreeMap::new();
    for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
        let mut refuse = |why: String| {
            report.refuse(FieldPath::of("metadata.annotations").key(annotation), why);
        };
        let Some((name, limits)) = entry.split_once(':') else {
            refuse(format!("{FORM}, found {}", quoted(entry)));
            continue;
        };
        let name = name.trim();
        match (rate(limits), may(name)) {
            (Ok(rate), Ok(())) => {
                if all.insert(name.to_owned(), rate).is_some() {
                    refuse(format!("{} is limited twice", quoted(name)));
                }
            }
            (Err(why), _) | (_, Err(why)) => refuse(why),
        }
    }
    all
}

fn rate(limits: &str) -> Result<Rate, String> {
    let mut rate = Rate::default();
    for word in limits.split_whitespace() {
        let (place, value) = match word.strip_suffix("ops") {
            Some(number) => (&mut rate.operations, number.parse().ok()),
            None => (&mut rate.bytes, quantity::parse(word).ok()),
        };
        match value.filter(|value| *value > 0) {
            Some(value) if place.is_none() => *place = Some(value),
            _ => return Err(format!("{FORM}, found {}", quoted(word))),
        }
    }
    match rate == Rate::default() {
        true => Err(format!("{FORM}, found no limit")),
        false => Ok(rate),
    }
}
