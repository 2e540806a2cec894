//! What is accepted, and what becomes of it.

use serde_json::json;

use super::{MINIMAL, accepted, load, parse, with};
use crate::document::report::Report;
use crate::v1::template::Kind;
use crate::*;

const INTERFACE: &str = "/spec/domain/devices/interfaces/0";

#[test]
fn the_minimal_manifest_in_full() {
    let Loaded { spec, warnings, .. } = load(MINIMAL).unwrap();
    assert_eq!(warnings, []);
    let expected = json!({
        "name": "small", "namespace": "default", "uid": null, "istio": false, "keep_ports": [], "pod_bridge_may_migrate": false,
        "hostname": "small", "subdomain": null,
        "vcpus": 1, "topology": {"sockets": 1, "cores": 1, "threads": 1},
        "memory": 128 << 20, "hugepage_size": null,
        "kernel_boot": {
            "path": "spec.domain.firmware.kernelBoot", "image": "guests/small", "kernel_path": "/vmlinux", "initrd_path": "/initrd",
            "kernel_args": "console=ttyS0",
        },
        "firmware_uuid": null, "firmware_serial": null,
        "termination_grace_period_seconds": 0, "network_interface_multiqueue": null,
        "interfaces": [{
            "index": 0, "path": "spec.domain.devices.interfaces[0]", "name": "default",
            "network": {
                "name": "default", "path": "spec.networks[0]",
                "source": {"pod": {"vm_network_cidr": null, "vm_ipv6_network_cidr": null}},
            },
            "binding": "masquerade", "mac": null,
            "ports": {"listed": [{"name": "http", "protocol": "TCP", "first": 80, "last": 80}]},
            "model": "virtio", "pci_address": null, "boot_order": null, "acpi_index": null, "tag": null,
            "state": "up",
            "dhcp_options": {
                "ntp_servers": [], "tftp_server_name": null, "boot_file_name": null, "private_options": {},
            },
        }],
        "block_multi_queue": false, "disks": [],
    });
    assert_eq!(serde_json::to_value(&spec).unwrap(), expected);
}

#[test]
fn every_field_of_an_interface() {
    let loaded = accepted(&[
        (
            INTERFACE,
            json!({
                "name": "default", "masquerade": {}, "model": "e1000", "macAddress": "DE-AD-00-00-BE-EF",
                "bootOrder": 1, "pciAddress": "0000:00:11.0", "tag": "red", "acpiIndex": 0, "state": "down",
                "portRanges": [
                    {"protocol": "UDP", "start": 5000, "end": 6000}, {"protocol": "TCP", "start": 1, "end": 1},
                ],
                "dhcpOptions": {
                    "bootFileName": "pxe", "tftpServerName": "tftp.example", "ntpServers": ["192.0.2.1"],
                    "privateOptions": [{"option": 240, "value": "private"}],
                },
            }),
        ),
        (
            "/spec/networks/0/pod",
            json!({"vmNetworkCIDR": "10.10.10.0/30", "vmIPv6NetworkCIDR": "fd10:10:10::/120"}),
        ),
    ]);
    let paths: Vec<_> = loaded.warnings.iter().map(|note| note.path.as_str()).collect();
    let path = "spec.domain.devices.interfaces[0]";
    assert_eq!(
        paths,
        [
            format!("{path}.model"),
            format!("{path}.bootOrder"),
            format!("{path}.state")
        ]
    );
    let [interface] = loaded.spec.interfaces.as_slice() else {
        panic!()
    };
    assert_eq!(interface.mac.unwrap().to_string(), "de:ad:00:00:be:ef");
    assert_eq!(interface.pci_address.unwrap().to_string(), "0000:00:11.0");
    assert_eq!((interface.boot_order, interface.acpi_index), (Some(1), None));
    assert_eq!(interface.tag.as_deref(), Some("red"));
    assert_eq!(interface.state, LinkState::Down);
    let udp = PortRange {
        name: None,
        protocol: Protocol::Udp,
        first: 5000,
        last: 6000,
    };
    let Ports::Listed(ports) = &interface.ports else {
        panic!("{:?}", interface.ports);
    };
    assert_eq!(ports[0], udp);
    assert_eq!(interface.dhcp_options.private_options[&240], b"private");
    assert_eq!(
        interface.dhcp_options.ntp_servers,
        [std::net::Ipv4Addr::new(192, 0, 2, 1)]
    );
    let NetworkSource::Pod {
        vm_network_cidr,
        vm_ipv6_network_cidr,
    } = &interface.network.source
    else {
        panic!()
    };
    assert_eq!(vm_network_cidr.unwrap().to_string(), "10.10.10.0/30");
    assert_eq!(vm_ipv6_network_cidr.unwrap().to_string(), "fd10:10:10::/120");
}

#[test]
fn passt_by_both_of_its_fields_beside_a_secondary_bridge() {
    for field in ["passt", "passtBinding"] {
        let interfaces = json!([{"name": "default", field: {}}, {"name": "red", "bridge": {}}]);
        let networks =
            json!([{"name": "default", "pod": {}}, {"name": "red", "multus": {"networkName": "red"}}]);
        let loaded = accepted(&[
            ("/spec/domain/devices/interfaces", interfaces),
            ("/spec/networks", networks),
        ]);
        let bindings: Vec<_> = loaded
            .spec
            .interfaces
            .iter()
            .map(|interface| &interface.binding)
            .collect();
        assert_eq!(bindings, [&Binding::Passt, &Binding::Bridge], "{field}");
    }
}

#[test]
fn a_nic_that_is_absent_is_neither_the_guests_nor_counted_by_multus() {
    let loaded = accepted(&[
        (
            "/spec/domain/devices/interfaces",
            json!([
                {"name": "default", "masquerade": {}}, {"name": "gone", "bridge": {}, "state": "absent"},
                {"name": "red", "bridge": {}},
            ]),
        ),
        (
            "/spec/networks",
            json!([
                {"name": "default", "pod": {}}, {"name": "gone", "multus": {"networkName": "gone"}},
                {"name": "red", "multus": {"networkName": "red"}},
            ]),
        ),
    ]);
    let interfaces: Vec<_> = loaded
        .spec
        .interfaces
        .iter()
        .map(|interface| {
            (
                interface.name.as_str(),
                interface.index,
                interface.network.ordinal,
            )
        })
        .collect();
    assert_eq!(interfaces, [("default", 0, None), ("red", 2, Some(1))]);
    let [note] = loaded.warnings.as_slice() else {
        panic!("{:?}", loaded.warnings)
    };
    assert_eq!(note.path, "spec.domain.devices.interfaces[1].state");
}

#[test]
fn what_kubevirt_writes_into_every_object_is_accepted() {
    let loaded = accepted(&[
        ("/spec/domain/cpu", json!({"cores": 1, "maxSockets": 4})),
        (
            "/spec/domain/memory",
            json!({"guest": "128Mi", "maxGuest": "512Mi"}),
        ),
        ("/spec/domain/machine", json!({"type": "q35"})),
        ("/spec/domain/ioThreadsPolicy", json!("auto")),
        (
            "/spec/domain/devices/inputs",
            json!([{"name": "tablet", "type": "tablet", "bus": "usb"}]),
        ),
    ]);
    let texts: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "spec.domain.devices.inputs[0]: not passed on: the guest has no screen to point at",
            "spec.domain.memory.maxGuest: no memory is added to a running guest: it keeps what it boots with",
            "spec.domain.cpu.maxSockets: no CPUs are added to a running guest: it keeps those that it boots with",
            "spec.domain.machine.type: ignored: cloud-hypervisor has one machine type, which is not \"q35\"",
            "spec.domain.ioThreadsPolicy: not passed on: each queue of a disk has a thread of its own",
        ]
    );
}

#[test]
fn dedicated_cpus() {
    for (cpu, resources, isolate_emulator) in [
        (
            json!({"cores": 2, "dedicatedCpuPlacement": true}),
            json!({}),
            false,
        ),
        (
            json!({"dedicatedCpuPlacement": true, "isolateEmulatorThread": true}),
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2000m"}}),
            true,
        ),
    ] {
        let spec = accepted(&[("/spec/domain/cpu", cpu), ("/spec/domain/resources", resources)]).spec;
        assert_eq!(
            (spec.vcpus, spec.dedicated_cpus),
            (2, Some(DedicatedCpus { isolate_emulator }))
        );
    }
    let plain = accepted(&[("/spec/domain/cpu", json!({"dedicatedCpuPlacement": false}))]);
    assert_eq!(plain.spec.dedicated_cpus, None);
}

#[test]
fn no_ports_means_all() {
    for ports in [json!(null), json!([])] {
        let loaded = accepted(&[(&format!("{INTERFACE}/ports"), ports)]);
        assert_eq!(loaded.spec.interfaces[0].ports, Ports::All);
    }
}

#[test]
fn reserved_ports_are_a_warning() {
    let ports =
        json!([{"port": 49152}, {"port": 49153}, {"port": 49154, "protocol": "UDP"}, {"port": 49155}]);
    let warnings = accepted(&[(&format!("{INTERFACE}/ports"), ports)]).warnings;
    let paths: Vec<_> = warnings
        .iter()
        .map(|note| note.path.rsplit("].").nth(1).unwrap_or_default())
        .collect();
    assert_eq!(paths, ["ports[0", "ports[1"], "{warnings:?}");
}

#[test]
fn without_interfaces_the_pod_network_is_attached() {
    let none = [
        ("/spec/networks", json!([])),
        ("/spec/domain/devices/interfaces", json!(null)),
    ];
    let loaded = accepted(&none);
    let [interface] = loaded.spec.interfaces.as_slice() else {
        panic!()
    };
    assert_eq!(
        (interface.name.as_str(), &interface.binding),
        ("default", &Binding::Masquerade)
    );
    assert_eq!(interface.ports, Ports::All);
    let [first, second] = none;
    let off = ("/spec/domain/devices/autoattachPodInterface", json!(false));
    assert!(accepted(&[first, second, off]).spec.interfaces.is_empty());
}

#[test]
fn cpus_from_topology_or_resources() {
    let cases = [
        (json!({"cores": 2, "threads": 2, "sockets": 3}), json!({}), 12, 3),
        (json!({"cores": 4}), json!({"limits": {"cpu": 2}}), 4, 1),
        (
            json!(null),
            json!({"limits": {"cpu": "1500m"}, "requests": {"cpu": 7}}),
            2,
            2,
        ),
        (json!({"cores": 0}), json!({"requests": {"cpu": 3}}), 3, 3),
        (
            json!({"model": "host-passthrough"}),
            json!({"requests": {"cpu": "100m"}}),
            1,
            1,
        ),
    ];
    for (cpu, resources, vcpus, sockets) in cases {
        let spec = accepted(&[("/spec/domain/cpu", cpu), ("/spec/domain/resources", resources)]).spec;
        assert_eq!((spec.vcpus, spec.topology.sockets), (vcpus, sockets));
    }
}

#[test]
fn memory_from_guest_or_resources() {
    let cases = [
        (json!({"guest": "1024M"}), json!({}), 1_023_410_176),
        (json!({"guest": 134217728}), json!({}), 128 << 20),
        (
            json!({"guest": "128Mi"}),
            json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}}),
            128 << 20,
        ),
        (
            json!(null),
            json!({"requests": {"memory": "64Mi"}, "limits": {"memory": "1Gi"}}),
            64 << 20,
        ),
        (json!(null), json!({"limits": {"memory": "0.5Gi"}}), 512 << 20),
    ];
    for (memory, resources, bytes) in cases {
        let spec = accepted(&[
            ("/spec/domain/memory", memory),
            ("/spec/domain/resources", resources),
        ])
        .spec;
        assert_eq!(spec.memory, bytes);
    }
}

#[test]
fn the_pods_bridge_may_migrate_by_an_annotation_of_any_value() {
    assert!(!accepted(&[]).spec.pod_bridge_may_migrate);
    for value in ["", "true", "false"] {
        let annotations = json!({"kubevirt.io/allow-pod-bridge-network-live-migration": value});
        let spec = accepted(&[("/metadata/annotations", annotations)]).spec;
        assert!(
            spec.pod_bridge_may_migrate,
            "{value:?}: KubeVirt looks for the key alone"
        );
    }
}

#[test]
fn meshes_by_label_or_annotation_and_ports_that_stay_in_the_pod() {
    let loaded = |labels: Value, annotations: Value| {
        accepted(&[
            ("/metadata/labels", labels),
            ("/metadata/annotations", annotations),
        ])
    };
    let istio = |labels, annotations| loaded(labels, annotations).spec.istio;
    let inject = |value: &str| json!({"sidecar.istio.io/inject": value});
    assert!(istio(inject("true"), json!({})));
    assert!(istio(json!({}), inject("True")));
    assert!(!istio(inject("false"), inject("true")), "the label decides");
    assert!(!istio(json!({}), json!({})));
    let kept = |annotations| loaded(json!({}), annotations).spec.keep_ports;
    assert_eq!(
        kept(json!({"hawser.dev/keep-ports": "9901, 10000-10002,linkerd,9901"})),
        [4140, 4143, 4190, 4191, 9901, 10000, 10001, 10002]
    );
    assert!(kept(json!({"hawser.dev/keep-ports": "Istio"})).contains(&15006));
    let linkerd = loaded(json!({}), json!({"linkerd.io/inject": "enabled"}));
    assert_eq!(linkerd.spec.keep_ports, [4140, 4143, 4190, 4191]);
    assert!(
        linkerd.warnings[0].to_string().contains("linkerd.io/inject"),
        "{:?}",
        linkerd.warnings
    );
    assert!(
        loaded(json!({}), json!({"linkerd.io/inject": "disabled"}))
            .warnings
            .is_empty()
    );
    for (name, value) in [
        ("istio.io/dataplane-mode", "ambient"),
        ("kuma.io/sidecar-injection", "enabled"),
        ("consul.hashicorp.com/connect-inject", "true"),
        ("openservicemesh.io/sidecar-injection", "enabled"),
    ] {
        let loaded = loaded(json!({name: value}), json!({}));
        let note = loaded.warnings[0].to_string();
        assert!(
            note.contains(name) && note.contains("hawser does nothing for"),
            "{note}"
        );
    }
}

#[test]
fn names_and_identity() {
    let spec = accepted(&[
        ("/metadata/name", json!("vm.with.dots")),
        ("/metadata/namespace", json!("tenant")),
        ("/metadata/uid", json!("0b9a")),
        (
            "/metadata/annotations",
            json!({"sidecar.istio.io/inject": "true", "other": "x"}),
        ),
        ("/spec/subdomain", json!("sub.domain")),
        (
            "/spec/domain/firmware/uuid",
            json!("5D307CA9-b3ef-428c-8861-06e72d69f223"),
        ),
        ("/spec/domain/firmware/serial", json!("e4686d2c-6e8d")),
        ("/spec/terminationGracePeriodSeconds", json!(null)),
    ])
    .spec;
    assert_eq!(
        (spec.hostname.as_str(), spec.subdomain.as_deref()),
        ("vm", Some("sub.domain"))
    );
    assert_eq!(
        (spec.namespace.as_str(), spec.uid.as_deref(), spec.istio),
        ("tenant", Some("0b9a"), true)
    );
    assert_eq!(
        spec.firmware_uuid.as_deref(),
        Some("5d307ca9-b3ef-428c-8861-06e72d69f223")
    );
    assert_eq!(spec.termination_grace_period_seconds, 30);
    let long = "a".repeat(70);
    let spec = accepted(&[("/spec/hostname", json!("other"))]).spec;
    assert_eq!(spec.hostname, "other");
    assert!(load(&with(&[("/spec/hostname", json!(long))])).is_err());
}

#[test]
fn what_cannot_matter_is_accepted_by_name() {
    accepted(&[
        ("/apiVersion", json!("kubevirt.io/v1alpha3")),
        ("/status", json!({"phase": "Running"})),
        ("/metadata/ownerReferences", json!([{"kind": "x"}])),
        ("/spec/nodeSelector", json!({"a": "b"})),
        ("/spec/tolerations", json!([{}])),
        ("/spec/evictionStrategy", json!("LiveMigrate")),
        (
            "/spec/readinessProbe",
            json!({"tcpSocket": {"port": 80}, "periodSeconds": 5}),
        ),
        ("/spec/domain/devices/autoattachGraphicsDevice", json!(false)),
        ("/spec/domain/devices/autoattachMemBalloon", json!(true)),
    ]);
}

#[test]
fn the_schema_validates_what_is_accepted_and_nothing_else() {
    let problems = |text: &str| {
        let mut report = Report::default();
        let mut value = parse(text).unwrap();
        check::check(&schema_of(Kind::Instance), &mut value, &mut report);
        report.finish(&value).map_err(|refusals| refusals.to_string())
    };
    assert_eq!(problems(MINIMAL), Ok(Vec::new()));
    assert_eq!(
        problems(&with(&[("/spec/x", json!(1))])).unwrap_err(),
        "spec.x: unknown field"
    );
    // The check understands every keyword that the schema uses.
    let known = [
        "$schema",
        "title",
        "description",
        "$defs",
        "$ref",
        "type",
        "properties",
        "additionalProperties",
        "required",
        "items",
        "enum",
        "const",
        "anyOf",
        "minimum",
        "maximum",
        "format",
        "default",
    ];
    fn keywords(schema: &serde_json::Value, into: &mut std::collections::BTreeSet<String>) {
        let Some(map) = schema.as_object() else { return };
        for (keyword, value) in map {
            into.insert(keyword.clone());
            match keyword.as_str() {
                "properties" | "$defs" => value
                    .as_object()
                    .unwrap()
                    .values()
                    .for_each(|v| keywords(v, into)),
                "anyOf" => value.as_array().unwrap().iter().for_each(|v| keywords(v, into)),
                "items" | "additionalProperties" => keywords(value, into),
                _ => {}
            }
        }
    }
    let mut used = std::collections::BTreeSet::new();
    for kind in [Kind::Instance, Kind::VirtualMachine, Kind::ReplicaSet, Kind::Pool] {
        keywords(&schema_of(kind), &mut used);
    }
    used.retain(|keyword| !known.contains(&keyword.as_str()));
    assert!(used.is_empty(), "{used:?}");
}

#[test]
fn the_published_schema_has_a_branch_for_each_kind() {
    let schema = schema();
    let branches = schema["oneOf"].as_array().unwrap();
    for (branch, kind) in branches.iter().zip([
        "VirtualMachineInstance",
        "VirtualMachine",
        "VirtualMachineInstanceReplicaSet",
        "VirtualMachinePool",
    ]) {
        assert_eq!(branch["$ref"], format!("#/$defs/{kind}"));
        assert_eq!(schema["$defs"][kind]["type"], "object", "{kind}");
    }
    assert_eq!(branches.len(), 4);
}

#[test]
fn the_machine_that_the_guest_is_to_find() {
    let Loaded { spec, warnings, .. } = accepted(&[
        (
            "/spec/domain/memory",
            json!({"guest": "2Gi", "hugepages": {"pageSize": "1Gi"}}),
        ),
        (
            "/spec/domain/features",
            json!({"acpi": {}, "apic": {"enabled": true}, "hyperv": {"relaxed": {}, "spinlocks": {"spinlocks": 8191}},
                "smm": {"enabled": true}}),
        ),
        (
            "/spec/domain/clock",
            json!({"utc": {}, "timer": {"hpet": {"present": false}, "rtc": {"tickPolicy": "catchup"}}}),
        ),
    ]);
    assert_eq!(spec.hugepage_size, Some(1 << 30));
    let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "spec.domain.features.hyperv: not passed on: the guest finds KVM, without Hyper-V's enlightenments",
            "spec.domain.features.smm: not passed on: cloud-hypervisor has no system management mode, and the guest has no secure \
             boot that needs it",
            "spec.domain.clock.timer.rtc: not passed on: the guest's clocks are the TSC, the local APIC's timer and kvmclock",
        ]
    );
}
