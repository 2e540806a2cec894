//! The content of a DHCPv6 reply (RFC 9915 18.3), option by option.

use std::net::Ipv6Addr;

use super::message::{
    CLIENT_ID, IA_ADDRESS, IA_NA, IA_PD, IA_PREFIX, IA_TA, Ia, IaKind, Message, RAPID_COMMIT, SERVER_ID,
    STATUS,
};
use crate::event::{Dhcp6, Dhcp6Outcome};
use crate::lease::{LEASE_SECONDS, Lease, LeaseV6};
use crate::names;

const ADVERTISE: u8 = 2;
const REPLY: u8 = 7;

const PREFERENCE: u16 = 7;
const DNS: u16 = 23;
const SEARCH: u16 = 24;
const SOL_MAX_RT: u16 = 82;
const INF_MAX_RT: u16 = 83;

/// Bytes of an option before its data.
const HEADER: usize = 4;

/// Seconds between a client's last retries: the least that RFC 9915 21.24 allows. Its defaults spare servers with
/// many clients; here one guest waits for one server that may just be restarting.
const MAX_RT: u32 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Success = 0,
    NoAddrsAvail = 2,
    NoBinding = 3,
    NotOnLink = 4,
    NoPrefixAvail = 6,
}

/// A reply that has yet to be fitted to the link.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) message: Writer,
    pub(super) outcome: Dhcp6Outcome,
}

/// A reply as it is written: what it must hold, and what it may go without, most important first.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    optional: Vec<(u16, Vec<u8>)>,
}

impl Writer {
    fn new(lease: &Lease, server: &[u8], kind: u8, request: &Message<'_>) -> Self {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&request.transaction);
        let mut writer = Self {
            bytes,
            optional: parameters(lease, &request.requested),
        };
        if let Some(id) = request.client_id {
            option(&mut writer.bytes, CLIENT_ID, id);
        }
        option(&mut writer.bytes, SERVER_ID, server);
        writer
    }

    /// The message in at most `room` bytes: optional parts are left out from the least important on.
    pub(super) fn fit(&mut self, room: usize) -> Option<&[u8]> {
        let mut free = room.checked_sub(self.bytes.len())?;
        for (code, data) in self.optional.drain(..) {
            let most = free.saturating_sub(HEADER);
            let whole = data.len() <= most;
            let data = match code {
                SEARCH if !whole => names::first(&data, most),
                _ if !whole => break,
                _ => &data,
            };
            if !data.is_empty() {
                option(&mut self.bytes, code, data);
                free = most.saturating_sub(data.len());
            }
            // Nothing less important takes the room of what did not fit.
            if !whole {
                break;
            }
        }
        Some(&self.bytes)
    }
}

fn option(out: &mut Vec<u8>, code: u16, data: &[u8]) {
    // Longer than an option can be is longer than any packet here: the limits on requests see to that.
    let Ok(len) = u16::try_from(data.len()) else {
        return;
    };
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(data);
}

fn status(out: &mut Vec<u8>, status: Status, text: &str) {
    option(
        out,
        STATUS,
        &[&(status as u16).to_be_bytes()[..], text.as_bytes()].concat(),
    );
}

/// The configuration that the client asks for by its option request option.
fn parameters(lease: &Lease, requested: &[u16]) -> Vec<(u16, Vec<u8>)> {
    let dns = || {
        lease
            .v6
            .iter()
            .flat_map(|v6| &v6.dns)
            .flat_map(Ipv6Addr::octets)
            .collect::<Vec<u8>>()
    };
    let known = [DNS, SEARCH, SOL_MAX_RT, INF_MAX_RT];
    known
        .into_iter()
        .filter(|code| requested.contains(code))
        .map(|code| match code {
            DNS => (code, dns()),
            SEARCH => (code, names::list(names::readable(&lease.search))),
            _ => (code, MAX_RT.to_be_bytes().to_vec()),
        })
        .filter(|(_, data)| !data.is_empty())
        .collect()
}

/// The reply to a valid message; `None` where RFC 9915 wants silence.
pub(super) fn build(
    lease: &Lease,
    v6: &LeaseV6,
    server: &[u8],
    request: Dhcp6,
    message: &Message<'_>,
) -> Option<Answered> {
    let reply = || Writer::new(lease, server, REPLY, message);
    let answered = match request {
        Dhcp6::Solicit if !message.rapid_commit => {
            let mut out = Writer::new(lease, server, ADVERTISE, message);
            // There is no other server to wait for (18.2.1).
            option(&mut out.bytes, PREFERENCE, &[255]);
            let address = assign(v6, request, message, &mut out).address();
            Answered {
                message: out,
                outcome: Dhcp6Outcome::Advertised(address),
            }
        }
        Dhcp6::Solicit | Dhcp6::Request | Dhcp6::Renew | Dhcp6::Rebind => {
            let mut out = reply();
            if request == Dhcp6::Solicit {
                option(&mut out.bytes, RAPID_COMMIT, &[]);
            }
            let outcome = match assign(v6, request, message, &mut out) {
                Assigned::NotOnLink => Dhcp6Outcome::NotOnLink,
                assigned => Dhcp6Outcome::Replied(assigned.address()),
            };
            Answered {
                message: out,
                outcome,
            }
        }
        Dhcp6::Confirm => confirm(v6, message, reply())?,
        Dhcp6::Release | Dhcp6::Decline => {
            let mut out = reply();
            give_back(v6, message, &mut out);
            let outcome = if request == Dhcp6::Release {
                Dhcp6Outcome::Released
            } else {
                Dhcp6Outcome::Declined
            };
            Answered {
                message: out,
                outcome,
            }
        }
        Dhcp6::InformationRequest => Answered {
            message: reply(),
            outcome: Dhcp6Outcome::Replied(None),
        },
    };
    Some(answered)
}

fn on_link(v6: &LeaseV6, address: &Ipv6Addr) -> bool {
    *address == v6.address || v6.on_link.is_some_and(|net| net.contains(address))
}

/// 18.3.3: whether all the addresses that the guest remembers belong here. One that lists none asks nothing.
fn confirm(v6: &LeaseV6, message: &Message<'_>, mut out: Writer) -> Option<Answered> {
    let mut addresses = message.ias.iter().flat_map(|ia| &ia.addresses).peekable();
    addresses.peek()?;
    let outcome = if addresses.all(|address| on_link(v6, address)) {
        status(&mut out.bytes, Status::Success, "");
        Dhcp6Outcome::OnLink
    } else {
        status(&mut out.bytes, Status::NotOnLink, "");
        Dhcp6Outcome::NotOnLink
    };
    Some(Answered {
        message: out,
        outcome,
    })
}

/// 18.3.7 and 18.3.8: success as a whole, and a word on each association that holds nothing of ours.
fn give_back(v6: &LeaseV6, message: &Message<'_>, out: &mut Writer) {
    status(&mut out.bytes, Status::Success, "");
    for ia in &message.ias {
        let ours = ia.kind == IaKind::Addresses && ia.addresses.contains(&v6.address);
        if !ours {
            association(&mut out.bytes, ia, (0, 0), |out| {
                status(out, Status::NoBinding, "")
            });
        }
    }
}

/// What became of the guest's wish for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Assigned {
    Address(Ipv6Addr),
    NotOnLink,
    NotAsked,
}

impl Assigned {
    fn address(self) -> Option<Ipv6Addr> {
        match self {
            Self::Address(address) => Some(address),
            Self::NotOnLink | Self::NotAsked => None,
        }
    }
}

/// 18.3.1, 18.3.2, 18.3.4 and 18.3.5: an answer to each identity association.
fn assign(v6: &LeaseV6, request: Dhcp6, message: &Message<'_>, out: &mut Writer) -> Assigned {
    let extending = matches!(request, Dhcp6::Renew | Dhcp6::Rebind);
    let mut candidates = message.ias.iter().filter(|ia| ia.kind == IaKind::Addresses);
    let holder = candidates
        .clone()
        .find(|ia| ia.addresses.contains(&v6.address))
        .or(candidates.next());
    let mut assigned = Assigned::NotAsked;
    for ia in &message.ias {
        let bytes = &mut out.bytes;
        if holder.is_some_and(|holder| std::ptr::eq(holder, ia)) {
            if request == Dhcp6::Request && !ia.addresses.iter().all(|address| on_link(v6, address)) {
                association(bytes, ia, (0, 0), |out| status(out, Status::NotOnLink, ""));
                assigned = Assigned::NotOnLink;
                continue;
            }
            association(bytes, ia, (LEASE_SECONDS / 2, LEASE_SECONDS / 5 * 4), |out| {
                address(out, v6.address, LEASE_SECONDS);
                if extending {
                    void(out, ia, v6.address);
                }
            });
            assigned = Assigned::Address(v6.address);
            continue;
        }
        let holds_something = !(ia.addresses.is_empty() && ia.prefixes.is_empty());
        association(bytes, ia, (0, 0), |out| match ia.kind {
            // Lifetimes of zero make the guest drop at once what is not its own.
            _ if extending && holds_something => {
                void(out, ia, v6.address);
                status(out, Status::NoBinding, "");
            }
            IaKind::Addresses => status(out, Status::NoAddrsAvail, "the guest has one address"),
            IaKind::TemporaryAddresses => status(out, Status::NoAddrsAvail, "no temporary addresses"),
            IaKind::Prefixes => status(out, Status::NoPrefixAvail, "no prefixes"),
        });
    }
    assigned
}

/// One IA_NA, IA_TA or IA_PD, with the T1 and T2 given (IA_TA has none) and what `inside` writes.
fn association(out: &mut Vec<u8>, ia: &Ia, (t1, t2): (u32, u32), inside: impl FnOnce(&mut Vec<u8>)) {
    let mut data = ia.id.to_vec();
    let code = match ia.kind {
        IaKind::Addresses => IA_NA,
        IaKind::TemporaryAddresses => IA_TA,
        IaKind::Prefixes => IA_PD,
    };
    if code != IA_TA {
        data.extend_from_slice(&t1.to_be_bytes());
        data.extend_from_slice(&t2.to_be_bytes());
    }
    inside(&mut data);
    option(out, code, &data);
}

fn address(out: &mut Vec<u8>, address: Ipv6Addr, lifetime: u32) {
    let mut data = address.octets().to_vec();
    data.extend_from_slice(&lifetime.to_be_bytes());
    data.extend_from_slice(&lifetime.to_be_bytes());
    option(out, IA_ADDRESS, &data);
}

/// The leases that an association lists and that are not the guest's, all with lifetimes of zero.
fn void(out: &mut Vec<u8>, ia: &Ia, own: Ipv6Addr) {
    for listed in ia.addresses.iter().filter(|listed| **listed != own) {
        address(out, *listed, 0);
    }
    for (len, prefix) in &ia.prefixes {
        let mut data = vec![0; 8];
        data.push(*len);
        data.extend_from_slice(&prefix.octets());
        option(out, IA_PREFIX, &data);
    }
}
