//! Names that KubeVirt's API has and hawser does not support, to tell "not supported" from a slip of the pen.
//!
//! From KubeVirt's API reference of `v1.VirtualMachineInstance`. A field that becomes supported moves to the types
//! of `v1`, and a test here finds the row that is then left over.

/// Object, by its path without indices, and its fields.
const KNOWN: &[(&str, &[&str])] = &[
    ("spec", &["startStrategy", "accessCredentials", "utilityVolumes"]),
    ("spec.readinessProbe", &["exec", "guestAgentPing"]),
    ("spec.livenessProbe", &["exec", "guestAgentPing"]),
    ("spec.domain", &["chassis", "launchSecurity", "rebootPolicy"]),
    ("spec.domain.cpu", &["features", "numa", "realtime"]),
    ("spec.domain.memory", &["reservedOverhead"]),
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
            "downwardMetrics",
            "panicDevices",
            "clientPassthrough",
            "sound",
            "video",
        ],
    ),
    ("spec.domain.devices.interfaces", &["slirp", "macvtap"]),
    ("spec.domain.devices.gpus", &["virtualGPUOptions", "tag"]),
    ("spec.domain.devices.hostDevices", &["tag"]),
    ("spec.networks", &["genie"]),
];

/// Why, and what to do instead, where there is more to say than the name.
const WHY: &[(&str, &str, &str)] = &[
    ("spec", "instancetype", EXPAND),
    ("spec", "preference", EXPAND),
    (
        "spec.domain.cpu",
        "features",
        "cloud-hypervisor passes on what the host's CPU has",
    ),
    ("spec.domain.cpu", "numa", "the guest has one NUMA node"),
    (
        "spec.domain.firmware.bootloader",
        "bios",
        "cloud-hypervisor has no BIOS: for an image that boots by UEFI too, write efi: {secureBoot: false}",
    ),
    (
        "spec.domain.devices",
        "watchdog",
        "cloud-hypervisor has no i6300esb, and the one that it has is a virtio device without a driver in Linux; a \
         liveness probe restarts a guest that does not answer",
    ),
    (
        "spec.domain.devices",
        "video",
        "cloud-hypervisor has no screen: the guest's console is its serial port",
    ),
    (
        "spec.domain.devices",
        "sound",
        "cloud-hypervisor has no sound card",
    ),
    (
        "spec.domain.devices.disks",
        "lun",
        "cloud-hypervisor has no SCSI: the volume can be a disk",
    ),
    (
        "spec.domain.devices.interfaces",
        "slirp",
        "KubeVirt has removed it: write masquerade or passt",
    ),
    (
        "spec.domain.devices.interfaces",
        "macvtap",
        "KubeVirt has removed it: write binding, with the name of a plugin whose domainAttachmentType is tap",
    ),
];

/// Only the cluster knows them.
const EXPAND: &str =
    "hawser does not ask the cluster: write out what it stands for (virtctl expand --file FILE does)";

/// What is said of the field `name` in the object at `kind`, if KubeVirt has it.
pub(crate) fn refusal(kind: &str, name: &str) -> Option<String> {
    // An instance in a template is one like any other.
    let kind = kind.strip_prefix("spec.virtualMachineTemplate.").unwrap_or(kind);
    let kind = kind.strip_prefix("spec.template.").unwrap_or(kind);
    let why = WHY
        .iter()
        .find(|(object, field, _)| (*object, *field) == (kind, name));
    match why {
        Some((_, _, why)) => Some(format!("not supported: {why}")),
        None => KNOWN
            .iter()
            .any(|(object, fields)| *object == kind && fields.contains(&name))
            .then(|| "not supported".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Follows what stands for another schema: a reference, a list's items, and an `Option`'s branch that is not null.
    fn resolve<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
        loop {
            let reference = schema.get("$ref").and_then(Value::as_str);
            let branches = schema.get("anyOf").and_then(Value::as_array);
            let next = match (reference, branches) {
                (Some(reference), _) => root.pointer(&reference[1..]),
                (None, Some(branches)) => branches.iter().find(|branch| branch["type"] != "null"),
                (None, None) => schema.get("items"),
            };
            match next {
                Some(next) => schema = next,
                None => return schema,
            }
        }
    }

    #[test]
    fn no_field_is_both_supported_and_not() {
        let root = schemars::schema_for!(crate::v1::VirtualMachineInstance).to_value();
        let rows = KNOWN
            .iter()
            .flat_map(|(object, fields)| fields.iter().map(move |field| (*object, *field)))
            .chain(WHY.iter().map(|(object, field, _)| (*object, *field)));
        for (object, field) in rows {
            let found = object.split('.').try_fold(&root, |schema, key| {
                resolve(&root, schema).get("properties")?.get(key)
            });
            let schema = resolve(&root, found.unwrap_or_else(|| panic!("no type has {object}")));
            assert!(
                schema["properties"].get(field).is_none(),
                "{object}.{field} is supported"
            );
        }
    }
}
