//! What a launcher says of itself: over the control socket while it lives, and in `status.json` ever after.
//!
//! The file is also the fence for what comes after this process. A source writes there that its guest is given away
//! *before* it gives it away, and a launcher that finds this starts no guest: a container that is started again in the
//! same pod would otherwise run it a second time. What has to be written is written beforehand, so that at the moment
//! itself there is only a name to change, and no disk can be full.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::migration::{Identity, NicDescription};

/// Answer to `hawser status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) guest: Identity,
    /// starting, receiving, running, stopping, and at the end shut-down, migrated, not-received, handed-over, failed.
    pub(crate) state: String,
    /// Seconds since the beginning of 1970 in UTC.
    pub(crate) since: u64,
    pub(crate) nics: Vec<NicDescription>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) migration: Option<MigrationStatus>,
    /// The guest is this target's; no launcher starts it here again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) handed_over_to: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MigrationStatus {
    /// out or in.
    pub(crate) direction: String,
    /// Where to, or where this launcher listens.
    pub(crate) address: String,
    /// As docs/migration.md names them.
    pub(crate) step: String,
    pub(crate) since: u64,
    /// Rounds over the guest's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rounds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// Far more than there is to say.
const MOST: u64 = 256 << 10;

/// The status, and its file.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) status: Status,
    directory: PathBuf,
}

impl Board {
    pub(crate) fn new(directory: &Path, guest: Identity, nics: Vec<NicDescription>) -> Self {
        Self {
            status: Status {
                guest,
                state: "starting".into(),
                since: now(),
                nics,
                migration: None,
                handed_over_to: None,
            },
            directory: directory.to_owned(),
        }
    }

    pub(crate) fn state(&mut self, state: &str) {
        if self.status.state != state {
            self.status.state = state.to_owned();
            self.status.since = now();
            self.save();
        }
    }

    pub(crate) fn migration(&mut self, direction: &str, address: &str, step: &str, why: Option<&str>) {
        let same = self
            .status
            .migration
            .as_ref()
            .is_some_and(|last| last.step == step);
        if same {
            return;
        }
        let rounds = self.status.migration.as_ref().and_then(|last| last.rounds);
        self.status.migration = Some(MigrationStatus {
            direction: direction.to_owned(),
            address: address.to_owned(),
            step: step.to_owned(),
            since: now(),
            rounds,
            why: why.map(str::to_owned),
        });
    }

    /// Whether the guest has the VF of this interface.
    pub(crate) fn vf(&mut self, interface: &str, attached: bool) {
        let nic = self.status.nics.iter_mut().find(|nic| nic.name == interface);
        if let Some(vf) = nic.and_then(|nic| nic.vf.as_mut()) {
            vf.attached = attached;
        }
    }

    pub(crate) fn round(&mut self, round: u64) {
        if let Some(migration) = &mut self.status.migration {
            migration.rounds = Some(round);
        }
    }

    /// For whoever asks later; who asks now is answered anyway.
    pub(crate) fn save(&self) {
        if let Err(error) = write(&self.directory, "status.json", &self.status) {
            tracing::warn!(event = "status-write-failed", "the status is not kept: {error}");
        }
    }

    /// Everything for [`Self::hand_over`] but the name.
    pub(crate) fn prepare_hand_over(&self, to: &str) -> io::Result<()> {
        let mut status = self.status.clone();
        status.state = "handed-over".into();
        status.handed_over_to = Some(to.to_owned());
        write(&self.directory, "handed-over.json", &status)
    }

    /// From here on no launcher starts the guest in this pod.
    pub(crate) fn hand_over(&mut self, to: &str) -> io::Result<()> {
        fs::rename(
            self.directory.join("handed-over.json"),
            self.directory.join("status.json"),
        )?;
        self.status.handed_over_to = Some(to.to_owned());
        Ok(())
    }

    /// It stays after all.
    pub(crate) fn take_back(&mut self) {
        let _ = fs::remove_file(self.directory.join("handed-over.json"));
        if self.status.handed_over_to.take().is_some() {
            let _ = fs::remove_file(self.directory.join("status.json"));
            self.save();
        }
    }
}

/// Where the guest of this pod was given to, if it was.
pub(crate) fn handed_over(directory: &Path) -> Option<String> {
    read(directory).ok().and_then(|status| status.handed_over_to)
}

/// The last status of a launcher that may be gone.
pub(crate) fn read(directory: &Path) -> io::Result<Status> {
    let mut text = String::new();
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(directory.join("status.json"))?
        .take(MOST)
        .read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

fn write(directory: &Path, name: &str, status: &Status) -> io::Result<()> {
    let fresh = directory.join(format!("{name}.new"));
    let _ = fs::remove_file(&fresh);
    let mut text = serde_json::to_vec_pretty(status).map_err(io::Error::other)?;
    text.push(b'\n');
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&fresh)?
        .write_all(&text)?;
    fs::rename(fresh, directory.join(name))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(directory: &Path) -> Board {
        let guest = Identity {
            namespace: "ns".into(),
            name: "web".into(),
            uid: None,
        };
        Board::new(directory, guest, Vec::new())
    }

    #[test]
    fn a_guest_that_was_given_away_is_known_to_the_next_launcher() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = board(dir.path());
        board.state("running");
        assert_eq!(handed_over(dir.path()), None);
        board.prepare_hand_over("tcp:b:1").unwrap();
        assert_eq!(handed_over(dir.path()), None, "only prepared");
        board.hand_over("tcp:b:1").unwrap();
        assert_eq!(handed_over(dir.path()).as_deref(), Some("tcp:b:1"));
        board.state("migrated");
        assert_eq!(
            handed_over(dir.path()).as_deref(),
            Some("tcp:b:1"),
            "also in the last status"
        );
        assert_eq!(read(dir.path()).unwrap().state, "migrated");
    }

    #[test]
    fn one_that_stays_after_all_may_be_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = board(dir.path());
        board.prepare_hand_over("tcp:b:1").unwrap();
        board.hand_over("tcp:b:1").unwrap();
        board.take_back();
        assert_eq!(handed_over(dir.path()), None);
        assert!(board.hand_over("tcp:b:1").is_err(), "nothing is prepared");
    }
}
