//! Files of plugins in, the registry or exact refusals out.

use super::*;

const ALL: &str = "
macvtap:
  domainAttachmentType: tap
  downwardAPI: device-info
  migration: {method: link-refresh}
l2:
  domainAttachmentType: managedTap
  networkAttachmentDefinition: net/l2.example
  migration: {}
proxy:
  sidecarImage: registry.example/proxy:1
  computeResourceOverhead: {requests: {memory: 250Mi, cpu: 100m}, limits: {memory: 1}}
";

fn refused(text: &str) -> Vec<String> {
    match parse(text, "FILE") {
        Ok(registry) => panic!("accepted: {registry:#?}"),
        Err(refusals) => refusals.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn all_that_a_plugin_can_say() {
    let registry = parse(ALL, "FILE").unwrap();
    let macvtap = registry.find("macvtap").unwrap();
    assert_eq!(macvtap.domain_attachment_type, Some(DomainAttachment::Tap));
    assert_eq!(macvtap.downward_api, Some(DownwardApi::DeviceInfo));
    assert_eq!(
        macvtap.migration,
        Some(Migration {
            method: Some(MigrationMethod::LinkRefresh)
        })
    );
    let l2 = registry.find("l2").unwrap();
    assert_eq!(l2.domain_attachment_type, Some(DomainAttachment::ManagedTap));
    assert_eq!(
        l2.network_attachment_definition.as_deref(),
        Some("net/l2.example")
    );
    assert_eq!(l2.migration, Some(Migration { method: None }));
    assert_eq!(l2.compute_resource_overhead, Overhead::default());
    let proxy = registry.find("proxy").unwrap();
    assert_eq!(proxy.sidecar_image.as_deref(), Some("registry.example/proxy:1"));
    assert_eq!((proxy.domain_attachment_type, proxy.migration), (None, None));
    assert_eq!(proxy.compute_resource_overhead.requests["cpu"], "100m");
    assert_eq!(proxy.compute_resource_overhead.limits["memory"], "1");
}

#[test]
fn bare_below_binding_and_in_a_kubevirt_object_it_is_the_same() {
    let indented = |by: usize| ALL.replace('\n', &format!("\n{}", " ".repeat(by)));
    let bare = parse(ALL, "FILE").unwrap();
    assert_eq!(parse(&format!("binding:{}", indented(2)), "FILE").unwrap(), bare);
    let object = format!(
        "apiVersion: kubevirt.io/v1\nkind: KubeVirt\nmetadata: {{name: kubevirt}}\nspec:\n  infra: {{replicas: 1}}\n  \
         configuration:\n    evictionStrategy: None\n    network:\n      defaultNetworkInterface: bridge\n      binding:{}",
        indented(8)
    );
    assert_eq!(parse(&object, "FILE").unwrap(), bare);
    let json = r#"{"binding": {"l2": {"domainAttachmentType": "managedTap"}}}"#;
    assert!(parse(json, "FILE").unwrap().find("l2").is_ok());
}

#[test]
fn a_kubevirt_object_without_plugins_registers_none() {
    for configuration in ["{}", "{configuration: null}", "{configuration: {network: {}}}"] {
        let registry = parse(&format!("{{kind: KubeVirt, spec: {configuration}}}"), "FILE").unwrap();
        assert!(registry.is_empty());
        assert_eq!(
            registry.find("l2"),
            Err("binding plugin \"l2\" is not registered: FILE registers nothing".to_owned())
        );
    }
}

#[test]
fn who_is_not_registered_is_told_what_is() {
    assert_eq!(
        parse(ALL, "FILE").unwrap().find("l3"),
        Err("binding plugin \"l3\" is not registered: FILE registers l2, macvtap, proxy".to_owned())
    );
    assert_eq!(
        Registry::default().find("l3"),
        Err("binding plugin \"l3\" is not registered: pass --bindings FILE".to_owned())
    );
}

#[test]
fn every_fault_is_refused_by_its_path() {
    let text = "
a: {domainAttachmentType: Tap}
b: {domainAttachmentType: tap, slot: 1}
c: {domainAttachmentType: tap, migration: {method: cold, mode: x}}
d: {domainAttachmentType: tap, downwardAPI: all}
e: {domainAttachmentType: tap, networkAttachmentDefinition: a/b/c}
f: {domainAttachmentType: tap, computeResourceOverhead: {requests: {memory: lots}, claims: []}}
g: {sidecarImage: ''}
h: {migration: {}}
i:
j: tap
'k l': {domainAttachmentType: tap}
";
    let expected = [
        "a.domainAttachmentType: unsupported value \"Tap\": expected \"tap\" or \"managedTap\"",
        "b.slot: unknown field",
        "c.migration.method: unsupported value \"cold\": expected \"link-refresh\"",
        "c.migration.mode: unknown field",
        "d.downwardAPI: unsupported value \"all\": expected \"device-info\"",
        "e.networkAttachmentDefinition: expected NAME or NAMESPACE/NAME, found \"a/b/c\"",
        "f.computeResourceOverhead.requests.memory: expected a quantity such as 512Mi, 1G or 500m, found \"lots\"",
        "f.computeResourceOverhead.claims: unknown field",
        "g: needs a domainAttachmentType or a sidecarImage: without either the guest has no NIC",
        "h: needs a domainAttachmentType or a sidecarImage: without either the guest has no NIC",
        "i: expected an object, found null",
        "j: expected object, found string \"tap\"",
        "[\"k l\"]: expected a name of letters, digits, '-', '_' and '.', found \"k l\"",
    ];
    assert_eq!(refused(text), expected);
    let below = format!("binding: {{{}}}", "a: {slots: 1}");
    assert_eq!(refused(&below)[1], "binding.a.slots: unknown field");
    let object =
        "{kind: KubeVirt, spec: {configuration: {network: {binding: {a: {domainAttachmentType: x}}}}}}";
    assert_eq!(
        refused(object),
        [
            "spec.configuration.network.binding.a.domainAttachmentType: unsupported value \"x\": expected \"tap\" or \
             \"managedTap\""
        ]
    );
}

#[test]
fn what_is_no_such_file_at_all() {
    for (text, expected) in [
        ("", "bindings: empty"),
        ("[]", "bindings: expected a map of names to plugins"),
        ("tap", "bindings: expected a map of names to plugins"),
        (
            "kind: VirtualMachineInstance",
            "kind: expected KubeVirt, found \"VirtualMachineInstance\"",
        ),
        ("binding: []", "binding: expected an object"),
        (
            "{kind: KubeVirt, spec: {configuration: {network: 1}}}",
            "spec.configuration.network: expected an object",
        ),
        (
            "{binding: {}, l2: {domainAttachmentType: tap}}",
            "l2: beside binding, below which the plugins are: move it there",
        ),
    ] {
        assert_eq!(refused(text), [expected], "{text}");
    }
    assert!(refused("a: {").len() == 1 && refused("a: {}\na: {}")[0].contains("duplicate"));
    let large = format!("a: {{sidecarImage: {}}}", "x".repeat(crate::MAX_BYTES));
    assert_eq!(refused(&large), ["bindings: larger than 1048576 bytes"]);
}
