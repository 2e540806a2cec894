//! Whole guests, rendered; each field of the output is one that Kubernetes has.

mod migration;
mod podman;
mod refused;
mod reports;
mod snapshots;
mod target_of;

use hawser_manifest::{Binding, GuestSpec, Loaded, load};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{DeviceResources, Facts, Options, Rendered, Workload, render};

/// A guest behind masquerade that boots a kernel, with these fields of its manifest changed.
fn vmi(changes: &[(&str, Value)]) -> Value {
    let mut vmi = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "small"},
        "spec": {
            "domain": {
                "memory": {"guest": "192Mi"},
                "devices": {"interfaces": [
                    {"name": "default", "masquerade": {}, "ports": [{"name": "http", "port": 80}]},
                ]},
                "firmware": {"kernelBoot": {
                    "container": {"image": "guest", "kernelPath": "/vmlinux", "initrdPath": "/initrd.img"},
                    "kernelArgs": "console=ttyS0",
                }},
            },
            "networks": [{"name": "default", "pod": {}}],
        },
    });
    for (pointer, value) in changes {
        set(&mut vmi, pointer, value.clone());
    }
    vmi
}

/// Sets what a pointer leads to, and makes the objects on the way.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let mut at = document;
    for key in pointer.split('/').skip(1) {
        at = match at {
            Value::Array(items) => {
                let index: usize = key.parse().unwrap();
                if index == items.len() {
                    items.push(Value::Null);
                }
                &mut items[index]
            }
            _ => {
                if at.is_null() {
                    *at = json!({});
                }
                &mut at[key]
            }
        };
    }
    *at = value;
}

/// The template of a VirtualMachine with this instance.
fn machine(instance: &Value, spec: Value) -> Value {
    let mut machine = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": instance["metadata"]["name"]},
        "spec": spec,
    });
    machine["spec"]["template"] = json!({
        "metadata": {"labels": instance["metadata"]["labels"], "annotations": instance["metadata"]["annotations"]},
        "spec": instance["spec"],
    });
    for field in ["labels", "annotations"] {
        let metadata = machine["spec"]["template"]["metadata"].as_object_mut().unwrap();
        if metadata[field].is_null() {
            metadata.remove(field);
        }
    }
    machine
}

fn options() -> Options {
    Options {
        image: "registry.example/hawser:1".to_owned(),
        bindings: None,
        namespace: None,
        workload: Workload::Pod,
        podman: false,
        user_namespaces: true,
        one_container: false,
        ipv6_sysctl: false,
        devices: DeviceResources::default(),
        block_volumes: Default::default(),
        network_resources: Default::default(),
        tls_secret: None,
        target: None,
        network_policy: false,
    }
}

/// As the launcher has them, for bindings that are not plugins.
fn facts(guest: &GuestSpec) -> Facts {
    let wired = |binding: &Binding| matches!(binding, Binding::Masquerade | Binding::Bridge);
    let is_wired = guest.interfaces.iter().any(|interface| wired(&interface.binding));
    let writes = guest.disks.iter().any(|disk| !disk.readonly);
    Facts {
        needs_net_admin: is_wired,
        needs_tap: is_wired,
        masqueraded_taps: guest
            .interfaces
            .iter()
            .filter(|interface| interface.binding == Binding::Masquerade)
            .map(|_| "tap0".to_owned())
            .collect(),
        migration_obstacle: writes.then(|| "it has a writable disk".to_owned()),
    }
}

fn try_render(manifest: &Value, options: &Options) -> Result<Rendered, String> {
    let loaded: Loaded = load(&manifest.to_string()).unwrap_or_else(|refusals| panic!("{refusals}"));
    render(&loaded, &facts(&loaded.spec), options).map_err(|refusals| refusals.to_string())
}

fn rendered(manifest: &Value, options: &Options) -> Rendered {
    let rendered = try_render(manifest, options).unwrap_or_else(|refusals| panic!("{refusals}"));
    for object in &rendered.objects {
        is_kubernetes_own(object);
    }
    let again = try_render(manifest, options).unwrap();
    assert_eq!(
        crate::stream(&rendered.objects).unwrap(),
        crate::stream(&again.objects).unwrap()
    );
    rendered
}

/// The object of this kind.
fn object<'a>(rendered: &'a Rendered, kind: &str) -> &'a Value {
    let found = rendered.objects.iter().find(|object| object["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind}"))
}

fn pod(manifest: &Value, options: &Options) -> Value {
    object(&rendered(manifest, options), "Pod").clone()
}

fn notes(rendered: &Rendered) -> String {
    let notes: Vec<String> = rendered.notes.iter().map(ToString::to_string).collect();
    notes.join("\n")
}

/// Read as Kubernetes' own type and written again, it is the same: no field has a wrong name, place or type.
fn is_kubernetes_own(object: &Value) {
    match object["kind"].as_str().unwrap() {
        "Pod" => survives::<Pod>(object),
        "ConfigMap" => survives::<ConfigMap>(object),
        "Secret" => survives::<Secret>(object),
        "Service" => survives::<Service>(object),
        "NetworkPolicy" => survives::<NetworkPolicy>(object),
        "PodDisruptionBudget" => survives::<PodDisruptionBudget>(object),
        "StatefulSet" => survives::<StatefulSet>(object),
        "Deployment" => survives::<Deployment>(object),
        other => panic!("{other}"),
    }
}

fn survives<T: DeserializeOwned + Serialize>(object: &Value) {
    let typed: T =
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object:#}"));
    let again = serde_json::to_value(typed).unwrap();
    let lost = lost(object, &again, String::new());
    assert!(lost.is_empty(), "not Kubernetes' own: {lost:?}");
}

/// Paths of what is in `before` and not in `after`. Kubernetes' types leave out what is empty.
fn lost(before: &Value, after: &Value, path: String) -> Vec<String> {
    match (before, after) {
        (Value::Object(map), _) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .flat_map(|(key, value)| lost(value, &after[key], format!("{path}.{key}")))
            .collect(),
        (Value::Array(items), _) => items
            .iter()
            .enumerate()
            .flat_map(|(index, item)| lost(item, &after[index], format!("{path}[{index}]")))
            .collect(),
        _ if before == after => Vec::new(),
        _ => vec![path],
    }
}
