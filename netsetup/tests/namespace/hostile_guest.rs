//! What a guest can do to its pod and to the pod's networks, by whatever frames: nothing but what docs/masquerade.md lists.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use etherparse::PacketBuilder;
use hawser_netsetup::Wiring;

use crate::frames::{
    ALL_NODES, ALL_ROUTERS, End, GATEWAY_MAC, GUEST_V4, GUEST_V6, OTHER_MAC, OTHER_V4, OTHER_V6, POD_MAC,
    POD_V4, POD_V6, addresses, icmp6, segment, udp, udp6, v6, wait_for_carrier, wired,
};
use crate::pod::{GUEST_MAC, Pod, in_pod, json, run, spec};

const GATEWAY_V4: [u8; 4] = [10, 0, 2, 1];
const GATEWAY_V6: [u8; 16] = v6(0xfd10, 0, 2, 1);
const NEXT_HOP_V6: [u8; 16] = v6(0xfe80, 0, 0, 1);
const GUEST_LL: [u8; 16] = v6(0xfe80, 0, 0, 7);

fn arp(operation: u16, sender: ([u8; 6], [u8; 4]), target: [u8; 4]) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &GUEST_MAC, &[8, 6, 0, 1, 8, 0, 6, 4]].concat();
    frame.extend(operation.to_be_bytes());
    frame.extend(sender.0);
    frame.extend(sender.1);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

/// Who asks for the gateway's MAC.
fn solicitation(from: [u8; 16]) -> Vec<u8> {
    let group: [u8; 16] = v6(0xff02, 0, 0, 1)[..13]
        .iter()
        .copied()
        .chain([0, 0, 1])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let mut group = group;
    (group[11], group[12]) = (1, 0xff);
    let body = [&[0; 4][..], &NEXT_HOP_V6, &[1, 1], &GUEST_MAC].concat();
    icmp6(
        (GUEST_MAC, from),
        ([0x33, 0x33, 0xff, 0, 0, 1], group),
        135,
        &body,
    )
}

/// The kernel may look for the guest, too.
fn advertisements(frames: &[Vec<u8>]) -> usize {
    frames.iter().filter(|frame| frame.get(54) == Some(&136)).count()
}

fn neighbours(link: &str) -> usize {
    run(&format!("ip neigh show dev {link}")).lines().count()
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_guest_reaches_no_service_of_its_pod() {
    in_pod(async |pod| {
        let (_pod, _wire, mut guest, _server) = wired(pod).await;
        let everywhere = UdpSocket::bind("[::]:0").unwrap();
        everywhere.set_nonblocking(true).unwrap();
        let port = everywhere.local_addr().unwrap().port();
        let listener = TcpListener::bind("[::]:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listens = listener.local_addr().unwrap().port();
        for to in [GATEWAY_V4, POD_V4, [10, 0, 2, 255], [224, 0, 0, 1]] {
            guest.write(&udp((GUEST_MAC, GUEST_V4, 5), (GATEWAY_MAC, to, port), b"x"));
        }
        for to in [GATEWAY_V6, POD_V6, NEXT_HOP_V6, ALL_NODES] {
            guest.write(&udp6((GUEST_MAC, GUEST_V6, 5), (GATEWAY_MAC, to, port), b"x"));
            guest.write(&udp6((GUEST_MAC, GUEST_LL, 5), (GATEWAY_MAC, to, port), b"x"));
        }
        let received = everywhere.recv(&mut [0; 16]).map_err(|error| error.kind());
        assert_eq!(received, Err(ErrorKind::WouldBlock));
        guest.drain();

        let mut syn = Vec::new();
        PacketBuilder::ethernet2(GUEST_MAC, GATEWAY_MAC)
            .ipv4(GUEST_V4, GATEWAY_V4, 64)
            .tcp(40000, listens, 1, 1000)
            .syn()
            .write(&mut syn, &[])
            .unwrap();
        guest.write(&syn);
        let answers = guest.drain();
        assert_eq!(answers.len(), 1, "refused at once: {answers:?}");
        // ICMP, destination unreachable, by an administrator's rule (RFC 1812, section 5.2.7.1).
        assert_eq!((answers[0][23], &answers[0][34..36]), (1, &[3, 13][..]));

        // The gateway itself is there.
        let mut ping = Vec::new();
        PacketBuilder::ethernet2(GUEST_MAC, GATEWAY_MAC)
            .ipv4(GUEST_V4, GATEWAY_V4, 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut ping, b"ping")
            .unwrap();
        guest.write(&ping);
        guest.expect(b"ping");
        guest.write(&arp(1, (GUEST_MAC, GUEST_V4), GATEWAY_V4));
        assert_eq!(guest.drain().len(), 1, "the gateway's MAC");
        guest.write(&solicitation(GUEST_LL));
        assert_eq!(advertisements(&guest.drain()), 1, "the gateway's MAC");
    });
}

/// The kernel's tables of neighbours are one for the whole node.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_guest_fills_no_table_of_neighbours() {
    in_pod(async |pod| {
        let (_pod, mut wire, mut guest, _server) = wired(pod).await;
        let before = neighbours("tap0");
        for n in 0..1500_u16 {
            let [a, b] = n.to_be_bytes();
            guest.write(&arp(1, (GUEST_MAC, [172, 16, a, b]), GATEWAY_V4));
            guest.write(&arp(2, (GUEST_MAC, [172, 17, a, b]), GATEWAY_V4));
            guest.write(&arp(1, (GUEST_MAC, [0; 4]), [172, 18, a, b]));
            guest.write(&solicitation(v6(0xfe80, 0, 0, n.saturating_add(2))));
        }
        for n in 3..250 {
            guest.write(&udp(
                (GUEST_MAC, GUEST_V4, 5),
                (GATEWAY_MAC, [10, 0, 2, n], 7),
                b"x",
            ));
            let to = v6(0xfd10, 0, 2, n.into());
            guest.write(&udp6((GUEST_MAC, GUEST_V6, 5), (GATEWAY_MAC, to, 7), b"x"));
        }
        let more = neighbours("tap0").saturating_sub(before);
        assert!(more <= 16, "{more} more neighbours");
        assert_eq!(wire.drain(), [[0; 0]; 0]);
        // An honest guest still has its neighbour.
        guest.drain();
        guest.write(&solicitation(GUEST_V6));
        assert_eq!(advertisements(&guest.drain()), 1);
    });
}

/// A pod with a second interface, on a network of its own, whose wire is the test's.
async fn with_eth1(pod: Pod) -> Pod {
    run("ip tuntap add eth1 mode tap");
    std::fs::write("/proc/sys/net/ipv6/conf/eth1/router_solicitations", "0").unwrap();
    run("ip link set eth1 address 02:00:00:12:34:57 addrgenmode none up");
    run("ip addr add 198.51.100.10/24 dev eth1");
    run("ip addr add 2001:db8:1::10/64 dev eth1 nodad");
    run("ip neigh replace 198.51.100.77 lladdr 02:00:00:00:00:98 dev eth1");
    run("ip neigh replace 2001:db8:1::77 lladdr 02:00:00:00:00:98 dev eth1");
    pod
}

const ETH1_MAC: [u8; 6] = [0x02, 0, 0, 0x12, 0x34, 0x57];
const FAR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x98];
const FAR_V4: [u8; 4] = [198, 51, 100, 77];
const FAR_V6: [u8; 16] = v6(0x2001, 0xdb8, 1, 0x77);

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn the_pod_is_no_router_between_its_networks() {
    in_pod(async |pod| {
        let pod = with_eth1(pod).await;
        // As a node's setting is inherited by the pods on it.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let mut far = End::open("eth1");
        let (_pod, mut wire, mut guest, _server) = wired(pod).await;
        wait_for_carrier("eth1");
        far.drain();
        wire.write(&udp((OTHER_MAC, OTHER_V4, 5), (POD_MAC, FAR_V4, 7), b"in"));
        wire.write(&udp6((OTHER_MAC, OTHER_V6, 5), (POD_MAC, FAR_V6, 7), b"in"));
        far.write(&udp((FAR_MAC, FAR_V4, 5), (ETH1_MAC, OTHER_V4, 7), b"out"));
        far.write(&udp6((FAR_MAC, FAR_V6, 5), (ETH1_MAC, OTHER_V6, 7), b"out"));
        far.write(&udp((FAR_MAC, FAR_V4, 5), (ETH1_MAC, GUEST_V4, 7), b"guest"));
        far.write(&udp6((FAR_MAC, FAR_V6, 5), (ETH1_MAC, GUEST_V6, 7), b"guest"));
        for end in [&mut wire, &mut far, &mut guest] {
            assert_eq!(end.drain(), [[0; 0]; 0]);
        }
        // The guest's own go where the pod's routes lead.
        guest.write(&udp((GUEST_MAC, GUEST_V4, 5), (GATEWAY_MAC, FAR_V4, 7), b"mine"));
        let frame = far.expect(b"mine");
        assert_eq!(addresses(&frame).1, std::net::IpAddr::from([198, 51, 100, 10]));
        far.write(&udp(
            (FAR_MAC, FAR_V4, 7),
            (ETH1_MAC, [198, 51, 100, 10], 5),
            b"yours",
        ));
        guest.expect(b"yours");
    });
}

/// The pod's stack still has its addresses and routes, and may forward: a node's setting is inherited by the pods on it.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_bridged_guest_is_not_routed_by_its_pod() {
    in_pod(async |pod| {
        let pod = with_eth1(pod).await.with_eth0_as_tap();
        for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{family}"), "1").unwrap();
        }
        let mut far = End::open("eth1");
        let mut spec = spec();
        spec.nics[0].wiring = Wiring::Bridge;
        spec.nics[0].guest_mac = None;
        let mut wire = End::open("eth0");
        pod.wire(&spec).await;
        let mut guest = End::open("tap0");
        for tap in ["eth0", "eth1", "tap0"] {
            wait_for_carrier(tap);
        }
        let bridge = json("ip -j link show dev k6t-eth0")[0]["address"]
            .as_str()
            .unwrap()
            .to_owned();
        let bridge: Vec<u8> = bridge
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        let bridge: [u8; 6] = bridge.try_into().unwrap();
        let service = UdpSocket::bind("[::]:0").unwrap();
        service.set_nonblocking(true).unwrap();
        let port = service.local_addr().unwrap().port();
        far.drain();
        for to in [bridge, POD_MAC] {
            guest.write(&udp((POD_MAC, POD_V4, 5), (to, FAR_V4, 7), b"through"));
            guest.write(&udp((POD_MAC, [192, 0, 2, 200], 5), (to, FAR_V4, 7), b"through"));
            guest.write(&udp6((POD_MAC, OTHER_V6, 5), (to, FAR_V6, 7), b"through"));
            wire.write(&udp((OTHER_MAC, OTHER_V4, 5), (to, FAR_V4, 7), b"through"));
            wire.write(&udp6((OTHER_MAC, OTHER_V6, 5), (to, FAR_V6, 7), b"through"));
            guest.write(&udp((POD_MAC, OTHER_V4, 5), (to, POD_V4, port), b"to the pod"));
            guest.write(&udp(
                (POD_MAC, OTHER_V4, 5),
                (to, [127, 0, 0, 1], port),
                b"to the pod",
            ));
            guest.write(&udp6((POD_MAC, OTHER_V6, 5), (to, POD_V6, port), b"to the pod"));
        }
        assert_eq!(far.drain(), [[0; 0]; 0], "routed by the pod");
        let received = service.recv(&mut [0; 16]).map_err(|error| error.kind());
        assert_eq!(received, Err(ErrorKind::WouldBlock));
        // And what is for the guest's network arrives there.
        far.write(&udp((FAR_MAC, FAR_V4, 5), (ETH1_MAC, OTHER_V4, 7), b"back"));
        far.write(&udp6((FAR_MAC, FAR_V6, 5), (ETH1_MAC, OTHER_V6, 7), b"back"));
        let came = |frames: Vec<Vec<u8>>| frames.iter().any(|frame| frame.ends_with(b"back"));
        assert!(!came(guest.drain()) && !came(wire.drain()), "routed by the pod");
    });
}

/// Sidecars start before or beside hawser, and its container may be started again.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn connections_that_the_pods_processes_have_stay_theirs() {
    in_pod(async |pod| {
        let pod = pod.with_eth0_as_tap();
        let mut wire = End::open("eth0");
        wait_for_carrier("eth0");
        run("ip neigh replace 192.0.2.77 lladdr 02:00:00:00:00:99 dev eth0");
        run("ip neigh replace 2001:db8::77 lladdr 02:00:00:00:00:99 dev eth0");
        let pairs: Vec<_> = ["127.0.0.1:0", "[::1]:0", "192.0.2.10:0"]
            .map(|address| {
                let listener = TcpListener::bind(address).unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                (client, listener.accept().unwrap().0)
            })
            .into();
        let connected: Vec<_> = [("192.0.2.10:0", "192.0.2.77:53"), ("[::]:0", "[2001:db8::77]:53")]
            .map(|(here, there)| {
                let socket = UdpSocket::bind(here).unwrap();
                socket.connect(there).unwrap();
                socket
            })
            .into();
        // A connection over the wire, as the peer sees it.
        let server = TcpListener::bind("[::]:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let mut syn = Vec::new();
        PacketBuilder::ethernet2(OTHER_MAC, POD_MAC)
            .ipv4(OTHER_V4, POD_V4, 64)
            .tcp(40000, port, 123_455, 1000)
            .syn()
            .write(&mut syn, &[])
            .unwrap();
        wire.write(&syn);
        let answer = wire
            .drain()
            .into_iter()
            .find(|frame| frame.get(12..14) == Some(&[8, 0]) && frame[23] == 6)
            .expect("no answer to the SYN");
        let sequence = u32::from_be_bytes(answer[38..42].try_into().unwrap());
        let mut part = |payload: &[u8]| {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2(OTHER_MAC, POD_MAC)
                .ipv4(OTHER_V4, POD_V4, 64)
                .tcp(40000, port, 123_456, 1000)
                .ack(sequence.wrapping_add(1))
                .write(&mut frame, payload)
                .unwrap();
            wire.write(&frame);
        };
        part(&[]);
        let (mut over_wire, _) = server.accept().unwrap();

        pod.wire(&spec()).await;
        let mut guest = End::open("tap0");
        wait_for_carrier("tap0");
        guest.drain();
        let read = |stream: &mut TcpStream| {
            let mut buffer = [0; 4];
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            std::io::Read::read_exact(stream, &mut buffer)
                .map(|()| buffer)
                .map_err(|error| error.to_string())
        };
        part(b"push");
        assert_eq!(read(&mut over_wire), Ok(*b"push"), "a peer's next word");
        for (mut client, mut server) in pairs {
            std::io::Write::write_all(&mut client, b"next").unwrap();
            assert_eq!(read(&mut server), Ok(*b"next"), "{server:?}");
            std::io::Write::write_all(&mut server, b"also").unwrap();
            assert_eq!(read(&mut client), Ok(*b"also"), "{client:?}");
        }
        for socket in &connected {
            let port = socket.local_addr().unwrap().port();
            match socket.peer_addr().unwrap().is_ipv4() {
                true => wire.write(&udp(
                    (OTHER_MAC, OTHER_V4, 53),
                    (POD_MAC, POD_V4, port),
                    b"answer",
                )),
                false => wire.write(&udp6(
                    (OTHER_MAC, OTHER_V6, 53),
                    (POD_MAC, POD_V6, port),
                    b"answer",
                )),
            }
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let received = socket.recv(&mut [0; 16]).map_err(|error| error.kind());
            assert_eq!(received, Ok(6), "{socket:?}");
        }
        assert_eq!(guest.drain(), [[0; 0]; 0], "the guest has seen it");
        // The guest's are the guest's.
        wire.write(&segment(
            (OTHER_MAC, OTHER_V4, 40001),
            (POD_MAC, POD_V4, port),
            false,
            b"picked up",
        ));
        guest.expect(b"picked up");
    });
}

/// xorshift64: the same frames each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % u64::try_from(bound).unwrap()) as usize
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// An IPv4 packet, now and then with options (a source route among them), as a fragment, or with another packet in it.
fn ipv4(random: &mut Random, port: u16) -> Vec<u8> {
    let source = random.of(&[
        GUEST_V4,
        GUEST_V4,
        GUEST_V4,
        [127, 0, 0, 1],
        POD_V4,
        GATEWAY_V4,
        OTHER_V4,
        [0; 4],
    ]);
    let target = random.of(&[
        GATEWAY_V4,
        POD_V4,
        OTHER_V4,
        OTHER_V4,
        OTHER_V4,
        OTHER_V4,
        [127, 0, 0, 1],
        [127, 0, 0, 1],
        GUEST_V4,
        [10, 0, 2, 9],
        [255; 4],
        [224, 0, 0, 1],
    ]);
    let options: Vec<u8> = match random.below(9) {
        // Loose source route by way of the loopback (RFC 791, section 3.1).
        0 => [&[131, 7, 4][..], &[127, 0, 0, 1], &[0]].concat(),
        1 => [&[131, 11, 4][..], &GATEWAY_V4, &[127, 0, 0, 1], &[0]].concat(),
        2 => random.bytes(8),
        _ => Vec::new(),
    };
    let (protocol, body) = transport(random, port, false);
    let offset: u16 = match random.below(12) {
        0 => 0x2000,
        1 => 0x2001,
        2 => 0x0001,
        3 => 0x0040,
        _ => 0,
    };
    let header = 20 + options.len();
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(u16::try_from(header + body.len()).unwrap().to_be_bytes());
    packet.extend(random.bytes(2));
    packet.extend(offset.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(target);
    packet.extend(&options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(body);
    packet
}

fn ipv6(random: &mut Random, port: u16) -> Vec<u8> {
    let source = random.of(&[
        GUEST_V6,
        GUEST_V6,
        GUEST_LL,
        GUEST_LL,
        v6(0, 0, 0, 1),
        POD_V6,
        OTHER_V6,
        [0; 16],
        NEXT_HOP_V6,
    ]);
    let target = random.of(&[
        GATEWAY_V6,
        NEXT_HOP_V6,
        POD_V6,
        OTHER_V6,
        OTHER_V6,
        OTHER_V6,
        OTHER_V6,
        v6(0, 0, 0, 1),
        GUEST_V6,
        ALL_NODES,
        ALL_ROUTERS,
    ]);
    let (mut next, mut body) = transport(random, port, true);
    for _ in 0..random.below(3) {
        let (kind, header) = match random.below(4) {
            0 => (0, vec![next, 0, 5, 2, 0, 0, 1, 0]),
            1 => (60, vec![next, 0, 1, 4, 0, 0, 0, 0]),
            2 => (43, [&[next, 2, 0, 1, 0, 0, 0, 0][..], &v6(0, 0, 0, 1)].concat()),
            _ => {
                let offset = random.of(&[0_u16, 1, 8, 9]);
                (
                    44,
                    [&[next, 0][..], &offset.to_be_bytes(), &random.bytes(4)].concat(),
                )
            }
        };
        body = [header, body].concat();
        next = kind;
    }
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    packet.extend([next, random.of(&[255, 64, 1])]);
    packet.extend(source);
    packet.extend(target);
    packet.extend(body);
    packet
}

fn transport(random: &mut Random, port: u16, six: bool) -> (u8, Vec<u8>) {
    let from = random.of(&[5_u16, 67, 547, 68, 546, 53]);
    let to = random.of(&[port, port, port, 67, 547, 68, 546, 7, 49152]);
    let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
    match random.below(8) {
        // Without a checksum, which IPv4 allows; over IPv6 it has to be right and is not: what it reaches is not told by it.
        0..=2 => (17, [&ports[..], &[0, 12, 0, 0], b"data"].concat()),
        3 => {
            let flags = random.of(&[2_u8, 16, 18, 4, 1, 24]);
            (
                6,
                [
                    &ports[..],
                    &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 4, 0, 0, 0, 0, 0],
                    b"data",
                ]
                .concat(),
            )
        }
        4 if six => (
            58,
            [
                &[random.of(&[133_u8, 134, 135, 136, 137, 130, 138, 143, 128, 1, 2])][..],
                &random.bytes(35),
            ]
            .concat(),
        ),
        4 => (
            1,
            [
                &[random.of(&[0_u8, 3, 5, 8, 9, 10, 13, 17])][..],
                &random.bytes(27),
            ]
            .concat(),
        ),
        5 => (
            4,
            udp(
                (GUEST_MAC, GUEST_V4, 5),
                (GATEWAY_MAC, [127, 0, 0, 1], port),
                b"in",
            )[14..]
                .to_vec(),
        ),
        6 => (
            41,
            udp6((GUEST_MAC, GUEST_V6, 5), (GATEWAY_MAC, POD_V6, port), b"in")[14..].to_vec(),
        ),
        _ => (random.next() as u8, random.bytes(24)),
    }
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn any_frame(random: &mut Random, port: u16) -> Vec<u8> {
    let to = random.of(&[
        GATEWAY_MAC,
        GATEWAY_MAC,
        GATEWAY_MAC,
        GATEWAY_MAC,
        GATEWAY_MAC,
        GATEWAY_MAC,
        [0xff; 6],
        [0x33, 0x33, 0, 0, 0, 1],
        OTHER_MAC,
        [1, 0x80, 0xc2, 0, 0, 0x0e],
    ]);
    let from = if random.once_in(12) { OTHER_MAC } else { GUEST_MAC };
    let (ethertype, payload): (u16, Vec<u8>) = match random.below(10) {
        0..=3 => (0x800, ipv4(random, port)),
        4..=6 => (0x86dd, ipv6(random, port)),
        7 => {
            let sender = random.of(&[GUEST_V4, POD_V4, GATEWAY_V4, [172, 16, 3, 4], [0; 4]]);
            let target = random.of(&[GATEWAY_V4, POD_V4, GUEST_V4, [10, 0, 2, 9]]);
            let mac = random.of(&[GUEST_MAC, OTHER_MAC]);
            let mut packet = arp(random.of(&[1, 2, 3, 8]), (mac, sender), target).split_off(14);
            if random.once_in(4) {
                let at = random.below(packet.len());
                packet[at] = random.next() as u8;
            }
            (0x806, packet)
        }
        // LLC and SNAP: a length where Ethernet II has a type.
        8 => (
            44,
            [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &ipv4(random, port)].concat(),
        ),
        _ => (random.next() as u16, random.bytes(40)),
    };
    let mut frame = [to, from].concat();
    let tags = random.of(&[0, 0, 0, 1, 2, 2, 3]);
    for _ in 0..tags {
        frame.extend(random.of(&[0x8100_u16, 0x88a8, 0x9100]).to_be_bytes());
        frame.extend(random.of(&[0_u16, 5, 0xe000]).to_be_bytes());
    }
    if random.once_in(20) {
        frame.extend([0x88, 0x47, 0, 0, 0x11, 64]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    if random.once_in(20) {
        let length = 14 + random.below(frame.len() - 13);
        frame.truncate(length);
    }
    if random.once_in(20) {
        let more = random.below(1400);
        frame.extend(random.bytes(more));
    }
    frame
}

/// Frames of every kind, against the rules as the kernel has them. What the pod's own stack accepts, and what it forwards, is
/// counted behind hawser's rules by rules that know nothing of them.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn whatever_a_guest_sends_reaches_nothing_that_is_not_listed() {
    const FRAMES: usize = 30_000;
    in_pod(async |pod| {
        // A pod that does with source routes what a kernel can.
        for link in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/accept_source_route"), "1").unwrap();
        }
        let (_pod, mut wire, mut guest, mut server) = wired(pod).await;
        let watch = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(watch.path(), WATCH).unwrap();
        run(&format!("nft -f {}", watch.path().display()));
        let everywhere = UdpSocket::bind("[::]:0").unwrap();
        everywhere.set_nonblocking(true).unwrap();
        let port = everywhere.local_addr().unwrap().port();
        let inside = UdpSocket::bind(("127.0.0.1", port));
        let state = || {
            [
                "ip -o address",
                "ip route show table all",
                "ip -6 route show table all",
            ]
            .map(run)
        };
        let (before, known) = (state(), neighbours("tap0"));
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut passed = 0_usize;
        for n in 0..FRAMES {
            let frame = any_frame(&mut random, port);
            guest.write(&frame);
            if n % 50 != 0 {
                continue;
            }
            for sent in wire.drain() {
                passed = passed.saturating_add(1);
                let from_pod = sent.get(6..12) == Some(&POD_MAC);
                assert!(from_pod, "{sent:02x?}");
                let source = match sent.get(12..14) {
                    Some([8, 0]) => sent.get(26..30) == Some(&POD_V4),
                    Some([0x86, 0xdd]) => {
                        sent.get(22..38) == Some(&POD_V6) || sent.get(22..24) == Some(&[0xfe, 0x80])
                    }
                    // The pod looks for its own neighbours.
                    Some([8, 6]) => sent.get(28..32) == Some(&POD_V4),
                    _ => false,
                };
                assert!(source, "not by the pod's address: {sent:02x?}");
            }
            for asked in server.drain() {
                assert_eq!(asked.get(6..12), Some(&GUEST_MAC[..]));
            }
            guest.drain();
            let received = everywhere.recv(&mut [0; 2000]).map_err(|error| error.kind());
            assert_eq!(
                received,
                Err(ErrorKind::WouldBlock),
                "frame {n} or one of the 50 before"
            );
        }
        assert!(passed > 100, "hardly anything passed: {passed}");
        drop(inside);
        let watched = run("nft list table inet watch");
        for line in watched.lines().filter(|line| line.contains("counter packets")) {
            assert!(line.contains("counter packets 0 "), "{watched}");
        }
        assert_eq!(state(), before);
        let more = neighbours("tap0").saturating_sub(known);
        assert!(more <= 16, "{more} more neighbours");
    });
}

/// Behind hawser's chains, by their priorities. What the guest sends to the pod's address comes back to it.
const WATCH: &str = "
table inet watch {
    chain input {
        type filter hook input priority 300; policy accept;
        iifname != \"tap0\" accept
        ct state established,related accept
        ip daddr != 127.0.0.0/8 ip saddr 10.0.2.2 icmp type echo-request accept
        ip6 saddr { fd10:0:2::2, fe80::/10, :: } icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld-listener-done, mld2-listener-report } accept
        counter
    }
    chain forward {
        type filter hook forward priority 300; policy accept;
        iifname != \"tap0\" accept
        oifname \"eth0\" ip saddr 10.0.2.2 accept
        oifname \"eth0\" ip6 saddr fd10:0:2::2 accept
        oifname \"tap0\" ct status dnat ip saddr 10.0.2.2 ip daddr 10.0.2.2 accept
        oifname \"tap0\" ct status dnat ip6 saddr fd10:0:2::2 ip6 daddr fd10:0:2::2 accept
        counter
    }
}
";
