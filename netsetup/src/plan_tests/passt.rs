//! NICs that passt serves: what is handed on, which sysctls are written and taken back, and every refusal and note.

use super::*;
use crate::addressing::Route;
use crate::guest_nic::HandedV4;
use crate::observed::{PING_GROUP_RANGE, UNPRIVILEGED_PORT_START};
use crate::spec::Passt;

fn passt(lowest_port: Option<u16>, all_ports: bool) -> NetSpec {
    let mut spec = spec();
    spec.nics[0].wiring = Wiring::Passt(Passt {
        lowest_port,
        all_ports,
    });
    spec.nics[0].guest_mac = None;
    spec
}

fn plan(spec: &NetSpec, pod: &Observed) -> Plan {
    Plan::new(spec, pod).unwrap()
}

fn refusal(spec: &NetSpec, pod: &Observed) -> String {
    Plan::new(spec, pod).unwrap_err().to_string()
}

fn read_only(pod: &mut Observed) {
    for sysctl in [&mut pod.ping_group_range, &mut pod.unprivileged_port_start] {
        sysctl.as_mut().unwrap().writable = false;
    }
}

/// What the kernel makes of the steps, and of what is taken back.
fn write(pod: &mut Observed, path: &str, value: &str) {
    let sysctl = match path {
        PING_GROUP_RANGE => &mut pod.ping_group_range,
        UNPRIVILEGED_PORT_START => &mut pod.unprivileged_port_start,
        other => panic!("wrote {other}"),
    };
    let sysctl = sysctl.as_mut().unwrap();
    assert!(sysctl.writable, "the kernel: EROFS");
    sysctl.value = value.into();
}

#[test]
fn only_sysctls_are_touched_and_a_second_plan_is_empty() {
    let mut pod = pod();
    let before = pod.clone();
    let first = plan(&passt(Some(80), false), &pod);
    assert_eq!(
        text(&first),
        "write 107\t107 to /proc/sys/net/ipv4/ping_group_range\n\
         write 80 to /proc/sys/net/ipv4/ip_unprivileged_port_start\n\
         undo: set /proc/sys/net/ipv4/ping_group_range back to 1\t0\n\
         undo: set /proc/sys/net/ipv4/ip_unprivileged_port_start back to 1024"
    );
    assert!(!first.needs_net_admin());
    for step in &first.steps {
        match step {
            Step::Sysctl { path, value } => write(&mut pod, path, value),
            other => panic!("{other}"),
        }
    }
    assert_eq!(text(&plan(&passt(Some(80), false), &pod)), "");
    for undo in first.journal.undo.iter().rev() {
        match undo {
            Undo::Sysctl { path, value } => write(&mut pod, path, value),
            other => panic!("{other}"),
        }
    }
    assert_eq!(pod, before);
}

#[test]
fn what_suffices_stays_and_who_could_ping_still_can() {
    let mut pod = pod();
    pod.ping_group_range = Some(sysctl("0\t2147483647"));
    pod.unprivileged_port_start = Some(sysctl("80"));
    assert_eq!(text(&plan(&passt(Some(80), false), &pod)), "");
    // No port at all is to reach the guest.
    pod.unprivileged_port_start = Some(sysctl("1024"));
    assert_eq!(text(&plan(&passt(None, false), &pod)), "");
    pod.ping_group_range = Some(sysctl("200\t300"));
    let plan = plan(&passt(None, false), &pod);
    assert_eq!(
        plan.steps[0].to_string(),
        "write 107\t300 to /proc/sys/net/ipv4/ping_group_range"
    );
}

#[test]
fn listed_ports_that_cannot_be_had_are_refused_with_the_sysctl_that_lets_them() {
    let mut pod = pod();
    read_only(&mut pod);
    let refused = refusal(&passt(Some(80), false), &pod);
    assert!(
        refused.contains("net.ipv4.ip_unprivileged_port_start=80 to the pod (securityContext.sysctls"),
        "{refused}"
    );
    let listed = plan(&passt(Some(8080), false), &pod);
    assert_eq!((listed.steps.len(), listed.notes.len()), (0, 1));
    assert!(listed.notes[0].contains("net.ipv4.ping_group_range=\"107 107\""));

    let all = plan(&passt(Some(1), true), &pod);
    assert_eq!((all.steps.len(), all.notes.len()), (0, 2));
    assert!(
        all.notes[0].contains("ports below 1024 do not reach the guest"),
        "{:?}",
        all.notes
    );
}

#[test]
fn the_guest_is_handed_what_the_pod_has() {
    let route = |destination: &str, gateway: Option<&str>, metric| Route {
        destination: destination.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        metric,
        mtu: None,
        protocol: 3,
        link_local: None,
        router_mac: None,
    };
    let mut pod = pod();
    eth0(&mut pod).routes = vec![
        route("10.0.0.0/8", Some("192.0.2.9"), 0),
        route("0.0.0.0/0", Some("192.0.2.2"), 100),
        route("0.0.0.0/0", Some("192.0.2.1"), 0),
        route("::/0", Some("fe80::1"), 0),
    ];
    let spec = passt(None, false);
    let nic = plan(&spec, &pod).nics.remove(0);
    let expected = HandedV4 {
        address: "192.0.2.10".parse().unwrap(),
        prefix_len: 24,
        gateway: Some("192.0.2.1".parse().unwrap()),
    };
    let handed = nic.passt().cloned().unwrap();
    assert_eq!(
        (handed.v4, handed.v6),
        (Some(expected), Some("2001:db8::10".parse().unwrap()))
    );
    assert_eq!(
        (nic.mtu, nic.guest_mac),
        (1450, spec.nics[0].made_mac),
        "one of the guest's own"
    );
    assert!(nic.tap().is_none() && nic.server_tap().is_none());
    eth0(&mut pod).routes.clear();
    eth0(&mut pod).addresses.retain(|address| address.ip.is_ipv4());
    let handed = plan(&spec, &pod).nics.remove(0).passt().cloned().unwrap();
    assert_eq!(
        (handed.v4.map(|v4| v4.gateway), handed.v6),
        (Some(None), None),
        "no route and no IPv6"
    );
}

#[test]
fn a_pod_that_has_nothing_to_hand_on_is_refused() {
    let spec = passt(None, false);
    let mut without = pod();
    eth0(&mut without).addresses.clear();
    assert!(refusal(&spec, &without).contains("the interface has no address that passt can use"));
    let mut without = pod();
    without.links.retain(|link| link.name != "eth0");
    assert!(refusal(&spec, &without).contains("no such interface"));
}

#[test]
fn beside_a_bridge_only_the_bridged_interface_moves() {
    let mut spec = passt(Some(80), false);
    let mut second = spec.nics[0].clone();
    second.name = "red".into();
    second.pod_interface = "podred".into();
    second.tap = "tapred".into();
    second.server_tap = "srvred".into();
    second.wiring = Wiring::Bridge;
    spec.nics.push(second);
    let mut pod = pod();
    pod.links.push(Link {
        index: 3,
        name: "podred".into(),
        mac: Some(Mac([2, 0, 0, 0, 0, 7])),
        mtu: 1500,
        up: true,
        kind: Some("veth".into()),
        ..Link::default()
    });
    let plan = plan(&spec, &pod);
    let text = text(&plan);
    assert!(!text.contains("eth0") && !text.contains("tap0"), "{text}");
    assert!(text.contains("attach podred to k6t-red"), "{text}");
    assert!(text.contains("write 80 to"), "{text}");
    assert!(plan.needs_net_admin());
}
