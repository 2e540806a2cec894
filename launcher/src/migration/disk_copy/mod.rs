//! The content of the disks that are the pod's own goes along with the guest.
//!
//! Such a disk is a raw file in the state directory of each pod: the source's has what the guest has written, the target's is
//! empty. The source reads its file in rounds while the guest runs, and sends what is not as it was sent before ([`scan`]).
//! The last round is read when the VMM has paused the guest: it has completed all writes by then, so what that round leaves is
//! the disk. It takes about as long as the round before it, which is why the transfer does not begin before a round has been
//! short enough ([`send`]). The target's VMM has the file open while the last blocks are written ([`receive`]). That is in
//! order: it reads none of a raw disk before the guest runs, and keeps nothing of it in memory.
//!
//! Nothing marks what a process writes to a file, without a privilege. So each round reads the whole file, but for its holes,
//! and compares a keyed hash of each block.
//!
//! Nothing is synced at the target: like at the source, a disk of the pod's own does not outlive its node.

mod receive;
mod scan;
mod send;
mod wire;

use std::path::PathBuf;

pub(super) use receive::Receiver;
pub(crate) use send::Told;
pub(super) use send::{DiskCopy, Limits, Route};

/// A disk whose content goes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CopiedDisk {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Without the page cache, as the VMM opens it.
    pub(crate) direct: bool,
}

#[cfg(test)]
mod tests;
