//! Whether somebody else uses a disk: cloud-hypervisor locks what it opens (fcntl(2), F_OFD_SETLK).

use std::fs::File;
use std::io;

use nix::fcntl::{FcntlArg, fcntl};

/// Who may have the guest's disks open while they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Users {
    None,
    /// The guest, in the pod that it is to migrate from: those that are shared.
    Source,
}

impl Users {
    /// Of a launcher that waits for a guest, or of one that boots it.
    pub(crate) fn of_a_target(waits: bool) -> Self {
        match waits {
            true => Self::Source,
            false => Self::None,
        }
    }
}

/// Whether another process holds a lock like the one that the VMM will ask for.
pub(super) fn is_locked(file: &File, writable: bool) -> io::Result<bool> {
    let wanted = if writable {
        nix::libc::F_WRLCK
    } else {
        nix::libc::F_RDLCK
    };
    let mut lock = nix::libc::flock {
        l_type: wanted as nix::libc::c_short,
        l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(io::Error::from)?;
    Ok(i32::from(lock.l_type) != nix::libc::F_UNLCK)
}
