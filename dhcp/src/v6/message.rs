//! A strict reader of DHCPv6 messages: every length checked, at every depth, before anything is believed.

use std::net::Ipv6Addr;

use crate::bytes::Reader;
use crate::event::{Dhcp6, Event, Ignored, Protocol};

pub(super) const CLIENT_ID: u16 = 1;
pub(super) const SERVER_ID: u16 = 2;
pub(super) const IA_NA: u16 = 3;
pub(super) const IA_TA: u16 = 4;
pub(super) const IA_ADDRESS: u16 = 5;
pub(super) const REQUESTED: u16 = 6;
pub(super) const STATUS: u16 = 13;
pub(super) const RAPID_COMMIT: u16 = 14;
pub(super) const IA_PD: u16 = 25;
pub(super) const IA_PREFIX: u16 = 26;

/// More identity associations than any client has; a message with more is refused, so replies stay small.
const MOST_IAS: usize = 16;
/// More addresses in one of them than any client has.
const MOST_LEASES: usize = 16;

/// What kind of lease an identity association is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IaKind {
    Addresses,
    TemporaryAddresses,
    Prefixes,
}

/// An identity association as the guest wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ia {
    pub(super) kind: IaKind,
    pub(super) id: [u8; 4],
    /// The addresses that it lists.
    pub(super) addresses: Vec<Ipv6Addr>,
    /// The prefixes that it lists: length and address.
    pub(super) prefixes: Vec<(u8, Ipv6Addr)>,
}

/// A client's message, parsed but not yet judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: Dhcp6,
    pub(super) transaction: [u8; 3],
    pub(super) client_id: Option<&'a [u8]>,
    pub(super) server_id: Option<&'a [u8]>,
    pub(super) requested: Vec<u16>,
    pub(super) rapid_commit: bool,
    pub(super) ias: Vec<Ia>,
}

fn malformed(why: &'static str) -> Event {
    Event::Malformed {
        protocol: Protocol::Dhcp6,
        why,
    }
}

impl<'a> Message<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Event> {
        let mut reader = Reader::new(bytes);
        let kind = match reader.u8() {
            Some(1) => Dhcp6::Solicit,
            Some(3) => Dhcp6::Request,
            Some(4) => Dhcp6::Confirm,
            Some(5) => Dhcp6::Renew,
            Some(6) => Dhcp6::Rebind,
            Some(8) => Dhcp6::Release,
            Some(9) => Dhcp6::Decline,
            Some(11) => Dhcp6::InformationRequest,
            Some(2 | 7 | 10) => return Err(Event::Ignored(Ignored::ServerMessage)),
            // There is no relay between a guest and its own server.
            Some(12 | 13) => return Err(Event::Ignored(Ignored::Relayed)),
            Some(_) => return Err(malformed("unknown message type")),
            None => return Err(malformed("empty message")),
        };
        let transaction = reader
            .array()
            .ok_or_else(|| malformed("shorter than its fixed header"))?;
        let mut message = Self {
            kind,
            transaction,
            client_id: None,
            server_id: None,
            requested: Vec::new(),
            rapid_commit: false,
            ias: Vec::new(),
        };
        each(reader, |code, data| message.option(code, data))?;
        Ok(message)
    }

    fn option(&mut self, code: u16, data: &'a [u8]) -> Result<(), Event> {
        match code {
            CLIENT_ID => duid(&mut self.client_id, data),
            SERVER_ID => duid(&mut self.server_id, data),
            REQUESTED => {
                if !data.len().is_multiple_of(2) {
                    return Err(malformed("option request of odd length"));
                }
                let mut reader = Reader::new(data);
                self.requested.extend(std::iter::from_fn(|| reader.u16()));
                Ok(())
            }
            RAPID_COMMIT => {
                self.rapid_commit = true;
                Ok(())
            }
            IA_NA => self.association(IaKind::Addresses, data),
            IA_TA => self.association(IaKind::TemporaryAddresses, data),
            IA_PD => self.association(IaKind::Prefixes, data),
            _ => Ok(()),
        }
    }

    fn association(&mut self, kind: IaKind, data: &[u8]) -> Result<(), Event> {
        let short = || malformed("truncated identity association");
        if self.ias.len() >= MOST_IAS {
            return Err(malformed("too many identity associations"));
        }
        let mut reader = Reader::new(data);
        let id = reader.array().ok_or_else(short)?;
        if kind != IaKind::TemporaryAddresses {
            let _t1_t2 = reader.take(8).ok_or_else(short)?;
        }
        let mut ia = Ia {
            kind,
            id,
            addresses: Vec::new(),
            prefixes: Vec::new(),
        };
        each(reader, |code, data| {
            let mut reader = Reader::new(data);
            match (code, kind) {
                (IA_ADDRESS, IaKind::Addresses | IaKind::TemporaryAddresses) => {
                    let address = reader.array::<16>().ok_or_else(short)?;
                    let _lifetimes = reader.take(8).ok_or_else(short)?;
                    ia.addresses.push(address.into());
                }
                (IA_PREFIX, IaKind::Prefixes) => {
                    let _lifetimes = reader.take(8).ok_or_else(short)?;
                    let len = reader.u8().ok_or_else(short)?;
                    let prefix = reader.array::<16>().ok_or_else(short)?;
                    ia.prefixes.push((len, prefix.into()));
                }
                _ => return Ok(()),
            }
            if ia.addresses.len() + ia.prefixes.len() > MOST_LEASES {
                return Err(malformed("too many leases in an identity association"));
            }
            each(reader, |_, _| Ok(()))
        })?;
        self.ias.push(ia);
        Ok(())
    }
}

/// Sets a DUID option: at most one a message, of a length that RFC 9915 11.1 allows.
fn duid<'a>(slot: &mut Option<&'a [u8]>, data: &'a [u8]) -> Result<(), Event> {
    if slot.is_some() {
        return Err(malformed("identifier given twice"));
    }
    // Two bytes of type and 1 to 128 of identifier.
    if !(3..=130).contains(&data.len()) {
        return Err(malformed("bad identifier length"));
    }
    *slot = Some(data);
    Ok(())
}

/// Walks options to the last byte.
fn each<'a>(
    mut reader: Reader<'a>,
    mut visit: impl FnMut(u16, &'a [u8]) -> Result<(), Event>,
) -> Result<(), Event> {
    while !reader.is_empty() {
        let code = reader.u16();
        let data = reader.u16().and_then(|len| reader.take(usize::from(len)));
        let (Some(code), Some(data)) = (code, data) else {
            return Err(malformed("truncated option"));
        };
        visit(code, data)?;
    }
    Ok(())
}
