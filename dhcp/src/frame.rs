//! Ethernet frames to DHCP and router-solicitation payloads, and back.
//!
//! Checks go from the outside in: the guest's hardware address, then lengths, then checksums, and only what is
//! left is looked at as a message. Checksums are verified although the frames come from our own host: the kernel
//! completes a guest's offloaded checksums before it hands frames to a descriptor without a vnet header, so a
//! wrong one is a broken or forged frame.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, Icmpv6Header, Icmpv6Slice, Icmpv6Type, IpNumber, Ipv4Header, Ipv4HeaderSlice,
    Ipv6Header, UdpHeader, UdpSlice,
};
use hawser_mac::Mac;

use crate::bytes::Reader;
use crate::event::{Event, Ignored, Protocol};

/// Bytes of the headers before a DHCP message that count against the MTU.
pub(crate) const IPV4_UDP: usize = Ipv4Header::MIN_LEN + UdpHeader::LEN;
pub(crate) const IPV6_UDP: usize = Ipv6Header::LEN + UdpHeader::LEN;

/// Bytes of an ICMPv6 header with the four that depend on its type.
const ICMPV6: usize = 8;

const DHCP4_SERVER: u16 = 67;
const DHCP4_CLIENT: u16 = 68;
const DHCP6_SERVER: u16 = 547;
const DHCP6_CLIENT: u16 = 546;
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;

/// A frame of the guest that is for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inbound<'a> {
    Dhcp4 {
        source: Ipv4Addr,
        destination: Ipv4Addr,
        message: &'a [u8],
    },
    Dhcp6 {
        source: Ipv6Addr,
        destination: Ipv6Addr,
        message: &'a [u8],
    },
    /// `message` is the whole ICMPv6 message, its checksum and hop limit already verified.
    RouterSolicitation { source: Ipv6Addr, message: &'a [u8] },
    /// The same.
    NeighbourSolicitation { source: Ipv6Addr, message: &'a [u8] },
}

fn malformed(why: &'static str) -> Event {
    Event::Malformed {
        protocol: Protocol::Framing,
        why,
    }
}

/// Finds the message in a frame, or the reason why there is none for us.
pub(crate) fn parse(frame: &[u8], guest_mac: Mac) -> Result<Inbound<'_>, Event> {
    let mut reader = Reader::new(frame);
    let (Some(_to), Some(from), Some(kind)) = (reader.array::<6>(), reader.array::<6>(), reader.u16()) else {
        return Err(malformed("shorter than an Ethernet header"));
    };
    if Mac(from) != guest_mac {
        return Err(Event::Ignored(Ignored::ForeignMac));
    }
    match EtherType(kind) {
        EtherType::IPV4 => parse_v4(reader.rest()),
        EtherType::IPV6 => parse_v6(reader.rest()),
        _ => Err(Event::Ignored(Ignored::OtherProtocol)),
    }
}

fn parse_v4(packet: &[u8]) -> Result<Inbound<'_>, Event> {
    let header = Ipv4HeaderSlice::from_slice(packet).map_err(|_| malformed("bad IPv4 header"))?;
    if header.protocol() != IpNumber::UDP {
        return Err(Event::Ignored(Ignored::OtherProtocol));
    }
    if header.is_fragmenting_payload() {
        return Err(malformed("fragmented IPv4"));
    }
    if header.to_header().calc_header_checksum() != header.header_checksum() {
        return Err(malformed("wrong IPv4 header checksum"));
    }
    // An Ethernet frame may be padded: the packet's own length counts.
    let datagram = packet
        .get(header.slice().len()..usize::from(header.total_len()))
        .ok_or_else(|| malformed("IPv4 length and frame disagree"))?;
    let udp = UdpSlice::from_slice(datagram).map_err(|_| malformed("bad UDP length"))?;
    if udp.destination_port() != DHCP4_SERVER {
        return Err(Event::Ignored(Ignored::OtherProtocol));
    }
    let sum = udp
        .to_header()
        .calc_checksum_ipv4_raw(header.source(), header.destination(), udp.payload());
    // Zero means that the sender did not compute one (RFC 768).
    if udp.checksum() != 0 && sum != Ok(udp.checksum()) {
        return Err(malformed("wrong UDP checksum"));
    }
    Ok(Inbound::Dhcp4 {
        source: header.source_addr(),
        destination: header.destination_addr(),
        message: udp.payload(),
    })
}

fn parse_v6(packet: &[u8]) -> Result<Inbound<'_>, Event> {
    let (header, rest) = Ipv6Header::from_slice(packet).map_err(|_| malformed("bad IPv6 header"))?;
    let payload = rest
        .get(..usize::from(header.payload_length))
        .ok_or_else(|| malformed("IPv6 length and frame disagree"))?;
    let (source, destination) = (header.source_addr(), header.destination_addr());
    // Extension headers are not looked behind: neither DHCPv6 clients nor router solicitations carry any, and
    // RFC 6980 wants fragmented ones dropped.
    match header.next_header {
        IpNumber::UDP => {
            let udp = UdpSlice::from_slice(payload).map_err(|_| malformed("bad UDP length"))?;
            if udp.destination_port() != DHCP6_SERVER {
                return Err(Event::Ignored(Ignored::OtherProtocol));
            }
            let sum =
                udp.to_header()
                    .calc_checksum_ipv6_raw(header.source, header.destination, udp.payload());
            // Zero is not allowed over IPv6 (RFC 8200 8.1); a computed zero is sent as 0xffff, so it never matches.
            if sum != Ok(udp.checksum()) {
                return Err(malformed("wrong UDP checksum"));
            }
            Ok(Inbound::Dhcp6 {
                source,
                destination,
                message: udp.payload(),
            })
        }
        IpNumber::IPV6_ICMP => {
            let icmp = Icmpv6Slice::from_slice(payload).map_err(|_| malformed("bad ICMPv6 length"))?;
            let protocol = match icmp.type_u8() {
                ROUTER_SOLICITATION => Protocol::RouterSolicitation,
                NEIGHBOUR_SOLICITATION => Protocol::NeighbourSolicitation,
                _ => return Err(Event::Ignored(Ignored::OtherProtocol)),
            };
            if !icmp.is_checksum_valid(header.source, header.destination) {
                return Err(malformed("wrong ICMPv6 checksum"));
            }
            if header.hop_limit != 255 {
                let why = "hop limit is not 255";
                return Err(Event::Malformed { protocol, why });
            }
            let message = payload;
            Ok(match protocol {
                Protocol::NeighbourSolicitation => Inbound::NeighbourSolicitation { source, message },
                _ => Inbound::RouterSolicitation { source, message },
            })
        }
        _ => Err(Event::Ignored(Ignored::OtherProtocol)),
    }
}

pub(crate) fn ethernet(from: Mac, to: Mac, kind: EtherType, room: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(Ethernet2Header::LEN + room);
    frame.extend_from_slice(
        &Ethernet2Header {
            source: from.0,
            destination: to.0,
            ether_type: kind,
        }
        .to_bytes(),
    );
    frame
}

/// Where a frame comes from and goes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends<Address> {
    pub(crate) from: (Mac, Address),
    pub(crate) to: (Mac, Address),
}

/// A DHCPv4 reply as a frame; `None` if it is larger than IPv4 can say.
pub(crate) fn dhcp4(ends: Ends<Ipv4Addr>, message: &[u8]) -> Option<Vec<u8>> {
    let (from, to) = (ends.from.1.octets(), ends.to.1.octets());
    let len = u16::try_from(message.len().checked_add(UdpHeader::LEN)?).ok()?;
    let mut ip = Ipv4Header::new(len, 64, IpNumber::UDP, from, to).ok()?;
    ip.header_checksum = ip.calc_header_checksum();
    let udp = UdpHeader::with_ipv4_checksum(DHCP4_SERVER, DHCP4_CLIENT, &ip, message).ok()?;
    let mut frame = ethernet(ends.from.0, ends.to.0, EtherType::IPV4, IPV4_UDP + message.len());
    frame.extend_from_slice(&ip.to_bytes());
    frame.extend_from_slice(&udp.to_bytes());
    frame.extend_from_slice(message);
    Some(frame)
}

fn ipv6(ends: Ends<Ipv6Addr>, len: usize, next_header: IpNumber, hop_limit: u8) -> Option<Ipv6Header> {
    Some(Ipv6Header {
        payload_length: u16::try_from(len).ok()?,
        next_header,
        hop_limit,
        source: ends.from.1.octets(),
        destination: ends.to.1.octets(),
        ..Ipv6Header::default()
    })
}

/// A DHCPv6 reply as a frame; `None` if it is larger than IPv6 can say.
pub(crate) fn dhcp6(ends: Ends<Ipv6Addr>, message: &[u8]) -> Option<Vec<u8>> {
    let ip = ipv6(
        ends,
        message.len().checked_add(UdpHeader::LEN)?,
        IpNumber::UDP,
        64,
    )?;
    let udp = UdpHeader::with_ipv6_checksum(DHCP6_SERVER, DHCP6_CLIENT, &ip, message).ok()?;
    let mut frame = ethernet(ends.from.0, ends.to.0, EtherType::IPV6, IPV6_UDP + message.len());
    frame.extend_from_slice(&ip.to_bytes());
    frame.extend_from_slice(&udp.to_bytes());
    frame.extend_from_slice(message);
    Some(frame)
}

/// A neighbour-discovery message as a frame: `head` is the four bytes after the checksum.
pub(crate) fn icmpv6(ends: Ends<Ipv6Addr>, type_u8: u8, head: [u8; 4], body: &[u8]) -> Option<Vec<u8>> {
    let kind = Icmpv6Type::Unknown {
        type_u8,
        code_u8: 0,
        bytes5to8: head,
    };
    let ip = ipv6(ends, body.len().checked_add(ICMPV6)?, IpNumber::IPV6_ICMP, 255)?;
    let icmp = Icmpv6Header::with_checksum(kind, ip.source, ip.destination, body).ok()?;
    let mut frame = ethernet(
        ends.from.0,
        ends.to.0,
        EtherType::IPV6,
        Ipv6Header::LEN + ICMPV6 + body.len(),
    );
    frame.extend_from_slice(&ip.to_bytes());
    frame.extend_from_slice(&icmp.to_bytes());
    frame.extend_from_slice(body);
    Some(frame)
}

#[cfg(test)]
mod tests;
