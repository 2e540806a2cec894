//! What the tests share: a lease, a guest's frames, and readers of replies that share no code with the writers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use dhcproto::{Decodable, Decoder};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use hawser_mac::Mac;

use crate::lease::{Lease, LeaseV4, LeaseV6};

pub(crate) const GUEST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x2a];
pub(crate) const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
pub(crate) const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 2);
pub(crate) const GUEST6_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0x2a);
pub(crate) const SERVERS6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
pub(crate) const ROUTERS6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

pub(crate) fn lease() -> Lease {
    Lease {
        guest_mac: Mac(GUEST_MAC),
        server_mac: Mac(SERVER_MAC),
        mtu: 1450,
        hostname: Some("web-1".into()),
        domain: Some("default.svc.cluster.local".into()),
        search: ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]
            .map(String::from)
            .into(),
        v4: Some(LeaseV4 {
            address: GUEST,
            prefix_len: 24,
            server: GATEWAY,
            routers: vec![GATEWAY],
            routes: Vec::new(),
            dns: vec![Ipv4Addr::new(10, 96, 0, 10)],
            ntp_servers: vec![Ipv4Addr::new(192, 0, 2, 123)],
            tftp_server_name: Some("192.0.2.69".into()),
            boot_file_name: Some("pxelinux.0".into()),
            private_options: BTreeMap::from([(240, b"private.options".to_vec())]),
            ipv6_only_wait: None,
        }),
        v6: Some(LeaseV6 {
            address: GUEST6,
            on_link: "fd10:0:2::/120".parse().ok(),
            server: SERVER6,
            default_router: true,
            router_on_link: false,
            dns: vec!["fd00:10:96::a".parse().unwrap()],
        }),
    }
}

/// A DHCPv4 message of the guest, up to the options, which are given as they are.
pub(crate) fn message4(ciaddr: Ipv4Addr, flags: u16, options: &[u8]) -> Vec<u8> {
    let mut out = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 0];
    out.extend(flags.to_be_bytes());
    out.extend(ciaddr.octets());
    out.extend([0; 12]);
    out.extend(GUEST_MAC);
    out.extend([0; 10 + 64 + 128]);
    out.extend([99, 130, 83, 99]);
    out.extend(options);
    out
}

pub(crate) fn options4(list: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (code, data) in list {
        out.extend([*code, u8::try_from(data.len()).unwrap()]);
        out.extend(*data);
    }
    out.push(255);
    out
}

pub(crate) fn frame4(source: Ipv4Addr, destination: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2(GUEST_MAC, [0xff; 6])
        .ipv4(source.octets(), destination.octets(), 64)
        .udp(68, 67)
        .write(&mut out, message)
        .unwrap();
    out
}

pub(crate) fn frame6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2(GUEST_MAC, [0x33, 0x33, 0, 1, 0, 2])
        .ipv6(source.octets(), destination.octets(), 1)
        .udp(546, 547)
        .write(&mut out, message)
        .unwrap();
    out
}

pub(crate) fn solicitation(source: Ipv6Addr, hop_limit: u8, code: u8, options: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2(GUEST_MAC, [0x33, 0x33, 0, 0, 0, 2])
        .ipv6(source.octets(), ROUTERS6.octets(), hop_limit)
        .icmpv6_raw(133, code, [0; 4])
        .write(&mut out, options)
        .unwrap();
    out
}

/// A reply taken apart: Ethernet and IP addressee, and the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) mac: [u8; 6],
    pub(crate) to: std::net::IpAddr,
    pub(crate) packet_len: usize,
    pub(crate) payload: Vec<u8>,
}

/// Takes a reply apart, checking source, ports and checksums on the way.
pub(crate) fn sent(frame: &[u8]) -> Sent {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let ethernet = packet
        .link
        .as_ref()
        .unwrap()
        .to_header()
        .unwrap()
        .ethernet2()
        .unwrap();
    assert_eq!(ethernet.source, SERVER_MAC);
    let payload = match (packet.net.as_ref().unwrap(), packet.transport.as_ref().unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let ip = ip.header();
            assert_eq!(
                (ip.source_addr(), udp.source_port(), udp.destination_port()),
                (GATEWAY, 67, 68)
            );
            assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
            let sum = udp
                .to_header()
                .calc_checksum_ipv4_raw(ip.source(), ip.destination(), udp.payload());
            assert_eq!(Ok(udp.checksum()), sum);
            (ip.destination_addr().into(), udp.payload())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let ip = ip.header();
            assert_eq!(
                (ip.source_addr(), udp.source_port(), udp.destination_port()),
                (SERVER6, 547, 546)
            );
            let sum = udp
                .to_header()
                .calc_checksum_ipv6_raw(ip.source(), ip.destination(), udp.payload());
            assert_eq!(Ok(udp.checksum()), sum);
            (ip.destination_addr().into(), udp.payload())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            let ip = ip.header();
            assert_eq!((ip.source_addr(), ip.hop_limit()), (SERVER6, 255));
            assert!(icmp.is_checksum_valid(ip.source(), ip.destination()));
            (ip.destination_addr().into(), icmp.slice())
        }
        other => panic!("not a reply of ours: {other:?}"),
    };
    let (to, payload) = payload;
    Sent {
        mac: ethernet.destination,
        to,
        packet_len: frame.len() - 14,
        payload: payload.to_vec(),
    }
}

/// The options of a DHCPv4 message in the order of the wire, instances joined (RFC 3396), overload followed.
pub(crate) fn options_of(message: &[u8]) -> Vec<(u8, Vec<u8>)> {
    fn walk(mut field: &[u8], out: &mut Vec<(u8, Vec<u8>)>) {
        loop {
            match field {
                [0, rest @ ..] => field = rest,
                [255, rest @ ..] => {
                    assert!(rest.iter().all(|b| *b == 0), "something after the end option");
                    return;
                }
                [code, len, rest @ ..] => {
                    let (data, rest) = rest.split_at(usize::from(*len));
                    match out.iter_mut().find(|(seen, _)| seen == code) {
                        Some((_, joined)) => joined.extend(data),
                        None => out.push((*code, data.to_vec())),
                    }
                    field = rest;
                }
                _ => panic!("field without an end option"),
            }
        }
    }
    let mut out = Vec::new();
    walk(&message[240..], &mut out);
    let overload = out
        .iter()
        .find(|(code, _)| *code == 52)
        .map_or(0, |(_, data)| data[0]);
    if overload & 1 != 0 {
        walk(&message[108..236], &mut out);
    }
    if overload & 2 != 0 {
        walk(&message[44..108], &mut out);
    }
    out
}

pub(crate) fn decode4(message: &[u8]) -> dhcproto::v4::Message {
    dhcproto::v4::Message::decode(&mut Decoder::new(message)).unwrap()
}

pub(crate) fn decode6(message: &[u8]) -> dhcproto::v6::Message {
    dhcproto::v6::Message::decode(&mut Decoder::new(message)).unwrap()
}
