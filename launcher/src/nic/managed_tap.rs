//! A binding plugin that is registered with `domainAttachmentType: managedTap`: the guest takes the pod's place on
//! the network of the plugin.
//!
//! - From the pod: a TAP of hawser's on a bridge with the pod's interface, as the binding bridge has it.
//! - From the VMM: the TAP by name, with as many queue pairs as vCPUs.
//! - From DHCP: nothing. The network's own servers serve the guest, and give the IP.
//! - Migration: where the plugin declares it.

use hawser_netsetup::{Wiring, bridge_name, tap_name};

use super::explain::{Explanation, Hop};
use super::plugin::{self, Registered};
use super::{Kind, Source, tap};
use crate::may_migrate::MayMigrate;
use crate::pod::networks::{PodInterface, pod_interface};
use crate::spec::{GuestSpec, Interface};

pub(super) static ROW: Kind = Kind {
    name: plugin::NAME,
    needs_tap: true,
    pod_interface: PodInterface::Wanted,
    device: Source::Wired {
        nic: |guest, interface| tap::nic(guest, interface, Wiring::ManagedTap),
        attach: |_, _, nic| tap::attachment(nic, None),
    },
    has_pods_addresses: false,
    daemon: None,
    notes: super::no_notes,
    may_migrate: |_, interface, _| may_migrate(interface),
    explain: |guest, interface, _| explain(guest, interface),
};

fn may_migrate(interface: &Interface) -> MayMigrate {
    match Registered::of(interface).declares_migration() {
        Ok(declared) => MayMigrate::yes(declared),
        Err(decision) => decision,
    }
}

/// What is asked about this interface.
fn explain(guest: &GuestSpec, interface: &Interface) -> Explanation {
    let plugin = Registered::of(interface);
    let pod = pod_interface(&interface.network);
    let mut privileges =
        vec!["NET_ADMIN for hawser; the processes that face the guest have no capability".to_owned()];
    privileges.extend(plugin.requirements(interface));
    Explanation {
        interface: interface.name.clone(),
        binding: ROW.label(interface),
        path: vec![
            Hop::new(&pod, "port of"),
            Hop::new(&bridge_name(&pod), "port of"),
            Hop::new(&tap_name(&pod), "virtio-net"),
        ],
        ip_from: plugin::IP_FROM.into(),
        guest_address: plugin::GUEST_ADDRESS.into(),
        mac: super::own_mac::pods_text(interface, &pod),
        others_use: "the same address".into(),
        ports: "all: every frame is the guest's".into(),
        mtu: format!("that of {pod}, by virtio-net"),
        queue_pairs: tap::queue_pairs(guest),
        migration: may_migrate(interface),
        privileges,
        devices: vec!["/dev/net/tun".into(), "/dev/kvm".into()],
        cost: format!(
            "processes in the pod have no network by {pod}; the kernel only passes frames on; NET_ADMIN while it is wired{}{}",
            plugin.overhead(),
            plugin.tuning()
        ),
        pod_interface: pod,
    }
}
