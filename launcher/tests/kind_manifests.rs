//! The manifests for a real cluster (e2e/kind), as far as they can be held against something without one: every document
//! parses, the guests in them pass hawser's own checks, and what one file calls a thing the others call it too.

// Helpers of tests are tests' code too, which clippy does not see.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};

use hawser::spec::{self, Binding, GuestSpec, NetworkSource};
use serde_json::Value;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/kind")
}

fn documents(name: &str) -> Vec<Value> {
    let path = directory().join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let parse = |text: &str| spec::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    text.split("\n---\n").map(parse).collect()
}

fn of_kind(kind: &str) -> Vec<Value> {
    let kustomization = documents("sriov/kustomization.yaml").remove(0);
    let mut found = Vec::new();
    for file in kustomization["resources"].as_array().unwrap() {
        let documents = documents(&format!("sriov/{}", file.as_str().unwrap()));
        found.extend(documents.into_iter().filter(|document| document["kind"] == kind));
    }
    found
}

fn named<'a>(list: &'a [Value], name: &str) -> &'a Value {
    let find = list.iter().find(|document| document["metadata"]["name"] == name);
    find.unwrap_or_else(|| panic!("nothing is called {name}"))
}

/// Each pod with the guest whose manifest it mounts.
fn guests() -> Vec<(Value, GuestSpec)> {
    let maps = of_kind("ConfigMap");
    let with_guest = |pod: Value| {
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == "vmi").unwrap();
        let map = named(&maps, volume["configMap"]["name"].as_str().unwrap());
        let manifest = map["data"]["vmi.yaml"].as_str().unwrap();
        let loaded = spec::load(manifest).unwrap();
        // Editors go by the schema.
        let schema = jsonschema::validator_for(&spec::schema()).unwrap();
        if let Err(error) = schema.validate(&spec::parse(manifest).unwrap()) {
            panic!("{}: {error}", error.instance_path());
        }
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        (pod, loaded.spec)
    };
    of_kind("Pod").into_iter().map(with_guest).collect()
}

#[test]
fn every_file_parses_and_is_put_in_by_kustomize() {
    assert_eq!(documents("kind.yaml")[0]["kind"], "Cluster");
    let listed = documents("sriov/kustomization.yaml").remove(0);
    let mut listed: Vec<_> = listed["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    listed.push("kustomization.yaml".into());
    listed.sort();
    let files = fs::read_dir(directory().join("sriov")).unwrap();
    let mut files: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(listed, files);
}

#[test]
fn networks_are_of_the_resource_that_the_plugin_offers() {
    let maps = of_kind("ConfigMap");
    let config = named(&maps, "sriov-device-plugin")["data"]["config.json"]
        .as_str()
        .unwrap();
    let config: Value = serde_json::from_str(config).unwrap();
    let offered = &config["resourceList"][0];
    let resource = format!(
        "{}/{}",
        offered["resourcePrefix"].as_str().unwrap(),
        offered["resourceName"].as_str().unwrap()
    );
    for network in of_kind("NetworkAttachmentDefinition") {
        assert_eq!(
            network["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"],
            resource.as_str()
        );
        let cni: Value = serde_json::from_str(network["spec"]["config"].as_str().unwrap()).unwrap();
        assert_eq!(
            (cni["type"].as_str(), &cni["name"]),
            (Some("sriov"), &network["metadata"]["name"])
        );
    }
    for (pod, guest) in guests() {
        let vfs = guest
            .interfaces
            .iter()
            .filter(|interface| interface.binding == Binding::Sriov)
            .count();
        let limits = &pod["spec"]["containers"][0]["resources"]["limits"];
        assert_eq!(limits[&resource], vfs, "{}", guest.name);
    }
}

#[test]
fn a_pod_has_the_networks_that_its_guest_wants_in_the_guests_order() {
    let networks = of_kind("NetworkAttachmentDefinition");
    for (pod, guest) in guests() {
        let wanted = guest
            .interfaces
            .iter()
            .filter_map(|interface| match &interface.network.source {
                NetworkSource::Multus { network_name, .. } => Some(network_name.clone()),
                _ => None,
            });
        let wanted: Vec<_> = wanted.collect();
        for name in &wanted {
            named(&networks, name);
        }
        let annotation = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"]
            .as_str()
            .unwrap();
        // Either a list of names or JSON, in which a network can be asked for with a MAC.
        let asked: Vec<String> = match serde_json::from_str::<Vec<Value>>(annotation) {
            Ok(list) => list
                .iter()
                .map(|one| one["name"].as_str().unwrap().to_owned())
                .collect(),
            Err(_) => annotation.split(',').map(|name| name.trim().to_owned()).collect(),
        };
        assert_eq!(asked, wanted, "{}", guest.name);
        if let Ok(list) = serde_json::from_str::<Vec<Value>>(annotation) {
            let macs: Vec<_> = guest
                .interfaces
                .iter()
                .map(|interface| interface.mac.map(|mac| mac.to_string()))
                .collect();
            let asked: Vec<_> = list
                .iter()
                .map(|one| one["mac"].as_str().map(str::to_owned))
                .collect();
            assert_eq!(asked, macs, "{}", guest.name);
        }
    }
}

#[test]
fn a_vf_takes_no_capability_and_masquerade_one() {
    for (pod, guest) in guests() {
        let taps = guest
            .interfaces
            .iter()
            .any(|interface| interface.binding != Binding::Sriov);
        let added = &pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"];
        assert_eq!(!added.is_null(), taps, "{}: {added}", guest.name);
    }
}
