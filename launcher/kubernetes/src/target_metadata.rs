//! Name, labels and annotations of a target that is made of its source's pod.
//!
//! Networks that follow a guest from pod to pod read what KubeVirt's controller writes. OVN-Kubernetes takes the newest pod with
//! the label of the guest's name for the target, and switches at [`READY_TIMESTAMP`]; others read [`NODE_NAME`], and Kube-OVN
//! [`JOB`]. The last is there from the start; the other two are written once the guest runs at the target, by whoever knows that.

use serde_json::{Map, Value, json};

use crate::names;
use crate::source::text_at;

/// KubeVirt's annotation with the name of the migration.
pub const JOB: &str = "kubevirt.io/migrationJobName";
/// KubeVirt's annotation with the time since which the guest runs at the target.
pub const READY_TIMESTAMP: &str = "kubevirt.io/migration-target-ready-timestamp";
/// KubeVirt's label with the node that the guest runs on.
pub const NODE_NAME: &str = "kubevirt.io/nodeName";
/// The name of the source's pod, in the target's annotations.
pub const MIGRATED_FROM: &str = "hawser.dev/migrated-from";
/// Its uid, beside it.
pub const MIGRATED_FROM_UID: &str = "hawser.dev/migrated-from-uid";
/// The node that was asked for, in the target's annotations.
pub const REQUESTED_NODE: &str = "hawser.dev/requested-node";

/// Labels that are of one pod, or of the controller that made it.
const LABELS_OF_ONE_POD: [&str; 7] = [
    NODE_NAME,
    "pod-template-hash",
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    // The API server copies them from the pod's node.
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Annotations of the same kind.
const ANNOTATIONS_OF_ONE_POD: [&str; 11] = [
    JOB,
    READY_TIMESTAMP,
    MIGRATED_FROM,
    MIGRATED_FROM_UID,
    REQUESTED_NODE,
    "kubectl.kubernetes.io/last-applied-configuration",
    "kubernetes.io/limit-ranger",
    "k8s.v1.cni.cncf.io/network-status",
    "k8s.v1.cni.cncf.io/networks-status",
    "k8s.ovn.org/pod-networks",
    "kubevirt.io/network-info",
];
/// Of network plugins: how they begin or end.
const PREFIX_OF_ONE_POD: &str = "cni.projectcalico.org/";
const SUFFIXES_OF_ONE_POD: [&str; 2] = [".kubernetes.io/allocated", ".kubernetes.io/routed"];

pub(crate) fn of(pod: &Value, name: &str, node: Option<&str>) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), name.into());
    if let Some(namespace) = text_at(pod, "/metadata/namespace") {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    let labels = kept(pod, "labels", |key| !LABELS_OF_ONE_POD.contains(&key));
    metadata.insert("labels".to_owned(), labels.into());
    let mut annotations = kept(pod, "annotations", |key| !is_of_one_pod(key));
    // The name of a KubeVirt object, which there is not: that of the one pod that is its outcome.
    annotations.insert(JOB.to_owned(), json!(name));
    for (key, pointer) in [
        (MIGRATED_FROM, "/metadata/name"),
        (MIGRATED_FROM_UID, "/metadata/uid"),
    ] {
        let value = text_at(pod, pointer).unwrap_or_default();
        annotations.insert(key.to_owned(), json!(value));
    }
    if let Some(node) = node {
        annotations.insert(REQUESTED_NODE.to_owned(), json!(node));
    }
    metadata.insert("annotations".to_owned(), annotations.into());
    metadata.into()
}

fn is_of_one_pod(key: &str) -> bool {
    ANNOTATIONS_OF_ONE_POD.contains(&key)
        || key.starts_with(PREFIX_OF_ONE_POD)
        || SUFFIXES_OF_ONE_POD.iter().any(|suffix| key.ends_with(suffix))
}

fn kept(pod: &Value, field: &str, keep: impl Fn(&str) -> bool) -> Map<String, Value> {
    let written = pod.get("metadata").and_then(|metadata| metadata.get(field));
    written
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(key, _)| keep(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The label by which all pods of a guest are found, as a selector.
pub fn guest_selector(guest: &str) -> String {
    format!(
        "{}={}",
        crate::metadata::NAME_LABEL,
        names::bounded(guest, names::LABEL_MAX)
    )
}
