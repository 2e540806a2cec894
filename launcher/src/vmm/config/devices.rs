//! Devices besides NICs and disks, for cloud-hypervisor's API.

use std::path::PathBuf;

use serde::Serialize;

/// cloud-hypervisor's own defaults.
const FS_QUEUES: u16 = 1;
const FS_QUEUE_SIZE: u16 = 1024;

/// A vhost-user-fs device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FsConfig {
    id: String,
    tag: String,
    socket: PathBuf,
    num_queues: u16,
    queue_size: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VsockConfig {
    id: &'static str,
    cid: u32,
    socket: PathBuf,
}

impl FsConfig {
    /// A file system that a process behind `socket` serves; the guest mounts it by its name.
    pub(crate) fn new(name: &str, socket: PathBuf) -> Self {
        Self {
            id: format!("fs.{name}"),
            tag: name.to_owned(),
            socket: absolute(socket),
            num_queues: FS_QUEUES,
            queue_size: FS_QUEUE_SIZE,
        }
    }
}

impl VsockConfig {
    /// cloud-hypervisor listens at `socket`.
    pub(crate) fn new(cid: u32, socket: PathBuf) -> Self {
        Self {
            id: "vsock.guest",
            cid,
            socket: absolute(socket),
        }
    }
}

/// cloud-hypervisor has / as its directory.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}
