//! The disks that are the pod's own, as a part of a migration away from here ([`crate::migration::disk_copy`]).

use std::time::Duration;

use super::Outgoing;
use crate::control::OnTimeout;
use crate::migration::disk_copy::{CopiedDisk, DiskCopy, Limits, Route, Told};
use crate::migration::source::Event;

/// Their copy, and what the target holds besides.
#[derive(Debug, Default)]
pub(super) struct OwnDisks {
    pub(super) disks: Vec<CopiedDisk>,
    copy: Option<DiskCopy>,
    /// The target has them as the paused guest has left them.
    complete: bool,
    /// The target's VMM has the guest.
    restored: bool,
}

impl OwnDisks {
    pub(super) fn new(disks: Vec<CopiedDisk>) -> Self {
        Self {
            complete: disks.is_empty(),
            disks,
            ..Self::default()
        }
    }

    /// The guest is paused.
    pub(super) fn guest_is_paused(&self) {
        if let Some(copy) = &self.copy {
            copy.guest_is_paused();
        }
    }

    /// The target's VMM has the guest. Ours has paused it then, also if its event got lost.
    pub(super) fn restored(&mut self) -> Option<Event> {
        self.restored = true;
        self.guest_is_paused();
        self.holding()
    }

    pub(super) fn end(&mut self) {
        self.copy = None;
    }

    fn holding(&self) -> Option<Event> {
        (self.restored && self.complete).then_some(Event::Holding)
    }
}

impl Outgoing {
    /// Nothing is to be waited for if there are none.
    pub(super) fn copy_disks(&mut self) -> Option<Event> {
        if self.own_disks.disks.is_empty() {
            return Some(Event::Copied);
        }
        let route = Route {
            address: self.address.clone(),
            server_name: self.server_name.clone(),
            security: self.security.clone(),
            id: self.prepare.id.clone(),
        };
        let limits = Limits {
            downtime: Duration::from_millis(self.order.downtime_ms),
            at_worst: match self.order.on_timeout {
                OnTimeout::Cancel => None,
                OnTimeout::Pause => Some(self.limits().cap),
            },
            timeout: self.timeout(),
        };
        let disks = self.own_disks.disks.clone();
        self.own_disks.copy = Some(DiskCopy::start(route, disks, limits, self.sink.of()));
        None
    }

    /// What the copy has to say.
    pub(super) fn told(&mut self, told: Told) -> Option<Event> {
        // One that was ended had still to say it.
        self.own_disks.copy.as_ref()?;
        match told {
            Told::Progress(text) => {
                self.progress("copying", text);
                None
            }
            Told::Ready => Some(Event::Copied),
            Told::Failed(why) => Some(Event::Cancel(why)),
            Told::Complete => {
                self.own_disks.complete = true;
                self.own_disks.holding()
            }
        }
    }
}
