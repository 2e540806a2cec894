//! Instances inside VirtualMachines and replica sets.

use serde_json::{Value, json};

use super::{MINIMAL, load, parse, refusals};
use crate::Loaded;

fn owned_by(kind: &str, changes: &[(&str, Value)]) -> String {
    let instance = parse(MINIMAL).unwrap();
    let mut manifest = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": kind,
        "metadata": {"name": "owner", "namespace": "shop", "uid": "not the instance's"},
        "spec": {"template": {"metadata": {"annotations": {}}, "spec": instance["spec"]}},
    });
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = manifest
            .pointer_mut(parent)
            .unwrap_or_else(|| panic!("no {parent}"));
        parent
            .as_object_mut()
            .unwrap()
            .insert(name.to_owned(), value.clone());
    }
    manifest.to_string()
}

#[test]
fn the_instance_has_its_owners_name_and_the_templates_annotations() {
    for (kind, note) in [
        ("VirtualMachine", "kind: a VirtualMachine"),
        ("VirtualMachineInstanceReplicaSet", "kind: a replica set"),
    ] {
        let text = owned_by(
            kind,
            &[(
                "/spec/template/metadata/annotations",
                json!({"sidecar.istio.io/inject": "true"}),
            )],
        );
        let Loaded {
            spec, vmi, warnings, ..
        } = load(&text).unwrap();
        assert_eq!(vmi["kind"], "VirtualMachineInstance");
        assert_eq!(vmi["apiVersion"], "kubevirt.io/v1");
        assert_eq!(vmi["metadata"]["name"], "owner");
        assert_eq!((spec.name.as_str(), spec.namespace.as_str()), ("owner", "shop"));
        assert_eq!(spec.uid, None);
        assert!(spec.istio);
        assert!(warnings[0].to_string().starts_with(note), "{warnings:?}");
        assert_eq!(
            spec.interfaces[0].path,
            "spec.template.spec.domain.devices.interfaces[0]"
        );
        assert_eq!(spec.interfaces[0].network.path, "spec.template.spec.networks[0]");
        assert_eq!(
            spec.kernel_boot.unwrap().path,
            "spec.template.spec.domain.firmware.kernelBoot"
        );
    }
}

#[test]
fn a_pools_instance_is_two_templates_deep() {
    let machine = parse(&owned_by("VirtualMachine", &[])).unwrap();
    let mut pool = json!({
        "apiVersion": "pool.kubevirt.io/v1beta1",
        "kind": "VirtualMachinePool",
        "metadata": {"name": "owner"},
        "spec": {"replicas": 3, "selector": {}, "virtualMachineTemplate": {"metadata": {}, "spec": machine["spec"]}},
    });
    let Loaded { spec, warnings, .. } = load(&pool.to_string()).unwrap();
    assert_eq!(spec.name, "owner");
    assert!(
        warnings[0].to_string().starts_with("kind: a pool"),
        "{warnings:?}"
    );
    let template = "spec.virtualMachineTemplate.spec.template.spec";
    assert_eq!(
        spec.interfaces[0].path,
        format!("{template}.domain.devices.interfaces[0]")
    );
    let domain = "/spec/virtualMachineTemplate/spec/template/spec/domain";
    pool.pointer_mut(domain).unwrap()["chassis"] = json!({});
    pool.pointer_mut(domain).unwrap()["memory"] = json!({"guest": "1Mi"});
    let found = refusals(&pool.to_string());
    assert_eq!(
        found[0],
        format!("{template}.domain.memory.guest: must be at least 16Mi, found 1048576 bytes")
    );
    assert_eq!(found[1], format!("{template}.domain.chassis: not supported"));
}

#[test]
fn what_says_when_it_runs_is_accepted() {
    for (field, value) in [
        ("/spec/running", json!(true)),
        ("/spec/runStrategy", json!("Halted")),
        (
            "/spec/dataVolumeTemplates",
            json!([{"metadata": {"name": "root"}}]),
        ),
    ] {
        load(&owned_by("VirtualMachine", &[(field, value)])).unwrap();
    }
    load(&owned_by(
        "VirtualMachineInstanceReplicaSet",
        &[("/spec/replicas", json!(3))],
    ))
    .unwrap();
}

#[test]
fn refusals_name_the_place_in_the_template_in_the_documents_order() {
    let text = owned_by(
        "VirtualMachine",
        &[
            ("/metadata/name", json!("Upper")),
            ("/spec/instancetype", json!({"name": "small"})),
            ("/spec/preference", json!({"name": "small"})),
            ("/spec/replicas", json!(3)),
            ("/spec/template/spec/domain/cpu", json!({"cores": "two"})),
            ("/spec/template/spec/domain/chassis", json!({})),
            (
                "/spec/template/spec/domain/devices/interfaces",
                json!([{"name": "x", "masquerade": {}}]),
            ),
        ],
    );
    let found = refusals(&text);
    for expected in [
        "metadata.name: expected a DNS name in lower case",
        "spec.instancetype: not supported: hawser does not ask the cluster",
        "spec.preference: not supported: hawser does not ask the cluster",
        "spec.replicas: unknown field",
        "spec.template.spec.domain.cpu.cores: expected integer",
        "spec.template.spec.domain.chassis: not supported",
        "spec.template.spec.domain.devices.interfaces[0].name: ",
    ] {
        assert!(
            found.iter().any(|line| line.starts_with(expected)),
            "{expected}: {found:#?}"
        );
    }
    assert!(found[0].starts_with("metadata.name"), "{found:#?}");
}

#[test]
fn a_template_is_required() {
    assert_eq!(
        refusals(&owned_by("VirtualMachine", &[("/spec/template", json!(null))])),
        ["spec.template: required"]
    );
    assert_eq!(
        refusals(&owned_by(
            "VirtualMachine",
            &[("/spec/template/spec", json!(null))]
        )),
        ["spec.template.spec: required"]
    );
}
