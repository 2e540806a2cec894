//! The object that brings the manifest, and the file of binding plugins, into the pod.
//!
//! Its name has a hash of its content, and it is immutable: a container that restarts runs the guest that the pod was made
//! for, whatever has been applied since. A manifest with user data in it is a Secret, because user data often has passwords
//! and keys; any other is a ConfigMap.

use hawser_manifest::{FieldPath, Report};
use serde_json::{Map, Value, json};

use crate::metadata;
use crate::names;
use crate::source::{Source, written};
use crate::volumes::own_name;
use crate::yaml;

/// Name of the pod's volume of it.
pub(crate) const VOLUME: &str = "manifest";
/// Where the pod has it.
pub(crate) const MOUNT: &str = "/etc/hawser";
/// `kubectl apply` keeps the whole object in an annotation, and all annotations together have 256 KiB.
const APPLY_LIMIT: usize = 240 * 1024;
/// Fields of `cloudInitNoCloud` and `cloudInitConfigDrive` that may hold a password.
const PRIVATE: [&str; 4] = ["userData", "userDataBase64", "networkData", "networkDataBase64"];

#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) object: Value,
    /// The pod's volume of it.
    pub(crate) volume: Value,
}

pub(crate) fn object(source: &Source<'_>, report: &mut Report) -> Config {
    let manifest = match yaml::document(&cleaned(source)) {
        Ok(text) => text,
        Err(error) => {
            report.refuse(FieldPath::of("manifest"), error.to_string());
            String::new()
        }
    };
    let mut data = vec![("vmi.yaml", manifest)];
    data.extend(
        source
            .options
            .bindings
            .clone()
            .map(|text| ("bindings.yaml", text)),
    );
    let content: String = data.iter().map(|(_, text)| text.as_str()).collect();
    if content.len() > APPLY_LIMIT {
        report.note(
            FieldPath::of("manifest"),
            "too long for kubectl apply's own annotation: use kubectl apply --server-side",
        );
    }
    let suffix = format!("vmi-{}", names::hash(content.as_bytes()));
    let name = names::with_suffix(&source.guest.name, &suffix, names::NAME_MAX);
    let is_private = has_private_data(source);
    let mut object = metadata::object(
        source,
        "v1",
        if is_private { "Secret" } else { "ConfigMap" },
        &name,
    );
    object.insert("immutable".to_owned(), true.into());
    let data: Value = data
        .into_iter()
        .map(|(key, text)| (key.to_owned(), Value::from(text)))
        .collect::<Map<_, _>>()
        .into();
    object.insert(if is_private { "stringData" } else { "data" }.to_owned(), data);
    let volume = own_name(VOLUME);
    let volume = match is_private {
        true => json!({"name": volume, "secret": {"secretName": name}}),
        false => json!({"name": volume, "configMap": {"name": name}}),
    };
    Config {
        object: object.into(),
        volume,
    }
}

fn has_private_data(source: &Source<'_>) -> bool {
    source.volumes().any(|(_, volume)| {
        ["cloudInitNoCloud", "cloudInitConfigDrive"]
            .into_iter()
            .filter_map(|field| written(Some(volume), field))
            .any(|seed| PRIVATE.iter().any(|field| written(Some(seed), field).is_some()))
    })
}

/// The instance without what only the API server that it came from has a use for, and in the pod's namespace.
fn cleaned(source: &Source<'_>) -> Value {
    let mut vmi = Map::new();
    // First, as people write them.
    for field in ["apiVersion", "kind"] {
        vmi.insert(field.to_owned(), written(Some(source.vmi), field).cloned().into());
    }
    vmi.extend(source.vmi.as_object().cloned().unwrap_or_default());
    if let Some(Value::Object(metadata)) = vmi.get_mut("metadata") {
        for field in [
            "managedFields",
            "resourceVersion",
            "generation",
            "ownerReferences",
            "selfLink",
        ] {
            metadata.shift_remove(field);
        }
        if let Some(namespace) = source.namespace() {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.shift_remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    let mut vmi = vmi.into();
    // The pod has them, and the launcher in it would note each as something that the pod has to have.
    hawser_manifest::without_fields_of_the_pod(&mut vmi);
    vmi
}
