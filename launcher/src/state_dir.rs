//! The state directory: `journal.json` and `lock` for the privileged half, `vmm/` for the unprivileged one, `repair/`
//! where passt's helper meets that.
//!
//! The guest's side can write only below `vmm/`. The privileged half opens nothing there, so no link planted
//! there can lead it anywhere.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hawser_netsetup::Owner;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, getegid, geteuid, setegid};

use crate::error::{ExitCode, Failure};

/// The file that says that `hawser setup` has wired the pod.
const WIRED: &str = "wired";

/// A state directory that this process alone uses, until it is dropped.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    pub(crate) fn open(path: &Path, owner: Owner) -> Result<Self, Failure> {
        let fail = |error: io::Error| {
            Failure::new(ExitCode::PodUnfit, format!("state directory {}", path.display()))
                .because(error)
                .remedy("mount a writable volume there (emptyDir), or name another with --state-dir")
        };
        fs::create_dir_all(path).map_err(fail)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(fail)?;
        let lock = wait_for_lock(lock).map_err(|errno| match errno {
            Errno::EWOULDBLOCK => Failure::new(
                ExitCode::NotOurs,
                format!("another hawser is using the state directory {}", path.display()),
            )
            .remedy("let it end, or give this one a --state-dir of its own in a pod of its own"),
            errno => fail(errno.into()),
        })?;
        let this = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        make_shared(&this.vmm_dir(), owner).map_err(fail)?;
        Ok(this)
    }

    /// What [`is_wired`] then says.
    pub(crate) fn mark_wired(&self, wired: bool) -> Result<(), Failure> {
        let mark = self.path.join(WIRED);
        let result = match wired {
            true => fs::write(&mark, ""),
            false => match fs::remove_file(&mark) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            },
        };
        result.map_err(|error| {
            let what = format!("cannot write {}", mark.display());
            Failure::new(ExitCode::PodUnfit, what).because(error)
        })
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal.json")
    }

    /// Where the unprivileged half shows the helper that keeps the capability a socket; nothing else is in it.
    pub(crate) fn repairs(&self, owner: Owner) -> Result<PathBuf, Failure> {
        let dir = self.path.join("repair");
        make_shared(&dir, owner).map_err(|error| {
            Failure::unfit(
                format!("the state directory's {}", dir.display()),
                "mount a writable volume there (emptyDir), or name another with --state-dir",
            )
            .because(error)
        })?;
        Ok(dir)
    }

    /// The unprivileged half's: sockets, status, console log, and the disks that are made for the guest.
    pub(crate) fn vmm_dir(&self) -> PathBuf {
        vmm_dir(&self.path)
    }
}

/// A directory for the owner too: made for the owner's group while that is our own effective group, so that root needs no
/// CAP_CHOWN.
fn make_shared(dir: &Path, owner: Owner) -> io::Result<()> {
    let before = getegid();
    if geteuid().as_raw() != owner.uid {
        setegid(Gid::from_raw(owner.gid))?;
    }
    let made = DirBuilder::new().mode(0o770).create(dir);
    setegid(before)?;
    match made {
        // The umask has taken the group's bits away.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o770))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = fs::symlink_metadata(dir)?;
    if !found.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::NotADirectory,
            dir.display().to_string(),
        ));
    }
    let usable = found.uid() == owner.uid || (found.gid() == owner.gid && found.mode() & 0o070 == 0o070);
    if !usable {
        let why = format!(
            "{} exists and user {} cannot write to it: delete it",
            dir.display(),
            owner.uid
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

/// Whether `hawser setup` has wired the pod, by its state directory.
pub(crate) fn is_wired(state_dir: &Path) -> bool {
    state_dir.join(WIRED).exists()
}

/// Where that is, whether or not it is there yet.
pub(crate) fn vmm_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("vmm")
}

/// A keeper that was killed leaves a supervisor that holds the lock until it has followed: that is a matter of moments.
fn wait_for_lock(mut file: File) -> Result<Flock<File>, Errno> {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = back,
            Err((_, errno)) => return Err(errno),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
