//! Manifests that make VirtualMachineInstances: the instance in them is taken out, under its owner's name.
//!
//! The structural check runs on the manifest as it was written; what comes after it sees an instance only, and its
//! [`Report`] puts the paths back to where they stand in the manifest.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ApiVersion, Metadata, Spec};
use crate::document::fields::fields;
use crate::document::report::{FieldPath, Report};

/// What a manifest is, by its `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A VirtualMachineInstance.
    Instance,
    VirtualMachine,
    /// A VirtualMachineInstanceReplicaSet.
    ReplicaSet,
    /// A VirtualMachinePool.
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
        if let Some(place) = self.template() {
            report.enter_template(place);
        }
    }

    /// Where the instance is in the manifest, if it is not the manifest itself.
    pub(crate) fn template(self) -> Option<&'static str> {
        match self {
            Self::Instance => None,
            Self::VirtualMachine | Self::ReplicaSet => Some("spec.template"),
            Self::Pool => Some("spec.virtualMachineTemplate.spec.template"),
        }
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
        for field in ["labels", "annotations"] {
            let written = of(&format!("{template}/metadata/{field}"));
            metadata.extend(written.map(|value| (field.to_owned(), value.clone())));
        }
        let mut instance = Map::new();
        instance.insert("metadata".to_owned(), json!(metadata));
        instance.extend(of(&format!("{template}/spec")).map(|spec| ("spec".to_owned(), spec.clone())));
        Value::Object(instance)
    }
}

fields! {
    /// A KubeVirt VirtualMachine: hawser runs the instance that its template describes.
    VirtualMachine {
        #[schemars(required)] api_version: Option<ApiVersion>,
        #[schemars(required)] kind: Option<VirtualMachineKind>,
        #[schemars(required)] metadata: Option<Metadata>,
        #[schemars(required)] spec: Option<VirtualMachineSpec>,
    } accepted { status, }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum VirtualMachineKind {
    VirtualMachine,
}

fields! {
    VirtualMachineSpec {
        #[schemars(required)] template: Option<Template>,
    } accepted {
        // Whether and when the cluster has an instance; this is one.
        running, run_strategy,
        // The volumes that are made from these are the pod's by now.
        data_volume_templates, update_volumes_strategy,
    }
}

fields! {
    /// A KubeVirt VirtualMachineInstanceReplicaSet: hawser runs one instance of its template.
    VirtualMachineInstanceReplicaSet {
        #[schemars(required)] api_version: Option<ApiVersion>,
        #[schemars(required)] kind: Option<ReplicaSetKind>,
        #[schemars(required)] metadata: Option<Metadata>,
        #[schemars(required)] spec: Option<ReplicaSetSpec>,
    } accepted { status, }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum ReplicaSetKind {
    VirtualMachineInstanceReplicaSet,
}

fields! {
    ReplicaSetSpec {
        #[schemars(required)] template: Option<Template>,
    } accepted { replicas, selector, paused, }
}

fields! {
    /// A KubeVirt VirtualMachinePool: hawser runs one instance of its machines' template.
    VirtualMachinePool {
        #[schemars(required)] api_version: Option<PoolVersion>,
        #[schemars(required)] kind: Option<PoolKind>,
        #[schemars(required)] metadata: Option<Metadata>,
        #[schemars(required)] spec: Option<PoolSpec>,
    } accepted { status, }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum PoolVersion {
    #[serde(rename = "pool.kubevirt.io/v1beta1")]
    V1Beta1,
    #[serde(rename = "pool.kubevirt.io/v1alpha1")]
    V1Alpha1,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum PoolKind {
    VirtualMachinePool,
}

fields! {
    PoolSpec {
        #[schemars(required)] virtual_machine_template: Option<MachineTemplate>,
    } accepted {
        // How many machines there are, which are the pool's, and how they are renewed.
        replicas, selector, paused, max_unavailable, name_generation, update_strategy, scale_in_strategy, autohealing,
    }
}

fields! {
    MachineTemplate {
        #[schemars(required)] spec: Option<VirtualMachineSpec>,
    } accepted { metadata, }
}

fields! {
    Template {
        #[serde(default)] metadata: TemplateMetadata,
        #[schemars(required)] spec: Option<Spec>,
    } accepted {}
}

fields! {
    /// The name is the owner's.
    TemplateMetadata {
        #[serde(default)] labels: BTreeMap<String, String>,
        #[serde(default)] annotations: BTreeMap<String, String>,
    } accepted { creation_timestamp, name, namespace, }
}
