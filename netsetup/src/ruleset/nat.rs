//! NAT between the pod's addresses and a masqueraded guest's, and what is forwarded between them.

use std::collections::HashSet;

use nftables::expr::{Expression, Fib, FibFlag, FibResult, MetaKey, NamedExpression};
use nftables::stmt::{NAT, NATFamily, Statement};
use nftables::types::{NfChainType, NfFamily, NfHook};

use super::LOOPBACK_V4;
use super::nft_expr::*;
use super::own_connections;
use crate::guest_nic::Masqueraded;
use crate::spec::{Masquerade, PortRange, Ports, Protocol};

pub(super) fn chains(objects: &mut Objects) {
    objects.base_chain("prerouting", NfChainType::NAT, NfHook::Prerouting, -100);
    objects.base_chain("output", NfChainType::NAT, NfHook::Output, -100);
    objects.base_chain("postrouting", NfChainType::NAT, NfHook::Postrouting, 100);
    objects.base_chain("input", NfChainType::Filter, NfHook::Input, 0);
}

pub(super) fn sets(objects: &mut Objects, tap: &str, masquerade: &Masquerade) {
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

pub(super) fn translate(
    objects: &mut Objects,
    pod_interface: &str,
    nic: &Masqueraded,
    masquerade: &Masquerade,
) {
    let inbound = format!("to-{}", nic.tap);
    objects.chain(&inbound);
    let mut rule = |chain: &str, expr: Vec<Stmt>| objects.rule(NfFamily::INet, chain, expr);
    let kept = equal(payload("tcp", "dport"), named_set(&nic.tap, "kept"));
    rule(&inbound, vec![kept, Statement::Return(None)]);
    for own in own_connections::rules(nic) {
        rule(&inbound, own);
    }
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
    let from_guest = || equal(meta(MetaKey::Iifname), text(&nic.tap));
    for destination in destinations(nic) {
        // The guest's own connections to the pod's address come back to it.
        let to_pod = equal(payload(destination.protocol, "daddr"), destination.pod.clone());
        rule("prerouting", vec![from_guest(), to_pod, jump(&inbound)]);
    }

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
        // Or the guest would answer itself, and not by way of the translation.
        let from_itself = equal(payload(destination.protocol, "saddr"), destination.guest.clone());
        let leaves = equal(meta(MetaKey::Oifname), text(&nic.tap));
        rule("postrouting", vec![leaves, from_itself, destination.snat()]);
        let from_guest = equal(payload(destination.protocol, "saddr"), destination.guest.clone());
        let elsewhere = not_equal(meta(MetaKey::Oifname), text(&nic.tap));
        rule(
            "postrouting",
            vec![from_guest, elsewhere, Statement::Masquerade(None)],
        );
    }
}

/// What comes for the guest and belongs to no connection is not translated, and would be left to the pod's own kernel: its
/// reset would end a connection that goes on, here or, while the network still leads to the source of a migration, in another
/// pod.
pub(super) fn not_for_the_pod(objects: &mut Objects, pod_interface: &str) {
    let arrives = equal(meta(MetaKey::Iifname), text(pod_interface));
    let tcp = equal(meta(MetaKey::L4proto), text("tcp"));
    let invalid = equal(ct("state"), text("invalid"));
    objects.rule(NfFamily::INet, "input", vec![arrives, tcp, invalid, DROP]);
}

/// One family's addresses as the rules need them.
pub(super) struct Destination {
    pub(super) protocol: &'static str,
    nfproto: &'static str,
    family: NATFamily,
    pub(super) guest: Expr,
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

pub(super) fn destinations(nic: &Masqueraded) -> Vec<Destination> {
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
