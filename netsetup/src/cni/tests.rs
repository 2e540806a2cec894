use super::*;
use crate::observed::{Address, TapFacts};

const OWNER: Owner = Owner { uid: 107, gid: 107 };
const OWN: Mac = Mac([2, 0, 0, 0, 0, 7]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 8]);

fn link(index: u32, name: &str, kind: &str, mac: Mac) -> Link {
    Link {
        index,
        name: name.into(),
        kind: Some(kind.into()),
        mac: Some(mac),
        mtu: 1400,
        up: true,
        ..Link::default()
    }
}

fn tap() -> Link {
    Link {
        tap: Some(TapFacts {
            persistent: true,
            ..TapFacts::default()
        }),
        ..link(5, "tapred", "tun", OWN)
    }
}

fn spec() -> CniSpec {
    CniSpec {
        name: "red".into(),
        devices: vec!["tapred".into()],
        pod_interfaces: vec!["podred".into(), "net1".into()],
        queue_pairs: 1,
        guest_mac: None,
    }
}

fn find(spec: &CniSpec, links: &[Link]) -> (Result<CniNic, String>, Vec<String>) {
    let observed = Observed {
        links: links.to_vec(),
        ..Observed::default()
    };
    let mut notes = Vec::new();
    let found = CniNic::find(spec, OWNER, &observed, &mut notes);
    (found.map_err(|error| error.to_string()), notes)
}

fn found(spec: &CniSpec, links: &[Link]) -> CniNic {
    let (found, notes) = find(spec, links);
    assert_eq!(notes, [""; 0]);
    found.unwrap()
}

fn refused(spec: &CniSpec, links: &[Link], wanted: &str) {
    let said = find(spec, links).0.unwrap_err();
    assert!(said.contains(wanted), "{said}");
}

#[test]
fn a_tap_comes_before_a_macvtap_and_each_has_the_mac_that_the_guest_needs() {
    let macvtap = link(6, "podred", "macvtap", OTHER);
    let nic = found(&spec(), std::slice::from_ref(&macvtap));
    assert_eq!(nic.device, CniDevice::Macvtap { index: 6 });
    assert_eq!(
        (nic.interface.as_str(), nic.guest_mac, nic.mtu),
        ("podred", OTHER, 1400)
    );
    let nic = found(&spec(), &[tap()]);
    assert_eq!(
        (nic.interface.as_str(), nic.device, nic.guest_mac),
        ("tapred", CniDevice::Tap, OWN)
    );
    // An interface beside a TAP is there to say what the guest's MAC is.
    let nic = found(&spec(), &[link(6, "net1", "dummy", OTHER), tap()]);
    assert_eq!((nic.device, nic.guest_mac), (CniDevice::Tap, OTHER));
    // CNI's own `tap` plugin gives the TAP the interface's name.
    let named = Link {
        name: "net1".into(),
        ..tap()
    };
    let nic = found(&spec(), &[named]);
    assert_eq!(
        (nic.interface.as_str(), nic.device, nic.guest_mac),
        ("net1", CniDevice::Tap, OWN)
    );
    let wanted = CniSpec {
        guest_mac: Some(OTHER),
        ..spec()
    };
    assert_eq!(found(&wanted, &[tap()]).guest_mac, OTHER);
    let wanted = CniSpec {
        guest_mac: Some(OTHER),
        ..spec()
    };
    assert_eq!(found(&wanted, &[macvtap]).guest_mac, OTHER);
}

#[test]
fn queue_pairs_follow_the_tap() {
    let multi = |multi_queue| Link {
        tap: Some(TapFacts {
            multi_queue,
            ..TapFacts::default()
        }),
        ..tap()
    };
    let four = CniSpec {
        queue_pairs: 4,
        ..spec()
    };
    assert_eq!(found(&four, &[multi(true)]).queue_pairs, 4);
    let (nic, notes) = find(&four, &[multi(false)]);
    assert_eq!(nic.unwrap().queue_pairs, 1);
    assert!(notes[0].contains("created without multi-queue"), "{notes:?}");
    refused(
        &spec(),
        &[multi(true)],
        "tapred: the TAP is multi-queue, but the guest's NIC has one",
    );
    assert_eq!(
        found(&four, &[link(6, "podred", "macvtap", OTHER)]).queue_pairs,
        4
    );
}

#[test]
fn whose_tap_it_is() {
    let of = |owner, group| Link {
        tap: Some(TapFacts {
            owner,
            group,
            ..TapFacts::default()
        }),
        ..tap()
    };
    for (owner, group) in [
        (None, None),
        (Some(107), None),
        (None, Some(107)),
        (Some(107), Some(107)),
    ] {
        found(&spec(), &[of(owner, group)]);
    }
    refused(
        &spec(),
        &[of(Some(0), Some(107))],
        "tapred: the TAP belongs to user 0, so hawser as 107:107 cannot open it",
    );
    refused(
        &spec(),
        &[of(Some(107), Some(5))],
        "tapred: the TAP belongs to group 5, so hawser as 107:107 cannot open it",
    );
}

#[test]
fn what_cannot_be_used_as_it_is() {
    refused(
        &spec(),
        &[link(1, "lo", "", OWN), link(2, "eth0", "veth", OWN)],
        "network red: the pod has no TAP or macvtap for it: hawser looked for tapred or podred or net1 and found only \
         eth0 (veth): attach",
    );
    refused(
        &spec(),
        &[link(6, "podred", "macvlan", OWN)],
        "podred: it is a macvlan, not a TAP or a macvtap",
    );
    refused(&spec(), &[Link { mac: None, ..tap() }], "tapred: it is a TUN");
    refused(
        &spec(),
        &[Link { up: false, ..tap() }],
        "tapred: the device is down: its CNI plugin must bring it up",
    );
    let ours = Link {
        alias: Some("hawser red 0123".into()),
        ..tap()
    };
    refused(&spec(), &[ours], "tapred: hawser created it at an earlier start");
    let wanted = CniSpec {
        guest_mac: Some(OTHER),
        ..spec()
    };
    refused(
        &wanted,
        &[link(6, "podred", "macvtap", OWN)],
        "podred: the macvtap has the MAC 02:00:00:00:00:07 and receives no frames for 02:00:00:00:00:08",
    );
}

#[test]
fn a_guest_with_the_taps_own_mac() {
    let port = Link {
        controller: Some(9),
        ..tap()
    };
    let bridge = link(9, "br0", "bridge", OTHER);
    refused(
        &spec(),
        &[port.clone(), bridge.clone()],
        "tapred: the TAP is a bridge port and the guest would share its MAC",
    );
    let wanted = CniSpec {
        guest_mac: Some(OTHER),
        ..spec()
    };
    found(&wanted, &[port, bridge]);
    let with_ipv6 = Link {
        addresses: vec![Address {
            ip: "fe80::7".parse().unwrap(),
            prefix_len: 64,
        }],
        ..tap()
    };
    let (nic, notes) = find(&spec(), &[with_ipv6]);
    assert_eq!(nic.unwrap().guest_mac, OWN);
    assert!(notes[0].contains("its link-local IPv6 address"), "{notes:?}");
}
