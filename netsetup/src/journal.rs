//! How to take back what a plan does, written down before the first step is taken.
//!
//! Every entry can be performed whether or not its step was: deleting what is not there and writing a value
//! that is there already both succeed. So the journal is one file, written once, and a kill at any point
//! between two steps leaves nothing that it does not know. What an earlier run of the same pod wrote is kept
//! where both speak of the same object, because only that run saw the value from before.
//!
//! What is performed from it may be performed as root. So the file is one of this user's own, in a directory that is held open,
//! no link leads to it, and of what it says only what a plan could have written is taken ([`Undo::is_expected`]).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::undo::Undo;

/// Bytes of a journal that was not written by a plan; one of a plan has some hundreds.
const MAX_SIZE: u64 = 1 << 20;

/// What to take back, in the order in which it was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    pub undo: Vec<Undo>,
}

impl Journal {
    /// Whether taking it back takes CAP_NET_ADMIN; as [`crate::Plan::needs_net_admin`].
    pub fn needs_net_admin(&self) -> bool {
        let sysctl = |undo: &Undo| matches!(undo, Undo::Sysctl { .. });
        !self.undo.iter().all(sysctl)
    }

    /// This journal after `earlier`: what both speak of keeps the earlier value.
    pub fn after(self, earlier: Self) -> Self {
        let mut undo = earlier.undo;
        for entry in self.undo {
            if !undo.iter().any(|known| known.same_object(&entry)) {
                undo.push(entry);
            }
        }
        Self { undo }
    }
}

/// Where a journal is kept.
#[derive(Debug)]
pub struct JournalFile {
    directory: OwnedFd,
    name: String,
    /// For messages.
    path: PathBuf,
}

impl JournalFile {
    /// The file `name` in `directory`, whose path is for messages only.
    pub fn new(directory: OwnedFd, name: &str, directory_path: &Path) -> Self {
        Self {
            directory,
            name: name.to_owned(),
            path: directory_path.join(name),
        }
    }

    /// Reads what an earlier run left; an absent file is an empty journal.
    ///
    /// # Errors
    /// When it cannot be read, and when nobody here can have written it so: better to stop than to forget what a namespace
    /// looked like, or to do what somebody else wishes.
    pub fn read(&self) -> Result<Journal, Error> {
        // Not to wait for the other end of a pipe.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = match openat(&self.directory, self.name.as_str(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(Journal::default()),
            Err(Errno::ELOOP) => return Err(self.damaged("it is a link")),
            Err(errno) => return Err(self.failure("read", errno.into())),
        };
        let found = file.metadata().map_err(|error| self.failure("read", error))?;
        if !found.is_file() {
            return Err(self.damaged("it is no file"));
        }
        if found.uid() != geteuid().as_raw() {
            return Err(self.damaged(format!("it belongs to user {}", found.uid())));
        }
        let mut text = Vec::new();
        file.take(MAX_SIZE)
            .read_to_end(&mut text)
            .map_err(|error| self.failure("read", error))?;
        let journal: Journal =
            serde_json::from_slice(&text).map_err(|error| self.damaged(error.to_string()))?;
        match journal.undo.iter().find(|undo| !undo.is_expected()) {
            Some(undo) => Err(self.damaged(format!("hawser does not {:?}", undo.to_string()))),
            None => Ok(journal),
        }
    }

    /// Replaces the file as a whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, journal: &Journal) -> Result<(), Error> {
        let next = format!("{}.next", self.name);
        let attempt = || -> io::Result<()> {
            let text = serde_json::to_vec_pretty(journal)?;
            // What a kill has left.
            self.unlink(&next)?;
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            let mut file = File::from(openat(&self.directory, next.as_str(), flags, mode)?);
            file.write_all(&text)?;
            let directory = self.directory.as_fd();
            Ok(renameat(directory, next.as_str(), directory, self.name.as_str())?)
        };
        attempt().map_err(|source| self.failure("write", source))
    }

    /// Removes the file once everything in it has been taken back.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        self.unlink(&self.name)
            .map_err(|source| self.failure("remove", source))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn failure(&self, action: &'static str, source: io::Error) -> Error {
        Error::Journal {
            action,
            path: self.path.display().to_string(),
            source,
        }
    }

    fn damaged(&self, why: impl Into<String>) -> Error {
        Error::JournalDamaged {
            path: self.path.display().to_string(),
            why: why.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn forwarding(value: bool) -> Undo {
        Undo::Ipv4Forwarding {
            link: "eth0".into(),
            value,
        }
    }

    fn journal(undo: impl Into<Vec<Undo>>) -> Journal {
        Journal { undo: undo.into() }
    }

    fn place() -> (tempfile::TempDir, JournalFile, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(File::open(dir.path()).unwrap());
        let file = JournalFile::new(fd, "journal.json", dir.path());
        let path = dir.path().join("journal.json");
        (dir, file, path)
    }

    #[test]
    fn the_first_run_saw_the_value_from_before() {
        let first = journal([forwarding(false)]);
        let second = journal([forwarding(true), Undo::DeleteTables]);
        assert_eq!(second.after(first).undo, [forwarding(false), Undo::DeleteTables]);
    }

    #[test]
    fn written_and_read_back() {
        let (_dir, file, path) = place();
        assert_eq!(file.read().unwrap(), Journal::default());
        // What a kill in the middle of writing has left.
        fs::write(path.with_extension("json.next"), "{").unwrap();
        let journal = journal([forwarding(true), Undo::DeleteTables]);
        file.write(&journal).unwrap();
        assert_eq!(file.read().unwrap(), journal);
        file.remove().unwrap();
        file.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_journal_is_an_error_and_stays() {
        let (_dir, file, path) = place();
        for text in ["", "{", "[]", r#"{"undo":[{"undo":"reboot"}]}"#] {
            fs::write(&path, text).unwrap();
            let error = file.read().unwrap_err();
            assert!(matches!(error, Error::JournalDamaged { .. }), "{text}: {error}");
            assert!(path.exists());
        }
    }

    /// As root, what it says would be done to the node's own files (hardening: an arbitrary write).
    #[test]
    fn a_journal_does_nothing_that_no_plan_does() {
        let (dir, file, path) = place();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let sysctl = |path: &str, value: &str| Undo::Sysctl {
            path: path.into(),
            value: value.into(),
        };
        let long = "x".repeat(16);
        for undo in [
            sysctl(victim.to_str().unwrap(), "1"),
            sysctl("/proc/sys/kernel/core_pattern", "1"),
            sysctl("/proc/sys/net/ipv6/conf/../../../kernel/panic/accept_ra", "1"),
            sysctl("/proc/sys/net/ipv6/conf/a/b/accept_ra", "1"),
            sysctl("/proc/sys/net/ipv6/conf/all/forwarding", "|/bin/sh"),
            sysctl(
                "/proc/sys/net/ipv6/conf/all/forwarding",
                "1\n1\n1\n1\n1\n1\n1\n1\n1\n1\n1\n1",
            ),
            Undo::DeleteLink { link: "../x".into() },
            Undo::DeleteLink { link: String::new() },
            Undo::DeleteLink { link: long.clone() },
            Undo::Ipv4Forwarding {
                link: "a b".into(),
                value: true,
            },
        ] {
            fs::write(&path, serde_json::to_vec(&journal([undo.clone()])).unwrap()).unwrap();
            let error = file.read().unwrap_err();
            assert!(matches!(error, Error::JournalDamaged { .. }), "{undo:?}");
        }
        assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    }

    #[test]
    fn no_link_and_no_pipe_is_followed_or_waited_for() {
        let (dir, file, path) = place();
        let victim = dir.path().join("victim");
        fs::write(&victim, r#"{"undo":[]}"#).unwrap();
        symlink(&victim, &path).unwrap();
        symlink(&victim, path.with_extension("json.next")).unwrap();
        assert!(matches!(file.read(), Err(Error::JournalDamaged { .. })));
        file.write(&journal([Undo::DeleteTables])).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), r#"{"undo":[]}"#);
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink(), "replaced");
        file.remove().unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(matches!(file.read(), Err(Error::JournalDamaged { .. })));
    }

    #[test]
    fn another_users_journal_is_nobodys() {
        if !geteuid().is_root() {
            return;
        }
        let (_dir, file, path) = place();
        fs::write(&path, r#"{"undo":[]}"#).unwrap();
        chown(&path, Some(107), None).unwrap();
        let error = file.read().unwrap_err();
        assert!(error.to_string().contains("user 107"), "{error}");
    }
}
