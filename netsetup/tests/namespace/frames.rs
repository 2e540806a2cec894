//! Frames through the wiring: what the kernel does with them, not what the rules look like.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use etherparse::{PacketBuilder, SlicedPacket};
use hawser_netsetup::{PortRange, Ports, Protocol, Wiring, open_tap};

use crate::pod::{GUEST_MAC, Pod, difference, everything, in_pod, json, masquerade, run, spec, sysctl};

pub(crate) const POD_MAC: [u8; 6] = [0x02, 0, 0, 0x12, 0x34, 0x56];
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0];
pub(crate) const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
pub(crate) const OTHER_V4: [u8; 4] = [192, 0, 2, 77];
pub(crate) const POD_V4: [u8; 4] = [192, 0, 2, 10];
pub(crate) const GUEST_V4: [u8; 4] = [10, 0, 2, 2];
pub(crate) const OTHER_V6: [u8; 16] = v6(0x2001, 0xdb8, 0, 0x77);
pub(crate) const POD_V6: [u8; 16] = v6(0x2001, 0xdb8, 0, 0x10);
pub(crate) const GUEST_V6: [u8; 16] = v6(0xfd10, 0, 2, 2);
pub(crate) const ROUTER_V6: [u8; 16] = v6(0xfe80, 0, 0, 0x99);
pub(crate) const ALL_NODES: [u8; 16] = v6(0xff02, 0, 0, 1);
pub(crate) const ALL_ROUTERS: [u8; 16] = v6(0xff02, 0, 0, 2);

pub(crate) const fn v6(a: u16, b: u16, c: u16, last: u16) -> [u8; 16] {
    std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, last).octets()
}

/// The far end of a TAP: of the guest's, the server's, or the pod's wire.
pub(crate) struct End(File);

impl End {
    pub(crate) fn open(tap: &str) -> Self {
        Self(File::from(open_tap(tap).unwrap()))
    }

    pub(crate) fn write(&mut self, frame: &[u8]) {
        assert_eq!(self.0.write(frame).unwrap(), frame.len());
    }

    /// Waits for a frame with this payload.
    pub(crate) fn expect(&mut self, payload: &[u8]) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match self.next() {
                Some(frame) if frame.ends_with(payload) => return frame,
                Some(_) => {}
                None => {
                    assert!(
                        Instant::now() < deadline,
                        "no frame with {payload:?} in five seconds"
                    );
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// Everything that is there to read. The path through the kernel is one call, so a frame that was written
    /// before another that has come out will not come later.
    pub(crate) fn drain(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut frame = vec![0; 2000];
            match self.0.read(&mut frame) {
                // The kernel's own memberships and solicitations come at their own time.
                Ok(_) if frame.starts_with(&[0x33, 0x33]) && frame[6..12] != GUEST_MAC => {}
                Ok(length) => {
                    frame.truncate(length);
                    return Some(frame);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

pub(crate) fn udp(from: ([u8; 6], [u8; 4], u16), to: ([u8; 6], [u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.0, to.0)
        .ipv4(from.1, to.1, 64)
        .udp(from.2, to.2);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

pub(crate) fn udp6(from: ([u8; 6], [u8; 16], u16), to: ([u8; 6], [u8; 16], u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.0, to.0)
        .ipv6(from.1, to.1, 64)
        .udp(from.2, to.2);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn syn(port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(OTHER_MAC, POD_MAC)
        .ipv4(OTHER_V4, POD_V4, 64)
        .tcp(40000, port, 1, 1000)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, &port.to_be_bytes()).unwrap();
    frame
}

pub(crate) fn icmp6(from: ([u8; 6], [u8; 16]), to: ([u8; 6], [u8; 16]), kind: u8, body: &[u8]) -> Vec<u8> {
    let rest = [body[0], body[1], body[2], body[3]];
    let builder = PacketBuilder::ethernet2(from.0, to.0)
        .ipv6(from.1, to.1, 255)
        .icmpv6_raw(kind, 0, rest);
    let mut frame = Vec::new();
    builder.write(&mut frame, &body[4..]).unwrap();
    frame
}

pub(crate) fn addresses(frame: &[u8]) -> ([u8; 6], std::net::IpAddr, std::net::IpAddr) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (from, to) = match packet.net.unwrap() {
        etherparse::NetSlice::Ipv4(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        etherparse::NetSlice::Ipv6(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        other => panic!("{other:?}"),
    };
    (frame[0..6].try_into().unwrap(), from, to)
}

/// Until the kernel has noticed that a TAP is open, it drops what is sent there.
pub(crate) fn wait_for_carrier(tap: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while json(&format!("ip -j link show dev {tap}"))[0]["operstate"] != "UP" {
        assert!(Instant::now() < deadline, "{tap} stays without carrier");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) async fn wired(pod: Pod) -> (Pod, End, End, End) {
    wired_with(pod, Ports::All).await
}

async fn wired_with(pod: Pod, ports: Ports) -> (Pod, End, End, End) {
    let pod = pod.with_eth0_as_tap();
    let mut spec = spec();
    masquerade(&mut spec).ports = ports;
    let wire = End::open("eth0");
    run("ip neigh replace 192.0.2.77 lladdr 02:00:00:00:00:99 dev eth0");
    run("ip neigh replace 2001:db8::77 lladdr 02:00:00:00:00:99 dev eth0");
    pod.wire(&spec).await;
    let mut ends = (pod, wire, End::open("tap0"), End::open("srv0"));
    for tap in ["eth0", "tap0", "srv0"] {
        wait_for_carrier(tap);
    }
    ends.1.drain();
    ends
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn the_server_hears_and_answers_the_guest() {
    in_pod(async |pod| {
        let (_pod, mut wire, mut guest, mut server) = wired(pod).await;
        let discover = udp((GUEST_MAC, [0; 4], 68), ([0xff; 6], [255; 4], 67), b"discover");
        let renewal = udp(
            (GUEST_MAC, GUEST_V4, 68),
            (GATEWAY_MAC, [10, 0, 2, 1], 67),
            b"renewal",
        );
        let mut link_local = ROUTER_V6;
        link_local[15] = 7;
        let solicit = udp6(
            (GUEST_MAC, link_local, 546),
            ([0x33, 0x33, 0, 1, 0, 2], v6(0xff02, 0, 0, 0), 547),
            b"solicit",
        );
        let router = icmp6(
            (GUEST_MAC, link_local),
            ([0x33, 0x33, 0, 0, 0, 2], ALL_ROUTERS),
            133,
            &[0; 4],
        );
        for frame in [discover, renewal, solicit, router] {
            guest.write(&frame);
            assert_eq!(server.drain(), [frame], "as it was, and once");
        }
        let answer = udp(
            (GATEWAY_MAC, [10, 0, 2, 1], 67),
            (GUEST_MAC, GUEST_V4, 68),
            b"offer",
        );
        server.write(&answer);
        assert_eq!(guest.drain(), [answer]);
        assert_eq!(wire.drain(), [[0; 0]; 0], "and nobody else");
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_guest_is_no_server_no_router_and_nobody_else() {
    in_pod(async |pod| {
        let (_pod, mut wire, mut guest, mut server) = wired(pod).await;
        let other = (GATEWAY_MAC, OTHER_V4, 7);
        let frames = [
            ("another MAC", udp((OTHER_MAC, GUEST_V4, 7), other, b"x")),
            ("another address", udp((GUEST_MAC, [10, 0, 2, 3], 7), other, b"x")),
            (
                "another IPv6 address",
                udp6(
                    (GUEST_MAC, v6(0xfd10, 0, 2, 3), 7),
                    (GATEWAY_MAC, OTHER_V6, 7),
                    b"x",
                ),
            ),
            (
                "the pod's loopback",
                udp((GUEST_MAC, GUEST_V4, 7), (GATEWAY_MAC, [127, 0, 0, 1], 7), b"x"),
            ),
            (
                "a DHCP reply",
                udp((GUEST_MAC, GUEST_V4, 67), ([0xff; 6], [255; 4], 68), b"x"),
            ),
            (
                "a DHCPv6 reply",
                udp6((GUEST_MAC, ROUTER_V6, 547), (GATEWAY_MAC, OTHER_V6, 546), b"x"),
            ),
            (
                "a router advertisement",
                icmp6(
                    (GUEST_MAC, ROUTER_V6),
                    ([0x33, 0x33, 0, 0, 0, 1], ALL_NODES),
                    134,
                    &[0; 12],
                ),
            ),
            (
                "a redirect",
                icmp6((GUEST_MAC, ROUTER_V6), (GATEWAY_MAC, GUEST_V6), 137, &[0; 36]),
            ),
        ];
        for (what, frame) in frames {
            let dropped = input_count("tap0");
            guest.write(&frame);
            assert_eq!(wire.drain(), [[0; 0]; 0], "{what}");
            assert_eq!(server.drain(), [[0; 0]; 0], "{what}");
            assert_eq!(guest.drain(), [[0; 0]; 0], "{what}");
            assert_eq!(
                input_count("tap0"),
                dropped,
                "{what}: not seen by the host either"
            );
        }
        guest.write(&udp((GUEST_MAC, GUEST_V4, 7), other, b"honest"));
        let frame = wire.expect(b"honest");
        assert_eq!(
            addresses(&frame),
            (OTHER_MAC, POD_V4.into(), OTHER_V4.into()),
            "behind the pod's address"
        );
        guest.write(&udp6(
            (GUEST_MAC, GUEST_V6, 7),
            (GATEWAY_MAC, OTHER_V6, 7),
            b"honest",
        ));
        let frame = wire.expect(b"honest");
        assert_eq!(addresses(&frame), (OTHER_MAC, POD_V6.into(), OTHER_V6.into()));
    });
}

/// The kernel takes VLAN tags off a frame before the filter sees it, and priority tags after that: with two of them a packet used
/// to reach the pod's stack past every rule.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn no_tag_and_no_encapsulation_carries_a_frame_past_the_filter() {
    in_pod(async |pod| {
        let (_pod, mut wire, mut guest, mut server) = wired(pod).await;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let port = socket.local_addr().unwrap().port();
        let advertisement = icmp6(
            (GUEST_MAC, ROUTER_V6),
            ([0x33, 0x33, 0, 0, 0, 1], ALL_NODES),
            134,
            // Current hop limit, flags, a lifetime of half an hour, and no timers (RFC 4861, section 4.2).
            &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0],
        );
        let frames = [
            (
                "for the pod's loopback",
                udp(
                    (GUEST_MAC, GUEST_V4, 7),
                    (GATEWAY_MAC, [127, 0, 0, 1], port),
                    b"x",
                ),
            ),
            (
                "from another address, for the pod's loopback",
                udp(
                    (GUEST_MAC, [127, 0, 0, 1], 7),
                    (GATEWAY_MAC, [127, 0, 0, 1], port),
                    b"x",
                ),
            ),
            ("a router advertisement", advertisement),
        ];
        let routes = run("ip -6 route");
        let tag = |ethertype: u16, vlan: u16| [ethertype.to_be_bytes(), vlan.to_be_bytes()].concat();
        let (c, s) = (0x8100, 0x88a8);
        let mut tags: Vec<Vec<u8>> = Vec::new();
        for vlan in [0, 5] {
            for ethertypes in [&[c][..], &[s], &[c, c], &[s, c], &[c, s], &[c, c, c], &[s, s, c]] {
                tags.push(
                    ethertypes
                        .iter()
                        .flat_map(|ethertype| tag(*ethertype, vlan))
                        .collect(),
                );
            }
        }
        // MPLS: a label at the bottom of the stack. PPPoE: a session's frame with a PPP header for IPv4.
        tags.push(vec![0x88, 0x47, 0, 0, 0x11, 64]);
        tags.push(vec![0x88, 0x64, 0x11, 0, 0, 1, 0, 30, 0, 0x21]);
        for (what, frame) in &frames {
            for tags in &tags {
                let tagged = [&frame[..12], tags, &frame[12..]].concat();
                guest.write(&tagged);
                assert_eq!(wire.drain(), [[0; 0]; 0], "{what}, {tags:02x?}");
                assert_eq!(server.drain(), [[0; 0]; 0], "{what}, {tags:02x?}");
                let received = socket.recv(&mut [0; 64]).map_err(|error| error.kind());
                assert_eq!(received, Err(ErrorKind::WouldBlock), "{what}, {tags:02x?}");
            }
        }
        assert_eq!(
            run("ip -6 route"),
            routes,
            "a route from the guest's advertisement"
        );
    });
}

/// Packets that the IP stacks took in, all interfaces of the namespace together.
fn input_count(_: &str) -> u64 {
    run("cat /proc/thread-self/net/snmp6 /proc/thread-self/net/netstat")
        .lines()
        .filter_map(|line| line.strip_prefix("Ip6InReceives"))
        .map(|count| count.trim().parse::<u64>().unwrap())
        .sum()
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn what_is_addressed_to_the_pod_reaches_the_guest() {
    in_pod(async |pod| {
        let (_pod, mut wire, mut guest, _server) = wired(pod).await;
        wire.write(&udp(
            (OTHER_MAC, OTHER_V4, 40000),
            (POD_MAC, POD_V4, 9),
            b"question",
        ));
        let frame = guest.expect(b"question");
        assert_eq!(
            addresses(&frame),
            (GUEST_MAC, OTHER_V4.into(), GUEST_V4.into()),
            "the sender stays"
        );
        guest.write(&udp(
            (GUEST_MAC, GUEST_V4, 9),
            (GATEWAY_MAC, OTHER_V4, 40000),
            b"answer",
        ));
        let frame = wire.expect(b"answer");
        assert_eq!(addresses(&frame), (OTHER_MAC, POD_V4.into(), OTHER_V4.into()));

        wire.write(&udp6(
            (OTHER_MAC, OTHER_V6, 40000),
            (POD_MAC, POD_V6, 9),
            b"question6",
        ));
        let frame = guest.expect(b"question6");
        assert_eq!(addresses(&frame), (GUEST_MAC, OTHER_V6.into(), GUEST_V6.into()));

        wire.write(&syn(22));
        guest.expect(&22_u16.to_be_bytes());
    });
}

/// A TCP segment in the middle of a connection.
pub(crate) fn segment(
    from: ([u8; 6], [u8; 4], u16),
    to: ([u8; 6], [u8; 4], u16),
    end: bool,
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.0, to.0)
        .ipv4(from.1, to.1, 64)
        .tcp(from.2, to.2, 123_456, 1000)
        .ack(654_321);
    let builder = if end { builder.fin() } else { builder };
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// What a migrated guest needs of a pod that has the address of the one before: nothing here has seen the connections
/// begin.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn connections_that_were_opened_in_another_pod_go_on() {
    in_pod(async |pod| {
        let (_pod, mut wire, mut guest, _server) = wired(pod).await;
        let other = |port| (OTHER_MAC, OTHER_V4, port);
        let pods = |port| (POD_MAC, POD_V4, port);
        let (guests, gateway) = (
            |port| (GUEST_MAC, GUEST_V4, port),
            |port| (GATEWAY_MAC, OTHER_V4, port),
        );
        let tcp_port = |frame: &[u8], at: usize| u16::from_be_bytes([frame[34 + at], frame[35 + at]]);

        // Opened from outside; either side may be the first to speak.
        wire.write(&segment(other(40000), pods(8080), false, b"the client's next"));
        let frame = guest.expect(b"the client's next");
        assert_eq!(addresses(&frame), (GUEST_MAC, OTHER_V4.into(), GUEST_V4.into()));
        for (port, word) in [(40000, b"guest, answering"), (40001, b"guest, of itself")] {
            guest.write(&segment(guests(8080), gateway(port), false, word));
            let frame = wire.expect(word);
            assert_eq!(addresses(&frame), (OTHER_MAC, POD_V4.into(), OTHER_V4.into()));
            assert_eq!(tcp_port(&frame, 0), 8080, "another port than the client knows");
        }
        wire.write(&segment(other(40001), pods(8080), false, b"the client again"));
        guest.expect(b"the client again");

        // Opened by the guest.
        guest.write(&segment(guests(50000), gateway(443), false, b"the guest's next"));
        let frame = wire.expect(b"the guest's next");
        assert_eq!(tcp_port(&frame, 0), 50000);
        wire.write(&segment(other(443), pods(50001), false, b"the server's next"));
        let frame = guest.expect(b"the server's next");
        assert_eq!(tcp_port(&frame, 2), 50001);

        // What cannot be picked up is not answered by the pod's own kernel.
        wire.write(&segment(other(40002), pods(8080), true, b"the client's end"));
        wire.write(&segment(other(40003), pods(8080), false, b"another client"));
        guest.expect(b"another client");
        let reset = |frame: &Vec<u8>| frame.get(23) == Some(&6) && frame[47] & 4 != 0;
        assert!(!wire.drain().iter().any(reset), "the pod sent a reset");

        // What cannot be picked up is not sent by the guest's own address.
        guest.write(&segment(guests(50002), gateway(443), true, b"the end"));
        guest.write(&segment(guests(50003), gateway(443), false, b"something after"));
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut frames = Vec::new();
        while !frames
            .iter()
            .any(|frame: &Vec<u8>| frame.ends_with(b"something after"))
        {
            assert!(Instant::now() < deadline, "{frames:?}");
            frames.extend(wire.drain());
        }
        assert!(
            !frames.iter().any(|frame| frame.ends_with(b"the end")),
            "it left untranslated: {frames:?}"
        );
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn what_is_the_pods_stays_in_the_pod() {
    in_pod(async |pod| {
        let (_pod, mut wire, mut guest, _server) = wired(pod).await;
        for port in crate::pod::KEPT_TCP {
            wire.write(&syn(port));
        }
        // Not addressed to the pod: to the guest itself, its gateway, third parties, the pod's loopback.
        for to in [
            GUEST_V4,
            [10, 0, 2, 1],
            [10, 0, 2, 9],
            [198, 51, 100, 1],
            [127, 0, 0, 1],
        ] {
            wire.write(&udp((OTHER_MAC, OTHER_V4, 40001), (POD_MAC, to, 9), b"transit"));
        }
        wire.write(&udp((OTHER_MAC, OTHER_V4, 40002), (POD_MAC, POD_V4, 9), b"last"));
        let came: Vec<_> = guest.drain().iter().map(|frame| addresses(frame)).collect();
        assert_eq!(
            came,
            [(GUEST_MAC, OTHER_V4.into(), GUEST_V4.into())],
            "the last one alone"
        );
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn only_listed_ports_reach_the_guest() {
    let range = |protocol, first, last| PortRange {
        protocol,
        first,
        last,
    };
    let ports = Ports::Listed(vec![range(Protocol::Tcp, 80, 80), range(Protocol::Udp, 100, 200)]);
    in_pod(async move |pod| {
        let (_pod, mut wire, mut guest, _server) = wired_with(pod, ports).await;
        let mut reached = |port: u16| {
            wire.write(&udp((OTHER_MAC, OTHER_V4, 40000), (POD_MAC, POD_V4, port), b"u"));
            wire.write(&syn(port));
            guest.drain().len()
        };
        assert_eq!(reached(80), 1);
        assert_eq!(reached(99), 0);
        assert_eq!(reached(100), 1);
        assert_eq!(reached(200), 1);
        assert_eq!(reached(201), 0);
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn the_pod_reaches_its_guest_by_loopback() {
    in_pod(async |pod| {
        let (_pod, _wire, mut guest, _server) = wired(pod).await;
        for (from, to, gateway) in [
            ("127.0.0.1:0", "127.0.0.1:9", "10.0.2.1"),
            ("127.0.0.6:0", "127.0.0.1:9", "10.0.2.1"),
            ("[::1]:0", "[::1]:9", "fd10:0:2::1"),
        ] {
            let socket = std::net::UdpSocket::bind(from).unwrap();
            socket.send_to(b"inside", to).unwrap();
            let frame = guest.expect(b"inside");
            assert_eq!(addresses(&frame).0, GUEST_MAC);
            assert_eq!(addresses(&frame).1, gateway.parse::<std::net::IpAddr>().unwrap());
            // And back: the guest's answer is the answer of the address that was asked.
            let port = socket.local_addr().unwrap().port();
            let answer = if from.starts_with('[') {
                udp6(
                    (GUEST_MAC, GUEST_V6, 9),
                    (GATEWAY_MAC, v6(0xfd10, 0, 2, 1), port),
                    b"back",
                )
            } else {
                udp(
                    (GUEST_MAC, GUEST_V4, 9),
                    (GATEWAY_MAC, [10, 0, 2, 1], port),
                    b"back",
                )
            };
            guest.write(&answer);
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut buffer = [0; 16];
            let (length, sender) = socket
                .recv_from(&mut buffer)
                .unwrap_or_else(|error| panic!("no answer from {to}: {error}"));
            assert_eq!((&buffer[..length], sender), (&b"back"[..], to.parse().unwrap()));
        }
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_flood_reaches_the_server_in_part() {
    in_pod(async |pod| {
        let (_pod, _wire, mut guest, mut server) = wired(pod).await;
        let discover = udp((GUEST_MAC, [0; 4], 68), ([0xff; 6], [255; 4], 67), b"discover");
        let mut heard = 0;
        for _ in 0..5000 {
            guest.write(&discover);
            heard += server.drain().len();
        }
        assert!((100..2500).contains(&heard), "{heard} of 5000");
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_default_route_learnt_by_advertisement_stays() {
    in_pod(async |pod| {
        let pod = pod.with_eth0_as_tap();
        let mut wire = End::open("eth0");
        run("ip -6 route del default");
        // Current hop limit, no flags, lifetime 1800 s, no timers (RFC 4861, section 4.2), after the code's four bytes.
        let advertisement = icmp6(
            (OTHER_MAC, ROUTER_V6),
            ([0x33, 0x33, 0, 0, 0, 1], ALL_NODES),
            134,
            &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0],
        );
        wire.write(&advertisement);
        let learnt = || run("ip -6 route show default").contains("proto ra");
        assert!(
            learnt(),
            "the kernel takes the advertisement: {}",
            run("ip -6 route")
        );
        let without_age = |text: String| -> String {
            let words = |line: &str| line.split(" expires ").next().unwrap().to_owned() + "\n";
            text.lines().map(words).collect()
        };
        let before = without_age(everything());
        let (_, journal) = pod.wire(&spec()).await;
        assert_eq!(sysctl("ipv6/conf/eth0/accept_ra"), "2");
        assert!(learnt());
        wire.write(&advertisement);
        assert!(learnt());
        pod.wire(&spec()).await;
        pod.undo(&journal).await;
        assert_eq!(difference(&before, &without_age(everything())), [""; 0]);
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn nothing_passes_a_link_that_is_down() {
    in_pod(async |pod| {
        let pod = pod.with_eth0_as_tap();
        let mut spec = spec();
        spec.nics[0].wiring = Wiring::Down;
        // Another NIC of the same guest may have the namespace route.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let mut wire = End::open("eth0");
        run("ip neigh replace 192.0.2.77 lladdr 02:00:00:00:00:99 dev eth0");
        let before = run("ip -details address show dev eth0");
        let (plan, journal) = pod.wire(&spec).await;
        assert!(plan.nics[0].is_down() && plan.nics[0].server_tap().is_none());
        let mut guest = End::open("tap0");
        for tap in ["eth0", "tap0"] {
            wait_for_carrier(tap);
        }
        wire.drain();
        guest.write(&udp(
            (GUEST_MAC, GUEST_V4, 5),
            (GATEWAY_MAC, OTHER_V4, 7),
            b"to the network",
        ));
        guest.write(&udp(
            (GUEST_MAC, GUEST_V4, 68),
            ([0xff; 6], [255; 4], 67),
            b"discover",
        ));
        wire.write(&udp(
            (OTHER_MAC, OTHER_V4, 7),
            (POD_MAC, GUEST_V4, 5),
            b"to the guest",
        ));
        // What became of the frames before it is there when the pod's refusal of this one is.
        wire.write(&syn(80));
        let mut out = vec![wire.expect(&[])];
        out.extend(wire.drain());
        let leaked = out.iter().filter(|frame| frame.ends_with(b"to the network"));
        assert_eq!(leaked.count(), 0, "{out:?}");
        assert_eq!(guest.drain(), [[0_u8; 0]; 0]);
        assert_eq!(
            run("ip -details address show dev eth0").lines().count(),
            before.lines().count()
        );
        pod.undo(&journal).await;
    });
}
