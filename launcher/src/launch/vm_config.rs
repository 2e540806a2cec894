//! The VM's configuration of a guest in a pod, made by a pure function.

use std::path::Path;

use super::credentials;
use crate::daemons::virtiofsd;
use crate::devices::vsock;
use crate::disks::Drive;
use crate::hooks;
use crate::migration;
use crate::nic::{Attachment, Device};
use crate::pod::boot_source::Boot;
use crate::pod::cpus::Pinning;
use crate::pod::pci::{Access, HostFunction, PciFunctions};
use crate::spec::{GuestSpec, HostDeviceKind, PciAddress, SerialConsole};
use crate::vmm::config::{
    ConsoleConfig, CpuAffinity, CpuTopology, CpusConfig, DeviceConfig, DiskConfig, FsConfig, LandlockConfig,
    MemoryConfig, NetConfig, PayloadConfig, PlatformConfig, VmConfig, VsockConfig, vfio_rules,
};

/// To see whether a TAP is there and multi-queue, cloud-hypervisor reads its flags from sysfs.
pub(super) const TAP_FLAGS: [&str; 2] = ["/sys/class/net", "/sys/devices/virtual/net"];

/// What it is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) guest: &'a GuestSpec,
    pub(crate) boot: &'a Boot,
    pub(crate) cpus: Option<&'a Pinning>,
    pub(crate) drives: &'a [Drive],
    pub(crate) attachments: &'a [Attachment],
    pub(crate) functions: &'a PciFunctions,
    /// Public keys for root.
    pub(crate) root_keys: &'a [String],
    /// The unprivileged half's, with its sockets in it.
    pub(crate) directory: &'a Path,
}

impl Parts<'_> {
    /// Kernel arguments and names are values here and nowhere become process arguments.
    pub(crate) fn vm_config(&self) -> VmConfig {
        let guest = self.guest;
        let net = self.nics();
        let devices = self.devices();
        let disks = self.disks();
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
                affinity: self.affinity(),
            },
            memory: MemoryConfig {
                size: guest.memory,
                hugepages: guest.hugepage_size.is_some(),
                hugepage_size: guest.hugepage_size,
                shared: net.iter().any(NetConfig::is_vhost_user) || !guest.filesystems.is_empty(),
            },
            payload: self.payload(),
            fs: self.filesystems(),
            vsock: guest
                .vsock
                .as_ref()
                .map(|device| VsockConfig::new(device.cid, vsock::socket(self.directory))),
            // The serial port is the guest's console: the VMM's standard output, which carries nothing else.
            // Without a log it goes nowhere, and without a port the guest has none.
            serial: ConsoleConfig {
                mode: match guest.serial_console {
                    SerialConsole::Logged | SerialConsole::NotLogged => "Tty",
                    SerialConsole::Absent => "Off",
                },
            },
            console: ConsoleConfig { mode: "Off" },
            platform: self.platform(&disks, &net, &devices),
            pvpanic: guest.pvpanic,
            landlock_enable: true,
            landlock_rules: self.landlock_rules(&devices),
            disks,
            net,
            devices,
        }
    }

    /// Where each vCPU's thread runs.
    fn affinity(&self) -> Vec<CpuAffinity> {
        let cpus = self.cpus.into_iter().flat_map(|pinning| &pinning.vcpus);
        let affinity = cpus.enumerate().map(|(vcpu, cpu)| CpuAffinity {
            vcpu,
            host_cpus: [*cpu],
        });
        affinity.collect()
    }

    fn payload(&self) -> PayloadConfig {
        match self.boot {
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

    /// The firmware tries disks in the order of their PCI slots, which is the order of this list, so the boot order is
    /// made by sorting: disks with a `bootOrder` first, by that; the rest as in the manifest.
    fn disks(&self) -> Vec<DiskConfig> {
        let queues = if self.guest.block_multi_queue {
            self.guest.vcpus
        } else {
            1
        };
        let mut sorted: Vec<&Drive> = self.drives.iter().collect();
        // Stable: what is equal stays in the manifest's order.
        sorted.sort_by_key(|drive| drive.boot_order.unwrap_or(u32::MAX));
        let mut segments = Segments::new(self.guest);
        let rates = &self.guest.rates.disks;
        let config =
            |drive: &Drive| DiskConfig::new(drive, queues, segments.next()).limited(rates.get(&drive.name));
        sorted.into_iter().map(config).collect()
    }

    /// A sidecar may yet give its NIC a TAP.
    pub(super) fn opens_taps(&self) -> bool {
        !hooks::plugins(self.guest).is_empty() || self.nics().iter().any(NetConfig::has_tap)
    }

    fn nics(&self) -> Vec<NetConfig> {
        let nic = |attachment: &Attachment| match &attachment.device {
            Device::Net(config) => {
                let rate = self.guest.rates.interfaces.get(config.id());
                Some(config.clone().limited(rate))
            }
            Device::Vfio(_) => None,
        };
        self.attachments.iter().filter_map(nic).collect()
    }

    /// VFs, and then the functions that are no interface's.
    fn devices(&self) -> Vec<DeviceConfig> {
        let host = self
            .functions
            .host
            .iter()
            .map(|function| self.host_device(function));
        crate::nic::devices(self.attachments)
            .into_iter()
            .chain(host)
            .collect()
    }

    /// No interface's name has a dot in it, so that the id is nobody else's.
    fn host_device(&self, function: &HostFunction) -> DeviceConfig {
        let kind = match function.kind {
            HostDeviceKind::Gpu => "gpu",
            HostDeviceKind::HostDevice => "host",
        };
        let id = format!("{kind}.{}", function.name);
        DeviceConfig::function(&id, function.address, None, self.functions.access)
    }

    fn filesystems(&self) -> Vec<FsConfig> {
        let names = self.guest.filesystems.iter().map(|filesystem| &filesystem.name);
        names
            .map(|name| FsConfig::new(name, virtiofsd::socket(self.directory, name)))
            .collect()
    }

    fn platform(
        &self,
        disks: &[DiskConfig],
        net: &[NetConfig],
        devices: &[DeviceConfig],
    ) -> Option<PlatformConfig> {
        let of_nics = net.iter().filter_map(NetConfig::pci_address);
        let of_devices = devices.iter().filter_map(DeviceConfig::pci_address);
        let segment = |address: PciAddress| (address.domain > 0).then_some(address.domain);
        let of_disks = disks.iter().filter_map(DiskConfig::pci_segment);
        let last = of_nics
            .chain(of_devices)
            .filter_map(segment)
            .chain(of_disks)
            .max();
        let platform = PlatformConfig {
            system_serial_number: self.guest.firmware_serial.clone(),
            system_uuid: self.guest.firmware_uuid.clone(),
            num_pci_segments: last.map(|last| last.saturating_add(1)),
            iommufd: devices.iter().any(|device| device.access() == Access::Iommufd),
            oem_strings: credentials::strings(self.guest, self.root_keys),
        };
        (platform != PlatformConfig::default()).then_some(platform)
    }

    /// What cloud-hypervisor opens besides what its configuration names, for its own landlock.
    fn landlock_rules(&self, devices: &[DeviceConfig]) -> Vec<LandlockConfig> {
        let mut rules = Vec::new();
        if self.opens_taps() {
            rules.extend(TAP_FLAGS.map(LandlockConfig::read));
        }
        rules.extend(vfio_rules(devices));
        // cloud-hypervisor lets itself read the disks of its configuration, which does not name their bases.
        let bases = self.drives.iter().filter_map(|drive| drive.base.as_ref());
        rules.extend(bases.map(LandlockConfig::read));
        rules.push(LandlockConfig::read(migration::tls_directory(self.directory)));
        rules
    }
}

/// The PCI segment of one disk after the other: the first, from which the firmware boots, as long as it has slots.
struct Segments<'a> {
    guest: &'a GuestSpec,
    segment: u16,
    left: usize,
}

impl<'a> Segments<'a> {
    fn new(guest: &'a GuestSpec) -> Self {
        Self {
            guest,
            segment: 0,
            left: guest.disks_on_first_segment(),
        }
    }

    fn next(&mut self) -> u16 {
        while self.left == 0 {
            self.segment = self.segment.saturating_add(1);
            // NICs may have been given slots there.
            let taken = self.guest.interfaces.iter().filter(|interface| {
                interface
                    .pci_address
                    .is_some_and(|address| address.domain == self.segment)
            });
            self.left = GuestSpec::SEGMENT.saturating_sub(taken.count());
        }
        self.left = self.left.saturating_sub(1);
        self.segment
    }
}

#[cfg(test)]
mod tests;
