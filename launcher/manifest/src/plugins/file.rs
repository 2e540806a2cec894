//! The file of `--bindings`, YAML or JSON: read like a manifest, and refused like one, every fault by its path.
//!
//! It is the map from names to plugins itself, or that map below `binding`, or a KubeVirt object, of which only
//! `spec.configuration.network.binding` is looked at.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{DomainAttachment, DownwardApi, Migration, MigrationMethod, Overhead, Plugin, Registry};
use crate::document::check::check_at;
use crate::document::fields::{Quantity, fields};
use crate::document::quantity;
use crate::document::report::{FieldPath, Refusals, Report, quoted};
use crate::document::text::given;

/// Where a KubeVirt object has its plugins.
const IN_KUBEVIRT: &str = "spec.configuration.network.binding";
/// Kubernetes' own bound for a name.
const LONGEST_NAME: usize = 253;

fields! {
    PluginAsWritten {
        domain_attachment_type: Option<DomainAttachmentAsWritten>,
        sidecar_image: Option<String>,
        network_attachment_definition: Option<String>,
        migration: Option<MigrationAsWritten>,
        #[serde(rename = "downwardAPI")] downward_api: Option<DownwardApiAsWritten>,
        compute_resource_overhead: Option<OverheadAsWritten>,
    } accepted {}
}

fields! {
    MigrationAsWritten {
        method: Option<MigrationMethodAsWritten>,
    } accepted {}
}

fields! {
    OverheadAsWritten {
        #[serde(default)] requests: BTreeMap<String, Quantity>,
        #[serde(default)] limits: BTreeMap<String, Quantity>,
    } accepted {}
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum DomainAttachmentAsWritten {
    Tap,
    ManagedTap,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MigrationMethodAsWritten {
    LinkRefresh,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DownwardApiAsWritten {
    DeviceInfo,
}

/// Reads the text of the file that is called `file` in messages.
pub fn parse(text: &str, file: &str) -> Result<Registry, Refusals> {
    let document = crate::document::input::parse(text).map_err(|error| Refusals::one("bindings", error))?;
    let mut report = Report::default();
    let mut plugins = BTreeMap::new();
    if let Some((path, map)) = find(&document, &mut report) {
        let schema = schemars::schema_for!(BTreeMap<String, PluginAsWritten>).to_value();
        let mut checked = Value::Object(map.clone());
        check_at(&schema, &mut checked, &path, &mut report);
        match serde_json::from_value::<BTreeMap<String, PluginAsWritten>>(checked) {
            Ok(written) => {
                for name in map.keys() {
                    let entry = path.key(name);
                    if let Some(plugin) = plugin(name, written.get(name), map, &entry, &mut report) {
                        plugins.insert(name.clone(), plugin);
                    }
                }
            }
            // Unreachable as long as the check and the types agree; refused rather than trusted.
            Err(error) => report.refuse(FieldPath::of("bindings"), error.to_string()),
        }
    }
    report.finish(&document)?;
    Ok(Registry {
        plugins,
        file: Some(file.to_owned()),
    })
}

/// The map of plugins and where it is in the document.
fn find<'a>(document: &'a Value, report: &mut Report) -> Option<(FieldPath, &'a Map<String, Value>)> {
    let Value::Object(root) = document else {
        report.refuse(FieldPath::of("bindings"), "expected a map of names to plugins");
        return None;
    };
    if let Some(kind) = root.get("kind").and_then(Value::as_str) {
        return match kind {
            "KubeVirt" => in_kubevirt(document, report),
            other => {
                let found = quoted(other);
                report.refuse(FieldPath::of("kind"), format!("expected KubeVirt, found {found}"));
                None
            }
        };
    }
    let Some(binding) = root.get("binding") else {
        return Some((FieldPath::default(), root));
    };
    let path = FieldPath::of("binding");
    for name in root.keys().filter(|name| *name != "binding") {
        report.refuse(
            FieldPath::default().key(name),
            "beside binding, below which the plugins are: move it there",
        );
    }
    object(binding, path, report)
}

/// An object that configures no plugin at all registers none.
fn in_kubevirt<'a>(document: &'a Value, report: &mut Report) -> Option<(FieldPath, &'a Map<String, Value>)> {
    let mut path = String::new();
    let mut at = document;
    for name in IN_KUBEVIRT.split('.') {
        path.push_str(if path.is_empty() { "" } else { "." });
        path.push_str(name);
        at = at.get(name).filter(|value| !value.is_null())?;
        object(at, FieldPath::of(&path), report)?;
    }
    object(at, FieldPath::of(IN_KUBEVIRT), report)
}

fn object<'a>(
    value: &'a Value,
    path: FieldPath,
    report: &mut Report,
) -> Option<(FieldPath, &'a Map<String, Value>)> {
    match value {
        Value::Object(map) => Some((path, map)),
        _ => {
            report.refuse(path, "expected an object");
            None
        }
    }
}

/// One entry, which has been held against the schema; `raw` is the map as it was before that took out what was unfit.
fn plugin(
    name: &str,
    written: Option<&PluginAsWritten>,
    raw: &Map<String, Value>,
    path: &FieldPath,
    report: &mut Report,
) -> Option<Plugin> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(plain) {
        report.refuse(
            path.clone(),
            format!(
                "expected a name of letters, digits, '-', '_' and '.', found {}",
                quoted(name)
            ),
        );
        return None;
    }
    let Some(written) = written else {
        if raw.get(name).is_some_and(Value::is_null) {
            report.refuse(path.clone(), "expected an object, found null");
        }
        return None;
    };
    // As written: one that is malformed has been refused for that already.
    let names = |field: &str| {
        raw.get(name)
            .and_then(|plugin| plugin.get(field))
            .is_some_and(|value| !value.is_null() && value.as_str() != Some(""))
    };
    if !names("domainAttachmentType") && !names("sidecarImage") {
        report.refuse(
            path.clone(),
            "needs a domainAttachmentType or a sidecarImage: without either the guest has no NIC",
        );
    }
    let definition = given(&written.network_attachment_definition);
    if let Some(definition) = definition.filter(|definition| !is_reference(definition)) {
        report.refuse(
            path.key("networkAttachmentDefinition"),
            format!("expected NAME or NAMESPACE/NAME, found {}", quoted(definition)),
        );
    }
    let overhead = written.compute_resource_overhead.as_ref();
    let quantities =
        |field: &str, of: fn(&OverheadAsWritten) -> &BTreeMap<String, Quantity>, report: &mut Report| {
            let path = path.key("computeResourceOverhead").key(field);
            overhead.map_or_else(BTreeMap::new, |overhead| all(of(overhead), &path, report))
        };
    Some(Plugin {
        domain_attachment_type: written.domain_attachment_type.map(|written| match written {
            DomainAttachmentAsWritten::Tap => DomainAttachment::Tap,
            DomainAttachmentAsWritten::ManagedTap => DomainAttachment::ManagedTap,
        }),
        sidecar_image: given(&written.sidecar_image).map(str::to_owned),
        network_attachment_definition: definition.map(str::to_owned),
        migration: written.migration.as_ref().map(|written| Migration {
            method: written
                .method
                .map(|MigrationMethodAsWritten::LinkRefresh| MigrationMethod::LinkRefresh),
        }),
        downward_api: written
            .downward_api
            .map(|DownwardApiAsWritten::DeviceInfo| DownwardApi::DeviceInfo),
        compute_resource_overhead: Overhead {
            requests: quantities("requests", |overhead| &overhead.requests, report),
            limits: quantities("limits", |overhead| &overhead.limits, report),
        },
    })
}

/// `name` or `namespace/name`, each a DNS name of lower-case labels (RFC 1123).
fn is_reference(text: &str) -> bool {
    let name = |name: &str| {
        let label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        };
        name.len() <= LONGEST_NAME && name.split('.').all(label)
    };
    match text.split_once('/') {
        Some((namespace, definition)) => name(namespace) && name(definition),
        None => name(text),
    }
}

fn all(
    quantities: &BTreeMap<String, Quantity>,
    path: &FieldPath,
    report: &mut Report,
) -> BTreeMap<String, String> {
    let mut read = BTreeMap::new();
    for (resource, Quantity(text)) in quantities {
        match quantity::parse(text) {
            Ok(_) => drop(read.insert(resource.clone(), text.clone())),
            Err(problem) => report.refuse(path.key(resource), problem),
        }
    }
    read
}
