//! A strict reader of DHCPv4 messages: the fixed header by its rules, options by their lengths.
//!
//! A message with a malformed option is refused as a whole. Options may be spread over `file` and `sname` (option
//! 52) and split over several instances, which are joined in the order of RFC 3396: options, file, sname.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use hawser_mac::Mac;

use crate::bytes::Reader;
use crate::event::{Event, Ignored, Protocol};

pub(super) const MAGIC: [u8; 4] = [99, 130, 83, 99];
pub(super) const PAD: u8 = 0;
pub(super) const HOSTNAME: u8 = 12;
pub(super) const REQUESTED_ADDRESS: u8 = 50;
pub(super) const OVERLOAD: u8 = 52;
pub(super) const MESSAGE_TYPE: u8 = 53;
pub(super) const SERVER_ID: u8 = 54;
pub(super) const PARAMETER_LIST: u8 = 55;
pub(super) const MAX_MESSAGE: u8 = 57;
pub(super) const VENDOR_CLASS: u8 = 60;
pub(super) const CLIENT_ID: u8 = 61;
pub(super) const END: u8 = 255;
/// Domain search (RFC 3397).
pub(super) const SEARCH: u8 = 119;

/// The options that are looked at; all others are only walked over, so a message cannot make us store much.
const WANTED: [u8; 9] = [
    HOSTNAME,
    REQUESTED_ADDRESS,
    OVERLOAD,
    MESSAGE_TYPE,
    SERVER_ID,
    PARAMETER_LIST,
    MAX_MESSAGE,
    VENDOR_CLASS,
    CLIENT_ID,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Discover,
    Request,
    Decline,
    Release,
    Inform,
}

/// A client's message that follows the rules of its fixed header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: Kind,
    pub(super) xid: u32,
    pub(super) flags: u16,
    pub(super) broadcast: bool,
    pub(super) ciaddr: Ipv4Addr,
    /// The 16 bytes as they came, to be sent back as they came.
    pub(super) chaddr: &'a [u8],
    options: BTreeMap<u8, Vec<u8>>,
}

fn malformed(why: &'static str) -> Event {
    Event::Malformed {
        protocol: Protocol::Dhcp4,
        why,
    }
}

impl<'a> Message<'a> {
    pub(super) fn parse(bytes: &'a [u8], guest_mac: Mac) -> Result<Self, Event> {
        const REQUEST: u8 = 1;
        const REPLY: u8 = 2;
        const ETHERNET: u8 = 1;
        let short = || malformed("shorter than its fixed header");
        let mut reader = Reader::new(bytes);
        let [op, htype, hlen, _hops] = reader.array::<4>().ok_or_else(short)?;
        let xid = reader.u32().ok_or_else(short)?;
        let _secs = reader.u16().ok_or_else(short)?;
        let flags = reader.u16().ok_or_else(short)?;
        let ciaddr = Ipv4Addr::from(reader.u32().ok_or_else(short)?);
        let _yiaddr_siaddr = reader.take(8).ok_or_else(short)?;
        let giaddr = Ipv4Addr::from(reader.u32().ok_or_else(short)?);
        let chaddr = reader.take(16).ok_or_else(short)?;
        let sname = reader.take(64).ok_or_else(short)?;
        let file = reader.take(128).ok_or_else(short)?;
        match op {
            REQUEST => {}
            REPLY => return Err(Event::Ignored(Ignored::ServerMessage)),
            _ => return Err(malformed("op is neither request nor reply")),
        }
        if htype != ETHERNET || usize::from(hlen) != guest_mac.0.len() {
            return Err(malformed("hardware address is not an Ethernet one"));
        }
        if !chaddr.starts_with(&guest_mac.0) {
            return Err(Event::Ignored(Ignored::ForeignMac));
        }
        if !giaddr.is_unspecified() {
            return Err(Event::Ignored(Ignored::Relayed));
        }
        // BOOTP had other vendor fields, or none, in the place of options.
        if reader.array() != Some(MAGIC) {
            return Err(Event::Ignored(Ignored::Bootp));
        }
        let mut options = BTreeMap::new();
        walk(reader.rest(), &mut options)?;
        match options.get(&OVERLOAD).map(Vec::as_slice) {
            None => {}
            Some([1]) => walk(file, &mut options)?,
            Some([2]) => walk(sname, &mut options)?,
            Some([3]) => {
                walk(file, &mut options)?;
                walk(sname, &mut options)?;
            }
            Some(_) => return Err(malformed("bad overload option")),
        }
        let kind = match options.get(&MESSAGE_TYPE).map(Vec::as_slice) {
            None => return Err(Event::Ignored(Ignored::Bootp)),
            Some([1]) => Kind::Discover,
            Some([3]) => Kind::Request,
            Some([4]) => Kind::Decline,
            Some([7]) => Kind::Release,
            Some([8]) => Kind::Inform,
            Some([2 | 5 | 6]) => return Err(Event::Ignored(Ignored::ServerMessage)),
            Some(_) => return Err(malformed("unknown message type")),
        };
        // 255 is what one option holds; a longer one would only serve to crowd everything else out of the reply.
        if options
            .get(&CLIENT_ID)
            .is_some_and(|id| id.is_empty() || id.len() > 255)
        {
            return Err(malformed("bad client identifier"));
        }
        let broadcast = flags & 0x8000 != 0;
        Ok(Self {
            kind,
            xid,
            flags,
            broadcast,
            ciaddr,
            chaddr,
            options,
        })
    }

    pub(super) fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.get(&code).map(Vec::as_slice)
    }

    fn address(&self, code: u8) -> Result<Option<Ipv4Addr>, Event> {
        self.option(code)
            .map(|data| <[u8; 4]>::try_from(data).map(Ipv4Addr::from))
            .transpose()
            .map_err(|_| malformed("address option of the wrong length"))
    }

    pub(super) fn server_id(&self) -> Result<Option<Ipv4Addr>, Event> {
        self.address(SERVER_ID)
    }

    pub(super) fn requested_address(&self) -> Result<Option<Ipv4Addr>, Event> {
        self.address(REQUESTED_ADDRESS)
    }

    /// The largest datagram that the client takes, in bytes. RFC 2132 9.10 allows no less than 576.
    pub(super) fn max_message(&self) -> u16 {
        const MIN_MESSAGE: u16 = 576;
        let option = self
            .option(MAX_MESSAGE)
            .and_then(|data| <[u8; 2]>::try_from(data).ok());
        option.map_or(MIN_MESSAGE, u16::from_be_bytes).max(MIN_MESSAGE)
    }
}

/// Walks one field of options up to its end, joining the instances of each wanted option.
fn walk(field: &[u8], options: &mut BTreeMap<u8, Vec<u8>>) -> Result<(), Event> {
    let mut reader = Reader::new(field);
    while let Some(code) = reader.u8() {
        match code {
            PAD => {}
            END => return Ok(()),
            _ => {
                let data = reader.u8().and_then(|len| reader.take(usize::from(len)));
                let data = data.ok_or_else(|| malformed("truncated option"))?;
                if WANTED.contains(&code) {
                    options.entry(code).or_default().extend_from_slice(data);
                }
            }
        }
    }
    // Clients exist that fill the field to the last byte and leave the end option out.
    Ok(())
}
