//! Devices besides NICs and disks, for cloud-hypervisor's API.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::DeviceConfig;
use crate::devices::vsock as socket;
use crate::pod::pci::{HostFunction, PciFunctions};
use crate::spec::{GuestSpec, HostDeviceKind};
use crate::virtiofs;

/// cloud-hypervisor's own defaults.
const FS_QUEUES: u16 = 1;
const FS_QUEUE_SIZE: u16 = 1024;

/// A vhost-user-fs device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FsConfig {
    id: String,
    tag: String,
    socket: PathBuf,
    num_queues: u16,
    queue_size: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct VsockConfig {
    id: &'static str,
    cid: u32,
    socket: PathBuf,
}

/// Functions that are no interface's. No interface's name has a dot in it, so that these are nobody else's.
pub(super) fn host(functions: &PciFunctions) -> impl Iterator<Item = DeviceConfig> {
    let device = |function: &HostFunction| {
        let kind = match function.kind {
            HostDeviceKind::Gpu => "gpu",
            HostDeviceKind::HostDevice => "host",
        };
        let id = format!("{kind}.{}", function.name);
        DeviceConfig::function(&id, function.address, None, functions.access)
    };
    functions.host.iter().map(device)
}

pub(super) fn filesystems(guest: &GuestSpec, directory: &Path) -> Vec<FsConfig> {
    let device = |name: &String| FsConfig {
        id: format!("fs.{name}"),
        tag: name.clone(),
        socket: absolute(virtiofs::socket(directory, name)),
        num_queues: FS_QUEUES,
        queue_size: FS_QUEUE_SIZE,
    };
    let names = guest.filesystems.iter().map(|filesystem| &filesystem.name);
    names.map(device).collect()
}

pub(super) fn vsock(guest: &GuestSpec, directory: &Path) -> Option<VsockConfig> {
    guest.vsock.map(|vsock| VsockConfig {
        id: "vsock.guest",
        cid: vsock.cid,
        socket: absolute(socket::socket(directory)),
    })
}

/// cloud-hypervisor has / as its directory.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}
