//! Connections that the pod's own processes had before the rules: they stay theirs.
//!
//! Nothing has tracked them, and the kernel takes what arrives in the middle of one for the beginning of a new one
//! (net.netfilter.nf_conntrack_tcp_loose, which a migrated guest's connections need): it would be translated and sent to the
//! guest. So the rules know them by name, as they were when the namespace was looked at.

use std::net::IpAddr;

use nftables::expr::MetaKey;
use nftables::schema::SetType;
use nftables::stmt::Statement;

use super::nft_expr::*;
use crate::guest_nic::{GuestNic, Masqueraded};
use crate::observed::Connection;
use crate::spec::Protocol;

/// TCP's flags FIN, SYN, RST and ACK (RFC 9293, section 3.1), and SYN alone: the beginning of a connection.
const FLAGS: u32 = 0x17;
const SYN: u32 = 2;

struct Family {
    protocol: &'static str,
    address: SetType,
    set: &'static str,
}

const V4: Family = Family {
    protocol: "ip",
    address: SetType::Ipv4Addr,
    set: "own-v4",
};
const V6: Family = Family {
    protocol: "ip6",
    address: SetType::Ipv6Addr,
    set: "own-v6",
};

fn families(nic: &Masqueraded) -> impl Iterator<Item = Family> {
    let v4 = nic.v4.iter().map(|_| V4);
    v4.chain(nic.v6.iter().map(|_| V6))
}

fn name(nic: &Masqueraded, family: &Family) -> String {
    format!("{}-{}", nic.tap, family.set)
}

/// Empty sets, one a family.
pub(super) fn sets(objects: &mut Objects, nic: &Masqueraded) {
    for family in families(nic) {
        let address = family.address;
        let types = [
            SetType::InetProto,
            address,
            SetType::InetService,
            address,
            SetType::InetService,
        ];
        objects.concat_set(&name(nic, &family), &types);
    }
}

/// What leaves a packet of such a connection untranslated.
pub(super) fn rules(nic: &Masqueraded) -> Vec<Vec<Stmt>> {
    let rules = families(nic).flat_map(|family| {
        let known = || {
            let key = concat(vec![
                meta(MetaKey::L4proto),
                payload(family.protocol, "saddr"),
                payload("th", "sport"),
                payload(family.protocol, "daddr"),
                payload("th", "dport"),
            ]);
            equal(key, text(&format!("@{}", name(nic, &family))))
        };
        let l4proto = |name: &str| equal(meta(MetaKey::L4proto), text(name));
        // A new connection by the addresses and ports of one that has ended since is the guest's.
        let later = not_equal(masked(payload("tcp", "flags"), FLAGS), Expr::Number(SYN));
        let leave = || Statement::Return(None);
        [
            vec![l4proto("tcp"), later, known(), leave()],
            vec![l4proto("udp"), known(), leave()],
        ]
    });
    rules.collect()
}

/// `document` with these connections in its sets, where it has such.
pub(crate) fn with_own_connections(
    mut document: serde_json::Value,
    nics: &[GuestNic],
    connections: &[Connection],
) -> serde_json::Value {
    let mut objects = Objects::default();
    for nic in nics.iter().filter_map(GuestNic::masqueraded) {
        for family in families(nic) {
            let of_family = |connection: &&Connection| {
                connection.local.is_ipv4() == matches!(family.address, SetType::Ipv4Addr)
            };
            let elements: Vec<_> = connections.iter().filter(of_family).map(element).collect();
            if !elements.is_empty() {
                objects.elements(&name(nic, &family), elements);
            }
        }
    }
    let more = objects.document();
    let more = more.get("nftables").and_then(|list| list.as_array());
    if let (Some(all), Some(more)) = (
        document.get_mut("nftables").and_then(|list| list.as_array_mut()),
        more,
    ) {
        all.extend(more.iter().cloned());
    }
    document
}

/// As a packet that comes for the pod's process has it.
fn element(connection: &Connection) -> Expr {
    let protocol = match connection.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let ip = |ip: IpAddr| address(ip);
    concat(vec![
        text(protocol),
        ip(connection.remote.ip()),
        number(connection.remote.port()),
        ip(connection.local.ip()),
        number(connection.local.port()),
    ])
}
