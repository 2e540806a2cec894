//! From what was written to what is meant: defaults filled in, values parsed, the rules of KubeVirt applied.
//!
//! Nothing here stops at the first problem. A part that cannot be made is `None`, and a refusal says why; the
//! guest is made only when every part is there.

mod amounts;
mod boot_orders;
mod cloud_init;
mod credentials;
mod dedicated;
mod devices;
mod disks;
mod firmware;
mod interfaces;
mod limits;
mod mesh;
mod names;
mod networks;
mod one_of;
mod paths;
mod ports;
mod rates;
mod volumes;

use serde_json::Value;

use crate::document::fields::List;
use crate::document::report::{FieldPath, Report, quoted};
use crate::document::text::{given, is_dns_name, is_label};
use crate::guest::{CpuTopology, GuestSpec, SerialConsole};
use crate::plugins::Registry;
use crate::support;
use crate::v1;
use crate::v1::PageSize;

use amounts::{amount, resource};

const POD_BRIDGE_MIGRATION_ANNOTATION: &str = "kubevirt.io/allow-pod-bridge-network-live-migration";
/// More than KVM takes on common kernels; catches slips such as cores for megahertz.
const MAX_VCPUS: u32 = 1024;

/// `raw` is the manifest as it was before unfit fields were taken out.
pub(crate) fn resolve(
    vmi: &v1::VirtualMachineInstance,
    raw: &Value,
    registry: &Registry,
    report: &mut Report,
) -> Option<GuestSpec> {
    let names = vmi.metadata.as_ref().and_then(|metadata| names(metadata, report));
    let spec = vmi.spec.as_ref()?;
    let domain = spec.domain.as_ref()?;

    let hostname = label(spec.hostname.as_deref(), "spec.hostname", report);
    let subdomain = subdomain(spec.subdomain.as_deref(), "spec.subdomain", report);
    let grace = grace_period(spec, report);
    let topology = topology(domain, report);
    let dedicated_cpus = dedicated::resolve(domain, topology.and_then(vcpus), report);
    let memory = memory(domain, raw, report);
    note_machine(domain, report);
    note_growth(domain, topology, memory, report);
    let interfaces = interfaces::resolve(spec, domain, raw, registry, report);
    let volumes = volumes::resolve(&spec.volumes, raw, report);
    let mut disks = disks::resolve(spec, domain, &volumes, raw, report);
    let root_keys = credentials::resolve(spec, disks.as_deref_mut(), report);
    let vsock = devices::vsock(vmi, &domain.devices, report);
    boot_orders::check(domain, raw, report);
    let rates = vmi
        .metadata
        .as_ref()
        .map(|metadata| rates::resolve(metadata, interfaces.as_deref(), disks.as_deref(), report))
        .unwrap_or_default();
    if domain.devices.block_multi_queue == Some(true) {
        disks::note_one_queue(disks.as_deref().unwrap_or_default(), report);
    }
    let filesystems = devices::filesystems(spec, &domain.devices, &volumes, raw, report);
    devices::no_tpm(&domain.devices, report);
    let host_devices = devices::host_devices(spec, &domain.devices, report);
    let boot_source = firmware::boot_source(domain, raw, report);
    let uuid = firmware::uuid(domain, report);

    let Names {
        name,
        namespace,
        uid,
        istio,
        keep_ports,
        pod_bridge_may_migrate,
    } = names?;
    let topology = topology?;
    Some(GuestSpec {
        hostname: hostname.unwrap_or_else(|| default_hostname(&name)),
        name,
        namespace,
        uid,
        istio,
        keep_ports,
        pod_bridge_may_migrate,
        live_migrate: matches!(
            spec.eviction_strategy.as_deref(),
            Some("LiveMigrate" | "LiveMigrateIfPossible")
        ),
        subdomain,
        vcpus: vcpus(topology)?,
        topology,
        dedicated_cpus,
        memory: memory?,
        hugepage_size: hugepage_size(domain, memory, report),
        kernel_boot: boot_source?.kernel(),
        firmware_uuid: uuid,
        firmware_serial: domain
            .firmware
            .as_ref()
            .and_then(|firmware| given(&firmware.serial))
            .map(str::to_owned),
        termination_grace_period_seconds: grace?,
        network_interface_multiqueue: domain.devices.network_interface_multiqueue,
        interfaces: interfaces?,
        block_multi_queue: domain.devices.block_multi_queue.unwrap_or(false),
        disks: disks?,
        rates,
        host_devices: host_devices?,
        filesystems: filesystems?,
        vsock,
        root_keys,
        starts_paused: spec.start_strategy == Some(v1::StartStrategy::Paused),
        ends_at_reboot: domain.reboot_policy == Some(v1::RebootPolicy::Terminate),
        pvpanic: devices::pvpanic(&domain.devices, report),
        serial_console: serial_console(&domain.devices),
    })
}

/// As in KubeVirt, whose cluster logs the console unless it or the manifest says otherwise.
fn serial_console(devices: &v1::Devices) -> SerialConsole {
    match (devices.autoattach_serial_console, devices.log_serial_console) {
        (Some(false), _) => SerialConsole::Absent,
        (_, Some(false)) => SerialConsole::NotLogged,
        _ => SerialConsole::Logged,
    }
}

struct Names {
    name: String,
    namespace: String,
    uid: Option<String>,
    istio: bool,
    keep_ports: Vec<u16>,
    pod_bridge_may_migrate: bool,
}

fn names(metadata: &v1::Metadata, report: &mut Report) -> Option<Names> {
    let namespace = label(metadata.namespace.as_deref(), "metadata.namespace", report);
    if metadata.name.as_deref() == Some("") {
        report.refuse(FieldPath::of("metadata.name"), "required");
    }
    let mesh = mesh::resolve(metadata, report);
    Some(Names {
        name: object_name(metadata.name.as_deref(), report)?,
        namespace: namespace.unwrap_or_else(|| "default".to_owned()),
        uid: given(&metadata.uid).map(str::to_owned),
        istio: mesh.istio,
        keep_ports: mesh.keep_ports,
        pod_bridge_may_migrate: metadata.annotations.contains_key(POD_BRIDGE_MIGRATION_ANNOTATION),
    })
}

/// As KubeVirt's `SanitizeHostname`, the name up to its first dot, at most 63 characters; but without a dash at its end, which
/// no host name has.
fn default_hostname(name: &str) -> String {
    let first = name.split('.').next().unwrap_or_default();
    let cut = first.get(..63).unwrap_or(first);
    cut.trim_end_matches('-').to_owned()
}

/// Kubernetes bounds the whole name of an object, and not its parts: they may be longer than those of a host's name.
fn object_name(text: Option<&str>, report: &mut Report) -> Option<String> {
    let text = text.filter(|text| !text.is_empty())?;
    let is_part = |part: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(allowed) && !part.starts_with('-') && !part.ends_with('-')
    };
    if text.len() > 253 || !text.split('.').all(is_part) {
        let form = "expected a DNS name in lower case";
        report.refuse(
            FieldPath::of("metadata.name"),
            format!("{form}, found {}", quoted(text)),
        );
        return None;
    }
    Some(text.to_owned())
}

fn label(text: Option<&str>, path: &str, report: &mut Report) -> Option<String> {
    let text = text.filter(|text| !text.is_empty())?;
    if !is_label(text) {
        let form = "expected at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
        report.refuse(FieldPath::of(path), format!("{form}, found {}", quoted(text)));
        return None;
    }
    Some(text.to_owned())
}

fn subdomain(text: Option<&str>, path: &str, report: &mut Report) -> Option<String> {
    let text = text.filter(|text| !text.is_empty())?;
    if !is_dns_name(text) {
        let form = "expected a DNS name in lower case";
        report.refuse(FieldPath::of(path), format!("{form}, found {}", quoted(text)));
        return None;
    }
    Some(text.to_owned())
}

fn grace_period(spec: &v1::Spec, report: &mut Report) -> Option<u64> {
    let seconds = spec.termination_grace_period_seconds.unwrap_or(30);
    let valid = u64::try_from(seconds).ok();
    if valid.is_none() {
        let path = FieldPath::of("spec.terminationGracePeriodSeconds");
        report.refuse(path, format!("must be at least 0, found {seconds}"));
    }
    valid
}

/// As KubeVirt's `GetCPUTopology`: 0 is unset, unset is 1; where nothing is set, the CPU limit or else the CPU
/// request, rounded up, gives the sockets.
fn topology(domain: &v1::Domain, report: &mut Report) -> Option<CpuTopology> {
    let count = |pick: fn(&v1::Cpu) -> Option<u32>| domain.cpu.as_ref().and_then(pick).filter(|n| *n > 0);
    let (sockets, cores, threads) = (count(|c| c.sockets), count(|c| c.cores), count(|c| c.threads));
    let mut topology = CpuTopology {
        sockets: sockets.unwrap_or(1),
        cores: cores.unwrap_or(1),
        threads: threads.unwrap_or(1),
    };
    let mut path = FieldPath::of("spec.domain.cpu");
    let limit = resource(&domain.resources.limits, "limits", "cpu", report);
    let request = resource(&domain.resources.requests, "requests", "cpu", report);
    if sockets.or(cores).or(threads).is_none()
        && let Some((from, cpus)) = limit.or(request)
    {
        topology.sockets = u32::try_from(cpus.max(1)).unwrap_or(u32::MAX);
        path = from;
    }
    if vcpus(topology).is_none() {
        report.refuse(path, format!("more than {MAX_VCPUS} vCPUs"));
        return None;
    }
    Some(topology)
}

fn vcpus(topology: CpuTopology) -> Option<u32> {
    let CpuTopology {
        sockets,
        cores,
        threads,
    } = topology;
    sockets
        .checked_mul(cores)?
        .checked_mul(threads)
        .filter(|vcpus| *vcpus <= MAX_VCPUS)
}

/// As KubeVirt's `GetVirtualMemory`: the guest's own memory, else the request, else the limit. Rounded down to
/// [`GuestSpec::MEMORY_ALIGN`], so that the guest never gets more than the pod allows for.
fn memory(domain: &v1::Domain, raw: &Value, report: &mut Report) -> Option<u64> {
    let guest_path = FieldPath::of("spec.domain.memory.guest");
    let request = resource(&domain.resources.requests, "requests", "memory", report);
    let limit = resource(&domain.resources.limits, "limits", "memory", report);
    let written = domain.memory.as_ref().and_then(|memory| memory.guest.as_ref());
    let (path, bytes) = match written {
        Some(guest) => {
            let bytes = amount(&guest.0, &guest_path, report)?;
            (guest_path, bytes)
        }
        None => {
            let resources = &domain.resources;
            let any = resources.requests.contains_key("memory")
                || resources.limits.contains_key("memory")
                || raw
                    .pointer("/spec/domain/memory/guest")
                    .is_some_and(|value| !value.is_null());
            match request.or(limit.clone()) {
                Some(found) => found,
                None => {
                    if !any {
                        report.refuse(guest_path, "required, unless spec.domain.resources names memory");
                    }
                    return None;
                }
            }
        }
    };
    if let Some((_, limit)) = limit
        && bytes > limit
    {
        report.refuse(path, "more than spec.domain.resources.limits.memory");
        return None;
    }
    if bytes < GuestSpec::MEMORY_MIN {
        let least = GuestSpec::MEMORY_MIN >> 20;
        report.refuse(path, format!("must be at least {least}Mi, found {bytes} bytes"));
        return None;
    }
    Some(bytes - bytes % GuestSpec::MEMORY_ALIGN)
}

/// What is there only once, or not at all.
fn note_machine(domain: &v1::Domain, report: &mut Report) {
    if let Some(name) = domain.machine.as_ref().and_then(|machine| given(&machine.r#type)) {
        let path = FieldPath::of("spec.domain.machine.type");
        let why = support::why("spec.domain.machine.type");
        report.note(path, format!("{why}, which is not {}", quoted(name)));
    }
    for (index, input) in domain.devices.inputs.iter().flat_map(List::iter) {
        let path = FieldPath::of("spec.domain.devices.inputs").index(index);
        if input.name.as_deref() == Some("") {
            report.refuse(path.key("name"), "required");
        }
    }
}

/// What the guest could grow to, where that is more than what it boots with.
fn note_growth(domain: &v1::Domain, topology: Option<CpuTopology>, memory: Option<u64>, report: &mut Report) {
    let most = domain.cpu.as_ref().and_then(|cpu| cpu.max_sockets);
    if let (Some(most), Some(topology)) = (most, topology)
        && most > topology.sockets
    {
        let path = "spec.domain.cpu.maxSockets";
        report.note(FieldPath::of(path), support::why(path));
    }
    let most = domain
        .memory
        .as_ref()
        .and_then(|memory| memory.max_guest.as_ref());
    if let Some(most) = most {
        let path = FieldPath::of("spec.domain.memory.maxGuest");
        let most = amount(&most.0, &path, report);
        if let (Some(most), Some(memory)) = (most, memory)
            && most > memory.saturating_add(GuestSpec::MEMORY_ALIGN)
        {
            report.note(path, support::why("spec.domain.memory.maxGuest"));
        }
    }
}

/// Rounding down would take memory away that the manifest names, so a size that is no whole number of pages is refused.
fn hugepage_size(domain: &v1::Domain, memory: Option<u64>, report: &mut Report) -> Option<u64> {
    let size = domain.memory.as_ref()?.hugepages.as_ref()?.page_size?;
    let (bytes, name) = match size {
        PageSize::TwoMebi => (2 << 20, "2Mi"),
        PageSize::OneGibi => (1 << 30, "1Gi"),
    };
    if memory.is_some_and(|memory| memory % bytes != 0) {
        let path = FieldPath::of("spec.domain.memory.hugepages.pageSize");
        report.refuse(path, format!("guest memory is no multiple of {name}"));
    }
    Some(bytes)
}
