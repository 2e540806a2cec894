//! Annotations by which Multus attaches the pod to the manifest's networks.

use hawser_manifest::{Binding, FieldPath, Interface, NetworkSource, Ports, Report};
use serde_json::{Map, Value, json};

use crate::source::Source;

/// Network Plumbing Working Group, "Kubernetes Network Custom Resource Definition De-facto Standard", section 4.1.
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// What Multus writes about the attached networks, in the same standard, section 5.
pub(crate) const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// Multus: the network in the place of the cluster's own.
const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

/// Whether Multus attaches any of the guest's networks, and so writes a network-status.
pub(crate) fn by_multus(source: &Source<'_>) -> bool {
    source.guest.interfaces.iter().any(|interface| {
        matches!(interface.network.source, NetworkSource::Multus { .. })
            || plugin_network(interface).is_some()
    })
}

/// What the guest's networks need of the node, and no pod can ask for.
pub(crate) fn note(source: &Source<'_>, report: &mut Report) {
    let interfaces = source.guest.interfaces.iter();
    for interface in interfaces.filter(|interface| interface.binding == Binding::Passt) {
        if interface.ports == Ports::All {
            let path = FieldPath::of("spec.domain.devices.interfaces").index(interface.index);
            report.note(
                path.key("ports"),
                "without a list of ports passt opens a socket for each, some 75,000 files in all, and hawser does not start \
                 where the container runtime allows fewer (containerd: mostly so): list the ports that others are to reach",
            );
        }
    }
}

pub(crate) fn annotations(source: &Source<'_>) -> Map<String, Value> {
    let mut annotations = Map::new();
    let interfaces = &source.guest.interfaces;
    for interface in interfaces {
        if let NetworkSource::Multus {
            network_name,
            default: true,
        } = &interface.network.source
        {
            annotations.insert(DEFAULT_NETWORK.to_owned(), network_name.as_str().into());
        }
    }
    let mut secondary: Vec<&Interface> = interfaces
        .iter()
        .filter(|interface| {
            matches!(
                interface.network.source,
                NetworkSource::Multus { default: false, .. }
            )
        })
        .collect();
    secondary.sort_by_key(|interface| interface.network.ordinal);
    let mut list: Vec<Value> = secondary.into_iter().map(attachment).collect();
    list.extend(interfaces.iter().filter_map(plugin_attachment));
    if !list.is_empty() {
        annotations.insert(NETWORKS.to_owned(), Value::Array(list).to_string().into());
    }
    annotations
}

fn attachment(interface: &Interface) -> Value {
    let NetworkSource::Multus { network_name, .. } = &interface.network.source else {
        return Value::Null;
    };
    let mut element = named(network_name);
    element.insert(
        "interface".to_owned(),
        interface.network.conventional_interface().into(),
    );
    if let Some(mac) = interface.mac {
        element.insert("mac".to_owned(), mac.to_string().into());
    }
    element.into()
}

/// The network that a binding plugin is registered with, for each interface of the plugin.
fn plugin_attachment(interface: &Interface) -> Option<Value> {
    let mut element = named(plugin_network(interface)?);
    // The CNI plugin learns which of the guest's networks it is called for, as from KubeVirt.
    element.insert(
        "cni-args".to_owned(),
        json!({"logicNetworkName": interface.network.name}),
    );
    Some(element.into())
}

fn plugin_network(interface: &Interface) -> Option<&str> {
    match &interface.binding {
        Binding::Plugin { plugin, .. } => plugin.network_attachment_definition.as_deref(),
        _ => None,
    }
}

/// `name` or `namespace/name`, as the standard's JSON has it.
fn named(network: &str) -> Map<String, Value> {
    let (namespace, name) = match network.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, network),
    };
    let mut element = Map::new();
    element.insert("name".to_owned(), name.into());
    if let Some(namespace) = namespace {
        element.insert("namespace".to_owned(), namespace.into());
    }
    element
}
