//! The kinds that make VirtualMachineInstances from a template, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::wire::{ApiVersion, Metadata, Spec, wire};

wire! {
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

wire! {
    VirtualMachineSpec {
        #[schemars(required)] template: Option<Template>,
    } accepted {
        // Whether and when the cluster has an instance; this is one.
        running, run_strategy,
        // The volumes that are made from these are the pod's by now.
        data_volume_templates, update_volumes_strategy,
    }
}

wire! {
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

wire! {
    ReplicaSetSpec {
        #[schemars(required)] template: Option<Template>,
    } accepted { replicas, selector, paused, }
}

wire! {
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

wire! {
    PoolSpec {
        #[schemars(required)] virtual_machine_template: Option<MachineTemplate>,
    } accepted {
        // How many machines there are, which are the pool's, and how they are renewed.
        replicas, selector, paused, max_unavailable, name_generation, update_strategy, scale_in_strategy, autohealing,
    }
}

wire! {
    MachineTemplate {
        #[schemars(required)] spec: Option<VirtualMachineSpec>,
    } accepted { metadata, }
}

wire! {
    Template {
        #[serde(default)] metadata: TemplateMetadata,
        #[schemars(required)] spec: Option<Spec>,
    } accepted {}
}

wire! {
    /// The name is the owner's.
    TemplateMetadata {
        #[serde(default)] annotations: BTreeMap<String, String>,
    } accepted { labels, creation_timestamp, name, namespace, }
}
