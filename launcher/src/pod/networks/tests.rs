use std::path::Path;

use super::*;

const KUBEVIRT: &str = r#"{"interfaces":[
  {"network":"default"},
  {"network":"red","deviceInfo":{"type":"pci","version":"1.0.0","pci":{"pci-address":"0000:65:00.2"}},"mac":"02:00:00:00:00:02","mtu":9000},
  {"network":"blue","deviceInfo":{"type":"pci","version":"1.0.0","pci":{"pci-address":"0000:65:00.3"}}}]}"#;

const MULTUS: &str = r#"[
  {"name":"kindnet","interface":"eth0","ips":["10.244.1.7"],"mac":"0a:58:0a:f4:01:07","default":true,"dns":{}},
  {"name":"default/sriov","interface":"podb1f51a511f1","mac":"02:00:00:00:00:02","dns":{},
   "device-info":{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:65:00.2"}}},
  {"name":"default/sriov","interface":"net1","mac":"02:00:00:00:00:03","mtu":1500,"dns":{},
   "device-info":{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:65:00.3","pf-pci-address":"0000:65:00.0"}}}]"#;

fn parse(text: &str) -> Result<PodNetworks, Error> {
    PodNetworks::parse(text, Path::new("/status"))
}

/// `red` and `blue` on the same NetworkAttachmentDefinition.
fn guest() -> GuestSpec {
    let manifest =
        "{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {name: web}, spec: {domain: {
        memory: {guest: 256Mi}, firmware: {kernelBoot: {container: {image: g, kernelPath: /k}}}, devices: {
        interfaces: [{name: default, masquerade: {}}, {name: blue, bridge: {}}, {name: red, bridge: {}}]}},
        networks: [{name: default, pod: {}}, {name: blue, multus: {networkName: sriov}},
          {name: red, multus: {networkName: default/sriov}}]}}";
    crate::spec::load(manifest).unwrap().spec
}

fn interface_of(network: &Network) -> String {
    // sha256("red") begins with b1f51a511f1.
    match network.name.as_str() {
        "red" => "podb1f51a511f1".into(),
        _ => "pod0".into(),
    }
}

fn pci(networks: &PodNetworks, network: &str) -> Option<String> {
    let guest = guest();
    let found = networks.of_guest(&guest, interface_of);
    Some(found.get(network)?.pci?.to_string())
}

#[test]
fn kubevirts_form_is_by_the_manifests_names() {
    let networks = parse(KUBEVIRT).unwrap();
    assert_eq!(pci(&networks, "red").as_deref(), Some("0000:65:00.2"));
    assert_eq!(pci(&networks, "blue").as_deref(), Some("0000:65:00.3"));
    let guest = guest();
    let found = networks.of_guest(&guest, interface_of);
    assert_eq!(found["default"].pci, None);
    assert_eq!(found["red"].mtu, Some(9000));
    assert_eq!(found["red"].mac.unwrap().to_string(), "02:00:00:00:00:02");
    assert_eq!(found["blue"].mac, None);
}

#[test]
fn multus_form_is_by_definition_and_then_by_the_interfaces_name() {
    let networks = parse(MULTUS).unwrap();
    // `blue` comes first in the manifest, but the first entry's interface is `red`'s.
    assert_eq!(pci(&networks, "red").as_deref(), Some("0000:65:00.2"));
    assert_eq!(pci(&networks, "blue").as_deref(), Some("0000:65:00.3"));
    assert_eq!(pci(&networks, "default"), None);
    let guest = guest();
    let found = networks.of_guest(&guest, interface_of);
    assert_eq!(found["blue"].interface.as_deref(), Some("net1"));
}

#[test]
fn two_networks_of_one_definition_are_taken_in_order() {
    let networks = parse(&MULTUS.replace("podb1f51a511f1", "net2")).unwrap();
    assert_eq!(pci(&networks, "blue").as_deref(), Some("0000:65:00.2"));
    assert_eq!(pci(&networks, "red").as_deref(), Some("0000:65:00.3"));
}

#[test]
fn an_older_multus_leaves_the_namespace_out_and_another_namespace_is_another_network() {
    let bare = parse(&MULTUS.replace("default/sriov", "sriov")).unwrap();
    assert!(pci(&bare, "red").is_some());
    let other = parse(&MULTUS.replace("default/sriov", "elsewhere/sriov")).unwrap();
    assert_eq!(pci(&other, "red"), None);
}

#[test]
fn what_is_neither_form_is_refused_by_its_file() {
    for (text, expected) in [
        (
            "",
            "/status: empty: the pod's annotation was not there yet when the file was made",
        ),
        (
            "{\"interfaces\": 3}",
            "/status: neither KubeVirt's network-info nor Multus' network-status",
        ),
        (
            "[{\"interface\": \"net1\"}]",
            "/status: neither KubeVirt's network-info nor Multus' network-status",
        ),
        (
            "[{\"name\": \"a\", \"mac\": \"x\"}]",
            "/status: network a: mac \"x\": expected six hex pairs joined by ':' or '-'",
        ),
        (
            "[{\"name\": \"a\", \"device-info\": {\"pci\": {\"pci-address\": \"65:00.2\"}}}]",
            "/status: network a: pci-address \"65:00.2\": expected a PCI address of the form dddd:bb:ss.f",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn a_file_is_bounded_and_a_missing_one_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status");
    let error = PodNetworks::read(Some(&path)).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
    std::fs::write(&path, " ".repeat(MAX_BYTES as usize + 1)).unwrap();
    let error = PodNetworks::read(Some(&path)).unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }), "{error}");
    std::fs::write(&path, MULTUS).unwrap();
    assert_eq!(PodNetworks::read(Some(&path)).unwrap().unwrap().list.len(), 3);
}
