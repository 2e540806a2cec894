//! The VM's configuration as cloud-hypervisor's API wants it (its cloud-hypervisor.yaml), made by a pure function.
//!
//! Only the fields that hawser sets; everything else has cloud-hypervisor's own default.

use std::path::{Path, PathBuf};

use hawser_netsetup::GuestNic;
use serde::Serialize;

use crate::binding::{Attachment, Device};
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
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PayloadConfig {
    kernel: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    initramfs: Option<PathBuf>,
    #[serde(skip_serializing_if = "String::is_empty")]
    cmdline: String,
}

/// One virtio-net device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NetConfig {
    id: String,
    tap: String,
    mac: String,
    /// Travels in a live migration, so it is the same in every pod.
    host_mac: String,
    /// Receive and transmit queues together.
    num_queues: u16,
    queue_size: u16,
}

impl NetConfig {
    /// A persistent TAP, opened by name: a NIC given by descriptor cannot migrate. `mtu` stays unset: the guest is
    /// then told the TAP's own.
    pub(crate) fn tap(nic: &GuestNic) -> Self {
        Self {
            id: nic.name.clone(),
            tap: nic.tap.clone(),
            mac: Mac(nic.guest_mac).to_string(),
            host_mac: Mac(nic.gateway_mac).to_string(),
            num_queues: nic.queue_pairs.saturating_mul(2),
            queue_size: 256,
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

/// Builds the configuration. Kernel arguments and names are values here and nowhere become process arguments.
/// `certificates` is where those of a live migration will be.
pub(crate) fn vm_config(
    guest: &GuestSpec,
    files: &KernelFiles,
    attachments: &[Attachment],
    certificates: &Path,
) -> VmConfig {
    let net: Vec<_> = attachments
        .iter()
        .map(|attachment| match &attachment.device {
            Device::Net(net) => net.clone(),
        })
        .collect();
    let mut landlock_rules = vec![LandlockConfig {
        path: certificates.to_owned(),
        access: "r",
    }];
    if !net.is_empty() {
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
        memory: MemoryConfig { size: guest.memory },
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
        insta::assert_json_snapshot!(vm_config(
            &guest,
            &files(),
            &[attachment()],
            Path::new("/run/certificates")
        ));
    }

    #[test]
    fn a_guest_without_a_nic_needs_no_sysfs() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let config = vm_config(&guest, &files(), &[], Path::new("/run/certificates"));
        assert!(config.net.is_empty() && config.landlock_rules.len() == 1);
        assert!(config.landlock_enable);
    }
}
