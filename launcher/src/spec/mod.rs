//! From the manifest as written to a validated [`GuestSpec`].
//!
//! 1. `input` reads YAML or JSON into a tree of values, with bounded time and memory.
//! 2. `check` holds the tree against the JSON Schema that is made from the wire types, and takes out what does
//!    not fit, so that the rest can go on.
//! 3. The tree is read into the wire types (`wire`, `wire_net`), which cannot fail any more.
//! 4. `resolve`, `interfaces`, `networks` and `ports` fill in defaults and apply KubeVirt's rules.
//!
//! Manifests are read once, before anything in the pod is touched, and every refusal of all these steps is
//! reported in one go, by field path and in the order of the document.

mod check;
mod guest;
mod input;
mod interfaces;
mod known;
mod names;
mod networks;
mod ports;
pub(crate) mod quantity;
mod report;
mod resolve;
#[cfg(test)]
mod tests;
mod wire;
mod wire_net;

pub use guest::{
    Binding, Claim, CpuTopology, DhcpOptions, GuestSpec, Interface, KernelBoot, LinkState, Mac, Model,
    Network, NetworkSource, PciAddress, PortRange, Ports, Protocol,
};
pub use input::{MAX_BYTES, ParseError, parse};
pub use report::{Note, Refusals};

pub(crate) use check::check_at;
pub(crate) use report::{FieldPath, Report, quoted};
pub(crate) use resolve::given;
pub(crate) use wire::{Quantity, wire};

pub use crate::plugins::{DomainAttachment, DownwardApi, Migration, MigrationMethod, Overhead, Plugin};

use serde_json::Value;

use crate::plugins::Registry;

/// A manifest that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub spec: GuestSpec,
    /// The manifest as it was written, for those who are shown it.
    pub manifest: Value,
    /// What the user should know although nothing is refused, in the order of the document.
    pub warnings: Vec<Note>,
}

/// Reads a VirtualMachineInstance manifest, YAML or JSON, that names no binding plugins.
pub fn load(text: &str) -> Result<Loaded, Refusals> {
    load_with(text, &Registry::default())
}

/// Reads a VirtualMachineInstance manifest whose binding plugins are those of `registry`.
pub(crate) fn load_with(text: &str, registry: &Registry) -> Result<Loaded, Refusals> {
    let raw = parse(text).map_err(|error| Refusals::one("manifest", error))?;
    if let Some(kind) = other_kind(&raw) {
        return Err(kind);
    }
    let mut report = report::Report::default();
    let mut checked = raw.clone();
    check::check(&schema(), &mut checked, &mut report);
    let spec = match serde_json::from_value(checked) {
        Ok(vmi) => resolve::resolve(&vmi, &raw, registry, &mut report),
        Err(error) => {
            // Unreachable as long as the check and the types agree; refused rather than trusted.
            report.refuse(report::FieldPath::of("manifest"), error.to_string());
            None
        }
    };
    let warnings = report.finish(&raw)?;
    match spec {
        Some(spec) => Ok(Loaded {
            spec,
            manifest: raw,
            warnings,
        }),
        None => Err(Refusals::one("manifest", "incomplete")),
    }
}

/// The JSON Schema of the manifests that are accepted, made from the wire types.
pub fn schema() -> Value {
    schemars::schema_for!(wire::VirtualMachineInstance).to_value()
}

/// An object of another kind has other fields: naming each of them would hide the one thing that is wrong.
fn other_kind(raw: &Value) -> Option<Refusals> {
    let kind = raw.get("kind")?.as_str()?;
    match kind {
        "VirtualMachineInstance" => None,
        "VirtualMachine" | "VirtualMachineInstanceReplicaSet" => {
            let hint = "its spec.template is a VirtualMachineInstance without apiVersion and kind";
            Some(Refusals::one(
                "kind",
                format!("{kind} is not supported yet by this version: {hint}"),
            ))
        }
        other => {
            let found = report::quoted(other);
            Some(Refusals::one(
                "kind",
                format!("expected VirtualMachineInstance, found {found}"),
            ))
        }
    }
}
