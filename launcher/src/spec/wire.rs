//! The manifest as written: what hawser accepts of the `kubevirt.io/v1` VirtualMachineInstance.
//!
//! These types are the one list of what is accepted. The JSON Schema is made from them, the structural check
//! (`check`) holds manifests against that schema, and only what passed is read into them. Names and meanings are
//! those of KubeVirt's API reference.
//!
//! Every field is optional for serde, also those that the schema requires: the check has reported a missing or
//! a malformed one already, and what remains is looked through all the same.
//!
//! A field of the type [`Accepted`] is accepted by name with any value: it is for the scheduler, the kubelet or
//! the API server, and cannot change what runs in this pod.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::wire_devices::{Filesystem, HostDevice, Status, Tpm};
use super::wire_machine::{Clock, Features, Hugepages};
use super::wire_net::{Interface, Network, ResourceClaim};
use super::wire_storage::{Bootloader, Disks, Volumes};

/// A field whose value cannot matter here.
#[derive(Debug, Default)]
pub(crate) struct Accepted;

impl<'de> Deserialize<'de> for Accepted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl JsonSchema for Accepted {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Accepted".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        true.into()
    }
}

/// A list whose malformed items were taken out by the check; the others keep their index.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct List<T>(Vec<Option<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> List<T> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0
            .iter()
            .enumerate()
            .filter_map(|(index, item)| item.as_ref().map(|item| (index, item)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("List_{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": generator.subschema_for::<T>() })
    }
}

/// A Kubernetes quantity; YAML lets it be written as a number too.
#[derive(Debug)]
pub(crate) struct Quantity(pub(crate) String);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self(text)),
            other => Ok(Self(other.to_string())),
        }
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number"] })
    }
}

/// A boolean that may only be false, for a device that hawser has not got.
#[derive(Debug, Default)]
pub(crate) struct Off;

impl<'de> Deserialize<'de> for Off {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bool::deserialize(deserializer).map(|_| Self)
    }
}

impl JsonSchema for Off {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Off".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean", "enum": [false] })
    }
}

/// A boolean that may only be true, for what every guest here has.
#[derive(Debug, Default)]
pub(crate) struct On;

impl<'de> Deserialize<'de> for On {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bool::deserialize(deserializer).map(|_| Self)
    }
}

impl JsonSchema for On {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "On".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean", "enum": [true] })
    }
}

/// An object that has no fields of its own, such as `masquerade: {}`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Empty {}

/// Defines a wire type. Fields behind `accepted` are accepted by name; nothing ever reads them.
macro_rules! wire {
    ($(#[$meta:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $type:ty,)* } accepted { $($ignored:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        #[allow(dead_code, reason = "accepted fields are there to be named, not to be read")]
        pub(crate) struct $name {
            $($(#[$attr])* pub(crate) $field: $type,)*
            $(#[serde(default)] $ignored: $crate::spec::wire::Accepted,)*
        }
    };
}
pub(crate) use wire;

wire! {
    /// A KubeVirt VirtualMachineInstance, as far as hawser runs it.
    VirtualMachineInstance {
        #[schemars(required)] api_version: Option<ApiVersion>,
        #[schemars(required)] kind: Option<Kind>,
        #[schemars(required)] metadata: Option<Metadata>,
        #[schemars(required)] spec: Option<Spec>,
        status: Option<Status>,
    } accepted {}
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum ApiVersion {
    #[serde(rename = "kubevirt.io/v1")]
    V1,
    // KubeVirt serves the same types under this older name.
    #[serde(rename = "kubevirt.io/v1alpha3")]
    V1Alpha3,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum Kind {
    VirtualMachineInstance,
}

wire! {
    Metadata {
        #[schemars(required)] name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        #[serde(default)] annotations: BTreeMap<String, String>,
    } accepted {
        labels, generate_name, creation_timestamp, deletion_timestamp, deletion_grace_period_seconds,
        owner_references, managed_fields, finalizers, generation, resource_version, self_link,
    }
}

wire! {
    Spec {
        #[schemars(required)] domain: Option<Domain>,
        #[serde(default)] networks: List<Network>,
        #[serde(default)] resource_claims: List<ResourceClaim>,
        #[serde(default)] volumes: Volumes,
        hostname: Option<String>,
        subdomain: Option<String>,
        termination_grace_period_seconds: Option<i64>,
        architecture: Option<Architecture>,
        readiness_probe: Option<Probe>,
        liveness_probe: Option<Probe>,
    } accepted {
        // Where the pod runs, and as whom: decided before this program starts. DNS settings reach it as the
        // pod's resolv.conf.
        node_selector, affinity, tolerations, topology_spread_constraints, scheduler_name, priority_class_name,
        service_account_name, dns_policy, dns_config,
        // What the cluster does with the pod on a drain.
        eviction_strategy,
    }
}

/// cloud-hypervisor's guests have the machine's own architecture.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Architecture {
    Amd64,
}

wire! {
    /// The kubelet asks the guest's ports through the pod's address. Probes that run inside the guest (`exec`,
    /// `guestAgentPing`) need an agent and are not accepted.
    Probe {} accepted {
        tcp_socket, http_get, initial_delay_seconds, timeout_seconds, period_seconds, success_threshold,
        failure_threshold,
    }
}

wire! {
    Domain {
        cpu: Option<Cpu>,
        memory: Option<Memory>,
        #[serde(default)] resources: Resources,
        firmware: Option<Firmware>,
        #[serde(default)] devices: Devices,
        features: Option<Features>,
        clock: Option<Clock>,
    } accepted {}
}

wire! {
    Cpu {
        sockets: Option<u32>,
        cores: Option<u32>,
        threads: Option<u32>,
        model: Option<CpuModel>,
    } accepted {}
}

/// cloud-hypervisor passes the host's CPU on, so both names mean the same.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CpuModel {
    HostPassthrough,
    HostModel,
}

wire! {
    Memory {
        guest: Option<Quantity>,
        hugepages: Option<Hugepages>,
    } accepted {}
}

wire! {
    /// Only `cpu` and `memory` say anything about the guest; other resources are the scheduler's.
    Resources {
        #[serde(default)] requests: BTreeMap<String, Quantity>,
        #[serde(default)] limits: BTreeMap<String, Quantity>,
    } accepted { overcommit_guest_overhead, }
}

wire! {
    Firmware {
        uuid: Option<String>,
        serial: Option<String>,
        kernel_boot: Option<KernelBoot>,
        bootloader: Option<Bootloader>,
    } accepted {}
}

wire! {
    KernelBoot {
        kernel_args: Option<String>,
        #[schemars(required)] container: Option<KernelBootContainer>,
    } accepted {}
}

wire! {
    /// The pod has pulled and mounted the image already.
    KernelBootContainer {
        #[schemars(required)] image: Option<String>,
        kernel_path: Option<String>,
        initrd_path: Option<String>,
    } accepted { image_pull_policy, image_pull_secret, }
}

wire! {
    Devices {
        #[serde(default)] interfaces: List<Interface>,
        #[serde(default)] disks: Disks,
        block_multi_queue: Option<bool>,
        #[serde(rename = "networkInterfaceMultiqueue")] network_interface_multiqueue: Option<bool>,
        autoattach_pod_interface: Option<bool>,
        autoattach_graphics_device: Option<Off>,
        autoattach_input_device: Option<Off>,
        #[serde(rename = "autoattachVSOCK")] autoattach_vsock: Option<bool>,
        #[serde(default)] gpus: List<HostDevice>,
        #[serde(default)] host_devices: List<HostDevice>,
        #[serde(default)] filesystems: List<Filesystem>,
        tpm: Option<Tpm>,
        use_virtio_transitional: Option<Off>,
    } accepted {
        // A cloud-hypervisor guest always has an entropy device and a serial console, whose log goes to stdout.
        rng, autoattach_serial_console, log_serial_console,
        // The balloon is KubeVirt's source of statistics; nothing in the guest depends on it.
        autoattach_mem_balloon,
        // Nothing is plugged at run time yet.
        disable_hotplug,
    }
}
