//! What a launcher publishes of itself: over the control socket while it lives, and in `status.json` ever after.
//!
//! Beside it lies the fence for what comes after this process, `given-away.json`. A source makes that name *before* it gives the
//! guest away, and a launcher that finds it starts no guest: a container that is started again in the same pod would otherwise
//! run the guest a second time. What has to be written is written and on the disk beforehand, so that at the moment itself there
//! is only a name to change, and no disk can be full. Only its absence means "not given away"; whatever else cannot be read is
//! taken for "given away".

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::status::{Direction, Identity, MigrationStatus, NicDescription, Phase, Status, Step};

/// Bytes; far more than a status takes.
const MAX_STATUS: u64 = 256 << 10;

const STATUS: &str = "status.json";
const PREPARED: &str = "given-away.prepared";
pub(crate) const GIVEN_AWAY: &str = "given-away.json";

/// The note that the guest of this pod was given to another launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GivenAway {
    to: String,
}

/// The status, and its file.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) status: Status,
    directory: PathBuf,
}

impl Board {
    pub(crate) fn new(directory: &Path, guest: Identity, nics: Vec<NicDescription>) -> Self {
        Self {
            status: Status::new(guest, Phase::Starting, now(), nics),
            directory: directory.to_owned(),
        }
    }

    pub(crate) fn phase(&mut self, phase: Phase) {
        if self.status.state != phase {
            self.status.state = phase;
            self.status.since = now();
            self.save();
        }
    }

    pub(crate) fn migration(&mut self, direction: Direction, address: &str, step: Step, why: Option<&str>) {
        let last = self.status.migration.as_ref();
        if last.is_some_and(|last| last.step == step) {
            return;
        }
        let now = now();
        self.status.migration = Some(MigrationStatus {
            direction,
            address: address.to_owned(),
            step,
            since: now,
            started: last
                .filter(|last| !last.step.is_end() && last.step != Step::Waiting)
                .map_or(now, |last| last.started),
            rounds: last.and_then(|last| last.rounds),
            sent: last.and_then(|last| last.sent),
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

    /// So many rounds have ended, with so many bytes sent in all.
    pub(crate) fn round(&mut self, round: u64, sent: u64) {
        if let Some(migration) = &mut self.status.migration {
            migration.rounds = Some(round);
            migration.sent = Some(sent);
        }
    }

    /// For whoever asks later; who asks now is answered anyway. A power cut may leave an older one or none.
    pub(crate) fn save(&mut self) {
        self.status.refresh();
        if let Err(error) = write(&self.directory, STATUS, &self.status, false) {
            tracing::warn!(
                event = "status-write-failed",
                "cannot write status.json in the state directory: {error}"
            );
        }
    }

    /// Everything for [`Self::hand_over`] but the name.
    pub(crate) fn prepare_hand_over(&self, to: &str) -> io::Result<()> {
        write(&self.directory, PREPARED, &GivenAway { to: to.to_owned() }, true)
    }

    /// From here on no launcher starts the guest in this pod.
    pub(crate) fn hand_over(&mut self, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(PREPARED), self.directory.join(GIVEN_AWAY))?;
        File::open(&self.directory)?.sync_all()?;
        self.status.handed_over_to = Some(to.to_owned());
        Ok(())
    }

    /// It stays after all.
    pub(crate) fn take_back(&mut self) {
        let _ = fs::remove_file(self.directory.join(PREPARED));
        if self.status.handed_over_to.take().is_some()
            && let Err(error) = fs::remove_file(self.directory.join(GIVEN_AWAY))
        {
            tracing::error!(
                event = "hand-off-note-left",
                "the guest stays here, but {GIVEN_AWAY} in the state directory cannot be deleted: {error}; no launcher will \
                 start the guest in this pod until it is deleted"
            );
        }
    }
}

/// Whether the guest of this pod was given to another launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    Here,
    /// At this address.
    GivenAway(String),
    /// There is a note, and it cannot be read: as much as given away.
    Unknown(String),
}

pub(crate) fn whereabouts(directory: &Path) -> Whereabouts {
    match read_json::<GivenAway>(directory, GIVEN_AWAY) {
        Ok(note) => Whereabouts::GivenAway(note.to),
        // A process without a free descriptor cannot open the note, and sees without one that there is none.
        Err(error) => match fs::symlink_metadata(directory.join(GIVEN_AWAY)) {
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => Whereabouts::Here,
            _ => Whereabouts::Unknown(error.to_string()),
        },
    }
}

/// The last status of a launcher that may be gone.
pub(crate) fn read(directory: &Path) -> io::Result<Status> {
    let mut status: Status = read_json(directory, STATUS)?;
    // It may have been killed between the note and the next status.
    if let Whereabouts::GivenAway(to) = whereabouts(directory) {
        status.handed_over_to = Some(to);
        if matches!(status.state, Phase::Running | Phase::Stopping) {
            status.state = Phase::HandedOver;
        }
    }
    Ok(status)
}

/// Says so where the launcher before this one in the same pod did not end by itself: nothing else in the pod's log would.
pub(crate) fn note_predecessor(directory: &Path) {
    if let Some(state) = unfinished(directory) {
        tracing::warn!(
            event = "previous-launcher-killed",
            "the launcher before this one in this pod was killed, and its guest was {state} then: by the kernel where the \
             container needed more memory than its limit, or by whoever ended the container or the node; the container's \
             last state (kubectl describe pod) has the reason"
        );
    }
}

/// What the guest was doing when its launcher ended without a word.
fn unfinished(directory: &Path) -> Option<&'static str> {
    let last = read(directory).ok()?;
    matches!(
        last.state,
        Phase::Starting | Phase::Receiving | Phase::Running | Phase::Paused | Phase::Stopping
    )
    .then(|| last.state.name())
}

fn read_json<T: serde::de::DeserializeOwned>(directory: &Path, name: &str) -> io::Result<T> {
    let mut text = String::new();
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(directory.join(name))?
        .take(MAX_STATUS)
        .read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

/// `durable`: returns once it is on the disk.
fn write(directory: &Path, name: &str, value: &impl Serialize, durable: bool) -> io::Result<()> {
    let fresh = directory.join(format!("{name}.new"));
    let _ = fs::remove_file(&fresh);
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    text.push(b'\n');
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&fresh)?;
    file.write_all(&text)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(fresh, directory.join(name))
}

/// Seconds since 1970, UTC.
pub(crate) fn now() -> u64 {
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
        board.phase(Phase::Running);
        assert_eq!(whereabouts(dir.path()), Whereabouts::Here);
        board.prepare_hand_over("tcp:b:1").unwrap();
        assert_eq!(whereabouts(dir.path()), Whereabouts::Here, "only prepared");
        board.hand_over("tcp:b:1").unwrap();
        let given_away = Whereabouts::GivenAway("tcp:b:1".into());
        assert_eq!(whereabouts(dir.path()), given_away);
        let killed = read(dir.path()).unwrap();
        assert_eq!(
            killed.state,
            Phase::HandedOver,
            "the launcher was killed after the note"
        );
        board.phase(Phase::Migrated);
        assert_eq!(whereabouts(dir.path()), given_away, "whatever the status says");
        let status = read(dir.path()).unwrap();
        assert_eq!(status.state, Phase::Migrated);
        assert_eq!(status.handed_over_to.as_deref(), Some("tcp:b:1"));
    }

    #[test]
    fn a_launcher_that_did_not_end_by_itself_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unfinished(dir.path()), None, "the first one");
        let mut board = board(dir.path());
        for (phase, expected) in [
            (Phase::Running, Some("running")),
            (Phase::Stopping, Some("stopping")),
            (Phase::Failed, None),
            (Phase::Receiving, Some("receiving")),
            (Phase::Migrated, None),
            (Phase::ShutDown, None),
        ] {
            board.phase(phase);
            assert_eq!(unfinished(dir.path()), expected, "{phase:?}");
        }
        board.phase(Phase::Running);
        board.prepare_hand_over("tcp:b:1").unwrap();
        board.hand_over("tcp:b:1").unwrap();
        assert_eq!(unfinished(dir.path()), None, "its guest is elsewhere");
    }

    #[test]
    fn one_that_stays_after_all_may_be_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = board(dir.path());
        board.prepare_hand_over("tcp:b:1").unwrap();
        board.hand_over("tcp:b:1").unwrap();
        board.take_back();
        assert_eq!(whereabouts(dir.path()), Whereabouts::Here);
        assert!(board.hand_over("tcp:b:1").is_err(), "nothing is prepared");
    }

    #[test]
    fn a_note_that_cannot_be_read_is_never_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join(GIVEN_AWAY);
        for damaged in ["", "{", "{\"from\": \"x\"}", "null"] {
            fs::write(&note, damaged).unwrap();
            assert!(
                matches!(whereabouts(dir.path()), Whereabouts::Unknown(_)),
                "{damaged:?}"
            );
        }
        fs::remove_file(&note).unwrap();
        std::os::unix::fs::symlink("/nowhere", &note).unwrap();
        assert!(
            matches!(whereabouts(dir.path()), Whereabouts::Unknown(_)),
            "a link"
        );
        fs::remove_file(&note).unwrap();
        fs::create_dir(&note).unwrap();
        assert!(
            matches!(whereabouts(dir.path()), Whereabouts::Unknown(_)),
            "a directory"
        );
    }
}
