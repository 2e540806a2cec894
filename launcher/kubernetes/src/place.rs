//! Where a target may be: not on its source's node, and on the node that was asked for.
//!
//! The node is a term of the affinity by the field `metadata.name`: the scheduler heeds it together with everything else, where
//! `spec.nodeName` would pass it by, and a node's label with its host name need not be its name.

use hawser_manifest::{FieldPath, Report};
use serde_json::{Map, Value, json};

use crate::metadata::NAME_LABEL;
use crate::migration::{apart, below};
use crate::target_metadata::REQUESTED_NODE;

const FIELD: &str = "metadata.name";

pub(crate) fn place(pod: &Value, spec: &mut Map<String, Value>, node: Option<&str>, report: &mut Report) {
    let label = pod
        .pointer("/metadata/labels")
        .and_then(|labels| labels.get(NAME_LABEL));
    let affinity = spec.entry("affinity").or_insert_with(|| json!({}));
    let annotations = pod.pointer("/metadata/annotations");
    let before = annotations.and_then(|annotations| annotations.get(REQUESTED_NODE));
    if let Some(before) = before {
        forget(affinity, before);
    }
    let done = apart(affinity, label.unwrap_or(&Value::Null)).is_some()
        && node.is_none_or(|node| only_on(affinity, node).is_some());
    if !done {
        report.refuse(FieldPath::of("spec.affinity"), "expected the affinity of a pod");
    }
}

/// Takes out the node that this pod itself was sent to.
fn forget(affinity: &mut Value, node: &Value) -> Option<()> {
    let required = affinity
        .get_mut("nodeAffinity")?
        .get_mut("requiredDuringSchedulingIgnoredDuringExecution")?;
    let own = requirement(node);
    let terms = required.get_mut("nodeSelectorTerms")?.as_array_mut()?;
    for term in terms.iter_mut() {
        let fields = term.get_mut("matchFields").and_then(Value::as_array_mut);
        let Some(fields) = fields else { continue };
        fields.retain(|field| *field != own);
        if fields.is_empty() {
            term.as_object_mut()?.shift_remove("matchFields");
        }
    }
    terms.retain(|term| term.as_object().is_none_or(|term| !term.is_empty()));
    if terms.is_empty() {
        let affinity = affinity.get_mut("nodeAffinity")?.as_object_mut()?;
        affinity.shift_remove("requiredDuringSchedulingIgnoredDuringExecution");
    }
    Some(())
}

/// Terms are alternatives: each of them has the node.
fn only_on(affinity: &mut Value, node: &str) -> Option<()> {
    let nodes = below(affinity, "nodeAffinity", json!({}))?;
    let required = below(nodes, "requiredDuringSchedulingIgnoredDuringExecution", json!({}))?;
    let terms = below(required, "nodeSelectorTerms", json!([]))?.as_array_mut()?;
    if terms.is_empty() {
        terms.push(json!({}));
    }
    for term in terms {
        below(term, "matchFields", json!([]))?
            .as_array_mut()?
            .push(requirement(&json!(node)));
    }
    Some(())
}

fn requirement(node: &Value) -> Value {
    json!({"key": FIELD, "operator": "In", "values": [node]})
}
