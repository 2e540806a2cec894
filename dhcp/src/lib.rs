//! DHCPv4, DHCPv6 and router advertisements for one guest.
//!
//! The path of a message is a straight line: an Ethernet frame comes in, [`Responder::answer`] checks it and
//! turns it into at most one reply frame and one [`Event`] to log, and [`serve`] does the reading, writing and
//! timing around that. Everything but `serve` is pure: the same frame and the same [`Lease`] give the same
//! reply, so a migrated guest is answered by the target exactly as by the source, with no state to carry.
//!
//! Why no `dhcproto` on the guest-facing path: version 0.15 panics on a hardware length over 16, overflows on
//! malformed lengths, stops silently at the first bad option, does not check the magic cookie, and neither
//! joins split options nor keeps the order in which options are written. What is left of it after guarding all
//! that is less than the guard. Requests are therefore read by a strict walk of our own and replies are written
//! option by option; `dhcproto` is the independent decoder that the tests check every reply with.

mod announce;
mod bucket;
mod bytes;
mod event;
mod frame;
mod lease;
mod names;
mod nd;
mod ra;
mod responder;
mod server;
mod v4;
mod v6;

#[cfg(test)]
mod testing;

pub use announce::announcements;
pub use event::{Dhcp4, Dhcp4Outcome, Dhcp6, Dhcp6Outcome, Event, Ignored, Protocol};
pub use hawser_mac::Mac;
pub use lease::{LEASE_SECONDS, Lease, LeaseV4, LeaseV6, Route4};
pub use responder::{Answer, Responder};
pub use server::{Error, serve};
