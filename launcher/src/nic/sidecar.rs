//! A binding plugin with a sidecar and no attachment (docs/hooks.md).
//!
//! - From the pod: nothing. hawser touches nothing in it for this NIC.
//! - From the VMM: a NIC with a name and a MAC. The sidecar says what is behind it.
//! - From DHCP: nothing. The sidecar decides who gives the IP.
//! - Migration: none, since the target's sidecar is not asked.

use super::attachment::{Attachment, Device};
use super::explain::{Explanation, Hop};
use super::plugin::{self, Registered};
use super::{Kind, Source, own_mac};
use crate::may_migrate::MayMigrate;
use crate::pod::networks::{PodInterface, pod_interface};
use crate::spec::{GuestSpec, Interface};
use crate::vmm::config::NetConfig;

pub(super) static ROW: Kind = Kind {
    name: plugin::NAME,
    // The sidecar may name one.
    needs_tap: true,
    pod_interface: PodInterface::None,
    device: Source::Sidecar { attach },
    has_pods_addresses: false,
    daemon: None,
    notes: super::no_notes,
    may_migrate: |_, interface, _| may_migrate(interface),
    explain: |guest, interface, _| explain(guest, interface),
};

/// The NIC, before the sidecar has seen it.
fn attach(guest: &GuestSpec, interface: &Interface) -> Attachment {
    let mac = own_mac::mac(guest, interface);
    Attachment {
        device: Device::Net(NetConfig::without_backend(&interface.name, mac)),
        server: None,
        passt: None,
    }
}

fn may_migrate(interface: &Interface) -> MayMigrate {
    match Registered::of(interface).declares_migration() {
        Ok(declared) => MayMigrate::yes(declared),
        Err(decision) => decision,
    }
}

/// What is asked about this interface.
fn explain(guest: &GuestSpec, interface: &Interface) -> Explanation {
    let plugin = Registered::of(interface);
    let name = plugin.name;
    let decides = format!("the sidecar of plugin {name} decides");
    let pod = pod_interface(&interface.network);
    let mut privileges =
        vec!["none for hawser; what the sidecar's container needs is the plugin's to say".to_owned()];
    privileges.extend(plugin.requirements(interface));
    Explanation {
        interface: interface.name.clone(),
        binding: ROW.label(interface),
        ip_from: decides.clone(),
        guest_address: decides.clone(),
        mac: own_mac::text(guest, interface) + ", unless the sidecar sets another",
        others_use: decides.clone(),
        ports: decides.clone(),
        mtu: decides,
        queue_pairs: 1,
        migration: may_migrate(interface),
        privileges,
        devices: vec!["/dev/kvm".into()],
        cost: format!(
            "the container of {name}'s sidecar; the guest's memory is shared where its backend is vhost-user{}",
            plugin.overhead()
        ),
        path: vec![
            Hop::new(&pod, "as the sidecar has it"),
            Hop::new(name, "as the sidecar has it"),
        ],
        pod_interface: pod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plugins, spec};

    fn guest(more: &str) -> GuestSpec {
        let manifest = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web, namespace: shop}}, spec: {{
               domain: {{memory: {{guest: 256Mi}},
                 firmware: {{kernelBoot: {{container: {{image: g, kernelPath: /k}}}}}},
                 devices: {{interfaces: [{{name: red, binding: {{name: proxy}} {more}}}]}}}},
               networks: [{{name: red, multus: {{networkName: red}}}}]}}}}"
        );
        let registry = plugins::parse(
            "proxy: {sidecarImage: i, migration: {}, networkAttachmentDefinition: net/proxy,
               computeResourceOverhead: {requests: {memory: 50Mi}}}",
            "FILE",
        )
        .unwrap();
        spec::load_with(&manifest, &registry).unwrap().spec
    }

    #[test]
    fn the_nic_has_the_manifests_mac_or_one_of_its_own_that_stays() {
        let mac = |guest: &GuestSpec| {
            let attachment = attach(guest, &guest.interfaces[0]);
            let Device::Net(net) = attachment.device else {
                panic!("no NIC")
            };
            serde_json::to_value(net).unwrap()
        };
        let given = mac(&guest(", macAddress: '02:00:00:00:00:07'"));
        assert_eq!(
            given,
            serde_json::json!({
                "id": "red", "mac": "02:00:00:00:00:07", "num_queues": 2, "queue_size": 256,
            })
        );
        // printf shop/web/red | sha256sum begins with be2e6d2ba4f6
        assert_eq!(mac(&guest(""))["mac"], "be:2e:6d:2b:a4:f6");
    }

    #[test]
    fn who_gives_the_ip() {
        let guest = guest("");
        let explanations = crate::nic::explain(&guest, &[]);
        assert_eq!(explanations.len(), 1);
        assert_eq!(explanations[0].ip_from, "the sidecar of plugin proxy decides");
        assert_eq!(explanations[0].binding, "plugin proxy");
        assert!(
            explanations[0]
                .privileges
                .iter()
                .any(|asked| asked.contains("net/proxy"))
        );
        assert!(
            explanations[0]
                .cost
                .ends_with("; requests more by the pod: memory 50Mi")
        );
    }
}
