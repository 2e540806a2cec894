//! Router advertisements (RFC 4861, RFC 8106): pure, from a lease to a frame.
//!
//! Without them a guest has no IPv6 default route, and does not start DHCPv6 at all if it waits for the managed
//! flag. The prefix is announced as on-link only, never for autoconfiguration: the one address that is forwarded
//! to the guest is the one of its lease.

use std::net::Ipv6Addr;

use hawser_mac::Mac;

use crate::bytes::Reader;
use crate::event::{Event, Ignored, Protocol};
use crate::frame::{self, Ends};
use crate::lease::{Lease, LeaseV6};
use crate::names;

const ROUTER_ADVERTISEMENT: u8 = 134;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

/// Seconds that the default route and the DNS servers stay valid: the most that RFC 4861 allows. There is no
/// second router to fail over to, so a short lifetime would only cost the guest its route while the host stalls.
const ROUTER_LIFETIME: u16 = 9000;
/// Seconds that the on-link prefix stays valid, and preferred: the defaults of RFC 4861 6.2.1.
const PREFIX_VALID: u32 = 30 * 24 * 3600;
const PREFIX_PREFERRED: u32 = 7 * 24 * 3600;
/// An ICMPv6 header, and the fields of an advertisement after it.
const FIXED: usize = 16;
/// Of those, what the body begins with.
const TIMERS: usize = 8;
/// Bytes of names in one option of an advertisement, so that a client that cannot read a long one still reads the first.
const NAMES: usize = 512;
/// The least that an IPv6 link carries (RFC 8200 5).
const LEAST_MTU: u16 = 1280;

/// Answers a router solicitation, the checksum and hop limit of which are known to be right.
pub(crate) fn answer(lease: &Lease, source: Ipv6Addr, message: &[u8]) -> (Option<Vec<u8>>, Event) {
    let Some(v6) = &lease.v6 else {
        return (None, Event::Ignored(Ignored::NoLease));
    };
    if let Err(why) = check(source, message) {
        return (
            None,
            Event::Malformed {
                protocol: Protocol::RouterSolicitation,
                why,
            },
        );
    }
    let unicast = !source.is_unspecified();
    let to = if unicast {
        (lease.guest_mac, source)
    } else {
        (ALL_NODES_MAC, ALL_NODES)
    };
    (build(lease, v6, to), Event::RouterSolicitation { unicast })
}

/// The unsolicited advertisement, to all nodes.
pub(crate) fn unsolicited(lease: &Lease) -> Option<Vec<u8>> {
    lease
        .v6
        .as_ref()
        .and_then(|v6| build(lease, v6, (ALL_NODES_MAC, ALL_NODES)))
}

/// The rules of RFC 4861 6.1.1.
fn check(source: Ipv6Addr, message: &[u8]) -> Result<(), &'static str> {
    const SOURCE_LINK_LAYER: u8 = 1;
    if source.is_multicast() {
        return Err("multicast source");
    }
    let mut reader = Reader::new(message);
    let (Some(_type), Some(code), Some(_rest)) = (reader.u8(), reader.u8(), reader.take(6)) else {
        return Err("shorter than 8 bytes");
    };
    if code != 0 {
        return Err("code is not 0");
    }
    while !reader.is_empty() {
        let (Some(kind), Some(eights)) = (reader.u8(), reader.u8()) else {
            return Err("truncated option");
        };
        let Some(rest) = (usize::from(eights) * 8).checked_sub(2) else {
            return Err("option of length 0");
        };
        if reader.take(rest).is_none() {
            return Err("truncated option");
        }
        if kind == SOURCE_LINK_LAYER && source.is_unspecified() {
            return Err("link-layer address from the unspecified address");
        }
    }
    Ok(())
}

fn build(lease: &Lease, v6: &LeaseV6, to: (Mac, Ipv6Addr)) -> Option<Vec<u8>> {
    const MANAGED_AND_OTHER: u8 = 0xc0;
    const HOP_LIMIT: u8 = 64;
    let lifetime = if v6.default_router { ROUTER_LIFETIME } else { 0 };
    let [high, low] = lifetime.to_be_bytes();
    let head = [HOP_LIMIT, MANAGED_AND_OTHER, high, low];
    let room = usize::from(lease.mtu.max(LEAST_MTU)) - etherparse::Ipv6Header::LEN - FIXED + TIMERS;
    let mut body = vec![0; TIMERS]; // reachable time and retransmission timer: not ours to say
    let option = |body: &mut Vec<u8>, kind: u8, data: &[u8]| {
        // The length counts units of eight bytes, the two of type and length included.
        let eights = (data.len() + 2).div_ceil(8);
        if let (Ok(len), true) = (u8::try_from(eights), body.len() + eights * 8 <= room) {
            body.extend_from_slice(&[kind, len]);
            body.extend_from_slice(data);
            body.resize(body.len() + eights * 8 - data.len() - 2, 0);
        }
    };
    if !v6.router_on_link {
        option(&mut body, 1, &lease.server_mac.0);
    }
    if lease.mtu >= LEAST_MTU {
        option(
            &mut body,
            5,
            &[&[0, 0][..], &u32::from(lease.mtu).to_be_bytes()].concat(),
        );
    }
    if let Some(net) = v6.on_link {
        const ON_LINK: u8 = 0x80;
        let mut data = vec![net.prefix_len(), ON_LINK];
        data.extend_from_slice(&PREFIX_VALID.to_be_bytes());
        data.extend_from_slice(&PREFIX_PREFERRED.to_be_bytes());
        data.extend_from_slice(&[0; 4]);
        data.extend_from_slice(&net.network().octets());
        option(&mut body, 3, &data);
    }
    // Servers and names come in chunks of their own option, so that what does not fit is the least significant.
    for dns in v6.dns.chunks(4) {
        let mut data = dns_head();
        data.extend(dns.iter().flat_map(Ipv6Addr::octets));
        option(&mut body, 25, &data);
    }
    let all = names::list(&lease.search);
    let mut rest = all.as_slice();
    loop {
        let list = names::first(rest, NAMES.min(room_for_names(&body, room)));
        if list.is_empty() {
            break;
        }
        option(&mut body, 31, &[&dns_head()[..], list].concat());
        rest = rest.get(list.len()..).unwrap_or_default();
    }
    let ends = Ends {
        from: (lease.server_mac, v6.server),
        to,
    };
    frame::icmpv6(ends, ROUTER_ADVERTISEMENT, head, &body)
}

/// Bytes of names in one more option, in whole units.
fn room_for_names(body: &[u8], room: usize) -> usize {
    let left = room.saturating_sub(body.len()) / 8 * 8;
    left.saturating_sub(2 + dns_head().len())
}

/// What RDNSS and DNSSL options begin with (RFC 8106 5.1, 5.2): two reserved bytes and the lifetime.
fn dns_head() -> Vec<u8> {
    [&[0, 0][..], &u32::from(ROUTER_LIFETIME).to_be_bytes()].concat()
}

#[cfg(test)]
mod tests;
