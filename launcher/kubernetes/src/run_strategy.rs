//! `restartPolicy` of the pod: whether the guest starts again after it has ended.

use hawser_manifest::{FieldPath, Kind, Report, quoted};
use serde_json::Value;

use crate::source::{Source, written};

/// As KubeVirt's run strategies; an instance by itself ends with its guest.
pub(crate) fn restart_policy(source: &Source<'_>, report: &mut Report) -> &'static str {
    let spec = match source.owner {
        Kind::Instance => return "Never",
        Kind::ReplicaSet => return "Always",
        Kind::VirtualMachine => source.manifest.get("spec"),
        Kind::Pool => source.manifest.pointer("/spec/virtualMachineTemplate/spec"),
    };
    let path = FieldPath::of(match source.owner {
        Kind::Pool => "spec.virtualMachineTemplate.spec",
        _ => "spec",
    });
    let not_running = "the guest is started as soon as the pod is applied, as by virtctl start";
    if let Some(running) = written(spec, "running") {
        match running {
            Value::Bool(true) => {}
            Value::Bool(false) => note(report, path.key("running"), not_running),
            _ => refuse(report, path.key("running"), "expected true or false"),
        }
        return "Always";
    }
    let Some(strategy) = written(spec, "runStrategy") else {
        return "Always";
    };
    let path = path.key("runStrategy");
    match strategy.as_str() {
        Some("Always") => "Always",
        Some("RerunOnFailure") => "OnFailure",
        Some("Once") => "Never",
        Some("Halted") => {
            note(report, path, not_running);
            "Always"
        }
        Some("Manual") => {
            note(report, path, not_running);
            "Never"
        }
        other => {
            let found = other.map_or_else(|| strategy.to_string(), quoted);
            let message = format!("expected Always, RerunOnFailure, Once, Manual or Halted, found {found}");
            refuse(report, path, &message);
            "Never"
        }
    }
}

/// These fields stand in the owner, not in the instance that the report is about.
fn note(report: &mut Report, path: FieldPath, message: &str) {
    report.note_owner(path, message);
}

fn refuse(report: &mut Report, path: FieldPath, message: &str) {
    report.refuse_owner(path, message);
}
