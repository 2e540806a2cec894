//! Properties of the whole path from bytes to reply, over the public interface alone.
//!
//! An ordinary run tries a hundred cases of each; `PROPTEST_CASES=1000000` makes it a long one, and the fuzz targets in
//! `fuzz/` go on from there.

// A test may fail where a helper meets what it does not expect.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use dhcproto::{Decodable, Decoder};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use hawser_dhcp::{Lease, LeaseV4, LeaseV6, Mac, Responder, Route4};
use proptest::collection::vec;
use proptest::prelude::*;

const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 42];
const LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x2a);
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

prop_compose! {
    fn any_v4()(
        address in any::<Ipv4Addr>(),
        prefix_len in 0u8..=40,
        routers in vec(any::<Ipv4Addr>(), 0..3),
        routes in vec((any::<Ipv4Addr>(), 0u8..=32, any::<Ipv4Addr>()), 0..40),
        dns in vec(any::<Ipv4Addr>(), 0..80),
        boot_file_name in proptest::option::of("[ -~]{0,300}"),
        tftp_server_name in proptest::option::of("[ -~]{0,80}"),
        private_options in proptest::collection::btree_map(any::<u8>(), vec(any::<u8>(), 0..600), 0..5),
        ipv6_only_wait in any::<Option<u32>>(),
    ) -> LeaseV4 {
        let routes = routes.into_iter().map(|(net, len, via)| {
            let destination = ipnet::Ipv4Net::new(net, len).expect("a length up to 32");
            Route4 { destination, via }
        });
        LeaseV4 {
            address, prefix_len, server: Ipv4Addr::new(10, 0, 2, 1), routers, routes: routes.collect(),
            ntp_servers: dns.clone(), dns, tftp_server_name, boot_file_name, private_options, ipv6_only_wait,
        }
    }
}

prop_compose! {
    fn any_lease()(
        mtu in prop_oneof![Just(1500u16), any::<u16>(), 0u16..700],
        hostname in proptest::option::of("\\PC{0,80}"),
        search in vec("[a-z.\\-]{0,70}", 0..20),
        v4 in any_v4(),
        address in any::<Ipv6Addr>(),
        on_link in proptest::option::of((any::<Ipv6Addr>(), 0u8..=128)),
        default_router in any::<bool>(),
        dns in vec(any::<Ipv6Addr>(), 0..90),
    ) -> Lease {
        Lease {
            guest_mac: Mac(GUEST_MAC),
            server_mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu,
            hostname,
            domain: search.first().cloned(),
            search,
            v4: Some(v4),
            v6: Some(LeaseV6 {
                address,
                on_link: on_link.and_then(|(net, len)| ipnet::Ipv6Net::new(net, len).ok()),
                server: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
                default_router,
                router_on_link: false,
                dns,
            }),
        }
    }
}

fn header4(ciaddr: Ipv4Addr, flags: u16) -> Vec<u8> {
    let mut out = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0];
    out.extend(flags.to_be_bytes());
    out.extend(ciaddr.octets());
    out.extend([0; 12]);
    out.extend(GUEST_MAC);
    out.resize(236, 0);
    out.extend([99, 130, 83, 99]);
    out
}

fn frame4(destination: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2(GUEST_MAC, [0xff; 6])
        .ipv4([0; 4], destination.octets(), 64)
        .udp(68, 67)
        .write(&mut out, message)
        .expect("a frame");
    out
}

fn frame6(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2(GUEST_MAC, [0x33; 6])
        .ipv6(LOCAL.octets(), SERVERS.octets(), 1)
        .udp(546, 547)
        .write(&mut out, message)
        .expect("a frame");
    out
}

/// Options of DHCPv4 that make sense often enough, and any others.
fn options4() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        (prop_oneof![Just(50u8), Just(54)], Just(vec![10, 0, 2, 1])),
        (Just(55u8), vec(any::<u8>(), 0..60)),
        (Just(57u8), vec(any::<u8>(), 2)),
        (Just(61u8), vec(any::<u8>(), 1..255)),
        (any::<u8>(), vec(any::<u8>(), 0..20)),
    ];
    (
        prop_oneof![Just(1u8), Just(3), Just(8), any::<u8>()],
        vec(option, 0..8),
    )
        .prop_map(|(kind, options)| {
            let mut out = vec![53, 1, kind];
            for (code, data) in options {
                out.push(code);
                out.push(u8::try_from(data.len()).expect("short data"));
                out.extend(data);
            }
            out
        })
}

/// A DHCPv6 message with identifiers that are mostly right, and any further options.
fn message6() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        (prop_oneof![Just(3u16), Just(25)], vec(any::<u8>(), 12)),
        (
            Just(3u16),
            vec(any::<u8>(), 24).prop_map(|address| { [&[0; 12][..], &[0, 5, 0, 24], &address].concat() })
        ),
        (Just(6u16), Just(vec![0, 23, 0, 24, 0, 82, 0, 83])),
        (any::<u16>(), vec(any::<u8>(), 0..40)),
    ];
    // Kinds with the server's identifier where it belongs, and now and then anything.
    let right = proptest::sample::select(vec![
        (1, false),
        (3, true),
        (4, false),
        (5, true),
        (6, false),
        (8, true),
    ]);
    let right = prop_oneof![9 => right, 1 => (any::<u8>(), any::<bool>())];
    let head =
        (right, prop::bool::weighted(0.95)).prop_map(|((kind, server), client)| (kind, client, server));
    (head, vec(option, 0..20)).prop_map(|((kind, client, server), mut options)| {
        if client {
            options.push((1, vec![0, 4, 9, 9, 9]));
        }
        if server {
            options.push((2, vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 1]));
        }
        let mut out = vec![kind, 1, 2, 3];
        for (code, data) in options {
            out.extend(code.to_be_bytes());
            out.extend(u16::try_from(data.len()).expect("short data").to_be_bytes());
            out.extend(data);
        }
        out
    })
}

/// The payload of a reply, which must be UDP to the guest.
fn payload(frame: &[u8]) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame");
    match packet.transport {
        Some(TransportSlice::Udp(udp)) => udp.payload().to_vec(),
        other => panic!("not UDP: {other:?}"),
    }
}

/// Joins the instances of each option over all fields; fails on anything malformed.
fn joined(message: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut out: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let walk = |mut field: &[u8], out: &mut BTreeMap<u8, Vec<u8>>| {
        loop {
            match field {
                [255, ..] => return,
                [0, rest @ ..] => field = rest,
                [code, len, rest @ ..] => {
                    let (data, rest) = rest.split_at(usize::from(*len));
                    out.entry(*code).or_default().extend(data);
                    field = rest;
                }
                _ => panic!("no end option"),
            }
        }
    };
    walk(&message[240..], &mut out);
    let overload = out.get(&52).map_or(0, |data| data[0]);
    if overload & 1 != 0 {
        walk(&message[108..236], &mut out);
    }
    if overload & 2 != 0 {
        walk(&message[44..108], &mut out);
    }
    out
}

fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 100;
    }
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_frame_is_survived(lease in any_lease(), mut frame in vec(any::<u8>(), 0..400)) {
        let responder = Responder::new(lease);
        responder.answer(&frame);
        if let Some(source) = frame.get_mut(6..12) {
            source.copy_from_slice(&GUEST_MAC);
        }
        for kind in [[8, 0], [0x86, 0xdd]] {
            if let Some(ether_type) = frame.get_mut(12..14) {
                ether_type.copy_from_slice(&kind);
            }
            responder.answer(&frame);
        }
        responder.advertisement();
    }

    #[test]
    fn any_message_is_survived(lease in any_lease(), tail in vec(any::<u8>(), 0..300)) {
        let responder = Responder::new(lease);
        let all = Ipv4Addr::BROADCAST;
        responder.answer(&frame4(all, &tail));
        responder.answer(&frame4(all, &[header4(Ipv4Addr::UNSPECIFIED, 0), tail.clone()].concat()));
        responder.answer(&frame6(&tail));
    }

    #[test]
    fn dhcpv4_replies_decode_and_fit(
        lease in any_lease(),
        options in options4(),
        claimed in prop_oneof![Just(Ipv4Addr::UNSPECIFIED), any::<Ipv4Addr>()],
        flags in any::<u16>(),
    ) {
        let request = [header4(claimed, flags), options].concat();
        let answer = Responder::new(lease.clone()).answer(&frame4(Ipv4Addr::BROADCAST, &request));
        prop_assume!(answer.reply.is_some());
        let frame = answer.reply.expect("assumed");
        let asked = {
            let mut ended = request.clone();
            ended.push(255);
            joined(&ended)
        };
        let size = asked.get(&57).and_then(|data| <[u8; 2]>::try_from(data.as_slice()).ok());
        let most = size.map_or(576, u16::from_be_bytes).max(576).min(lease.mtu);
        prop_assert!(frame.len() - 14 <= usize::from(most), "{} in {most}", frame.len() - 14);
        let message = payload(&frame);
        let decoded = dhcproto::v4::Message::decode(&mut Decoder::new(&message));
        prop_assert!(decoded.is_ok(), "{decoded:?}");
        let options = joined(&message);
        prop_assert_eq!(options.get(&61), asked.get(&61));
        prop_assert_eq!(options.get(&54).map(Vec::as_slice), Some(&[10, 0, 2, 1][..]));
        let v4 = lease.v4.expect("always there");
        if options.get(&53).is_some_and(|kind| kind[0] == 6) {
            prop_assert!(options.keys().all(|code| [52, 53, 54, 61].contains(code)));
        }
        // However an option was cut up, what is there is there whole.
        for (code, data) in options.iter().filter(|(code, _)| (224..=254).contains(*code)) {
            let own = v4.private_options.get(code);
            prop_assert!(own == Some(data) || *code == 249 && own.is_none());
        }
        if let Some(data) = options.get(&6) {
            prop_assert_eq!(data, &v4.dns.iter().flat_map(Ipv4Addr::octets).collect::<Vec<u8>>());
        }
        let routes = options.contains_key(&121) || options.contains_key(&249) && asked.get(&55).is_some_and(|list| list.contains(&249));
        prop_assert!(!(options.contains_key(&3) && routes));
    }

    #[test]
    fn dhcpv6_replies_decode_and_fit(lease in any_lease(), request in message6()) {
        let answer = Responder::new(lease.clone()).answer(&frame6(&request));
        prop_assume!(answer.reply.is_some());
        let frame = answer.reply.expect("assumed");
        prop_assert!(frame.len() - 14 <= usize::from(lease.mtu));
        let message = payload(&frame);
        let decoded = dhcproto::v6::Message::decode(&mut Decoder::new(&message));
        prop_assert!(decoded.is_ok(), "{decoded:?}");
        prop_assert_eq!(&message[1..4], &request[1..4]);
    }

    #[test]
    fn a_lease_travels_in_a_migration(lease in any_lease()) {
        let text = serde_json::to_string(&lease).expect("a lease can be written");
        prop_assert_eq!(serde_json::from_str::<Lease>(&text).expect("and read"), lease);
    }
}
