//! One case for every refusal of interfaces and networks, with its exact path and message.

use serde_json::{Value, json};

use super::refused::{check, check_text};
use super::with;

const INTERFACES: &str = "/spec/domain/devices/interfaces";
const FIRST: &str = "/spec/domain/devices/interfaces/0";

/// `masquerade` on the pod network plus a second interface and its network, changed by the case.
fn second(interface: Value, network: Value) -> String {
    with(&[
        (&format!("{INTERFACES}/1"), interface),
        ("/spec/networks/1", network),
    ])
}

fn multus(name: &str) -> Value {
    json!({"name": name, "multus": {"networkName": "conf"}})
}

/// The interface with one more field.
fn interface(field: &str, value: Value, expected: &[&str]) {
    check(&[(&format!("{FIRST}/{field}"), value)], expected);
}

#[test]
fn names_of_interfaces_and_networks() {
    check_text(
        &second(json!({"name": "default", "masquerade": {}}), multus("default")),
        &[
            "interfaces[1].name: duplicate name \"default\": a network takes one interface",
            "spec.networks[1].name: duplicate name \"default\": every network needs its own",
        ],
    );
    interface(
        "name",
        json!("other"),
        &[
            "interfaces[0].name: no network is named \"other\"",
            "spec.networks[0].name: no interface is named \"default\"",
        ],
    );
    check(
        &[
            (&format!("{FIRST}/name"), json!("a b")),
            ("/spec/networks/0/name", json!("a b")),
        ],
        &[
            "interfaces[0].name: expected letters, digits, '-' and '_', found \"a b\"",
            "spec.networks[0].name: expected letters, digits, '-' and '_', found \"a b\"",
        ],
    );
}

#[test]
fn sources_of_networks() {
    let network = |value: Value, expected: &[&str]| check(&[("/spec/networks/0", value)], expected);
    network(
        json!({"name": "default"}),
        &["spec.networks[0]: expected exactly one of pod, multus and resourceClaim, found none"],
    );
    network(
        json!({"name": "default", "pod": {}, "multus": {"networkName": "x"}}),
        &["spec.networks[0]: expected exactly one of pod, multus and resourceClaim, found pod and multus"],
    );
    network(
        json!({"name": "default", "genie": {}}),
        &["spec.networks[0].genie: not supported"],
    );
    network(
        json!({"name": "default", "multus": {"networkName": ""}}),
        &[
            "interfaces[0].masquerade: only on the pod network",
            "spec.networks[0].multus.networkName: required",
        ],
    );
    let iface = || json!({"name": "b", "masquerade": {}});
    check_text(
        &second(iface(), json!({"name": "b", "pod": {}})),
        &["spec.networks[1].pod: only one pod network, and networks[0] is one already"],
    );
    let default = |name: &str| json!({"name": name, "multus": {"networkName": "x", "default": true}});
    check_text(
        &second(json!({"name": "b", "bridge": {}}), default("b")),
        &["spec.networks[1].multus.default: it would replace the pod network, and networks[0] is that"],
    );
    check(
        &[
            (
                INTERFACES,
                json!([{"name": "a", "bridge": {}}, {"name": "b", "bridge": {}}]),
            ),
            ("/spec/networks", json!([default("a"), default("b")])),
        ],
        &["spec.networks[1].multus.default: only one Multus default, and networks[0] is one already"],
    );
}

#[test]
fn guest_networks() {
    let v4 = |text: &str, message: &str| {
        let expected = format!("spec.networks[0].pod.vmNetworkCIDR: {message}");
        check(
            &[("/spec/networks/0/pod", json!({"vmNetworkCIDR": text}))],
            &[&expected],
        );
    };
    v4(
        "10.0.2.0",
        "expected an IPv4 network such as 10.0.2.0/24, found \"10.0.2.0\"",
    );
    v4(
        "10.0.2.0/024",
        "expected an IPv4 network such as 10.0.2.0/24, found \"10.0.2.0/024\"",
    );
    v4(
        "010.0.2.0/24",
        "expected an IPv4 network such as 10.0.2.0/24, found \"010.0.2.0/24\"",
    );
    v4(
        "fd10::/120",
        "expected an IPv4 network such as 10.0.2.0/24, found \"fd10::/120\"",
    );
    v4(
        "10.0.2.1/24",
        "not a network address: 10.0.2.1/24 lies in 10.0.2.0/24",
    );
    v4(
        "10.0.2.0/31",
        "too small for a gateway and a guest: at most /30, found /31",
    );
    v4(
        "127.0.1.0/24",
        "must not hold loopback addresses, found 127.0.1.0/24",
    );
    v4(
        "169.254.1.0/24",
        "must not hold link-local addresses, found 169.254.1.0/24",
    );
    v4(
        "224.0.0.0/8",
        "must not hold multicast addresses, found 224.0.0.0/8",
    );
    v4(
        "240.0.0.0/8",
        "must not hold reserved addresses, found 240.0.0.0/8",
    );
    v4(
        "0.0.0.0/0",
        "must not hold this network (RFC 1122) addresses, found 0.0.0.0/0",
    );
    let v6 = |text: &str, message: &str| {
        let expected = format!("spec.networks[0].pod.vmIPv6NetworkCIDR: {message}");
        check(
            &[("/spec/networks/0/pod", json!({"vmIPv6NetworkCIDR": text}))],
            &[&expected],
        );
    };
    v6(
        "fd10::",
        "expected an IPv6 network such as fd10:0:2::/120, found \"fd10::\"",
    );
    v6(
        "fd10::1/120",
        "not a network address: fd10::1/120 lies in fd10::/120",
    );
    v6(
        "fd10::/127",
        "too small for a gateway and a guest: at most /126, found /127",
    );
    v6("::/120", "must not hold loopback addresses, found ::/120");
    v6("fe80::/64", "must not hold link-local addresses, found fe80::/64");
    v6("ff02::/64", "must not hold multicast addresses, found ff02::/64");
    v6(
        "::ffff:0:0/112",
        "must not hold IPv4-mapped addresses, found ::ffff:0.0.0.0/112",
    );
}

#[test]
fn bindings() {
    interface(
        "masquerade",
        json!(null),
        &["interfaces[0]: expected exactly one binding, found none"],
    );
    interface(
        "bridge",
        json!({}),
        &["interfaces[0]: expected exactly one binding, found masquerade and bridge"],
    );
    interface(
        "masquerade",
        json!(true),
        &["interfaces[0].masquerade: expected object, found boolean true"],
    );
    for (field, instead) in [
        ("slirp", "masquerade or passt"),
        (
            "macvtap",
            "binding, with the name of a plugin whose domainAttachmentType is tap",
        ),
    ] {
        let expected =
            format!("interfaces[0].{field}: not supported: KubeVirt has removed it: write {instead}");
        check(
            &[
                (&format!("{FIRST}/masquerade"), json!(null)),
                (&format!("{FIRST}/{field}"), json!({})),
            ],
            &[&expected],
        );
    }
    check_text(
        &second(json!({"name": "b", "masquerade": {}}), multus("b")),
        &["interfaces[1].masquerade: only on the pod network"],
    );
    check_text(
        &second(json!({"name": "b", "passt": {}}), multus("b")),
        &["interfaces[1].passt: only on the pod network"],
    );
}

#[test]
fn addresses_and_orders() {
    let form = "expected six hex pairs joined by ':' or '-'";
    for text in [
        "02:00",
        "de:ad:00:00:be:ef:01",
        "de:ad-00:00:be:ef",
        "+e:ad:00:00:be:ef",
        "zz:ad:00:00:be:ef",
    ] {
        interface(
            "macAddress",
            json!(text),
            &[&format!("interfaces[0].macAddress: {form}, found \"{text}\"")],
        );
    }
    interface(
        "macAddress",
        json!("02:00:00:00:00:00"),
        &["interfaces[0].macAddress: reserved for the gateway of masquerade, found 02:00:00:00:00:00"],
    );
    interface(
        "macAddress",
        json!("00:00:00:00:00:00"),
        &["interfaces[0].macAddress: must not be all zero, found 00:00:00:00:00:00"],
    );
    interface(
        "macAddress",
        json!("01:00:5e:00:00:01"),
        &["interfaces[0].macAddress: must not be a multicast address, found 01:00:5e:00:00:01"],
    );
    for text in ["0000:81:01", "000:81:01.0", "0000:81:20.0", "0000:81:01.8"] {
        let expected = format!(
            "interfaces[0].pciAddress: expected a PCI address of the form dddd:bb:ss.f, found \"{text}\""
        );
        interface("pciAddress", json!(text), &[&expected]);
    }
    interface(
        "bootOrder",
        json!(0),
        &["interfaces[0].bootOrder: must be at least 1, found 0"],
    );
    let same = json!({"macAddress": "de:ad:00:00:be:ef", "bootOrder": 1, "pciAddress": "0000:00:11.0"});
    let named = |name: &str, binding: &str| {
        let mut interface = same.clone();
        interface["name"] = json!(name);
        interface[binding] = json!({});
        interface
    };
    let interfaces = json!([named("a", "masquerade"), named("b", "bridge")]);
    let networks = json!([{"name": "a", "pod": {}}, multus("b")]);
    check(
        &[(INTERFACES, interfaces), ("/spec/networks", networks)],
        &[
            "interfaces[1].macAddress: the same as that of interfaces[0]",
            "interfaces[1].bootOrder: the same as that of interfaces[0]",
            "interfaces[1].pciAddress: the same as that of interfaces[0]",
        ],
    );
}

#[test]
fn models_and_states() {
    interface(
        "model",
        json!("vmxnet3"),
        &[
            "interfaces[0].model: unsupported value \"vmxnet3\": expected \"virtio\" or \"e1000\" or \"e1000e\" or \
         \"ne2k_pci\" or \"pcnet\" or \"rtl8139\"",
        ],
    );
    interface(
        "state",
        json!("sideways"),
        &["interfaces[0].state: unsupported value \"sideways\": expected \"up\" or \"down\" or \"absent\""],
    );
    interface(
        "state",
        json!("absent"),
        &["interfaces[0].state: absent is only possible on a bridge binding"],
    );
    for state in ["up", "down"] {
        check_text(
            &second(json!({"name": "b", "sriov": {}, "state": state}), multus("b")),
            &["interfaces[1].state: up and down are not possible on SR-IOV"],
        );
    }
    check(
        &[(FIRST, json!({"name": "default", "bridge": {}, "state": "absent"}))],
        &["interfaces[0].state: absent is not possible on the default network"],
    );
}

#[test]
fn ports() {
    let ports = |value: Value, expected: &[&str]| interface("ports", value, expected);
    ports(
        json!([{"port": 0}]),
        &["interfaces[0].ports[0].port: must be from 1 to 65535, found 0"],
    );
    ports(
        json!([{"port": 65536}]),
        &["interfaces[0].ports[0].port: must be from 1 to 65535, found 65536"],
    );
    ports(
        json!([{"port": -1}]),
        &["interfaces[0].ports[0].port: must be from 1 to 65535, found -1"],
    );
    ports(json!([{"name": "a"}]), &["interfaces[0].ports[0].port: required"]);
    ports(
        json!([null]),
        &["interfaces[0].ports[0]: expected object, found null"],
    );
    ports(
        json!([{"port": 1, "protocol": "SCTP"}]),
        &["interfaces[0].ports[0].protocol: unsupported value \"SCTP\": expected \"TCP\" or \"UDP\""],
    );
    ports(
        json!([{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]),
        &["interfaces[0].ports[1].name: duplicate name \"a\""],
    );
    for name in ["1", "-a", "a-", "a--b", "A", "sixteen-letters-"] {
        let form = "expected at most 15 of a-z, 0-9 and single inner '-', with a letter";
        ports(
            json!([{"port": 1, "name": name}]),
            &[&format!("interfaces[0].ports[0].name: {form}, found \"{name}\"")],
        );
    }
}

#[test]
fn port_ranges() {
    let ranges = |value: Value, expected: &[&str]| {
        check(
            &[
                (&format!("{FIRST}/ports"), json!(null)),
                (&format!("{FIRST}/portRanges"), value),
            ],
            expected,
        );
    };
    let tcp = |start: u32, end: u32| json!({"protocol": "TCP", "start": start, "end": end});
    ranges(
        json!([tcp(2, 1)]),
        &["interfaces[0].portRanges[0].start: 2 lies above the end, 1"],
    );
    ranges(
        json!([tcp(0, 1)]),
        &["interfaces[0].portRanges[0].start: must be from 1 to 65535, found 0"],
    );
    ranges(
        json!([{"protocol": "TCP", "start": 1}]),
        &["interfaces[0].portRanges[0].end: required"],
    );
    ranges(
        json!([tcp(10, 20), tcp(1, 30), tcp(31, 40), tcp(40, 41)]),
        &[
            "interfaces[0].portRanges[0]: the same port as in spec.domain.devices.interfaces[0].portRanges[1]",
            "interfaces[0].portRanges[3]: the same port as in spec.domain.devices.interfaces[0].portRanges[2]",
        ],
    );
    ranges(
        json!([tcp(1, 5), tcp(2, 30), tcp(20, 25)]),
        &[
            "interfaces[0].portRanges[1]: the same port as in spec.domain.devices.interfaces[0].portRanges[0]",
            "interfaces[0].portRanges[2]: the same port as in spec.domain.devices.interfaces[0].portRanges[1]",
        ],
    );
    interface(
        "portRanges",
        json!([tcp(1, 2)]),
        &["interfaces[0].portRanges: not together with ports"],
    );
}

#[test]
fn dhcp_options() {
    let options = |value: Value, expected: &[&str]| interface("dhcpOptions", value, expected);
    for code in [223, 255] {
        let expected = format!(
            "interfaces[0].dhcpOptions.privateOptions[0].option: must be from 224 to 254, found {code}"
        );
        options(
            json!({"privateOptions": [{"option": code, "value": "x"}]}),
            &[&expected],
        );
    }
    options(
        json!({"privateOptions": [{"option": 224, "value": "x"}, {"option": 224, "value": "y"}]}),
        &["interfaces[0].dhcpOptions.privateOptions[1].option: duplicate option 224"],
    );
    for server in ["fd00::1", "pool.ntp.org", ""] {
        let expected =
            format!("interfaces[0].dhcpOptions.ntpServers[0]: expected an IPv4 address, found \"{server}\"");
        options(json!({"ntpServers": [server]}), &[&expected]);
    }
}
