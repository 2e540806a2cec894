//! Shared file systems: a virtiofsd behind each, started by the supervisor as the VMM's user.
//!
//! - The directory is found and looked into beforehand, by that user, as disks are.
//! - The socket is bound here and handed over listening (`--fd`), so that the VMM may connect whenever it likes, and to a
//!   fresh virtiofsd over the same socket after each: one serves one connection, and ends with it.
//! - Its own sandbox needs a /proc that a container's masked one does not let it mount, or capabilities. So it runs
//!   without (`--sandbox=none`), under a landlock ruleset of ours that leaves it its program, its libraries and the
//!   volume, and under its own seccomp filter.

mod process;

use std::fs;
use std::path::{Path, PathBuf};

use hawser_linux::programs;
use nix::unistd::AccessFlags;

use crate::error::{ExitCode, Failure};
use crate::pod::places::Places;
use crate::spec::{Filesystem, GuestSpec};

pub(crate) use process::{Share, listen, supervise};

/// Its name on PATH. Debian has it elsewhere.
const PROGRAM: &str = "virtiofsd";
const LIBEXEC: &str = "/usr/libexec/virtiofsd";

/// A directory of the pod's for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Export {
    /// Of the file system.
    pub(crate) name: String,
    /// Without a link in it.
    pub(crate) directory: PathBuf,
    pub(crate) readonly: bool,
}

/// Directories that are shared with the guest, and what shares them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Exports {
    pub(crate) directories: Vec<Export>,
    pub(crate) virtiofsd: PathBuf,
}

/// Where the VMM connects. `directory` is the unprivileged half's.
pub(crate) fn socket(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("fs-{name}.sock"))
}

pub(crate) fn program() -> Result<PathBuf, Failure> {
    let found = programs::find(Path::new(PROGRAM)).or_else(|| programs::find(Path::new(LIBEXEC)));
    found.ok_or_else(|| {
        Failure::new(
            ExitCode::PodUnfit,
            format!("virtiofsd: neither on PATH nor at {LIBEXEC}"),
        )
        .remedy("install virtiofsd in the image, or remove the file system from the manifest: a configMap or a secret can be attached as a disk instead")
    })
}

/// Every directory that is to be shared. To be called as the user that virtiofsd will be.
pub(crate) fn find(places: &Places, guest: &GuestSpec) -> Vec<Result<Export, Failure>> {
    let export = |filesystem: &Filesystem| {
        let place = places.volume(&filesystem.name);
        let directory = usable(&place, filesystem.readonly).map_err(|error| {
            Failure::unfit(
                format!("{}: {}: {error}", filesystem.path, place.display()),
                format!(
                    "mount the volume there for the guest's user, or pass its location with --volume {}=DIR",
                    filesystem.name
                ),
            )
        })?;
        Ok(Export {
            name: filesystem.name.clone(),
            directory,
            readonly: filesystem.readonly,
        })
    };
    guest.filesystems.iter().map(export).collect()
}

fn usable(place: &Path, readonly: bool) -> std::io::Result<PathBuf> {
    let directory = fs::canonicalize(place)?;
    if !fs::metadata(&directory)?.is_dir() {
        return Err(std::io::ErrorKind::NotADirectory.into());
    }
    let mut wanted = AccessFlags::R_OK | AccessFlags::X_OK;
    if !readonly {
        wanted |= AccessFlags::W_OK;
    }
    nix::unistd::faccessat(
        nix::fcntl::AT_FDCWD,
        &directory,
        wanted,
        nix::fcntl::AtFlags::AT_EACCESS,
    )?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_can_be_shared() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(
            usable(&file, true)
                .unwrap_err()
                .to_string()
                .contains("not a directory")
        );
        let link = place.path().join("link");
        std::os::unix::fs::symlink(".", &link).unwrap();
        let found = usable(&link, false).unwrap();
        assert_eq!(found, fs::canonicalize(place.path()).unwrap(), "without a link");
        assert!(usable(&place.path().join("none"), true).is_err());
    }
}
