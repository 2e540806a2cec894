//! Manifests in, exact refusals out. One case for each rule of the module header's sources.

mod accepted;
mod devices;
mod disks;
mod input;
mod limits;
mod plugins;
mod rates;
mod refused;
mod refused_disks;
mod refused_net;
mod refused_vf;
mod template;
mod wishes;

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

use super::*;

/// Every manifest of every test in this crate comes by here: somebody else's reading of the published schema accepts those
/// whose structure hawser does, and no others.
pub(super) fn schema_agrees(manifest: &Value, fits: bool) {
    static PUBLISHED: LazyLock<Validator> = LazyLock::new(|| jsonschema::validator_for(&schema()).unwrap());
    if PUBLISHED.is_valid(manifest) != fits {
        let problems: Vec<_> = PUBLISHED
            .iter_errors(manifest)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        panic!("hawser: {fits}; its schema: {problems:#?}\n{manifest}");
    }
}

const MINIMAL: &str = include_str!("testdata/minimal.yaml");

/// The minimal manifest with the value at each JSON pointer replaced; `null` takes it out.
fn with(changes: &[(&str, Value)]) -> String {
    let mut manifest = parse(MINIMAL).unwrap();
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = manifest
            .pointer_mut(parent)
            .unwrap_or_else(|| panic!("no {parent}"));
        match parent {
            Value::Array(items) => {
                let index: usize = name.parse().unwrap();
                items.resize(items.len().max(index + 1), Value::Null);
                items[index] = value.clone();
            }
            Value::Object(map) => {
                map.insert(name.to_owned(), value.clone());
            }
            other => panic!("{pointer}: {other}"),
        }
    }
    manifest.to_string()
}

fn refusals(text: &str) -> Vec<String> {
    match load(text) {
        Ok(loaded) => panic!("accepted: {loaded:#?}"),
        Err(refusals) => refusals.to_string().lines().map(str::to_owned).collect(),
    }
}

fn accepted(changes: &[(&str, Value)]) -> Loaded {
    load(&with(changes)).unwrap_or_else(|refusals| panic!("{refusals}"))
}
