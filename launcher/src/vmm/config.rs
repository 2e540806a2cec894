//! The VM's configuration as cloud-hypervisor's API wants it (its cloud-hypervisor.yaml), made by a pure function.
//!
//! Only the fields that hawser sets; everything else has cloud-hypervisor's own default.

use std::path::PathBuf;

use hawser_netsetup::{CniDevice, CniNic, GuestNic};
use serde::Serialize;
use serde_json::Value;

use crate::binding::{Attachment, Device};
use crate::hooks;
use crate::image::KernelFiles;
use crate::spec::{GuestSpec, Mac};

/// Body of `vm.create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VmConfig {
    cpus: CpusConfig,
    memory: MemoryConfig,
    payload: PayloadConfig,
    net: Vec<NetConfig>,
    serial: ConsoleConfig,
    console: ConsoleConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<PlatformConfig>,
    landlock_enable: bool,
    landlock_rules: Vec<LandlockConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct CpusConfig {
    boot_vcpus: u32,
    max_vcpus: u32,
    topology: CpuTopology,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct CpuTopology {
    threads_per_core: u32,
    cores_per_die: u32,
    dies_per_package: u32,
    packages: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct MemoryConfig {
    /// Bytes.
    size: u64,
    #[serde(skip_serializing_if = "is_false")]
    hugepages: bool,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    hugepage_size: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PayloadConfig {
    kernel: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    initramfs: Option<PathBuf>,
    #[serde(skip_serializing_if = "String::is_empty")]
    cmdline: String,
}

/// cloud-hypervisor's own default.
const QUEUE_SIZE: u16 = 256;

/// One virtio-net device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NetConfig {
    id: String,
    /// Absent for a device that is handed over as a descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    tap: Option<String>,
    mac: String,
    /// Travels in a live migration, so it is the same in every pod. Absent for a device that is not ours to name.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_mac: Option<String>,
    /// Receive and transmit queues together.
    num_queues: u16,
    queue_size: u16,
}

impl NetConfig {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// A persistent TAP, opened by name: a NIC given by descriptor cannot migrate. `mtu` stays unset: the guest is
    /// then told the TAP's own.
    pub(crate) fn tap(nic: &GuestNic) -> Self {
        Self {
            id: nic.name.clone(),
            tap: Some(nic.tap.clone()),
            mac: Mac(nic.guest_mac).to_string(),
            host_mac: Some(Mac(nic.gateway_mac).to_string()),
            num_queues: nic.queue_pairs.saturating_mul(2),
            queue_size: QUEUE_SIZE,
        }
    }

    /// A NIC whose backend somebody else is going to name: a binding plugin's sidecar.
    pub(crate) fn without_backend(name: &str, mac: Mac) -> Self {
        Self {
            id: name.to_owned(),
            tap: None,
            mac: mac.to_string(),
            host_mac: None,
            num_queues: 2,
            queue_size: QUEUE_SIZE,
        }
    }

    /// What a CNI plugin made: a TAP by name, which keeps its own MAC, or a macvtap by descriptors.
    pub(crate) fn of_cni(nic: &CniNic) -> Self {
        Self {
            id: nic.name.clone(),
            tap: (nic.device == CniDevice::Tap).then(|| nic.interface.clone()),
            mac: Mac(nic.guest_mac).to_string(),
            host_mac: None,
            num_queues: nic.queue_pairs.saturating_mul(2),
            queue_size: QUEUE_SIZE,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ConsoleConfig {
    mode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PlatformConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    serial_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct LandlockConfig {
    path: PathBuf,
    access: &'static str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Builds the configuration. Kernel arguments and names are values here and nowhere become process arguments.
pub(crate) fn vm_config(guest: &GuestSpec, files: &KernelFiles, attachments: &[Attachment]) -> VmConfig {
    let net: Vec<_> = attachments
        .iter()
        .map(|attachment| match &attachment.device {
            Device::Net(net) | Device::Macvtap(net, _) => net.clone(),
        })
        .collect();
    let mut landlock_rules = Vec::new();
    // A sidecar may yet give its NIC one.
    let sidecars = !hooks::plugins(guest).is_empty();
    if sidecars || net.iter().any(|net| net.tap.is_some()) {
        // To see whether a TAP is there and multi-queue, cloud-hypervisor reads its flags from sysfs.
        for path in ["/sys/class/net", "/sys/devices/virtual/net"] {
            landlock_rules.push(LandlockConfig {
                path: path.into(),
                access: "r",
            });
        }
    }
    let platform = PlatformConfig {
        serial_number: guest.firmware_serial.clone(),
        uuid: guest.firmware_uuid.clone(),
    };
    VmConfig {
        cpus: CpusConfig {
            boot_vcpus: guest.vcpus,
            max_vcpus: guest.vcpus,
            topology: CpuTopology {
                threads_per_core: guest.topology.threads,
                cores_per_die: guest.topology.cores,
                dies_per_package: 1,
                packages: guest.topology.sockets,
            },
        },
        memory: MemoryConfig {
            size: guest.memory,
            hugepages: guest.hugepage_size.is_some(),
            hugepage_size: guest.hugepage_size,
        },
        payload: PayloadConfig {
            kernel: files.kernel.clone(),
            initramfs: files.initrd.clone(),
            cmdline: files.cmdline.clone(),
        },
        net,
        // The serial port is the guest's console: the VMM's standard output, which carries nothing else.
        serial: ConsoleConfig { mode: "Tty" },
        console: ConsoleConfig { mode: "Off" },
        platform: (platform.serial_number.is_some() || platform.uuid.is_some()).then_some(platform),
        landlock_enable: true,
        landlock_rules,
    }
}

/// Takes the NICs out that have to be added after `vm.create`, which takes no descriptors: those of the ids in
/// `by_descriptor`, and for the guest to have its NICs in the manifest's order all that come after the first of them.
pub(crate) fn take_late_nics(config: &mut Value, by_descriptor: &[String]) -> Vec<Value> {
    let Some(Value::Array(nics)) = config.get_mut("net") else {
        return Vec::new();
    };
    let is_late = |nic: &Value| {
        let id = nic.get("id").and_then(Value::as_str);
        id.is_some_and(|id| by_descriptor.iter().any(|late| late == id))
    };
    match nics.iter().position(is_late) {
        Some(first) => nics.split_off(first),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use hawser_netsetup::{FamilyPlan, GATEWAY_MAC};

    use super::*;

    const MANIFEST: &str = "
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: web}
spec:
  domain:
    cpu: {sockets: 1, cores: 2, threads: 2}
    memory: {guest: 256Mi}
    firmware:
      uuid: 5d307ca9-b3ef-428c-8861-06e72d69f223
      kernelBoot:
        container: {image: guest, kernelPath: /vmlinux, initrdPath: /initrd}
        kernelArgs: console=ttyS0 --api-socket=/x
    devices: {interfaces: [{name: default, masquerade: {}}]}
  networks: [{name: default, pod: {}}]
";

    fn attachment() -> Attachment {
        let nic = GuestNic {
            name: "default".into(),
            pod_interface: "eth0".into(),
            tap: "tap0".into(),
            server_tap: "srv0".into(),
            queue_pairs: 4,
            guest_mac: [0x02, 0x11, 0x22, 0x33, 0x44, 0x55],
            gateway_mac: GATEWAY_MAC,
            mtu: 1450,
            v4: Some(FamilyPlan {
                network: "10.0.2.0/24".parse().unwrap(),
                gateway: "10.0.2.1".parse().unwrap(),
                guest: "10.0.2.2".parse().unwrap(),
                pod: "10.244.0.7".parse().unwrap(),
            }),
            v6: None,
            bridge: None,
        };
        Attachment {
            device: Device::Net(NetConfig::tap(&nic)),
            server: None,
        }
    }

    fn files() -> KernelFiles {
        KernelFiles {
            kernel: "/guest/vmlinux".into(),
            initrd: Some("/guest/initrd".into()),
            cmdline: "console=ttyS0 --api-socket=/x".into(),
        }
    }

    #[test]
    fn the_configuration_of_a_masqueraded_guest() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        insta::assert_json_snapshot!(vm_config(&guest, &files(), &[attachment()]));
    }

    fn cni(name: &str, device: CniDevice) -> Attachment {
        let nic = CniNic {
            name: name.into(),
            interface: format!("tap-{name}"),
            device,
            queue_pairs: 2,
            guest_mac: [2, 0, 0, 0, 0, 3],
            mtu: 1500,
        };
        let net = NetConfig::of_cni(&nic);
        let device = match device {
            CniDevice::Tap => Device::Net(net),
            CniDevice::Macvtap { index } => Device::Macvtap(
                net,
                crate::binding::Macvtap {
                    interface: nic.interface,
                    index,
                    queue_pairs: 2,
                },
            ),
        };
        Attachment { device, server: None }
    }

    #[test]
    fn a_device_of_a_cni_plugin_keeps_its_mac_and_a_macvtap_has_no_name() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let config = vm_config(
            &guest,
            &files(),
            &[
                cni("red", CniDevice::Tap),
                cni("blue", CniDevice::Macvtap { index: 4 }),
            ],
        );
        insta::assert_json_snapshot!(config.net, @r#"
        [
          {
            "id": "red",
            "tap": "tap-red",
            "mac": "02:00:00:00:00:03",
            "num_queues": 4,
            "queue_size": 256
          },
          {
            "id": "blue",
            "mac": "02:00:00:00:00:03",
            "num_queues": 4,
            "queue_size": 256
          }
        ]
        "#);
        assert_eq!(config.landlock_rules.len(), 2);
        let config = vm_config(&guest, &files(), &[cni("blue", CniDevice::Macvtap { index: 4 })]);
        assert_eq!(config.landlock_rules, []);
    }

    #[test]
    fn nics_are_added_late_from_the_first_macvtap_on() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let macvtap = |name| cni(name, CniDevice::Macvtap { index: 4 });
        let attachments = [
            attachment(),
            macvtap("blue"),
            cni("red", CniDevice::Tap),
            macvtap("last"),
        ];
        let config = vm_config(&guest, &files(), &attachments);
        let ids = |nics: &[Value]| -> Vec<String> {
            nics.iter()
                .map(|nic| nic["id"].as_str().unwrap().to_owned())
                .collect()
        };
        let mut value = serde_json::to_value(&config).unwrap();
        assert_eq!(take_late_nics(&mut value, &[]), [Value::Null; 0]);
        let late = take_late_nics(&mut value, &["blue".into(), "last".into()]);
        assert_eq!(ids(&late), ["blue", "red", "last"]);
        assert_eq!(ids(value["net"].as_array().unwrap()), ["default"]);
    }

    #[test]
    fn a_nic_whose_backend_is_not_known_yet_may_come_to_have_a_tap() {
        let registry = crate::plugins::parse("proxy: {sidecarImage: i}", "FILE").unwrap();
        let manifest = MANIFEST.replace("masquerade: {}", "binding: {name: proxy}");
        let guest = crate::spec::load_with(&manifest, &registry).unwrap().spec;
        let sidecars = Attachment {
            device: Device::Net(NetConfig::without_backend("default", Mac([2, 0, 0, 0, 0, 1]))),
            server: None,
        };
        let rules = vm_config(&guest, &files(), &[sidecars]).landlock_rules;
        assert!(
            rules.iter().any(|rule| rule.path.ends_with("class/net")),
            "cloud-hypervisor could not look for the TAP: {rules:?}"
        );
    }

    #[test]
    fn a_guest_without_a_nic_needs_no_sysfs() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let config = vm_config(&guest, &files(), &[]);
        assert!(config.net.is_empty() && config.landlock_rules.is_empty());
        assert!(config.landlock_enable);
    }
}
