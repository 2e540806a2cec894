//! Wishes that a binding or cloud-hypervisor cannot fulfil: refused by their fields, together with everything else.

use serde_json::{Value, json};

use super::*;
use crate::plugins;

const INTERFACES: &str = "/spec/domain/devices/interfaces";
const BINDINGS: &str = "
wire: {domainAttachmentType: tap}
managed: {domainAttachmentType: managedTap}
proxy: {sidecarImage: i}
";

/// Refusals of a guest with this second interface, behind the fields of that interface.
fn refused(interface: Value) -> Vec<String> {
    let registry = plugins::parse(BINDINGS, "FILE").unwrap();
    let mut second = json!({"name": "red"});
    second
        .as_object_mut()
        .unwrap()
        .extend(interface.as_object().unwrap().clone());
    let on_pod_network = second.get("passt").is_some() || second.get("masquerade").is_some();
    let (interfaces, networks) = match on_pod_network {
        true => (json!([second]), json!([{"name": "red", "pod": {}}])),
        false => (
            json!([{"name": "default", "masquerade": {}}, second]),
            json!([{"name": "default", "pod": {}}, {"name": "red", "multus": {"networkName": "red"}}]),
        ),
    };
    let text = with(&[(INTERFACES, interfaces), ("/spec/networks", networks)]);
    let Err(refusals) = load_with(&text, &registry) else {
        return Vec::new();
    };
    let prefix = if on_pod_network {
        "interfaces[0]."
    } else {
        "interfaces[1]."
    };
    let lines = refusals.to_string();
    lines
        .lines()
        .map(|line| {
            line.split_once(prefix)
                .unwrap_or_else(|| panic!("{line}"))
                .1
                .to_owned()
        })
        .collect()
}

#[test]
fn acpi_index_and_pci_address_whatever_the_binding() {
    for binding in [
        json!({"masquerade": {}}),
        json!({"bridge": {}}),
        json!({"passt": {}}),
        json!({"sriov": {}}),
        json!({"binding": {"name": "wire"}}),
        json!({"binding": {"name": "proxy"}}),
        json!({"bridge": {}, "state": "down"}),
    ] {
        let mut interface = binding.clone();
        let fields = json!({"acpiIndex": 3, "pciAddress": "0000:01:00.0"});
        interface
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        assert_eq!(
            refused(interface),
            [
                "acpiIndex: not supported: cloud-hypervisor gives NICs no ACPI index",
                "pciAddress: cloud-hypervisor has bus 00 and function 0 alone, found 0000:01:00.0",
            ],
            "{binding}"
        );
    }
    let absent = json!({"bridge": {}, "state": "absent", "acpiIndex": 3});
    assert_eq!(refused(absent), [""; 0], "there is no such NIC");
}

#[test]
fn pci_addresses_that_the_guest_has_not() {
    let refused = |address: &str| refused(json!({"sriov": {}, "pciAddress": address}));
    for (bad, problem) in [
        (
            "0000:81:00.0",
            "cloud-hypervisor has bus 00 and function 0 alone, found 0000:81:00.0",
        ),
        (
            "0000:00:04.1",
            "cloud-hypervisor has bus 00 and function 0 alone, found 0000:00:04.1",
        ),
        ("0060:00:01.0", "cloud-hypervisor has domains up to 005f"),
        ("0001:00:00.0", "slot 00 is the host bridge's, found 0001:00:00.0"),
    ] {
        assert_eq!(refused(bad), [format!("pciAddress: {problem}")]);
    }
    for good in ["0000:00:1f.0", "0000:00:01.0", "0001:00:01.0", "005f:00:1f.0"] {
        assert_eq!(refused(good), [""; 0], "{good}");
    }
}

#[test]
fn what_passt_has_not() {
    let options = json!({"ntpServers": ["192.0.2.1"], "tftpServerName": "t", "bootFileName": "b",
        "privateOptions": [{"option": 240, "value": "x"}]});
    let refusals = refused(json!({"passt": {}, "dhcpOptions": options, "macAddress": "9a:55:9a:55:9a:55"}));
    let fields = [
        "dhcpOptions.ntpServers",
        "dhcpOptions.tftpServerName",
        "dhcpOptions.bootFileName",
        "dhcpOptions.privateOptions",
        "macAddress",
    ];
    for field in fields {
        let line = refusals
            .iter()
            .find(|line| line.starts_with(&format!("{field}: ")));
        assert!(line.is_some(), "{field}: {refusals:?}");
    }
    assert_eq!(refusals.len(), fields.len(), "{refusals:?}");
}

#[test]
fn what_a_vf_and_a_plugins_nic_have_not() {
    let dhcp = json!({"ntpServers": ["192.0.2.1"]});
    assert_eq!(
        refused(json!({"sriov": {}, "bootOrder": 1, "dhcpOptions": dhcp})),
        [
            "bootOrder: not supported: cloud-hypervisor boots from no VF",
            "dhcpOptions: not possible on SR-IOV: the VF's network has its own server, or none",
        ]
    );
    for name in ["wire", "managed"] {
        assert_eq!(
            refused(json!({"binding": {"name": name}, "dhcpOptions": dhcp})),
            ["dhcpOptions: hawser serves no DHCP to a NIC of a binding plugin"],
            "{name}"
        );
    }
    for name in ["wire", "proxy"] {
        assert_eq!(
            refused(json!({"binding": {"name": name}, "state": "down"})),
            [format!(
                "state: down is not possible here: the NIC's device is that of the plugin {name}"
            )]
        );
    }
    assert_eq!(
        refused(json!({"binding": {"name": "managed"}, "state": "down"})),
        [""; 0]
    );
}

#[test]
fn all_of_them_in_one_go_with_the_rest_of_the_manifest() {
    let text = with(&[
        (
            INTERFACES,
            json!([{"name": "default", "passt": {}, "acpiIndex": 1, "pciAddress": "0000:01:00.0",
                "dhcpOptions": {"ntpServers": ["192.0.2.1"]}, "macAddress": "01:00:00:00:00:01"}]),
        ),
        ("/spec/domain/memory/guest", json!("none")),
        (
            "/spec/domain/firmware/kernelBoot/container/kernelPath",
            json!(null),
        ),
        (
            "/spec/domain/firmware/kernelBoot/container/initrdPath",
            json!("/initrd"),
        ),
        ("/spec/domain/firmware/kernelBoot/kernelArgs", json!(null)),
    ]);
    let lines = refusals(&text);
    for field in [
        "spec.domain.memory.guest: ",
        "spec.domain.firmware.kernelBoot.container.kernelPath: required: an initrd cannot boot without a kernel",
        "spec.domain.devices.interfaces[0].acpiIndex: ",
        "spec.domain.devices.interfaces[0].pciAddress: ",
        "spec.domain.devices.interfaces[0].dhcpOptions.ntpServers: ",
        "spec.domain.devices.interfaces[0].macAddress: ",
    ] {
        assert!(
            lines.iter().any(|line| line.starts_with(field)),
            "{field}: {lines:#?}"
        );
    }
    assert_eq!(lines.len(), 6, "{lines:#?}");
}
