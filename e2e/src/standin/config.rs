//! The part of the VM configuration that is looked at, and the names of the rest.
//!
//! The real API ignores fields that it does not know. This one refuses them, so that a misspelt field fails a test
//! instead of silently doing nothing.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VmConfig {
    #[serde(default)]
    pub(crate) cpus: Option<Cpus>,
    #[serde(default)]
    pub(crate) memory: Option<Memory>,
    pub(crate) payload: Option<Payload>,
    #[serde(default)]
    pub(crate) net: Option<Vec<Net>>,
    #[serde(default)]
    pub(crate) serial: Option<Console>,
    #[serde(default)]
    pub(crate) console: Option<Console>,
    #[serde(default)]
    pub(crate) debug_console: Option<Console>,
    #[serde(default)]
    pub(crate) landlock_enable: bool,
    #[serde(default)]
    pub(crate) landlock_rules: Option<Vec<LandlockRule>>,
    #[serde(default)]
    pub(crate) rate_limit_groups: Value,
    #[serde(default)]
    pub(crate) disks: Value,
    #[serde(default)]
    pub(crate) rng: Value,
    #[serde(default)]
    pub(crate) balloon: Value,
    #[serde(default)]
    pub(crate) fs: Value,
    #[serde(default)]
    pub(crate) pmem: Value,
    #[serde(default)]
    pub(crate) devices: Value,
    #[serde(default)]
    pub(crate) vdpa: Value,
    #[serde(default)]
    pub(crate) vsock: Value,
    #[serde(default)]
    pub(crate) pvpanic: bool,
    #[serde(default)]
    pub(crate) iommu: bool,
    #[serde(default)]
    pub(crate) numa: Value,
    #[serde(default)]
    pub(crate) watchdog: bool,
    #[serde(default)]
    pub(crate) rtc: Value,
    #[serde(default)]
    pub(crate) pci_segments: Value,
    #[serde(default)]
    pub(crate) platform: Value,
    #[serde(default)]
    pub(crate) tpm: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cpus {
    pub(crate) boot_vcpus: u32,
    pub(crate) max_vcpus: u32,
    #[serde(default)]
    pub(crate) topology: Value,
    #[serde(default)]
    pub(crate) kvm_hyperv: Value,
    #[serde(default)]
    pub(crate) max_phys_bits: Value,
    #[serde(default)]
    pub(crate) affinity: Value,
    #[serde(default)]
    pub(crate) features: Value,
    #[serde(default)]
    pub(crate) nested: Value,
    #[serde(default)]
    pub(crate) core_scheduling: Value,
    #[serde(default)]
    pub(crate) profile: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) mergeable: bool,
    #[serde(default)]
    pub(crate) hotplug_method: Value,
    #[serde(default)]
    pub(crate) hotplug_size: Value,
    #[serde(default)]
    pub(crate) shared: bool,
    #[serde(default)]
    pub(crate) hugepages: bool,
    #[serde(default)]
    pub(crate) hugepage_size: Value,
    #[serde(default)]
    pub(crate) prefault: bool,
    #[serde(default)]
    pub(crate) reserve: bool,
    #[serde(default)]
    pub(crate) zones: Value,
    #[serde(default)]
    pub(crate) thp: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payload {
    #[serde(default)]
    pub(crate) firmware: Option<String>,
    #[serde(default)]
    pub(crate) kernel: Option<String>,
    #[serde(default)]
    pub(crate) cmdline: Option<String>,
    #[serde(default)]
    pub(crate) initramfs: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Net {
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(default)]
    pub(crate) tap: Option<String>,
    pub(crate) mac: String,
    #[serde(default)]
    pub(crate) host_mac: Option<String>,
    #[serde(default)]
    pub(crate) mtu: Option<u32>,
    #[serde(default = "two")]
    pub(crate) num_queues: usize,
    #[serde(default)]
    pub(crate) queue_size: Option<u16>,
    #[serde(default)]
    pub(crate) vhost_user: bool,
    #[serde(default)]
    pub(crate) vhost_socket: Option<String>,
    #[serde(default)]
    pub(crate) vhost_mode: Value,
    #[serde(default)]
    pub(crate) iommu: bool,
    #[serde(default)]
    pub(crate) pci_segment: Value,
    #[serde(default)]
    pub(crate) pci_device_id: Value,
    #[serde(default)]
    pub(crate) rate_limiter_config: Value,
    #[serde(default)]
    pub(crate) offload_tso: Option<bool>,
    #[serde(default)]
    pub(crate) offload_ufo: Option<bool>,
    #[serde(default)]
    pub(crate) offload_csum: Option<bool>,
    /// One for each queue pair, where they came with `vm.add-net`; kept over a reboot.
    #[serde(skip)]
    pub(crate) files: Vec<Arc<OwnedFd>>,
}

fn two() -> usize {
    2
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ConsoleMode {
    Off,
    Pty,
    Tty,
    File,
    Socket,
    Null,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Console {
    pub(crate) mode: ConsoleMode,
    #[serde(default)]
    pub(crate) file: Option<String>,
    #[serde(default)]
    pub(crate) socket: Option<String>,
    #[serde(default)]
    pub(crate) iommu: bool,
    #[serde(default)]
    pub(crate) iobase: Value,
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(default)]
    pub(crate) pci_segment: Value,
    #[serde(default)]
    pub(crate) pci_device_id: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LandlockRule {
    pub(crate) path: String,
    pub(crate) access: String,
}

impl VmConfig {
    /// The checks of `vm.create` whose failure a launcher could cause.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let payload = self.payload.as_ref().ok_or("Payload configuration is missing")?;
        if payload.kernel.is_none() && payload.firmware.is_none() {
            return Err("No kernel or firmware given".to_owned());
        }
        let vcpus = match &self.cpus {
            Some(cpus) if cpus.boot_vcpus == 0 || cpus.max_vcpus < cpus.boot_vcpus => {
                return Err("Max CPUs lower than boot CPUs".to_owned());
            }
            Some(cpus) => cpus.boot_vcpus as usize,
            None => 1,
        };
        for net in self.net.iter().flatten() {
            if net.num_queues < 2 || net.num_queues % 2 != 0 {
                return Err(format!(
                    "Number of queues to virtio_net is invalid: {}",
                    net.num_queues
                ));
            }
            if !net.files.is_empty() && net.files.len() * 2 != net.num_queues {
                return Err(format!(
                    "Number of queues does not match the number of descriptors: {}",
                    net.num_queues
                ));
            }
            if net.num_queues / 2 > vcpus {
                return Err("Number of queues is higher than number of vCPUs".to_owned());
            }
            if net.vhost_user
                && !self
                    .memory
                    .as_ref()
                    .is_some_and(|memory| memory.shared || memory.hugepages)
            {
                return Err("Using vhost-user requires shared memory or huge pages".to_owned());
            }
        }
        if let Some(rule) = self
            .landlock_rules
            .iter()
            .flatten()
            .find(|rule| !matches!(rule.access.as_str(), "r" | "w" | "rw"))
        {
            return Err(format!("landlock access {}", rule.access));
        }
        Ok(())
    }
}
