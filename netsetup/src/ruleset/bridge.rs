//! A bridged guest's frames: those for hawser's server are intercepted on their way into the bridge, and no others.
//!
//! The guest may do on the network what the pod could: be a router or a server on it. So the guards of other bindings do
//! not apply. Only requests of its own NIC are intercepted, and only of a family that the pod's interface has an address
//! of: the rest is for the network's own server and router.

use super::nft_expr::*;
use super::over_rate;
use crate::guest_nic::{Bridged, GuestNic, Router6};
use std::net::Ipv6Addr;

use nftables::expr::MetaKey;
use nftables::types::NfFamily;

/// Bits from the beginning of the transport header.
const UDP_HEADER: u32 = 64;
/// RFC 2131, section 2: the relay agent's address, and the client's hardware address.
const GIADDR: u32 = UDP_HEADER + 24 * 8;
const CHADDR: u32 = UDP_HEADER + 28 * 8;
/// The message type of what a relay agent forwards (RFC 8415, section 7.3).
const RELAY_FORW: u32 = 12;

/// The pod's kernel still has the guest's addresses and routes, so the rules drop what it would send and receive by this
/// interface. Its processes get the error for a missing route.
pub(super) fn isolate_pod_stack(objects: &mut Objects, nic: &GuestNic, bridged: &Bridged) {
    let leaves = || equal(meta(MetaKey::Oifname), text(&nic.pod_interface));
    for protocol in ["tcp", "udp"] {
        let expr = vec![leaves(), equal(meta(MetaKey::L4proto), text(protocol)), REJECT];
        objects.rule(NfFamily::INet, "local-out", expr);
    }
    objects.rule(NfFamily::INet, "local-out", vec![leaves(), DROP]);
    for link in [&bridged.bridge, &nic.pod_interface] {
        let arrives = equal(meta(MetaKey::Iifname), text(link));
        objects.rule(NfFamily::INet, "local-in", vec![arrives, DROP]);
    }
    if bridged.v4.is_some() {
        network_dhcp(objects, nic, bridged);
    }
}

/// A client that leased the pod's address from a DHCP server of the network (CNI's dhcp plugin) renews it at the interface,
/// with a packet socket, and at the lease's end takes the interface down. A bridge keeps answers from such a socket; but
/// frames for the address of LLDP (IEEE 802.1D, table 7-10) it leaves to the port that they came by.
fn network_dhcp(objects: &mut Objects, nic: &GuestNic, bridged: &Bridged) {
    let [a, b, c, d, e, f] = bridged.pod_mac.0;
    let chain = format!("from-{}", nic.pod_interface);
    objects.device_chain(&chain, &nic.pod_interface, Policy::Accept);
    objects.rule(
        NfFamily::NetDev,
        &chain,
        vec![
            equal(payload("udp", "sport"), number(67)),
            equal(payload("udp", "dport"), number(68)),
            equal(
                at_transport(CHADDR, 32),
                Expr::Number(u32::from_be_bytes([a, b, c, d])),
            ),
            equal(at_transport(CHADDR + 32, 16), number(u16::from_be_bytes([e, f]))),
            set_field(payload("ether", "daddr"), text("01:80:c2:00:00:0e")),
        ],
    );
}

pub(super) fn guest_frames(objects: &mut Objects, nic: &GuestNic, bridged: &Bridged) {
    let chain = format!("from-{}", bridged.tap);
    objects.device_chain(&chain, &bridged.tap, Policy::Accept);
    let mut take = |what: Vec<Stmt>, verdict: Stmt| {
        let own = equal(payload("ether", "saddr"), mac(nic.guest_mac));
        let what: Vec<_> = std::iter::once(own).chain(what).collect();
        let limited = what.iter().cloned().chain([over_rate(), DROP]).collect();
        objects.rule(NfFamily::NetDev, &chain, limited);
        let taken = what.into_iter().chain([verdict]).collect();
        objects.rule(NfFamily::NetDev, &chain, taken);
    };
    let to_port = |port| equal(payload("udp", "dport"), number(port));
    // What a relay agent passes on is for the server that it was given.
    if bridged.v4.is_some() {
        let not_relayed = equal(at_transport(GIADDR, 32), Expr::Number(0));
        take(vec![to_port(67), not_relayed], forward_to(&bridged.server_tap));
    }
    if let Some(v6) = &bridged.v6 {
        let not_relayed = not_equal(at_transport(UDP_HEADER, 8), Expr::Number(RELAY_FORW));
        take(vec![to_port(547), not_relayed], forward_to(&bridged.server_tap));
        let solicitation = equal(payload("icmpv6", "type"), text("nd-router-solicit"));
        // The network's own router has to answer too where the default route is from it.
        let verdict = match v6.router {
            Router6::Advertises => copy_to(&bridged.server_tap),
            Router6::Silent(_) | Router6::By(_) | Router6::Unknown => forward_to(&bridged.server_tap),
        };
        take(vec![solicitation], verdict);
        if matches!(v6.router, Router6::By(_)) {
            let mut who_has = vec![equal(payload("icmpv6", "type"), text("nd-neighbor-solicit"))];
            who_has.extend(is_target(bridged.mac.link_local()));
            take(who_has, forward_to(&bridged.server_tap));
        }
    }
    by_router(objects, nic, bridged);
}

/// What the guest sends by the router that hawser stands for goes to the router itself.
fn by_router(objects: &mut Objects, nic: &GuestNic, bridged: &Bridged) {
    let router = match &bridged.v6 {
        Some(v6) => v6.router,
        None => return,
    };
    if let Router6::By(router) = router {
        let expr = vec![
            equal(payload("ether", "saddr"), mac(nic.guest_mac)),
            equal(payload("ether", "daddr"), mac(bridged.mac)),
            equal(payload("ether", "type"), text("ip6")),
            set_field(payload("ether", "daddr"), mac(router)),
        ];
        objects.rule(NfFamily::NetDev, &format!("from-{}", bridged.tap), expr);
    }
}

/// Whether a neighbor solicitation asks for this address (RFC 4861, section 4.3). nft knows the field by name since 1.0.8.
fn is_target(address: Ipv6Addr) -> Vec<Stmt> {
    const TARGET: u32 = 64;
    let words = address.octets();
    let word = |(at, bytes): (u32, &[u8])| {
        let [a, b, c, d] = bytes.try_into().unwrap_or_default();
        equal(
            at_transport(TARGET + 32 * at, 32),
            Expr::Number(u32::from_be_bytes([a, b, c, d])),
        )
    };
    (0..).zip(words.chunks(4)).map(word).collect()
}

/// What the server wrote to its helper goes to the guest. After a migration it also announces, in the guest's name, where
/// the guest is now: that alone leaves by the pod's wire.
pub(super) fn server_frames(objects: &mut Objects, nic: &GuestNic, bridged: &Bridged) {
    let chain = format!("from-{}", bridged.server_tap);
    objects.device_chain(&chain, &bridged.server_tap, Policy::Drop);
    for announcement in [
        equal(payload("ether", "type"), text("arp")),
        equal(payload("icmpv6", "type"), text("nd-neighbor-advert")),
    ] {
        let in_its_name = equal(payload("ether", "saddr"), mac(nic.guest_mac));
        let expr = vec![in_its_name, announcement, forward_to(&nic.pod_interface)];
        objects.rule(NfFamily::NetDev, &chain, expr);
    }
    objects.rule(NfFamily::NetDev, &chain, vec![forward_to(&bridged.tap)]);
}
