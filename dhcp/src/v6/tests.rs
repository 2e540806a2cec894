use super::*;
use crate::lease::LEASE_SECONDS;
use crate::responder::Responder;
use crate::testing::*;

use dhcproto::v6::{DhcpOption, DhcpOptions, MessageType, OptionCode, Status};

const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
const CLIENT: [u8; 14] = [0, 1, 0, 1, 0x2c, 0, 0, 1, 2, 0, 0, 0, 0, 0x2a];

const SOLICIT: u8 = 1;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION: u8 = 11;

fn tlv(code: u16, data: &[u8]) -> Vec<u8> {
    let mut out = code.to_be_bytes().to_vec();
    out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
    out
}

fn client() -> Vec<u8> {
    tlv(1, &CLIENT)
}

fn server() -> Vec<u8> {
    tlv(2, &DUID)
}

fn oro(codes: &[u16]) -> Vec<u8> {
    tlv(
        6,
        &codes
            .iter()
            .flat_map(|code| code.to_be_bytes())
            .collect::<Vec<u8>>(),
    )
}

/// An IA_NA that lists these addresses.
fn ia(id: u8, addresses: &[&str]) -> Vec<u8> {
    let mut data = vec![0, 0, 0, id, 0, 0, 0, 0, 0, 0, 0, 0];
    for address in addresses {
        let address: Ipv6Addr = address.parse().unwrap();
        data.extend(tlv(5, &[&address.octets()[..], &[0; 8]].concat()));
    }
    tlv(3, &data)
}

fn ia_pd(prefixed: bool) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0];
    if prefixed {
        data.extend(tlv(26, &[&[0; 8][..], &[56], &[0x20; 16]].concat()));
    }
    tlv(25, &data)
}

fn message(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
    [&[kind, 0xab, 0xcd, 0xef][..], &options.concat()].concat()
}

fn ask(kind: u8, options: &[Vec<u8>]) -> (Option<dhcproto::v6::Message>, Event) {
    let frame = frame6(GUEST6_LOCAL, SERVERS6, &message(kind, options));
    let answer = Responder::new(lease()).answer(&frame);
    let reply = answer.reply.map(|frame| {
        let sent = sent(&frame);
        assert_eq!((sent.mac, sent.to), (GUEST_MAC, GUEST6_LOCAL.into()));
        let message = decode6(&sent.payload);
        assert_eq!(message.xid(), [0xab, 0xcd, 0xef]);
        assert_eq!(
            message.opts().get(OptionCode::ServerId),
            Some(&DhcpOption::ServerId(DUID.to_vec()))
        );
        message
    });
    (reply, answer.event)
}

fn outcome(event: &Event) -> &Dhcp6Outcome {
    match event {
        Event::Dhcp6 { outcome, .. } => outcome,
        other => panic!("{other}"),
    }
}

/// Of each IA_NA in the reply: its id, T1 and T2, addresses with valid lifetimes, and status.
type Association = (u32, (u32, u32), Vec<(Ipv6Addr, u32)>, Option<Status>);

fn associations(reply: &dhcproto::v6::Message) -> Vec<Association> {
    reply
        .opts()
        .iter()
        .filter_map(|option| match option {
            DhcpOption::IANA(ia) => {
                let addresses = ia.opts.iter().filter_map(|option| match option {
                    DhcpOption::IAAddr(address) => Some((address.addr, address.valid_life)),
                    _ => None,
                });
                Some((ia.id, (ia.t1, ia.t2), addresses.collect(), status(&ia.opts)))
            }
            _ => None,
        })
        .collect()
}

fn status(options: &DhcpOptions) -> Option<Status> {
    match options.get(OptionCode::StatusCode) {
        Some(DhcpOption::StatusCode(status)) => Some(status.status),
        _ => None,
    }
}

const TIMES: (u32, u32) = (LEASE_SECONDS / 2, LEASE_SECONDS / 5 * 4);

#[test]
fn solicit_is_advertised_and_with_rapid_commit_granted() {
    let (reply, event) = ask(SOLICIT, &[client(), ia(7, &[])]);
    let reply = reply.unwrap();
    assert_eq!(reply.msg_type(), MessageType::Advertise);
    assert_eq!(outcome(&event), &Dhcp6Outcome::Advertised(Some(GUEST6)));
    assert_eq!(
        associations(&reply),
        [(7, TIMES, vec![(GUEST6, LEASE_SECONDS)], None)]
    );
    assert_eq!(
        reply.opts().get(OptionCode::ClientId),
        Some(&DhcpOption::ClientId(CLIENT.to_vec()))
    );
    assert_eq!(
        reply.opts().get(OptionCode::Preference),
        Some(&DhcpOption::Preference(255))
    );

    let (reply, event) = ask(SOLICIT, &[client(), tlv(14, &[]), ia(7, &["fd10:0:2::77"])]);
    let reply = reply.unwrap();
    assert_eq!(reply.msg_type(), MessageType::Reply);
    assert_eq!(outcome(&event), &Dhcp6Outcome::Replied(Some(GUEST6)));
    assert!(reply.opts().get(OptionCode::RapidCommit).is_some());
    assert_eq!(
        associations(&reply),
        [(7, TIMES, vec![(GUEST6, LEASE_SECONDS)], None)]
    );
}

#[test]
fn one_association_gets_the_address_and_the_others_a_reason() {
    let ta = tlv(4, &[0, 0, 0, 5]);
    let (reply, _) = ask(
        REQUEST,
        &[
            client(),
            server(),
            ia(1, &[]),
            ia(2, &[]),
            ta.clone(),
            ia_pd(false),
        ],
    );
    let reply = reply.unwrap();
    assert_eq!(
        associations(&reply),
        [
            (1, TIMES, vec![(GUEST6, LEASE_SECONDS)], None),
            (2, (0, 0), vec![], Some(Status::NoAddrsAvail))
        ]
    );
    match (
        reply.opts().get(OptionCode::IATA),
        reply.opts().get(OptionCode::IAPD),
    ) {
        (Some(DhcpOption::IATA(ta)), Some(DhcpOption::IAPD(pd))) => {
            assert_eq!((ta.id, status(&ta.opts)), (5, Some(Status::NoAddrsAvail)));
            assert_eq!((pd.id, status(&pd.opts)), (9, Some(Status::NoPrefixAvail)));
        }
        other => panic!("{other:?}"),
    }
    // The association that says it holds the address keeps it, whatever its place.
    let (reply, _) = ask(RENEW, &[client(), server(), ia(1, &[]), ia(2, &["fd10:0:2::2"])]);
    let held: Vec<_> = associations(&reply.unwrap())
        .into_iter()
        .filter(|ia| !ia.2.is_empty())
        .collect();
    assert_eq!(held, [(2, TIMES, vec![(GUEST6, LEASE_SECONDS)], None)]);
    let (reply, event) = ask(SOLICIT, &[client(), ta]);
    assert!(reply.is_some());
    assert_eq!(outcome(&event), &Dhcp6Outcome::Advertised(None));
}

#[test]
fn an_address_from_elsewhere_is_not_granted() {
    let (reply, event) = ask(REQUEST, &[client(), server(), ia(7, &["2001:db8::5"])]);
    assert_eq!(
        associations(&reply.unwrap()),
        [(7, (0, 0), vec![], Some(Status::NotOnLink))]
    );
    assert_eq!(outcome(&event), &Dhcp6Outcome::NotOnLink);
}

#[test]
fn renew_and_rebind_extend_the_address_and_void_all_others() {
    let old: Ipv6Addr = "2001:db8::5".parse().unwrap();
    for (kind, ids) in [(RENEW, vec![client(), server()]), (REBIND, vec![client()])] {
        let with = |more: &[Vec<u8>]| [&ids[..], more].concat();
        let (reply, _) = ask(kind, &with(&[ia(7, &["fd10:0:2::2"])]));
        assert_eq!(
            associations(&reply.unwrap()),
            [(7, TIMES, vec![(GUEST6, LEASE_SECONDS)], None)]
        );
        let (reply, event) = ask(kind, &with(&[ia(7, &["2001:db8::5"])]));
        let both = vec![(GUEST6, LEASE_SECONDS), (old, 0)];
        assert_eq!(associations(&reply.unwrap()), [(7, TIMES, both, None)]);
        assert_eq!(outcome(&event), &Dhcp6Outcome::Replied(Some(GUEST6)));
        let (reply, _) = ask(
            kind,
            &with(&[ia(7, &["fd10:0:2::2"]), ia(8, &["2001:db8::5"]), ia_pd(true)]),
        );
        let reply = reply.unwrap();
        assert_eq!(
            associations(&reply)[1],
            (8, (0, 0), vec![(old, 0)], Some(Status::NoBinding))
        );
        match reply.opts().get(OptionCode::IAPD) {
            Some(DhcpOption::IAPD(pd)) => match pd.opts.get(OptionCode::IAPrefix) {
                Some(DhcpOption::IAPrefix(prefix)) => {
                    assert_eq!((prefix.prefix_len, prefix.valid_lifetime), (56, 0));
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn confirm_says_whether_all_addresses_belong_here() {
    let cases: [(&[&str], Option<Status>); 4] = [
        (&["fd10:0:2::2"], Some(Status::Success)),
        (&["fd10:0:2::2", "fd10:0:2::99"], Some(Status::Success)),
        (&["fd10:0:2::2", "2001:db8::5"], Some(Status::NotOnLink)),
        (&[], None),
    ];
    for (addresses, expected) in cases {
        let (reply, event) = ask(CONFIRM, &[client(), ia(7, addresses)]);
        assert_eq!(
            reply.as_ref().and_then(|reply| status(reply.opts())),
            expected,
            "{addresses:?}"
        );
        match expected {
            None => assert_eq!((reply, event), (None, Event::Ignored(Ignored::Unanswerable))),
            Some(_) => assert_eq!(associations(&reply.unwrap()), []),
        }
    }
}

#[test]
fn release_and_decline_are_acknowledged_without_an_address() {
    for (kind, expected) in [
        (RELEASE, Dhcp6Outcome::Released),
        (DECLINE, Dhcp6Outcome::Declined),
    ] {
        let (reply, event) = ask(
            kind,
            &[
                client(),
                server(),
                ia(7, &["fd10:0:2::2"]),
                ia(8, &["fd10:0:2::9"]),
            ],
        );
        let reply = reply.unwrap();
        assert_eq!(outcome(&event), &expected);
        assert_eq!(
            (reply.msg_type(), status(reply.opts())),
            (MessageType::Reply, Some(Status::Success))
        );
        assert_eq!(
            associations(&reply),
            [(8, (0, 0), vec![], Some(Status::NoBinding))]
        );
    }
}

#[test]
fn what_is_asked_for_is_told_and_nothing_else() {
    let (reply, _) = ask(INFORMATION, &[oro(&[23, 24, 56, 82, 83])]);
    let reply = reply.unwrap();
    assert_eq!(reply.opts().get(OptionCode::ClientId), None);
    assert_eq!(
        reply.opts().get(OptionCode::DomainNameServers),
        Some(&DhcpOption::DomainNameServers(lease().v6.unwrap().dns))
    );
    match reply.opts().get(OptionCode::DomainSearchList) {
        Some(DhcpOption::DomainSearchList(names)) => {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            assert_eq!(
                names,
                [
                    "default.svc.cluster.local.",
                    "svc.cluster.local.",
                    "cluster.local."
                ]
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(
        reply.opts().get(OptionCode::SolMaxRt).is_some() && reply.opts().get(OptionCode::InfMaxRt).is_some()
    );
    assert_eq!(reply.opts().get(OptionCode::NtpServer), None);
    let (reply, _) = ask(SOLICIT, &[client(), ia(7, &[])]);
    assert_eq!(reply.unwrap().opts().get(OptionCode::DomainNameServers), None);
}

/// RFC 9915 section 16, message by message: identifiers that must be, must not be, or must be ours.
#[test]
fn identifiers_are_held_to_the_rules() {
    let stranger = tlv(2, &[0, 3, 0, 1, 9, 9, 9, 9, 9, 9]);
    let other = Event::Ignored(Ignored::OtherServer);
    for kind in [SOLICIT, CONFIRM, REBIND] {
        for options in [
            vec![ia(7, &["fd10:0:2::2"])],
            vec![client(), server(), ia(7, &["fd10:0:2::2"])],
        ] {
            let (reply, event) = ask(kind, &options);
            assert_eq!(reply, None, "{kind}");
            assert!(
                matches!(
                    event,
                    Event::Malformed {
                        protocol: Protocol::Dhcp6,
                        ..
                    }
                ),
                "{kind}: {event}"
            );
        }
    }
    for kind in [REQUEST, RENEW, RELEASE, DECLINE] {
        let ia = ia(7, &["fd10:0:2::2"]);
        assert!(ask(kind, &[client(), server(), ia.clone()]).0.is_some());
        assert_eq!(
            ask(kind, &[client(), stranger.clone(), ia.clone()]),
            (None, other.clone()),
            "{kind}"
        );
        for options in [vec![server(), ia.clone()], vec![client(), ia.clone()]] {
            let (reply, event) = ask(kind, &options);
            assert_eq!(reply, None, "{kind}");
            assert!(matches!(event, Event::Malformed { .. }), "{kind}: {event}");
        }
    }
    assert_eq!(ask(INFORMATION, &[stranger]), (None, other));
    assert!(ask(INFORMATION, &[server()]).0.is_some());
    assert_eq!(ask(INFORMATION, &[client(), ia(7, &[])]).0, None);
}

#[test]
fn what_is_not_a_client_on_this_link_is_not_answered() {
    for (kind, why) in [
        (2, Ignored::ServerMessage),
        (7, Ignored::ServerMessage),
        (10, Ignored::ServerMessage),
        (12, Ignored::Relayed),
        (13, Ignored::Relayed),
    ] {
        assert_eq!(
            ask(kind, &[client(), server()]),
            (None, Event::Ignored(why)),
            "{kind}"
        );
    }
    let solicit = message(SOLICIT, &[client(), ia(7, &[])]);
    let responder = Responder::new(lease());
    let unicast = responder.answer(&frame6(GUEST6_LOCAL, SERVER6, &solicit));
    assert_eq!(
        (unicast.reply, unicast.event),
        (None, Event::Ignored(Ignored::Unicast))
    );
    let global = responder.answer(&frame6(GUEST6, SERVERS6, &solicit));
    assert_eq!(global.reply, None);
    assert!(
        responder
            .answer(&frame6(GUEST6_LOCAL, SERVERS6, &solicit))
            .reply
            .is_some()
    );
}

#[test]
fn malformed_messages_are_refused_as_a_whole() {
    let truncated = |mut bytes: Vec<u8>| {
        bytes.pop();
        bytes
    };
    let inner_too_long = {
        let mut bytes = ia(7, &["fd10:0:2::2"]);
        bytes[19] += 1;
        bytes
    };
    let cases = [
        vec![truncated(client())],
        vec![client(), truncated(ia(7, &[]))],
        vec![client(), inner_too_long],
        vec![client(), tlv(3, &[0, 0, 0, 1])],
        vec![client(), tlv(3, &[&[0; 12][..], &tlv(5, &[1, 2, 3])].concat())],
        vec![client(), tlv(25, &[&[0; 12][..], &tlv(26, &[0; 24])].concat())],
        vec![
            client(),
            tlv(
                3,
                &[&[0; 12][..], &tlv(5, &[&[0; 24][..], &[0, 13, 0, 9]].concat())].concat(),
            ),
        ],
        vec![client(), tlv(4, &[0, 0, 0])],
        vec![client(), tlv(6, &[0, 23, 0])],
        vec![client(), client()],
        vec![tlv(1, &[0, 1])],
        vec![tlv(1, &[1; 131])],
        vec![client(), vec![0, 9]],
        [vec![client()], vec![ia(7, &[]); 17]].concat(),
        vec![client(), ia(7, &["fd10:0:2::2"; 17])],
    ];
    for options in cases {
        let (reply, event) = ask(SOLICIT, &options);
        assert_eq!(reply, None, "{options:?}");
        assert!(
            matches!(
                event,
                Event::Malformed {
                    protocol: Protocol::Dhcp6,
                    ..
                }
            ),
            "{event}: {options:?}"
        );
    }
    for bytes in [&[][..], &[1], &[1, 2, 3], &[99, 1, 2, 3]] {
        let answer = Responder::new(lease()).answer(&frame6(GUEST6_LOCAL, SERVERS6, bytes));
        assert!(matches!(answer.event, Event::Malformed { .. }), "{bytes:?}");
    }
}

/// The largest allowed request on the smallest link: the reply has fewer names before it outgrows the link.
#[test]
fn a_reply_never_outgrows_the_link() {
    let mut lease = lease();
    lease.mtu = 1280;
    lease.search = (0..40)
        .map(|n| format!("team-{n}.a-rather-long-domain-{n}.example"))
        .collect();
    let mut options = vec![client(), server(), oro(&[24, 23, 82])];
    options.extend((0..16).map(|n| ia(n, &[])));
    let frame = frame6(GUEST6_LOCAL, SERVERS6, &message(REQUEST, &options));
    let reply = sent(&Responder::new(lease.clone()).answer(&frame).reply.unwrap());
    assert!(reply.packet_len <= 1280);
    let reply = decode6(&reply.payload);
    assert!(reply.opts().get(OptionCode::DomainNameServers).is_some());
    match reply.opts().get(OptionCode::DomainSearchList) {
        Some(DhcpOption::DomainSearchList(names)) => {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            assert!(names.len() > 1 && names.len() < 40, "{names:?}");
            for (name, first) in names.iter().zip(&lease.search) {
                assert_eq!(name.trim_end_matches('.'), first, "the first ones");
            }
        }
        other => panic!("{other:?}"),
    }
    lease.mtu = 100;
    let answer = Responder::new(lease).answer(&frame);
    assert_eq!(
        (answer.reply, outcome(&answer.event)),
        (None, &Dhcp6Outcome::TooLarge)
    );
}
