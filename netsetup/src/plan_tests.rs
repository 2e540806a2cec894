//! Plans as text, every refusal and note, and properties over a model of the kernel.

use super::*;
use crate::observed::{Devconf, TapFacts};
use crate::spec::{Masquerade, Nic, PortRange, Ports, Protocol};

#[path = "plan_tests/bridged.rs"]
mod bridged;
#[path = "plan_tests/model.rs"]
mod model;
#[path = "plan_tests/passt.rs"]
mod passt;
#[path = "plan_tests/pod_networks.rs"]
mod pod_networks;
#[path = "plan_tests/refused.rs"]
mod refused;

fn pod() -> Observed {
    let address = |ip: &str, prefix_len| Address {
        ip: ip.parse().unwrap(),
        prefix_len,
    };
    let lo = Link {
        index: 1,
        name: "lo".into(),
        mtu: 65536,
        up: true,
        addresses: vec![address("127.0.0.1", 8), address("::1", 128)],
        ..Link::default()
    };
    let eth0 = Link {
        index: 2,
        name: "eth0".into(),
        mac: Some(Mac([0x02, 0, 0, 0x12, 0x34, 0x56])),
        mtu: 1450,
        up: true,
        kind: Some("veth".into()),
        addresses: vec![
            address("fe80::10", 64),
            address("192.0.2.10", 24),
            address("2001:db8::10", 64),
        ],
        accept_ra: Some(sysctl("1")),
        ..Link::default()
    };
    Observed {
        links: vec![lo, eth0],
        ipv6_forwarding: Some(sysctl("0")),
        ipv6_disabled_by_default: false,
        ping_group_range: Some(sysctl("1\t0")),
        unprivileged_port_start: Some(sysctl("1024")),
        connections: Vec::new(),
        listeners: Vec::new(),
    }
}

fn sysctl(value: &str) -> Sysctl {
    Sysctl {
        value: value.into(),
        writable: true,
    }
}

fn eth0(observed: &mut Observed) -> &mut Link {
    link(observed, "eth0")
}

fn link<'a>(observed: &'a mut Observed, name: &str) -> &'a mut Link {
    let found = observed.links.iter_mut().find(|link| link.name == name);
    found.unwrap_or_else(|| panic!("no link {name}"))
}

fn add_tap(observed: &mut Observed, name: &str, alias: Option<&str>) {
    observed.links.push(Link {
        index: 9,
        name: name.into(),
        kind: Some("tun".into()),
        alias: alias.map(str::to_owned),
        tap: Some(TapFacts::default()),
        ..Link::default()
    });
}

fn spec() -> NetSpec {
    NetSpec {
        nics: vec![Nic {
            name: "default".into(),
            pod_interface: "eth0".into(),
            tap: "tap0".into(),
            server_tap: "srv0".into(),
            queue_pairs: 1,
            guest_mac: Some(Mac([0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee])),
            made_mac: Mac([0x02, 0x5e, 0, 0, 0, 1]),
            wiring: Wiring::Masquerade(Masquerade {
                v4: "10.0.2.0/24".parse().unwrap(),
                v6: "fd10:0:2::/120".parse().unwrap(),
                v4_else: Vec::new(),
                v6_else: Vec::new(),
                v6_required: false,
                ports: Ports::All,
                kept_tcp: vec![49152, 49153, 49154],
                istio: false,
            }),
        }],
        owner: Owner { uid: 107, gid: 107 },
        peers: Vec::new(),
        resolvers: Vec::new(),
    }
}

fn masquerade(spec: &mut NetSpec) -> &mut Masquerade {
    match &mut spec.nics[0].wiring {
        Wiring::Masquerade(masquerade) => masquerade,
        other => panic!("not a masqueraded NIC: {other:?}"),
    }
}

fn masqueraded(plan: &Plan) -> &Masqueraded {
    plan.nics[0].masqueraded().unwrap()
}

fn range(protocol: Protocol, first: u16, last: u16) -> PortRange {
    PortRange {
        protocol,
        first,
        last,
    }
}

fn text(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(ToString::to_string);
    let notes = plan.notes.iter().map(|note| format!("note: {note}"));
    let undo = plan.journal.undo.iter().map(|undo| format!("undo: {undo}"));
    steps.chain(notes).chain(undo).collect::<Vec<_>>().join("\n")
}

fn ruleset(plan: &Plan) -> &serde_json::Value {
    plan.steps
        .iter()
        .find_map(|step| match step {
            Step::Ruleset { document } => Some(&**document),
            _ => None,
        })
        .unwrap()
}

/// The document with one command a line.
fn ruleset_text(spec: &NetSpec) -> String {
    let plan = Plan::new(spec, &pod()).unwrap();
    let commands = ruleset(&plan)["nftables"].as_array().unwrap();
    commands.iter().map(|command| format!("{command}\n")).collect()
}

fn count(spec: &NetSpec, object: &str) -> usize {
    ruleset_text(spec)
        .lines()
        .filter(|line| line.starts_with(&format!("{{\"add\":{{\"{object}\"")))
        .count()
}

fn elements(spec: &NetSpec, set: &str) -> serde_json::Value {
    let text = ruleset_text(spec);
    let line = text
        .lines()
        .find(|line| line.contains(&format!("\"name\":\"{set}\"")))
        .unwrap();
    serde_json::from_str::<serde_json::Value>(line).unwrap()["add"]["set"]["elem"].clone()
}

#[test]
fn a_plan_reads_like_what_it_does() {
    insta::assert_snapshot!(text(&Plan::new(&spec(), &pod()).unwrap()));
}

#[test]
fn a_plan_for_a_pod_that_learnt_its_route_by_advertisement() {
    let mut pod = pod();
    eth0(&mut pod).default_route_by_ra = true;
    let mut spec = spec();
    spec.nics[0].queue_pairs = 4;
    spec.nics[0].guest_mac = None;
    insta::assert_snapshot!(text(&Plan::new(&spec, &pod).unwrap()));
}

#[test]
fn rules_for_all_ports() {
    insta::assert_snapshot!(ruleset_text(&spec()));
}

#[test]
fn established_connections_past_the_rules() {
    let plan = Plan::new(&spec(), &pod()).unwrap();
    let offloading = plan.offloading.unwrap();
    let commands = offloading["nftables"].as_array().unwrap();
    let text: String = commands.iter().map(|command| format!("{command}\n")).collect();
    insta::assert_snapshot!(text);
}

#[test]
fn rules_for_listed_ports_and_istio() {
    let mut spec = spec();
    masquerade(&mut spec).istio = true;
    masquerade(&mut spec).kept_tcp.extend([
        15000, 15001, 15004, 15006, 15008, 15009, 15020, 15021, 15053, 15090,
    ]);
    masquerade(&mut spec).ports = Ports::Listed(vec![
        range(Protocol::Tcp, 80, 80),
        range(Protocol::Udp, 5000, 5999),
    ]);
    insta::assert_snapshot!(ruleset_text(&spec));
}

#[test]
fn tables_are_removed_whether_or_not_they_are_there() {
    insta::assert_snapshot!(crate::ruleset::removal().to_string());
}

#[test]
fn a_pod_whose_guest_is_elsewhere_sends_no_resets() {
    insta::assert_snapshot!(crate::ruleset::drop_resets().to_string());
    let end = crate::ruleset::allow_resets().to_string();
    assert!(
        end.contains(r#"{"delete":{"table":{"family":"inet","name":"hawser-silence"}}}"#),
        "{end}"
    );
}

#[test]
fn the_number_of_rules_does_not_depend_on_the_number_of_ports() {
    let with = |ports: Vec<PortRange>| {
        let mut spec = spec();
        masquerade(&mut spec).ports = Ports::Listed(ports);
        (count(&spec, "rule"), count(&spec, "set"))
    };
    let many = (0..1000).map(|n| range(Protocol::Tcp, 2 * n, 2 * n)).collect();
    assert_eq!(with(vec![range(Protocol::Tcp, 80, 80)]), with(many));
}

#[test]
fn touching_and_overlapping_ranges_become_one() {
    use Protocol::{Tcp, Udp};
    let mut spec = spec();
    masquerade(&mut spec).ports = Ports::Listed(vec![
        range(Tcp, 65535, 65535),
        range(Tcp, 90, 95),
        range(Tcp, 80, 89),
        range(Tcp, 94, 100),
        range(Tcp, 94, 96),
        range(Udp, 101, 101),
        range(Tcp, 102, 102),
        range(Tcp, 65000, 65534),
    ]);
    assert_eq!(
        elements(&spec, "tap0-tcp").to_string(),
        r#"[{"range":[80,100]},102,{"range":[65000,65535]}]"#
    );
    assert_eq!(elements(&spec, "tap0-udp").to_string(), "[101]");
}

#[test]
fn the_ports_that_stay_in_the_pod_are_those_of_the_spec() {
    let mut spec = spec();
    assert_eq!(elements(&spec, "tap0-kept").to_string(), "[49152,49153,49154]");
    masquerade(&mut spec).kept_tcp = Vec::new();
    assert!(elements(&spec, "tap0-kept").is_null());
}

#[test]
fn what_is_set_already_is_not_written_again() {
    let mut pod = pod();
    pod.ipv6_forwarding = Some(sysctl("1"));
    eth0(&mut pod).default_route_by_ra = true;
    eth0(&mut pod).accept_ra = Some(sysctl("2"));
    let plan = Plan::new(&spec(), &pod).unwrap();
    assert!(masqueraded(&plan).v6.is_some());
    let written = plan
        .steps
        .iter()
        .filter(|step| matches!(step, Step::Sysctl { .. }));
    assert_eq!(written.count(), 0, "{}", text(&plan));
}

#[test]
fn gateway_is_the_first_address_and_guest_the_second() {
    let mut spec = spec();
    // As a manifest may have it: with host bits.
    masquerade(&mut spec).v4 = "172.30.0.77/26".parse().unwrap();
    let plan = Plan::new(&spec, &pod()).unwrap();
    let (v4, v6) = (masqueraded(&plan).v4.unwrap(), masqueraded(&plan).v6.unwrap());
    assert_eq!(v4.network.to_string(), "172.30.0.64/26");
    assert_eq!(
        (v4.gateway.to_string(), v4.guest.to_string()),
        ("172.30.0.65".into(), "172.30.0.66".into())
    );
    assert_eq!(v4.pod.to_string(), "192.0.2.10");
    assert_eq!(
        (v6.gateway.to_string(), v6.guest.to_string()),
        ("fd10:0:2::1".into(), "fd10:0:2::2".into())
    );
    assert_eq!(v6.pod.to_string(), "2001:db8::10");
}

#[test]
fn a_link_that_is_down_has_a_tap_and_a_chain_that_drops_everything() {
    let mut spec = spec();
    spec.nics[0].wiring = Wiring::Down;
    let plan = Plan::new(&spec, &pod()).unwrap();
    let said: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "create the TAP tap0 (owner 107:107, MTU 1450) for a guest's NIC whose link is down",
            "replace the nftables tables inet hawser and netdev hawser",
            "mark tap0 as finished",
        ]
    );
    assert_eq!(count(&spec, "chain"), 1, "{}", ruleset_text(&spec));
    assert_eq!(count(&spec, "rule"), 0, "{}", ruleset_text(&spec));
    assert!(ruleset_text(&spec).contains(r#""dev":"tap0","policy":"drop""#));
    spec.nics[0].guest_mac = None;
    let plan = Plan::new(&spec, &pod()).unwrap();
    assert_eq!(plan.nics[0].guest_mac, spec.nics[0].made_mac);
    let mut bare = pod();
    bare.links.truncate(1);
    assert!(matches!(Plan::new(&spec, &bare), Err(Error::Unfit { .. })));
}

#[test]
fn what_someone_changed_since_is_put_right() {
    let mut done = model::Model::new(pod());
    done.apply(&Plan::new(&spec(), &done.observed).unwrap());
    assert_eq!(Plan::new(&spec(), &done.observed).unwrap().steps, []);
    type Change = fn(&mut Link);
    let changes: [(&str, Change); 8] = [
        ("down", |tap| tap.up = false),
        ("MTU", |tap| tap.mtu = 1400),
        ("MAC", |tap| tap.mac = Some(Mac([2, 2, 2, 2, 2, 2]))),
        ("address", |tap| tap.addresses.truncate(1)),
        ("prefix", |tap| tap.addresses[0].prefix_len = 25),
        ("forwarding", |tap| {
            tap.devconf = Devconf {
                forwarding: false,
                ..tap.devconf
            }
        }),
        ("route_localnet", |tap| {
            tap.devconf = Devconf {
                route_localnet: false,
                ..tap.devconf
            }
        }),
        ("owner", |tap| tap.tap.as_mut().unwrap().owner = Some(0)),
    ];
    for (name, change) in changes {
        let mut changed = done.clone();
        change(link(&mut changed.observed, "tap0"));
        let plan = Plan::new(&spec(), &changed.observed).unwrap();
        assert_ne!(plan.steps, [], "{name}");
        changed.apply(&plan);
        assert_eq!(changed, done, "{name}");
    }
}
