//! What a pod has for a live migration: certificates, and a target its own name and place.

use hawser_manifest::{FieldPath, Report, pod_ports, quoted};
use serde_json::{Map, Value, json};

use crate::metadata::{self, NAME_LABEL, name_label};
use crate::names;
use crate::options::Workload;
use crate::source::Source;
use crate::volumes::own_name;

const VOLUME: &str = "tls";
/// Where the guest's container has the certificates.
pub(crate) const MOUNT: &str = "/etc/hawser-tls";
/// What `run` has at a target in addition.
pub(crate) const INCOMING: [&str; 3] = ["--incoming", "--tls-dir", MOUNT];
/// Keys of a Secret of the type `kubernetes.io/tls`, and hawser's names for them. The certificate serves for both sides.
const FILES: [(&str, &str); 5] = [
    ("ca.crt", "ca-cert.pem"),
    ("tls.crt", "client-cert.pem"),
    ("tls.key", "client-key.pem"),
    ("tls.crt", "server-cert.pem"),
    ("tls.key", "server-key.pem"),
];
/// For its owner and its group, which is the pod's `fsGroup`. It has a private key.
const MODE: u32 = 0o440;
/// A node, as the scheduler tells them apart.
const NODE: &str = "kubernetes.io/hostname";

/// Whether a target can be what it is asked to be.
pub(crate) fn check(source: &Source<'_>, report: &mut Report) {
    let guest = source.guest;
    if source.options.tls_secret.is_some() {
        report.note_owner(
            FieldPath::of("--tls-secret"),
            format!(
                "the certificate has to be for {}.{}.vmi, and good for clients and servers",
                guest.name,
                source.namespace().unwrap_or(&guest.namespace)
            ),
        );
    }
    let Some(target) = &source.options.target else {
        return;
    };
    let path = || FieldPath::of("--target");
    if *target == guest.name {
        report.refuse_owner(
            path(),
            format!(
                "{} is the pod that the guest comes from: the target needs another name",
                quoted(target)
            ),
        );
    }
    if source.options.tls_secret.is_none() {
        report.refuse_owner(path(), "a target needs certificates: add --tls-secret");
    }
    if let Some(why) = &source.facts.migration_obstacle {
        report.refuse_owner(path(), format!("the guest cannot migrate: {why}"));
    }
}

/// A controller would make a second pod of its own.
pub(crate) fn check_workload(source: &Source<'_>, report: &mut Report) {
    if source.options.target.is_some() && source.options.workload != Workload::Pod {
        report.refuse_owner(
            FieldPath::of("--target"),
            "a target is a pod by itself: only with --kind pod",
        );
    }
}

/// Source and target are pods of one namespace, so the target has a name of its own.
pub(crate) fn pod_name<'a>(source: &Source<'a>) -> &'a str {
    source.options.target.as_deref().unwrap_or(&source.guest.name)
}

/// A target that ended is started by nobody: where its container started again, it would wait for a guest that has been here.
pub(crate) fn restart_policy(source: &Source<'_>, policy: &'static str, report: &mut Report) -> &'static str {
    if source.options.target.is_none() || policy == "Never" {
        return policy;
    }
    report.note_owner(
        FieldPath::of("--target"),
        format!("the pod is not started again when its guest ends: Never in place of {policy}"),
    );
    "Never"
}

/// What `run` has in addition.
pub(crate) fn arguments(source: &Source<'_>) -> Vec<Value> {
    match source.options.target {
        Some(_) => INCOMING.map(Value::from).to_vec(),
        None => Vec::new(),
    }
}

/// Lets the guest's own pods reach the port of a target, where a namespace lets nobody in otherwise.
pub(crate) fn policy(source: &Source<'_>, report: &mut Report) -> Option<Value> {
    if !source.options.network_policy {
        return None;
    }
    report.note_owner(
        FieldPath::of("--network-policy"),
        "a pod that a NetworkPolicy selects can be reached by nobody whom no policy lets in: the guest's own ports need another one",
    );
    let name = names::with_suffix(&source.guest.name, "migration", names::NAME_MAX);
    let pods = json!({"matchLabels": {NAME_LABEL: name_label(&source.guest.name)}});
    let mut object = metadata::object(source, "networking.k8s.io/v1", "NetworkPolicy", &name);
    object.insert(
        "spec".to_owned(),
        json!({
            "podSelector": pods,
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": pods}],
                "ports": [{"protocol": "TCP", "port": pod_ports::MIGRATION}],
            }],
        }),
    );
    Some(object.into())
}

pub(crate) fn volume(source: &Source<'_>) -> Option<Value> {
    let secret = source.options.tls_secret.as_ref()?;
    let items = FILES.map(|(key, path)| json!({"key": key, "path": path}));
    Some(json!({
        "name": own_name(VOLUME),
        "secret": {"secretName": secret, "defaultMode": MODE, "items": items},
    }))
}

pub(crate) fn mount(source: &Source<'_>) -> Option<Value> {
    source.options.tls_secret.as_ref()?;
    Some(json!({"name": own_name(VOLUME), "mountPath": MOUNT, "readOnly": true}))
}

/// Keeps a target off the nodes with another pod of the guest that has not ended.
pub(crate) fn keep_apart(source: &Source<'_>, spec: &mut Map<String, Value>, report: &mut Report) {
    if source.options.target.is_none() {
        return;
    }
    let affinity = spec.entry("affinity").or_insert_with(|| json!({}));
    if apart(affinity, &json!(name_label(&source.guest.name))).is_none() {
        report.refuse(
            FieldPath::of("spec.affinity.podAntiAffinity"),
            "expected an object, with requiredDuringSchedulingIgnoredDuringExecution a list",
        );
    }
}

/// No node with another pod that has this label; once, however often it is asked for.
pub(crate) fn apart(affinity: &mut Value, label: &Value) -> Option<()> {
    let term = json!({
        "labelSelector": {"matchLabels": {NAME_LABEL: label}},
        "topologyKey": NODE,
    });
    let pods = below(affinity, "podAntiAffinity", json!({}))?;
    let terms = below(pods, "requiredDuringSchedulingIgnoredDuringExecution", json!([]))?.as_array_mut()?;
    if !terms.contains(&term) {
        terms.push(term);
    }
    Some(())
}

/// The field of an object, made where there is none.
pub(crate) fn below<'a>(object: &'a mut Value, field: &str, default: Value) -> Option<&'a mut Value> {
    let value = object.as_object_mut()?.entry(field).or_insert(Value::Null);
    if value.is_null() {
        *value = default;
    }
    Some(value)
}
