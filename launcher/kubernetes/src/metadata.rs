//! Labels and annotations of the pod: the manifest's, those that others read, and hawser's own.

use hawser_manifest::{FieldPath, Kind, Report};
use serde_json::{Map, Value, json};

use crate::names;
use crate::networks;
use crate::source::Source;

/// KubeVirt's label by which NetworkPolicies and network plugins find a guest's pods.
pub(crate) const NAME_LABEL: &str = "vm.kubevirt.io/name";
/// The guests of one headless Service.
pub(crate) const SUBDOMAIN_LABEL: &str = "hawser.dev/subdomain";
/// `kubectl exec` and `kubectl logs` go to this container.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Istio sends what leaves these devices through its proxy; the first name is Istio's until 1.24, the second the one since.
const ISTIO_DEVICES: [&str; 2] = [
    "traffic.sidecar.istio.io/kubevirtInterfaces",
    "istio.io/reroute-virtual-interfaces",
];

/// What tools have written into an object of their own to find it again. A pod with these would be theirs to delete.
const TOOLS_ANNOTATIONS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "argocd.argoproj.io/tracking-id",
    "kubevirt.io/latest-observed-api-version",
    "kubevirt.io/storage-observed-api-version",
];
const TOOLS_LABELS: &[&str] = &[
    "app.kubernetes.io/instance",
    "argocd.argoproj.io/instance",
    "kustomize.toolkit.fluxcd.io/name",
    "kustomize.toolkit.fluxcd.io/namespace",
    "helm.toolkit.fluxcd.io/name",
    "helm.toolkit.fluxcd.io/namespace",
];

/// `apiVersion`, `kind` and `metadata` of an object; the labels are those by which all of a guest's objects are found.
pub(crate) fn object(source: &Source<'_>, api_version: &str, kind: &str, name: &str) -> Map<String, Value> {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), name.into());
    if let Some(namespace) = source.namespace() {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    metadata.insert("labels".to_owned(), own_labels(&source.guest.name).into());
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    object.insert("metadata".to_owned(), metadata.into());
    object
}

/// Those that every object of the guest has.
pub(crate) fn own_labels(name: &str) -> Map<String, Value> {
    [
        (NAME_LABEL.to_owned(), name_label(name).into()),
        ("app.kubernetes.io/managed-by".to_owned(), json!("hawser")),
    ]
    .into_iter()
    .collect()
}

/// The value of [`NAME_LABEL`].
pub(crate) fn name_label(name: &str) -> String {
    names::bounded(name, names::LABEL_MAX)
}

/// The pod's labels.
pub(crate) fn labels(source: &Source<'_>) -> Map<String, Value> {
    let mut labels: Map<String, Value> = source
        .metadata("labels")
        .filter(|(name, _)| source.owner != Kind::Instance || !TOOLS_LABELS.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    labels.extend(own_labels(&source.guest.name));
    if let Some(subdomain) = &source.guest.subdomain {
        labels.insert(
            SUBDOMAIN_LABEL.to_owned(),
            names::bounded(subdomain, names::LABEL_MAX).into(),
        );
    }
    labels
}

/// The pod's annotations.
pub(crate) fn annotations(source: &Source<'_>, report: &mut Report) -> Map<String, Value> {
    let mut annotations: Map<String, Value> = source
        .metadata("annotations")
        .filter(|(name, _)| !TOOLS_ANNOTATIONS.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut own = networks::annotations(source);
    let taps = &source.facts.masqueraded_taps;
    if source.guest.istio && !taps.is_empty() {
        for name in ISTIO_DEVICES {
            own.insert(name.to_owned(), taps.join(",").into());
        }
    }
    own.insert(DEFAULT_CONTAINER.to_owned(), json!(names::GUEST));
    for (name, value) in own {
        if annotations.get(&name).is_some_and(|written| *written != value) {
            let path = FieldPath::of("metadata.annotations").key(&name);
            report.refuse(
                path,
                format!("the pod needs this annotation with the value {value}: leave it out"),
            );
        }
        annotations.insert(name, value);
    }
    annotations
}
