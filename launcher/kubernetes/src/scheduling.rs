//! Where the pod runs, by which name and with which DNS: fields of the manifest that Kubernetes has too.

use hawser_manifest::Report;
use serde_json::{Map, Value, json};

use crate::migration;
use crate::source::{Shape, Source};

/// Fields that the pod has under the same name, as they are written.
const PASSED_ON: &[(&str, Shape)] = &[
    ("affinity", Shape::Object),
    ("tolerations", Shape::List),
    ("topologySpreadConstraints", Shape::List),
    ("schedulerName", Shape::Text),
    ("priorityClassName", Shape::Text),
    ("dnsPolicy", Shape::Text),
    ("dnsConfig", Shape::Object),
];

/// Nodes of another kind cannot run the image.
const NODES: [(&str, &str); 2] = [("kubernetes.io/arch", "amd64"), ("kubernetes.io/os", "linux")];

pub(crate) fn fields(source: &Source<'_>, report: &mut Report) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("nodeSelector".to_owned(), node_selector(source, report).into());
    for (field, shape) in PASSED_ON {
        if let Some(value) = source.passed_on(field, *shape, report) {
            fields.insert((*field).to_owned(), value.clone());
        }
    }
    migration::keep_apart(source, &mut fields, report);
    fields
}

fn node_selector(source: &Source<'_>, report: &mut Report) -> Map<String, Value> {
    let written = source.passed_on("nodeSelector", Shape::Strings, report);
    let mut selector = written.and_then(Value::as_object).cloned().unwrap_or_default();
    for (label, value) in NODES {
        selector.entry(label).or_insert_with(|| json!(value));
    }
    selector
}
