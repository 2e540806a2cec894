//! An interface whose link is down (`state: down`), whatever its binding would be: the guest has the NIC, and no frame
//! passes.
//!
//! - From the pod: a TAP that leads nowhere. The pod's interface is not touched.
//! - From the VMM: the TAP by name. It shows the guest a link that is up, since it can show no other: a note
//!   says so, because a guest that waits for its network waits for an answer, not for a carrier.
//! - From DHCP: nothing.
//! - Migration: possible; the target has the same TAP.
//!
//! A NIC whose device hawser does not make cannot be taken off its network, and is refused.

use hawser_netsetup::Wiring;

use super::explain::{Explanation, Hop};
use super::{Kind, Source, tap};
use crate::may_migrate::MayMigrate;
use crate::pod::networks::{PodInterface, pod_interface};
use crate::spec::{GuestSpec, Interface};

pub(super) static ROW: Kind = Kind {
    name: "link down",
    needs_tap: true,
    pod_interface: PodInterface::Wanted,
    device: Source::Wired {
        nic: |guest, interface| tap::nic(guest, interface, Wiring::Down),
        attach: |_, _, nic| tap::attachment(nic, None),
    },
    has_pods_addresses: false,
    daemon: None,
    notes: super::no_notes,
    may_migrate: |_, _, _| may_migrate(),
    explain: |guest, interface, _| explain(guest, interface),
};

fn may_migrate() -> MayMigrate {
    MayMigrate::yes("nothing of it depends on the pod")
}

/// What is asked about this interface.
fn explain(guest: &GuestSpec, interface: &Interface) -> Explanation {
    Explanation {
        interface: interface.name.clone(),
        binding: ROW.label(interface),
        pod_interface: pod_interface(&interface.network),
        path: vec![Hop::new("a link that is down", "virtio-net")],
        ip_from: "nothing: the link is down (state: down)".into(),
        guest_address: "none".into(),
        mac: super::own_mac::text(guest, interface),
        others_use: "none".into(),
        ports: "none: no frame passes, in or out".into(),
        mtu: "that of the pod's interface, by virtio-net".into(),
        queue_pairs: tap::queue_pairs(guest),
        migration: may_migrate(),
        privileges: vec!["NET_ADMIN for hawser; the processes that face the guest have no capability".into()],
        devices: vec!["/dev/kvm".into(), "/dev/net/tun".into()],
        cost: "one TAP; the guest sees a link that is up (limitation of cloud-hypervisor)".into(),
    }
}

#[cfg(test)]
mod tests {
    use hawser_netsetup::Owner;

    use super::*;
    use crate::nic::{needs_tap, net_spec, notes};
    use crate::plugins::{Registry, parse};

    fn guest(binding: &str, registry: &Registry) -> GuestSpec {
        let manifest = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web}},
              spec: {{domain: {{memory: {{guest: 256Mi}}, firmware: {{kernelBoot: {{container: {{image: x, kernelPath: /k}}}}}},
                devices: {{interfaces: [{{name: default, {binding}, state: down}}]}}}},
              networks: [{{name: default, pod: {{}}}}]}}}}"
        );
        let loaded =
            crate::spec::load_with(&manifest, registry).unwrap_or_else(|refusals| panic!("{refusals}"));
        let note = loaded.warnings[0].to_string();
        assert!(
            note.starts_with("spec.domain.devices.interfaces[0].state: no frame passes"),
            "{note}"
        );
        loaded.spec
    }

    const OWNER: Owner = Owner { uid: 107, gid: 107 };

    #[test]
    fn whatever_the_binding_it_is_a_tap_that_leads_nowhere() {
        let registry = parse("managed: {domainAttachmentType: managedTap}", "FILE").unwrap();
        for binding in [
            "masquerade: {}",
            "bridge: {}",
            "passt: {}",
            "binding: {name: managed}",
        ] {
            let guest = guest(binding, &registry);
            let spec = net_spec(&guest, OWNER, &crate::pod::resolv::Resolv::default());
            assert_eq!(spec.nics[0].wiring, Wiring::Down, "{binding}");
            assert_eq!(spec.nics[0].tap, "tap0");
            assert!(needs_tap(&guest), "{binding}");
            assert_eq!(notes(&guest), [""; 0], "{binding}");
            let explained = crate::nic::explain(&guest, &[]);
            assert!(explained[0].ip_from.starts_with("nothing"), "{explained:?}");
        }
    }
}
