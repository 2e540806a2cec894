//! The state directory: `private/` for the privileged half, `vmm/` for the unprivileged one, `repair/` where passt's helper
//! meets that.
//!
//! The guest's side can write to the state directory itself where that is a volume that anybody can write to (an emptyDir is).
//! So what the privileged half keeps is below `private/`: a directory of its own user's that nobody else may enter, made and
//! looked at without following a link, and held open. It opens nothing below the other two.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hawser_netsetup::{JournalFile, Owner};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, UnlinkatFlags, getegid, geteuid, setegid, unlinkat};

use crate::error::{ExitCode, Failure};

/// The file that says that `hawser setup` has wired the pod.
const WIRED: &str = "wired";

/// A state directory that this process alone uses, until it is dropped.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    private: OwnedFd,
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
        let private = open_private(&private_dir(path)).map_err(|error| match error {
            Refused::System(error) => fail(error),
            Refused::Foreign(why) => Failure::new(
                ExitCode::NotOurs,
                format!(
                    "state directory {}: {}: {why}",
                    path.display(),
                    private_dir(path).display()
                ),
            )
            .remedy(
                "hawser did not create it: start in a fresh pod, or name another directory with --state-dir",
            ),
        })?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let lock = openat(&private, "lock", flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map(File::from)
            .map_err(|errno| fail(errno.into()))?;
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
            private,
            _lock: lock,
        };
        make_shared(&this.vmm_dir(), owner).map_err(fail)?;
        Ok(this)
    }

    /// What [`is_wired`] then says.
    pub(crate) fn mark_wired(&self, wired: bool) -> Result<(), Failure> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let result = match wired {
            true => openat(&self.private, WIRED, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(drop),
            false => match unlinkat(&self.private, WIRED, UnlinkatFlags::NoRemoveDir) {
                Err(Errno::ENOENT) => Ok(()),
                result => result,
            },
        };
        result.map_err(|errno| {
            let what = format!("cannot write {}", private_dir(&self.path).join(WIRED).display());
            Failure::new(ExitCode::PodUnfit, what).because(errno)
        })
    }

    /// The journal of this namespace. A node that was started again, or a pod whose namespace was made anew, has nothing of what
    /// an earlier one speaks of, in whatever state the node has left the file.
    pub(crate) fn journal(&self) -> Result<JournalFile, Failure> {
        let fail = |error: io::Error| {
            Failure::new(ExitCode::Internal, "which network namespace this is").because(error)
        };
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(fail)?;
        let namespace = fs::metadata("/proc/thread-self/ns/net").map_err(fail)?.ino();
        let name = format!("journal-{}-{namespace}.json", boot.trim());
        let directory = self.private.try_clone().map_err(fail)?;
        Ok(JournalFile::new(directory, &name, &private_dir(&self.path)))
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

/// Why there is no private directory.
#[derive(Debug)]
enum Refused {
    System(io::Error),
    Foreign(String),
}

/// Makes the directory, or takes one that this user has made.
fn open_private(path: &Path) -> Result<OwnedFd, Refused> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(Refused::System(error)),
        _ => {}
    }
    let directory = open_directory(path).map_err(|error| match error.raw_os_error() {
        Some(nix::libc::ELOOP | nix::libc::ENOTDIR) => Refused::Foreign("it is no directory".into()),
        Some(nix::libc::EACCES) => Refused::Foreign("this user may not enter it".into()),
        _ => Refused::System(error),
    })?;
    let found = directory.metadata().map_err(Refused::System)?;
    if found.uid() != geteuid().as_raw() {
        return Err(Refused::Foreign(format!("it belongs to user {}", found.uid())));
    }
    // The kubelet gives what is in a volume to the pod's fsGroup whenever it mounts it.
    if found.mode() & 0o7777 != 0o700 {
        directory
            .set_permissions(Permissions::from_mode(0o700))
            .map_err(Refused::System)?;
    }
    Ok(directory.into())
}

/// No link, and nothing that has to be waited for.
fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    File::options().read(true).custom_flags(flags.bits()).open(path)
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
        Ok(()) => {
            let directory = open_directory(dir)?;
            // Another may have put its own in this one's place meanwhile.
            if directory.metadata()?.uid() == geteuid().as_raw() {
                // The umask has taken the group's bits away.
                directory.set_permissions(Permissions::from_mode(0o770))?;
            }
        }
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
    private_dir(state_dir).join(WIRED).exists()
}

fn private_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("private")
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};
    use std::sync::{Mutex, PoisonError};

    use super::*;

    const OWNER: Owner = Owner { uid: 107, gid: 107 };

    /// The group that a directory is made with is the process's, and so changed for all of its threads.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// Only where the two halves are two users is there something to tell apart.
    fn as_root(test: impl FnOnce(&Path)) {
        if geteuid().is_root() {
            let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
            test(dir.path());
        }
    }

    fn refused(path: &Path) -> Failure {
        StateDir::open(path, OWNER).unwrap_err()
    }

    #[test]
    fn what_the_privileged_half_keeps_is_its_own() {
        as_root(|path| {
            let state = StateDir::open(path, OWNER).unwrap();
            let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
            assert_eq!(mode(&private_dir(path)), 0o700);
            assert!(!is_wired(path));
            state.mark_wired(true).unwrap();
            assert!(is_wired(path));
            state.journal().unwrap().write(&Default::default()).unwrap();
            // As the kubelet leaves it for an fsGroup.
            fs::set_permissions(private_dir(path), Permissions::from_mode(0o2770)).unwrap();
            drop(state);
            StateDir::open(path, OWNER).unwrap();
            assert_eq!(mode(&private_dir(path)), 0o700);
        });
    }

    #[test]
    fn what_another_user_has_put_there_is_refused() {
        as_root(|path| {
            let private = private_dir(path);
            fs::create_dir(&private).unwrap();
            chown(&private, Some(107), Some(107)).unwrap();
            assert_eq!(refused(path).code(), ExitCode::NotOurs);
        });
        as_root(|path| {
            let elsewhere = tempfile::tempdir().unwrap();
            symlink(elsewhere.path(), private_dir(path)).unwrap();
            assert_eq!(refused(path).code(), ExitCode::NotOurs);
            assert!(fs::read_dir(elsewhere.path()).unwrap().next().is_none());
        });
        as_root(|path| {
            nix::unistd::mkfifo(&private_dir(path), Mode::S_IRWXU).unwrap();
            assert_eq!(refused(path).code(), ExitCode::NotOurs);
        });
    }

    /// What the guest's side wrote before, where the privileged half kept its files in earlier versions.
    #[test]
    fn what_lies_in_the_directory_itself_is_not_looked_at() {
        as_root(|path| {
            let victim = path.join("victim");
            fs::write(&victim, "precious").unwrap();
            fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
            for name in ["lock", "wired", "journal.next"] {
                symlink(&victim, path.join(name)).unwrap();
            }
            let undo = format!(
                r#"{{"undo":[{{"undo":"sysctl","path":"{}","value":"x"}}]}}"#,
                victim.display()
            );
            fs::write(path.join("journal.json"), undo).unwrap();
            let state = StateDir::open(path, OWNER).unwrap();
            assert!(!is_wired(path));
            let journal = state.journal().unwrap();
            assert!(journal.read().unwrap().undo.is_empty());
            journal.write(&Default::default()).unwrap();
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        });
    }
}
