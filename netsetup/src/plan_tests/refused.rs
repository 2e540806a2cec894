//! Pods in which a guest cannot be masqueraded, or not in both families: what is said.

use super::*;

#[test]
fn every_refusal_names_its_object_and_a_way_out() {
    type Change = fn(&mut NetSpec, &mut Observed);
    let cases: [(&str, Change, &str); 10] = [
        (
            "no such interface",
            |_, pod| pod.links.truncate(1),
            "eth0: the pod's network namespace has no such interface",
        ),
        (
            "the guest's network is the pod's",
            |spec, _| masquerade(spec).v4 = "192.0.2.0/28".parse().unwrap(),
            "eth0: its address 192.0.2.10/24 overlaps the guest network 192.0.2.0/28: set a different one in vmNetworkCIDR",
        ),
        (
            "the guest's network holds the pod's",
            |spec, _| masquerade(spec).v4 = "192.0.0.0/16".parse().unwrap(),
            "overlaps the guest network 192.0.0.0/16",
        ),
        (
            "the same for IPv6",
            |spec, _| masquerade(spec).v6 = "2001:db8::/120".parse().unwrap(),
            "overlaps the guest network 2001:db8::/120: set a different one in vmIPv6NetworkCIDR",
        ),
        (
            "wired by KubeVirt",
            |_, pod| {
                pod.links.push(Link {
                    name: "k6t-eth0".into(),
                    kind: Some("bridge".into()),
                    ..Link::default()
                });
            },
            "k6t-eth0: KubeVirt's node agent has wired this pod",
        ),
        (
            "somebody's TAPs",
            |_, pod| {
                add_tap(pod, "tap0", None);
                add_tap(pod, "tapb4481362284", None);
            },
            "tapb4481362284: an interface of this name exists, and hawser did not create it: remove it, or start in a fresh pod",
        ),
        (
            "no address",
            |_, pod| {
                eth0(pod)
                    .addresses
                    .retain(|a| a.ip == "fe80::10".parse::<IpAddr>().unwrap())
            },
            "eth0: the interface has no address that masquerade can use",
        ),
        (
            "IPv6 wanted where the pod has none",
            |spec, pod| {
                masquerade(spec).v6_required = true;
                eth0(pod).addresses.retain(|a| a.ip.is_ipv4());
            },
            "eth0: the manifest sets vmIPv6NetworkCIDR, but the pod has no global IPv6 address: remove the field",
        ),
        (
            "IPv6 wanted where it cannot be forwarded",
            |spec, pod| {
                masquerade(spec).v6_required = true;
                pod.ipv6_forwarding.as_mut().unwrap().writable = false;
            },
            "eth0: net.ipv6.conf.all.forwarding is 0 and read-only in this pod: add the sysctl net.ipv6.conf.all.forwarding=1",
        ),
        (
            "IPv6 alone, where it cannot be forwarded",
            |_, pod| {
                eth0(pod).addresses.retain(|a| a.ip.is_ipv6());
                pod.ipv6_forwarding.as_mut().unwrap().writable = false;
            },
            "eth0: the pod has IPv6 only, and net.ipv6.conf.all.forwarding is 0 and read-only in this pod: add the sysctl \
             net.ipv6.conf.all.forwarding=1",
        ),
    ];
    for (name, change, wanted) in cases {
        let (mut spec, mut pod) = (spec(), pod());
        change(&mut spec, &mut pod);
        let said = Plan::new(&spec, &pod)
            .map(|plan| text(&plan))
            .unwrap_err()
            .to_string();
        assert!(said.contains(wanted), "{name}: {said}");
    }
}

#[test]
fn what_the_namespace_holds_of_others_is_told_from_what_the_pod_lacks() {
    let mut foreign = pod();
    add_tap(&mut foreign, "tap0", None);
    add_tap(&mut foreign, "tapb4481362284", None);
    assert!(matches!(Plan::new(&spec(), &foreign), Err(Error::NotOurs { .. })));
    let mut bare = pod();
    bare.links.truncate(1);
    assert!(matches!(Plan::new(&spec(), &bare), Err(Error::Unfit { .. })));
}

#[test]
fn doing_without_ipv6_is_said_and_why() {
    type Change = fn(&mut Observed);
    let cases: [(&str, Change, Option<&str>); 7] = [
        ("nothing wrong", |_| {}, None),
        (
            "no IPv6 in the pod",
            |pod| eth0(pod).addresses.retain(|a| a.ip.is_ipv4()),
            None,
        ),
        (
            "set by the pod",
            |pod| {
                pod.ipv6_forwarding = Some(Sysctl {
                    value: "1".into(),
                    writable: false,
                });
            },
            None,
        ),
        (
            "read-only",
            |pod| pod.ipv6_forwarding.as_mut().unwrap().writable = false,
            Some(
                "default: the guest has no IPv6: net.ipv6.conf.all.forwarding is 0 and read-only in this pod",
            ),
        ),
        (
            "a small MTU",
            |pod| eth0(pod).mtu = 1279,
            Some("default: the guest has no IPv6: the MTU of eth0 is 1279, but IPv6 requires at least 1280"),
        ),
        (
            "no IPv6 on new interfaces",
            |pod| pod.ipv6_disabled_by_default = true,
            Some("default: the guest has no IPv6: net.ipv6.conf.default.disable_ipv6 is 1 in this pod"),
        ),
        (
            "a kernel without",
            |pod| pod.ipv6_forwarding = None,
            Some("default: the guest has no IPv6: the kernel has no net.ipv6.conf.all.forwarding"),
        ),
    ];
    for (name, change, wanted) in cases {
        let mut pod = pod();
        change(&mut pod);
        let plan = Plan::new(&spec(), &pod).unwrap();
        match wanted {
            Some(wanted) => {
                assert!(
                    plan.notes.len() == 1 && plan.notes[0].starts_with(wanted),
                    "{name}: {:?}",
                    plan.notes
                );
                assert!(masqueraded(&plan).v6.is_none(), "{name}");
            }
            None => assert_eq!(plan.notes, [""; 0], "{name}"),
        }
    }
}
