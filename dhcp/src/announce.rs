//! Announces to a network that a guest has migrated to another place on it: gratuitous ARP and unsolicited neighbour
//! advertisements, in the guest's own name.
//!
//! A switch learns from any of them by which port the guest is reached now; a neighbour learns nothing new, since the
//! guest has kept its hardware address, but one that had looked for it in vain meanwhile continues at once.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::EtherType;
use hawser_mac::Mac;

use crate::frame::{self, Ends};
use crate::lease::Lease;

const BROADCAST: Mac = Mac([0xff; 6]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
/// Ethernet and IPv4 (RFC 826), a request.
const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// The Override flag (RFC 4861, 4.4).
const OVERRIDE: [u8; 4] = [0x20, 0, 0, 0];
/// Target link-layer address, of one unit of eight bytes.
const TARGET_LINK_LAYER: [u8; 2] = [2, 1];

/// One frame for each address of the lease.
pub fn announcements(lease: &Lease) -> Vec<Vec<u8>> {
    let v4 = lease.v4.as_ref().map(|v4| arp(lease.guest_mac, v4.address));
    let v6 = lease
        .v6
        .as_ref()
        .and_then(|v6| advertisement(lease.guest_mac, v6.address));
    v4.into_iter().chain(v6).collect()
}

/// An ARP announcement (RFC 5227, section 1.1): sender and target are the same address.
fn arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let body = ARP_REQUEST.len() + 2 * (6 + 4);
    let mut frame = frame::ethernet(mac, BROADCAST, EtherType::ARP, body);
    frame.extend_from_slice(&ARP_REQUEST);
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&address.octets());
    frame
}

/// An unsolicited neighbour advertisement (RFC 4861, 7.2.6).
fn advertisement(mac: Mac, address: Ipv6Addr) -> Option<Vec<u8>> {
    let mut body = address.octets().to_vec();
    body.extend_from_slice(&TARGET_LINK_LAYER);
    body.extend_from_slice(&mac.0);
    let ends = Ends {
        from: (mac, address),
        to: (ALL_NODES_MAC, ALL_NODES),
    };
    frame::icmpv6(ends, NEIGHBOUR_ADVERTISEMENT, OVERRIDE, &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::lease;

    /// As the RFCs have them, byte for byte.
    #[test]
    fn one_frame_for_each_address() {
        let mut lease = lease();
        lease.guest_mac = Mac([2, 0, 0, 0, 0, 7]);
        lease.v4.as_mut().unwrap().address = "10.1.2.3".parse().unwrap();
        lease.v6.as_mut().unwrap().address = "fd00::3".parse().unwrap();
        let frames = announcements(&lease);
        let arp = [
            &[0xff; 6][..],
            &[2, 0, 0, 0, 0, 7, 8, 6],
            &[0, 1, 8, 0, 6, 4, 0, 1],
            &[2, 0, 0, 0, 0, 7, 10, 1, 2, 3],
            &[0, 0, 0, 0, 0, 0, 10, 1, 2, 3],
        ]
        .concat();
        assert_eq!(frames[0], arp);
        let sliced = etherparse::SlicedPacket::from_ethernet(&frames[1]).unwrap();
        let Some(etherparse::NetSlice::Ipv6(ref ip)) = sliced.net else {
            panic!("{sliced:?}")
        };
        assert_eq!(ip.header().source_addr(), "fd00::3".parse::<Ipv6Addr>().unwrap());
        assert_eq!(ip.header().destination_addr(), ALL_NODES);
        assert_eq!(ip.header().hop_limit(), 255);
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = sliced.transport else {
            panic!("{sliced:?}")
        };
        assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
        assert_eq!((icmp.type_u8(), icmp.bytes5to8()), (136, OVERRIDE));
        let target = "fd00::3".parse::<Ipv6Addr>().unwrap().octets();
        let option = [2, 1, 2, 0, 0, 0, 0, 7];
        assert_eq!(icmp.payload(), [&target[..], &option].concat());

        lease.v4 = None;
        assert_eq!(announcements(&lease).len(), 1);
        lease.v6 = None;
        assert!(announcements(&lease).is_empty());
    }
}
