//! Services: one for the ports that the manifest lists, and a headless one where the guest has a subdomain.

use std::collections::BTreeSet;

use hawser_manifest::{FieldPath, LinkState, PortRange, Ports, Protocol, Report, quoted};
use serde_json::{Map, Value, json};

use crate::metadata::{self, NAME_LABEL, SUBDOMAIN_LABEL, name_label};
use crate::names;
use crate::source::Source;

/// The ports of the NIC on the pod network, where they are listed.
pub(crate) fn guest_ports<'a>(source: &Source<'a>) -> impl Iterator<Item = &'a PortRange> {
    let primary = source
        .guest
        .interfaces
        .iter()
        .find(|interface| interface.network.is_primary() && interface.state == LinkState::Up);
    let list = match primary.map(|interface| &interface.ports) {
        Some(Ports::Listed(list)) => list.as_slice(),
        _ => &[],
    };
    list.iter()
}

pub(crate) fn objects(source: &Source<'_>, report: &mut Report) -> Vec<Value> {
    let ports = ports(source, report);
    let subdomain = source.guest.subdomain.as_deref();
    if let Some(subdomain) = subdomain
        && !names::is_service_name(subdomain)
    {
        report.refuse(
            FieldPath::of("spec.subdomain"),
            "a pod's subdomain is the name of a Service: at most 63 of a-z, 0-9 and '-', beginning with a letter",
        );
        return Vec::new();
    }
    let name = service_name(&source.guest.name);
    let mut objects = Vec::new();
    if !ports.is_empty() && subdomain != Some(name.as_str()) {
        if name != source.guest.name {
            let note = format!(
                "the Service of its ports is named {}: no Service can have this name",
                quoted(&name)
            );
            report.note(FieldPath::of("metadata.name"), note);
        }
        let selector = json!({NAME_LABEL: name_label(&source.guest.name)});
        objects.push(service(source, &name, selector, json!({"ports": ports})));
    }
    if let Some(subdomain) = subdomain {
        // The same for all guests of the subdomain, so that each may be applied beside the others. DNS needs no ports.
        let selector = json!({SUBDOMAIN_LABEL: subdomain});
        let spec = json!({"clusterIP": "None", "publishNotReadyAddresses": true});
        let mut object = service(source, subdomain, selector, spec);
        if let Some(labels) = object
            .pointer_mut("/metadata/labels")
            .and_then(Value::as_object_mut)
        {
            labels.shift_remove(NAME_LABEL);
        }
        objects.push(object);
    }
    objects
}

fn service(source: &Source<'_>, name: &str, selector: Value, own: Value) -> Value {
    let mut object = metadata::object(source, "v1", "Service", name);
    let mut spec = Map::new();
    spec.insert("selector".to_owned(), selector);
    // Both families where the cluster has both, and one where it has one.
    spec.insert("ipFamilyPolicy".to_owned(), "PreferDualStack".into());
    if let Value::Object(own) = own {
        spec.extend(own);
    }
    object.insert("spec".to_owned(), spec.into());
    object.into()
}

/// A Service's name begins with a letter and has no dots; a guest's name may.
fn service_name(guest: &str) -> String {
    if names::is_service_name(guest) {
        return guest.to_owned();
    }
    let plain = guest.replace('.', "-");
    names::with_suffix(
        &format!("vm-{plain}"),
        &names::hash(guest.as_bytes()),
        names::LABEL_MAX,
    )
}

/// `spec.ports` of the Service: each number once for a protocol.
fn ports(source: &Source<'_>, report: &mut Report) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let mut list = Vec::new();
    for port in guest_ports(source) {
        if port.first != port.last {
            let note = format!(
                "ports {} to {} are not in the Service, which has no ranges: they are at the pod's address alone",
                port.first, port.last
            );
            report.note(FieldPath::of("spec.domain.devices.interfaces"), note);
            continue;
        }
        if !seen.insert((port.first, port.protocol)) {
            continue;
        }
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let name = match &port.name {
            Some(name) => name.clone(),
            None => format!("{protocol}-{}", port.first),
        };
        list.push(json!({
            "name": name,
            "port": port.first,
            "targetPort": port.first,
            "protocol": port.protocol,
        }));
    }
    list
}
