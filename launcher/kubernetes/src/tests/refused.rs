//! What no pod can be made of, by its field.

use serde_json::json;

use super::*;

#[track_caller]
pub(super) fn refuses(manifest: &Value, options: &Options, expected: &str) {
    match try_render(manifest, options) {
        Ok(_) => panic!("rendered, and not refused for {expected}"),
        Err(refusals) => assert!(refusals.contains(expected), "{refusals}"),
    }
}

#[test]
fn by_its_field() {
    let cases: &[(&str, Value, &str)] = &[
        (
            "/spec/volumes",
            json!([{"name": "hawser-state", "emptyDisk": {"capacity": "1Gi"}}]),
            "spec.volumes[0].name: names of volumes that begin with hawser-",
        ),
        ("/spec/subdomain", json!("a.b"), "spec.subdomain: "),
        (
            "/spec/nodeSelector",
            json!({"a": 1}),
            "spec.nodeSelector: expected an object whose values",
        ),
        (
            "/spec/tolerations",
            json!({}),
            "spec.tolerations: expected a list",
        ),
        (
            "/spec/evictionStrategy",
            json!("Maybe"),
            "spec.evictionStrategy: expected None",
        ),
        (
            "/spec/readinessProbe",
            json!({"periodSeconds": 1}),
            "spec.readinessProbe: expected tcpSocket or httpGet",
        ),
        (
            "/spec/livenessProbe",
            json!({"tcpSocket": {"port": 81}}),
            "spec.livenessProbe.tcpSocket.port: not among the interface's ports",
        ),
        (
            "/metadata/annotations",
            json!({"kubectl.kubernetes.io/default-container": "other"}),
            "metadata.annotations[\"kubectl.kubernetes.io/default-container\"]: the pod needs this annotation",
        ),
    ];
    for (pointer, value, expected) in cases {
        refuses(&vmi(&[(pointer, value.clone())]), &options(), expected);
    }
}

#[test]
fn a_probe_that_cannot_reach_the_guest() {
    let manifest = vmi(&[
        (
            "/spec/domain/devices/interfaces/0",
            json!({"name": "default", "sriov": {}}),
        ),
        (
            "/spec/networks/0",
            json!({"name": "default", "multus": {"networkName": "vf"}}),
        ),
        ("/spec/readinessProbe", json!({"tcpSocket": {"port": 80}})),
    ]);
    refuses(
        &manifest,
        &options(),
        "spec.readinessProbe: the kubelet asks at the pod's address",
    );
}

#[test]
fn options_that_name_nothing() {
    let block = Options {
        block_volumes: ["none".to_owned()].into(),
        ..options()
    };
    refuses(&vmi(&[]), &block, "--block: no volume is named \"none\"");
    let resource = Options {
        network_resources: [("none".to_owned(), "r".to_owned())].into(),
        ..options()
    };
    refuses(&vmi(&[]), &resource, "--network-resource: no interface");
    // An option is in no template, whatever the manifest's fields are in.
    let machine = machine(&vmi(&[]), json!({"runStrategy": "Always"}));
    for options in [block, resource] {
        let refusals = try_render(&machine, &options).unwrap_err();
        assert!(!refusals.contains("spec.template"), "{refusals}");
    }
}

#[test]
fn a_controller_that_cannot_be_right() {
    let of = |workload| Options {
        workload,
        ..options()
    };
    refuses(
        &vmi(&[]),
        &of(Workload::StatefulSet),
        "kind: an instance ends with its guest",
    );
    let once = machine(&vmi(&[]), json!({"runStrategy": "Once"}));
    refuses(&once, &of(Workload::Deployment), "spec.runStrategy: ");
    let writes = vmi(&[(
        "/spec/volumes",
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]),
    )]);
    let writes = machine(&writes, json!({"runStrategy": "Always"}));
    refuses(
        &writes,
        &of(Workload::Deployment),
        "spec.template.spec.volumes[0].persistentVolumeClaim: not in a Deployment",
    );
    assert!(try_render(&writes, &of(Workload::StatefulSet)).is_ok());
    let strategy = machine(&vmi(&[]), json!({"runStrategy": "Sometimes"}));
    refuses(&strategy, &options(), "spec.runStrategy: expected Always");
    let long = machine(
        &vmi(&[("/metadata/name", json!("n".repeat(53)))]),
        json!({"runStrategy": "Always"}),
    );
    refuses(
        &long,
        &of(Workload::StatefulSet),
        "metadata.name: a StatefulSet's name",
    );
}
