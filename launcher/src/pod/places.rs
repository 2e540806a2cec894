//! Where things are in this pod, as the command line says it or by default.

use std::path::{Path, PathBuf};

use crate::state_dir::vmm_dir;

/// Where the pod has block devices of claims, by the volume's name. Kubernetes mounts no device below a volume.
const BLOCK_DEVICES: &str = "/dev/hawser-volumes";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) state_dir: PathBuf,
    /// Directories where the pod mounts images, by the image's name in the manifest.
    pub(crate) images: Vec<(String, PathBuf)>,
    /// Directories or block devices, by the volume's name in the manifest.
    pub(crate) volumes: Vec<(String, PathBuf)>,
    /// The UEFI firmware.
    pub(crate) firmware: PathBuf,
    /// Where the sidecars of binding plugins listen.
    pub(crate) hooks_dir: Option<PathBuf>,
    /// The file with the pod's network-status annotation.
    pub(crate) network_status: Option<PathBuf>,
    /// The metadata of claimed devices (Dynamic Resource Allocation).
    pub(crate) device_metadata: PathBuf,
    /// A path, or a name on PATH.
    pub(crate) cloud_hypervisor: PathBuf,
}

impl Places {
    /// Where the pod mounts an image.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        given(&self.images, name).unwrap_or_else(|| self.state_dir.join("images").join(name))
    }

    /// Where the pod has a volume that is no image: its directory, or its block device.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        given(&self.volumes, name).unwrap_or_else(|| {
            let device = Path::new(BLOCK_DEVICES).join(name);
            match device.exists() {
                true => device,
                false => self.state_dir.join("volumes").join(name),
            }
        })
    }

    /// Where binding plugins' sidecars listen.
    pub(crate) fn hooks(&self) -> PathBuf {
        match &self.hooks_dir {
            Some(directory) => directory.clone(),
            None => self.state_dir.join("hooks"),
        }
    }

    /// The unprivileged half's directory.
    pub(crate) fn vmm_dir(&self) -> PathBuf {
        vmm_dir(&self.state_dir)
    }
}

/// An option that is repeated for a name counts by its last value.
fn given(list: &[(String, PathBuf)], name: &str) -> Option<PathBuf> {
    let found = list.iter().rev().find(|(given, _)| given == name);
    found.map(|(_, path)| path.clone())
}
