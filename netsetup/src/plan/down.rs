//! The plan of a NIC whose link is down: a TAP that leads nowhere. The VMM opens a TAP only while it is up and shows every
//! guest a link that is up, so what is down here is the way behind it: the rules drop each frame as it comes out of the
//! guest, and nothing in the namespace has an address or a route there to send one in. The pod's interface is not touched.

use super::bridge;
use crate::error::Error;
use crate::guest_nic::{GuestNic, Joined};
use crate::observed::Observed;
use crate::spec::Nic;

pub(super) fn guest_nic(nic: &Nic, observed: &Observed) -> Result<GuestNic, Error> {
    let unfit = |why: &str| Error::Unfit {
        object: nic.pod_interface.clone(),
        why: why.into(),
    };
    let link = observed
        .link(&nic.pod_interface)
        .ok_or_else(|| unfit("the pod's network namespace has no such interface"))?;
    if bridge::is_bridged(nic, observed) {
        return Err(Error::NotOurs {
            object: nic.pod_interface.clone(),
            why: "hawser bridged it at an earlier start in this pod, and the manifest now sets its link down: start in a fresh pod"
                .into(),
        });
    }
    Ok(GuestNic {
        name: nic.name.clone(),
        pod_interface: nic.pod_interface.clone(),
        queue_pairs: nic.queue_pairs,
        guest_mac: nic.guest_mac.unwrap_or(nic.made_mac),
        mtu: link.usable_mtu(),
        joined: Joined::Down { tap: nic.tap.clone() },
    })
}
