//! From the manifest as written to a validated [`GuestSpec`].
//!
//! 1. `input` reads YAML or JSON into a tree of values, with bounded time and memory.
//! 2. `check` holds the tree against the JSON Schema that is made from the wire types, and takes out what does
//!    not fit, so that the rest can go on.
//! 3. The tree is read into the wire types (`wire` and its siblings), which cannot fail any more.
//! 4. `template` takes the instance out of the kinds that have one as their template.
//! 5. `support` notes and refuses, by one table, the fields that hawser does not simply obey.
//! 6. `resolve`, `interfaces`, `networks`, `ports`, `disks`, `volumes`, `devices`, `cloud_init` and `firmware` fill in defaults
//!    and apply KubeVirt's rules.
//!
//! Manifests are read once, before anything in the pod is touched, and every refusal of all these steps is
//! reported in one go, by field path and in the order of the document.

mod document;
mod guest;
pub mod plugins;
pub mod pod_ports;
pub mod policy;
mod resolve;
mod support;
#[cfg(test)]
mod tests;
mod v1;

pub use document::input::{MAX_BYTES, ParseError, parse};
pub use document::quantity::parse as parse_quantity;
pub use document::report::{FieldPath, Note, Refusals, Report, quoted};
pub use guest::devices::{Filesystem, HostDevice, HostDeviceKind, HostDeviceSource, ReadyWhen, Vsock};
pub use guest::rates::{Rate, Rates};
pub use guest::storage::{
    CloudInit, CloudInitSource, Disk, PublicKeys, SeedData, Text, Volume, VolumeLabel, VolumeSource,
    network_data_volume,
};
pub use guest::{
    Binding, Claim, CpuTopology, DedicatedCpus, DhcpOptions, GuestSpec, Interface, KernelBoot, LinkState,
    Model, Network, NetworkSource, PciAddress, PortRange, Ports, Protocol, SerialConsole,
};
pub use hawser_mac::{Mac, NotAMac};
pub use plugins::{DomainAttachment, DownwardApi, Migration, MigrationMethod, Overhead, Plugin};
pub use support::without_fields_of_the_pod;
pub use v1::template::Kind;

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use document::check;
use v1::template;

use plugins::Registry;

/// A manifest that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub spec: GuestSpec,
    /// The VirtualMachineInstance as it was written, for those who are shown it.
    pub vmi: Value,
    /// The whole manifest as it was written: the instance itself, or what has it as its template.
    pub manifest: Value,
    /// What the user should know although nothing is refused, in the order of the document.
    pub warnings: Vec<Note>,
    /// The same of fields that the pod has to have, for whoever does not make the pod.
    pub of_the_pod: Vec<Note>,
}

impl Loaded {
    /// For those who look further into the manifest: paths of the instance become those of the manifest. To be finished
    /// with [`Loaded::manifest`].
    pub fn report(&self) -> Report {
        let mut report = Report::default();
        if let Some(place) = self.owner().template() {
            report.enter_template(place);
        }
        report
    }

    /// What kind of object the manifest is.
    pub fn owner(&self) -> Kind {
        Kind::of(&self.manifest).unwrap_or(Kind::Instance)
    }
}

/// Reads the manifest of a VirtualMachineInstance, or of something with a template of one, that names no binding
/// plugins; YAML or JSON.
pub fn load(text: &str) -> Result<Loaded, Refusals> {
    load_with(text, &Registry::default())
}

/// Reads such a manifest whose binding plugins are those of `registry`.
pub fn load_with(text: &str, registry: &Registry) -> Result<Loaded, Refusals> {
    let raw = parse(text).map_err(|error| Refusals::one("manifest", error))?;
    let Some(kind) = Kind::of(&raw) else {
        #[cfg(test)]
        tests::schema_agrees(&raw, false);
        return Err(other_kind(&raw));
    };
    let mut report = Report::default();
    let mut checked = raw.clone();
    check::check(&schema_of(kind), &mut checked, &mut report);
    #[cfg(test)]
    tests::schema_agrees(&raw, !report.has_refused());
    kind.announce(&mut report);
    support::instance(&kind.instance(&raw), &mut report);
    support::annotations(&kind.instance(&raw), &mut report);
    if kind != Kind::Instance {
        support::owner(&raw, &mut report);
    }
    let spec = match serde_json::from_value(kind.instance(&checked)) {
        Ok(vmi) => resolve::resolve(&vmi, &kind.instance(&raw), registry, &mut report),
        Err(error) => {
            // Unreachable as long as the check and the types agree; refused rather than trusted.
            report.refuse(FieldPath::of("manifest"), error.to_string());
            None
        }
    };
    let of_the_pod = report.take_notes_for_the_pod(&raw);
    let warnings = report.finish(&raw)?;
    match spec {
        Some(spec) => Ok(Loaded {
            spec,
            vmi: whole(kind.instance(&raw)),
            manifest: raw,
            warnings,
            of_the_pod,
        }),
        None => Err(Refusals::one("manifest", "incomplete")),
    }
}

/// With the apiVersion and the kind that a template leaves out.
fn whole(mut vmi: Value) -> Value {
    if let Value::Object(fields) = &mut vmi {
        for (field, value) in [
            ("apiVersion", "kubevirt.io/v1"),
            ("kind", "VirtualMachineInstance"),
        ] {
            fields.entry(field).or_insert_with(|| json!(value));
        }
    }
    vmi
}

/// The part for one kind, so that a refusal tells of that one and not of the others.
fn schema_of(kind: Kind) -> Value {
    match kind {
        Kind::Instance => schemars::schema_for!(v1::VirtualMachineInstance),
        Kind::VirtualMachine => schemars::schema_for!(template::VirtualMachine),
        Kind::ReplicaSet => schemars::schema_for!(template::VirtualMachineInstanceReplicaSet),
        Kind::Pool => schemars::schema_for!(template::VirtualMachinePool),
    }
    .to_value()
}

/// The JSON Schema of the manifests that are accepted, made from the types of `v1`.
pub fn schema() -> Value {
    let mut generator = SchemaGenerator::default();
    let kinds = [
        generator.subschema_for::<v1::VirtualMachineInstance>(),
        generator.subschema_for::<template::VirtualMachine>(),
        generator.subschema_for::<template::VirtualMachineInstanceReplicaSet>(),
        generator.subschema_for::<template::VirtualMachinePool>(),
    ];
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Manifests that hawser accepts",
        "oneOf": kinds,
        "$defs": generator.take_definitions(true),
    });
    document::schema::write_out(&mut schema);
    schema
}

/// An object of another kind has other fields: naming each of them would hide the one thing that is wrong.
fn other_kind(raw: &Value) -> Refusals {
    let found = raw.get("kind").and_then(Value::as_str).unwrap_or_default();
    let expected = "expected VirtualMachineInstance, VirtualMachine, VirtualMachineInstanceReplicaSet or VirtualMachinePool";
    Refusals::one("kind", format!("{expected}, found {}", quoted(found)))
}
