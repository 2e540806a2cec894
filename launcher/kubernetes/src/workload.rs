//! What stands over the pod: nothing, a StatefulSet, or a Deployment.

use hawser_manifest::{FieldPath, Kind, Report};
use serde_json::{Value, json};

use crate::metadata::{self, NAME_LABEL, name_label};
use crate::migration;
use crate::options::Workload;
use crate::pod::Template;
use crate::source::Source;
use crate::volumes::Volumes;

/// The controller adds a dash and a hash of ten characters to the name, in a label.
const STATEFUL_SET_NAME_MAX: usize = 52;

/// The object for a pod with this `metadata` and `spec`.
pub(crate) fn wrap(source: &Source<'_>, pod: Template, volumes: &Volumes, report: &mut Report) -> Value {
    migration::check_workload(source, report);
    let name = match source.options.workload {
        Workload::Pod => migration::pod_name(source),
        _ => source.guest.name.as_str(),
    };
    let (api_version, kind) = match source.options.workload {
        Workload::Pod => ("v1", "Pod"),
        Workload::StatefulSet => ("apps/v1", "StatefulSet"),
        Workload::Deployment => ("apps/v1", "Deployment"),
    };
    let mut object = metadata::object(source, api_version, kind, name);
    let selector = json!({"matchLabels": {NAME_LABEL: name_label(name)}});
    match source.options.workload {
        Workload::Pod => {
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                metadata.insert("labels".to_owned(), pod.labels.into());
                metadata.insert("annotations".to_owned(), pod.annotations.into());
            }
            object.insert("spec".to_owned(), pod.spec.into());
        }
        Workload::StatefulSet => {
            if name.len() > STATEFUL_SET_NAME_MAX {
                report.refuse(
                    FieldPath::of("metadata.name"),
                    format!("a StatefulSet's name has at most {STATEFUL_SET_NAME_MAX} characters: the cluster adds to it"),
                );
            }
            if let Some(subdomain) = &source.guest.subdomain {
                report.note(
                    FieldPath::of("spec.hostname"),
                    format!("the cluster's DNS knows the guest as {name}-0.{subdomain}: a StatefulSet names its pods itself"),
                );
            }
            restarts(source, &pod, report);
            object.insert(
                "spec".to_owned(),
                json!({
                    "replicas": 1,
                    "serviceName": source.guest.subdomain.as_deref().unwrap_or(name),
                    "selector": selector,
                    "template": pod.object(),
                }),
            );
        }
        Workload::Deployment => {
            if let Some(path) = &volumes.written_claim {
                report.refuse(
                    path.clone(),
                    "not in a Deployment: when a node is lost, it makes a second pod while the first may still write \
                     this disk; use --kind statefulset",
                );
            }
            restarts(source, &pod, report);
            object.insert(
                "spec".to_owned(),
                json!({
                    "replicas": 1,
                    "selector": selector,
                    // Two at once would be two guests of one name.
                    "strategy": {"type": "Recreate"},
                    "template": pod.object(),
                }),
            );
        }
    }
    object.into()
}

/// Both controllers' pods always restart.
fn restarts(source: &Source<'_>, pod: &Template, report: &mut Report) {
    if pod.restart_policy == "Always" {
        return;
    }
    match source.owner {
        Kind::VirtualMachine | Kind::Pool => report.refuse_owner(
            FieldPath::of(match source.owner {
                Kind::Pool => "spec.virtualMachineTemplate.spec.runStrategy",
                _ => "spec.runStrategy",
            }),
            "a StatefulSet or a Deployment always starts the guest again: only with Always, or use --kind pod",
        ),
        Kind::Instance | Kind::ReplicaSet => report.refuse_owner(
            FieldPath::of("kind"),
            "an instance ends with its guest, and a StatefulSet or a Deployment would start it again: use --kind pod, or \
             write a VirtualMachine with runStrategy: Always",
        ),
    }
}
