//! The pod's interface on a bridge and back: what is there, what passes, and that a cut at any point is made good.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use hawser_netsetup::{Mac, NetSpec, Plan, Wiring, open_tap};

use crate::pod::{GUEST_MAC, Pod, difference, everything, in_pod, json, observed, outcome, plan, run, spec};

const POD_MAC: [u8; 6] = [0x02, 0, 0, 0x12, 0x34, 0x56];
const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const ALL: [u8; 6] = [0xff; 6];

/// One bridged NIC behind `eth0`, with the pod's own MAC.
fn bridged() -> NetSpec {
    let mut spec = spec();
    spec.nics[0].wiring = Wiring::Bridge;
    spec.nics[0].guest_mac = None;
    spec
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn the_guest_takes_the_place_of_the_interface() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let kept = || {
            [
                "ip -o address show dev eth0",
                "ip route show",
                "ip -6 route show dev eth0",
            ]
            .map(run)
        };
        let before = kept();
        let (plan, _) = pod.wire(&bridged()).await;
        let nic = &plan.nics[0];
        assert_eq!(nic.guest_mac, Mac(POD_MAC));
        let guest = nic.bridged().unwrap();
        let v4 = guest.v4.as_ref().unwrap();
        assert_eq!((v4.address.to_string(), v4.prefix_len), ("192.0.2.10".into(), 24));
        assert_eq!(v4.router.unwrap().to_string(), "192.0.2.1");
        assert_eq!(v4.routes, []);
        assert_eq!(guest.v6.as_ref().unwrap().address.to_string(), "2001:db8::10");

        let bridge = &json("ip -d -j link show dev k6t-eth0")[0];
        let data = &bridge["linkinfo"]["info_data"];
        assert_eq!(
            (&data["stp_state"], &data["forward_delay"]),
            (&0.into(), &0.into())
        );
        assert_eq!(data["mcast_snooping"], 0);
        assert_eq!(bridge["mtu"], 1450);
        assert_eq!(sysctl_of("k6t-eth0", "arp_ignore"), "1");
        for port in ["eth0", "tap0"] {
            let link = &json(&format!("ip -d -j link show dev {port}"))[0];
            assert_eq!(link["master"], "k6t-eth0", "{port}");
            let slave = &link["linkinfo"]["info_slave_data"];
            assert_eq!(slave["learning"], false, "{port}");
        }
        assert_eq!(kept(), before);
        assert!(run("ip link show dev eth0").contains("02:00:00:12:34:56"));
        let known = run("bridge fdb show br k6t-eth0");
        assert!(
            !known.contains("02:00:00:12:34:56"),
            "the bridge keeps the guest's frames: {known}"
        );
        for link in ["k6t-eth0", "tap0", "srv0"] {
            assert_eq!(run(&format!("ip -o address show dev {link}")), "", "{link}");
        }
    });
}

fn sysctl_of(link: &str, key: &str) -> String {
    crate::pod::sysctl(&format!("ipv4/conf/{link}/{key}"))
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn taken_back_the_interface_is_what_it_was() {
    for arrange in [
        &[][..],
        &[
            "ip addr add 192.0.2.11/24 dev eth0",
            "ip addr add 198.51.100.7/32 dev eth0",
        ][..],
        &[
            "ip route add 203.0.113.0/24 via 192.0.2.7 metric 7 src 192.0.2.10",
            "ip route add 198.51.100.0/24 dev eth0 proto static",
        ][..],
        &[
            "ip addr add 10.9.9.2 peer 10.9.9.1 dev eth0",
            "ip route add 10.8.0.0/16 via 10.9.9.1",
        ][..],
        &[
            "ip -6 route add 2001:db8:5::/48 via fe80::99 dev eth0 metric 5",
            "ip addr add 192.0.2.12/24 brd + dev eth0",
        ][..],
        &["ip route add 10.7.0.0/16 via 169.254.1.1 dev eth0 onlink"][..],
        &[
            "ip route add 10.6.0.0/16 nexthop via 192.0.2.7 nexthop via 192.0.2.8",
            "ip route add default via 192.0.2.9 table 100",
            "ip rule add from 192.0.2.10 table 100",
            "ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:77 nud permanent dev eth0",
        ][..],
        &["ip addr flush dev eth0", "ip -6 route flush dev eth0"][..],
        &[
            "ip addr flush dev eth0",
            "ip -6 route flush dev eth0",
            "ip link set eth0 down",
            "ip link set eth0 addrgenmode eui64",
            "ip link set eth0 up",
        ][..],
    ] {
        in_pod(async move |pod| {
            let pod = pod.with_eth0();
            arrange.iter().for_each(|line| drop(run(line)));
            if arrange.contains(&"ip link set eth0 up") {
                wait_for_link_local("eth0");
            }
            let before = everything();
            let (_, journal) = pod.wire(&bridged()).await;
            pod.undo(&journal).await;
            assert_eq!(difference(&before, &everything()), [""; 0], "{arrange:?}");
        });
    }
}

/// With and without the journal: the plan made from what is found must take down what the first one set up.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn killed_after_any_step_the_next_start_ends_as_in_a_fresh_pod() {
    for lose_journal in [false, true] {
        for steps in 0.. {
            let (done, finished) = (std::sync::mpsc::channel(), steps);
            let (sender, receiver) = done;
            in_pod(async move |pod| {
                let pod = pod.with_eth0();
                let before = everything();
                let spec = bridged();
                let wanted = plan(&spec).await;
                pod.apply_first(&wanted, finished).await;
                if lose_journal {
                    std::fs::remove_file(pod.journal_path()).unwrap();
                }
                let again = Plan::new(&spec, &observed().await).unwrap();
                assert_eq!(again.nics, wanted.nics, "after {finished} steps");
                let (_, journal) = pod.wire(&spec).await;
                let after = outcome();
                pod.undo(&journal).await;
                assert_eq!(
                    difference(&before, &everything()),
                    [""; 0],
                    "after {finished} steps"
                );
                pod.wire(&spec).await;
                assert_eq!(difference(&outcome(), &after), [""; 0], "after {finished} steps");
                sender.send(finished >= wanted.steps.len()).unwrap();
            });
            if receiver.recv().unwrap() {
                break;
            }
        }
    }
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn taken_back_after_any_number_of_steps() {
    for steps in 0..=9 {
        in_pod(async move |pod| {
            let pod = pod.with_eth0();
            let before = everything();
            let wanted = plan(&bridged()).await;
            pod.apply_first(&wanted, steps).await;
            let journal = pod.journal().read().unwrap();
            pod.undo(&journal).await;
            assert_eq!(difference(&before, &everything()), [""; 0], "after {steps} steps");
        });
    }
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn without_addresses_it_is_a_plain_wire() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        run("ip addr flush dev eth0");
        run("ip -6 route flush dev eth0");
        let (plan, _) = pod.wire(&bridged()).await;
        assert!(plan.nics[0].server_tap().is_none());
        assert!(!run("nft list ruleset").contains("tap0"));
        assert!(!run("ip link").contains("srv0"));
    });
}

/// Frames in at one end and out at the other.
struct End(File);

impl End {
    fn open(tap: &str) -> Self {
        Self(File::from(open_tap(tap).unwrap()))
    }

    fn write(&mut self, frame: &[u8]) {
        assert_eq!(self.0.write(frame).unwrap(), frame.len());
    }

    fn expect(&mut self, wanted: &[u8]) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match self.next() {
                Some(frame) => {
                    assert_eq!(frame, wanted, "another frame came first");
                    return;
                }
                None => assert!(Instant::now() < deadline, "no frame in five seconds"),
            }
        }
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 2000];
        match self.0.read(&mut frame) {
            // What the pod itself was a member of, it reports at its own time (MLD).
            Ok(_) if frame.starts_with(&[0x33, 0x33, 0, 0, 0, 0x16]) => self.next(),
            Ok(length) => {
                frame.truncate(length);
                Some(frame)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn udp(from: ([u8; 6], [u8; 4], u16), to: ([u8; 6], [u8; 4], u16)) -> Vec<u8> {
    udp_with(from, to, b"some eighteen bytes")
}

/// A BOOTP message without an option (RFC 951), as from a client or, with an address of its own, from a relay agent.
fn bootp(from: ([u8; 6], [u8; 4], u16), to: ([u8; 6], [u8; 4], u16), giaddr: [u8; 4]) -> Vec<u8> {
    let mut message = [0; 300];
    message[0] = 1;
    message[24..28].copy_from_slice(&giaddr);
    udp_with(from, to, &message)
}

fn udp_with(from: ([u8; 6], [u8; 4], u16), to: ([u8; 6], [u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(from.0, to.0)
        .ipv4(from.1, to.1, 64)
        .udp(from.2, to.2);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn wired(pod: Pod) -> Pod {
    pod.with_eth0_as_tap()
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn frames_pass_both_ways_but_those_for_the_server() {
    in_pod(async |pod| {
        let pod = wired(pod);
        let mut wire = End::open("eth0");
        pod.wire(&bridged()).await;
        // Nothing has been said on the wire while all of this came up.
        assert_eq!(wire.next(), None);
        let (mut guest, mut server) = (End::open("tap0"), End::open("srv0"));
        let (any, own, other) = ([0; 4], [192, 0, 2, 10], [192, 0, 2, 77]);

        let out = udp((POD_MAC, own, 5), (OTHER_MAC, other, 6));
        guest.write(&out);
        wire.expect(&out);
        let back = udp((OTHER_MAC, other, 6), (POD_MAC, own, 5));
        wire.write(&back);
        guest.expect(&back);

        let discover = bootp((POD_MAC, any, 68), (ALL, [255; 4], 67), any);
        guest.write(&discover);
        server.expect(&discover);
        let renew = bootp((POD_MAC, own, 68), (OTHER_MAC, [169, 254, 75, 10], 67), any);
        guest.write(&renew);
        server.expect(&renew);
        let offer = udp((GUEST_MAC, [169, 254, 75, 10], 67), (POD_MAC, own, 68));
        server.write(&offer);
        guest.expect(&offer);
        assert_eq!(wire.next(), None, "DHCP of ours left by the pod's wire");

        // Of another machine behind the guest, and of the network's own server: none of our business.
        let behind = bootp((GUEST_MAC, any, 68), (ALL, [255; 4], 67), any);
        guest.write(&behind);
        wire.expect(&behind);
        let offer = udp((OTHER_MAC, other, 67), (ALL, [255; 4], 68));
        wire.write(&offer);
        guest.expect(&offer);
        assert_eq!(server.next(), None);
    });
}

/// The guest may be a relay agent (RFC 2131, section 4.1; RFC 8415, section 19): what it passes on is for its server.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn what_the_guest_relays_is_for_another_server() {
    in_pod(async |pod| {
        let pod = wired(pod);
        let mut wire = End::open("eth0");
        pod.wire(&bridged()).await;
        let (mut guest, mut server) = (End::open("tap0"), End::open("srv0"));
        let (own, other) = ([192, 0, 2, 10], [192, 0, 2, 77]);
        for port in [67, 68] {
            let relayed = bootp((POD_MAC, own, port), (OTHER_MAC, other, 67), own);
            guest.write(&relayed);
            wire.expect(&relayed);
        }
        let six = |kind: u8| {
            let (from, to) = (
                std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).octets(),
                std::net::Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3).octets(),
            );
            let builder = etherparse::PacketBuilder::ethernet2(POD_MAC, [0x33, 0x33, 0, 1, 0, 3])
                .ipv6(from, to, 64)
                .udp(547, 547);
            let mut frame = Vec::new();
            builder.write(&mut frame, &[kind, 0, 0, 0, 0, 0, 0, 0]).unwrap();
            frame
        };
        let (relayed, request) = (six(12), six(3));
        guest.write(&relayed);
        wire.expect(&relayed);
        guest.write(&request);
        server.expect(&request);
        assert_eq!((server.next(), wire.next()), (None, None));
    });
}

/// Where a guest is after a migration is said in its name by the pod's wire, and nothing else is.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn only_announcements_of_the_guest_leave_by_the_wire() {
    in_pod(async |pod| {
        let pod = wired(pod);
        let mut wire = End::open("eth0");
        pod.wire(&bridged()).await;
        let (mut guest, mut server) = (End::open("tap0"), End::open("srv0"));
        let arp = |from: [u8; 6]| {
            let mut frame = Vec::from(ALL);
            frame.extend(from);
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(from);
            frame.extend([192, 0, 2, 10, 0, 0, 0, 0, 0, 0, 192, 0, 2, 10]);
            frame
        };
        let neighbour = |kind: u8| {
            let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
            frame.extend(POD_MAC);
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
            frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
            frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend([kind, 0, 0, 0, 0x20, 0, 0, 0]);
            frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
            frame
        };
        for announcement in [arp(POD_MAC), neighbour(136)] {
            server.write(&announcement);
            wire.expect(&announcement);
        }
        let offer = udp((POD_MAC, [169, 254, 75, 10], 67), (POD_MAC, [192, 0, 2, 10], 68));
        for other in [arp(OTHER_MAC), neighbour(134), offer] {
            server.write(&other);
            guest.expect(&other);
        }
        assert_eq!(wire.next(), None);
        assert_eq!(guest.next(), None, "an announcement went to the guest as well");
    });
}

/// The pod's address is still the host's own: the guest alone answers for it.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn nobody_but_the_guest_answers_arp_for_its_address() {
    in_pod(async |pod| {
        let pod = wired(pod);
        let mut wire = End::open("eth0");
        pod.wire(&bridged()).await;
        let mut guest = End::open("tap0");
        let mut question = Vec::from(ALL);
        question.extend(OTHER_MAC);
        question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        question.extend(OTHER_MAC);
        question.extend([192, 0, 2, 77]);
        question.extend([0; 6]);
        question.extend([192, 0, 2, 10]);
        question.resize(60, 0);
        wire.write(&question);
        guest.expect(&question);
        assert_eq!(wire.next(), None, "somebody answered");
    });
}

/// The kernel gives an interface that comes up its link-local address, with its routes, a moment later.
fn wait_for_link_local(interface: &str) {
    let line = format!("ip -6 route show table local dev {interface}");
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !run(&line).contains("local fe80::") {
        assert!(std::time::Instant::now() < end, "no link-local address");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The pod's kernel has addresses and routes as before. Whoever uses them is told at once that there is no way.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn nothing_that_the_pod_sends_is_on_the_wire() {
    in_pod(async |pod| {
        let pod = wired(pod);
        pod.wire(&bridged()).await;
        // What the kernel sent before that, such as a router solicitation, is not in question.
        let mut wire = End::open("eth0");
        for to in ["192.0.2.77:9", "[2001:db8::77]:9"] {
            let wait = Duration::from_secs(5);
            let error = std::net::TcpStream::connect_timeout(&to.parse().unwrap(), wait).unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(nix::libc::ENETUNREACH),
                "{to}: {error}"
            );
        }
        assert_eq!(wire.next(), None, "said on the wire");
    });
}

/// What comes up through the bridge is the guest's alone, though the pod's kernel has the same address.
#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn nothing_that_arrives_is_for_the_pod() {
    in_pod(async |pod| {
        let pod = wired(pod);
        let mut wire = End::open("eth0");
        let (plan, _) = pod.wire(&bridged()).await;
        let mut guest = End::open("tap0");
        let socket = std::net::UdpSocket::bind("0.0.0.0:5000").unwrap();
        socket.set_nonblocking(true).unwrap();
        let bridge = plan.nics[0].bridged().unwrap().mac.0;
        let (own, other) = ([192, 0, 2, 10], [192, 0, 2, 77]);
        for (mac, ip) in [(POD_MAC, own), (ALL, [192, 0, 2, 255]), (ALL, [255; 4])] {
            let frame = udp((OTHER_MAC, other, 6), (mac, ip, 5000));
            wire.write(&frame);
            guest.expect(&frame);
        }
        wire.write(&udp((OTHER_MAC, other, 6), (bridge, own, 5000)));
        let error = socket.recv(&mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    });
}
