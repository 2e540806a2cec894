use super::*;
use crate::testing::*;

/// Where the headers begin.
const IP: usize = 14;
const UDP4: usize = IP + 20;
const UDP6: usize = IP + 40;

fn v4() -> Vec<u8> {
    frame4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, b"message")
}

fn changed(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[at] = byte;
    frame
}

#[test]
fn the_message_is_found_and_padding_is_not_part_of_it() {
    let mut frame = v4();
    frame.resize(60, 0xaa);
    match parse(&frame, Mac(GUEST_MAC)) {
        Ok(Inbound::Dhcp4 {
            destination, message, ..
        }) => {
            assert_eq!((destination, message), (Ipv4Addr::BROADCAST, &b"message"[..]));
        }
        other => panic!("{other:?}"),
    }
    let mut frame = frame6(GUEST6_LOCAL, SERVERS6, b"message");
    frame.extend([0xaa; 9]);
    match parse(&frame, Mac(GUEST_MAC)) {
        Ok(Inbound::Dhcp6 { source, message, .. }) => {
            assert_eq!((source, message), (GUEST6_LOCAL, &b"message"[..]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ipv4_may_go_without_a_udp_checksum_and_ipv6_may_not() {
    let unsummed = changed(changed(v4(), UDP4 + 6, 0), UDP4 + 7, 0);
    assert!(matches!(
        parse(&unsummed, Mac(GUEST_MAC)),
        Ok(Inbound::Dhcp4 { .. })
    ));
    let v6 = frame6(GUEST6_LOCAL, SERVERS6, b"message");
    let unsummed = changed(changed(v6, UDP6 + 6, 0), UDP6 + 7, 0);
    assert_eq!(
        parse(&unsummed, Mac(GUEST_MAC)),
        Err(malformed("wrong UDP checksum"))
    );
}

#[test]
fn frames_of_others_and_of_other_protocols_are_ignored() {
    let foreign = changed(v4(), 11, 0x2b);
    assert_eq!(
        parse(&foreign, Mac(GUEST_MAC)),
        Err(Event::Ignored(Ignored::ForeignMac))
    );
    let v6 = frame6(GUEST6_LOCAL, SERVERS6, b"message");
    for frame in [
        changed(v4(), 13, 6),           // ARP
        changed(v4(), IP + 9, 6),       // TCP
        changed(v4(), UDP4 + 3, 68),    // to a client
        changed(v6.clone(), IP + 6, 0), // hop-by-hop options
        changed(v6, UDP6 + 3, 0),       // another port
        changed(solicitation(GUEST6_LOCAL, 255, 0, &[]), UDP6, 136),
    ] {
        assert_eq!(
            parse(&frame, Mac(GUEST_MAC)),
            Err(Event::Ignored(Ignored::OtherProtocol)),
            "{frame:?}"
        );
    }
}

#[test]
fn broken_framing_is_malformed() {
    let v6 = frame6(GUEST6_LOCAL, SERVERS6, b"message");
    let cases = [
        Vec::new(),
        v4()[..13].to_vec(),
        v4()[..IP + 19].to_vec(),
        v4()[..v4().len() - 1].to_vec(),
        changed(v4(), IP, 0x4f),
        changed(v4(), IP, 0x44),
        changed(v4(), IP + 6, 0x20),
        changed(v4(), IP + 8, 63),
        changed(v4(), UDP4 + 5, 200),
        changed(v4(), UDP4 + 5, 7),
        changed(v4(), UDP4 + 8, b'M'),
        v6[..IP + 39].to_vec(),
        v6[..v6.len() - 1].to_vec(),
        changed(v6.clone(), IP, 0x45),
        changed(v6.clone(), UDP6 + 5, 200),
        changed(v6, UDP6 + 8, b'M'),
        solicitation(GUEST6_LOCAL, 255, 0, &[])[..UDP6 + 7].to_vec(),
    ];
    for frame in cases {
        let parsed = parse(&frame, Mac(GUEST_MAC));
        assert!(
            matches!(
                parsed,
                Err(Event::Malformed {
                    protocol: Protocol::Framing,
                    ..
                })
            ),
            "{parsed:?}: {frame:?}"
        );
    }
}
