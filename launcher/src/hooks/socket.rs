//! The socket of a vhost-user backend, as it is in the shared directory.

use std::path::Path;

use hawser_linux::safe_path::{self, Links, Problem};
use nix::sys::stat::{SFlag, fstat};

use super::rules;

/// Refuses what is not a socket in `directory`, or is reached over a symbolic link. The kernel resolves the path
/// (openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS).
///
/// The VMM opens it again by name. Whoever can put something else there in between is the sidecar itself, or another
/// one that shares its directory, and gains a connection that any process of the guest's user could make.
pub(super) fn check(directory: &Path, path: &str) -> Result<(), String> {
    let below = rules::inside(directory, path)?;
    let file =
        safe_path::resolve_path(directory, &below.to_string_lossy(), Links::None).map_err(|problem| {
            match problem {
                Problem::Link | Problem::LeadsOut => "reached over a symbolic link".to_owned(),
                problem if problem.is_missing() => {
                    "not there: the backend has to listen before the call is answered".to_owned()
                }
                problem => problem.to_string(),
            }
        })?;
    let mode = fstat(&file).map_err(|errno| errno.desc().to_owned())?.st_mode;
    if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
        return Err("not a socket".to_owned());
    }
    Ok(())
}
