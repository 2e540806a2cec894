//! The socket of a vhost-user backend, as it is in the shared directory.

use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::rules;

/// Refuses what is not a socket in `directory`, or is reached over a symbolic link. The kernel resolves the path
/// (openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS).
///
/// The VMM opens it again by name. Whoever can put something else there in between is the sidecar itself, or another
/// one that shares its directory, and gains a connection that any process of the guest's user could make.
pub(super) fn check(directory: &Path, path: &str) -> Result<(), String> {
    let below = rules::inside(directory, path)?;
    let root = open(
        directory,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| format!("{}: {}", directory.display(), errno.desc()))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = openat2(&root, below, how).map_err(|errno| match errno {
        Errno::ELOOP | Errno::EXDEV => "reached over a symbolic link".to_owned(),
        Errno::ENOENT => "not there: the backend has to listen before the call is answered".to_owned(),
        errno => errno.desc().to_owned(),
    })?;
    let mode = fstat(&file).map_err(|errno| errno.desc().to_owned())?.st_mode;
    if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        return Err("not a socket".to_owned());
    }
    Ok(())
}
