//! Which device node a container is given.
//!
//! The guest's processes run as user 107, and a pod may have a user namespace, in which they are no user of the host at all. A
//! node whose mode lets everybody read and write it (0666, of most distributions for /dev/kvm) is given as it is.
//!
//! Any other is not of use to them: Debian's and Ubuntu's /dev/kvm is 0660. The host's node is not changed. Instead the plugin
//! has a copy of it, mode 0666, in a directory that only the host's root may enter (`node_copies`). What becomes of a device
//! in a container depends on who creates it there:
//!
//! | pod | runc | crun |
//! |---|---|---|
//! | ordinary | creates the node, with the mode of the node that it was named | the same |
//! | with a user namespace | binds the host's node that has the *container's* path | creates the node, as in an ordinary pod |
//!
//! So with runc and a user namespace, nothing that is said of a device reaches the container. A mount does: the copy is
//! mounted over the path at which programs look for the device. The container's cgroup must still allow the device, and only
//! a device does that: it is given a second time, under `/dev/hawser`, where the host has an empty file of that name for runc
//! to bind.

use std::path::Path;

use crate::v1beta1::{ContainerAllocateResponse, DeviceSpec, Mount};

/// Where containers see the device for the second time, below their /dev and the host's.
pub(crate) const ALIASES: &str = "hawser";

/// How a container gets to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handout<'a> {
    /// The host's node.
    Node,
    /// The copy at this path of the host, as a device.
    CopyAsDevice(&'a Path),
    /// The copy, mounted.
    CopyMounted(&'a Path),
}

impl Handout<'_> {
    /// What the kubelet is answered, for each container. `node` is relative to /dev.
    pub(crate) fn answer(self, name: &str, node: &str) -> ContainerAllocateResponse {
        let path = format!("/dev/{node}");
        let device = |host_path: String, container_path: String| DeviceSpec {
            container_path,
            host_path,
            // Not "m": the runtime makes the node, and nobody in the container is to make another.
            permissions: "rw".to_owned(),
        };
        let text = |path: &Path| path.to_string_lossy().into_owned();
        match self {
            Self::Node => ContainerAllocateResponse {
                mounts: Vec::new(),
                devices: vec![device(path.clone(), path)],
            },
            Self::CopyAsDevice(copy) => ContainerAllocateResponse {
                mounts: Vec::new(),
                devices: vec![device(text(copy), path)],
            },
            Self::CopyMounted(copy) => ContainerAllocateResponse {
                mounts: vec![Mount {
                    container_path: path,
                    host_path: text(copy),
                    read_only: false,
                }],
                devices: vec![device(text(copy), format!("/dev/{ALIASES}/{name}"))],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: &str = "/var/lib/kubelet/hawser/tun";

    #[test]
    fn the_container_has_the_device_at_its_usual_path_and_may_not_make_nodes() {
        let handouts = [
            Handout::Node,
            Handout::CopyAsDevice(Path::new(COPY)),
            Handout::CopyMounted(Path::new(COPY)),
        ];
        for handout in handouts {
            let answer = handout.answer("tun", "net/tun");
            let devices = answer.devices.iter().map(|device| &device.container_path);
            let mounts = answer.mounts.iter().map(|mount| &mount.container_path);
            assert!(
                devices.chain(mounts).any(|path| path == "/dev/net/tun"),
                "{handout:?}"
            );
            assert!(answer.devices.iter().all(|device| device.permissions == "rw"));
        }
    }

    #[test]
    fn a_mounted_copy_is_allowed_by_a_device_elsewhere() {
        let answer = Handout::CopyMounted(Path::new(COPY)).answer("tun", "net/tun");
        assert_eq!(answer.mounts[0].host_path, COPY);
        assert_eq!(answer.devices[0].host_path, COPY);
        assert_eq!(answer.devices[0].container_path, "/dev/hawser/tun");
    }
}
