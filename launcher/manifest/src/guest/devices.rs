//! Devices besides NICs and disks as the manifest wants them: validated, normalised, plain data.

use std::fmt;

use serde::Serialize;

use super::Claim;
use super::storage::Volume;

/// A device of the node's that the guest has as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostDevice {
    /// Field path, for messages of the later phases.
    pub path: String,
    /// No other device of either list has it.
    pub name: String,
    pub kind: HostDeviceKind,
    pub source: HostDeviceSource,
}

/// Which list of the manifest it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HostDeviceKind {
    Gpu,
    HostDevice,
}

impl fmt::Display for HostDeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gpu => "GPU",
            Self::HostDevice => "host device",
        })
    }
}

/// What tells which device it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HostDeviceSource {
    /// A device plugin's resource, such as `nvidia.com/TU104GL_Tesla_T4`.
    Resource(String),
    Claim(Claim),
}

/// A directory of the pod's that the guest can mount (virtio-fs).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Filesystem {
    /// Field path, for messages of the later phases.
    pub path: String,
    /// Name of the file system, equal to its volume's: the tag by which the guest mounts it.
    pub name: String,
    pub readonly: bool,
    pub volume: Volume,
}

/// The guest's end of a virtio socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Vsock {
    /// The guest's context identifier, 3 or more.
    pub cid: u32,
    /// What the guest's systemd has to report before the guest counts as ready (annotation `hawser.dev/ready-when`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_when: Option<ReadyWhen>,
}

/// A guest that runs is ready; one of these asks for more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ReadyWhen {
    /// systemd says that it has booted.
    Booted,
    /// This target unit is active.
    Target(String),
}

impl fmt::Display for ReadyWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Booted => "booted",
            Self::Target(name) => name,
        })
    }
}
