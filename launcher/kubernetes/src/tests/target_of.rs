//! Targets that are made of their source's pod, and what must not differ, or must, between the two.

use serde_json::json;

use super::*;
use crate::{TargetOf, target_name, target_of};

/// A pod of `hawser pod`, as the API server, the kubelet and network plugins have completed it.
fn running(manifest: &Value) -> Value {
    let options = Options {
        namespace: Some("vms".to_owned()),
        tls_secret: Some("small-migration".to_owned()),
        ..options()
    };
    completed(pod(manifest, &options), "web-uid-1", "a")
}

fn completed(mut pod: Value, uid: &str, node: &str) -> Value {
    for (pointer, value) in [
        ("/metadata/uid", json!(uid)),
        ("/metadata/resourceVersion", json!("17")),
        ("/metadata/creationTimestamp", json!("2026-11-30T10:00:00Z")),
        ("/metadata/managedFields", json!([{"manager": "kubectl"}])),
        ("/spec/nodeName", json!(node)),
        ("/spec/priority", json!(0)),
        ("/spec/preemptionPolicy", json!("PreemptLowerPriority")),
        ("/spec/serviceAccount", json!("default")),
        ("/status/phase", json!("Running")),
        (
            "/status/containerStatuses",
            json!([{
                "name": "guest",
                "image": "registry.example/hawser:1",
                "imageID": "registry.example/hawser@sha256:1111",
                "volumeMounts": [{
                    "name": "kernel-boot",
                    "volumeStatus": {"image": {"imageRef": "docker.io/library/guest@sha256:2222"}},
                }],
            }]),
        ),
    ] {
        set(&mut pod, pointer, value);
    }
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let image = volumes.iter().find(|volume| volume["image"].is_object()).unwrap();
    let mount = json!([{"name": image["name"], "volumeStatus": {"image": {"imageRef": "docker.io/library/guest@sha256:2222"}}}]);
    pod["status"]["containerStatuses"][0]["volumeMounts"] = mount;
    let token = json!({"name": "kube-api-access-x7", "projected": {"sources": []}});
    pod["spec"]["volumes"].as_array_mut().unwrap().push(token);
    let mount = json!({"name": "kube-api-access-x7", "mountPath": "/var/run/secrets"});
    pod["spec"]["containers"][0]["volumeMounts"]
        .as_array_mut()
        .unwrap()
        .push(mount);
    pod
}

fn target(source: &Value, node: Option<&str>) -> Value {
    let options = TargetOf {
        node: node.map(str::to_owned),
        ..TargetOf::default()
    };
    let target = target_of(source, &options).unwrap_or_else(|refusals| panic!("{refusals}"));
    is_kubernetes_own(&target);
    assert_eq!(target, target_of(source, &options).unwrap(), "it is pure");
    target
}

fn refused(source: &Value, options: &TargetOf) -> String {
    target_of(source, options).unwrap_err().to_string()
}

#[test]
fn it_differs_from_its_source_where_it_must_and_nowhere_else() {
    let source = running(&vmi(&[]));
    let target = target(&source, None);
    insta::assert_snapshot!("target_of", crate::stream(std::slice::from_ref(&target)).unwrap());
    assert_eq!(target["metadata"]["name"], target_name(&source).unwrap());
    assert_ne!(target["metadata"]["name"], source["metadata"]["name"]);
    for field in ["status", "kind"] {
        assert_eq!(target.get(field).is_some(), field == "kind");
    }
    for field in ["nodeName", "priority", "preemptionPolicy", "serviceAccount"] {
        assert!(target["spec"].get(field).is_none(), "{field}");
    }
    assert!(!target.to_string().contains("kube-api-access"));
}

/// kubevirt/kubevirt#15967, #8471: a tag that means another image by now gives the target another disk.
#[test]
fn images_are_the_sources_by_digest() {
    let source = running(&vmi(&[]));
    let target = target(&source, None);
    let guest = &target["spec"]["containers"][0];
    assert_eq!(guest["image"], "registry.example/hawser@sha256:1111");
    let volumes = target["spec"]["volumes"].as_array().unwrap();
    let image = volumes.iter().find(|volume| volume["image"].is_object()).unwrap();
    assert_eq!(image["image"]["reference"], "docker.io/library/guest@sha256:2222");

    // What the kubelet does not tell is refused before a pod is made.
    let mut unknown = source.clone();
    unknown["status"]["containerStatuses"][0]["volumeMounts"].take();
    let error = refused(&unknown, &TargetOf::default());
    assert!(
        error.contains("].image.reference: \"guest\" may mean another image by now")
            && error.contains("--keep-tags"),
        "{error}"
    );
    // An image that no registry has: there is nothing to pull it by.
    unknown["status"]["containerStatuses"][0]["imageID"] = json!("sha256:1111");
    let error = refused(&unknown, &TargetOf::default());
    assert!(error.contains("spec.containers[0].image: "), "{error}");
    let keep = TargetOf {
        keep_tags: true,
        ..TargetOf::default()
    };
    let kept = target_of(&unknown, &keep).unwrap();
    assert_eq!(
        kept["spec"]["containers"][0]["image"],
        "registry.example/hawser:1"
    );
    // And dockerd's form.
    let mut docker = source;
    docker["status"]["containerStatuses"][0]["imageID"] = json!("docker-pullable://r.example/h@sha256:3");
    let target = target_of(&docker, &TargetOf::default()).unwrap();
    assert_eq!(target["spec"]["containers"][0]["image"], "r.example/h@sha256:3");
}

/// kubevirt/kubevirt PR #9246: the runtime relabels a claim for the pod that starts last, and the source loses its disk.
#[test]
fn it_has_the_sources_selinux_level_and_changes_no_owners() {
    let mut source = running(&vmi(&[]));
    let level = TargetOf {
        selinux_level: Some("s0:c3,c4".to_owned()),
        ..TargetOf::default()
    };
    let with = target_of(&source, &level).unwrap();
    is_kubernetes_own(&with);
    assert_eq!(
        with["spec"]["securityContext"]["seLinuxOptions"]["level"],
        "s0:c3,c4"
    );
    assert_eq!(
        with["spec"]["securityContext"]["fsGroupChangePolicy"],
        "OnRootMismatch"
    );
    // What the source's pod says is what the source has.
    source["spec"]["securityContext"]["seLinuxOptions"] = json!({"level": "s0:c1,c2"});
    let with = target_of(&source, &level).unwrap();
    assert_eq!(
        with["spec"]["securityContext"]["seLinuxOptions"]["level"],
        "s0:c1,c2"
    );
}

/// ovn-kubernetes/ovn-kubernetes#6581: a moment without a pod that is ready resets connections.
#[test]
fn it_is_ready_within_a_second_of_the_guests_arrival() {
    let probe = json!({"tcpSocket": {"port": 80}, "periodSeconds": 30});
    let source = running(&vmi(&[
        ("/spec/livenessProbe", probe.clone()),
        ("/spec/readinessProbe", probe),
    ]));
    let target = target(&source, None);
    let guest = &target["spec"]["containers"][0];
    assert_eq!(guest["startupProbe"]["periodSeconds"], 1);
    assert_eq!(
        guest["startupProbe"]["exec"]["command"],
        json!(["/usr/bin/hawser", "status", "--ready"])
    );
    for probe in ["readinessProbe", "livenessProbe"] {
        assert_eq!(guest[probe], source["spec"]["containers"][0][probe], "{probe}");
    }
}

/// openshift/enhancements PR #1342, kubeovn/kube-ovn PR #6261: networks look for KubeVirt's labels and annotations.
#[test]
fn networks_see_a_migration_and_not_yet_its_end() {
    let mut source = running(&vmi(&[("/metadata/labels", json!({"team": "a"}))]));
    let own = source["metadata"]["annotations"].as_object_mut().unwrap();
    for (key, value) in [
        (
            "kubevirt.io/migration-target-ready-timestamp",
            "2026-11-29T10:00:00Z",
        ),
        ("k8s.v1.cni.cncf.io/network-status", "[]"),
        ("ovn.kubernetes.io/allocated", "true"),
        ("ovn.kubernetes.io/logical_switch", "mine"),
        ("cni.projectcalico.org/podIP", "10.0.0.1/32"),
    ] {
        own.insert(key.to_owned(), json!(value));
    }
    source["metadata"]["labels"]["kubevirt.io/nodeName"] = json!("a");
    source["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("z");
    let target = target(&source, None);
    let (labels, annotations) = (&target["metadata"]["labels"], &target["metadata"]["annotations"]);
    assert_eq!(
        (&labels["vm.kubevirt.io/name"], &labels["team"]),
        (&json!("small"), &json!("a"))
    );
    assert_eq!(
        annotations["kubevirt.io/migrationJobName"],
        target["metadata"]["name"]
    );
    assert_eq!(annotations["hawser.dev/migrated-from"], "small");
    assert_eq!(annotations["ovn.kubernetes.io/logical_switch"], "mine");
    for gone in [
        "kubevirt.io/migration-target-ready-timestamp",
        "k8s.v1.cni.cncf.io/network-status",
        "ovn.kubernetes.io/allocated",
        "cni.projectcalico.org/podIP",
    ] {
        assert!(annotations.get(gone).is_none(), "{gone}");
    }
    for gone in ["kubevirt.io/nodeName", "topology.kubernetes.io/zone"] {
        assert!(labels.get(gone).is_none(), "{gone}");
    }
}

/// kubevirt/kubevirt#5565, harvester/harvester#3124: a node that the scheduler is passed by for, or is asked for by a label.
#[test]
fn a_node_is_asked_for_by_its_name_and_the_scheduler_decides() {
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "rack", "operator": "In", "values": ["1"]}]},
        {"matchExpressions": [{"key": "rack", "operator": "In", "values": ["2"]}]},
    ]}}});
    let source = running(&vmi(&[("/spec/affinity", affinity.clone())]));
    let to_b = target(&source, Some("b"));
    let own = json!([{"key": "metadata.name", "operator": "In", "values": ["b"]}]);
    let terms =
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    for term in to_b.pointer(terms).unwrap().as_array().unwrap() {
        assert_eq!(term["matchFields"], own);
        assert!(term["matchExpressions"].is_array());
    }
    assert!(to_b["spec"].get("nodeName").is_none());

    // On the next way it goes wherever the manifest lets it, or where it is asked for.
    let next = completed(to_b, "web-uid-2", "b");
    let back = target(&next, Some("a"));
    let requirement = &back.pointer(terms).unwrap()[1]["matchFields"];
    assert_eq!(
        *requirement,
        json!([{"key": "metadata.name", "operator": "In", "values": ["a"]}])
    );
    let anywhere = target(&next, None);
    assert_eq!(
        anywhere["spec"]["affinity"]["nodeAffinity"],
        affinity["nodeAffinity"]
    );
    assert!(
        anywhere["metadata"]["annotations"]
            .get("hawser.dev/requested-node")
            .is_none()
    );
    let apart = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    assert_eq!(back.pointer(apart).unwrap().as_array().unwrap().len(), 1);
    let plain = target(&completed(target(&running(&vmi(&[])), Some("b")), "u", "b"), None);
    assert_eq!(plain["spec"]["affinity"]["nodeAffinity"], json!({}));
}

#[test]
fn two_migrations_in_a_row_change_the_name_alone() {
    let source = running(&vmi(&[]));
    let first = target(&source, None);
    let mut second = target(&completed(first.clone(), "web-uid-2", "b"), None);
    let names = [&source, &first, &second].map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned());
    assert!(
        names[0] != names[1] && names[1] != names[2] && names[0] != names[2],
        "{names:?}"
    );
    assert_eq!(
        second["metadata"]["annotations"]["hawser.dev/migrated-from"],
        names[1]
    );
    assert_eq!(
        second["metadata"]["annotations"]["hawser.dev/migrated-from-uid"],
        "web-uid-2"
    );
    second["metadata"] = first["metadata"].clone();
    assert_eq!(first, second);
    let long = running(&vmi(&[("/metadata/name", json!("n".repeat(63)))]));
    assert!(target(&long, None)["metadata"]["name"].as_str().unwrap().len() <= 63);
}

#[test]
fn what_is_no_source_is_refused() {
    let source = running(&vmi(&[]));
    let plain = TargetOf::default();
    let changed = |pointer: &str, value: Value| {
        let mut pod = source.clone();
        set(&mut pod, pointer, value);
        refused(&pod, &plain)
    };
    for (pointer, value, expected) in [
        (
            "/kind",
            json!("Deployment"),
            "kind: expected Pod, found \"Deployment\"",
        ),
        (
            "/metadata/labels",
            json!({}),
            "metadata.labels: no label vm.kubevirt.io/name",
        ),
        ("/metadata/uid", Value::Null, "metadata.uid: not there"),
        (
            "/metadata/deletionTimestamp",
            json!("2026-11-30T10:00:00Z"),
            "metadata.deletionTimestamp: the pod is being deleted",
        ),
        (
            "/metadata/ownerReferences",
            json!([{"kind": "StatefulSet", "name": "web", "controller": true}]),
            "metadata.ownerReferences: the StatefulSet \"web\" would make another pod",
        ),
        (
            "/status/phase",
            json!("Pending"),
            "status.phase: expected Running, found \"Pending\"",
        ),
        (
            "/spec/containers/0/args/0",
            json!("setup"),
            "no container guest that has the argument run",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([]),
            "no certificates at /etc/hawser-tls: make the guest's pod with hawser pod --tls-secret",
        ),
        (
            "/spec/affinity",
            json!([]),
            "spec.affinity: expected the affinity of a pod",
        ),
    ] {
        let error = changed(pointer, value);
        assert!(error.contains(expected), "{pointer}: {error}");
    }
    let here = TargetOf {
        node: Some("a".to_owned()),
        ..plain
    };
    assert!(refused(&source, &here).contains("--node: the guest is on \"a\" already"));
    for nonsense in [
        json!(null),
        json!([1]),
        json!({"spec": [], "metadata": 1}),
        json!({"spec": {"containers": {}}}),
    ] {
        refused(&nonsense, &here);
        assert!(target_name(&nonsense).is_err());
    }
}
