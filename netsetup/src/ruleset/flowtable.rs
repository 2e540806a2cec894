//! Established connections of masqueraded guests past the rules, where the kernel has flowtables
//! (Documentation/networking/nf_flowtable.rst).
//!
//! A document of its own, for after the rule set: nothing depends on it, not every kernel takes it, and to find that out costs as
//! much as to load all of the rules.

use nftables::expr::MetaKey;
use nftables::types::NfFamily;

use super::nft_expr::*;
use crate::guest_nic::GuestNic;

const NAME: &str = "guests";

/// What to add to the rule set; none where no guest is masqueraded.
pub(crate) fn document(nics: &[GuestNic]) -> Option<serde_json::Value> {
    let masqueraded = || nics.iter().filter_map(|nic| Some((nic, nic.masqueraded()?)));
    let mut devices = Vec::new();
    for (nic, masqueraded) in masqueraded() {
        // NICs may share the pod's interface.
        for device in [nic.pod_interface.as_str(), &masqueraded.tap] {
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
    }
    if devices.is_empty() {
        return None;
    }
    let mut objects = Objects::default();
    objects.flowtable(NAME, devices);
    for (_, nic) in masqueraded() {
        // What comes in for the guest, and so belongs to a connection that both sides have spoken on, but not what it sends to
        // itself. The connection's next packets, in both directions, see no more rules but those at the TAP.
        let expr = vec![
            not_equal(meta(MetaKey::Iifname), text(&nic.tap)),
            equal(meta(MetaKey::Oifname), text(&nic.tap)),
            is_in(ct("state"), text("established")),
            offload_to(NAME),
        ];
        objects.rule_at_the_top(NfFamily::INet, "forward", expr);
    }
    Some(objects.document())
}
