//! What the pod forwards while its guest runs: the guest's packets, and nothing else.
//!
//! hawser switches forwarding on, for IPv6 on all interfaces at once. Without rules the pod would then be a router between all
//! its networks, for whoever sends it a packet.

use nftables::expr::{Expression, MetaKey};
use nftables::stmt::Statement;
use nftables::types::{NfFamily, NfHook};

use super::nat::destinations;
use super::nft_expr::*;
use crate::guest_nic::{GuestNic, Joined, Masqueraded};

/// Of connections that are carried past the rules (Documentation/networking/nf_flowtable.rst). Not every kernel has flowtables;
/// `kernel::nft` leaves it out there, so nothing may depend on it.
const FLOWTABLE: &str = "guests";

pub(super) fn rules(objects: &mut Objects, nics: &[GuestNic]) {
    let bridges = || {
        nics.iter().filter_map(|nic| match &nic.joined {
            Joined::Bridge(bridged) => Some(bridged.bridge.as_str()),
            _ => None,
        })
    };
    let masqueraded = || nics.iter().filter_map(GuestNic::masqueraded);
    // A pod without NAT forwards what it did before, but for its guest's networks.
    let policy = match masqueraded().next() {
        Some(_) => Policy::Drop,
        None if bridges().next().is_some() => Policy::Accept,
        None => return,
    };
    objects.filter_chain("forward", NfHook::Forward, policy);
    if masqueraded().next().is_some() {
        objects.flowtable(FLOWTABLE, offloading(nics));
    }
    for nic in masqueraded() {
        guest(objects, nic);
    }
    for bridge in bridges() {
        let from = || equal(meta(MetaKey::Iifname), text(bridge));
        let to = || equal(meta(MetaKey::Oifname), text(bridge));
        // Frames that the bridge passes on come by here where the node has br_netfilter (bridge-nf-call-iptables).
        let mut rule = |expr| objects.rule(NfFamily::INet, "forward", expr);
        rule(vec![from(), to(), Statement::Accept(None)]);
        rule(vec![from(), DROP]);
        rule(vec![to(), DROP]);
    }
}

/// The interfaces between which packets of known connections are carried.
fn offloading(nics: &[GuestNic]) -> Vec<&str> {
    let mut devices = Vec::new();
    for nic in nics {
        if let Some(masqueraded) = nic.masqueraded() {
            // NICs may share the pod's interface.
            for device in [nic.pod_interface.as_str(), &masqueraded.tap] {
                if !devices.contains(&device) {
                    devices.push(device);
                }
            }
        }
    }
    devices
}

/// Only what was translated, and the guest's own connections, pass between the pod's interfaces and the guest.
fn guest(objects: &mut Objects, nic: &Masqueraded) {
    let mut rule = |expr: Vec<Stmt>| objects.rule(NfFamily::INet, "forward", expr);
    let from = || equal(meta(MetaKey::Iifname), text(&nic.tap));
    let to = || equal(meta(MetaKey::Oifname), text(&nic.tap));
    // Nobody else is on the guest's network. The kernel would ask for each address of it, and keep that in its table of
    // neighbours, which is one for the whole node.
    // But the guest itself, when it connects to the pod's address.
    for destination in destinations(nic) {
        rule(vec![
            from(),
            to(),
            equal(payload(destination.protocol, "saddr"), destination.guest),
            is_in(ct("status"), text("dnat")),
            Statement::Accept(None),
        ]);
    }
    rule(vec![from(), to(), DROP]);
    // What belongs to no connection is not translated, and would leave by the guest's own address. So would the end of
    // a connection that was opened in another pod, after a migration.
    rule(vec![from(), equal(ct("state"), text("invalid")), DROP]);
    for destination in destinations(nic) {
        let own = equal(payload(destination.protocol, "saddr"), destination.guest);
        rule(vec![from(), own, Statement::Accept(None)]);
    }
    rule(vec![from(), DROP]);
    // What comes in belongs to a connection that both sides know. Its next packets, in both directions, need none of this: the
    // guest's own were looked at where they left the TAP, and whoever else sends them cannot be told from the peer here either.
    rule(vec![
        to(),
        is_in(ct("state"), text("established")),
        offload_to(FLOWTABLE),
    ]);
    let states = Expression::List(vec![text("established"), text("related")]);
    rule(vec![to(), is_in(ct("state"), states), Statement::Accept(None)]);
    rule(vec![
        to(),
        is_in(ct("status"), text("dnat")),
        Statement::Accept(None),
    ]);
    rule(vec![to(), DROP]);
}
