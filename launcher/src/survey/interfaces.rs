//! Which of the pod's interfaces each interface of the guest is about.

use std::path::Path;
use std::time::Duration;

use hawser_netsetup::{CniNic, Interface as PodsInterface, Owner, interfaces};

use super::namespace;
use crate::error::Failure;
use crate::nic::Kind;
use crate::pod::finding::Part;
use crate::pod::networks::{self, PodInterface, PodNetworks};
use crate::privileges;
use crate::spec::{GuestSpec, Interface};

/// The guest with the interfaces and CNI devices that this pod has for it, as far as anybody can read them: also where
/// this is no pod of the guest's. `uid` is the user that the guest's processes would run as.
pub(crate) fn as_far_as_known(
    guest: GuestSpec,
    network_status: Option<&Path>,
    uid: u32,
) -> Result<(GuestSpec, Vec<CniNic>), Failure> {
    let networks = PodNetworks::await_file(network_status, Duration::ZERO).map_err(networks_unfit)?;
    let named =
        |guest, there: &[PodsInterface]| networks::named(guest, networks.as_ref(), there, pod_interface);
    let here = named(guest.clone(), &interfaces());
    // In no pod of the guest's, its interfaces have the names that they would have.
    let guest = here.or_else(|_| named(guest, &[])).map_err(networks_unfit)?;
    let owner = privileges::owner(uid).unwrap_or(Owner { uid, gid: uid });
    let cni = namespace::cni_devices(&guest, owner);
    Ok((guest, cni))
}

fn pod_interface(interface: &Interface) -> PodInterface {
    Kind::of(interface).pod_interface
}

/// The guest with the interfaces that the pod has on its networks, if it has one on each.
pub(super) fn name_interfaces(
    guest: GuestSpec,
    networks: &Part<Option<PodNetworks>>,
) -> (GuestSpec, Part<()>) {
    // Why they could not be read is a finding already.
    let Some(networks) = networks.value() else {
        return (guest, Part::unknown());
    };
    match networks::named(guest.clone(), networks.as_ref(), &interfaces(), pod_interface) {
        Ok(named) => (named, Part::silent(())),
        Err(error) => (guest, Part::bad(networks_unfit(error))),
    }
}

pub(super) fn networks_unfit(error: networks::Error) -> Failure {
    Failure::unfit(
        "the pod's networks",
        "attach the pod to each network of the manifest, and give what Multus writes of them (the annotation \
         k8s.v1.cni.cncf.io/network-status, as a file of the downward API) with --network-status",
    )
    .because(error)
}
