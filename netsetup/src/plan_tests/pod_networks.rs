//! What pods' networks have of their own, and what becomes of it: MTU of routes, addresses of the guest's usual network, names of
//! interfaces, name servers on the loopback.

use super::*;
use crate::addressing::Route;
use crate::guest_nic::Resolver;
use crate::observed::Listener;
use crate::spec::Passt;

fn route(destination: &str, mtu: Option<u32>) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        gateway: Some("192.0.2.1".parse().unwrap()),
        metric: 0,
        mtu,
        protocol: 3,
        link_local: None,
        router_mac: None,
    }
}

fn passt() -> Wiring {
    Wiring::Passt(Passt {
        lowest_port: None,
        all_ports: false,
    })
}

/// Where the manifest names no network.
fn free_choice() -> NetSpec {
    let mut spec = spec();
    masquerade(&mut spec).v4_else = ["172.20.3.0/24", "192.168.7.0/24"]
        .map(|net| net.parse().unwrap())
        .into();
    masquerade(&mut spec).v6_else = vec!["fd12:3456:789a::/120".parse().unwrap()];
    spec
}

fn networks(spec: &NetSpec, pod: &Observed) -> (String, String, Vec<String>) {
    let plan = Plan::new(spec, pod).unwrap();
    let masqueraded = masqueraded(&plan);
    let (v4, v6) = (masqueraded.v4.unwrap().network, masqueraded.v6.unwrap().network);
    (v4.to_string(), v6.to_string(), plan.notes)
}

#[test]
fn the_mtu_is_the_least_of_link_and_default_routes_with_every_binding() {
    for wiring in [
        spec().nics.remove(0).wiring,
        Wiring::Bridge,
        passt(),
        Wiring::Down,
    ] {
        let mtu = |routes: Vec<Route>| {
            let (mut spec, mut pod) = (spec(), pod());
            spec.nics[0].wiring = wiring.clone();
            eth0(&mut pod).routes = routes;
            let plan = Plan::new(&spec, &pod).unwrap();
            let taps = plan.steps.iter().filter_map(|step| match step {
                Step::Tap(tap) => Some(tap.mtu),
                _ => None,
            });
            let nic = plan.nics[0].mtu;
            assert!(taps.into_iter().all(|mtu| mtu == nic), "{}", text(&plan));
            nic
        };
        assert_eq!(mtu(vec![route("0.0.0.0/0", Some(1400))]), 1400, "{wiring:?}");
        assert_eq!(mtu(vec![route("0.0.0.0/0", Some(9000))]), 1450);
        assert_eq!(
            mtu(vec![route("0.0.0.0/0", None), route("::/0", Some(1300))]),
            1300
        );
        assert_eq!(mtu(vec![route("198.51.100.0/24", Some(1400))]), 1450);
    }
}

#[test]
fn another_guest_network_where_the_pod_needs_the_usual_one() {
    assert_eq!(
        networks(&free_choice(), &pod()),
        ("10.0.2.0/24".into(), "fd10:0:2::/120".into(), vec![])
    );
    type Change = fn(&mut NetSpec, &mut Observed);
    let cases: [(&str, Change); 5] = [
        ("its address 10.0.2.7/24 overlaps the guest network", |_, pod| {
            eth0(pod).addresses[1] = Address {
                ip: "10.0.2.7".parse().unwrap(),
                prefix_len: 24,
            };
        }),
        (
            "the route to 10.0.0.0/8 by eth0 overlaps the guest network",
            |_, pod| {
                eth0(pod).routes = vec![route("10.0.0.0/8", None)];
            },
        ),
        (
            "10.0.2.3, which the pod uses, is in the guest network",
            |spec, _| {
                spec.peers = vec!["10.0.2.3".parse().unwrap()];
            },
        ),
        (
            "the pod has 10.0.1.7, so others may have addresses in 10.0.2.0/24",
            |_, pod| {
                eth0(pod).addresses[1] = Address {
                    ip: "10.0.1.7".parse().unwrap(),
                    prefix_len: 32,
                };
            },
        ),
        (
            "the cluster has 10.0.0.10, so others may have addresses in 10.0.2.0/24",
            |spec, _| spec.peers = vec!["10.0.0.10".parse().unwrap()],
        ),
    ];
    for (why, change) in cases {
        let (mut spec, mut pod) = (free_choice(), pod());
        change(&mut spec, &mut pod);
        let (v4, v6, notes) = networks(&spec, &pod);
        assert_eq!(
            (v4.as_str(), v6.as_str()),
            ("172.20.3.0/24", "fd10:0:2::/120"),
            "{why}"
        );
        let expected = format!("default: the guest network is 172.20.3.0/24, not 10.0.2.0/24: {why}");
        assert!(notes.len() == 1 && notes[0].starts_with(&expected), "{notes:?}");
        // The next of the list where that is the pod's too.
        eth0(&mut pod).routes.push(route("172.20.0.0/16", None));
        assert_eq!(networks(&spec, &pod).0, "192.168.7.0/24", "{why}");
    }
    // A default route and multicast lead everywhere; what is link-local says nothing.
    let (mut spec, mut pod) = (free_choice(), pod());
    eth0(&mut pod).routes = vec![route("0.0.0.0/0", None), route("224.0.0.0/4", None)];
    spec.peers = vec!["169.254.25.10".parse().unwrap(), "10.96.0.10".parse().unwrap()];
    assert_eq!(networks(&spec, &pod).0, "10.0.2.0/24");
    spec.peers = vec!["fd10:0:2::9".parse().unwrap()];
    assert_eq!(networks(&spec, &pod).1, "fd12:3456:789a::/120");
}

#[test]
fn a_network_of_the_manifest_stays_and_what_it_hides_is_said() {
    let mut named = spec();
    named.peers = vec!["10.0.2.3".parse().unwrap()];
    let (v4, _, notes) = networks(&named, &pod());
    assert_eq!(v4, "10.0.2.0/24");
    assert_eq!(
        notes,
        [
            "default: the guest cannot reach part of the pod's network: 10.0.2.3, which the pod uses, is in the guest network \
             10.0.2.0/24: set a different one in vmNetworkCIDR"
        ]
    );
    named.peers = vec!["10.0.0.10".parse().unwrap()];
    assert_eq!(
        networks(&named, &pod()).2,
        [""; 0],
        "whoever names it knows the cluster"
    );
}

#[test]
fn a_plan_with_another_network_is_empty_when_made_again() {
    let mut pod = pod();
    eth0(&mut pod).routes = vec![route("10.0.0.0/8", None)];
    add_tap(&mut pod, "tap0", Some("someone's"));
    let mut model = model::Model::new(pod);
    let plan = Plan::new(&free_choice(), &model.observed).unwrap();
    assert_eq!(masqueraded(&plan).tap, "tapb4481362284");
    model.apply(&plan);
    let again = Plan::new(&free_choice(), &model.observed).unwrap();
    assert_eq!((again.steps, again.nics), (Vec::new(), plan.nics));
}

#[test]
fn taps_have_other_names_where_theirs_are_taken() {
    type Change = fn(&mut Observed);
    let cases: [(&str, Change); 3] = [
        ("somebody's TAP", |pod| add_tap(pod, "tap0", None)),
        ("somebody's helper", |pod| add_tap(pod, "srv0", Some("libvirt"))),
        ("our alias on something else", |pod| {
            add_tap(pod, "tap0", Some("hawser default 0011"));
            pod.links[2].kind = Some("dummy".into());
        }),
    ];
    for (name, change) in cases {
        let mut pod = pod();
        change(&mut pod);
        let plan = Plan::new(&spec(), &pod).unwrap();
        assert_eq!(
            (
                masqueraded(&plan).tap.as_str(),
                masqueraded(&plan).server_tap.as_str()
            ),
            ("tapb4481362284", "srvb4481362284"),
            "{name}"
        );
        assert!(!text(&plan).contains("tap0"), "{}", text(&plan));
    }
    assert_eq!(masqueraded(&Plan::new(&spec(), &pod()).unwrap()).tap, "tap0");
}

#[test]
fn the_pods_own_mac_is_not_needed_but_on_a_bridge() {
    for wiring in [spec().nics.remove(0).wiring, passt(), Wiring::Down] {
        let (mut spec, mut pod) = (spec(), pod());
        spec.nics[0].wiring = wiring;
        spec.nics[0].guest_mac = None;
        eth0(&mut pod).mac = Some(Mac::default());
        eth0(&mut pod).no_arp = true;
        let plan = Plan::new(&spec, &pod).unwrap();
        assert_eq!(plan.nics[0].guest_mac, spec.nics[0].made_mac);
    }
}

#[test]
fn a_bridged_guest_with_another_mac_than_the_pods_is_noted() {
    let notes = |mac: Option<Mac>| {
        let mut spec = spec();
        spec.nics[0].wiring = Wiring::Bridge;
        spec.nics[0].guest_mac = mac;
        Plan::new(&spec, &pod()).unwrap().notes
    };
    assert_eq!(notes(None), [""; 0]);
    assert_eq!(notes(pod().link("eth0").unwrap().mac), [""; 0]);
    let said = notes(Some(Mac([2, 0, 0, 0, 0, 7])));
    assert!(
        said[0]
            .starts_with("default: the guest has the MAC 02:00:00:00:00:07, and eth0 has 02:00:00:12:34:56:"),
        "{said:?}"
    );
}

#[test]
fn a_name_server_on_the_loopback_is_led_to_where_it_listens() {
    let mut spec = spec();
    spec.resolvers = vec!["127.0.0.11".parse().unwrap(), "::1".parse().unwrap()];
    let mut pod = pod();
    let listener = |protocol, local: &str| Listener {
        protocol,
        local: local.parse().unwrap(),
    };
    // As Docker's.
    pod.listeners = vec![
        listener(Protocol::Udp, "127.0.0.11:43743"),
        listener(Protocol::Tcp, "127.0.0.11:41001"),
        listener(Protocol::Tcp, "127.0.0.1:8080"),
    ];
    let plan = Plan::new(&spec, &pod).unwrap();
    let masqueraded = masqueraded(&plan);
    assert_eq!(
        masqueraded.v4.unwrap().resolver,
        Some(Resolver {
            address: "127.0.0.11".parse().unwrap(),
            udp: 43743,
            tcp: 41001
        })
    );
    assert_eq!(
        masqueraded.v6.unwrap().resolver,
        Some(Resolver {
            address: "::1".parse().unwrap(),
            udp: 53,
            tcp: 53
        })
    );
    let commands = ruleset(&plan)["nftables"].as_array().unwrap();
    let lines: String = commands.iter().map(|command| format!("{command}\n")).collect();
    insta::assert_snapshot!(
        lines
            .lines()
            .filter(|line| line.contains("127.0.0.11")
                || line.contains("\"::1\"")
                || line.contains("local-nat"))
            .collect::<Vec<_>>()
            .join("\n")
    );
    // Without one there is none of this.
    assert!(!ruleset_text(&super::spec()).contains("local-nat"));
}
