//! The guest's MAC where neither the manifest nor the pod's network has one for it.
//!
//! It is the same at every start and in every pod that the guest is started in, so that a guest that goes by its NICs' MACs finds
//! them again, and so that it can migrate.

use sha2::{Digest, Sha256};

use crate::spec::{GuestSpec, Interface, Mac};

/// From the namespace, the guest's name and the interface's. Locally administered, and of a single station.
pub(super) fn own_mac(guest: &GuestSpec, interface: &Interface) -> Mac {
    let named = format!("{}/{}/{}", guest.namespace, guest.name, interface.name);
    let digest = Sha256::digest(named.as_bytes());
    let mut mac = [0; 6];
    mac.iter_mut()
        .zip(digest)
        .for_each(|(byte, random)| *byte = random);
    let [first, ..] = &mut mac;
    *first = *first & 0xfc | 0x02;
    Mac(mac)
}

/// The manifest's, else this one.
pub(super) fn mac(guest: &GuestSpec, interface: &Interface) -> Mac {
    interface.mac.unwrap_or_else(|| own_mac(guest, interface))
}

/// How it reads to people.
pub(super) fn text(guest: &GuestSpec, interface: &Interface) -> String {
    match interface.mac {
        Some(mac) => format!("{mac}, from the manifest"),
        None => format!(
            "{}, made from namespace, name and interface: the same at every start and in every pod",
            own_mac(guest, interface)
        ),
    }
}

/// The same of a NIC that takes the place of the pod's interface.
pub(super) fn pods_text(interface: &Interface, pod: &str) -> String {
    match interface.mac {
        Some(mac) => format!("{mac}, from the manifest"),
        None => format!("that of {pod}"),
    }
}
