//! The whole rule set as one document, so that one transaction replaces whatever was there.
//!
//! Two tables, because nftables ties a table to its hooks. `netdev hawser` sits where frames enter the host
//! from the guest's TAP: it hands DHCP and router solicitations to the server's helper TAP, and drops what a
//! guest has no business sending. `inet hawser` does the NAT and forwards what belongs to it. Ports are in sets:
//! their number does not change the number of rules.

mod bridge;
mod nft_expr;

use std::collections::HashSet;

use hawser_mac::Mac;
use nftables::expr::{Expression, Fib, FibFlag, FibResult, MetaKey, NamedExpression, Prefix};
use nftables::stmt::{Limit, NAT, NATFamily, Statement};
use nftables::types::{NfChainType, NfFamily, NfHook};

use self::nft_expr::*;
use crate::guest_nic::{GuestNic, Joined, Masqueraded};
use crate::spec::{Masquerade, NetSpec, PortRange, Ports, Protocol, Wiring};

/// Name of both tables.
pub(crate) const TABLE: &str = "hawser";

/// The table of a pod whose guest's connections continue in another pod; apart from the wiring, which stays as it is.
const RESETS_TABLE: &str = "hawser-silence";

/// DHCP and RS frames a second that reach the server; a guest that sends more loses them. An honest one sends a
/// handful in a minute.
const SERVER_RATE: u32 = 200;

/// Loopback addresses that a pod's processes connect from (RFC 1122, section 3.2.1.3).
const LOOPBACK_V4: ([u8; 4], u32) = ([127, 0, 0, 0], 8);

/// The document that `nft -j` reads. Its transaction fails where the tables are there; see [`replacing`].
pub fn document(spec: &NetSpec, nics: &[GuestNic]) -> serde_json::Value {
    let mut objects = Objects::default();
    objects.create_table(NfFamily::NetDev);
    objects.create_table(NfFamily::INet);
    if nics.iter().any(|nic| nic.masqueraded().is_some()) {
        objects.base_chain("prerouting", NfChainType::NAT, NfHook::Prerouting, -100);
        objects.base_chain("output", NfChainType::NAT, NfHook::Output, -100);
        objects.base_chain("postrouting", NfChainType::NAT, NfHook::Postrouting, 100);
        objects.base_chain("forward", NfChainType::Filter, NfHook::Forward, 0);
        objects.base_chain("input", NfChainType::Filter, NfHook::Input, 0);
    }
    if nics.iter().any(|nic| nic.bridged().is_some()) {
        objects.base_chain("local-in", NfChainType::Filter, NfHook::Input, 0);
        objects.base_chain("local-out", NfChainType::Filter, NfHook::Output, 0);
    }
    for nic in nics {
        if let Joined::Bridge(bridged) = &nic.joined {
            bridge::isolate_pod_stack(&mut objects, nic, bridged);
        }
    }
    for nic in nics {
        if let Joined::Down { tap } = &nic.joined {
            let chain = format!("from-{tap}");
            objects.device_chain(&chain, tap);
            objects.rule(NfFamily::NetDev, &chain, vec![DROP]);
        }
    }
    for nic in nics {
        match &nic.joined {
            Joined::Masquerade(masqueraded) => masquerade(&mut objects, spec, nic, masqueraded),
            Joined::Bridge(bridged) if bridged.is_served() => {
                bridge::guest_frames(&mut objects, nic, bridged);
                bridge::server_frames(&mut objects, nic, bridged);
            }
            Joined::Bridge(_) | Joined::Passt(_) | Joined::Down { .. } => {}
        }
    }
    objects.document()
}

fn masquerade(objects: &mut Objects, spec: &NetSpec, nic: &GuestNic, masqueraded: &Masqueraded) {
    guest_frames(objects, nic.guest_mac, masqueraded);
    server_frames(objects, masqueraded);
    let wiring = spec
        .nics
        .iter()
        .find(|wanted| wanted.name == nic.name)
        .map(|wanted| &wanted.wiring);
    if let Some(Wiring::Masquerade(wanted)) = wiring {
        sets(objects, &masqueraded.tap, wanted);
        translate(objects, &nic.pod_interface, masqueraded, wanted);
        forward(objects, &nic.pod_interface, masqueraded);
    }
}

/// Deletes both tables, whether or not they exist.
pub(crate) fn removal() -> serde_json::Value {
    let mut objects = Objects::default();
    for family in [NfFamily::NetDev, NfFamily::INet] {
        objects.delete_table(family);
    }
    objects.document()
}

/// Drops the resets with which the kernel answers segments of connections that it does not know. They have no ACK, where
/// those that end a connection and those that refuse one have (RFC 9293, sections 3.5.2 and 3.10.7.1).
pub(crate) fn drop_resets() -> serde_json::Value {
    const CHAIN: &str = "output";
    const RST: u32 = 4;
    const RST_AND_ACK: u32 = 0x14;
    let mut objects = Objects::in_table(RESETS_TABLE);
    objects.have_table(NfFamily::INet);
    objects.base_chain(CHAIN, NfChainType::Filter, NfHook::Output, 0);
    let flags = masked(payload("tcp", "flags"), RST_AND_ACK);
    objects.rule(NfFamily::INet, CHAIN, vec![equal(flags, Expr::Number(RST)), DROP]);
    objects.document()
}

/// Deletes the table of [`drop_resets`], whether or not it exists.
pub(crate) fn allow_resets() -> serde_json::Value {
    let mut objects = Objects::in_table(RESETS_TABLE);
    objects.delete_table(NfFamily::INet);
    objects.document()
}

/// `document` in one transaction with the removal of what is there.
pub(crate) fn replacing(document: &serde_json::Value) -> serde_json::Value {
    let removal = removal();
    let commands = [&removal, document]
        .into_iter()
        .filter_map(|document| document.get("nftables")?.as_array())
        .flatten();
    serde_json::json!({ "nftables": commands.collect::<Vec<_>>() })
}

/// What comes out of the guest, before anything else in the host sees it.
fn guest_frames(objects: &mut Objects, guest_mac: Mac, nic: &Masqueraded) {
    let chain = format!("from-{}", nic.tap);
    objects.device_chain(&chain, &nic.tap);
    let mut rule = |expr: Vec<Stmt>| objects.rule(NfFamily::NetDev, &chain, expr);
    // What the rules below do not look into does not pass. The kernel takes priority tags (VLAN 0) off a frame before this hook and,
    // where there were two, once more after it (net/core/dev.c, __netif_receive_skb_core): the packet inside would be the pod's.
    let known = ["arp", "ip", "ip6"].map(text).to_vec();
    rule(vec![not_equal(meta(MetaKey::Protocol), set_of(known)), DROP]);
    rule(vec![not_equal(payload("ether", "saddr"), mac(guest_mac)), DROP]);
    for port in [67, 547] {
        rule(vec![
            equal(payload("udp", "dport"), number(port)),
            over_rate(),
            DROP,
        ]);
        rule(vec![
            equal(payload("udp", "dport"), number(port)),
            forward_to(&nic.server_tap),
        ]);
    }
    rule(vec![
        equal(payload("icmpv6", "type"), text("nd-router-solicit")),
        over_rate(),
        DROP,
    ]);
    rule(vec![
        equal(payload("icmpv6", "type"), text("nd-router-solicit")),
        forward_to(&nic.server_tap),
    ]);
    // A guest is neither a router nor a DHCP server (the class of CVE-2020-10749).
    for message in ["nd-router-advert", "nd-redirect"] {
        rule(vec![equal(payload("icmpv6", "type"), text(message)), DROP]);
    }
    for (from, to) in [(67, 68), (547, 546)] {
        let reply = equal(payload("udp", "sport"), number(from));
        rule(vec![reply, equal(payload("udp", "dport"), number(to)), DROP]);
    }
    // route_localnet lets the pod's loopback reach the guest; it must not let the guest reach the pod's loopback.
    rule(vec![equal(payload("ip", "daddr"), prefix_v4(LOOPBACK_V4)), DROP]);
    match &nic.v4 {
        Some(v4) => rule(vec![not_equal(payload("ip", "saddr"), address(v4.guest)), DROP]),
        None => rule(vec![equal(meta(MetaKey::Protocol), text("ip")), DROP]),
    }
    match &nic.v6 {
        Some(v6) => {
            let link_local = Expression::Named(NamedExpression::Prefix(Prefix {
                addr: Box::new(text("fe80::")),
                len: 10,
            }));
            let own = set_of(vec![address(v6.guest), link_local, text("::")]);
            rule(vec![not_equal(payload("ip6", "saddr"), own), DROP]);
        }
        None => rule(vec![equal(meta(MetaKey::Protocol), text("ip6")), DROP]),
    }
}

/// What the server wrote to its helper goes to the guest and nowhere else.
fn server_frames(objects: &mut Objects, nic: &Masqueraded) {
    let chain = format!("from-{}", nic.server_tap);
    objects.device_chain(&chain, &nic.server_tap);
    objects.rule(NfFamily::NetDev, &chain, vec![forward_to(&nic.tap)]);
}

fn sets(objects: &mut Objects, tap: &str, masquerade: &Masquerade) {
    let kept = masquerade.kept_tcp.iter().copied();
    objects.port_set(&format!("{tap}-kept"), kept.map(number).collect());
    if let Ports::Listed(ranges) = &masquerade.ports {
        for (protocol, name) in PROTOCOLS {
            let ports = merged(ranges, protocol)
                .into_iter()
                .map(|(first, last)| port_range(first, last));
            objects.port_set(&format!("{tap}-{name}"), ports.collect());
        }
    }
}

const PROTOCOLS: [(Protocol, &str); 2] = [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp")];

fn translate(objects: &mut Objects, pod_interface: &str, nic: &Masqueraded, masquerade: &Masquerade) {
    let inbound = format!("to-{}", nic.tap);
    objects.chain(&inbound);
    let mut rule = |chain: &str, expr: Vec<Stmt>| objects.rule(NfFamily::INet, chain, expr);
    let kept = equal(payload("tcp", "dport"), named_set(&nic.tap, "kept"));
    rule(&inbound, vec![kept, Statement::Return(None)]);
    for destination in destinations(nic) {
        match &masquerade.ports {
            Ports::All => {
                let family = equal(meta(MetaKey::Nfproto), text(destination.nfproto));
                rule(&inbound, vec![family, destination.dnat()]);
            }
            Ports::Listed(_) => {
                for (_, protocol) in PROTOCOLS {
                    let family = equal(meta(MetaKey::Nfproto), text(destination.nfproto));
                    let port = equal(payload(protocol, "dport"), named_set(&nic.tap, protocol));
                    rule(&inbound, vec![family, port, destination.dnat()]);
                }
            }
        }
    }

    let local = equal(
        Expression::Named(NamedExpression::Fib(Fib {
            result: FibResult::Type,
            flags: HashSet::from([FibFlag::Daddr, FibFlag::Iif]),
        })),
        text("local"),
    );
    let arrives = equal(meta(MetaKey::Iifname), text(pod_interface));
    // Matching the interface alone would take transit traffic too (CVE-2025-67499); and any local address would be
    // 127.0.0.1 and the gateway's too, which hosts outside have no claim to.
    let mut from_outside = vec![arrives, local];
    if masquerade.istio {
        // The sidecar takes the rest and connects to the guest from inside the pod.
        from_outside.push(equal(payload("tcp", "dport"), number(22)));
    }
    from_outside.push(jump(&inbound));
    rule("prerouting", from_outside);

    for destination in destinations(nic) {
        let mut inside = vec![destination.loopback.clone()];
        if masquerade.istio {
            inside.push(destination.pod.clone());
        }
        for own in inside {
            rule(
                "output",
                vec![equal(payload(destination.protocol, "daddr"), own), jump(&inbound)],
            );
        }
        let leaves = equal(meta(MetaKey::Oifname), text(&nic.tap));
        let from_loopback = equal(
            payload(destination.protocol, "saddr"),
            destination.loopback_sources.clone(),
        );
        rule("postrouting", vec![leaves, from_loopback, destination.snat()]);
        let from_guest = equal(payload(destination.protocol, "saddr"), destination.guest.clone());
        let elsewhere = not_equal(meta(MetaKey::Oifname), text(&nic.tap));
        rule(
            "postrouting",
            vec![from_guest, elsewhere, Statement::Masquerade(None)],
        );
    }
}

/// Only what was translated, and the guest's own connections, pass between the pod's interface and the guest.
fn forward(objects: &mut Objects, pod_interface: &str, nic: &Masqueraded) {
    let mut rule = |expr: Vec<Stmt>| objects.rule(NfFamily::INet, "forward", expr);
    let ct = |key: &'static str| {
        Expression::Named(NamedExpression::CT(nftables::expr::CT {
            key: key.into(),
            family: None,
            dir: None,
        }))
    };
    let from = || equal(meta(MetaKey::Iifname), text(&nic.tap));
    let to = || equal(meta(MetaKey::Oifname), text(&nic.tap));
    // What belongs to no connection is not translated, and would leave by the guest's own address. So would the end of
    // a connection that was opened in another pod, after a migration.
    let invalid = equal(ct("state"), text("invalid"));
    rule(vec![from(), invalid, DROP]);
    // Nor is what comes for the guest, which would be left to the pod's own kernel: its reset would end a connection that
    // goes on, here or, while the network still leads to the source of a migration, in another pod.
    let arrives = equal(meta(MetaKey::Iifname), text(pod_interface));
    let tcp = equal(meta(MetaKey::L4proto), text("tcp"));
    let invalid = equal(ct("state"), text("invalid"));
    objects.rule(NfFamily::INet, "input", vec![arrives, tcp, invalid, DROP]);
    let mut rule = |expr: Vec<Stmt>| objects.rule(NfFamily::INet, "forward", expr);
    for destination in destinations(nic) {
        let own = equal(payload(destination.protocol, "saddr"), destination.guest);
        rule(vec![from(), own, Statement::Accept(None)]);
    }
    rule(vec![from(), DROP]);
    let states = Expression::List(vec![text("established"), text("related")]);
    rule(vec![to(), is_in(ct("state"), states), Statement::Accept(None)]);
    rule(vec![
        to(),
        is_in(ct("status"), text("dnat")),
        Statement::Accept(None),
    ]);
    rule(vec![to(), DROP]);
}

/// One family's addresses as the rules need them.
struct Destination {
    protocol: &'static str,
    nfproto: &'static str,
    family: NATFamily,
    guest: Expr,
    gateway: Expr,
    pod: Expr,
    loopback: Expr,
    loopback_sources: Expr,
}

impl Destination {
    fn dnat(&self) -> Stmt {
        Statement::DNAT(Some(self.nat(&self.guest)))
    }

    fn snat(&self) -> Stmt {
        Statement::SNAT(Some(self.nat(&self.gateway)))
    }

    fn nat(&self, to: &Expr) -> NAT<'static> {
        NAT {
            addr: Some(to.clone()),
            family: Some(self.family),
            port: None,
            flags: None,
        }
    }
}

fn destinations(nic: &Masqueraded) -> Vec<Destination> {
    let v4 = nic.v4.iter().map(|v4| Destination {
        protocol: "ip",
        nfproto: "ipv4",
        family: NATFamily::IP,
        guest: address(v4.guest),
        gateway: address(v4.gateway),
        pod: address(v4.pod),
        loopback: text("127.0.0.1"),
        // A sidecar connects from other loopback addresses too (Istio: 127.0.0.6).
        loopback_sources: prefix_v4(LOOPBACK_V4),
    });
    let v6 = nic.v6.iter().map(|v6| Destination {
        protocol: "ip6",
        nfproto: "ipv6",
        family: NATFamily::IP6,
        guest: address(v6.guest),
        gateway: address(v6.gateway),
        pod: address(v6.pod),
        loopback: text("::1"),
        loopback_sources: text("::1"),
    });
    v4.chain(v6).collect()
}

/// Ranges of one protocol, sorted and joined: an interval set takes no overlaps.
fn merged(ranges: &[PortRange], protocol: Protocol) -> Vec<(u16, u16)> {
    let mut sorted: Vec<_> = ranges
        .iter()
        .filter(|range| range.protocol == protocol)
        .map(|range| (range.first, range.last))
        .collect();
    sorted.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in sorted {
        match joined.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

fn over_rate() -> Stmt {
    Statement::Limit(Limit {
        rate: SERVER_RATE,
        rate_unit: None,
        per: Some("second".into()),
        burst: Some(SERVER_RATE),
        burst_unit: None,
        inv: Some(true),
    })
}
