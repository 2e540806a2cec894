//! DHCPv6 (RFC 9915, which obsoletes RFC 8415): a client's message in, at most one reply out.
//!
//! No bindings are kept. There is one address, it is the guest's by definition, and the identity association (IA)
//! that holds it is the one that the guest says holds it, or else its first. A renewal is therefore never refused
//! for want of a record, and the target of a migration answers as the source would have.

mod message;
mod reply;

use std::net::Ipv6Addr;

use crate::event::{Dhcp6, Dhcp6Outcome, Event, Ignored, Protocol};
use crate::frame::{self, Ends, IPV6_UDP};
use crate::lease::Lease;

use message::Message;
use reply::Answered;

const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// The server's DUID, a DUID-LL (RFC 9915 11.4): from the lease alone, so that it survives a migration.
fn duid(lease: &Lease) -> [u8; 10] {
    const LINK_LAYER: [u8; 4] = [0, 3, 0, 1];
    let mut duid = [0; 10];
    let bytes = LINK_LAYER.into_iter().chain(lease.server_mac.0);
    for (to, from) in duid.iter_mut().zip(bytes) {
        *to = from;
    }
    duid
}

/// Answers one DHCPv6 message that came over UDP.
pub(crate) fn answer(
    lease: &Lease,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    bytes: &[u8],
) -> (Option<Vec<u8>>, Event) {
    let Some(v6) = &lease.v6 else {
        return (None, Event::Ignored(Ignored::NoLease));
    };
    // RFC 9915 took the Server Unicast option away, so no client has leave to write to a server alone.
    if destination != SERVERS {
        return (None, Event::Ignored(Ignored::Unicast));
    }
    if !source.is_unicast_link_local() {
        let why = "source is not a link-local address";
        return (
            None,
            Event::Malformed {
                protocol: Protocol::Dhcp6,
                why,
            },
        );
    }
    let server = duid(lease);
    let judged = Message::parse(bytes).and_then(|message| {
        let request = validate(&message, &server)?;
        Ok((reply::build(lease, v6, &server, request, &message), request))
    });
    let (answered, request) = match judged {
        Ok(judged) => judged,
        Err(event) => return (None, event),
    };
    let Some(Answered { mut message, outcome }) = answered else {
        return (None, Event::Ignored(Ignored::Unanswerable));
    };
    let room = usize::from(lease.mtu).saturating_sub(IPV6_UDP);
    let ends = Ends {
        from: (lease.server_mac, v6.server),
        to: (lease.guest_mac, source),
    };
    match message.fit(room).and_then(|bytes| frame::dhcp6(ends, bytes)) {
        Some(frame) => (Some(frame), Event::Dhcp6 { request, outcome }),
        None => (
            None,
            Event::Dhcp6 {
                request,
                outcome: Dhcp6Outcome::TooLarge,
            },
        ),
    }
}

/// The rules of RFC 9915 section 16: which message must, may and must not name whom.
fn validate(message: &Message<'_>, server: &[u8]) -> Result<Dhcp6, Event> {
    let malformed = |why| {
        Err(Event::Malformed {
            protocol: Protocol::Dhcp6,
            why,
        })
    };
    let request = message.kind;
    if message.client_id.is_none() && request != Dhcp6::InformationRequest {
        return malformed("no client identifier");
    }
    match (request, message.server_id) {
        (Dhcp6::Solicit | Dhcp6::Confirm | Dhcp6::Rebind, Some(_)) => {
            return malformed("server identifier in a message to all servers");
        }
        (Dhcp6::Solicit | Dhcp6::Confirm | Dhcp6::Rebind | Dhcp6::InformationRequest, None) => {}
        (_, None) => return malformed("no server identifier"),
        (_, Some(id)) if id != server => return Err(Event::Ignored(Ignored::OtherServer)),
        (_, Some(_)) => {}
    }
    if request == Dhcp6::InformationRequest && !message.ias.is_empty() {
        return malformed("identity association in an information request");
    }
    Ok(request)
}

#[cfg(test)]
mod tests;
