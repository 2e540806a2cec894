//! A bridged guest's frames: what is for the server is taken on their way into the bridge, and nothing else.
//!
//! The guest has the network to itself as the pod would: it may be a router or a server on it, and other bindings'
//! guards are not put before it. Only what its own NIC asks for is taken, and only of a family that the pod has an
//! address of: the rest is for the network's own server and router.

use super::over_rate;
use super::words::*;
use crate::plan::{Bridged, GuestNic, Router6};
use nftables::types::NfFamily;

pub(super) fn guest_frames(objects: &mut Objects, nic: &GuestNic, bridged: &Bridged) {
    let chain = format!("from-{}", nic.tap);
    objects.device_chain(&chain, &nic.tap);
    let mut take = |what: Stmt, verdict: Stmt| {
        let own = || equal(payload("ether", "saddr"), mac(nic.guest_mac));
        objects.rule(
            NfFamily::NetDev,
            &chain,
            vec![own(), what.clone(), over_rate(), DROP],
        );
        objects.rule(NfFamily::NetDev, &chain, vec![own(), what, verdict]);
    };
    let to_port = |port| equal(payload("udp", "dport"), number(port));
    if bridged.v4.is_some() {
        take(to_port(67), forward_to(&nic.server_tap));
    }
    if let Some(v6) = &bridged.v6 {
        take(to_port(547), forward_to(&nic.server_tap));
        let solicitation = equal(payload("icmpv6", "type"), text("nd-router-solicit"));
        // The network's own router has to answer too where the default route is from it.
        let verdict = match v6.router {
            Router6::Advertises => copy_to(&nic.server_tap),
            Router6::Silent(_) | Router6::Unknown => forward_to(&nic.server_tap),
        };
        take(solicitation, verdict);
    }
}
