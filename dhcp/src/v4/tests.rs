mod options;

use std::collections::BTreeMap;

use super::*;
use crate::lease::{LEASE_SECONDS, Route4};
use crate::responder::Responder;
use crate::testing::*;

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};

const DISCOVER: (u8, &[u8]) = (53, &[1]);
const REQUEST: (u8, &[u8]) = (53, &[3]);
const ME: (u8, &[u8]) = (54, &[10, 0, 2, 1]);
const OTHER: (u8, &[u8]) = (54, &[192, 0, 2, 1]);
const MINE: (u8, &[u8]) = (50, &[10, 0, 2, 2]);
const WRONG: (u8, &[u8]) = (50, &[10, 0, 2, 99]);
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const ALL: Ipv4Addr = Ipv4Addr::BROADCAST;

fn ask_with(lease: &Lease, frame: &[u8]) -> (Option<Sent>, Event) {
    let answer = Responder::new(lease.clone()).answer(frame);
    (answer.reply.as_deref().map(sent), answer.event)
}

fn ask(ciaddr: Ipv4Addr, flags: u16, to: Ipv4Addr, options: &[(u8, &[u8])]) -> (Option<Sent>, Event) {
    ask_with(
        &lease(),
        &frame4(ciaddr, to, &message4(ciaddr, flags, &options4(options))),
    )
}

/// The options of the reply to a DISCOVER with these options.
fn offer(lease: &Lease, options: &[(u8, &[u8])]) -> Vec<(u8, Vec<u8>)> {
    let options = options4(&[&[DISCOVER], options].concat());
    let (reply, event) = ask_with(lease, &frame4(NONE, ALL, &message4(NONE, 0, &options)));
    options_of(&reply.unwrap_or_else(|| panic!("{event}")).payload)
}

fn codes(options: &[(u8, Vec<u8>)]) -> Vec<u8> {
    options.iter().map(|(code, _)| *code).collect()
}

fn get(options: &[(u8, Vec<u8>)], code: u8) -> Option<&[u8]> {
    options
        .iter()
        .find(|(c, _)| *c == code)
        .map(|(_, data)| data.as_slice())
}

fn outcome(event: Event) -> (Dhcp4, Dhcp4Outcome) {
    match event {
        Event::Dhcp4 { request, outcome, .. } => (request, outcome),
        other => panic!("{other}"),
    }
}

/// Address, flags and destination of a message, its options, what it is taken for, and who is answered.
type Case<'a> = (
    Ipv4Addr,
    u16,
    Ipv4Addr,
    &'a [(u8, &'a [u8])],
    (Dhcp4, Dhcp4Outcome),
    Option<([u8; 6], Ipv4Addr)>,
);

/// Every message and state of RFC 2131 4.3: what is sent, what comes back, to whom.
#[test]
fn each_message_in_each_state() {
    use Dhcp4::*;
    use Dhcp4Outcome::*;
    let wrong = Ipv4Addr::new(10, 0, 2, 99);
    let everyone = Some(([0xff; 6], ALL));
    let guest = Some((GUEST_MAC, GUEST));
    let cases: &[Case] = &[
        (NONE, 0, ALL, &[DISCOVER], (Discover, Offered(GUEST)), guest),
        (
            NONE,
            0x8000,
            ALL,
            &[DISCOVER],
            (Discover, Offered(GUEST)),
            everyone,
        ),
        (
            NONE,
            0,
            ALL,
            &[DISCOVER, WRONG],
            (Discover, Offered(GUEST)),
            guest,
        ),
        (
            NONE,
            0,
            ALL,
            &[REQUEST, ME, MINE],
            (Selecting, Acknowledged(Some(GUEST))),
            guest,
        ),
        (
            NONE,
            0x8000,
            ALL,
            &[REQUEST, ME, MINE],
            (Selecting, Acknowledged(Some(GUEST))),
            everyone,
        ),
        (
            NONE,
            0,
            ALL,
            &[REQUEST, ME, WRONG],
            (Selecting, Refused(wrong)),
            everyone,
        ),
        (
            NONE,
            0,
            ALL,
            &[REQUEST, MINE],
            (InitReboot, Acknowledged(Some(GUEST))),
            guest,
        ),
        (
            NONE,
            0,
            ALL,
            &[REQUEST, WRONG],
            (InitReboot, Refused(wrong)),
            everyone,
        ),
        (
            GUEST,
            0,
            GATEWAY,
            &[REQUEST],
            (Renewing, Acknowledged(Some(GUEST))),
            guest,
        ),
        (
            GUEST,
            0x8000,
            GATEWAY,
            &[REQUEST],
            (Renewing, Acknowledged(Some(GUEST))),
            guest,
        ),
        (
            wrong,
            0,
            GATEWAY,
            &[REQUEST],
            (Renewing, Refused(wrong)),
            everyone,
        ),
        (
            GUEST,
            0,
            ALL,
            &[REQUEST],
            (Rebinding, Acknowledged(Some(GUEST))),
            guest,
        ),
        (wrong, 0, ALL, &[REQUEST], (Rebinding, Refused(wrong)), everyone),
        (
            NONE,
            0,
            ALL,
            &[(53, &[4]), ME, MINE],
            (Decline, Declined(GUEST)),
            None,
        ),
        (
            GUEST,
            0,
            GATEWAY,
            &[(53, &[7]), ME],
            (Release, Released(GUEST)),
            None,
        ),
        (
            wrong,
            0,
            ALL,
            &[(53, &[8])],
            (Inform, Acknowledged(None)),
            Some((GUEST_MAC, wrong)),
        ),
        (
            NONE,
            0,
            ALL,
            &[(53, &[8])],
            (Inform, Acknowledged(None)),
            everyone,
        ),
    ];
    for (ciaddr, flags, to, options, expected, addressee) in cases {
        let (reply, event) = ask(*ciaddr, *flags, *to, options);
        let case = format!("{ciaddr} {flags:#x} {to} {options:?}");
        assert_eq!(&outcome(event), expected, "{case}");
        assert_eq!(
            reply.as_ref().map(|r| (r.mac, r.to)),
            addressee.map(|(m, a)| (m, a.into())),
            "{case}"
        );
        let Some(reply) = reply else { continue };
        let message = decode4(&reply.payload);
        assert_eq!(
            (message.xid(), message.flags().broadcast() || *flags == 0),
            (0xdead_beef, true),
            "{case}"
        );
        let (kind, yiaddr) = match expected.1 {
            Offered(_) => (MessageType::Offer, GUEST),
            Acknowledged(Some(_)) => (MessageType::Ack, GUEST),
            Acknowledged(None) => (MessageType::Ack, NONE),
            _ => (MessageType::Nak, NONE),
        };
        assert_eq!(
            message.opts().get(OptionCode::MessageType),
            Some(&DhcpOption::MessageType(kind)),
            "{case}"
        );
        assert_eq!(message.yiaddr(), yiaddr, "{case}");
        let timed = message.opts().get(OptionCode::AddressLeaseTime).is_some();
        assert_eq!(timed, yiaddr == GUEST, "{case}");
        assert!(reply.payload.len() >= 300, "{case}");
    }
}

#[test]
fn what_is_not_for_us_is_not_answered() {
    let mut relayed = message4(NONE, 0, &options4(&[DISCOVER]));
    relayed[24..28].copy_from_slice(&[10, 9, 9, 9]);
    let mut reply = message4(NONE, 0, &options4(&[(53, &[2])]));
    reply[0] = 2;
    let mut foreign = message4(NONE, 0, &options4(&[DISCOVER]));
    foreign[33] ^= 1;
    let mut no_cookie = message4(NONE, 0, &options4(&[DISCOVER]));
    no_cookie[236] = 0;
    let plain = |options: &[(u8, &[u8])]| message4(NONE, 0, &options4(options));
    let cases = [
        (plain(&[REQUEST, OTHER, MINE]), Ignored::OtherServer),
        (plain(&[(53, &[4]), OTHER, MINE]), Ignored::OtherServer),
        (plain(&[(53, &[7]), OTHER]), Ignored::OtherServer),
        (plain(&[(12, b"bootp")]), Ignored::Bootp),
        (plain(&[(53, &[5])]), Ignored::ServerMessage),
        (reply, Ignored::ServerMessage),
        (relayed, Ignored::Relayed),
        (foreign, Ignored::ForeignMac),
        (no_cookie, Ignored::Bootp),
    ];
    for (message, why) in cases {
        assert_eq!(
            ask_with(&lease(), &frame4(NONE, ALL, &message)),
            (None, Event::Ignored(why)),
            "{why:?}"
        );
    }
    let elsewhere = frame4(
        GUEST,
        Ipv4Addr::new(192, 0, 2, 7),
        &message4(GUEST, 0, &options4(&[REQUEST])),
    );
    assert_eq!(
        ask_with(&lease(), &elsewhere),
        (None, Event::Ignored(Ignored::OtherServer))
    );
    let mut v6_only = lease();
    v6_only.v4 = None;
    let discover = frame4(NONE, ALL, &plain(&[DISCOVER]));
    assert_eq!(
        ask_with(&v6_only, &discover),
        (None, Event::Ignored(Ignored::NoLease))
    );
}

#[test]
fn malformed_messages_are_refused_as_a_whole() {
    let good = message4(NONE, 0, &options4(&[DISCOVER]));
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    let raw = |options: &[u8]| message4(NONE, 0, options);
    let mut long_id = vec![53, 1, 1, 61, 255];
    long_id.extend([7; 255]);
    long_id.extend([61, 1, 7, 255]);
    let mut bad_overload = raw(&[53, 1, 1, 52, 1, 1, 255]);
    bad_overload[108..111].copy_from_slice(&[12, 200, 1]);
    let cases = [
        with(0, 3),
        with(1, 6),
        with(2, 17),
        with(2, 255),
        with(2, 5),
        good[..235].to_vec(),
        Vec::new(),
        raw(&[53, 1]),
        raw(&[53]),
        raw(&[53, 2, 1, 1, 255]),
        raw(&[53, 1, 1, 53, 1, 1, 255]),
        raw(&[53, 1, 99, 255]),
        raw(&[53, 1, 1, 12, 40, b'a', 255]),
        raw(&[53, 1, 3, 50, 3, 10, 0, 2, 255]),
        raw(&[53, 1, 3, 54, 5, 10, 0, 2, 1, 0, 255]),
        raw(&[53, 1, 3, 255]),
        raw(&[53, 1, 4, 255]),
        raw(&[53, 1, 1, 52, 1, 9, 255]),
        raw(&[53, 1, 1, 61, 0, 255]),
        raw(&long_id),
        bad_overload,
    ];
    for message in cases {
        let (reply, event) = ask_with(&lease(), &frame4(NONE, ALL, &message));
        assert_eq!(reply, None, "{message:?}");
        assert!(
            matches!(
                event,
                Event::Malformed {
                    protocol: Protocol::Dhcp4,
                    ..
                }
            ),
            "{event}: {message:?}"
        );
    }
    // The same bytes without the fault are answered, with or without an end option.
    assert!(ask_with(&lease(), &frame4(NONE, ALL, &good)).0.is_some());
    assert!(
        ask_with(&lease(), &frame4(NONE, ALL, &raw(&[53, 1, 1])))
            .0
            .is_some()
    );
}

/// RFC 3396 in the request: the message type in `sname`, the identifier split between two fields.
#[test]
fn overloaded_and_split_requests_are_joined() {
    let mut message = message4(NONE, 0, &[52, 1, 3, 61, 2, 1, 2, 255]);
    message[108..113].copy_from_slice(&[61, 2, 3, 4, 255]);
    message[44..48].copy_from_slice(&[53, 1, 1, 255]);
    let (reply, _) = ask_with(&lease(), &frame4(NONE, ALL, &message));
    assert_eq!(
        get(&options_of(&reply.unwrap().payload), 61),
        Some(&[1, 2, 3, 4][..])
    );
}

#[test]
fn the_client_identifier_is_echoed_in_every_reply() {
    let id: (u8, &[u8]) = (61, &[1, 2, 0, 0, 0, 0, 0x2a]);
    for options in [
        &[DISCOVER, id][..],
        &[REQUEST, MINE, id],
        &[REQUEST, WRONG, id],
        &[(53, &[8]), id],
    ] {
        let reply = ask(NONE, 0, ALL, options).0.unwrap();
        assert_eq!(get(&options_of(&reply.payload), 61), Some(id.1), "{options:?}");
    }
    let refused = ask(NONE, 0, ALL, &[REQUEST, WRONG]).0.unwrap();
    assert_eq!(codes(&options_of(&refused.payload)), [53, 54]);
}

#[test]
fn guest_strings_reach_the_log_escaped() {
    let (_, event) = ask(
        NONE,
        0,
        ALL,
        &[DISCOVER, (12, b"a\x1b]0;x\n"), (60, b"udhcp 1.37")],
    );
    let text = event.to_string();
    assert!(
        text.contains("a\\x1b]0;x\\n") && text.contains("udhcp 1.37"),
        "{text}"
    );
    assert!(text.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{text}");
}
