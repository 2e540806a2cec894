//! PCI functions that a guest is to have as they are, by the kernel's VFIO (Documentation/driver-api/vfio.rst).
//!
//! The VMM's own errors tell a number and no more, and come when the pod is wired already. So everything that it will ask
//! of the kernel is asked here first, in the order in which one thing rests on another:
//!
//! 1. `function`: sysfs has the device, it is bound to a VFIO driver, it has an IOMMU group, and nobody else's driver has
//!    a device of that group.
//! 2. The nodes are in the pod, and the VMM's user may open them. By group (`/dev/vfio/N` and `/dev/vfio/vfio`), or, where
//!    the pod has them for every function, by the device's own node and `/dev/iommu` (iommufd).
//! 3. `memlock`: the guest's memory may be locked, since a device can write to any of it at any time.
//! 4. `probe`: the kernel agrees, asked by the very user that the VMM will be: the group is free and viable, and the IOMMU
//!    takes it.

mod function;
mod memlock;
mod probe;

use std::path::PathBuf;

use hawser_netsetup::Owner;

use crate::error::Failure;
use crate::privileges;
use crate::spec::PciAddress;

pub(crate) use function::Function;

/// The container of groups.
const CONTAINER: &str = "vfio/vfio";
const IOMMUFD: &str = "iommu";

/// By which of the kernel's interfaces the VMM will have the functions, all of them by the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Group,
    Iommufd,
}

/// The pod's file systems; elsewhere in tests.
#[derive(Debug, Clone)]
pub(crate) struct Roots {
    sys: PathBuf,
    dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            dev: "/dev".into(),
        }
    }
}

impl Roots {
    /// iommufd only where nothing is missing for it: a device plugin may give the groups' nodes alone.
    pub(crate) fn access(&self, functions: &[Function]) -> Access {
        let has_node = |function: &Function| {
            let node = function.cdev.as_ref();
            node.is_some_and(|name| self.dev.join("vfio/devices").join(name).exists())
        };
        if !functions.is_empty() && self.dev.join(IOMMUFD).exists() && functions.iter().all(has_node) {
            return Access::Iommufd;
        }
        Access::Group
    }

    /// What the VMM's user has to open, each once.
    pub(crate) fn nodes(&self, functions: &[Function], access: Access) -> Vec<PathBuf> {
        let mut nodes = vec![match access {
            Access::Group => self.dev.join(CONTAINER),
            Access::Iommufd => self.dev.join(IOMMUFD),
        }];
        for function in functions {
            let node = match (access, &function.cdev) {
                (Access::Iommufd, Some(name)) => self.dev.join("vfio/devices").join(name),
                _ => self.group_node(function.group),
            };
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }

    fn group_node(&self, group: u32) -> PathBuf {
        self.dev.join("vfio").join(group.to_string())
    }
}

/// Functions that will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fit {
    pub(crate) access: Access,
    pub(crate) nodes: Vec<PathBuf>,
}

/// All checks, in order: what is well, as a line each, or the reasons why it is not.
///
/// What rests on something that is not there is not looked at.
pub(crate) fn examine(
    addresses: &[PciAddress],
    owner: Owner,
    guest_memory: u64,
) -> (Vec<Result<String, Failure>>, Option<Fit>) {
    let roots = Roots::default();
    let mut found = Vec::new();
    let mut functions = Vec::new();
    for address in addresses {
        match roots.function(*address) {
            Ok(function) => {
                found.push(Ok(function.to_string()));
                functions.push(function);
            }
            Err(failure) => found.push(Err(failure)),
        }
    }
    if found.iter().any(Result::is_err) {
        return (found, None);
    }
    let access = roots.access(&functions);
    let nodes = roots.nodes(&functions, access);
    for node in &nodes {
        let path = node.to_string_lossy();
        found.push(match privileges::device(&path, owner) {
            Ok(()) => Ok(format!("{path}: usable by user {}", owner.uid)),
            Err(failure) => Err(failure.remedy(node_remedy(&path, owner))),
        });
    }
    found.push(memlock::ensure(guest_memory));
    if found.iter().all(Result::is_ok) {
        found.push(probe::as_user(owner, &nodes, || roots.probe(&functions, access)));
    }
    let fit = found.iter().all(Result::is_ok).then_some(Fit { access, nodes });
    (found, fit)
}

/// What can be seen without any right: by what the VMM would have the functions, and what is not as it has to be.
pub(crate) fn glance(addresses: &[PciAddress]) -> (Access, Vec<String>) {
    let roots = Roots::default();
    let mut functions = Vec::new();
    let mut lacks = Vec::new();
    for address in addresses {
        match roots.function(*address) {
            Ok(function) => functions.push(function),
            Err(failure) => lacks.push(failure.body()),
        }
    }
    (roots.access(&functions), lacks)
}

fn node_remedy(path: &str, owner: Owner) -> String {
    format!(
        "give the pod the node: the SR-IOV device plugin in Kubernetes, --device {path} with podman; and give it to user {}: \
         chown {} {path} on the node, or the runtime's device_ownership_from_security_context together with runAsUser",
        owner.uid, owner.uid
    )
}

#[cfg(test)]
mod tests;
