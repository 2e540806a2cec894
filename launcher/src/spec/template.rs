//! Manifests that make VirtualMachineInstances: the instance in them is taken out, under its owner's name.
//!
//! The structural check runs on the manifest as it was written; what comes after it sees an instance only, and its
//! [`Report`](super::report::Report) puts the paths back to where they stand in the manifest.

use serde_json::{Map, Value, json};

use super::report::{FieldPath, Report};

/// What a manifest is, by its `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Instance,
    VirtualMachine,
    ReplicaSet,
    Pool,
}

impl Kind {
    /// A manifest without a kind is held against the instance's schema, which asks for one.
    pub(crate) fn of(raw: &Value) -> Option<Self> {
        match raw.get("kind").and_then(Value::as_str) {
            Some("VirtualMachineInstance") | None => Some(Self::Instance),
            Some("VirtualMachine") => Some(Self::VirtualMachine),
            Some("VirtualMachineInstanceReplicaSet") => Some(Self::ReplicaSet),
            Some("VirtualMachinePool") => Some(Self::Pool),
            Some(_) => None,
        }
    }

    /// Says what is made of it, and sees to it that refusals name the places of this kind's manifests.
    pub(crate) fn announce(self, report: &mut Report) {
        let note = match self {
            Self::Instance => return,
            Self::VirtualMachine => {
                "a VirtualMachine: its template is run, whether or not it is to be running"
            }
            Self::ReplicaSet => {
                "a replica set: one instance of its template is run, under the set's own name"
            }
            Self::Pool => "a pool: one machine of its template is run, under the pool's own name",
        };
        report.note(FieldPath::of("kind"), note);
        report.enter_template(match self {
            Self::Pool => "spec.virtualMachineTemplate.spec.template",
            _ => "spec.template",
        });
    }

    /// The instance in a manifest. Absent parts are left for the instance's own checks to miss.
    pub(crate) fn instance(self, manifest: &Value) -> Value {
        if self == Self::Instance {
            return manifest.clone();
        }
        let of = |pointer: &str| manifest.pointer(pointer).filter(|value| !value.is_null());
        let mut metadata = Map::new();
        for field in ["name", "namespace"] {
            metadata.extend(of(&format!("/metadata/{field}")).map(|value| (field.to_owned(), value.clone())));
        }
        let template = match self {
            Self::Pool => "/spec/virtualMachineTemplate/spec/template",
            _ => "/spec/template",
        };
        let annotations = of(&format!("{template}/metadata/annotations"));
        metadata.extend(annotations.map(|value| ("annotations".to_owned(), value.clone())));
        let mut instance = Map::new();
        instance.insert("metadata".to_owned(), json!(metadata));
        instance.extend(of(&format!("{template}/spec")).map(|spec| ("spec".to_owned(), spec.clone())));
        Value::Object(instance)
    }
}
