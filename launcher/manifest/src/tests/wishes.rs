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
        ]
    );
    // The launcher in the pod has to know it.
    assert!(loaded.spec.live_migrate);
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
    let with_kernel = notes(std::slice::from_ref(&order));
    assert!(
        with_kernel[0].starts_with(&format!("{path}: without effect: the guest boots the kernel")),
        "{with_kernel:?}"
    );
    let after = notes(&[&disks(1)[..], std::slice::from_ref(&order)].concat());
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

#[test]
fn a_port_under_two_names() {
    let ports = json!([
        {"name": "web", "port": 80}, {"name": "probe", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"}, {"port": 80},
    ]);
    let loaded = accepted(&[("/spec/domain/devices/interfaces/0/ports", ports)]);
    let crate::Ports::Listed(list) = &loaded.spec.interfaces[0].ports else {
        panic!()
    };
    let names: Vec<_> = list
        .iter()
        .map(|port| (port.name.as_deref(), port.first))
        .collect();
    let expected = [
        (Some("web"), 80),
        (Some("probe"), 80),
        (Some("dns"), 53),
        (Some("dns-tcp"), 53),
        (None, 80),
    ];
    assert_eq!(names, expected);
    let ranges =
        json!([{"protocol": "TCP", "start": 1, "end": 5}, {"protocol": "TCP", "start": 5, "end": 9}]);
    let refused = refusals(&with(&[
        ("/spec/domain/devices/interfaces/0/ports", Value::Null),
        ("/spec/domain/devices/interfaces/0/portRanges", ranges),
    ]));
    assert!(
        refused[0].starts_with("spec.domain.devices.interfaces[0].portRanges[1]: the same port"),
        "{refused:?}"
    );
}

#[test]
fn names_that_are_longer_than_a_host_may_have() {
    let hostname = |name: &str| accepted(&[("/metadata/name", json!(name))]).spec.hostname;
    let long = "n".repeat(200);
    assert_eq!(hostname(&long), "n".repeat(63));
    let dash = format!("{}-tail", "n".repeat(62));
    assert_eq!(hostname(&dash), "n".repeat(62));
    assert_eq!(hostname(&format!("{dash}.example")), "n".repeat(62));
    assert_eq!(hostname("web.example.org"), "web");
    for bad in ["a..b", "-a", "a-", "a_b", &"n".repeat(254)] {
        assert!(
            refusals(&with(&[("/metadata/name", json!(bad))]))[0].starts_with("metadata.name: "),
            "{bad}"
        );
    }
}

#[test]
fn a_guest_network_where_nothing_makes_one() {
    let cidrs = (
        "/spec/networks/0/pod",
        json!({"vmNetworkCIDR": "10.9.0.0/24", "vmIPv6NetworkCIDR": "fd09::/64"}),
    );
    assert!(notes(std::slice::from_ref(&cidrs)).is_empty());
    let bridge = (
        "/spec/domain/devices/interfaces/0",
        json!({"name": "default", "bridge": {}}),
    );
    let found = notes(&[cidrs, bridge]);
    let paths: Vec<_> = found.iter().map(|note| note.split(':').next().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "spec.networks[0].pod.vmNetworkCIDR",
            "spec.networks[0].pod.vmIPv6NetworkCIDR"
        ]
    );
}

#[test]
fn a_guest_that_an_operator_starts() {
    let paused = accepted(&[("/spec/startStrategy", json!("Paused"))]);
    assert!(paused.spec.starts_paused && paused.warnings.is_empty());
    assert!(!accepted(&[]).spec.starts_paused);
}

#[test]
fn what_happens_at_a_reboot_and_at_a_panic() {
    let policy = |policy: &str| {
        accepted(&[("/spec/domain/rebootPolicy", json!(policy))])
            .spec
            .ends_at_reboot
    };
    assert!(policy("Terminate") && !policy("Reboot"));
    let panic = |devices: Value| accepted(&[("/spec/domain/devices/panicDevices", devices)]);
    let plain = panic(json!([{"model": "pvpanic"}]));
    assert_eq!((plain.spec.pvpanic, plain.warnings), (true, Vec::new()));
    assert!(panic(json!([{}])).spec.pvpanic && !panic(json!([])).spec.pvpanic);
    let other = panic(json!([{"model": "isa"}]));
    assert!(other.spec.pvpanic);
    assert_eq!(
        other.warnings[0].path,
        "spec.domain.devices.panicDevices[0].model"
    );
}

#[test]
fn public_keys_go_to_the_volume_that_is_to_have_them() {
    let credential = |method: &str| {
        json!({"sshPublicKey": {
            "source": {"secret": {"secretName": "keys"}}, "propagationMethod": {method: {}},
        }})
    };
    let seed = |source: &str| {
        (
            "/spec/volumes",
            json!([{"name": "seed", source: {"userData": "x"}}]),
        )
    };
    let key = |method: &str| ("/spec/accessCredentials", json!([credential(method)]));
    for (method, source) in [
        ("noCloud", "cloudInitNoCloud"),
        ("configDrive", "cloudInitConfigDrive"),
    ] {
        let spec = accepted(&[seed(source), key(method)]).spec;
        let crate::VolumeSource::CloudInit(found) = &spec.disks[0].volume.source else {
            panic!()
        };
        assert_eq!(found.public_keys[0].secret, "keys");
        assert_eq!(found.public_keys[0].volume(), "keys.access-credential");
        assert_eq!(
            found.public_keys[0].path,
            "spec.accessCredentials[0].sshPublicKey"
        );
    }
    let path = "spec.accessCredentials[0].sshPublicKey";
    let other = refusals(&with(&[seed("cloudInitNoCloud"), key("configDrive")]));
    assert!(
        other[0].starts_with(&format!("{path}.propagationMethod: the guest finds the keys on")),
        "{other:?}"
    );
    let agent = refusals(&with(&[seed("cloudInitNoCloud"), key("qemuGuestAgent")]));
    assert_eq!(
        agent,
        [format!("{path}.propagationMethod.qemuGuestAgent.users: required")]
    );
    let hostile = json!([{"sshPublicKey": {
        "source": {"secret": {"secretName": "../x"}}, "propagationMethod": {"noCloud": {}},
    }}]);
    let hostile = refusals(&with(&[
        seed("cloudInitNoCloud"),
        ("/spec/accessCredentials", hostile),
    ]));
    assert!(
        hostile[0].starts_with(&format!("{path}.source.secret.secretName: expected")),
        "{hostile:?}"
    );
    let password = json!([{"userPassword": {"source": {"secret": {"secretName": "p"}}}}]);
    let password = refusals(&with(&[
        seed("cloudInitNoCloud"),
        ("/spec/accessCredentials", password),
    ]));
    assert!(
        password[0].starts_with("spec.accessCredentials[0].userPassword: not supported"),
        "{password:?}"
    );
}

#[test]
fn roots_keys_need_no_agent_and_other_users_have_none() {
    let credential = |users: Value| {
        json!([{"sshPublicKey": {
            "source": {"secret": {"secretName": "keys"}}, "propagationMethod": {"qemuGuestAgent": {"users": users}},
        }}])
    };
    let at = "/spec/accessCredentials";
    let spec = accepted(&[(at, credential(json!(["root"])))]).spec;
    assert_eq!(spec.root_keys.len(), 1);
    assert_eq!(spec.root_keys[0].volume(), "keys.access-credential");
    let others = refusals(&with(&[(at, credential(json!(["root", "fedora"])))]));
    let path = "spec.accessCredentials[0].sshPublicKey.propagationMethod";
    assert!(
        others[0].starts_with(&format!("{path}.qemuGuestAgent.users[1]: only root's keys")),
        "{others:?}"
    );
    let mut two = credential(json!(["root"]));
    two[0]["sshPublicKey"]["propagationMethod"]["noCloud"] = json!({});
    let two = refusals(&with(&[(at, two)]));
    assert!(two[0].starts_with(&format!("{path}: expected one of")), "{two:?}");
}

#[test]
fn more_disks_than_a_pci_segment_has_slots() {
    let volumes: Vec<Value> = (0..100)
        .map(|n| json!({"name": format!("d{n}"), "emptyDisk": {"capacity": "1Gi"}}))
        .collect();
    let spec = accepted(&[("/spec/volumes", json!(volumes))]).spec;
    assert_eq!((spec.disks.len(), spec.disks_on_first_segment()), (100, 27));
}
