//! How to take back what a plan does, written down before the first step is taken.
//!
//! Every entry can be performed whether or not its step was: deleting what is not there and writing a value
//! that is there already both succeed. So the journal is one file, written once, and a kill at any point
//! between two steps leaves nothing that it does not know. What an earlier run of the same pod wrote is kept
//! where both speak of the same object, because only that run saw the value from before.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::undo::Undo;

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

    /// Reads what an earlier run left; an absent file is an empty journal.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(failure("read", path, source)),
        };
        // A kill in mid-write leaves no half file (see `write`), so the file was edited: better to stop than to forget
        // what a namespace looked like.
        serde_json::from_slice(&text).map_err(|error| failure("parse", path, error.into()))
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

    /// Replaces the file as a whole.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let next = path.with_extension("next");
        let attempt = || {
            let text = serde_json::to_vec_pretty(self)?;
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&next)?;
            file.write_all(&text)?;
            fs::rename(&next, path)
        };
        attempt().map_err(|source| failure("write", path, source))
    }

    /// Removes the file once everything in it has been taken back.
    pub fn remove(path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failure("remove", path, source)),
            _ => Ok(()),
        }
    }
}

fn failure(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Journal {
        action,
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarding(value: bool) -> Undo {
        Undo::Ipv4Forwarding {
            link: "eth0".into(),
            value,
        }
    }

    #[test]
    fn the_first_run_saw_the_value_from_before() {
        let first = Journal {
            undo: vec![forwarding(false)],
        };
        let second = Journal {
            undo: vec![forwarding(true), Undo::DeleteTables],
        };
        assert_eq!(second.after(first).undo, [forwarding(false), Undo::DeleteTables]);
    }

    #[test]
    fn written_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.json");
        assert_eq!(Journal::read(&path).unwrap(), Journal::default());
        let journal = Journal {
            undo: vec![forwarding(true), Undo::DeleteTables],
        };
        journal.write(&path).unwrap();
        assert_eq!(Journal::read(&path).unwrap(), journal);
        Journal::remove(&path).unwrap();
        Journal::remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_journal_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.json");
        fs::write(&path, "{").unwrap();
        assert!(Journal::read(&path).unwrap_err().to_string().contains("parse"));
        assert!(path.exists());
    }
}
