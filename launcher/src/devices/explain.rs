//! What is asked about these devices: what they need of the pod, whether the guest can migrate with them, what they cost.

use std::fmt::Write;

use serde::Serialize;

use crate::spec::{Filesystem, GuestSpec, HostDevice, HostDeviceSource, Vsock};

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    pub(crate) device: String,
    pub(crate) by: String,
    migration: Migration,
    privileges: String,
    devices: String,
    cost: String,
}

/// As for interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Migration {
    possible: bool,
    why: &'static str,
}

/// In the order of the VM's configuration.
pub(crate) fn explain(guest: &GuestSpec) -> Vec<Explanation> {
    let host = guest.host_devices.iter().map(of_host_device);
    let shared = guest.filesystems.iter().map(of_filesystem);
    let vsock = guest.vsock.iter().map(of_vsock);
    host.chain(shared).chain(vsock).collect()
}

/// Why a guest with these devices cannot migrate, a line each.
pub(crate) fn obstacles(guest: &GuestSpec) -> Vec<String> {
    let why = |explanation: Explanation| {
        let Migration { possible, why } = explanation.migration;
        (!possible).then(|| format!("{}: {why}", explanation.device))
    };
    explain(guest).into_iter().filter_map(why).collect()
}

fn of_host_device(device: &HostDevice) -> Explanation {
    let by = match &device.source {
        HostDeviceSource::Resource(resource) => format!("a function of the resource {resource}, by VFIO"),
        HostDeviceSource::Claim(claim) => {
            format!(
                "the function of the claim {}, request {}, by VFIO",
                claim.name, claim.request
            )
        }
    };
    Explanation {
        device: format!("{} {}", device.kind, device.name),
        by,
        migration: never("the device's state is in this node's hardware"),
        privileges:
            "none; the VMM's user must own the VFIO nodes and may lock the guest's memory (RLIMIT_MEMLOCK)"
                .into(),
        devices: "/dev/vfio/vfio and /dev/vfio/<group>, or /dev/iommu and /dev/vfio/devices/vfio<n>".into(),
        cost: "the device itself, and all of the guest's memory locked".into(),
    }
}

fn of_filesystem(filesystem: &Filesystem) -> Explanation {
    let how = if filesystem.readonly { ", read-only" } else { "" };
    Explanation {
        device: format!("file system {}", filesystem.name),
        by: format!("virtiofsd, from {}{how}", filesystem.volume.path),
        migration: never("not by this version of hawser: what virtiofsd has open stays behind"),
        privileges: "none: virtiofsd runs as the VMM's user, confined to the volume by landlock".into(),
        devices: "none".into(),
        cost: "a virtiofsd process, and the guest's memory shared with it".into(),
    }
}

fn of_vsock(vsock: &Vsock) -> Explanation {
    Explanation {
        device: format!("vsock, CID {}", vsock.cid),
        by: "cloud-hypervisor, from a Unix socket in the state directory (vmm/vsock/guest.sock)".into(),
        migration: never(
            "not by this version of hawser: nothing tells those at its socket that the guest has left",
        ),
        privileges: "none; whoever may write to the socket reaches every vsock port of the guest".into(),
        devices: "none: the node's vhost-vsock is not used".into(),
        cost: "nothing while nobody talks".into(),
    }
}

fn never(why: &'static str) -> Migration {
    Migration { possible: false, why }
}

/// One table a device, after those of the interfaces.
pub(crate) fn text(explanations: &[Explanation]) -> String {
    let mut out = String::new();
    for explanation in explanations {
        let Explanation {
            device,
            by,
            migration,
            privileges,
            devices,
            cost,
        } = explanation;
        let migrates = if migration.possible { "yes" } else { "no" };
        let _ = writeln!(out, "\n{device}");
        let rows = [
            ("given by", by.clone()),
            ("can migrate", format!("{migrates}: {}", migration.why)),
            ("privileges", privileges.clone()),
            ("devices", devices.clone()),
            ("costs", cost.clone()),
        ];
        for (question, answer) in rows {
            let _ = writeln!(out, "  {question:<12} {answer}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_is_explained_and_keeps_the_guest_where_it_is() {
        let manifest = include_str!("../../manifest/src/testdata/minimal.yaml").replace(
            "      rng: {}",
            "      rng: {}
      autoattachVSOCK: true
      gpus: [{name: g, deviceName: x.io/gpu}]
      hostDevices: [{name: h, deviceName: x.io/card}]
      filesystems: [{name: keys, virtiofs: {}}]",
        ) + "  volumes: [{name: keys, secret: {secretName: keys}}]\n";
        let guest = crate::spec::load(&manifest).unwrap().spec;
        let devices = ["GPU g", "host device h", "file system keys", "vsock, CID 3"];
        let obstacles = obstacles(&guest);
        assert_eq!(obstacles.len(), devices.len(), "{obstacles:?}");
        let shown = text(&explain(&guest));
        for (device, obstacle) in devices.iter().zip(&obstacles) {
            assert!(obstacle.starts_with(&format!("{device}: ")), "{obstacle}");
            assert!(shown.contains(&format!("\n{device}\n  given by ")), "{shown}");
        }
        let whole = crate::launch::migratable::obstacles(&guest, &[]);
        assert!(whole.ends_with(&obstacles), "{whole:?}");
        assert!(
            shown.contains("virtiofsd, from spec.volumes[0].secret, read-only"),
            "{shown}"
        );
    }
}
