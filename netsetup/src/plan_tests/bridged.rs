//! Bridged NICs: the plan as text, what the guest is told of each kind of pod, and every refusal.

use super::*;
use crate::addressing::{Assigned, Route};
use crate::guest_nic::{Bridged, Router6};

fn bridged() -> NetSpec {
    let mut spec = spec();
    spec.nics[0].wiring = Wiring::Bridge;
    spec.nics[0].guest_mac = None;
    spec
}

/// A pod with these addresses and routes on `eth0`: ADDRESS[,p=PEER][,n] (n: behind a gateway) and DESTINATION[,g=GATEWAY][,m=METRIC]
/// [,u=MTU][,p=PROTOCOL][,l=LINK-LOCAL][,a=MAC].
fn with(addresses: &str, routes: &str) -> Observed {
    let mut pod = pod();
    let link = eth0(&mut pod);
    link.assigned = addresses.split_whitespace().map(assigned).collect();
    link.routes = routes.split_whitespace().map(route).collect();
    pod
}

fn assigned(word: &str) -> Assigned {
    let net: ipnet::IpNet = word.split(',').next().unwrap().parse().unwrap();
    Assigned {
        ip: net.addr(),
        prefix_len: net.prefix_len(),
        peer: word
            .split_once(",p=")
            .map(|(_, peer)| peer.trim_end_matches(",n").parse().unwrap()),
        on_link: !word.ends_with(",n"),
    }
}

fn route(word: &str) -> Route {
    let mut parts = word.split(',');
    let mut route = Route {
        destination: parts.next().unwrap().parse().unwrap(),
        gateway: None,
        metric: 0,
        mtu: None,
        protocol: 3,
        link_local: None,
        router_mac: None,
    };
    for part in parts {
        match part.split_once('=').unwrap() {
            ("g", gateway) => route.gateway = Some(gateway.parse().unwrap()),
            ("u", mtu) => route.mtu = Some(mtu.parse().unwrap()),
            ("m", metric) => route.metric = metric.parse().unwrap(),
            ("p", protocol) => route.protocol = protocol.parse().unwrap(),
            ("a", mac) => route.router_mac = Some(mac.parse().unwrap()),
            ("l", router) => route.link_local = Some(router.parse().unwrap()),
            other => panic!("{other:?}"),
        }
    }
    route
}

fn usual() -> Observed {
    with(
        "192.0.2.10/24 2001:db8::10/64",
        "0.0.0.0/0,g=192.0.2.1 ::/0,g=fe80::99",
    )
}

fn bridged_nic(pod: &Observed) -> (Bridged, Vec<String>) {
    let plan = Plan::new(&bridged(), pod).unwrap();
    (plan.nics[0].bridged().cloned().unwrap(), plan.notes)
}

fn offered_v4(addresses: &str, routes: &str) -> String {
    let (bridged, notes) = bridged_nic(&with(addresses, routes));
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
        offered_v4("192.0.2.10/24", "0.0.0.0/0,g=192.0.2.1"),
        "192.0.2.10/24: default via 192.0.2.1"
    );
    // Calico: a /32, and a gateway that only a route of its own makes reachable.
    assert_eq!(
        offered_v4("10.1.2.3/32", "0.0.0.0/0,g=169.254.1.1 169.254.1.1/32"),
        "10.1.2.3/32: 169.254.1.1/32 via 0.0.0.0, default via 169.254.1.1"
    );
    assert_eq!(
        offered_v4("10.1.2.3/32", "0.0.0.0/0,g=169.254.1.1"),
        "10.1.2.3/32: 169.254.1.1/32 via 0.0.0.0, default via 169.254.1.1",
        "onlink says the same without a route"
    );
    assert_eq!(
        offered_v4("10.0.0.2/32,p=10.0.0.1", "0.0.0.0/0,g=10.0.0.1"),
        "10.0.0.2/32: 10.0.0.1/32 via 0.0.0.0, default via 10.0.0.1"
    );
    // CNI's ptp: the prefix is behind the gateway.
    assert_eq!(
        offered_v4(
            "10.244.0.5/24,n",
            "0.0.0.0/0,g=10.244.0.1 10.244.0.0/24,g=10.244.0.1 10.244.0.1/32"
        ),
        "10.244.0.5/32: 10.244.0.1/32 via 0.0.0.0, 10.244.0.0/24 via 10.244.0.1, default via 10.244.0.1"
    );
    assert_eq!(offered_v4("192.0.2.10/24", ""), "192.0.2.10/24: ");
    assert_eq!(
        offered_v4("192.0.2.10/24", "0.0.0.0/0"),
        "192.0.2.10/24: 0.0.0.0/0 via 0.0.0.0"
    );
    assert_eq!(
        offered_v4(
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
        let (bridged, notes) = bridged_nic(&with("2001:db8::10/64", routes));
        (bridged.v6.unwrap().router, notes)
    };
    let silent = Router6::Silent("fe80::99".parse().unwrap());
    assert_eq!(router("::/0,g=fe80::99"), (silent, vec![]));
    assert_eq!(router("::/0,g=fe80::99,p=9"), (Router6::Advertises, vec![]));
    assert_eq!(router(""), (Router6::Unknown, vec![]));
    assert_eq!(router("::/0,g=2001:db8::1,l=fe80::99"), (silent, vec![]));
    let by_mac = Router6::By(Mac([2, 0, 0, 0, 0, 0x99]));
    assert_eq!(router("::/0,g=2001:db8::1,a=02:00:00:00:00:99"), (by_mac, vec![]));
    let (unknown, notes) = router("::/0,g=2001:db8::1");
    assert_eq!(unknown, Router6::Unknown);
    assert!(
        notes[0].starts_with(
            "default: the guest has no IPv6 default route: the pod's router 2001:db8::1 did not answer"
        ),
        "{notes:?}"
    );
}

#[test]
fn a_host_address_of_ipv6_has_no_prefix_on_the_link() {
    let (bridged, _) = bridged_nic(&with("2001:db8::10/128", "::/0,g=fe80::99"));
    assert_eq!(bridged.v6.unwrap().on_link, None);
    let (bridged, _) = bridged_nic(&with("2001:db8::10/64,n", "::/0,g=fe80::99"));
    assert_eq!(bridged.v6.unwrap().on_link, None, "behind the gateway");
    let (bridged, _) = bridged_nic(&usual());
    assert_eq!(
        bridged.v6.unwrap().on_link,
        Some("2001:db8::/64".parse().unwrap())
    );
}

#[test]
fn a_managed_tap_is_bridged_the_same_and_not_served() {
    let mut managed = bridged();
    managed.nics[0].wiring = Wiring::ManagedTap;
    let plan = Plan::new(&managed, &usual()).unwrap();
    assert!(plan.nics[0].server_tap().is_none());
    assert_eq!(plan.notes, [""; 0]);
    let served = Plan::new(&bridged(), &usual()).unwrap();
    let kinds = |plan: &Plan| -> Vec<String> { plan.steps.iter().map(ToString::to_string).collect() };
    let expected: Vec<String> = kinds(&served)
        .into_iter()
        .filter(|step| !step.contains("DHCP and RA server"))
        .collect();
    assert_eq!(kinds(&plan), expected);
    assert_eq!(plan.nics[0].guest_mac, served.nics[0].guest_mac);
}

#[test]
fn what_is_not_offered_is_a_note() {
    let (_, notes) = bridged_nic(&with(
        "192.0.2.10/24 192.0.2.11/24 2001:db8::10/64 2001:db8::11/64",
        "2001:db8:5::/48,g=fe80::99 198.51.100.0/24,g=fe80::99",
    ));
    assert_eq!(notes.len(), 4, "{notes:?}");
    let (bridged, notes) = bridged_nic(&with(
        "192.0.2.10/24 2001:db8::10/64",
        "0.0.0.0/0,g=192.0.2.1 0.0.0.0/0,g=192.0.2.2 10.9.0.0/16,g=192.0.2.3 10.9.0.0/16,g=192.0.2.4 \
         ::/0,g=fe80::99 ::/0,g=fe80::98",
    ));
    assert_eq!(
        notes,
        [
            "default: the guest is offered 192.0.2.1 as the next hop to 0.0.0.0/0, but not 192.0.2.2: it gets one for each destination",
            "default: the guest is offered 192.0.2.3 as the next hop to 10.9.0.0/16, but not 192.0.2.4: it gets one for each destination",
            "default: the guest is offered fe80::99 as the next hop to ::/0, but not fe80::98: it gets one for each destination",
        ]
    );
    assert_eq!(bridged.v4.unwrap().routes.len(), 1);
    let mut policy = usual();
    eth0(&mut policy).other_tables = vec![100];
    let (_, notes) = bridged_nic(&policy);
    assert!(notes[0].contains("in the routing tables [100]"), "{notes:?}");
    let mut small = usual();
    eth0(&mut small).mtu = 1279;
    let (bridged, notes) = bridged_nic(&small);
    assert_eq!(bridged.v6, None);
    assert!(notes[0].contains("IPv6 requires at least 1280"), "{notes:?}");
}

#[test]
fn names_of_secondary_interfaces_fit() {
    use crate::spec::bridge_name;
    assert_eq!(bridge_name("eth0"), "k6t-eth0");
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
    let cases: [(&str, Change, &str); 9] = [
        (
            "no such interface",
            |_, pod| pod.links.truncate(1),
            "eth0: the pod's network namespace has no such interface",
        ),
        ("no MAC", |_, pod| eth0(pod).mac = None, "eth0: it has no MAC"),
        (
            "a MAC that stands for none",
            |_, pod| eth0(pod).mac = Some(Mac::default()),
            "eth0: it has no MAC",
        ),
        (
            "a link without neighbors",
            |_, pod| eth0(pod).no_arp = true,
            "eth0: nothing on it answers ARP or neighbor solicitations (NOARP)",
        ),
        (
            "an ipvlan",
            |_, pod| eth0(pod).kind = Some("ipvlan".into()),
            "eth0: it is an ipvlan, which cannot be a bridge port",
        ),
        (
            "the TAP's MAC",
            |spec, _| spec.nics[0].guest_mac = Some(Mac([2, 0, 0, 0, 0, 0])),
            "set a different macAddress",
        ),
        (
            "a port of another bridge",
            |_, pod| eth0(pod).controller = Some(33),
            "eth0: another program has attached it to a bridge",
        ),
        (
            "a macvlan, and a guest of another MAC",
            |spec, pod| {
                spec.nics[0].guest_mac = Some(Mac([2, 0, 0, 0, 0, 7]));
                eth0(pod).own_mac_only = true;
            },
            "eth0: it is a macvlan, which receives no frames for a MAC other than its own",
        ),
        (
            "masquerade where an earlier start bridged",
            |spec, pod| {
                *spec = super::spec();
                pod.links.push(Link {
                    index: 7,
                    name: "k6t-eth0".into(),
                    alias: Some("hawser bridge, IPv6 router unknown".into()),
                    ..Link::default()
                });
                eth0(pod).controller = Some(7);
            },
            "eth0: hawser bridged it at an earlier start in this pod",
        ),
    ];
    for (name, change, wanted) in cases {
        let said = refused(&change);
        assert!(said.contains(wanted), "{name}: {said}");
    }
}

#[test]
fn a_macvlan_with_the_guests_own_mac_is_as_good_as_any() {
    let mut pod = usual();
    eth0(&mut pod).own_mac_only = true;
    let mut spec = bridged();
    Plan::new(&spec, &pod).unwrap();
    spec.nics[0].guest_mac = eth0(&mut pod).mac;
    Plan::new(&spec, &pod).unwrap();
}

/// A port hears no advertisements and asks no neighbours: what it knew may have run out since.
#[test]
fn a_later_start_knows_the_router_that_the_first_found() {
    for (routes, router) in [
        ("::/0,g=fe80::99,p=9", Router6::Advertises),
        (
            "::/0,g=2001:db8::1,l=fe80::99",
            Router6::Silent("fe80::99".parse().unwrap()),
        ),
        (
            "::/0,g=2001:db8::1,a=02:00:00:00:00:99",
            Router6::By(Mac([2, 0, 0, 0, 0, 0x99])),
        ),
        ("", Router6::Unknown),
    ] {
        let mut pod = with("2001:db8::10/64", routes);
        let first = Plan::new(&bridged(), &pod).unwrap();
        let Some(Step::Bridge(bridge)) = first.steps.first() else {
            panic!("no bridge: {:?}", first.steps)
        };
        pod.links.push(Link {
            index: 7,
            name: bridge.name.clone(),
            alias: Some(bridge.alias.clone()),
            ..Link::default()
        });
        let link = eth0(&mut pod);
        link.controller = Some(7);
        link.routes.clear();
        let again = Plan::new(&bridged(), &pod).unwrap();
        assert_eq!(again.nics, first.nics);
        assert_eq!(
            again.nics[0].bridged().cloned().unwrap().v6.unwrap().router,
            router
        );
    }
}
