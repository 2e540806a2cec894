//! A binding plugin that is registered with `domainAttachmentType: tap`: the guest has a device of a CNI plugin.
//!
//! - From the pod: the device that the network's CNI plugin made, as it is: a TAP or a macvtap. Nothing is wired and
//!   nothing changed. The TAP or the interface beside it says what the guest's MAC is; a macvtap takes frames for its
//!   own MAC only, so that is the guest's.
//! - From the VMM: the TAP by name, or the macvtap by descriptor.
//! - From DHCP: nothing. The network that the plugin is for gives the IP.
//! - Migration: where the plugin declares it. A macvtap cannot whatever is declared, since cloud-hypervisor takes no
//!   descriptors where it receives a guest.

use hawser_netsetup::{CniDevice, CniNic, CniSpec, tap_name};

use super::attachment::{Attachment, Device};
use super::explain::{Explanation, Hop};
use super::plugin::{self, Registered};
use super::{Kind, Source, tap};
use crate::may_migrate::MayMigrate;
use crate::pod::networks::{PodInterface, pod_interface, possible_names};
use crate::spec::{GuestSpec, Interface};
use crate::vmm::config::NetConfig;

const NO_DESCRIPTORS: &str =
    "cloud-hypervisor gets a macvtap as a file descriptor, and takes none for a guest that is migrated to it";

pub(super) static ROW: Kind = Kind {
    name: plugin::NAME,
    needs_tap: true,
    pod_interface: PodInterface::MadeByCni,
    device: Source::Cni { wanted, attach },
    has_pods_addresses: false,
    daemon: None,
    notes: super::no_notes,
    may_migrate: |_, interface, found| may_migrate(interface, found),
    explain,
};

/// What is looked for in the pod's namespace.
fn wanted(guest: &GuestSpec, interface: &Interface) -> CniSpec {
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
        queue_pairs: tap::queue_pairs(guest),
        guest_mac: interface.mac,
    }
}

fn attach(nic: &CniNic) -> Attachment {
    Attachment {
        device: Device::Net(NetConfig::of_cni(nic)),
        server: None,
        passt: None,
    }
}

fn may_migrate(interface: &Interface, found: Option<&CniNic>) -> MayMigrate {
    let declared = match Registered::of(interface).declares_migration() {
        Ok(declared) => declared,
        Err(decision) => return decision,
    };
    match found.map(|nic| nic.device) {
        Some(CniDevice::Macvtap { .. }) => MayMigrate::no(NO_DESCRIPTORS),
        Some(CniDevice::Tap) => MayMigrate::yes(format!(
            "{declared}; the target's pod needs a TAP of the same name and the same MAC"
        )),
        None => MayMigrate::yes(format!(
            "{declared}; only where the CNI plugin makes a TAP, of the same name and the same MAC in both pods, and not where \
             it makes a macvtap: {NO_DESCRIPTORS}"
        )),
    }
}

/// What is asked about this interface. `found` is its device, where the pod could be read.
fn explain(guest: &GuestSpec, interface: &Interface, found: Option<&CniNic>) -> Explanation {
    let plugin = Registered::of(interface);
    let mut privileges = vec!["none for this interface: its device is used as it is".to_owned()];
    privileges.extend(plugin.requirements(interface));
    let device = match found.map(|nic| nic.device) {
        Some(CniDevice::Macvtap { index }) => format!("/dev/tap{index}"),
        Some(CniDevice::Tap) => "/dev/net/tun".to_owned(),
        None => "/dev/net/tun for a TAP or /dev/tapN for a macvtap".to_owned(),
    };
    Explanation {
        interface: interface.name.clone(),
        binding: ROW.label(interface),
        pod_interface: pod_interface(&interface.network),
        path: vec![hop(interface, found)],
        ip_from: plugin::IP_FROM.into(),
        guest_address: plugin::GUEST_ADDRESS.into(),
        mac: match (interface.mac, found) {
            (_, Some(nic)) => nic.guest_mac.to_string(),
            (Some(mac), None) => format!("{mac}, from the manifest"),
            (None, None) => "that of the interface beside the device, else the device's own".into(),
        },
        others_use: "the same address".into(),
        ports: "all: every frame is the guest's".into(),
        mtu: "that of the device, by virtio-net".into(),
        queue_pairs: found.map_or_else(|| tap::queue_pairs(guest), |nic| nic.queue_pairs),
        migration: may_migrate(interface, found),
        privileges,
        devices: vec![device, "/dev/kvm".into()],
        cost: "hawser adds nothing between the device and the guest".to_owned()
            + &plugin.overhead()
            + &plugin.tuning(),
    }
}

fn hop(interface: &Interface, found: Option<&CniNic>) -> Hop {
    match found {
        Some(nic) => Hop::new(
            &nic.interface,
            match nic.device {
                CniDevice::Tap => "virtio-net",
                CniDevice::Macvtap { .. } => "virtio-net by descriptor",
            },
        ),
        None => Hop::new(&format!("device of {}", interface.name), "virtio-net"),
    }
}

#[cfg(test)]
mod tests {
    use hawser_netsetup::Wiring;

    use super::*;
    use crate::nic::{cni_specs, explanation_text, net_spec};
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
        let mut named = usual();
        named.interfaces[0].network.pod_interface = Some("ovn-udn1".into());
        let spec = &cni_specs(&named)[0];
        assert_eq!(spec.pod_interfaces, ["ovn-udn1"]);
        assert!(spec.devices.contains(&"tap0".to_owned()), "{spec:?}");
    }

    #[test]
    fn only_a_managed_tap_is_wired() {
        let net = net_spec(
            &usual(),
            hawser_netsetup::Owner { uid: 107, gid: 107 },
            &crate::pod::resolv::Resolv::default(),
        );
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
    fn a_macvtap_cannot_migrate_whatever_its_plugin_declares() {
        let guest = usual();
        let text = |found: &[CniNic]| explanation_text(&crate::nic::explain(&guest, found));
        let answers = text(&[]);
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
            assert!(answers.contains(line), "{line}: {answers}");
        }
        let answers = text(&[found(CniDevice::Macvtap { index: 7 })]);
        assert!(
            answers.contains("can migrate  no: cloud-hypervisor gets a macvtap as a file descriptor"),
            "{answers}"
        );
        assert!(answers.contains("devices      /dev/tap7, /dev/kvm"), "{answers}");
        let answers = text(&[found(CniDevice::Tap)]);
        assert!(
            answers.contains("needs a TAP of the same name and the same MAC"),
            "{answers}"
        );
    }
}
