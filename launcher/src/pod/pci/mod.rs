//! The node's PCI functions that the guest has: which they are (`vfs`, `host_devices`), and whether the VMM will get them
//! (`vfio`).

pub(crate) mod host_devices;
pub(crate) mod vfio;
mod vfs;

use std::path::{Path, PathBuf};

use hawser_netsetup::Owner;

use super::finding::{Finding, Part};
use super::networks::PodNetworks;
use crate::spec::{GuestSpec, Interface, PciAddress};

pub(crate) use host_devices::HostFunction;
pub(crate) use vfio::Access;
pub(crate) use vfs::Vf;

/// The functions, and by which of the kernel's interfaces the VMM has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PciFunctions {
    pub(crate) vfs: Vec<Vf>,
    /// Those that are no interface's.
    pub(crate) host: Vec<HostFunction>,
    pub(crate) access: Access,
    /// What the VMM opens for them.
    pub(crate) nodes: Vec<PathBuf>,
}

impl PciFunctions {
    pub(crate) fn addresses(&self) -> Vec<PciAddress> {
        let vfs = self.vfs.iter().map(|vf| vf.address);
        vfs.chain(self.host.iter().map(|function| function.address))
            .collect()
    }
}

/// Which functions they are. `with_vf` are the interfaces that have a VF each, `networks` is the pod's network-status.
pub(crate) fn find(
    guest: &GuestSpec,
    with_vf: &[&Interface],
    networks: Option<&PodNetworks>,
    device_metadata: &Path,
) -> Part<PciFunctions> {
    vfs::find(guest, with_vf, networks, device_metadata).and_then(|vfs| {
        let host = Part::or_bad(host_devices::find(guest, &vfs, device_metadata));
        host.and_then(|host| {
            let lines: Vec<_> = vfs
                .iter()
                .map(Vf::to_string)
                .chain(host.iter().map(HostFunction::to_string))
                .collect();
            let part = Part::silent(PciFunctions {
                vfs,
                host,
                access: Access::Group,
                nodes: Vec::new(),
            });
            lines
                .into_iter()
                .fold(part, |part, line| part.with(Finding::Good(line)))
        })
    })
}

/// Whether the VMM will get them, asked with the rights that it will have.
pub(crate) fn examine(found: PciFunctions, owner: Owner, guest_memory: u64) -> Part<PciFunctions> {
    let addresses = found.addresses();
    if addresses.is_empty() {
        return Part::silent(found);
    }
    let (lines, fit) = vfio::examine(&addresses, owner, guest_memory);
    let part = match fit {
        Some(vfio::Fit { access, nodes }) => Part::silent(PciFunctions {
            access,
            nodes,
            ..found
        }),
        None => Part::unknown(),
    };
    lines.into_iter().fold(part, |part, line| {
        part.with(match line {
            Ok(text) => Finding::Good(text),
            Err(failure) => Finding::Bad(failure),
        })
    })
}

/// What can be seen without any right; what is not as it has to be is a note.
pub(crate) fn glance(mut found: PciFunctions) -> Part<PciFunctions> {
    let (access, lacks) = vfio::glance(&found.addresses());
    found.access = access;
    Part::silent(found).with_notes(lacks)
}
