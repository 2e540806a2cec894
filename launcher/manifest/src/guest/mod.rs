//! The guest as the manifest wants it: validated, normalised, plain data.
//!
//! Everything here has passed the checks in the sibling modules, so the phases after this one need not look
//! again: names are unique, every interface has its network, quantities are bytes, addresses are parsed.

pub(crate) mod devices;
pub(crate) mod rates;
pub(crate) mod storage;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use hawser_mac::Mac;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use self::devices::{Filesystem, HostDevice, Vsock};
use self::rates::Rates;
use self::storage::{Disk, PublicKeys};
use crate::plugins::Plugin;

/// One guest, validated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestSpec {
    /// `metadata.name`, a DNS name of lower-case labels (RFC 1123).
    pub name: String,
    /// `metadata.namespace`; `default` when the manifest names none, as the API server would have it.
    pub namespace: String,
    /// `metadata.uid`, which only a manifest read back from the cluster has.
    pub uid: Option<String>,
    /// Whether an Istio sidecar shares the pod (`sidecar.istio.io/inject: "true"`: the label, else the annotation).
    pub istio: bool,
    /// TCP ports that stay in the pod besides [`crate::pod_ports`]' (annotation `hawser.dev/keep-ports`, or Linkerd's).
    pub keep_ports: Vec<u16>,
    /// Whether a guest on a bridge to the pod network may migrate although its address changes (annotation
    /// `kubevirt.io/allow-pod-bridge-network-live-migration`, whatever its value, as in KubeVirt).
    pub pod_bridge_may_migrate: bool,
    /// `spec.evictionStrategy`: LiveMigrate or LiveMigrateIfPossible. The guest's container disks are copies, which can go along.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub live_migrate: bool,
    /// The host part of the guest's name: `spec.hostname`, else the VMI's name up to its first dot.
    pub hostname: String,
    /// `spec.subdomain`. With it the FQDN is `<hostname>.<subdomain>.<namespace>.svc.<cluster domain>`.
    pub subdomain: Option<String>,
    /// Virtual CPUs: sockets x cores x threads.
    pub vcpus: u32,
    pub topology: CpuTopology,
    /// Every vCPU has a CPU of the pod's to itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedicated_cpus: Option<DedicatedCpus>,
    /// Guest memory in bytes, a multiple of [`GuestSpec::MEMORY_ALIGN`].
    pub memory: u64,
    /// Bytes of a huge page that guest memory is made of; ordinary pages where there is none.
    pub hugepage_size: Option<u64>,
    /// Without it the guest boots by UEFI from its disks.
    pub kernel_boot: Option<KernelBoot>,
    /// `spec.domain.firmware.uuid`, lower case with dashes.
    pub firmware_uuid: Option<String>,
    /// `spec.domain.firmware.serial`.
    pub firmware_serial: Option<String>,
    /// Seconds between the first power button and the kill; 30 by default.
    pub termination_grace_period_seconds: u64,
    /// `spec.domain.devices.networkInterfaceMultiqueue` as written.
    pub network_interface_multiqueue: Option<bool>,
    /// In the manifest's order; with the default pod interface already added where KubeVirt would add one.
    pub interfaces: Vec<Interface>,
    /// `spec.domain.devices.blockMultiQueue`: a queue for each vCPU instead of one.
    pub block_multi_queue: bool,
    /// In the manifest's order; then one for each volume that no disk names.
    pub disks: Vec<Disk>,
    #[serde(skip_serializing_if = "Rates::is_empty")]
    pub rates: Rates,
    /// GPUs first; each list in the manifest's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_devices: Vec<HostDevice>,
    /// In the manifest's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filesystems: Vec<Filesystem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    /// Keys for root, by a credential of systemd's (`qemuGuestAgent`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub root_keys: Vec<PublicKeys>,
    /// `spec.startStrategy: Paused`: an operator starts the guest.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub starts_paused: bool,
    /// `spec.domain.rebootPolicy: Terminate`: a guest that reboots has ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ends_at_reboot: bool,
    /// Whether the guest has a pvpanic device.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pvpanic: bool,
    #[serde(skip_serializing_if = "SerialConsole::is_logged")]
    pub serial_console: SerialConsole,
}

impl GuestSpec {
    /// Sizes are rounded down to this, so that guest memory is whole huge pages (x86-64: 2 MiB) and the guest
    /// never gets more than the pod allows for.
    pub const MEMORY_ALIGN: u64 = 2 << 20;
    /// Less than this boots no kernel that we know of.
    pub const MEMORY_MIN: u64 = 16 << 20;
    /// Devices on the guest's first PCI segment, of whose 32 slots the host bridge and devices of every guest have some.
    pub const FIRST_SEGMENT: usize = 28;
    /// Devices on any other segment, which has a host bridge alone.
    pub const SEGMENT: usize = 31;
    /// PCI segments that are used for disks.
    pub const SEGMENTS: usize = 8;

    /// Takes these volumes for storage that every pod of this guest has (`--shared`). Their disks leave out the page cache of
    /// their node, which the other node does not see.
    ///
    /// # Errors
    /// A name that is not a claim with a disk that the guest can write.
    pub fn share(&mut self, names: &[String]) -> Result<(), String> {
        for name in names {
            let disk = self.disks.iter_mut().find(|disk| disk.name == *name);
            let disk = disk.ok_or_else(|| format!("{name}: no disk of the guest has this name"))?;
            if !matches!(disk.volume.source, storage::VolumeSource::Claim { .. }) {
                return Err(format!(
                    "{name}: {} is not a persistentVolumeClaim or a dataVolume",
                    disk.volume.path
                ));
            }
            if disk.readonly {
                return Err(format!(
                    "{name}: {} is read-only, and need not be shared to migrate",
                    disk.path
                ));
            }
            disk.shared = true;
            disk.direct = true;
        }
        Ok(())
    }

    /// How many of the disks, from the first, are on the first PCI segment, from which the firmware boots. The others go to
    /// further segments.
    pub fn disks_on_first_segment(&self) -> usize {
        let elsewhere =
            |interface: &&Interface| interface.pci_address.is_some_and(|address| address.domain > 0);
        let others = [
            self.interfaces
                .iter()
                .filter(|interface| !elsewhere(interface))
                .count(),
            self.host_devices.len(),
            self.filesystems.len(),
            usize::from(self.vsock.is_some()),
            usize::from(self.pvpanic),
        ];
        let others = others.into_iter().fold(0, usize::saturating_add);
        Self::FIRST_SEGMENT.saturating_sub(others)
    }
}

/// The guest's serial port, and what becomes of what the guest writes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SerialConsole {
    /// It goes to standard output, and to a file of the state directory.
    #[default]
    Logged,
    /// Only whoever attaches sees it (`logSerialConsole: false`).
    NotLogged,
    /// There is no serial port (`autoattachSerialConsole: false`).
    Absent,
}

impl SerialConsole {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_logged(&self) -> bool {
        *self == Self::Logged
    }
}

/// `spec.domain.cpu`; each part is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CpuTopology {
    pub sockets: u32,
    pub cores: u32,
    pub threads: u32,
}

/// `spec.domain.cpu.dedicatedCpuPlacement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DedicatedCpus {
    /// `isolateEmulatorThread`: what is not a vCPU has one more.
    pub isolate_emulator: bool,
}

/// `spec.domain.firmware.kernelBoot`: the kernel comes from outside the guest's disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelBoot {
    /// Field path, for messages of the later phases.
    pub path: String,
    /// `container.image` as written; for messages only, the pod has it mounted already.
    pub image: String,
    /// Absolute, without `..`, inside the kernel-boot image.
    pub kernel_path: String,
    /// Absolute, without `..`, inside the kernel-boot image.
    pub initrd_path: Option<String>,
    /// The guest's kernel command line: data for the VMM's configuration, never an argument of a process.
    pub kernel_args: String,
}

/// One guest NIC with the network it is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Position in `spec.domain.devices.interfaces`.
    pub index: usize,
    /// Field path of the interface, for messages of the later phases.
    pub path: String,
    /// Name of the interface, equal to its network's.
    pub name: String,
    pub network: Network,
    pub binding: Binding,
    /// The guest's MAC where the manifest sets it: unicast, and not zero.
    pub mac: Option<Mac>,
    pub ports: Ports,
    pub model: Model,
    /// PCI address the guest is to see.
    pub pci_address: Option<PciAddress>,
    /// 1 is first.
    pub boot_order: Option<u32>,
    pub acpi_index: Option<u32>,
    pub tag: Option<String>,
    pub state: LinkState,
    pub dhcp_options: DhcpOptions,
}

/// An entry of `spec.networks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    pub name: String,
    /// Field path of the network, for messages of the later phases.
    pub path: String,
    pub source: NetworkSource,
    /// Place among the pod's secondary networks, from 1, as Multus counts them to name their interfaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<usize>,
    /// The pod's interface on it, once the pod has been asked; by convention while it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_interface: Option<String>,
}

impl Network {
    /// Whether it is the pod's own network, or the Multus default in its place.
    pub fn is_primary(&self) -> bool {
        matches!(
            self.source,
            NetworkSource::Pod { .. } | NetworkSource::Multus { default: true, .. }
        )
    }

    /// The name that KubeVirt gives the pod's interface on it: `eth0` on the primary network, and `pod` with the first 11
    /// hex digits of the SHA-256 of the network's name on another.
    pub fn conventional_interface(&self) -> String {
        if self.is_primary() {
            return PRIMARY.to_owned();
        }
        let hash = Sha256::digest(self.name.as_bytes());
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("pod{}", hex.get(..11).unwrap_or(&hex))
    }
}

/// The primary network's interface, by the container runtimes' convention.
const PRIMARY: &str = "eth0";

/// Where a network comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum NetworkSource {
    /// The pod's own network; the guest networks are those of masquerade, where given.
    Pod {
        vm_network_cidr: Option<Ipv4Net>,
        vm_ipv6_network_cidr: Option<Ipv6Net>,
    },
    /// A NetworkAttachmentDefinition, as `name` or `namespace/name`.
    Multus { network_name: String, default: bool },
    /// A device that the pod has claimed.
    ResourceClaim(Claim),
}

/// One request of a ResourceClaim (Dynamic Resource Allocation).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// Of the entry in `spec.resourceClaims`, which is the pod's too.
    pub name: String,
    pub request: String,
    /// The claim itself where it was there before the pod; absent where one is made from a template.
    pub existing: Option<String>,
}

/// How the guest's NIC is joined to the pod's interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Binding {
    Masquerade,
    Bridge,
    Passt,
    Sriov,
    /// A binding plugin, and what it is registered with.
    Plugin {
        name: String,
        plugin: Box<Plugin>,
    },
}

/// Guest ports that are reachable from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ports {
    /// No list in the manifest: everything that arrives at the pod is for the guest.
    #[default]
    All,
    /// In the manifest's order, not merged; single ports have `first == last`, and may be listed twice.
    Listed(Vec<PortRange>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortRange {
    pub name: Option<String>,
    pub protocol: Protocol,
    /// 1 or more.
    pub first: u16,
    /// `first` or more; the range includes it.
    pub last: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// The NIC that the guest sees. cloud-hypervisor has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    #[default]
    Virtio,
}

/// `state` of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    #[default]
    Up,
    Down,
    /// The NIC is unplugged. No interface of a guest has this: it is left out.
    Absent,
}

/// `dhcpOptions` of an interface: what the DHCPv4 server sends beyond the lease.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct DhcpOptions {
    /// Option 42.
    pub ntp_servers: Vec<Ipv4Addr>,
    /// Option 66.
    pub tftp_server_name: Option<String>,
    /// Option 67.
    pub boot_file_name: Option<String>,
    /// Options 224-254: the value's bytes, sent as they are.
    pub private_options: BTreeMap<u8, Vec<u8>>,
}

/// A PCI address, `dddd:bb:ss.f`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    pub domain: u16,
    pub bus: u8,
    pub slot: u8,
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            slot,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
    }
}

impl Serialize for PciAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for PciAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected a PCI address of the form dddd:bb:ss.f";
        let parse = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (slot, function) = rest.split_once('.')?;
            Some(Self {
                domain: hex(domain, 4)?,
                bus: hex(bus, 2)?.try_into().ok()?,
                slot: hex(slot, 2)?.try_into().ok().filter(|slot| *slot < 32)?,
                function: hex(function, 1)?
                    .try_into()
                    .ok()
                    .filter(|function| *function < 8)?,
            })
        };
        parse().ok_or(FORM)
    }
}

/// Exactly `digits` (at most four) hex digits; `from_str_radix` alone would take a sign too.
fn hex(text: &str, digits: usize) -> Option<u16> {
    if text.len() != digits || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(text, 16).ok()
}
