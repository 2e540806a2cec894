//! What is asked about these devices: what they need of the pod, whether the guest can migrate with them, what they cost.

use std::fmt::Write;

use serde::Serialize;

use crate::may_migrate::MayMigrate;
use crate::spec::{Filesystem, GuestSpec, HostDevice, HostDeviceSource, Vsock};

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    device: String,
    by: String,
    migration: MayMigrate,
    privileges: String,
    devices: String,
    cost: String,
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
    let host = guest
        .host_devices
        .iter()
        .map(|device| (host_device(device), host_device_may_migrate()));
    let shared = guest
        .filesystems
        .iter()
        .map(|shared| (filesystem(shared), filesystem_may_migrate()));
    let vsock = guest
        .vsock
        .iter()
        .map(|device| (vsock(device), vsock_may_migrate()));
    let obstacle =
        |(device, decision): (String, MayMigrate)| Some(format!("{device}: {}", decision.obstacle()?));
    host.chain(shared).chain(vsock).filter_map(obstacle).collect()
}

fn host_device(device: &HostDevice) -> String {
    format!("{} {}", device.kind, device.name)
}

fn host_device_may_migrate() -> MayMigrate {
    MayMigrate::no("the device's state is in this node's hardware")
}

fn filesystem(filesystem: &Filesystem) -> String {
    format!("file system {}", filesystem.name)
}

fn filesystem_may_migrate() -> MayMigrate {
    MayMigrate::no("not in this version of hawser: files that are open in virtiofsd are not migrated")
}

fn vsock(vsock: &Vsock) -> String {
    format!("vsock, CID {}", vsock.cid)
}

fn vsock_may_migrate() -> MayMigrate {
    MayMigrate::no(
        "not in this version of hawser: programs that are connected to its socket are not notified",
    )
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
        device: host_device(device),
        by,
        migration: host_device_may_migrate(),
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
        device: self::filesystem(filesystem),
        by: format!("virtiofsd, from {}{how}", filesystem.volume.path),
        migration: filesystem_may_migrate(),
        privileges: "none: virtiofsd runs as the VMM's user, confined to the volume by landlock".into(),
        devices: "none".into(),
        cost: "a virtiofsd process, and the guest's memory shared with it".into(),
    }
}

fn of_vsock(device: &Vsock) -> Explanation {
    Explanation {
        device: vsock(device),
        by: "cloud-hypervisor, from a Unix socket in the state directory (vmm/vsock/guest.sock)".into(),
        migration: vsock_may_migrate(),
        privileges: "none; every process that may write to the socket reaches every vsock port of the guest"
            .into(),
        devices: "none: the node's vhost-vsock is not used".into(),
        cost: "nothing while it is idle".into(),
    }
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
        let _ = writeln!(out, "\n{device}");
        let rows = [
            ("given by", by.clone()),
            ("can migrate", migration.text()),
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
