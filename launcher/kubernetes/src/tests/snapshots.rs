//! What `hawser pod` prints, as it is.

use serde_json::json;

use super::*;

pub(super) fn snapshot(name: &str, manifest: &Value, options: &Options) {
    let rendered = rendered(manifest, options);
    let text = format!(
        "{}# Notes:\n{}",
        crate::stream(&rendered.objects).unwrap(),
        notes(&rendered)
    );
    insta::assert_snapshot!(name, text);
}

#[test]
fn masquerade_in_a_user_namespace() {
    snapshot("masquerade", &vmi(&[]), &options());
}

#[test]
fn masquerade_in_two_containers() {
    let options = Options {
        user_namespaces: false,
        ipv6_sysctl: true,
        ..options()
    };
    snapshot("two_containers", &vmi(&[]), &options);
}

#[test]
fn masquerade_in_one_container() {
    let options = Options {
        user_namespaces: false,
        one_container: true,
        ..options()
    };
    snapshot("one_container", &vmi(&[]), &options);
}

#[test]
fn passt_without_any_privilege() {
    let manifest = vmi(&[(
        "/spec/domain/devices/interfaces/0",
        json!({"name": "default", "passt": {}}),
    )]);
    snapshot("passt", &manifest, &options());
}

#[test]
fn sriov_beside_masquerade() {
    let manifest = vmi(&[
        (
            "/spec/domain/devices/interfaces/1",
            json!({"name": "red", "sriov": {}, "macAddress": "02:00:00:00:00:01"}),
        ),
        (
            "/spec/networks/1",
            json!({"name": "red", "multus": {"networkName": "fabric/vf"}}),
        ),
        (
            "/spec/domain/cpu",
            json!({"cores": 2, "dedicatedCpuPlacement": true}),
        ),
    ]);
    let options = Options {
        network_resources: [("red".to_owned(), "example.com/vf".to_owned())].into(),
        ..options()
    };
    snapshot("sriov", &manifest, &options);
}

#[test]
fn every_volume() {
    let manifest = vmi(&[(
        "/spec/volumes",
        json!([
            {"name": "root", "containerDisk": {
                "image": "registry.example/debian:13", "imagePullPolicy": "Always", "imagePullSecret": "pull",
            }},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "raw", "persistentVolumeClaim": {"claimName": "raw"}},
            {"name": "imported", "dataVolume": {"name": "imported"}},
            {"name": "scratch", "emptyDisk": {"capacity": "4Gi"}},
            {"name": "base", "ephemeral": {"persistentVolumeClaim": {"claimName": "base"}}},
            {"name": "node", "hostDisk": {"path": "/srv/vm/disk.img", "type": "DiskOrCreate", "capacity": "1Gi"}},
            {"name": "seed", "cloudInitNoCloud": {"userData": "#cloud-config\npassword: secret\n", "networkDataSecretRef": {"name": "net"}}},
            {"name": "settings", "configMap": {"name": "settings", "optional": true}},
            {"name": "keys", "secret": {"secretName": "keys"}},
            {"name": "account", "serviceAccount": {"serviceAccountName": "guest"}},
            {"name": "about", "downwardAPI": {"fields": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]),
    )]);
    let options = Options {
        block_volumes: ["raw".to_owned()].into(),
        ..options()
    };
    snapshot("volumes", &manifest, &options);
}

#[test]
fn a_machine_with_all_that_schedules_it() {
    let instance = vmi(&[
        (
            "/metadata/labels",
            json!({"app": "shop", "app.kubernetes.io/instance": "shop"}),
        ),
        ("/spec/nodeSelector", json!({"zone": "a"})),
        (
            "/spec/affinity",
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "shop"}}},
            ]}}),
        ),
        ("/spec/tolerations", json!([{"key": "vms", "operator": "Exists"}])),
        (
            "/spec/topologySpreadConstraints",
            json!([
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            ]),
        ),
        ("/spec/schedulerName", json!("other")),
        ("/spec/priorityClassName", json!("high")),
        ("/spec/serviceAccountName", json!("guest")),
        ("/spec/dnsPolicy", json!("None")),
        ("/spec/dnsConfig", json!({"nameservers": ["192.0.2.53"]})),
        ("/spec/hostname", json!("web")),
        ("/spec/subdomain", json!("shop")),
        ("/spec/terminationGracePeriodSeconds", json!(180)),
        ("/spec/evictionStrategy", json!("LiveMigrate")),
        (
            "/spec/readinessProbe",
            json!({"tcpSocket": {"port": "http"}, "periodSeconds": 1}),
        ),
        (
            "/spec/livenessProbe",
            json!({"httpGet": {"port": 80, "path": "/"}, "initialDelaySeconds": 20, "failureThreshold": 3}),
        ),
        (
            "/spec/domain/resources",
            json!({
                "requests": {"cpu": "500m", "memory": "128Mi"},
                "limits": {"cpu": 2, "memory": "192Mi", "example.com/fpga": 1},
            }),
        ),
    ]);
    let machine = machine(&instance, json!({"runStrategy": "Always"}));
    let options = Options {
        namespace: Some("vms".to_owned()),
        workload: Workload::StatefulSet,
        ..options()
    };
    snapshot("machine", &machine, &options);
}

#[test]
fn each_secret_of_a_seed_has_its_own_directory() {
    let manifest = vmi(&[
        (
            "/spec/volumes",
            json!([{"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "one"}, "networkDataSecretRef": {"name": "two"}}}]),
        ),
        (
            "/spec/accessCredentials",
            json!([
                {"sshPublicKey": {"source": {"secret": {"secretName": "keys"}}, "propagationMethod": {"noCloud": {}}}},
            ]),
        ),
    ]);
    let pod = pod(&manifest, &options());
    let mounts = pod
        .pointer("/spec/containers/0/volumeMounts")
        .unwrap()
        .as_array()
        .unwrap();
    let volumes = pod.pointer("/spec/volumes").unwrap().as_array().unwrap();
    let secret_at = |path: &str| {
        let mount = mounts
            .iter()
            .find(|mount| mount["mountPath"] == path)
            .unwrap_or_else(|| panic!("nothing at {path}"));
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"])
            .unwrap();
        volume
            .pointer("/secret/secretName")
            .and_then(Value::as_str)
            .unwrap()
    };
    assert_eq!(secret_at("/run/hawser/volumes/seed"), "one");
    assert_eq!(secret_at("/run/hawser/volumes/seed.networkdata"), "two");
    assert_eq!(secret_at("/run/hawser/volumes/keys.access-credential"), "keys");
}
