//! A binding plugin with a sidecar and no attachment: hawser touches nothing in the pod for it and serves the guest
//! nothing. The VM gets a NIC with a name and a MAC, and the sidecar says what is behind it (docs/hooks.md).

use sha2::{Digest, Sha256};

use super::explain::{Explanation, Hop};
use super::{Attachment, Device, plugin, pod_interface};
use crate::spec::{GuestSpec, Interface, Mac, Plugin};
use crate::vmm::config::NetConfig;

/// The NIC, before the sidecar has seen it.
pub(super) fn attachment(guest: &GuestSpec, interface: &Interface) -> Attachment {
    let mac = interface.mac.unwrap_or_else(|| own_mac(guest, interface));
    Attachment {
        device: Device::Net(NetConfig::without_backend(&interface.name, mac)),
        server: None,
        passt: None,
    }
}

/// A locally administered address that is the same at every start, and in every pod that the guest is started in.
fn own_mac(guest: &GuestSpec, interface: &Interface) -> Mac {
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

/// What is asked about this interface.
pub(super) fn explain(interface: &Interface, name: &str, plugin: &Plugin) -> Explanation {
    let decides = format!("the sidecar of plugin {name} decides");
    let pod = pod_interface(&interface.network);
    let mut privileges =
        vec!["none for hawser; what the sidecar's container needs is the plugin's to say".to_owned()];
    privileges.extend(plugin::asked_of_the_pod(interface, plugin));
    Explanation {
        interface: interface.name.clone(),
        binding: format!("plugin {name}").into(),
        ip_from: decides.clone(),
        guest_address: decides.clone(),
        others_use: decides.clone(),
        ports: decides.clone(),
        mtu: decides.clone(),
        queue_pairs: 1,
        migration: plugin::migration(name, plugin, None),
        privileges,
        devices: vec!["/dev/kvm".into()],
        cost: format!(
            "the container of {name}'s sidecar; the guest's memory is shared where its backend is vhost-user{}",
            plugin::overhead(plugin)
        ),
        path: vec![
            Hop::new(&pod, "as the sidecar has it"),
            Hop::new(name, "as the sidecar has it"),
        ],
        pod_interface: pod,
    }
}

/// A NIC that hawser attaches may be tuned by a sidecar all the same.
pub(super) fn tuned(mut explanation: Explanation, name: &str, plugin: &Plugin) -> Explanation {
    if plugin.sidecar_image.is_some() {
        explanation.cost.push_str(&format!(
            "; the container of {name}'s sidecar, which decides on the NIC's MAC, queue size and offloads"
        ));
    }
    explanation
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
            let attachment = attachment(guest, &guest.interfaces[0]);
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
        let explanations = super::super::explain(&guest, &[]);
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

    #[test]
    fn a_nic_that_hawser_attaches_is_explained_with_its_sidecar() {
        let explanation = explain(&guest("").interfaces[0], "proxy", &registered(true));
        let tuned_by = |sidecar| tuned(explanation.clone(), "proxy", &registered(sidecar)).cost;
        assert!(tuned_by(true).ends_with("decides on the NIC's MAC, queue size and offloads"));
        assert_eq!(tuned_by(false), explanation.cost);
    }

    fn registered(sidecar: bool) -> Plugin {
        let image = if sidecar { "i" } else { "" };
        let text = format!("proxy: {{domainAttachmentType: managedTap, sidecarImage: '{image}'}}");
        plugins::parse(&text, "FILE")
            .unwrap()
            .find("proxy")
            .unwrap()
            .clone()
    }
}
