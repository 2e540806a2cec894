//! The whole rule set as one document, so that one transaction replaces whatever was there.
//!
//! Two tables, because nftables ties a table to its hooks. `netdev hawser` sits where frames enter the host
//! from the guest's TAP: it hands DHCP and router solicitations to the server's helper TAP, and drops what a
//! guest has no business sending. `inet hawser` does the NAT and forwards what belongs to it. Ports are in sets:
//! their number does not change the number of rules.

mod bridge;
mod forward;
mod guest;
mod nat;
mod nft_expr;
mod own_connections;
mod resolver;

use nftables::stmt::{Limit, Statement};
use nftables::types::{NfChainType, NfFamily, NfHook};

use self::nft_expr::*;
use crate::guest_nic::{GuestNic, Joined, Masqueraded};
use crate::spec::{NetSpec, Wiring};

pub(crate) use own_connections::with_own_connections;

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
        guest::chains(&mut objects);
        nat::chains(&mut objects);
        if nics.iter().any(resolver::has_one) {
            resolver::chains(&mut objects);
        }
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
            objects.device_chain(&chain, tap, Policy::Drop);
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
    forward::rules(&mut objects, nics);
    objects.document()
}

fn masquerade(objects: &mut Objects, spec: &NetSpec, nic: &GuestNic, masqueraded: &Masqueraded) {
    guest::frames(objects, nic.guest_mac, masqueraded);
    guest::server_frames(objects, masqueraded);
    resolver::rules(objects, masqueraded);
    let wiring = spec
        .nics
        .iter()
        .find(|wanted| wanted.name == nic.name)
        .map(|wanted| &wanted.wiring);
    if let Some(Wiring::Masquerade(wanted)) = wiring {
        nat::sets(objects, &masqueraded.tap, wanted);
        own_connections::sets(objects, masqueraded);
        nat::translate(objects, &nic.pod_interface, masqueraded, wanted);
        nat::not_for_the_pod(objects, &nic.pod_interface);
    }
    guest::second_line(objects, masqueraded);
}

/// Whether connections of the guest's are carried past the rules where the kernel has flowtables.
pub(crate) fn offloads(document: &serde_json::Value) -> bool {
    let commands = document.get("nftables").and_then(serde_json::Value::as_array);
    commands
        .into_iter()
        .flatten()
        .any(|command| command.pointer("/add/flowtable").is_some())
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
