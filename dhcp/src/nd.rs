//! Neighbor advertisements for the router that the server stands for (RFC 4861): pure, from a lease to a frame.
//!
//! A router advertisement can name a router by a link-local address only. Where the pod's router has none that is known, the
//! server names its own, and what the guest sends there is passed on to the router. So the guest asks who has that address, at
//! first and then whenever it wants to be sure that its router is still there.

use std::net::Ipv6Addr;

use hawser_mac::Mac;

use crate::bytes::Reader;
use crate::event::{Event, Ignored, Protocol};
use crate::frame::{self, Ends};
use crate::lease::Lease;

const ADVERTISEMENT: u8 = 136;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
/// Flags of an advertisement (4.4).
const ROUTER_AND_OVERRIDE: u8 = 0xa0;
const SOLICITED: u8 = 0x40;
/// Target link-layer address, of one unit of eight bytes.
const TARGET_LINK_LAYER: [u8; 2] = [2, 1];

/// Answers a neighbor solicitation, the checksum and hop limit of which are known to be right.
pub(crate) fn answer(lease: &Lease, source: Ipv6Addr, message: &[u8]) -> (Option<Vec<u8>>, Event) {
    let Some(target) = target(message) else {
        let why = "shorter than 24 bytes";
        let protocol = Protocol::NeighbourSolicitation;
        return (None, Event::Malformed { protocol, why });
    };
    let ours = |v6: &&crate::LeaseV6| v6.default_router && !v6.router_on_link && v6.server == target;
    if lease.v6.as_ref().filter(ours).is_none() {
        return (None, Event::Ignored(Ignored::OtherProtocol));
    }
    let (to, flags) = if source.is_unspecified() {
        ((ALL_NODES_MAC, ALL_NODES), ROUTER_AND_OVERRIDE)
    } else {
        ((lease.guest_mac, source), ROUTER_AND_OVERRIDE | SOLICITED)
    };
    let mut body = target.octets().to_vec();
    body.extend_from_slice(&TARGET_LINK_LAYER);
    body.extend_from_slice(&lease.server_mac.0);
    let ends = Ends {
        from: (lease.server_mac, target),
        to,
    };
    let reply = frame::icmpv6(ends, ADVERTISEMENT, [flags, 0, 0, 0], &body);
    (reply, Event::NeighbourSolicitation)
}

fn target(message: &[u8]) -> Option<Ipv6Addr> {
    let mut reader = Reader::new(message);
    reader.take(8)?;
    let octets: [u8; 16] = reader.take(16)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::Responder;
    use crate::testing::{GUEST_MAC, GUEST6_LOCAL, lease, sent};

    fn solicitation(source: Ipv6Addr, target: Ipv6Addr, cut: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let body = target.octets();
        PacketBuilder::ethernet2(GUEST_MAC, [0x33, 0x33, 0xff, 0, 0, 1])
            .ipv6(source.octets(), ALL_NODES.octets(), 255)
            .icmpv6_raw(135, 0, [0; 4])
            .write(&mut out, &body[..16 - cut])
            .unwrap();
        out
    }

    #[test]
    fn the_router_that_the_server_stands_for_has_its_mac() {
        let lease = lease();
        let v6 = lease.v6.clone().unwrap();
        let answer = Responder::new(lease.clone()).answer(&solicitation(GUEST6_LOCAL, v6.server, 0));
        assert_eq!(answer.event, Event::NeighbourSolicitation);
        let reply = sent(&answer.reply.unwrap());
        assert_eq!((reply.mac, reply.to), (GUEST_MAC, GUEST6_LOCAL.into()));
        assert_eq!((reply.payload[0], reply.payload[4]), (136, 0xe0));
        assert_eq!(reply.payload[8..24], v6.server.octets());
        assert_eq!(reply.payload[24..26], [2, 1]);
        assert_eq!(reply.payload[26..32], lease.server_mac.0);
        // Who has no address yet is answered too, though not in person.
        let answer = Responder::new(lease).answer(&solicitation(Ipv6Addr::UNSPECIFIED, v6.server, 0));
        let reply = sent(&answer.reply.unwrap());
        assert_eq!((reply.to, reply.payload[4]), (ALL_NODES.into(), 0xa0));
    }

    #[test]
    fn for_no_other_address_and_where_it_is_no_router_for_none() {
        let lease = lease();
        let server = lease.v6.as_ref().unwrap().server;
        let other = "fe80::77".parse().unwrap();
        let ignored = Event::Ignored(Ignored::OtherProtocol);
        let answer = Responder::new(lease.clone()).answer(&solicitation(GUEST6_LOCAL, other, 0));
        assert_eq!((answer.reply, answer.event), (None, ignored.clone()));
        for change in [
            |v6: &mut crate::LeaseV6| v6.router_on_link = true,
            |v6: &mut crate::LeaseV6| v6.default_router = false,
        ] {
            let mut lease = lease.clone();
            change(lease.v6.as_mut().unwrap());
            let answer = Responder::new(lease).answer(&solicitation(GUEST6_LOCAL, server, 0));
            assert_eq!((answer.reply, answer.event), (None, ignored.clone()));
        }
        let answer = Responder::new(lease).answer(&solicitation(GUEST6_LOCAL, server, 1));
        assert!(
            matches!(answer.event, Event::Malformed { .. }),
            "{:?}",
            answer.event
        );
    }
}
