//! Bridged NICs: the plan as text, what the guest is told of each kind of pod, and every refusal.

use super::*;
use crate::original::Original;

fn bridged() -> NetSpec {
    let mut spec = spec();
    spec.nics[0].wiring = Wiring::Bridge;
    spec.nics[0].guest_mac = None;
    spec
}

/// A pod with these addresses and routes on `eth0`, in the words of the aliases.
fn with(addresses: &str, routes: &str) -> Observed {
    let mut pod = pod();
    let was = format!("hawser was 02:00:00:12:34:56 1450 1 {addresses}");
    let original = Original::from_aliases(was.trim(), &format!("hawser routes {routes}")).unwrap();
    let link = eth0(&mut pod);
    link.assigned = original.addresses;
    link.routes = original.routes;
    link.addr_gen_mode = 1;
    pod
}

fn usual() -> Observed {
    with(
        "192.0.2.10/24,b 2001:db8::10/64",
        "0.0.0.0/0,g=192.0.2.1 ::/0,g=fe80::99",
    )
}

fn told(pod: &Observed) -> (Bridged, Vec<String>) {
    let plan = Plan::new(&bridged(), pod).unwrap();
    (plan.nics[0].bridge.clone().unwrap(), plan.notes)
}

fn told_v4(addresses: &str, routes: &str) -> String {
    let (bridged, notes) = told(&with(addresses, routes));
    assert_eq!(notes, [""; 0]);
    let v4 = bridged.v4.unwrap();
    let routes = v4.routes.iter().map(|(to, via)| format!("{to} via {via}"));
    let router = v4.router.map(|router| format!("default via {router}"));
    let routes: Vec<_> = routes.chain(router).collect();
    format!("{}/{}: {}", v4.address, v4.prefix_len, routes.join(", "))
}

#[test]
fn a_plan_for_a_bridged_nic() {
    insta::assert_snapshot!(text(&Plan::new(&bridged(), &usual()).unwrap()));
}

#[test]
fn rules_for_a_bridged_nic() {
    let plan = Plan::new(&bridged(), &usual()).unwrap();
    let commands = ruleset(&plan)["nftables"].as_array().unwrap();
    let text: String = commands.iter().map(|command| format!("{command}\n")).collect();
    insta::assert_snapshot!(text);
}

#[test]
fn every_kind_of_ipv4_pod_has_a_working_route() {
    assert_eq!(
        told_v4("192.0.2.10/24,b", "0.0.0.0/0,g=192.0.2.1"),
        "192.0.2.10/24: default via 192.0.2.1"
    );
    // Calico: a /32, and a gateway that only a route of its own makes reachable.
    assert_eq!(
        told_v4("10.1.2.3/32", "0.0.0.0/0,g=169.254.1.1 169.254.1.1/32"),
        "10.1.2.3/32: 169.254.1.1/32 via 0.0.0.0, default via 169.254.1.1"
    );
    assert_eq!(
        told_v4("10.1.2.3/32", "0.0.0.0/0,g=169.254.1.1,o"),
        "10.1.2.3/32: 169.254.1.1/32 via 0.0.0.0, default via 169.254.1.1",
        "onlink says the same without a route"
    );
    assert_eq!(
        told_v4("10.0.0.2/32,p=10.0.0.1", "0.0.0.0/0,g=10.0.0.1"),
        "10.0.0.2/32: 10.0.0.1/32 via 0.0.0.0, default via 10.0.0.1"
    );
    assert_eq!(told_v4("192.0.2.10/24", ""), "192.0.2.10/24: ");
    assert_eq!(
        told_v4("192.0.2.10/24", "0.0.0.0/0"),
        "192.0.2.10/24: 0.0.0.0/0 via 0.0.0.0"
    );
    assert_eq!(
        told_v4(
            "192.0.2.10/24",
            "10.96.0.0/12,g=192.0.2.7 0.0.0.0/0,g=192.0.2.9,m=200 0.0.0.0/0,g=192.0.2.1,m=100"
        ),
        "192.0.2.10/24: 10.96.0.0/12 via 192.0.2.7, default via 192.0.2.1",
        "the kernel takes the least metric"
    );
}

#[test]
fn the_default_route_of_ipv6_is_from_whoever_can_be_named() {
    let router = |routes: &str| {
        let (bridged, notes) = told(&with("2001:db8::10/64", routes));
        (bridged.v6.unwrap().router, notes)
    };
    let silent = Router6::Silent("fe80::99".parse().unwrap());
    assert_eq!(router("::/0,g=fe80::99"), (silent, vec![]));
    assert_eq!(router("::/0,g=fe80::99,p=9"), (Router6::Advertises, vec![]));
    assert_eq!(router(""), (Router6::Unknown, vec![]));
    assert_eq!(router("::/0,g=2001:db8::1,l=fe80::99"), (silent, vec![]));
    let (unknown, notes) = router("::/0,g=2001:db8::1");
    assert_eq!(unknown, Router6::Unknown);
    assert!(
        notes[0].starts_with("default: the guest has no IPv6 default route: the pod's is by 2001:db8::1")
    );
}

#[test]
fn a_host_address_of_ipv6_has_no_prefix_on_the_link() {
    let (bridged, _) = told(&with("2001:db8::10/128", "::/0,g=fe80::99"));
    assert_eq!(bridged.v6.unwrap().on_link, None);
    let (bridged, _) = told(&usual());
    assert_eq!(
        bridged.v6.unwrap().on_link,
        Some("2001:db8::/64".parse().unwrap())
    );
}

#[test]
fn a_managed_tap_is_bridged_the_same_and_nothing_is_said_on_it() {
    let mut managed = bridged();
    managed.nics[0].wiring = Wiring::ManagedTap;
    let plan = Plan::new(&managed, &usual()).unwrap();
    assert!(!plan.nics[0].is_served());
    assert_eq!(plan.notes, [""; 0]);
    let served = Plan::new(&bridged(), &usual()).unwrap();
    let kinds = |plan: &Plan| -> Vec<String> { plan.steps.iter().map(ToString::to_string).collect() };
    let expected: Vec<String> = kinds(&served)
        .into_iter()
        .filter(|step| !step.contains("DHCP and RA server") && !step.contains("nftables"))
        .collect();
    assert_eq!(kinds(&plan), expected);
    assert_eq!(plan.nics[0].guest_mac, served.nics[0].guest_mac);
}

#[test]
fn what_is_not_handed_on_is_said() {
    let (_, notes) = told(&with(
        "192.0.2.10/24 192.0.2.11/24 2001:db8::10/64 2001:db8::11/64",
        "2001:db8:5::/48,g=fe80::99",
    ));
    assert_eq!(notes.len(), 3, "{notes:?}");
    let mut small = usual();
    eth0(&mut small).mtu = 1279;
    let (bridged, notes) = told(&small);
    assert_eq!(bridged.v6, None);
    assert!(notes[0].contains("IPv6 needs 1280"), "{notes:?}");
}

#[test]
fn names_of_secondary_interfaces_fit() {
    use crate::spec::{bridge_name, port_name};
    assert_eq!(bridge_name("eth0"), "k6t-eth0");
    assert_eq!(port_name("eth0"), "eth0-nic");
    assert_eq!(bridge_name("pod0123456789a"), "k6t-0123456789a");
}

#[test]
fn a_bridge_that_is_not_ours_and_a_pod_that_cannot_be_bridged_are_refused() {
    type Change = fn(&mut NetSpec, &mut Observed);
    let bridge = |alias: Option<&str>| Link {
        index: 7,
        name: "k6t-eth0".into(),
        kind: Some("bridge".into()),
        alias: alias.map(str::to_owned),
        ..Link::default()
    };
    let kubevirts = bridge(None);
    let refused = |change: &dyn Fn(&mut NetSpec, &mut Observed)| {
        let (mut spec, mut pod) = (bridged(), usual());
        change(&mut spec, &mut pod);
        Plan::new(&spec, &pod).unwrap_err().to_string()
    };
    assert!(refused(&|_, pod| pod.links.push(kubevirts.clone())).contains("KubeVirt's node agent"));
    let cases: [(&str, Change, &str); 6] = [
        (
            "no such interface",
            |_, pod| pod.links.truncate(1),
            "eth0: the pod's network namespace has no such interface",
        ),
        ("no MAC", |_, pod| eth0(pod).mac = None, "eth0: it has no MAC"),
        (
            "the TAP's MAC",
            |spec, _| spec.nics[0].guest_mac = Some([2, 0, 0, 0, 0, 0]),
            "set macAddress to another",
        ),
        (
            "more than an alias holds",
            |_, pod| {
                let route = eth0(pod).routes[0];
                eth0(pod).routes = vec![route; 20];
            },
            "eth0: it has more addresses or routes than can be kept",
        ),
        (
            "moved, and nothing says what it was",
            |_, pod| eth0(pod).name = "eth0-nic".into(),
            "eth0-nic: its alias does not say",
        ),
        (
            "masquerade where an earlier start bridged",
            |spec, pod| {
                *spec = super::spec();
                eth0(pod).alias = Some("hawser placeholder".into());
            },
            "eth0: an earlier start in this pod bridged it",
        ),
    ];
    for (name, change, wanted) in cases {
        let said = refused(&change);
        assert!(said.contains(wanted), "{name}: {said}");
    }
}
