//! Wishes that hawser used to accept in silence.

use serde_json::{Value, json};

use super::{accepted, refusals, with};
use crate::{FieldPath, SerialConsole};

fn notes(changes: &[(&str, Value)]) -> Vec<String> {
    accepted(changes)
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_console_that_is_not_to_be_logged() {
    let devices = "/spec/domain/devices";
    for (field, value, expected) in [
        ("logSerialConsole", json!(false), SerialConsole::NotLogged),
        ("logSerialConsole", json!(true), SerialConsole::Logged),
        ("autoattachSerialConsole", json!(false), SerialConsole::Absent),
        ("autoattachSerialConsole", json!(true), SerialConsole::Logged),
        ("rng", json!({}), SerialConsole::Logged),
    ] {
        let loaded = accepted(&[(&format!("{devices}/{field}"), value.clone())]);
        assert_eq!(loaded.spec.serial_console, expected, "{field}: {value}");
        assert_eq!(loaded.warnings, [], "{field}: {value}");
    }
    let both = [
        (&*format!("{devices}/logSerialConsole"), json!(true)),
        (&format!("{devices}/autoattachSerialConsole"), json!(false)),
    ];
    assert_eq!(accepted(&both).spec.serial_console, SerialConsole::Absent);
}

#[test]
fn what_the_pod_has_to_have_is_said_apart() {
    let loaded = accepted(&[
        ("/spec/nodeSelector", json!({"disk": "fast"})),
        ("/spec/livenessProbe", json!({"tcpSocket": {"port": 80}})),
        ("/spec/evictionStrategy", json!("LiveMigrate")),
        ("/spec/tolerations", json!([])),
    ]);
    assert_eq!(loaded.warnings, []);
    let texts: Vec<_> = loaded.of_the_pod.iter().map(ToString::to_string).collect();
    let by_pod = "the pod has to have it, as the pod that hawser pod prints does";
    assert_eq!(
        texts,
        [
            format!("spec.nodeSelector: {by_pod}"),
            format!("spec.livenessProbe: the kubelet asks the pod's probes alone: {by_pod}"),
            format!(
                "spec.evictionStrategy: a drain ends the pod unless a PodDisruptionBudget stands in its way: {by_pod}"
            ),
        ]
    );
    let mut copy = loaded.vmi.clone();
    crate::without_fields_of_the_pod(&mut copy);
    let again = crate::load(&copy.to_string()).unwrap();
    assert_eq!((again.of_the_pod, again.spec), (Vec::new(), loaded.spec));
}

#[test]
fn clocks() {
    let timer = |timer: Value| [("/spec/domain/clock", json!({"timer": timer}))];
    assert_eq!(
        refusals(&with(&timer(json!({"kvm": {"present": false}})))),
        ["spec.domain.clock.timer.kvm.present: unsupported value false: expected true"]
    );
    assert!(
        notes(&timer(
            json!({"kvm": {"present": true}, "hpet": {"present": false}})
        ))
        .is_empty()
    );
    assert_eq!(
        notes(&timer(
            json!({"hpet": {"present": true}, "pit": {"tickPolicy": "delay"}})
        ))
        .len(),
        2
    );
}

#[test]
fn growth_beyond_the_boot() {
    let cpu = |most: u32| json!({"sockets": 2, "maxSockets": most});
    assert!(notes(&[("/spec/domain/cpu", cpu(2))]).is_empty());
    assert_eq!(notes(&[("/spec/domain/cpu", cpu(3))]).len(), 1);
    let memory = |most: &str| json!({"guest": "129Mi", "maxGuest": most});
    assert!(notes(&[("/spec/domain/memory", memory("129Mi"))]).is_empty());
    assert_eq!(notes(&[("/spec/domain/memory", memory("256Mi"))]).len(), 1);
    assert!(
        refusals(&with(&[("/spec/domain/memory", memory("much"))]))[0]
            .starts_with("spec.domain.memory.maxGuest: ")
    );
}

#[test]
fn booting_from_the_network() {
    let order = ("/spec/domain/devices/interfaces/0/bootOrder", json!(2));
    let disks = |order: u32| {
        [
            ("/spec/domain/firmware", Value::Null),
            (
                "/spec/volumes",
                json!([{"name": "root", "emptyDisk": {"capacity": "1Gi"}}]),
            ),
            (
                "/spec/domain/devices/disks",
                json!([{"name": "root", "disk": {}, "bootOrder": order}]),
            ),
        ]
    };
    let path = "spec.domain.devices.interfaces[0].bootOrder";
    let with_kernel = notes(&[order.clone()]);
    assert!(
        with_kernel[0].starts_with(&format!("{path}: without effect: the guest boots the kernel")),
        "{with_kernel:?}"
    );
    let after = notes(&[&disks(1)[..], &[order.clone()]].concat());
    assert!(
        after
            .iter()
            .any(|note| note.starts_with(&format!("{path}: without effect"))),
        "{after:?}"
    );
    let before = refusals(&with(&[&disks(3)[..], &[order]].concat()));
    assert!(
        before[0].starts_with(&format!("{path}: not supported")),
        "{before:?}"
    );
}

#[test]
fn annotations_that_ask_for_something() {
    let annotation = |name: &str, value: &str| [("/metadata/annotations", json!({name: value}))];
    let path = |name: &str| format!("{}: ", FieldPath::of("metadata.annotations").key(name));
    let ignition = "kubevirt.io/ignitiondata";
    let refused = refusals(&with(&annotation(ignition, "{}")));
    assert!(
        refused[0].starts_with(&path(ignition)) && refused[0].contains("cloudInitConfigDrive"),
        "{refused:?}"
    );
    for (name, value, noted) in [
        ("kubevirt.io/keep-launcher-alive-after-failure", "true", true),
        ("kubevirt.io/keep-launcher-alive-after-failure", "false", false),
        ("kubevirt.io/memfd", "false", true),
        ("kubevirt.io/something-new", "x", true),
        ("smbios.vm.kubevirt.io/baseBoardManufacturer", "x", true),
        ("kubevirt.io/vm-generation", "7", false),
        ("vm.kubevirt.io/os", "fedora", false),
        ("example.org/kubevirt.io", "x", false),
    ] {
        let found = notes(&annotation(name, value));
        assert_eq!(found.len(), usize::from(noted), "{name}: {found:?}");
        assert!(
            found.iter().all(|note| note.starts_with(&path(name))),
            "{found:?}"
        );
    }
}

#[test]
fn what_an_owner_asks_for_is_noted_where_it_stands() {
    let mut instance = crate::parse(&with(&[])).unwrap();
    let machine = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web"},
        "spec": {
            "runStrategy": "Always", "dataVolumeTemplates": [{"metadata": {"name": "root"}}],
            "template": {"metadata": {"annotations": {"kubevirt.io/memfd": "false"}}, "spec": instance["spec"].take()},
        },
    });
    let loaded = crate::load(&machine.to_string()).unwrap();
    let paths: Vec<_> = loaded.warnings.iter().map(|note| note.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "kind",
            "spec.dataVolumeTemplates[0]",
            "spec.template.metadata.annotations[\"kubevirt.io/memfd\"]"
        ]
    );
}
