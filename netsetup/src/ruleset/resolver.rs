//! A name server on the pod's loopback, for a masqueraded guest: it asks its gateway, and the rules lead that to the server.
//!
//! Nothing else on the loopback is reached so: the rules name the server's address and port. The server sees a client on the
//! loopback, because some answer no other. What the pod's own processes ask of it stays with it, although the rest of what they
//! send to 127.0.0.1 and ::1 is the guest's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nftables::expr::MetaKey;
use nftables::stmt::{NAT, NATFamily, Statement};
use nftables::types::{NfChainType, NfFamily, NfHook};

use super::nft_expr::*;
use crate::guest_nic::{GuestNic, Masqueraded};

const DOMAIN: u16 = 53;
/// Source NAT at the input hook (NF_IP_PRI_NAT_SRC).
const SOURCE_NAT: i32 = 100;

struct Server {
    protocol: &'static str,
    family: NATFamily,
    gateway: IpAddr,
    address: IpAddr,
    client: IpAddr,
    /// By transport protocol.
    ports: [(&'static str, u16); 2],
}

fn servers(nic: &Masqueraded) -> Vec<Server> {
    let v4 = nic.v4.iter().filter_map(|v4| {
        let resolver = v4.resolver?;
        Some(Server {
            protocol: "ip",
            family: NATFamily::IP,
            gateway: v4.gateway.into(),
            address: resolver.address.into(),
            client: Ipv4Addr::LOCALHOST.into(),
            ports: [("udp", resolver.udp), ("tcp", resolver.tcp)],
        })
    });
    let v6 = nic.v6.iter().filter_map(|v6| {
        let resolver = v6.resolver?;
        Some(Server {
            protocol: "ip6",
            family: NATFamily::IP6,
            gateway: v6.gateway.into(),
            address: resolver.address.into(),
            client: Ipv6Addr::LOCALHOST.into(),
            ports: [("udp", resolver.udp), ("tcp", resolver.tcp)],
        })
    });
    v4.chain(v6).collect()
}

pub(super) fn has_one(nic: &GuestNic) -> bool {
    nic.masqueraded().is_some_and(|nic| !servers(nic).is_empty())
}

pub(super) fn chains(objects: &mut Objects) {
    objects.base_chain("local-nat", NfChainType::NAT, NfHook::Input, SOURCE_NAT);
}

/// Before the second line, which lets nothing of the guest's to the loopback.
pub(super) fn rules(objects: &mut Objects, nic: &Masqueraded) {
    let from = || equal(meta(MetaKey::Iifname), text(&nic.tap));
    for server in servers(nic) {
        let Server { protocol, family, .. } = server;
        let to = |ip: IpAddr| equal(payload(protocol, "daddr"), address(ip));
        let nat = |ip: IpAddr, port: Option<u16>| NAT {
            addr: Some(address(ip)),
            family: Some(family),
            port: port.map(number),
            flags: None,
        };
        for (transport, port) in server.ports {
            let at = |port| equal(payload(transport, "dport"), number(port));
            let mut rule = |chain: &str, expr| objects.rule(NfFamily::INet, chain, expr);
            let ask = Statement::DNAT(Some(nat(server.address, Some(port))));
            rule("prerouting", vec![from(), to(server.gateway), at(DOMAIN), ask]);
            let translated = is_in(ct("status"), text("dnat"));
            let accept = Statement::Accept(None);
            rule(
                "input",
                vec![from(), to(server.address), at(port), translated, accept],
            );
            let as_local = Statement::SNAT(Some(nat(server.client, None)));
            rule("local-nat", vec![from(), to(server.address), at(port), as_local]);
            rule(
                "output",
                vec![to(server.address), at(DOMAIN), Statement::Return(None)],
            );
        }
    }
}
