//! DHCPv4 (RFC 2131): a client's message in, at most one reply out.
//!
//! The server keeps no bindings: the address is the guest's by definition, before the first DISCOVER and after a
//! RELEASE or DECLINE. So every message can be judged by itself, and the target of a migration judges it as the
//! source would have.

mod message;
mod offer;
mod pack;

use std::net::Ipv4Addr;

use hawser_mac::Mac;

use crate::bytes::printable;
use crate::event::{Dhcp4, Dhcp4Outcome, Event, Ignored, Protocol};
use crate::frame::{self, Ends};
use crate::lease::{Lease, LeaseV4};

use message::{Kind, Message};
use offer::Reply;

const BROADCAST_MAC: Mac = Mac([0xff; 6]);

/// Answers one DHCPv4 message that came over UDP.
pub(crate) fn answer(
    lease: &Lease,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    bytes: &[u8],
) -> (Option<Vec<u8>>, Event) {
    let Some(v4) = &lease.v4 else {
        return (None, Event::Ignored(Ignored::NoLease));
    };
    let message = match Message::parse(bytes, lease.guest_mac) {
        Ok(message) => message,
        Err(event) => return (None, event),
    };
    if !(destination.is_broadcast() || destination == v4.server || destination == offer::broadcast(v4)) {
        return (None, Event::Ignored(Ignored::OtherServer));
    }
    let (request, verdict) = match judge(v4, destination, &message) {
        Ok(judged) => judged,
        Err(event) => return (None, event),
    };
    let (frame, outcome) = match verdict {
        Verdict::NoReply(outcome) => (None, outcome),
        Verdict::Reply(reply) => {
            let to = addressee(lease, v4, source, &message, reply);
            let frame = offer::build(lease, v4, &message, reply).and_then(|payload| {
                frame::dhcp4(
                    Ends {
                        from: (lease.server_mac, v4.server),
                        to,
                    },
                    &payload,
                )
            });
            let outcome = match reply {
                _ if frame.is_none() => Dhcp4Outcome::TooLarge,
                Reply::Offer => Dhcp4Outcome::Offered(v4.address),
                Reply::Acknowledge => Dhcp4Outcome::Acknowledged(Some(v4.address)),
                Reply::Inform => Dhcp4Outcome::Acknowledged(None),
                Reply::Refuse { wanted } => Dhcp4Outcome::Refused(wanted),
            };
            (frame, outcome)
        }
    };
    let hostname = message.option(message::HOSTNAME).map(printable);
    let vendor = message.option(message::VENDOR_CLASS).map(printable);
    (
        frame,
        Event::Dhcp4 {
            request,
            outcome,
            hostname,
            vendor,
        },
    )
}

enum Verdict {
    Reply(Reply),
    NoReply(Dhcp4Outcome),
}

fn malformed(why: &'static str) -> Event {
    Event::Malformed {
        protocol: Protocol::Dhcp4,
        why,
    }
}

/// What the message deserves: RFC 2131 section 4.3, kind by kind.
fn judge(v4: &LeaseV4, destination: Ipv4Addr, message: &Message<'_>) -> Result<(Dhcp4, Verdict), Event> {
    let meant_for_another = message.server_id()?.is_some_and(|id| id != v4.server);
    let requested = message.requested_address()?;
    let claimed = Some(message.ciaddr).filter(|address| !address.is_unspecified());
    let judged = match message.kind {
        Kind::Discover => (Dhcp4::Discover, Verdict::Reply(Reply::Offer)),
        // Another server's offer was taken: ours is withdrawn without a word (3.1, step 4).
        Kind::Request | Kind::Decline | Kind::Release if meant_for_another => {
            return Err(Event::Ignored(Ignored::OtherServer));
        }
        Kind::Request => {
            // Table 4 tells the states apart by these fields and nothing else.
            let (state, wanted) = match (message.server_id()?, requested, claimed) {
                (Some(_), Some(wanted), _) => (Dhcp4::Selecting, wanted),
                // Not allowed, but clients do it, and what they mean is clear.
                (Some(_), None, Some(wanted)) => (Dhcp4::Renewing, wanted),
                (None, _, Some(wanted)) if destination == v4.server => (Dhcp4::Renewing, wanted),
                (None, _, Some(wanted)) => (Dhcp4::Rebinding, wanted),
                (None, Some(wanted), None) => (Dhcp4::InitReboot, wanted),
                (_, None, None) => return Err(malformed("request without an address")),
            };
            let reply = if wanted == v4.address {
                Reply::Acknowledge
            } else {
                Reply::Refuse { wanted }
            };
            (state, Verdict::Reply(reply))
        }
        Kind::Decline => {
            let address = requested.ok_or_else(|| malformed("decline without an address"))?;
            (Dhcp4::Decline, Verdict::NoReply(Dhcp4Outcome::Declined(address)))
        }
        Kind::Release => (
            Dhcp4::Release,
            Verdict::NoReply(Dhcp4Outcome::Released(message.ciaddr)),
        ),
        Kind::Inform => (Dhcp4::Inform, Verdict::Reply(Reply::Inform)),
    };
    Ok(judged)
}

/// Where the reply goes (RFC 2131 4.1), relays being out of the question.
fn addressee(
    lease: &Lease,
    v4: &LeaseV4,
    source: Ipv4Addr,
    message: &Message<'_>,
    reply: Reply,
) -> (Mac, Ipv4Addr) {
    let everyone = (BROADCAST_MAC, Ipv4Addr::BROADCAST);
    let usable = |address: &Ipv4Addr| {
        !(address.is_unspecified()
            || address.is_broadcast()
            || address.is_multicast()
            || address.is_loopback())
    };
    match reply {
        // The client may not be able to receive on the address it is refused.
        Reply::Refuse { .. } => everyone,
        // The asker has an address of its own choice; some leave it out of the message but send from it.
        Reply::Inform => match [message.ciaddr, source].into_iter().find(usable) {
            Some(address) => (lease.guest_mac, address),
            None => everyone,
        },
        Reply::Acknowledge if message.ciaddr == v4.address => (lease.guest_mac, v4.address),
        Reply::Offer | Reply::Acknowledge if message.broadcast => everyone,
        Reply::Offer | Reply::Acknowledge => (lease.guest_mac, v4.address),
    }
}

#[cfg(test)]
mod tests;
