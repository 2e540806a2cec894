//! What a reply says: which options, in which order, and how they fit.

use super::*;

#[test]
fn the_parameter_list_decides_what_is_sent_and_in_which_order() {
    let always = [53, 54, 51, 58, 59, 1];
    let sent = offer(&lease(), &[(55, &[6, 3, 1, 26, 15, 6, 99])]);
    assert_eq!(codes(&sent), [&always[..], &[6, 3, 26, 15, 240]].concat());
    assert_eq!(get(&sent, 26), Some(&1450u16.to_be_bytes()[..]));
    assert_eq!(get(&sent, 51), Some(&LEASE_SECONDS.to_be_bytes()[..]));
    let sent = offer(&lease(), &[]);
    assert_eq!(
        codes(&sent),
        [&always[..], &[3, 6, 12, 15, 26, 28, 42, 66, 67, 119, 240]].concat()
    );
    let sent = offer(&lease(), &[(55, &[240, 42])]);
    assert_eq!(codes(&sent), [&always[..], &[240, 42]].concat());
    assert_eq!(get(&sent, 240), Some(&b"private.options"[..]));
}

#[test]
fn classless_routes_take_the_place_of_the_router_for_those_who_ask() {
    let by_gateway = [0, 10, 0, 2, 1];
    let sent = offer(&lease(), &[(55, &[3, 121])]);
    assert_eq!((get(&sent, 3), get(&sent, 121)), (None, Some(&by_gateway[..])));
    let sent = offer(&lease(), &[(55, &[249, 3])]);
    assert_eq!(
        (get(&sent, 3), get(&sent, 249), get(&sent, 121)),
        (None, Some(&by_gateway[..]), None)
    );
    let sent = offer(&lease(), &[(55, &[3])]);
    assert_eq!((get(&sent, 3), get(&sent, 121)), (Some(&[10, 0, 2, 1][..]), None));
    let mut unrouted = lease();
    unrouted.v4.as_mut().unwrap().routers.clear();
    let sent = offer(&unrouted, &[(55, &[3, 121])]);
    assert_eq!((get(&sent, 3), get(&sent, 121)), (None, None));
}

/// The destination descriptors of RFC 3442's table.
#[test]
fn the_descriptors_of_rfc_3442() {
    let via = Ipv4Addr::new(10, 0, 2, 9);
    let table: [(&str, &[u8]); 8] = [
        ("0.0.0.0/0", &[0]),
        ("10.0.0.0/8", &[8, 10]),
        ("10.0.0.0/24", &[24, 10, 0, 0]),
        ("10.17.0.0/16", &[16, 10, 17]),
        ("10.27.129.0/24", &[24, 10, 27, 129]),
        ("10.229.0.128/25", &[25, 10, 229, 0, 128]),
        ("10.198.122.47/32", &[32, 10, 198, 122, 47]),
        ("169.254.1.1/32", &[32, 169, 254, 1, 1]),
    ];
    for (net, descriptor) in table {
        let mut lease = lease();
        let v4 = lease.v4.as_mut().unwrap();
        v4.routes = vec![Route4 {
            destination: net.parse().unwrap(),
            via,
        }];
        let mut expected = [descriptor, &via.octets()].concat();
        // A default route of the lease's own is not doubled by the router's.
        if net != "0.0.0.0/0" {
            expected.extend([0, 10, 0, 2, 1]);
        }
        assert_eq!(
            get(&offer(&lease, &[(55, &[121])]), 121),
            Some(&expected[..]),
            "{net}"
        );
    }
}

#[test]
fn ipv6_only_is_said_only_when_the_lease_says_so_and_the_guest_asks() {
    let asks: &[(u8, &[u8])] = &[(55, &[108])];
    assert_eq!(get(&offer(&lease(), asks), 108), None);
    let mut willing = lease();
    willing.v4.as_mut().unwrap().ipv6_only_wait = Some(1800);
    assert_eq!(get(&offer(&willing, asks), 108), Some(&[0, 0, 7, 8][..]));
    assert_eq!(get(&offer(&willing, &[]), 108), None);
    willing.v6 = None;
    assert_eq!(get(&offer(&willing, asks), 108), None);
}

#[test]
fn network_boot_is_in_the_header_too() {
    let reply = ask(NONE, 0, ALL, &[DISCOVER, (55, &[66, 67])]).0.unwrap();
    let message = decode4(&reply.payload);
    assert_eq!(message.siaddr(), Ipv4Addr::new(192, 0, 2, 69));
    assert_eq!(&reply.payload[44..55], b"192.0.2.69\0");
    assert_eq!(&reply.payload[108..119], b"pxelinux.0\0");
    let options = options_of(&reply.payload);
    assert_eq!(get(&options, 67), Some(&b"pxelinux.0"[..]));
    let refused = ask(NONE, 0, ALL, &[REQUEST, WRONG]).0.unwrap();
    assert_eq!(&refused.payload[44..236], &[0; 192]);
}

fn big_search() -> Lease {
    let mut lease = lease();
    lease.search = (0..16)
        .map(|n| format!("team-{n:02}.a-rather-long-domain-{n:02}.example"))
        .collect();
    lease
}

#[test]
fn long_options_are_split_and_join_again() {
    let lease = big_search();
    let expected = crate::names::compressed(&lease.search);
    assert!(expected.len() > 255);
    let sent = offer(&lease, &[(55, &[119]), (57, &1400u16.to_be_bytes())]);
    assert_eq!(get(&sent, 119), Some(&expected[..]));
    assert_eq!(get(&sent, 52), None);
}

#[test]
fn a_small_client_gets_overload_and_then_less() {
    let mut lease = lease();
    let asks: &[(u8, &[u8])] = &[(55, &[1, 121, 6, 26, 15, 12, 119, 42, 66, 67, 28])];
    lease.v4.as_mut().unwrap().private_options =
        BTreeMap::from([(224, vec![4; 150]), (230, vec![6; 50]), (250, vec![5; 100])]);
    // All of it needs the two header fields, and is still all there.
    let sent = offer(&lease, asks);
    assert_eq!(get(&sent, 52), Some(&[3][..]));
    assert_eq!(
        (get(&sent, 224), get(&sent, 250)),
        (Some(&[4; 150][..]), Some(&[5; 100][..]))
    );
    assert_eq!(
        (get(&sent, 230), get(&sent, 28).is_some()),
        (Some(&[6; 50][..]), true)
    );
    // Too much: what can be derived goes first, then the highest private option, and so on; never the routes.
    lease.v4.as_mut().unwrap().private_options = BTreeMap::from([(224, vec![4; 150]), (250, vec![5; 255])]);
    let sent = offer(&lease, asks);
    assert_eq!(
        (get(&sent, 28), get(&sent, 59), get(&sent, 250)),
        (None, None, None)
    );
    assert_eq!(get(&sent, 224), Some(&[4; 150][..]));
    assert!(get(&sent, 121).is_some() && get(&sent, 119).is_some() && get(&sent, 67).is_some());
    lease.v4.as_mut().unwrap().private_options = BTreeMap::from([(224, vec![4; 4000])]);
    let sent = offer(&lease, asks);
    assert_eq!(get(&sent, 224), None);
    assert!(get(&sent, 121).is_some() && get(&sent, 6).is_some());
}

/// As resolv.conf may have them: up to 32, of up to 256 characters in all with Kubernetes' usual limits.
#[test]
fn of_many_search_domains_the_first_are_sent() {
    let mut lease = lease();
    lease.search = (0..32)
        .map(|n| format!("team-{n:02}.a-rather-long-domain-{n:02}.of-its-own-{n:02}.example"))
        .collect();
    let sent = offer(&lease, &[(55, &[1, 3, 6, 119])]);
    let found = get(&sent, 119).unwrap();
    let some = (1..32).find(|len| crate::names::compressed(&lease.search[..*len]) == found);
    assert!(some.is_some_and(|len| len > 4), "{some:?}: {found:02x?}");
    assert!(get(&sent, 6).is_some() && get(&sent, 1).is_some());
}

/// Boot names that overload displaces from the header come as options even if not asked for.
#[test]
fn displaced_boot_names_become_options() {
    let mut lease = big_search();
    lease.search.truncate(11);
    lease.v4.as_mut().unwrap().private_options.clear();
    let sent = offer(&lease, &[(55, &[119])]);
    assert!(get(&sent, 52).is_some());
    assert_eq!(
        get(&sent, 119),
        Some(&crate::names::compressed(&lease.search)[..])
    );
    assert_eq!(get(&sent, 67), Some(&b"pxelinux.0"[..]));
}

#[test]
fn the_mtu_bounds_a_reply_whatever_the_client_takes() {
    let mut lease = lease();
    lease.v4.as_mut().unwrap().private_options = (224..=254).map(|code| (code, vec![code; 200])).collect();
    let options = options4(&[DISCOVER, (57, &9000u16.to_be_bytes())]);
    let reply = ask_with(&lease, &frame4(NONE, ALL, &message4(NONE, 0, &options)))
        .0
        .unwrap();
    assert!(
        reply.packet_len <= 1450 && reply.packet_len > 1300,
        "{}",
        reply.packet_len
    );
    lease.mtu = 270;
    let (reply, event) = ask_with(&lease, &frame4(NONE, ALL, &message4(NONE, 0, &options)));
    assert_eq!((reply, outcome(event).1), (None, Dhcp4Outcome::TooLarge));
}

#[test]
fn private_options_are_those_from_224_to_254_and_may_be_empty() {
    let mut lease = lease();
    let given = [
        (3, vec![]),
        (121, vec![9]),
        (224, vec![]),
        (249, vec![8]),
        (255, vec![7]),
    ];
    lease.v4.as_mut().unwrap().private_options = BTreeMap::from(given);
    let sent = offer(&lease, &[(55, &[6])]);
    assert_eq!(
        (get(&sent, 3), get(&sent, 121), get(&sent, 224)),
        (None, None, Some(&[][..]))
    );
    // Set by the manifest, it is not ours to derive from the routes.
    assert_eq!(get(&sent, 249), Some(&[8][..]));
    assert_eq!(get(&offer(&lease, &[(55, &[249])]), 249), Some(&[8][..]));
}

/// RFC 3396 section 8, as it is on the wire: full instances first, the rest in the last.
#[test]
fn a_split_option_fills_its_instances() {
    let items = vec![
        pack::Item::new(224, vec![7; 256]),
        pack::Item::new(225, vec![8; 255]),
    ];
    let expected = [
        &[224, 255][..],
        &[7; 255],
        &[224, 1, 7],
        &[225, 255],
        &[8; 255],
        &[255],
    ]
    .concat();
    let packed = pack::pack(items.clone(), Vec::new(), expected.len()).unwrap();
    assert_eq!(
        (packed.options, packed.file, packed.sname),
        (expected.clone(), None, None)
    );
    // A byte less, and the header fields are needed.
    assert!(
        pack::pack(items, Vec::new(), expected.len() - 1)
            .unwrap()
            .file
            .is_some()
    );
}
