use super::*;
use crate::responder::Responder;
use crate::testing::*;

/// Options of a neighbour-discovery message: type and the bytes after the length.
fn options(message: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut out = Vec::new();
    let mut rest = &message[16..];
    while let [kind, eights, ..] = rest {
        let (option, after) = rest.split_at(usize::from(*eights) * 8);
        out.push((*kind, option[2..].to_vec()));
        rest = after;
    }
    assert!(rest.is_empty());
    out
}

fn get(options: &[(u8, Vec<u8>)], kind: u8) -> Vec<&[u8]> {
    options
        .iter()
        .filter(|(k, _)| *k == kind)
        .map(|(_, data)| data.as_slice())
        .collect()
}

fn advertisement(lease: &Lease) -> Sent {
    sent(&Responder::new(lease.clone()).advertisement().unwrap())
}

#[test]
fn an_advertisement_says_what_the_lease_says() {
    let sent = advertisement(&lease());
    assert_eq!(
        (sent.mac, sent.to),
        ([0x33, 0x33, 0, 0, 0, 1], "ff02::1".parse().unwrap())
    );
    // Type, code; hop limit, M and O, router lifetime; reachable time and retransmission timer unspecified.
    assert_eq!(sent.payload[..2], [134, 0]);
    assert_eq!(
        sent.payload[4..16],
        [64, 0xc0, 0x23, 0x28, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    let options = options(&sent.payload);
    assert_eq!(get(&options, 1), [&SERVER_MAC[..]]);
    assert_eq!(get(&options, 5), [&[0, 0, 0, 0, 5, 170][..]]);
    // Prefix length, L without A, 30 days, 7 days, reserved, prefix: RFC 4861 4.6.2.
    let mut prefix = vec![120, 0x80, 0, 0x27, 0x8d, 0, 0, 0x09, 0x3a, 0x80, 0, 0, 0, 0];
    prefix.extend("fd10:0:2::".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(get(&options, 3), [&prefix[..]]);
    let mut rdnss = vec![0, 0, 0, 0, 0x23, 0x28];
    rdnss.extend("fd00:10:96::a".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(get(&options, 25), [&rdnss[..]]);
    let dnssl = get(&options, 31);
    let names =
        &b"\x07default\x03svc\x07cluster\x05local\x00\x03svc\x07cluster\x05local\x00\x07cluster\x05local\x00"
            [..];
    assert_eq!(dnssl.len(), 1);
    assert_eq!(&dnssl[0][..6], &[0, 0, 0, 0, 0x23, 0x28]);
    // Padded with zeros to a multiple of eight (RFC 8106 5.2).
    assert!(dnssl[0][6..].starts_with(names) && dnssl[0][6 + names.len()..].iter().all(|b| *b == 0));
}

#[test]
fn what_the_lease_has_not_is_not_said() {
    let mut lease = lease();
    lease.search = vec!["not a name".into()];
    lease.mtu = 1200;
    let v6 = lease.v6.as_mut().unwrap();
    (v6.on_link, v6.default_router) = (None, false);
    v6.dns.clear();
    let sent = advertisement(&lease);
    assert_eq!(sent.payload[6..8], [0, 0]);
    assert_eq!(options(&sent.payload), [(1, SERVER_MAC.to_vec())]);
    lease.v6 = None;
    assert_eq!(Responder::new(lease.clone()).advertisement(), None);
    let answer = Responder::new(lease).answer(&solicitation(GUEST6_LOCAL, 255, 0, &[]));
    assert_eq!(
        (answer.reply, answer.event),
        (None, Event::Ignored(Ignored::NoLease))
    );
}

/// The guest would send to our MAC what is for the router's.
#[test]
fn in_the_name_of_a_router_on_the_link_no_hardware_address_is_told() {
    let mut lease = lease();
    lease.v6.as_mut().unwrap().router_on_link = true;
    let sent = advertisement(&lease);
    assert_ne!(sent.payload[6..8], [0, 0], "it is still the default router");
    assert!(get(&options(&sent.payload), 1).is_empty());
}

#[test]
fn many_servers_and_names_stay_within_the_link() {
    let mut lease = lease();
    lease.mtu = 1280;
    lease.v6.as_mut().unwrap().dns = (0..100u128).map(Ipv6Addr::from).collect();
    lease.search = (0..100)
        .map(|n| format!("team-{n}.a-rather-long-domain-{n}.example"))
        .collect();
    let sent = advertisement(&lease);
    assert!(
        sent.packet_len <= 1280 && sent.packet_len > 1200,
        "{}",
        sent.packet_len
    );
    let options = options(&sent.payload);
    // Filled from the most significant on.
    assert_eq!(get(&options, 25)[0][6..22], Ipv6Addr::from(0u128).octets());
    assert!(!get(&options, 25).is_empty());
}

#[test]
fn a_solicitation_is_answered_to_who_asked() {
    let responder = Responder::new(lease());
    let with_source = [1, 1, 2, 0, 0, 0, 0, 0x2a];
    let answer = responder.answer(&solicitation(GUEST6_LOCAL, 255, 0, &with_source));
    assert_eq!(answer.event, Event::RouterSolicitation { unicast: true });
    let unicast = sent(&answer.reply.unwrap());
    assert_eq!((unicast.mac, unicast.to), (GUEST_MAC, GUEST6_LOCAL.into()));
    let answer = responder.answer(&solicitation(Ipv6Addr::UNSPECIFIED, 255, 0, &[]));
    assert_eq!(answer.event, Event::RouterSolicitation { unicast: false });
    assert_eq!(sent(&answer.reply.unwrap()), advertisement(&lease()));
}

/// RFC 4861 6.1.1, rule by rule.
#[test]
fn invalid_solicitations_are_dropped() {
    let responder = Responder::new(lease());
    let none = Ipv6Addr::UNSPECIFIED;
    let mut bad_sum = solicitation(GUEST6_LOCAL, 255, 0, &[]);
    bad_sum[14 + 40 + 2] ^= 1;
    let cases = [
        solicitation(GUEST6_LOCAL, 254, 0, &[]),
        solicitation(GUEST6_LOCAL, 255, 1, &[]),
        solicitation(none, 255, 0, &[1, 1, 2, 0, 0, 0, 0, 0x2a]),
        solicitation(GUEST6_LOCAL, 255, 0, &[1, 0, 0, 0, 0, 0, 0, 0]),
        solicitation(GUEST6_LOCAL, 255, 0, &[1, 2, 0, 0, 0, 0, 0, 0]),
        solicitation(GUEST6_LOCAL, 255, 0, &[1]),
        solicitation(ALL_NODES, 255, 0, &[]),
        bad_sum,
    ];
    for frame in cases {
        let answer = responder.answer(&frame);
        assert_eq!(answer.reply, None, "{frame:?}");
        assert!(
            matches!(answer.event, Event::Malformed { .. }),
            "{}: {frame:?}",
            answer.event
        );
    }
}
