//! The content of a DHCPv4 reply: which options, in which order, and the header around them.
//!
//! Order: the message type and what RFC 2131 table 3 demands; then what the client's parameter request list names,
//! in its order (or, without a list, the options that every host uses); then the manifest's private options,
//! which a manifest would not set for a client that asks for them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::message::{self, CLIENT_ID, MAGIC, MESSAGE_TYPE, Message, PARAMETER_LIST, SEARCH, SERVER_ID};
use super::pack::{self, Item};
use crate::frame::IPV4_UDP;
use crate::lease::{LEASE_SECONDS, Lease, LeaseV4, Route4};
use crate::names;

const MASK: u8 = 1;
const ROUTER: u8 = 3;
const DNS: u8 = 6;
const DOMAIN: u8 = 15;
const MTU: u8 = 26;
const BROADCAST: u8 = 28;
const NTP: u8 = 42;
const LEASE_TIME: u8 = 51;
const RENEWAL: u8 = 58;
const REBINDING: u8 = 59;
const TFTP_SERVER: u8 = 66;
const BOOT_FILE: u8 = 67;
const IPV6_ONLY: u8 = 108;
const ROUTES: u8 = 121;
const ROUTES_MICROSOFT: u8 = 249;

/// The options that a manifest may set as it likes.
const PRIVATE: std::ops::RangeInclusive<u8> = 224..=254;

/// What a client gets that names no parameters. Option 121 is not among them: RFC 3442 leaves it to those who ask.
const UNASKED: [u8; 10] = [
    ROUTER,
    DNS,
    message::HOSTNAME,
    DOMAIN,
    MTU,
    BROADCAST,
    NTP,
    TFTP_SERVER,
    BOOT_FILE,
    SEARCH,
];

/// Everything before the options, and their cookie.
const HEADER: usize = 240;
/// BOOTP's message size, which some clients and relays still take for the least (RFC 1542 2.1).
const LEAST_MESSAGE: usize = 300;

/// The replies there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Offer,
    Acknowledge,
    /// DHCPACK to DHCPINFORM: parameters without an address.
    Inform,
    /// DHCPNAK.
    Refuse {
        wanted: Ipv4Addr,
    },
}

/// The message, or `None` if it cannot be made to fit the link.
pub(super) fn build(lease: &Lease, v4: &LeaseV4, request: &Message<'_>, reply: Reply) -> Option<Vec<u8>> {
    let datagram = usize::from(request.max_message().min(lease.mtu));
    let room = datagram.checked_sub(IPV4_UDP + HEADER)?;
    let items = items(lease, v4, request, reply);
    let displaced = [TFTP_SERVER, BOOT_FILE]
        .into_iter()
        .filter(|code| !matches!(reply, Reply::Refuse { .. }) && !items.iter().any(|item| item.code == *code))
        .filter_map(|code| parameter(lease, v4, code))
        .collect();
    let packed = pack::pack(items, displaced, room)?;

    let boot = !matches!(reply, Reply::Refuse { .. });
    let tftp = v4.tftp_server_name.as_deref().filter(|_| boot);
    let file = v4.boot_file_name.as_deref().filter(|_| boot);
    let yiaddr = match reply {
        Reply::Offer | Reply::Acknowledge => v4.address,
        Reply::Inform | Reply::Refuse { .. } => Ipv4Addr::UNSPECIFIED,
    };
    let ciaddr = match reply {
        Reply::Acknowledge | Reply::Inform => request.ciaddr,
        Reply::Offer | Reply::Refuse { .. } => Ipv4Addr::UNSPECIFIED,
    };
    // Network boot firmware takes the next server from here, not from option 66; a name it could not resolve.
    let siaddr = tftp
        .and_then(|name| name.parse().ok())
        .unwrap_or(Ipv4Addr::UNSPECIFIED);

    let mut out = Vec::with_capacity(HEADER + packed.options.len().max(LEAST_MESSAGE - HEADER));
    out.extend_from_slice(&[2, 1, 6, 0]);
    out.extend_from_slice(&request.xid.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    let flags = if matches!(reply, Reply::Refuse { .. }) {
        request.flags | 0x8000
    } else {
        request.flags
    };
    out.extend_from_slice(&flags.to_be_bytes());
    for address in [ciaddr, yiaddr, siaddr, Ipv4Addr::UNSPECIFIED] {
        out.extend_from_slice(&address.octets());
    }
    out.extend_from_slice(request.chaddr);
    field(&mut out, 64, packed.sname.as_deref(), tftp);
    field(&mut out, 128, packed.file.as_deref(), file);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&packed.options);
    // Padding must not take a reply over the size that was allowed.
    let padded = LEAST_MESSAGE.min(datagram - IPV4_UDP);
    if out.len() < padded {
        out.resize(padded, message::PAD);
    }
    Some(out)
}

/// A header field: options if they overflowed into it, else a NUL-terminated name if it fits.
fn field(out: &mut Vec<u8>, size: usize, options: Option<&[u8]>, name: Option<&str>) {
    let end = out.len() + size;
    let name = name
        .map(str::as_bytes)
        .filter(|name| name.len() < size && !name.contains(&0));
    out.extend_from_slice(options.or(name).unwrap_or_default());
    out.resize(end, 0);
}

fn items(lease: &Lease, v4: &LeaseV4, request: &Message<'_>, reply: Reply) -> Vec<Item> {
    const OFFER: u8 = 2;
    const ACK: u8 = 5;
    const NAK: u8 = 6;
    let kind = match reply {
        Reply::Offer => OFFER,
        Reply::Acknowledge | Reply::Inform => ACK,
        Reply::Refuse { .. } => NAK,
    };
    let mut items = vec![
        Item::new(MESSAGE_TYPE, [kind]),
        Item::new(SERVER_ID, v4.server.octets()),
    ];
    // RFC 6842: a client that identifies itself recognises its replies by that.
    items.extend(request.option(CLIENT_ID).map(|id| Item::new(CLIENT_ID, id)));
    match reply {
        // Nothing else may be in a DHCPNAK.
        Reply::Refuse { .. } => return items,
        Reply::Inform => {}
        Reply::Offer | Reply::Acknowledge => {
            items.push(Item::new(LEASE_TIME, LEASE_SECONDS.to_be_bytes()));
            items.push(Item::new(RENEWAL, (LEASE_SECONDS / 2).to_be_bytes()));
            items.push(Item::new(REBINDING, (LEASE_SECONDS / 8 * 7).to_be_bytes()));
        }
    }
    // Unasked too: an address is no use without it, and it has to stand before the routers (RFC 2132 3.3).
    items.push(Item::new(MASK, net(v4).netmask().octets()));

    let list = request.option(PARAMETER_LIST);
    let asked = list.unwrap_or(&UNASKED);
    let has_routes = [ROUTES, ROUTES_MICROSOFT]
        .into_iter()
        .any(|code| list.is_some_and(|list| list.contains(&code)) && parameter(lease, v4, code).is_some());
    for code in asked {
        if *code == ROUTER && has_routes || items.iter().any(|item| item.code == *code) {
            continue;
        }
        items.extend(parameter(lease, v4, *code));
    }
    for (code, _) in v4.private_options.range(PRIVATE) {
        if !items.iter().any(|item| item.code == *code) {
            items.extend(parameter(lease, v4, *code));
        }
    }
    items
}

/// The lease's value for an option, if it has one.
fn parameter(lease: &Lease, v4: &LeaseV4, code: u8) -> Option<Item> {
    let addresses = |list: &[Ipv4Addr]| list.iter().flat_map(Ipv4Addr::octets).collect::<Vec<u8>>();
    let private = v4.private_options.get(&code).filter(|_| PRIVATE.contains(&code));
    let data = match code {
        ROUTER => addresses(&v4.routers),
        DNS => addresses(&v4.dns),
        NTP => addresses(&v4.ntp_servers),
        message::HOSTNAME => name(lease.hostname.as_deref())?,
        DOMAIN => name(lease.domain.as_deref())?,
        // RFC 2132 5.1 knows no smaller one.
        MTU if lease.mtu >= 68 => lease.mtu.to_be_bytes().to_vec(),
        BROADCAST if v4.prefix_len <= 30 => broadcast(v4).octets().to_vec(),
        TFTP_SERVER => v4.tftp_server_name.clone()?.into_bytes(),
        BOOT_FILE => v4.boot_file_name.clone()?.into_bytes(),
        IPV6_ONLY if lease.v6.is_some() => v4.ipv6_only_wait?.to_be_bytes().to_vec(),
        SEARCH => names::compressed(names::readable(&lease.search)),
        // A manifest that sets Microsoft's option itself means it.
        _ if private.is_some() => private.cloned()?,
        // Otherwise it has the format of RFC 3442 and predates its number. Who knows both gets both: an old
        // client that asks for the standard one may still read only its own.
        ROUTES | ROUTES_MICROSOFT => classless_routes(v4),
        _ => return None,
    };
    // An option without a value says nothing, unless the manifest wants it so.
    (!data.is_empty() || private.is_some()).then_some(Item { code, data })
}

/// A name as RFC 2132 wants it, or nothing if it is none.
fn name(name: Option<&str>) -> Option<Vec<u8>> {
    let name = name?;
    names::encode(name).map(|_| name.strip_suffix('.').unwrap_or(name).as_bytes().to_vec())
}

/// Option 121 (RFC 3442), the default route among the others: who reads this option ignores option 3. The default
/// route comes last, so that a router outside the subnet is reachable by the time it is used.
fn classless_routes(v4: &LeaseV4) -> Vec<u8> {
    let default = Ipv4Net::default();
    let by_router = v4
        .routers
        .first()
        .filter(|_| v4.routes.iter().all(|route| route.destination.prefix_len() != 0))
        .map(|router| Route4 {
            destination: default,
            via: *router,
        });
    let mut data = Vec::new();
    for route in v4.routes.iter().copied().chain(by_router) {
        let len = route.destination.prefix_len();
        let significant = usize::from(len.div_ceil(8));
        data.push(len);
        data.extend(route.destination.network().octets().into_iter().take(significant));
        data.extend_from_slice(&route.via.octets());
    }
    data
}

fn net(v4: &LeaseV4) -> Ipv4Net {
    Ipv4Net::new(v4.address, v4.prefix_len).unwrap_or_else(|_| v4.address.into())
}

/// The subnet's broadcast address.
pub(super) fn broadcast(v4: &LeaseV4) -> Ipv4Addr {
    net(v4).broadcast()
}
