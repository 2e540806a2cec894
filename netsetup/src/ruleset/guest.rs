//! What a masqueraded guest may send: a list of what passes, twice.
//!
//! First where frames come out of its TAP (`netdev`), by ethertype, MAC and addresses. Then, as a second line for whatever the
//! first has overlooked, where the pod's IP stack has the packet in hand (`inet`): there it is known what the packet became after
//! the kernel has taken tags off, put fragments together or followed a source route, and where it is going.

use nftables::expr::{Expression, MetaKey, NamedExpression, Prefix};
use nftables::stmt::Statement;
use nftables::types::{NfChainType, NfFamily, NfHook};

use hawser_mac::Mac;

use super::nft_expr::*;
use super::{LOOPBACK_V4, over_rate};
use crate::guest_nic::Masqueraded;

/// Link-local addresses that a guest may use at a time. The kernel's table of neighbours is one for the whole node
/// (net.ipv6.neigh.default.gc_thresh3), and each address that something is answered to takes an entry of it.
const LINK_LOCAL_ADDRESSES: u32 = 16;
/// How long one counts after its last packet. Seconds.
const LINK_LOCAL_TIMEOUT: u32 = 600;

/// Before connections are tracked (NF_IP_PRI_RAW).
const RAW: i32 = -300;

/// ICMPv6 that a host sends (RFC 4443, RFC 4861, RFC 2710, RFC 3810). A router's messages, and those of protocols that are for
/// routers, are not among it (the class of CVE-2020-10749).
const ICMPV6: [&str; 11] = [
    "destination-unreachable",
    "packet-too-big",
    "time-exceeded",
    "parameter-problem",
    "echo-request",
    "echo-reply",
    "nd-neighbor-solicit",
    "nd-neighbor-advert",
    "mld-listener-report",
    "mld-listener-done",
    "mld2-listener-report",
];
/// Of these, what the pod's own stack takes from a guest that it has not asked for anything.
const ICMPV6_FOR_THE_POD: [&str; 6] = [
    "echo-request",
    "nd-neighbor-solicit",
    "nd-neighbor-advert",
    "mld-listener-report",
    "mld-listener-done",
    "mld2-listener-report",
];

/// What comes out of the guest, before anything else in the host sees it.
pub(super) fn frames(objects: &mut Objects, guest_mac: Mac, nic: &Masqueraded) {
    let chain = format!("from-{}", nic.tap);
    objects.device_chain(&chain, &nic.tap, Policy::Drop);
    if nic.v6.is_some() {
        objects.recent_v6(&link_local_set(nic), LINK_LOCAL_ADDRESSES, LINK_LOCAL_TIMEOUT);
    }
    let mut rule = |expr: Vec<Stmt>| objects.rule(NfFamily::NetDev, &chain, expr);
    // What the rules below do not look into does not pass. The kernel takes priority tags (VLAN 0) off a frame before this hook and,
    // where there were two, once more after it (net/core/dev.c, __netif_receive_skb_core): the packet inside would be the pod's.
    let known = ["arp", "ip", "ip6"].map(text).to_vec();
    rule(vec![not_equal(meta(MetaKey::Protocol), set_of(known)), DROP]);
    rule(vec![not_equal(payload("ether", "saddr"), mac(guest_mac)), DROP]);
    for port in [67, 547] {
        let to_server = || equal(payload("udp", "dport"), number(port));
        rule(vec![to_server(), over_rate(), DROP]);
        rule(vec![to_server(), forward_to(&nic.server_tap)]);
    }
    let solicits = || equal(payload("icmpv6", "type"), text("nd-router-solicit"));
    rule(vec![solicits(), over_rate(), DROP]);
    rule(vec![solicits(), forward_to(&nic.server_tap)]);
    // A guest is no DHCP server (the class of CVE-2020-10749).
    for (from, to) in [(67, 68), (547, 546)] {
        let reply = equal(payload("udp", "sport"), number(from));
        rule(vec![reply, equal(payload("udp", "dport"), number(to)), DROP]);
    }
    if let Some(v4) = &nic.v4 {
        // For each request that it answers, the kernel makes a neighbour of the sender, whoever that claims to be.
        rule(vec![
            equal(payload("arp", "saddr ether"), mac(guest_mac)),
            equal(payload("arp", "saddr ip"), address(v4.guest)),
            Statement::Accept(None),
        ]);
        // route_localnet lets the pod's loopback reach the guest; it must not let the guest reach the pod's loopback.
        rule(vec![equal(payload("ip", "daddr"), prefix_v4(LOOPBACK_V4)), DROP]);
        let routers = set_of(["redirect", "router-advertisement"].map(text).to_vec());
        rule(vec![equal(payload("icmp", "type"), routers), DROP]);
        rule(vec![
            equal(payload("ip", "saddr"), address(v4.guest)),
            Statement::Accept(None),
        ]);
    }
    if let Some(v6) = &nic.v6 {
        rule(vec![not_equal(payload("icmpv6", "type"), icmpv6(&ICMPV6)), DROP]);
        for own in [address(v6.guest), text("::")] {
            rule(vec![equal(payload("ip6", "saddr"), own), Statement::Accept(None)]);
        }
        rule(vec![
            equal(payload("ip6", "saddr"), link_local()),
            remember(payload("ip6", "saddr"), &link_local_set(nic)),
            Statement::Accept(None),
        ]);
    }
}

/// What the server wrote to its helper goes to the guest and nowhere else.
pub(super) fn server_frames(objects: &mut Objects, nic: &Masqueraded) {
    let chain = format!("from-{}", nic.server_tap);
    objects.device_chain(&chain, &nic.server_tap, Policy::Drop);
    objects.rule(NfFamily::NetDev, &chain, vec![forward_to(&nic.tap)]);
}

/// The second line's base chain for packets that no rule has looked at yet; the other is `input`.
pub(super) fn chains(objects: &mut Objects) {
    objects.base_chain("guard", NfChainType::Filter, NfHook::Prerouting, RAW);
    objects.base_chain("to-guest", NfChainType::Filter, NfHook::Output, 0);
}

/// The second line: no addresses but the guest's, and nothing of the pod's own but what the binding offers.
pub(super) fn second_line(objects: &mut Objects, nic: &Masqueraded) {
    let from = || equal(meta(MetaKey::Iifname), text(&nic.tap));
    let family = |name: &str| equal(meta(MetaKey::Nfproto), text(name));
    // A connection of the guest's to the pod's address leaves by where it came, and the kernel would point out a shorter way.
    for (protocol, redirect) in [("icmp", "redirect"), ("icmpv6", "nd-redirect")] {
        let to = equal(meta(MetaKey::Oifname), text(&nic.tap));
        let redirects = equal(payload(protocol, "type"), text(redirect));
        objects.rule(NfFamily::INet, "to-guest", vec![to, redirects, DROP]);
    }
    let mut guard = |expr: Vec<Stmt>| {
        let expr = std::iter::once(from()).chain(expr).chain([DROP]).collect();
        objects.rule(NfFamily::INet, "guard", expr);
    };
    match &nic.v4 {
        Some(v4) => {
            guard(vec![equal(payload("ip", "daddr"), prefix_v4(LOOPBACK_V4))]);
            guard(vec![not_equal(payload("ip", "saddr"), address(v4.guest))]);
        }
        None => guard(vec![family("ipv4")]),
    }
    match &nic.v6 {
        Some(v6) => {
            let own = set_of(vec![address(v6.guest), link_local(), text("::")]);
            guard(vec![not_equal(payload("ip6", "saddr"), own)]);
        }
        None => guard(vec![family("ipv6")]),
    }
    let mut input = |expr: Vec<Stmt>| {
        let expr = std::iter::once(from()).chain(expr).collect();
        objects.rule(NfFamily::INet, "input", expr);
    };
    let accept = || Statement::Accept(None);
    // Answers to the pod's own processes, those that connected to its loopback included.
    let states = Expression::List(vec![text("established"), text("related")]);
    input(vec![is_in(ct("state"), states), accept()]);
    // A source route may have led here from another address (net/ipv4/ip_options.c, ip_options_rcv_srr).
    input(vec![equal(payload("ip", "daddr"), prefix_v4(LOOPBACK_V4)), DROP]);
    input(vec![
        equal(payload("icmp", "type"), text("echo-request")),
        accept(),
    ]);
    input(vec![
        equal(payload("icmpv6", "type"), icmpv6(&ICMPV6_FOR_THE_POD)),
        accept(),
    ]);
    // A mesh's sidecar has the guest's connections redirected to itself, by rules of its own.
    input(vec![is_in(ct("status"), text("dnat")), accept()]);
    for protocol in ["tcp", "udp"] {
        input(vec![equal(meta(MetaKey::L4proto), text(protocol)), REFUSE]);
    }
    input(vec![DROP]);
}

fn link_local_set(nic: &Masqueraded) -> String {
    format!("{}-link-local", nic.tap)
}

fn link_local() -> Expr {
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(text("fe80::")),
        len: 10,
    }))
}

fn icmpv6(types: &[&str]) -> Expr {
    set_of(types.iter().copied().map(text).collect())
}
