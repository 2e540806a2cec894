//! What must hold.

use super::{CANCEL, MIGRATE, Vf, Vmm, World};
use crate::guest::machine::{Guest, Outcome};
use crate::migration::target;

impl World {
    pub(super) fn check(&self) {
        assert!(
            !(self.here == Vmm::Runs && self.there == Vmm::Runs),
            "the guest runs twice: {self:#?}"
        );
        if self.source.is_committed() && self.source_alive {
            assert!(self.note, "given away without the note: {self:#?}");
            assert!(
                matches!(self.here, Vmm::Stopped | Vmm::Dead),
                "given away and not stopped: {self:#?}"
            );
        }
        for (call, count) in &self.answers {
            assert_eq!(*count, 1, "{call:?} was answered more than once: {self:#?}");
        }
        assert!(
            self.kills.0 <= 1 && self.kills.1 <= 1,
            "a VMM was killed twice: {self:#?}"
        );
    }

    /// Nothing can happen any more: there is one guest, or everybody says why there is none.
    pub(super) fn check_end(&self) {
        let runs_here = self.here == Vmm::Runs && (self.source_alive || self.restarted);
        let runs_there = self.there == Vmm::Runs && self.target_alive;
        let at_rest = |guest: &Guest| {
            matches!(
                guest,
                Guest::Running { .. } | Guest::Stopping { .. } | Guest::Ended(_)
            )
        };
        // A target that no source has asked for anything waits for the next one.
        let waits = self.receiving() == Some(&target::State::Waiting);
        assert!(
            !self.source_alive || at_rest(&self.source),
            "the source waits for ever: {self:#?}"
        );
        assert!(
            !self.target_alive || at_rest(&self.target) || waits,
            "the target waits for ever: {self:#?}"
        );
        if self.source_alive {
            assert_eq!(self.answers.get(&MIGRATE), Some(&1), "no answer: {self:#?}");
            assert_eq!(
                self.answers.contains_key(&CANCEL),
                self.cancel_called,
                "{self:#?}"
            );
        }
        match &self.source {
            _ if !self.source_alive => {}
            Guest::Running { .. } | Guest::Stopping { .. } => {
                assert!(runs_here, "it was to stay: {self:#?}");
                assert!(!self.note, "it stays, and is noted as given away: {self:#?}");
                assert!(
                    !self.told_to_end || matches!(self.source, Guest::Stopping { .. }),
                    "a stop was forgotten: {self:#?}"
                );
                assert_ne!(self.vf, Vf::Out, "it stays without its VF: {self:#?}");
            }
            Guest::Ended(Outcome::Migrated) => {
                // It may have failed there since, as any guest may; its own launcher says so.
                assert!(
                    runs_there || !self.target_alive || self.there == Vmm::Dead,
                    "{self:#?}"
                );
            }
            Guest::Ended(Outcome::LostAtTarget(_)) => {
                assert_eq!(self.here, Vmm::Dead, "{self:#?}");
                assert!(
                    self.commit_heard || self.guest_ended,
                    "lost, though the target had not taken it and it was still here: {self:#?}"
                );
            }
            Guest::Ended(Outcome::InDoubt(_)) => assert_eq!(self.here, Vmm::Dead, "{self:#?}"),
            Guest::Ended(Outcome::Killed) => {
                assert!(self.told_to_end && !self.note, "{self:#?}");
                assert!(!runs_there, "it was not given away: {self:#?}");
            }
            Guest::Ended(_) => {
                assert!(self.guest_ended, "nobody ended it: {self:#?}");
                assert!(!runs_there, "it was not given away: {self:#?}");
            }
            _ => {}
        }
        if matches!(self.target, Guest::Running { .. } | Guest::Stopping { .. }) && self.target_alive {
            assert!(runs_there, "{self:#?}");
        }
    }
}
