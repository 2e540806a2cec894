//! One case for every refusal outside the network, with its exact path and message.

use serde_json::{Value, json};

use super::{MINIMAL, load, refusals, with};

/// The minimal manifest with changes; the refusals, the paths without `spec.domain.devices.` in front.
pub(super) fn check(changes: &[(&str, Value)], expected: &[&str]) {
    check_text(&with(changes), expected);
}

pub(super) fn check_text(text: &str, expected: &[&str]) {
    let found = refusals(text);
    let found: Vec<_> = found
        .iter()
        .map(|line| line.trim_start_matches("spec.domain.devices."))
        .collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn shapes_of_kubevirts_examples() {
    let disks = include_str!("../testdata/disks.yaml");
    // Of what KubeVirt's examples have, nothing is left to refuse.
    for binding in ["bridge", "sriov"] {
        load(&disks.replace("SECOND", binding)).unwrap_or_else(|refusals| panic!("{refusals}"));
    }
}

#[test]
fn structure_and_meaning_are_refused_in_one_go_in_the_order_of_the_document() {
    let text = MINIMAL
        .replace("port: 80", "port: high")
        .replace("guest: 128Mi", "guest: 1X")
        .replace(
            "terminationGracePeriodSeconds: 0",
            "terminationGracePeriodSeconds: -1\n  bogus: 1",
        );
    let expected = [
        "interfaces[0].ports[0].port: expected integer, found string \"high\"",
        "spec.domain.memory.guest: expected a quantity such as 512Mi, 1G or 500m, found \"1X\"",
        "spec.terminationGracePeriodSeconds: must be at least 0, found -1",
        "spec.bogus: unknown field",
    ];
    check_text(&text, &expected);
}

#[test]
fn the_object_itself() {
    let is = |message: &str| vec![message.to_owned()];
    assert_eq!(refusals("[1]"), is("manifest: expected object, found a list"));
    check(
        &[("/apiVersion", json!("v1"))],
        &["apiVersion: unsupported value \"v1\": expected \"kubevirt.io/v1\" or \"kubevirt.io/v1alpha3\""],
    );
    check(&[("/apiVersion", json!(null))], &["apiVersion: required"]);
    check(
        &[("/kind", json!("Pod"))],
        &[
            "kind: expected VirtualMachineInstance, VirtualMachine, VirtualMachineInstanceReplicaSet or VirtualMachinePool, \
             found \"Pod\"",
        ],
    );
    check(&[("/spec", json!(null))], &["spec: required"]);
    check(
        &[("/metadata/name", json!("Upper"))],
        &["metadata.name: expected a DNS name in lower case, found \"Upper\""],
    );
    check(&[("/metadata/name", json!(""))], &["metadata.name: required"]);
    check(
        &[(
            "/metadata/annotations",
            json!({"hooks.kubevirt.io/hookSidecars": "[]"}),
        )],
        &[
            "metadata.annotations[\"hooks.kubevirt.io/hookSidecars\"]: not supported: a hook changes libvirt's domain, and \
             there is none; the sidecar of a binding plugin can change a NIC",
        ],
    );
    check(
        &[("/metadata/annotations", json!({"a": true}))],
        &["metadata.annotations.a: expected string, found boolean true"],
    );
    check(
        &[("/spec/hostname", json!("a.b"))],
        &[
            "spec.hostname: expected at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit, \
         found \"a.b\"",
        ],
    );
    check(
        &[("/spec/subdomain", json!("-a"))],
        &["spec.subdomain: expected a DNS name in lower case, found \"-a\""],
    );
}

#[test]
fn unsupported_and_unknown_fields() {
    check(
        &[("/spec/domain/cpu", json!({"realtime": {}, "numa": {}}))],
        &[
            "spec.domain.cpu.realtime: not supported",
            "spec.domain.cpu.numa: not supported: the guest has one NUMA node",
        ],
    );
    check(
        &[(
            "/spec/domain/devices/watchdog",
            json!({"name": "w", "i6300esb": {"action": "reset"}}),
        )],
        &[
            "watchdog: not supported: cloud-hypervisor has no i6300esb, and the one that it has is a virtio device without a \
             driver in Linux; a liveness probe restarts a guest that does not answer",
        ],
    );
    check(
        &[("/spec/readinessProbe", json!({"exec": {}}))],
        &[
            "spec.readinessProbe.exec: not supported: hawser has no agent in the guest: write tcpSocket or httpGet",
        ],
    );
    check(
        &[("/spec/domain/devices/autoattachGraphicsDevice", json!(true))],
        &["autoattachGraphicsDevice: unsupported value true: expected false"],
    );
    check(
        &[("/spec/netwroks", json!([]))],
        &["spec.netwroks: unknown field, did you mean networks?"],
    );
    check(
        &[("/spec/a b\u{1b}", json!(1))],
        &["spec[\"a b\\u{1b}\"]: unknown field"],
    );
    check(
        &[("/spec/domain/devices/interfaces", json!({}))],
        &["interfaces: expected array, found an object"],
    );
    check(
        &[("/spec/domain/cpu", json!({"cores": -1}))],
        &["spec.domain.cpu.cores: must be at least 0, found -1"],
    );
    check(
        &[("/spec/domain/cpu", json!({"cores": 1.5}))],
        &["spec.domain.cpu.cores: expected integer, found number 1.5"],
    );
}

#[test]
fn cpu_memory_and_boot() {
    check(
        &[("/spec/domain/cpu", json!({"cores": 65536, "sockets": 65536}))],
        &["spec.domain.cpu: more than 1024 vCPUs"],
    );
    check(
        &[("/spec/domain/memory", json!(null))],
        &["spec.domain.memory.guest: required, unless spec.domain.resources names memory"],
    );
    check(
        &[("/spec/domain/memory/guest", json!("15Mi"))],
        &["spec.domain.memory.guest: must be at least 16Mi, found 15728640 bytes"],
    );
    check(
        &[("/spec/domain/memory/guest", json!("-1Gi"))],
        &["spec.domain.memory.guest: must not be negative, found \"-1Gi\""],
    );
    check(
        &[("/spec/domain/resources", json!({"limits": {"memory": "64Mi"}}))],
        &["spec.domain.memory.guest: more than spec.domain.resources.limits.memory"],
    );
    check(
        &[("/spec/domain/resources", json!({"limits": {"cpu": "two"}}))],
        &["spec.domain.resources.limits.cpu: expected a quantity such as 512Mi, 1G or 500m, found \"two\""],
    );
    check(
        &[("/spec/domain/firmware/uuid", json!("1"))],
        &["spec.domain.firmware.uuid: expected a UUID, found \"1\""],
    );
    let boot = |field: &str, value: Value, expected: &str| {
        let pointer = format!("/spec/domain/firmware/kernelBoot/{field}");
        check(
            &[(&pointer, value)],
            &[&format!("spec.domain.firmware.kernelBoot.{expected}")],
        );
    };
    boot("container", json!(null), "container: required");
    boot("container/image", json!(""), "container.image: required");
    boot(
        "container/kernelPath",
        json!("vmlinux"),
        "container.kernelPath: must be an absolute path, found \"vmlinux\"",
    );
    boot(
        "container/initrdPath",
        json!("/a/../b"),
        "container.initrdPath: must not contain '..', found \"/a/../b\"",
    );
    boot(
        "container/kernelPath",
        json!("/"),
        "container.kernelPath: must name a file, found \"/\"",
    );
    check(
        &[("/spec/domain/firmware/kernelBoot/container/kernelPath", json!(""))],
        &[
            "spec.domain.firmware.kernelBoot.container.kernelPath: required: an initrd cannot boot without a kernel",
            "spec.domain.firmware.kernelBoot.kernelArgs: only together with a kernelPath",
        ],
    );
    boot(
        "kernelArgs",
        json!("a\nb"),
        "kernelArgs: control characters are not allowed",
    );
    check(
        &[(
            "/spec/domain/firmware/kernelBoot/container",
            json!({"image": "x"}),
        )],
        &[
            "spec.domain.firmware.kernelBoot.container: at least one of kernelPath and initrdPath is required",
            "spec.domain.firmware.kernelBoot.kernelArgs: only together with a kernelPath",
        ],
    );
}

#[test]
fn dedicated_cpus() {
    let refused = |cpu: Value, resources: Value, expected: &str| {
        check(
            &[("/spec/domain/cpu", cpu), ("/spec/domain/resources", resources)],
            &[&format!("spec.domain.{expected}")],
        );
    };
    let none = || json!({});
    refused(
        json!({"cores": 2, "isolateEmulatorThread": true}),
        none(),
        "cpu.isolateEmulatorThread: only together with dedicatedCpuPlacement",
    );
    refused(
        json!({"dedicatedCpuPlacement": true}),
        none(),
        "cpu.dedicatedCpuPlacement: the number of CPUs is missing: set cores, sockets or threads, or resources.requests.cpu",
    );
    refused(
        json!({"dedicatedCpuPlacement": true, "threads": 4}),
        none(),
        "cpu.threads: at most 2 with dedicatedCpuPlacement",
    );
    let dedicated = || json!({"dedicatedCpuPlacement": true});
    refused(
        dedicated(),
        json!({"limits": {"cpu": "1500m"}}),
        "resources.limits.cpu: with dedicatedCpuPlacement a whole number of CPUs",
    );
    refused(
        dedicated(),
        json!({"requests": {"cpu": 1}, "limits": {"cpu": "2"}}),
        "resources.limits.cpu: with dedicatedCpuPlacement the same as requests.cpu",
    );
    refused(
        json!({"dedicatedCpuPlacement": true, "cores": 3}),
        json!({"requests": {"cpu": "2000m"}}),
        "resources.requests.cpu: with dedicatedCpuPlacement as many as sockets x cores x threads",
    );
}

#[test]
fn the_machine() {
    let refused = |pointer: &str, value: Value, expected: &str| {
        check(&[(pointer, value)], &[&format!("spec.domain.{expected}")]);
    };
    refused(
        "/spec/domain/memory/hugepages",
        json!({"pageSize": "4Mi"}),
        "memory.hugepages.pageSize: unsupported value \"4Mi\": expected \"2Mi\" or \"1Gi\"",
    );
    refused(
        "/spec/domain/memory/hugepages",
        json!({}),
        "memory.hugepages.pageSize: required",
    );
    refused(
        "/spec/domain/memory/hugepages",
        json!({"pageSize": "1Gi"}),
        "memory.hugepages.pageSize: guest memory is no multiple of 1Gi",
    );
    for (features, expected) in [
        (
            json!({"acpi": {"enabled": false}}),
            "acpi.enabled: unsupported value false: expected true",
        ),
        (
            json!({"apic": {"endOfInterrupt": true}}),
            "apic.endOfInterrupt: not supported",
        ),
        (
            json!({"pvspinlock": {"enabled": true}}),
            "pvspinlock.enabled: unsupported value true: expected false",
        ),
        (json!({"hyperv": {"evmcs": {}}}), "hyperv.evmcs: not supported"),
        (json!({"kvm": {"hidden": true}}), "kvm: not supported"),
    ] {
        refused("/spec/domain/features", features, &format!("features.{expected}"));
    }
    for (clock, expected) in [
        (json!({"timezone": "Europe/Berlin"}), "timezone: not supported"),
        (
            json!({"utc": {"offsetSeconds": 60}}),
            "utc.offsetSeconds: not supported",
        ),
    ] {
        refused("/spec/domain/clock", clock, &format!("clock.{expected}"));
    }
}
