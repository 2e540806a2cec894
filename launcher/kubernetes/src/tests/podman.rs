//! Pods for `podman kube play`.

use serde_json::json;

use super::refused::refuses;
use super::snapshots::snapshot;
use super::*;

fn for_podman() -> Options {
    Options {
        podman: true,
        user_namespaces: false,
        one_container: true,
        ipv6_sysctl: true,
        ..options()
    }
}

#[test]
fn masquerade_for_podman() {
    snapshot("podman", &vmi(&[]), &for_podman());
}

#[test]
fn passt_for_podman() {
    let passt = json!({"name": "default", "passt": {}, "ports": [{"port": 80}]});
    let manifest = vmi(&[
        ("/spec/domain/devices/interfaces/0", passt),
        ("/spec/nodeSelector", json!({"disk": "fast"})),
        ("/spec/priorityClassName", json!("high")),
        ("/spec/readinessProbe", json!({"tcpSocket": {"port": 80}})),
    ]);
    snapshot("podman_passt", &manifest, &for_podman());
}

#[test]
fn what_podman_has_not_is_refused() {
    let disk = |name: &str| ("/spec/domain/devices/disks", json!([{"name": name, "disk": {}}]));
    let cases: &[(&[(&str, Value)], &str)] = &[
        (
            &[
                (
                    "/spec/networks/0",
                    json!({"name": "default", "multus": {"networkName": "red"}}),
                ),
                (
                    "/spec/domain/devices/interfaces/0",
                    json!({"name": "default", "bridge": {}}),
                ),
            ],
            "spec.networks: podman has no Multus",
        ),
        (
            &[("/spec/domain/memory/hugepages", json!({"pageSize": "2Mi"}))],
            "spec.domain.memory.hugepages: podman offers",
        ),
        (
            &[
                (
                    "/spec/volumes",
                    json!([{"name": "info", "downwardAPI": {"fields": []}}]),
                ),
                disk("info"),
            ],
            "spec.volumes[0].downwardAPI: podman has no volumes of this kind",
        ),
        (
            &[(
                "/spec/domain/devices/gpus",
                json!([{"name": "gpu", "deviceName": "nvidia.com/GPU"}]),
            )],
            "spec.domain.devices.gpus[0]: podman has no device plugin",
        ),
    ];
    for (changes, expected) in cases {
        refuses(&vmi(changes), &for_podman(), expected);
    }
    let claim = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    let options = Options {
        block_volumes: ["data".to_owned()].into(),
        ..for_podman()
    };
    refuses(
        &vmi(&[("/spec/volumes", claim), disk("data")]),
        &options,
        "podman knows no block devices of claims",
    );
    let options = Options {
        workload: Workload::StatefulSet,
        ..for_podman()
    };
    refuses(&vmi(&[]), &options, "--kind: podman makes pods only");
}
