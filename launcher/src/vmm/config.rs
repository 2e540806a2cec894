//! The VM's configuration as cloud-hypervisor's API wants it (its cloud-hypervisor.yaml): the types.
//! `launch::vm_config` makes one of a guest and its pod.
//!
//! Only the fields that hawser sets; everything else has cloud-hypervisor's own default.

mod devices;
mod disks;
mod limiter;
mod nics;

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

pub(crate) use devices::{FsConfig, VsockConfig};
pub(crate) use disks::DiskConfig;
pub(crate) use nics::{DeviceConfig, NetConfig, vfio_rules};

/// Body of `vm.create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VmConfig {
    pub(crate) cpus: CpusConfig,
    pub(crate) memory: MemoryConfig,
    pub(crate) payload: PayloadConfig,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) disks: Vec<DiskConfig>,
    pub(crate) net: Vec<NetConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) devices: Vec<DeviceConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) fs: Vec<FsConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vsock: Option<VsockConfig>,
    pub(crate) serial: ConsoleConfig,
    pub(crate) console: ConsoleConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<PlatformConfig>,
    /// A device by which the guest's kernel says that it has panicked.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) pvpanic: bool,
    pub(crate) landlock_enable: bool,
    pub(crate) landlock_rules: Vec<LandlockConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CpusConfig {
    pub(crate) boot_vcpus: u32,
    pub(crate) max_vcpus: u32,
    pub(crate) topology: CpuTopology,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) affinity: Vec<CpuAffinity>,
}

/// Where a vCPU's thread runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CpuAffinity {
    pub(crate) vcpu: usize,
    /// By the kernel's number.
    pub(crate) host_cpus: [usize; 1],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CpuTopology {
    pub(crate) threads_per_core: u32,
    pub(crate) cores_per_die: u32,
    pub(crate) dies_per_package: u32,
    pub(crate) packages: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct MemoryConfig {
    /// Bytes.
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) hugepages: bool,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hugepage_size: Option<u64>,
    /// Another process serves a NIC or a file system from it.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) shared: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PayloadConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) firmware: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) initramfs: Option<PathBuf>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) cmdline: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ConsoleConfig {
    pub(crate) mode: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PlatformConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) system_serial_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) system_uuid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) num_pci_segments: Option<u16>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) iommufd: bool,
    /// Strings of SMBIOS, type 11.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) oem_strings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LandlockConfig {
    pub(crate) path: PathBuf,
    pub(crate) access: &'static str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

impl LandlockConfig {
    pub(crate) fn read(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { path, access: "r" }
    }

    fn write(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { path, access: "rw" }
    }
}

/// Gives the platform's fields the names that cloud-hypervisor 52 has for them; the release after it has called those
/// deprecated.
pub(crate) fn with_names_of_52(config: &mut Value) {
    let Some(Value::Object(platform)) = config.get_mut("platform") else {
        return;
    };
    for (name, of_52) in [("system_serial_number", "serial_number"), ("system_uuid", "uuid")] {
        if let Some(value) = platform.remove(name) {
            platform.insert(of_52.to_owned(), value);
        }
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
