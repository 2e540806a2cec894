//! What pods with VMs run into, as users have reported it: each report is an input, and what the pod must have for it.

use serde_json::json;

use super::*;

/// kubernetes/kubernetes#138446: a device of an init container that has ended is allocated anew when the kubelet restarts.
#[test]
fn a_question_to_hawser_has_more_time_than_a_second() {
    let two = Options {
        user_namespaces: false,
        ..options()
    };
    for options in [options(), two] {
        let pod = pod(&vmi(&[]), &options);
        let containers = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
        let mut asked = 0;
        for container in containers.into_iter().flatten().flatten() {
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"].map(|name| &container[name]) {
                if probe["exec"].is_object() {
                    assert!(probe["timeoutSeconds"].as_u64() >= Some(5), "{probe}");
                    asked += 1;
                }
            }
        }
        assert_eq!(asked, if options.user_namespaces { 1 } else { 2 });
    }
}

#[test]
fn no_device_is_in_a_container_that_ends_before_the_guest() {
    for user_namespaces in [true, false] {
        for one_container in [true, false] {
            let options = Options {
                user_namespaces,
                one_container,
                ..options()
            };
            let pod = pod(&vmi(&[]), &options);
            let init = pod["spec"]["initContainers"].as_array().into_iter().flatten();
            for container in init {
                assert_eq!(container["restartPolicy"], "Always", "{container:#}");
            }
        }
    }
}

/// monogon/monogon#379: a pod with a user namespace cannot have block devices, VFIO devices, or NFS.
#[test]
fn what_has_no_place_in_a_user_namespace_rules_it_out() {
    let claim = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    let block = Options {
        block_volumes: ["data".to_owned()].into(),
        ..options()
    };
    let manifest = vmi(&[("/spec/volumes", claim)]);
    let with_block = rendered(&manifest, &block);
    assert!(object(&with_block, "Pod")["spec"].get("hostUsers").is_none());
    assert!(
        notes(&with_block).contains("spec.volumes[0].persistentVolumeClaim: the pod has no user namespace"),
        "{}",
        notes(&with_block)
    );
    let with_files = rendered(&manifest, &options());
    assert_eq!(object(&with_files, "Pod")["spec"]["hostUsers"], false);
    assert!(notes(&with_files).contains("NFS"), "{}", notes(&with_files));

    let gpu = vmi(&[(
        "/spec/domain/devices/gpus",
        json!([{"name": "gpu", "deviceName": "nvidia.com/T4"}]),
    )]);
    let pod = pod(&gpu, &options());
    assert!(pod["spec"].get("hostUsers").is_none());
    assert_eq!(
        pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/T4"],
        "1"
    );
}

/// Seen in a kubelet: a claim in two volumes of a pod is mounted by the first of them, read-only for both if that one is.
#[test]
fn a_claim_that_is_written_is_read_only_in_no_volume() {
    let copy = json!({"name": "copy", "ephemeral": {"persistentVolumeClaim": {"claimName": "data"}}});
    let data = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}});
    let template = json!({"name": "data", "dataVolume": {"name": "data"}});
    for (volumes, readonly) in [
        (json!([copy]), Some(true)),
        (json!([copy, data]), None),
        (json!([template, copy]), None),
    ] {
        let manifest = vmi(&[("/spec/volumes", volumes.clone())]);
        let pod = pod(&manifest, &options());
        let find = |list: &str| {
            let list = pod.pointer(list).and_then(Value::as_array).unwrap();
            list.iter().find(|one| one["name"] == "copy").unwrap().clone()
        };
        let claim = &find("/spec/volumes")["persistentVolumeClaim"];
        assert_eq!(
            claim.get("readOnly").and_then(Value::as_bool),
            readonly,
            "{volumes}"
        );
        let mount = find("/spec/containers/0/volumeMounts");
        assert_eq!(mount["readOnly"], true, "the overlay's base: {volumes}");
    }
}

fn mebibytes(quantity: &Value) -> u64 {
    hawser_manifest::parse_quantity(quantity.as_str().unwrap()).unwrap() >> 20
}

/// kubevirt/kubevirt#10959: a limit that leaves nothing beside the guest's memory has the launcher killed.
#[test]
fn the_limit_is_above_the_guests_memory_by_what_runs_beside_it() {
    let overhead = |changes: &[(&str, Value)]| {
        let mut all = vec![
            ("/spec/domain/memory/guest", json!("1Gi")),
            ("/spec/domain/resources", json!({"limits": {"memory": "1Gi"}})),
        ];
        all.extend_from_slice(changes);
        let pod = pod(&vmi(&all), &options());
        mebibytes(&pod["spec"]["containers"][0]["resources"]["limits"]["memory"]) - 1024
    };
    let plain = overhead(&[]);
    assert!(plain >= 100, "{plain}");
    let passt = overhead(&[(
        "/spec/domain/devices/interfaces/0",
        json!({"name": "default", "passt": {}}),
    )]);
    assert!(passt > plain);
    assert!(overhead(&[("/spec/domain/cpu", json!({"cores": 8}))]) > plain);
    let shared = [
        (
            "/spec/volumes",
            json!([{"name": "files", "configMap": {"name": "files"}}]),
        ),
        (
            "/spec/domain/devices/filesystems",
            json!([{"name": "files", "virtiofs": {}}]),
        ),
    ];
    assert!(overhead(&shared) > plain);
    let gpu = json!([{"name": "gpu", "deviceName": "nvidia.com/T4"}]);
    assert!(overhead(&[("/spec/domain/devices/gpus", gpu)]) > plain);
    let dedicated = overhead(&[(
        "/spec/domain/cpu",
        json!({"cores": 1, "dedicatedCpuPlacement": true}),
    )]);
    assert_eq!(dedicated, plain);
}

/// A pod whose CPUs and memory are not requests and limits alike gets no CPUs of its own.
#[test]
fn dedicated_cpus_make_the_pod_guaranteed() {
    let manifest = vmi(&[
        (
            "/spec/domain/cpu",
            json!({"cores": 2, "dedicatedCpuPlacement": true, "isolateEmulatorThread": true}),
        ),
        ("/spec/domain/resources", json!({"requests": {"memory": "128Mi"}})),
    ]);
    let options = Options {
        user_namespaces: false,
        ..options()
    };
    let pod = pod(&manifest, &options);
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["cpu"], "3");
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array().unwrap() {
            for resource in ["cpu", "memory"] {
                let resources = &container["resources"];
                assert_eq!(
                    resources["requests"][resource], resources["limits"][resource],
                    "{container:#}"
                );
            }
        }
    }
}

/// cozystack/cozystack PR #2317: a namespace's default limit of storage has the guest evicted for filling its own disk.
#[test]
fn storage_that_the_manifest_grants_is_in_the_limit() {
    let manifest = vmi(&[(
        "/spec/volumes",
        json!([
            {"name": "scratch", "emptyDisk": {"capacity": "4Gi"}},
            {"name": "root", "containerDisk": {"image": "debian"}},
        ]),
    )]);
    let pod = pod(&manifest, &options());
    let resources = &pod["spec"]["containers"][0]["resources"];
    assert!(mebibytes(&resources["requests"]["ephemeral-storage"]) > 4096);
    assert!(mebibytes(&resources["limits"]["ephemeral-storage"]) > 4096 + 1024);
    let state = &pod["spec"]["volumes"][0];
    assert_eq!(state["emptyDir"], json!({}), "no sizeLimit below the disks");
}

/// kubevirt/kubevirt#2438: a claim of mode Block among the mounts is a pod that waits for ever.
#[test]
fn a_claim_is_a_device_where_the_manifest_or_the_user_says_so() {
    let instance = vmi(&[(
        "/spec/volumes",
        json!([
            {"name": "pvc", "dataVolume": {"name": "by-pvc"}},
            {"name": "storage", "dataVolume": {"name": "by-storage"}},
            {"name": "none", "dataVolume": {"name": "by-nothing"}},
            {"name": "plain", "persistentVolumeClaim": {"claimName": "plain"}},
        ]),
    )]);
    let templates = json!([
        {"metadata": {"name": "by-pvc"}, "spec": {"pvc": {"volumeMode": "Block"}}},
        {"metadata": {"name": "by-storage"}, "spec": {"storage": {"volumeMode": "Block"}}},
        {"metadata": {"name": "by-nothing"}, "spec": {"storage": {}}},
    ]);
    let machine = machine(
        &instance,
        json!({"runStrategy": "Always", "dataVolumeTemplates": templates}),
    );
    let rendered = rendered(&machine, &options());
    let container = &object(&rendered, "Pod")["spec"]["containers"][0];
    let names = |list: &str| -> Vec<&str> {
        let items = container[list].as_array().unwrap();
        items.iter().filter_map(|item| item["name"].as_str()).collect()
    };
    assert_eq!(names("volumeDevices"), ["pvc", "storage"]);
    for name in ["none", "plain"] {
        assert!(names("volumeMounts").contains(&name));
    }
    let notes = notes(&rendered);
    for field in [
        "spec.template.spec.volumes[2].dataVolume: the claim is taken for a file system",
        "spec.template.spec.volumes[3].persistentVolumeClaim: the claim is taken for a file system",
    ] {
        assert!(notes.contains(field), "{notes}");
    }
    assert!(
        !notes.contains("volumes[0].dataVolume: the claim is taken"),
        "{notes}"
    );
}

/// kubevirt/kubevirt#14408: newer meshes read another annotation, and a sidecar must not keep the pod from ending.
#[test]
fn a_mesh_sees_the_guests_own_traffic() {
    for field in ["labels", "annotations"] {
        let manifest = vmi(&[(
            &format!("/metadata/{field}"),
            json!({"sidecar.istio.io/inject": "true"}),
        )]);
        let pod = pod(&manifest, &options());
        for name in [
            "traffic.sidecar.istio.io/kubevirtInterfaces",
            "istio.io/reroute-virtual-interfaces",
        ] {
            assert_eq!(pod["metadata"]["annotations"][name], "tap0", "{field} {name}");
        }
    }
    let pod = pod(&vmi(&[]), &options());
    assert!(
        pod["metadata"]["annotations"]
            .get("istio.io/reroute-virtual-interfaces")
            .is_none()
    );
}

/// neondatabase/autoscaling PR #344: with a GitOps tool's own labels the pod would be the tool's to delete.
#[test]
fn what_a_tool_wrote_into_the_manifest_is_not_the_pods() {
    let manifest = vmi(&[
        (
            "/metadata/labels",
            json!({"app.kubernetes.io/instance": "shop", "tier": "web"}),
        ),
        (
            "/metadata/annotations",
            json!({"kubectl.kubernetes.io/last-applied-configuration": "{}", "owner": "us"}),
        ),
    ]);
    let rendered = rendered(&manifest, &options());
    let pod = object(&rendered, "Pod");
    assert_eq!(pod["metadata"]["labels"]["tier"], "web");
    assert_eq!(pod["metadata"]["annotations"]["owner"], "us");
    assert!(!pod["metadata"].to_string().contains("app.kubernetes.io/instance"));
    let text = crate::stream(&rendered.objects).unwrap();
    assert!(!text.contains("last-applied"));
}

/// Names may be longer than the value of a label, and begin with a digit or have dots, where a Service's may not.
#[test]
fn names_of_any_length_are_names_of_all_objects() {
    let names = [
        "a".repeat(63) + "." + &"b".repeat(63) + "." + &"c".repeat(63) + "." + &"d".repeat(61),
        "1.2".to_owned(),
        "web".to_owned(),
        "a".repeat(63),
    ];
    for name in names {
        let rendered = rendered(&vmi(&[("/metadata/name", json!(name))]), &options());
        for object in &rendered.objects {
            let label = object["metadata"]["labels"]["vm.kubevirt.io/name"]
                .as_str()
                .unwrap();
            assert!(label.len() <= 63 && !label.ends_with(['-', '.']), "{label}");
            assert!(object["metadata"]["name"].as_str().unwrap().len() <= 253);
        }
        let service = object(&rendered, "Service");
        assert!(crate::names::is_service_name(
            service["metadata"]["name"].as_str().unwrap()
        ));
        let pod = object(&rendered, "Pod");
        let hostname = pod["spec"]["hostname"].as_str().unwrap();
        assert!(hostname.len() <= 63 && !hostname.ends_with('-'), "{hostname}");
        assert_eq!(
            service["spec"]["selector"]["vm.kubevirt.io/name"],
            pod["metadata"]["labels"]["vm.kubevirt.io/name"]
        );
    }
}

/// YAML 1.1 takes these for something else than text.
#[test]
fn text_stays_text() {
    let values = [
        "yes",
        "no",
        "on",
        "off",
        "y",
        "null",
        "~",
        "1e3",
        "0x10",
        "012",
        "1:30",
        "1_000",
        ".inf",
        "=",
        "<<",
        "2026-01-01",
        "- a",
        "a: b",
        "#",
        " lead",
        "trail ",
        "a\nb",
        "a\n",
        "\ttab",
        "$(HOME)",
        "é",
        "\u{85}",
        "\u{2028}",
        "",
    ];
    let annotations: serde_json::Map<String, Value> = values
        .iter()
        .enumerate()
        .map(|(index, value)| (format!("example.com/{index}"), json!(value)))
        .collect();
    let manifest = vmi(&[("/metadata/annotations", json!(annotations))]);
    let rendered = rendered(&manifest, &options());
    let text = crate::stream(&[object(&rendered, "Pod").clone()]).unwrap();
    let read: Value = hawser_manifest::parse(&text).unwrap();
    for (index, value) in values.iter().enumerate() {
        assert_eq!(
            read["metadata"]["annotations"][format!("example.com/{index}")],
            *value
        );
    }
    // The manifest in the ConfigMap is the guest's own again.
    let config = object(&rendered, "ConfigMap")["data"]["vmi.yaml"]
        .as_str()
        .unwrap();
    assert_eq!(
        load(config).unwrap().spec,
        load(&manifest.to_string()).unwrap().spec
    );
}

/// A password in user data is in no ConfigMap, and the pod's own objects are told apart by their content.
#[test]
fn user_data_is_a_secret_and_each_manifest_has_its_own_object() {
    let seed = |data: &str| json!([{"name": "seed", "cloudInitNoCloud": {"userData": data}}]);
    let one = rendered(&vmi(&[("/spec/volumes", seed("#cloud-config"))]), &options());
    let other = rendered(&vmi(&[("/spec/volumes", seed("#cloud-config\n"))]), &options());
    let name = |rendered: &Rendered| {
        object(rendered, "Secret")["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_ne!(name(&one), name(&other));
    assert_eq!(object(&one, "Secret")["immutable"], true);
    assert_eq!(
        object(&one, "Pod")["spec"]["volumes"][1]["secret"]["secretName"],
        name(&one)
    );
}

/// kubevirt/kubevirt#2196: a budget that counts its pods by a share needs a controller, and a bare pod has none.
#[test]
fn a_drain_waits_as_the_eviction_strategy_says() {
    let budget = |strategy: &str, writes: bool| {
        let mut changes = vec![("/spec/evictionStrategy", json!(strategy))];
        if writes {
            changes.push((
                "/spec/volumes",
                json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]),
            ));
        }
        let rendered = rendered(&vmi(&changes), &options());
        let budget = rendered
            .objects
            .iter()
            .find(|object| object["kind"] == "PodDisruptionBudget");
        budget.map(|budget| budget["spec"]["minAvailable"].clone())
    };
    assert_eq!(budget("None", false), None);
    assert_eq!(budget("LiveMigrate", false), Some(json!(1)));
    assert_eq!(budget("LiveMigrate", true), Some(json!(1)));
    assert_eq!(budget("LiveMigrateIfPossible", false), Some(json!(1)));
    assert_eq!(budget("LiveMigrateIfPossible", true), None);
    assert_eq!(budget("External", true), Some(json!(1)));
}
