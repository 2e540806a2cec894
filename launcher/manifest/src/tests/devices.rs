//! GPUs, host devices, shared file systems, the virtio socket and the TPM: what is accepted, and each refusal.

use serde_json::{Value, json};

use super::refused::check;
use super::{accepted, load, refusals, with};
use crate::{HostDeviceSource, ReadyWhen, Vsock};

const DEVICES: &str = "/spec/domain/devices";
const VOLUMES: &str = "/spec/volumes";

fn at(list: &str) -> String {
    format!("{DEVICES}/{list}")
}

fn refused(list: &str, value: Value, expected: &[&str]) {
    check(&[(&at(list), value)], expected);
}

#[test]
fn gpus_come_before_host_devices_and_each_has_its_source() {
    let loaded = accepted(&[
        (
            &at("hostDevices"),
            json!([{"name": "nic", "deviceName": "intel.com/qat"}]),
        ),
        (
            &at("gpus"),
            json!([{"name": "gpu1", "deviceName": "nvidia.com/TU104GL_Tesla_T4"}, {"name": "gpu2", "claimName": "gpus", "requestName": "any"}]),
        ),
        (
            "/spec/resourceClaims",
            json!([{"name": "gpus", "resourceClaimTemplateName": "gpu-template"}]),
        ),
    ]);
    let names: Vec<_> = loaded
        .spec
        .host_devices
        .iter()
        .map(|device| (device.path.as_str(), device.name.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("spec.domain.devices.gpus[0]", "gpu1"),
            ("spec.domain.devices.gpus[1]", "gpu2"),
            ("spec.domain.devices.hostDevices[0]", "nic"),
        ]
    );
    let sources: Vec<_> = loaded
        .spec
        .host_devices
        .iter()
        .map(|device| &device.source)
        .collect();
    assert!(
        matches!(sources.as_slice(), [HostDeviceSource::Resource(a), HostDeviceSource::Claim(claim), HostDeviceSource::Resource(_)]
            if a == "nvidia.com/TU104GL_Tesla_T4" && claim.request == "any")
    );
    assert!(loaded.warnings.is_empty());
}

#[test]
fn host_devices_refused() {
    let named = |name: &str| json!({"name": name, "deviceName": "x.io/a"});
    refused(
        "gpus",
        json!([{"deviceName": "x.io/a"}]),
        &["gpus[0].name: required"],
    );
    refused("gpus", json!([named("")]), &["gpus[0].name: required"]);
    refused(
        "hostDevices",
        json!([named("a/b")]),
        &["hostDevices[0].name: expected at most 63 letters, digits, '-', '_' and '.', found \"a/b\""],
    );
    check(
        &[
            (&at("gpus"), json!([named("a")])),
            (&at("hostDevices"), json!([named("a")])),
        ],
        &["hostDevices[0].name: the same as that of spec.domain.devices.gpus[0]"],
    );
    for source in [
        json!({}),
        json!({"deviceName": ""}),
        json!({"claimName": "c"}),
        json!({"deviceName": "x", "claimName": "c", "requestName": "r"}),
    ] {
        let mut device = json!({"name": "a"});
        device
            .as_object_mut()
            .unwrap()
            .extend(source.as_object().unwrap().clone());
        refused(
            "gpus",
            json!([device]),
            &["gpus[0]: expected either deviceName, or claimName with requestName"],
        );
    }
    let claimed = |name: &str| json!({"name": name, "claimName": "c", "requestName": "r"});
    refused(
        "gpus",
        json!([claimed("a")]),
        &["gpus[0].claimName: no entry of spec.resourceClaims is named \"c\""],
    );
    check(
        &[
            (&at("gpus"), json!([claimed("a"), claimed("b")])),
            (
                "/spec/resourceClaims",
                json!([{"name": "c", "resourceClaimName": "c"}]),
            ),
        ],
        &["gpus[1]: the same claim and request as spec.domain.devices.gpus[0]"],
    );
    refused(
        "gpus",
        json!([{"name": "a", "deviceName": "x.io/a", "virtualGPUOptions": {}, "tag": "t"}]),
        &[
            "gpus[0].virtualGPUOptions: not supported",
            "gpus[0].tag: not supported",
        ],
    );
}

/// The minimal manifest with a volume `a` of each source, shared.
fn shared(source: Value) -> String {
    let mut volume = json!({"name": "a"});
    volume
        .as_object_mut()
        .unwrap()
        .extend(source.as_object().unwrap().clone());
    with(&[
        (VOLUMES, json!([volume])),
        (&at("filesystems"), json!([{"name": "a", "virtiofs": {}}])),
    ])
}

#[test]
fn volumes_that_are_directories_can_be_shared() {
    for (source, readonly) in [
        (json!({"persistentVolumeClaim": {"claimName": "c"}}), false),
        (
            json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}}),
            true,
        ),
        (json!({"dataVolume": {"name": "d"}}), false),
        (json!({"configMap": {"name": "m"}}), true),
        (json!({"secret": {"secretName": "s"}}), true),
        (json!({"serviceAccount": {"serviceAccountName": "s"}}), true),
        (json!({"downwardAPI": {"fields": []}}), true),
    ] {
        let spec = load(&shared(source.clone()))
            .unwrap_or_else(|r| panic!("{source}: {r}"))
            .spec;
        let found: Vec<_> = spec
            .filesystems
            .iter()
            .map(|f| (f.name.as_str(), f.readonly))
            .collect();
        assert_eq!((found, spec.disks.len()), (vec![("a", readonly)], 0), "{source}");
    }
    for (source, name) in [
        (json!({"emptyDisk": {"capacity": "1Gi"}}), "emptyDisk"),
        (json!({"containerDisk": {"image": "i"}}), "containerDisk"),
        (
            json!({"hostDisk": {"path": "/d/disk.img", "type": "Disk"}}),
            "hostDisk",
        ),
        (json!({"cloudInitNoCloud": {"userData": "x"}}), "cloudInitNoCloud"),
    ] {
        let refusals = load(&shared(source)).unwrap_err().to_string();
        let expected = format!(
            "spec.domain.devices.filesystems[0].name: the volume is of {name}, which is no directory"
        );
        assert!(refusals.starts_with(&expected), "{refusals}");
    }
}

#[test]
fn filesystems_refused() {
    let volume = |name: &str| json!({"name": name, "configMap": {"name": "m"}});
    let one = |filesystems: Value, expected: &[&str]| {
        check(
            &[(VOLUMES, json!([volume("a")])), (&at("filesystems"), filesystems)],
            expected,
        );
    };
    one(json!([{"name": "a"}]), &["filesystems[0].virtiofs: required"]);
    one(
        json!([{"name": "a", "virtiofs": {}}, {"name": "b", "virtiofs": {}}]),
        &["filesystems[1].name: no volume is named \"b\""],
    );
    one(
        json!([{"name": "a", "virtiofs": {}}, {"name": "a", "virtiofs": {}}]),
        &["filesystems[1].name: duplicate name \"a\""],
    );
    check(
        &[
            (VOLUMES, json!([volume("a")])),
            (&at("disks"), json!([{"name": "a"}])),
            (&at("filesystems"), json!([{"name": "a", "virtiofs": {}}])),
        ],
        &["filesystems[0].name: the volume \"a\" is already a disk of the guest"],
    );
    let long = "a".repeat(37);
    check(
        &[
            (VOLUMES, json!([volume(&long)])),
            (&at("filesystems"), json!([{"name": long, "virtiofs": {}}])),
        ],
        &[&format!(
            "filesystems[0].name: the guest mounts it by this name, of at most 36 bytes, found {long:?}"
        )],
    );
}

#[test]
fn the_virtio_socket_has_the_clusters_cid_or_the_first() {
    let attach = at("autoattachVSOCK");
    let vsock = |cid| Vsock {
        cid,
        ready_when: None,
    };
    assert_eq!(accepted(&[(&attach, json!(false))]).spec.vsock, None);
    assert_eq!(accepted(&[(&attach, json!(true))]).spec.vsock, Some(vsock(3)));
    let status = |status: Value| {
        accepted(&[(&attach, json!(true)), ("/status", status)])
            .spec
            .vsock
    };
    assert_eq!(
        status(json!({"VSOCKCID": 1234, "phase": "Running"})),
        Some(vsock(1234))
    );
    assert_eq!(status(json!({"phase": "Running"})), Some(vsock(3)));
    // What the cluster has given is not asked for.
    assert_eq!(
        accepted(&[("/status", json!({"VSOCKCID": 1234}))]).spec.vsock,
        None
    );
    check(
        &[("/status", json!({"VSOCKCID": 2}))],
        &["status.VSOCKCID: must be at least 3, found 2"],
    );
    check(
        &[("/status", json!({"VSOCKCID": 4294967295_u32}))],
        &["status.VSOCKCID: must be at most 4294967294, found 4294967295"],
    );
}

#[test]
fn a_guest_is_ready_when_its_systemd_says_so_if_the_manifest_asks_for_that() {
    let annotated = |value: &str| ("/metadata/annotations", json!({"hawser.dev/ready-when": value}));
    let attach = at("autoattachVSOCK");
    let read = |value: &str| {
        let spec = accepted(&[(&attach, json!(true)), annotated(value)]).spec;
        spec.vsock.unwrap().ready_when
    };
    assert_eq!(read("running"), None);
    assert_eq!(read("booted"), Some(ReadyWhen::Booted));
    let target = ReadyWhen::Target("multi-user.target".to_owned());
    assert_eq!(read("multi-user.target"), Some(target));
    let path = "metadata.annotations[\"hawser.dev/ready-when\"]";
    for bad in ["soon", "", "ssh.service", "a b.target"] {
        let said = refusals(&with(&[(&attach, json!(true)), annotated(bad)]));
        assert!(
            said[0].starts_with(&format!("{path}: expected running, booted")),
            "{said:?}"
        );
    }
    let said = refusals(&with(&[annotated("booted")]));
    assert!(
        said[0].starts_with(&format!("{path}: the guest's systemd reports over")),
        "{said:?}"
    );
}

#[test]
fn a_tpm_is_refused_unless_it_is_off() {
    assert!(
        accepted(&[(&at("tpm"), json!({"enabled": false}))])
            .warnings
            .is_empty()
    );
    for tpm in [json!({}), json!({"enabled": true, "persistent": true})] {
        refused(
            "tpm",
            tpm,
            &[
                "tpm: not supported by this version of hawser: it has no TPM emulator (swtpm) to put behind it; leave it out, \
               or say enabled: false",
            ],
        );
    }
}

#[test]
fn every_device_takes_a_slot() {
    let volumes: Vec<_> = (0..25)
        .map(|n| json!({"name": format!("v{n}"), "emptyDisk": {"capacity": "1Mi"}}))
        .collect();
    let disks: Vec<_> = (0..25).map(|n| json!({"name": format!("v{n}")})).collect();
    let rest = |gpus: usize| {
        let gpus: Vec<_> = (0..gpus)
            .map(|n| json!({"name": format!("g{n}"), "deviceName": "x.io/a"}))
            .collect();
        [
            (VOLUMES.to_owned(), json!(volumes)),
            (at("disks"), json!(disks)),
            (at("gpus"), json!(gpus)),
            (at("autoattachVSOCK"), json!(true)),
        ]
    };
    let changes = |gpus| rest(gpus).map(|(pointer, value)| (pointer, value));
    let one = changes(25);
    let fits: Vec<_> = one
        .iter()
        .map(|(pointer, value)| (pointer.as_str(), value.clone()))
        .collect();
    accepted(&fits);
    let two = changes(26);
    let more: Vec<_> = two
        .iter()
        .map(|(pointer, value)| (pointer.as_str(), value.clone()))
        .collect();
    check(
        &more,
        &[
            "spec.domain.devices: at most 27 interfaces and other devices besides disks, found 28: a PCI segment has 32 slots",
        ],
    );
}
