//! The pods of a live migration.

use serde_json::json;

use super::*;

fn target() -> Options {
    Options {
        namespace: Some("vms".to_owned()),
        tls_secret: Some("small-migration".to_owned()),
        target: Some("small-b".to_owned()),
        ..options()
    }
}

fn migratable(changes: &[(&str, Value)]) -> Value {
    let mac = (
        "/spec/domain/devices/interfaces/0/macAddress",
        json!("02:00:00:00:00:01"),
    );
    let mut all = vec![mac];
    all.extend(changes.iter().cloned());
    vmi(&all)
}

/// The source's pod and the target's differ in what makes the one receive, and in nothing that the guest sees.
#[test]
fn a_target_differs_from_its_source_in_name_place_and_arguments() {
    let of_source = Options {
        target: None,
        ..target()
    };
    let manifest = migratable(&[]);
    let (before, after) = (rendered(&manifest, &of_source), rendered(&manifest, &target()));
    for (one, other) in before.objects.iter().zip(&after.objects) {
        if one["kind"] != "Pod" {
            assert_eq!(one, other);
        }
    }
    let (mut one, mut other) = (object(&before, "Pod").clone(), object(&after, "Pod").clone());
    assert_eq!(other["metadata"]["name"], "small-b");
    assert_eq!(one["metadata"]["name"], "small");
    let arguments = |pod: &Value| pod["spec"]["containers"][0]["args"].as_array().unwrap().clone();
    let added = arguments(&other).split_off(arguments(&one).len());
    assert_eq!(added, ["--incoming", "--tls-dir", "/etc/hawser-tls"]);
    assert_eq!(
        other["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"],
        json!([{
            "labelSelector": {"matchLabels": {"vm.kubevirt.io/name": "small"}},
            "topologyKey": "kubernetes.io/hostname",
        }])
    );
    for pod in [&mut one, &mut other] {
        pod["metadata"]["name"].take();
        pod["spec"]["containers"][0]["args"].take();
        pod["spec"].as_object_mut().unwrap().remove("affinity");
    }
    assert_eq!(one, other);
}

#[test]
fn both_have_the_certificates_by_hawsers_names() {
    for options in [
        target(),
        Options {
            target: None,
            ..target()
        },
    ] {
        let pod = pod(&migratable(&[]), &options);
        let find = |list: &str| {
            let list = pod.pointer(list).and_then(Value::as_array).unwrap();
            list.iter()
                .find(|one| one["name"] == "hawser-tls")
                .unwrap()
                .clone()
        };
        let secret = &find("/spec/volumes")["secret"];
        assert_eq!(
            (&secret["secretName"], &secret["defaultMode"]),
            (&json!("small-migration"), &json!(0o440))
        );
        let paths: Vec<&str> = secret["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["path"].as_str().unwrap())
            .collect();
        assert_eq!(
            paths,
            [
                "ca-cert.pem",
                "client-cert.pem",
                "client-key.pem",
                "server-cert.pem",
                "server-key.pem"
            ]
        );
        assert_eq!(
            find("/spec/containers/0/volumeMounts")["mountPath"],
            "/etc/hawser-tls"
        );
    }
    let rendered = rendered(&migratable(&[]), &target());
    assert!(notes(&rendered).contains("--tls-secret: the certificate has to be for small.vms.vmi"));
}

#[test]
fn its_affinity_is_added_to_the_manifests() {
    let wanted = json!({
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "rack"}]},
    });
    let affinity =
        pod(&migratable(&[("/spec/affinity", wanted.clone())]), &target())["spec"]["affinity"].clone();
    assert!(affinity["nodeAffinity"].is_object(), "{affinity}");
    let terms = &affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(
        (&terms[0]["topologyKey"], terms.as_array().unwrap().len()),
        (&json!("rack"), 2)
    );
    let bad = migratable(&[("/spec/affinity", json!({"podAntiAffinity": []}))]);
    let error = try_render(&bad, &target()).unwrap_err();
    assert!(
        error.contains("spec.affinity.podAntiAffinity: expected an object"),
        "{error}"
    );
}

/// Its container would wait for a second source where it started again after its guest has ended.
#[test]
fn a_target_is_not_started_again() {
    let machine = machine(&migratable(&[]), json!({"runStrategy": "Always"}));
    let rendered = rendered(&machine, &target());
    assert_eq!(object(&rendered, "Pod")["spec"]["restartPolicy"], "Never");
    assert!(
        notes(&rendered).contains("--target: the pod is not started again"),
        "{}",
        notes(&rendered)
    );
}

/// A guest on its way has more time before its liveness probe counts than one that boots.
#[test]
fn a_liveness_probe_waits_for_the_guest() {
    let manifest = migratable(&[("/spec/livenessProbe", json!({"tcpSocket": {"port": 80}}))]);
    let tries = |options: &Options| {
        pod(&manifest, options)["spec"]["containers"][0]["startupProbe"]["failureThreshold"].clone()
    };
    assert_eq!((tries(&options()), tries(&target())), (json!(120), json!(840)));
}

#[test]
fn what_is_no_target_is_refused() {
    let refused = |manifest: &Value, options: Options, expected: &str| {
        let error = try_render(manifest, &options).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    let name = Options {
        target: Some("small".to_owned()),
        ..target()
    };
    refused(
        &migratable(&[]),
        name,
        "--target: \"small\" is the pod that the guest comes from",
    );
    let plain = Options {
        tls_secret: None,
        ..target()
    };
    refused(
        &migratable(&[]),
        plain,
        "--target: a target needs certificates: add --tls-secret",
    );
    let disk = migratable(&[(
        "/spec/volumes",
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]),
    )]);
    refused(
        &disk,
        target(),
        "--target: the guest cannot migrate: it has a writable disk",
    );
    let always = machine(&migratable(&[]), json!({"runStrategy": "Always"}));
    let set = Options {
        workload: Workload::StatefulSet,
        ..target()
    };
    refused(&always, set, "--target: a target is a pod by itself");
}

#[test]
fn a_policy_lets_the_guests_own_pods_reach_the_migrations_port() {
    let options = Options {
        network_policy: true,
        ..target()
    };
    let rendered = rendered(&migratable(&[]), &options);
    let policy = object(&rendered, "NetworkPolicy");
    assert_eq!(policy["metadata"]["name"], "small-migration");
    let pods = json!({"matchLabels": {"vm.kubevirt.io/name": "small"}});
    assert_eq!(policy["spec"]["podSelector"], pods);
    assert_eq!(
        policy["spec"]["ingress"],
        json!([{"from": [{"podSelector": pods}], "ports": [{"protocol": "TCP", "port": 49152}]}])
    );
    assert!(notes(&rendered).contains("--network-policy: a pod that a NetworkPolicy selects"));
}
