//! Binding plugins: what the registry of `--bindings` says a plugin makes, and nothing about the plugin itself.
//!
//! - `tap`: the guest gets the device that the network's CNI plugin made, as it is: a TAP, by name, or a macvtap, by
//!   descriptor. Nothing is wired and nothing changed. The TAP or the interface beside it says what the guest's MAC is; a
//!   macvtap takes frames for its own MAC only, so that is the guest's.
//! - `managedTap`: a TAP of hawser's own on a bridge with the pod's interface, as the binding bridge has it, and no server:
//!   whoever serves the network serves the guest.
//! - From DHCP: nothing, in either case.
//! - Who gives the IP: the network that the plugin is for.
//! - Migration: where the plugin declares that it lets guests move. A macvtap cannot whatever it declares, since
//!   cloud-hypervisor takes no descriptors where it receives a guest, nor can what a sidecar has a say in. `link-refresh`
//!   is as much as cloud-hypervisor has of it: it cannot take the guest's link down, and asks the guest to announce itself.

use hawser_netsetup::{CniDevice, CniNic, CniSpec, Nic, Wiring, bridge_name, tap_name};

use super::attachment::{Attachment, Device};
use super::explain::{Explanation, Hop, Migration};
use super::{pod_interface, queue_pairs, tap_nic};
use crate::pod::networks::possible_names;
use crate::spec::{
    self, Binding, DomainAttachment, DownwardApi, GuestSpec, Interface, MigrationMethod, Plugin,
};
use crate::vmm::config::NetConfig;

/// What this interface wants from the pod's namespace; nothing where the device is a CNI plugin's.
pub(super) fn nic(guest: &GuestSpec, interface: &Interface, plugin: &Plugin) -> Option<Nic> {
    match plugin.domain_attachment_type {
        Some(DomainAttachment::ManagedTap) => Some(tap_nic(guest, interface, Wiring::ManagedTap)),
        Some(DomainAttachment::Tap) | None => None,
    }
}

/// The interfaces whose device a CNI plugin has made.
pub(crate) fn cni_specs(guest: &GuestSpec) -> Vec<CniSpec> {
    let wanted = |interface: &Interface| match &interface.binding {
        Binding::Plugin { plugin, .. } if plugin.domain_attachment_type == Some(DomainAttachment::Tap) => {
            Some(cni_spec(guest, interface))
        }
        _ => None,
    };
    guest.interfaces.iter().filter_map(wanted).collect()
}

fn cni_spec(guest: &GuestSpec, interface: &Interface) -> CniSpec {
    let network = &interface.network;
    let pod_interfaces = possible_names(network);
    let mut devices: Vec<String> = pod_interfaces.iter().map(|name| tap_name(name)).collect();
    // The primary network's TAP is called so whatever the pod's interface is called.
    let primary = tap_name("eth0");
    if network.is_primary() && !devices.contains(&primary) {
        devices.push(primary);
    }
    CniSpec {
        name: interface.name.clone(),
        devices,
        pod_interfaces,
        queue_pairs: queue_pairs(guest),
        guest_mac: interface.mac,
    }
}

/// The device that was found, for the VM.
pub(super) fn attachment(nic: &CniNic) -> Attachment {
    Attachment {
        device: Device::Net(NetConfig::of_cni(nic)),
        server: None,
        passt: None,
    }
}

/// What is asked about this interface. `found` is its device, where the pod could be looked into.
pub(super) fn explain(
    guest: &GuestSpec,
    interface: &Interface,
    name: &str,
    plugin: &Plugin,
    found: Option<&CniNic>,
) -> Explanation {
    let pod = pod_interface(&interface.network);
    let managed = plugin.domain_attachment_type == Some(DomainAttachment::ManagedTap);
    let mut privileges = Vec::new();
    if managed {
        privileges
            .push("NET_ADMIN for hawser; the processes that face the guest have no capability".to_owned());
    } else {
        privileges.push("none for this interface: its device is used as it is".to_owned());
    }
    privileges.extend(asked_of_the_pod(interface, plugin));
    Explanation {
        interface: interface.name.clone(),
        binding: format!("plugin {name}").into(),
        ip_from: "the network of the plugin, by its own server or the guest's own configuration: hawser serves none"
            .into(),
        guest_address: "what that network gives it".into(),
        others_use: "the same address".into(),
        ports: "all: every frame is the guest's".into(),
        mtu: format!("that of {}, by virtio-net", if managed { &pod } else { "the device" }),
        queue_pairs: found.map_or_else(|| queue_pairs(guest), |nic| nic.queue_pairs),
        migration: migration(name, plugin, found),
        privileges,
        devices: devices(found, managed),
        cost: cost(plugin, managed, &pod),
        path: path(interface, &pod, managed, found),
        pod_interface: pod,
    }
}

/// What whoever makes the pod has to add to it.
pub(super) fn asked_of_the_pod(interface: &Interface, plugin: &Plugin) -> Vec<String> {
    let mut asked = Vec::new();
    if let Some(definition) = &plugin.network_attachment_definition {
        asked.push(format!(
            "the pod's annotation names the network {definition} for {} too",
            interface.name
        ));
    }
    if plugin.downward_api == Some(DownwardApi::DeviceInfo) {
        asked.push("the pod's network-info as a file (downwardAPI: device-info)".to_owned());
    }
    asked
}

pub(super) fn migration(name: &str, plugin: &Plugin, found: Option<&CniNic>) -> Migration {
    const NO_DESCRIPTORS: &str =
        "a macvtap is given to cloud-hypervisor as a descriptor, and it takes none where it receives a guest";
    let Some(declared) = &plugin.migration else {
        return Migration::impossible(&format!("the plugin {name} declares no migration"));
    };
    if plugin.sidecar_image.is_some() {
        return Migration::not_yet("the plugin declares it, but the target's sidecar is not asked");
    }
    let declared = match declared.method {
        Some(MigrationMethod::LinkRefresh) => {
            "the plugin declares it with link-refresh, of which there is this: on the target the guest is asked to announce \
             itself; its link does not go down and up, as cloud-hypervisor has no state of it to set, so a guest that has to \
             ask for its addresses or its router anew does not notice that it should"
        }
        None => "the plugin declares it, without anything to be done on the target",
    };
    match (plugin.domain_attachment_type, found.map(|nic| nic.device)) {
        (Some(DomainAttachment::Tap), Some(CniDevice::Macvtap { .. })) => {
            Migration::impossible(NO_DESCRIPTORS)
        }
        (Some(DomainAttachment::Tap), Some(CniDevice::Tap)) => Migration::possible(&format!(
            "{declared}; the target's pod needs a TAP of the same name and the same MAC"
        )),
        (Some(DomainAttachment::Tap), None) => Migration::possible(&format!(
            "{declared}; only where the CNI plugin makes a TAP, of the same name and the same MAC in both pods, and not where \
             it makes a macvtap: {NO_DESCRIPTORS}"
        )),
        _ => Migration::possible(declared),
    }
}

fn devices(found: Option<&CniNic>, managed: bool) -> Vec<String> {
    let net = match found.map(|nic| nic.device) {
        Some(CniDevice::Macvtap { index }) => format!("/dev/tap{index}"),
        Some(CniDevice::Tap) => "/dev/net/tun".to_owned(),
        None if managed => "/dev/net/tun".to_owned(),
        None => "/dev/net/tun for a TAP or /dev/tapN for a macvtap".to_owned(),
    };
    vec![net, "/dev/kvm".into()]
}

fn cost(plugin: &Plugin, managed: bool, pod: &str) -> String {
    let text = if managed {
        format!(
            "processes in the pod have no network by {pod}; the kernel only passes frames on; NET_ADMIN while it is wired"
        )
    } else {
        "nothing of hawser's is between the device and the guest".to_owned()
    };
    text + &overhead(plugin)
}

/// Empty where the plugin is registered with none.
pub(super) fn overhead(plugin: &Plugin) -> String {
    let mut text = String::new();
    let spec::Overhead { requests, limits } = &plugin.compute_resource_overhead;
    for (what, quantities) in [("requests", requests), ("limits", limits)] {
        if quantities.is_empty() {
            continue;
        }
        let list: Vec<String> = quantities
            .iter()
            .map(|(resource, quantity)| format!("{resource} {quantity}"))
            .collect();
        text.push_str(&format!("; {what} more by the pod: {}", list.join(", ")));
    }
    text
}

fn path(interface: &Interface, pod: &str, managed: bool, found: Option<&CniNic>) -> Vec<Hop> {
    if managed {
        return vec![
            Hop::new(pod, "port of"),
            Hop::new(&bridge_name(pod), "port of"),
            Hop::new(&tap_name(pod), "virtio-net"),
        ];
    }
    match found {
        Some(nic) => vec![Hop::new(
            &nic.interface,
            match nic.device {
                CniDevice::Tap => "virtio-net",
                CniDevice::Macvtap { .. } => "virtio-net by descriptor",
            },
        )],
        None => vec![Hop::new(&format!("device of {}", interface.name), "virtio-net")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins;
    use crate::spec::Mac;

    const BINDINGS: &str = "
device: {domainAttachmentType: tap, migration: {method: link-refresh}, networkAttachmentDefinition: net/device,
  downwardAPI: device-info, computeResourceOverhead: {requests: {memory: 5Mi}}}
still: {domainAttachmentType: tap}
wire: {domainAttachmentType: managedTap, migration: {}}
";

    fn guest(red: &str, blue: &str) -> GuestSpec {
        let manifest = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web}}, spec: {{
            domain: {{cpu: {{cores: 2}}, memory: {{guest: 256Mi}},
              firmware: {{kernelBoot: {{container: {{image: g, kernelPath: /k}}}}}},
              devices: {{interfaces: [{{name: default, binding: {{name: device}}}}, {{name: red, {red}}},
                {{name: blue, {blue}}}]}}}},
            networks: [{{name: default, pod: {{}}}}, {{name: red, multus: {{networkName: red}}}},
              {{name: blue, multus: {{networkName: blue}}}}]}}}}"
        );
        let registry = plugins::parse(BINDINGS, "FILE").unwrap();
        crate::spec::load_with(&manifest, &registry).unwrap().spec
    }

    fn usual() -> GuestSpec {
        guest(
            "binding: {name: wire}",
            "binding: {name: still}, macAddress: '02:00:00:00:00:05'",
        )
    }

    #[test]
    fn a_device_is_looked_for_by_all_the_names_it_may_have() {
        let specs = cni_specs(&usual());
        assert_eq!(specs.len(), 2, "{specs:?}");
        assert_eq!(specs[0].devices, ["tap0"]);
        assert_eq!(specs[0].pod_interfaces, ["eth0"]);
        // printf blue | sha256sum
        assert_eq!(specs[1].devices, ["tap16477688c0e", "tap2"]);
        assert_eq!(specs[1].pod_interfaces, ["pod16477688c0e", "net2"]);
        assert_eq!(
            (specs[1].queue_pairs, specs[1].guest_mac),
            (2, Some(Mac([2, 0, 0, 0, 0, 5])))
        );
        let mut told = usual();
        told.interfaces[0].network.pod_interface = Some("ovn-udn1".into());
        let spec = &cni_specs(&told)[0];
        assert_eq!(spec.pod_interfaces, ["ovn-udn1"]);
        assert!(spec.devices.contains(&"tap0".to_owned()), "{spec:?}");
    }

    #[test]
    fn only_a_managed_tap_is_wired() {
        let net = super::super::net_spec(&usual(), hawser_netsetup::Owner { uid: 107, gid: 107 });
        assert_eq!(net.nics.len(), 1);
        assert_eq!(
            (net.nics[0].name.as_str(), &net.nics[0].wiring),
            ("red", &Wiring::ManagedTap)
        );
    }

    fn found(device: CniDevice) -> CniNic {
        CniNic {
            name: "default".into(),
            interface: "eth0".into(),
            device,
            queue_pairs: 1,
            guest_mac: Mac([2, 0, 0, 0, 0, 1]),
            mac: Mac([2, 0, 0, 0, 0, 9]),
            mtu: 1500,
        }
    }

    #[test]
    fn a_macvtap_cannot_move_whatever_its_plugin_declares() {
        let guest = usual();
        let text = |found: &[CniNic]| super::super::explanation_text(&super::super::explain(&guest, found));
        let said = text(&[]);
        for line in [
            "interface default: plugin device on eth0\n",
            "can migrate  yes: the plugin declares it with link-refresh, of which there is this",
            "and not where it makes a macvtap",
            "names the network net/device for default too",
            "downwardAPI: device-info",
            "requests more by the pod: memory 5Mi",
            "interface red: plugin wire on podb1f51a511f1\n",
            "can migrate  no: the plugin still declares no migration",
        ] {
            assert!(said.contains(line), "{line}: {said}");
        }
        let said = text(&[found(CniDevice::Macvtap { index: 7 })]);
        assert!(
            said.contains("can migrate  no: a macvtap is given to cloud-hypervisor as a descriptor"),
            "{said}"
        );
        assert!(said.contains("devices      /dev/tap7, /dev/kvm"), "{said}");
        let said = text(&[found(CniDevice::Tap)]);
        assert!(
            said.contains("needs a TAP of the same name and the same MAC"),
            "{said}"
        );
    }
}
