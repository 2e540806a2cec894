//! `ports` and `portRanges` of an interface.

use std::collections::BTreeSet;

use crate::document::report::{FieldPath, Report, quoted};
use crate::document::text::given;
use crate::guest::{PortRange, Ports, Protocol};
use crate::pod_ports;
use crate::v1::net;

/// Ports that lack a part were refused by the check and are left out.
pub(crate) fn resolve(interface: &net::Interface, path: &FieldPath, report: &mut Report) -> Ports {
    let mut found: Vec<(FieldPath, PortRange)> = Vec::new();
    let mut names = BTreeSet::new();
    for (index, port) in interface.ports.iter().flat_map(|ports| ports.iter()) {
        let path = path.key("ports").index(index);
        let name = given(&port.name);
        if let Some(name) = name {
            if !is_service_name(name) {
                let form = "expected at most 15 of a-z, 0-9 and single inner '-', with a letter";
                report.refuse(path.key("name"), format!("{form}, found {}", quoted(name)));
            } else if !names.insert(name) {
                report.refuse(path.key("name"), format!("duplicate name {}", quoted(name)));
            }
        }
        if let Some(number) = port.port {
            let protocol = protocol(port.protocol);
            let range = PortRange {
                name: name.map(str::to_owned),
                protocol,
                first: number,
                last: number,
            };
            found.push((path.key("port"), range));
        }
    }
    for (index, range) in interface.port_ranges.iter().flat_map(|ranges| ranges.iter()) {
        let path = path.key("portRanges").index(index);
        let (Some(first), Some(last)) = (range.start, range.end) else {
            continue;
        };
        if first > last {
            report.refuse(path.key("start"), format!("{first} lies above the end, {last}"));
            continue;
        }
        found.push((
            path,
            PortRange {
                name: None,
                protocol: protocol(range.protocol),
                first,
                last,
            },
        ));
    }
    if interface.ports.is_some() && interface.port_ranges.is_some() {
        report.refuse(path.key("portRanges"), "not together with ports");
    }
    // As in KubeVirt, a port may be listed under two names; ranges that overlap are refused.
    if interface.ports.is_none() {
        overlaps(&found, report);
    }
    // KubeVirt lets a manifest list them, so they are no reason to refuse one.
    for (path, range) in found.iter().filter(|(_, range)| range.protocol == Protocol::Tcp) {
        for port in pod_ports::ALWAYS
            .iter()
            .filter(|port| (range.first..=range.last).contains(port))
        {
            report.note(
                path.clone(),
                format!("port {port} is reserved for the pod and does not reach the guest"),
            );
        }
    }
    let is_listed = interface.ports.as_ref().is_some_and(|ports| !ports.is_empty())
        || interface
            .port_ranges
            .as_ref()
            .is_some_and(|ranges| !ranges.is_empty());
    if is_listed {
        Ports::Listed(found.into_iter().map(|(_, range)| range).collect())
    } else {
        Ports::All
    }
}

/// TCP where nothing is said, as for a Kubernetes port.
fn protocol(protocol: Option<net::Protocol>) -> Protocol {
    match protocol {
        None | Some(net::Protocol::Tcp) => Protocol::Tcp,
        Some(net::Protocol::Udp) => Protocol::Udp,
    }
}

/// Each range that shares a port with one that starts before it; sorted first, since lists may be long.
fn overlaps(found: &[(FieldPath, PortRange)], report: &mut Report) {
    let mut sorted: Vec<_> = found.iter().collect();
    // Stable, so that of equal ones the later in the manifest is at fault.
    sorted.sort_by_key(|(_, range)| (range.protocol, range.first));
    let mut widest: Option<&(FieldPath, PortRange)> = None;
    for entry in sorted {
        let (path, range) = entry;
        match widest {
            Some((other, before)) if before.protocol == range.protocol && range.first <= before.last => {
                report.refuse(path.clone(), format!("the same port as in {other}"));
                if range.last > before.last {
                    widest = Some(entry);
                }
            }
            _ => widest = Some(entry),
        }
    }
}

/// IANA_SVC_NAME of RFC 6335, as Kubernetes checks port names.
fn is_service_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=15).contains(&text.len())
        && text.bytes().all(allowed)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}
