//! What comes over the control socket: what is answered at once, and what becomes an event of the machine.

use std::time::Duration;

use tokio::process::Child;
use tokio::sync::mpsc;

use super::{Supervisor, Waiting};
use crate::control::{Answer, Call, Request, Verb};
use crate::error::chain;
use crate::guest::machine::{CallId, Event};
use crate::guest::notify::Notified;
use crate::guest::verbs;
use crate::log;
use crate::metrics::Snapshot;
use crate::status::{Phase, Status};

/// For the VMM to say what its devices carried; whoever collects metrics waits ten seconds.
const COUNTERS_TIMEOUT: Duration = Duration::from_secs(2);

impl Supervisor {
    pub(super) fn done(&mut self, call: CallId, text: &str) {
        if let Some(waiting) = self.migrating.calls.remove(&call) {
            let text = text.to_owned();
            let _ = waiting.answers.send(Answer::Done { text });
        }
    }

    pub(super) fn answer(&mut self, call: CallId, text: &str) {
        if let Some(waiting) = self.migrating.calls.remove(&call) {
            let _ = waiting.answers.send(Answer::Ended {
                migrated: false,
                text: text.to_owned(),
            });
        }
    }

    pub(in crate::guest) fn called(&mut self, Call { request, answers }: Call) -> Option<Event> {
        self.migrating.last_call = self.migrating.last_call.wrapping_add(1);
        let id = CallId(self.migrating.last_call);
        let (event, order) = match request {
            Request::Status => {
                let _ = answers.send(Answer::Status(Box::new(self.status())));
                return None;
            }
            Request::Metrics => {
                self.measure(answers);
                return None;
            }
            Request::Migrate(order) => (Event::Migrate(id), Some(order)),
            Request::Cancel => (Event::Cancel(id), None),
            Request::Verb(Verb::Pause) if self.job.liveness_probe => {
                let _ = answers.send(Answer::Ended {
                    migrated: false,
                    text: verbs::PROBED.to_owned(),
                });
                return None;
            }
            Request::Verb(verb) => (Event::Operate(id, verb), None),
            // Answered where it came in.
            Request::Console { .. } | Request::Vsock { .. } | Request::Events { .. } => return None,
        };
        self.migrating.calls.insert(id, Waiting { answers, order });
        Some(event)
    }

    /// As of now.
    pub(super) fn status(&mut self) -> Status {
        let status = &mut self.board.status;
        status.disks = self.growth.status();
        status.facts.leased = self.heard.leased();
        status.facts.boot = self.notified.as_ref().map(Notified::boot);
        status.refresh();
        status.clone()
    }

    /// Answers with the metrics, once the VMM has said what its devices carried. While it migrates it says nothing.
    pub(super) fn measure(&mut self, answers: mpsc::UnboundedSender<Answer>) {
        let status = self.status();
        let asks =
            matches!(status.state, Phase::Running | Phase::Paused | Phase::Stopping) && !self.migrates();
        let mut snapshot = Snapshot {
            dhcp: self.heard.counts(),
            logged: log::counts(),
            vmm: self.child.as_ref().and_then(Child::id),
            counters: None,
            status,
        };
        let api = self.api.clone();
        tokio::spawn(async move {
            if asks && let Ok(counters) = tokio::time::timeout(COUNTERS_TIMEOUT, api.counters()).await {
                snapshot.counters = counters
                    .inspect_err(|error| tracing::debug!("metrics: {}", chain(error)))
                    .ok();
            }
            let text = snapshot.text();
            let _ = answers.send(Answer::Metrics { text });
        });
    }

    /// What became of a verb.
    pub(super) fn reply(&mut self, call: CallId, verb: Verb, result: Result<(), String>) {
        match result {
            Ok(()) => self.done(call, verb.done()),
            Err(why) => self.answer(call, &format!("cloud-hypervisor did not do it: {why}")),
        }
    }

    /// Away from here.
    fn migrates(&self) -> bool {
        self.migrating.outgoing.is_some()
    }
}
