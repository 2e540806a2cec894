//! The VM's configuration as cloud-hypervisor's API wants it (its cloud-hypervisor.yaml), made by a pure function.
//!
//! Only the fields that hawser sets; everything else has cloud-hypervisor's own default.

mod devices;
mod disks;
mod nics;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::disks::Drive;
use crate::hooks;
use crate::migration;
use crate::nic::{Attachment, Device};
use crate::pod::boot_source::Boot;
use crate::pod::cpus::{Cpu, Pinning};
use crate::pod::pci::PciFunctions;
use crate::pod::pci::vfio::Access;
use crate::spec::GuestSpec;

pub(crate) use nics::{DeviceConfig, NetConfig};

/// Body of `vm.create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VmConfig {
    cpus: CpusConfig,
    memory: MemoryConfig,
    payload: PayloadConfig,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disks: Vec<disks::DiskConfig>,
    net: Vec<NetConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    devices: Vec<DeviceConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fs: Vec<devices::FsConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vsock: Option<devices::VsockConfig>,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    affinity: Vec<CpuAffinity>,
}

/// Where a vCPU's thread runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct CpuAffinity {
    vcpu: usize,
    host_cpus: [Cpu; 1],
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
    /// Another process serves a NIC or a file system from it.
    #[serde(skip_serializing_if = "is_false")]
    shared: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PayloadConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    firmware: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initramfs: Option<PathBuf>,
    #[serde(skip_serializing_if = "String::is_empty")]
    cmdline: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ConsoleConfig {
    mode: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct PlatformConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    serial_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_pci_segments: Option<u16>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    iommufd: bool,
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
/// `directory` is the unprivileged half's, with its sockets in it.
pub(crate) fn vm_config(
    guest: &GuestSpec,
    boot: &Boot,
    drives: &[Drive],
    attachments: &[Attachment],
    functions: &PciFunctions,
    directory: &Path,
) -> VmConfig {
    let mut net = Vec::new();
    let mut devices = Vec::new();
    for attachment in attachments {
        match &attachment.device {
            Device::Net(config) => net.push(config.clone()),
            Device::Vfio(config) => devices.push(config.clone()),
        }
    }
    devices.extend(devices::host(functions));
    let mut landlock_rules = Vec::new();
    // A sidecar may yet give its NIC one.
    let sidecars = !hooks::plugins(guest).is_empty();
    if sidecars || net.iter().any(|net| net.tap.is_some()) {
        // To see whether a TAP is there and multi-queue, cloud-hypervisor reads its flags from sysfs.
        for path in ["/sys/class/net", "/sys/devices/virtual/net"] {
            landlock_rules.push(rule(path, "r"));
        }
    }
    landlock_rules.extend(nics::vfio_rules(&devices));
    landlock_rules.extend(disks::landlock(drives));
    landlock_rules.push(rule(migration::tls_directory(directory), "r"));
    let of_nics = net.iter().filter_map(|net| net.slot?.pci_segment);
    let segments = devices
        .iter()
        .filter_map(|device| device.pci_segment)
        .chain(of_nics)
        .max();
    let platform = PlatformConfig {
        serial_number: guest.firmware_serial.clone(),
        uuid: guest.firmware_uuid.clone(),
        num_pci_segments: segments.map(|last| last.saturating_add(1)),
        iommufd: devices.iter().any(|device| device.access == Access::Iommufd),
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
            affinity: Vec::new(),
        },
        memory: MemoryConfig {
            size: guest.memory,
            hugepages: guest.hugepage_size.is_some(),
            hugepage_size: guest.hugepage_size,
            shared: net.iter().any(|net| net.vhost_user) || !guest.filesystems.is_empty(),
        },
        payload: payload(boot),
        disks: disks::disks(guest, drives),
        net,
        devices,
        fs: devices::filesystems(guest, directory),
        vsock: devices::vsock(guest, directory),
        // The serial port is the guest's console: the VMM's standard output, which carries nothing else.
        serial: ConsoleConfig { mode: "Tty" },
        console: ConsoleConfig { mode: "Off" },
        platform: (platform != PlatformConfig::default()).then_some(platform),
        landlock_enable: true,
        landlock_rules,
    }
}

impl VmConfig {
    /// With every vCPU where it is to be.
    pub(crate) fn pinned(mut self, pinning: Option<&Pinning>) -> Self {
        let cpus = pinning.into_iter().flat_map(|pinning| &pinning.vcpus);
        let affinity = cpus.enumerate().map(|(vcpu, cpu)| CpuAffinity {
            vcpu,
            host_cpus: [*cpu],
        });
        self.cpus.affinity = affinity.collect();
        self
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

fn rule(path: impl Into<PathBuf>, access: &'static str) -> LandlockConfig {
    let path = path.into();
    LandlockConfig { path, access }
}

fn payload(boot: &Boot) -> PayloadConfig {
    match boot {
        Boot::Kernel(files) => PayloadConfig {
            firmware: None,
            kernel: Some(files.kernel.clone()),
            initramfs: files.initrd.clone(),
            cmdline: files.cmdline.clone(),
        },
        Boot::Firmware(firmware) => PayloadConfig {
            firmware: Some(firmware.clone()),
            kernel: None,
            initramfs: None,
            cmdline: String::new(),
        },
    }
}

#[cfg(test)]
mod tests;
