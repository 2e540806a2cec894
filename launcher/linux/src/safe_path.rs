//! Files below a directory that somebody else fills: an image, or a volume. Neither a path in a manifest nor a link in
//! the directory may lead out of it: the kernel resolves the path with openat2 and RESOLVE_BENEATH (openat2(2)).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};

/// Why there is no such file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("it leads out of the directory, or links in a circle")]
    LeadsOut,
    #[error("it is a link, and none is followed here")]
    Link,
    #[error("not a regular file")]
    NotRegular,
    #[error("a directory, not a regular file")]
    Directory,
    #[error("a name in it is not UTF-8")]
    Name,
    #[error("{}", .0.desc())]
    Kernel(Errno),
    #[error(transparent)]
    Open(#[from] io::Error),
}

impl Problem {
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Kernel(Errno::ENOENT | Errno::ENOTDIR))
    }
}

/// Whether links that stay inside are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    Inside,
    None,
}

/// A regular file, not opened for reading yet: a device or a pipe would act on that.
#[derive(Debug)]
pub struct RegularFile {
    handle: OwnedFd,
    /// The name of what was checked, without a link in it.
    pub path: PathBuf,
}

impl RegularFile {
    pub fn find(directory: &Path, path: &str, links: Links) -> Result<Self, Problem> {
        let handle = resolve(directory, path, links, OFlag::O_PATH)?;
        match kind(&handle)? {
            SFlag::S_IFREG => {}
            SFlag::S_IFDIR => return Err(Problem::Directory),
            _ => return Err(Problem::NotRegular),
        }
        let path = std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd()))?;
        Ok(Self { handle, path })
    }

    /// The same file, whatever its name leads to by now.
    pub fn open(&self, writable: bool, flags: OFlag) -> Result<File, Problem> {
        let file = OpenOptions::new()
            .read(true)
            .write(writable)
            .custom_flags(flags.bits())
            .open(format!("/proc/self/fd/{}", self.handle.as_raw_fd()))?;
        Ok(file)
    }
}

/// The names in a directory below `directory`, sorted.
pub fn names(directory: &Path, path: &str) -> Result<Vec<String>, Problem> {
    let handle = resolve(
        directory,
        path,
        Links::Inside,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY,
    )?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", handle.as_raw_fd()))? {
        names.push(entry?.file_name().into_string().map_err(|_| Problem::Name)?);
    }
    names.sort_unstable();
    Ok(names)
}

/// The file of any kind at `path` below `directory`, not opened for reading (O_PATH).
pub fn resolve_path(directory: &Path, path: &str, links: Links) -> Result<OwnedFd, Problem> {
    resolve(directory, path, links, OFlag::O_PATH)
}

fn resolve(directory: &Path, path: &str, links: Links, flags: OFlag) -> Result<OwnedFd, Problem> {
    let root = open(
        directory,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(Problem::Kernel)?;
    let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    if links == Links::None {
        resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
    }
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    let inside = match path.trim_start_matches('/') {
        "" => ".",
        inside => inside,
    };
    openat2(&root, inside, how).map_err(|errno| match errno {
        Errno::ELOOP if links == Links::None => Problem::Link,
        Errno::EXDEV | Errno::ELOOP => Problem::LeadsOut,
        errno => Problem::Kernel(errno),
    })
}

fn kind(handle: &OwnedFd) -> Result<SFlag, Problem> {
    let mode = fstat(handle).map_err(Problem::Kernel)?.st_mode;
    Ok(SFlag::from_bits_truncate(mode) & SFlag::S_IFMT)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("boot")).unwrap();
        std::fs::write(dir.path().join("boot/vmlinux"), "k").unwrap();
        symlink("boot/vmlinux", dir.path().join("inside")).unwrap();
        symlink("/etc/passwd", dir.path().join("absolute")).unwrap();
        symlink("../../../../etc/passwd", dir.path().join("relative")).unwrap();
        symlink("circle", dir.path().join("circle")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).unwrap();
        dir
    }

    #[test]
    fn a_file_and_a_link_inside() {
        let dir = directory();
        for path in ["/boot/vmlinux", "/inside"] {
            let found = RegularFile::find(dir.path(), path, Links::Inside).unwrap();
            assert_eq!(std::fs::read(&found.path).unwrap(), b"k");
            assert_eq!(
                io::read_to_string(found.open(false, OFlag::empty()).unwrap()).unwrap(),
                "k"
            );
        }
    }

    #[test]
    fn what_leads_out_or_is_no_file() {
        let dir = directory();
        let _socket = UnixListener::bind(dir.path().join("socket")).unwrap();
        for (path, links, why) in [
            ("/absolute", Links::Inside, "leads out"),
            ("/relative", Links::Inside, "leads out"),
            ("/circle", Links::Inside, "in a circle"),
            ("/inside", Links::None, "is a link"),
            ("/boot", Links::Inside, "not a regular file"),
            ("/pipe", Links::Inside, "not a regular file"),
            ("/socket", Links::Inside, "not a regular file"),
            ("/missing", Links::Inside, "No such file"),
        ] {
            let problem = RegularFile::find(dir.path(), path, links)
                .unwrap_err()
                .to_string();
            assert!(problem.contains(why), "{path}: {problem}");
        }
    }
}
