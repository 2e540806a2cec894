//! Manifests in, exact refusals out. One case for each rule of the module header's sources.

mod accepted;
mod devices;
mod disks;
mod input;
mod plugins;
mod refused;
mod refused_disks;
mod refused_net;
mod refused_vf;
mod template;

use serde_json::Value;

use super::*;

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
