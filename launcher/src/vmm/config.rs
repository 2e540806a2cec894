//! The VM's configuration as cloud-hypervisor's API wants it (its cloud-hypervisor.yaml), made by a pure function.
//!
//! Only the fields that hawser sets; everything else has cloud-hypervisor's own default.

mod devices;
mod disks;

use std::path::{Path, PathBuf};

use hawser_netsetup::{CniDevice, CniNic, GuestNic};
use serde::Serialize;
use serde_json::Value;

use crate::binding::{Attachment, Device, Functions};
use crate::cpus::{Cpu, Pinning};
use crate::disks::Drive;
use crate::hooks;
use crate::image::Boot;
use crate::migration;
use crate::spec::{GuestSpec, Mac, PciAddress};
use crate::vfio::Access;

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

/// cloud-hypervisor's own default.
const QUEUE_SIZE: u16 = 256;

/// One virtio-net device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NetConfig {
    id: String,
    /// Absent for a device that is handed over as a descriptor, or that a process serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    tap: Option<String>,
    mac: String,
    /// Travels in a live migration, so it is the same in every pod. Absent for a device that is not ours to name.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_mac: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    vhost_user: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    vhost_socket: Option<PathBuf>,
    /// Receive and transmit queues together.
    num_queues: u16,
    queue_size: u16,
    #[serde(flatten)]
    slot: Option<Slot>,
}

/// A place on the guest's PCI, of which everything else is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Slot {
    #[serde(skip_serializing_if = "Option::is_none")]
    pci_segment: Option<u16>,
    pci_device_id: u8,
}

impl NetConfig {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn mac(&self) -> &str {
        &self.mac
    }

    pub(crate) fn place(&self) -> Option<PciAddress> {
        self.slot
            .map(|slot| address(slot.pci_segment, slot.pci_device_id))
    }

    pub(crate) fn put(&mut self, address: PciAddress) {
        self.slot = Some(Slot {
            pci_segment: Some(address.domain).filter(|domain| *domain > 0),
            pci_device_id: address.slot,
        });
    }

    /// A persistent TAP, opened by name: a NIC given by descriptor cannot migrate. `mtu` stays unset: the guest is
    /// then told the TAP's own.
    pub(crate) fn tap(nic: &GuestNic) -> Self {
        Self {
            id: nic.name.clone(),
            tap: Some(nic.tap.clone()),
            mac: Mac(nic.guest_mac).to_string(),
            host_mac: Some(Mac(nic.gateway_mac).to_string()),
            vhost_user: false,
            vhost_socket: None,
            num_queues: nic.queue_pairs.saturating_mul(2),
            queue_size: QUEUE_SIZE,
            slot: None,
        }
    }

    /// A NIC that a process behind `socket` serves; cloud-hypervisor connects when the guest boots, from / as its directory.
    pub(crate) fn vhost_user(nic: &GuestNic, socket: &Path) -> Self {
        Self {
            id: nic.name.clone(),
            tap: None,
            mac: Mac(nic.guest_mac).to_string(),
            host_mac: None,
            vhost_user: true,
            vhost_socket: Some(std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned())),
            num_queues: nic.queue_pairs.saturating_mul(2),
            queue_size: QUEUE_SIZE,
            slot: None,
        }
    }

    /// A NIC whose backend somebody else is going to name: a binding plugin's sidecar.
    pub(crate) fn without_backend(name: &str, mac: Mac) -> Self {
        Self {
            id: name.to_owned(),
            tap: None,
            mac: mac.to_string(),
            host_mac: None,
            vhost_user: false,
            vhost_socket: None,
            num_queues: 2,
            queue_size: QUEUE_SIZE,
            slot: None,
        }
    }

    /// What a CNI plugin made: a TAP by name, which keeps its own MAC, or a macvtap by descriptors.
    pub(crate) fn of_cni(nic: &CniNic) -> Self {
        Self {
            id: nic.name.clone(),
            tap: (nic.device == CniDevice::Tap).then(|| nic.interface.clone()),
            mac: Mac(nic.guest_mac).to_string(),
            host_mac: None,
            vhost_user: false,
            vhost_socket: None,
            num_queues: nic.queue_pairs.saturating_mul(2),
            queue_size: QUEUE_SIZE,
            slot: None,
        }
    }
}

/// A function of the node's PCI, by VFIO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DeviceConfig {
    id: String,
    path: PathBuf,
    /// Of the guest, as is the slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pci_segment: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pci_device_id: Option<u8>,
    #[serde(skip)]
    access: Access,
}

fn address(segment: Option<u16>, slot: u8) -> PciAddress {
    PciAddress {
        domain: segment.unwrap_or(0),
        bus: 0,
        slot,
        function: 0,
    }
}

impl DeviceConfig {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn place(&self) -> Option<PciAddress> {
        self.pci_device_id.map(|slot| address(self.pci_segment, slot))
    }

    pub(crate) fn put(&mut self, address: PciAddress) {
        self.pci_segment = Some(address.domain).filter(|domain| *domain > 0);
        self.pci_device_id = Some(address.slot);
    }

    /// The path must be the link in `bus/pci`, which cloud-hypervisor reads to know the device.
    pub(crate) fn function(id: &str, address: PciAddress, guest: Option<PciAddress>, access: Access) -> Self {
        Self {
            id: id.to_owned(),
            path: format!("/sys/bus/pci/devices/{address}").into(),
            pci_segment: guest.map(|guest| guest.domain).filter(|domain| *domain > 0),
            pci_device_id: guest.map(|guest| guest.slot),
            access,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
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
    functions: &Functions,
    directory: &Path,
) -> VmConfig {
    let mut net = Vec::new();
    let mut devices = Vec::new();
    for attachment in attachments {
        match &attachment.device {
            Device::Net(config) | Device::Macvtap(config, _) => net.push(config.clone()),
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
    landlock_rules.extend(vfio_rules(&devices));
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

/// What cloud-hypervisor opens for functions. Its own rule for them names a node by the PCI address, and there is none of
/// that name. The rules go along in a live migration, so they are the same in every pod: they name no function.
fn vfio_rules(devices: &[DeviceConfig]) -> Vec<LandlockConfig> {
    let mut rules = Vec::new();
    if !devices.is_empty() {
        rules.push(rule("/dev/vfio", "rw"));
    }
    if devices.iter().any(|device| device.access == Access::Iommufd) {
        rules.push(rule("/dev/iommu", "rw"));
        // Where the device's own node is called by its name.
        rules.push(rule("/sys/devices", "r"));
    }
    rules
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
mod tests {
    use hawser_netsetup::{FamilyPlan, GATEWAY_MAC};

    use super::*;
    use crate::disks::ImageType;
    use crate::image::KernelFiles;

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

    fn nic() -> GuestNic {
        GuestNic {
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
            passt: None,
        }
    }

    fn attachment() -> Attachment {
        Attachment {
            device: Device::Net(NetConfig::tap(&nic())),
            server: None,
            passt: None,
        }
    }

    fn kernel() -> Boot {
        Boot::Kernel(KernelFiles {
            kernel: "/guest/vmlinux".into(),
            initrd: Some("/guest/initrd".into()),
            cmdline: "console=ttyS0 --api-socket=/x".into(),
        })
    }

    fn drive(name: &str, boot_order: Option<u32>) -> Drive {
        Drive {
            name: name.into(),
            path: format!("/disks/{name}").into(),
            image_type: ImageType::Raw,
            base: None,
            readonly: false,
            direct: false,
            serial: None,
            boot_order,
            make: None,
        }
    }

    fn vm_config(guest: &GuestSpec, boot: &Boot, drives: &[Drive], attachments: &[Attachment]) -> VmConfig {
        let functions = Functions {
            vfs: Vec::new(),
            host: Vec::new(),
            access: Access::Group,
        };
        super::vm_config(
            guest,
            boot,
            drives,
            attachments,
            &functions,
            Path::new("/run/vmm"),
        )
    }

    #[test]
    fn the_configuration_of_a_masqueraded_guest() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        insta::assert_json_snapshot!(vm_config(&guest, &kernel(), &[], &[attachment()]));
    }

    #[test]
    fn each_vcpu_has_its_cpu() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let pinning = Pinning {
            vcpus: vec![4, 12, 5, 13],
            rest: Some(6),
        };
        let config = vm_config(&guest, &kernel(), &[], &[]).pinned(Some(&pinning));
        let cpus = serde_json::to_value(config).unwrap()["cpus"].clone();
        assert_eq!(
            cpus["affinity"],
            serde_json::json!([
                {"vcpu": 0, "host_cpus": [4]}, {"vcpu": 1, "host_cpus": [12]},
                {"vcpu": 2, "host_cpus": [5]}, {"vcpu": 3, "host_cpus": [13]},
            ])
        );
    }

    fn cni(name: &str, device: CniDevice) -> Attachment {
        let nic = CniNic {
            name: name.into(),
            interface: format!("tap-{name}"),
            device,
            queue_pairs: 2,
            guest_mac: [2, 0, 0, 0, 0, 3],
            mac: [2, 0, 0, 0, 0, 3],
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
        Attachment {
            device,
            server: None,
            passt: None,
        }
    }

    #[test]
    fn a_device_of_a_cni_plugin_keeps_its_mac_and_a_macvtap_has_no_name() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let config = vm_config(
            &guest,
            &kernel(),
            &[],
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
        assert_eq!(config.landlock_rules.len(), 3);
        let config = vm_config(
            &guest,
            &kernel(),
            &[],
            &[cni("blue", CniDevice::Macvtap { index: 4 })],
        );
        assert_eq!(config.landlock_rules.len(), 1);
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
        let config = vm_config(&guest, &kernel(), &[], &attachments);
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
    fn memory_is_shared_with_who_serves_a_nic_from_it() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let mut shared = attachment();
        let nic = nic();
        shared.device = Device::Net(NetConfig::vhost_user(
            &nic,
            Path::new("/run/hawser/vmm/passt.sock"),
        ));
        let config = serde_json::to_value(vm_config(&guest, &kernel(), &[], &[shared])).unwrap();
        assert_eq!(config["memory"]["shared"], true);
        assert_eq!(
            config["net"][0],
            serde_json::json!({"id": "default", "mac": "02:11:22:33:44:55", "vhost_user": true,
                "vhost_socket": "/run/hawser/vmm/passt.sock", "num_queues": 8, "queue_size": 256})
        );
        assert_eq!(
            config["landlock_rules"].as_array().unwrap().len(),
            1,
            "no TAP to look for"
        );
    }

    #[test]
    fn a_nic_whose_backend_is_not_known_yet_may_come_to_have_a_tap() {
        let registry = crate::plugins::parse("proxy: {sidecarImage: i}", "FILE").unwrap();
        let manifest = MANIFEST.replace("masquerade: {}", "binding: {name: proxy}");
        let guest = crate::spec::load_with(&manifest, &registry).unwrap().spec;
        let sidecars = Attachment {
            device: Device::Net(NetConfig::without_backend("default", Mac([2, 0, 0, 0, 0, 1]))),
            server: None,
            passt: None,
        };
        let rules = vm_config(&guest, &kernel(), &[], &[sidecars]).landlock_rules;
        assert!(
            rules.iter().any(|rule| rule.path.ends_with("class/net")),
            "cloud-hypervisor could not look for the TAP: {rules:?}"
        );
    }

    #[test]
    fn a_guest_without_a_nic_needs_no_sysfs() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let config = vm_config(&guest, &kernel(), &[], &[]);
        assert!(config.net.is_empty() && config.landlock_rules.len() == 1);
        assert!(config.landlock_enable);
    }

    fn function(name: &str, at: Option<&str>, access: Access) -> Attachment {
        let at = at.map(|address| address.parse().unwrap());
        Attachment {
            device: Device::Vfio(DeviceConfig::function(
                name,
                "0000:01:10.0".parse().unwrap(),
                at,
                access,
            )),
            server: None,
            passt: None,
        }
    }

    #[test]
    fn a_function_is_named_by_its_path_and_landlock_lets_its_nodes_be_opened() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let attachments = [
            attachment(),
            function("red", None, Access::Group),
            function("blue", Some("0002:00:1f.0"), Access::Group),
        ];
        let config = serde_json::to_value(vm_config(&guest, &kernel(), &[], &attachments)).unwrap();
        insta::assert_json_snapshot!(serde_json::json!({
            "devices": config["devices"], "platform": config["platform"], "landlock_rules": config["landlock_rules"],
        }));
    }

    #[test]
    fn by_iommufd_the_platform_says_so_and_every_device_may_be_read() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let attachments = [function("red", Some("0000:00:04.0"), Access::Iommufd)];
        let config = serde_json::to_value(vm_config(&guest, &kernel(), &[], &attachments)).unwrap();
        insta::assert_json_snapshot!(serde_json::json!({
            "devices": config["devices"], "platform": config["platform"], "landlock_rules": config["landlock_rules"],
        }));
    }

    #[test]
    fn a_guest_with_a_gpu_a_shared_file_system_and_a_virtio_socket() {
        let devices = "devices:
      autoattachVSOCK: true
      gpus: [{name: g, deviceName: x.io/gpu}]
      filesystems: [{name: data, virtiofs: {}}]
      interfaces:";
        let volumes = "  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]\n";
        let manifest = MANIFEST.replace("devices: {interfaces:", devices);
        let manifest = manifest.replace("masquerade: {}}]}", "masquerade: {}}]") + volumes;
        let guest = crate::spec::load(&manifest).unwrap().spec;
        let functions = Functions {
            vfs: Vec::new(),
            host: vec![crate::peripherals::HostFunction {
                name: "g".into(),
                kind: crate::spec::HostDeviceKind::Gpu,
                address: "0000:65:00.0".parse().unwrap(),
            }],
            access: Access::Group,
        };
        let config = super::vm_config(
            &guest,
            &kernel(),
            &[],
            &[attachment()],
            &functions,
            Path::new("/run/vmm"),
        );
        let config = serde_json::to_value(config).unwrap();
        insta::assert_json_snapshot!(serde_json::json!({
            "memory": config["memory"], "devices": config["devices"], "fs": config["fs"], "vsock": config["vsock"],
            "landlock_rules": config["landlock_rules"],
        }));
        assert!(config["disks"].is_null(), "a shared volume is no disk");
    }

    #[test]
    fn a_guest_that_boots_from_its_disks_in_their_order() {
        let mut guest = crate::spec::load(MANIFEST).unwrap().spec;
        guest.block_multi_queue = true;
        let overlay = Drive {
            image_type: ImageType::Qcow2,
            base: Some("/images/root/disk/root.img".into()),
            direct: true,
            serial: Some("S1".into()),
            ..drive("root", Some(1))
        };
        let seed = Drive {
            readonly: true,
            ..drive("seed", None)
        };
        let drives = [drive("data", None), drive("second", Some(2)), seed, overlay];
        let boot = Boot::Firmware("/fw/CLOUDHV.fd".into());
        insta::assert_json_snapshot!(vm_config(&guest, &boot, &drives, &[]));
    }
}
