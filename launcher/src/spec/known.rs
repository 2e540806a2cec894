//! Names that KubeVirt's API has and hawser does not support, to tell "not supported" from a slip of the pen.
//!
//! From KubeVirt's API reference of `v1.VirtualMachineInstance`. A field that becomes supported moves to the wire
//! types; what is left here then does no harm.

/// Object, by its path without indices, and its fields.
const KNOWN: &[(&str, &[&str])] = &[
    ("spec", &["startStrategy", "accessCredentials", "utilityVolumes"]),
    ("spec.readinessProbe", &["exec", "guestAgentPing"]),
    ("spec.livenessProbe", &["exec", "guestAgentPing"]),
    (
        "spec.domain",
        &[
            "machine",
            "ioThreadsPolicy",
            "ioThreads",
            "chassis",
            "launchSecurity",
            "rebootPolicy",
        ],
    ),
    (
        "spec.domain.cpu",
        &[
            "maxSockets",
            "features",
            "dedicatedCpuPlacement",
            "numa",
            "isolateEmulatorThread",
            "realtime",
        ],
    ),
    ("spec.domain.memory", &["maxGuest", "reservedOverhead"]),
    ("spec.domain.firmware", &["acpi"]),
    ("spec.domain.firmware.bootloader", &["bios"]),
    (
        "spec.domain.devices.disks",
        &["lun", "tag", "changedBlockTracking"],
    ),
    ("spec.domain.devices.disks.blockSize", &["custom"]),
    ("spec.volumes", &["downwardMetrics", "memoryDump", "sysprep"]),
    ("spec.domain.features", &["kvm"]),
    ("spec.domain.features.hyperv", &["evmcs", "vendorid"]),
    ("spec.domain.features.apic", &["endOfInterrupt"]),
    ("spec.domain.clock", &["timezone"]),
    ("spec.domain.clock.utc", &["offsetSeconds"]),
    (
        "spec.domain.devices",
        &[
            "watchdog",
            "inputs",
            "gpus",
            "downwardMetrics",
            "panicDevices",
            "filesystems",
            "hostDevices",
            "clientPassthrough",
            "sound",
            "tpm",
            "video",
        ],
    ),
    ("spec.domain.devices.interfaces", &["slirp", "macvtap"]),
    ("spec.domain.devices.gpus", &["virtualGPUOptions", "tag"]),
    ("spec.domain.devices.hostDevices", &["tag"]),
    ("spec.networks", &["genie"]),
];

/// Whether KubeVirt has the field `name` in the object at `kind`.
pub(crate) fn is_known(kind: &str, name: &str) -> bool {
    if matches!((kind, name), ("spec", "instancetype" | "preference")) {
        return true;
    }
    // An instance in a template is one like any other.
    let kind = kind.strip_prefix("spec.template.").unwrap_or(kind);
    KNOWN
        .iter()
        .any(|(object, fields)| *object == kind && fields.contains(&name))
}
