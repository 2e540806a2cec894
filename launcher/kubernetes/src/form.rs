//! Which containers the pod has, and with which privileges: as few as the manifest and the cluster allow.
//!
//! | form | containers | privileges |
//! |---|---|---|
//! | no privilege | the guest's | none |
//! | user namespace | the guest's | NET_ADMIN, SETUID and SETGID in the pod's own user namespace; none over the node |
//! | two containers | `setup`, which stays, and the guest's | NET_ADMIN for `setup`; none for the guest's |
//! | one container | the guest's | NET_ADMIN; every process that reads from the guest drops it |

use hawser_manifest::{FieldPath, Report};

use crate::devices;
use crate::source::Source;
use crate::volumes::Volumes;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    NoPrivilege,
    UserNamespace,
    TwoContainers,
    OneContainer,
}

impl Form {
    pub(crate) fn choose(source: &Source<'_>, volumes: &Volumes, report: &mut Report) -> Self {
        if !source.facts.needs_net_admin {
            return Self::NoPrivilege;
        }
        let obstacle = no_user_namespace(source, volumes);
        if source.options.user_namespaces && obstacle.is_none() {
            if let Some(claim) = &volumes.mounted_claim {
                report.note(
                    claim.clone(),
                    "a pod with a user namespace mounts it only from a file system with ID-mapped mounts, which NFS does \
                     not have: if the pod does not start for that reason, add --no-user-namespaces",
                );
            }
            return Self::UserNamespace;
        }
        if let Some((path, why)) = obstacle
            && source.options.user_namespaces
        {
            report.note(path, format!("the pod has no user namespace: {why}"));
        }
        if !source.options.ipv6_sysctl && !source.facts.masqueraded_taps.is_empty() {
            report.note(
                FieldPath::of("spec.domain.devices.interfaces"),
                "without a user namespace hawser cannot set net.ipv6.conf.all.forwarding: a masqueraded guest has no IPv6 \
                 unless the kubelet allows that sysctl (allowedUnsafeSysctls) and --ipv6-sysctl is given",
            );
        }
        if source.options.one_container {
            Self::OneContainer
        } else {
            Self::TwoContainers
        }
    }
}

/// Why the pod cannot have a user namespace of its own, with the field.
fn no_user_namespace(source: &Source<'_>, volumes: &Volumes) -> Option<(FieldPath, &'static str)> {
    if let Some(path) = devices::vfio(source) {
        return Some((
            path,
            "the node's VFIO devices belong to a user that the pod's own user namespace does not have",
        ));
    }
    if source.has_passt() {
        return Some((
            FieldPath::of("spec.domain.devices.interfaces"),
            "passt makes a user namespace of its own, which the container runtime's seccomp profile forbids in one",
        ));
    }
    volumes.no_user_namespace.clone()
}
