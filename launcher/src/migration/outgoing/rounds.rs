//! The rounds over the guest's memory, and what is done to the guest so that they come to an end
//! ([`crate::migration::convergence`]).

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::{Hands, Outgoing};
use crate::migration::convergence::{Convergence, Limits, Round, Step};
use crate::migration::relay::SourceRelay;
use crate::migration::report::Report;
use crate::migration::source::Event;
use crate::status;
use crate::vmm::vcpus::{Told, Vcpus};

/// What KubeVirt counts for its completionTimeoutPerGiB: 10^9 bytes, the last of them begun.
const GB: u64 = 1_000_000_000;
/// The longest pause where the operator has said nothing.
const CAP: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Rounds {
    vmm: Pid,
    convergence: Convergence,
    /// When the last one ended, and how much had been sent by then.
    last: Option<(Instant, u64)>,
    /// From when on hawser has them stand still, for a part of the time or for good.
    vcpus: Option<Vcpus>,
}

impl Rounds {
    pub(super) fn new(vmm: Pid, limits: Limits) -> Self {
        Self {
            vmm,
            convergence: Convergence::new(limits),
            last: None,
            vcpus: None,
        }
    }
}

impl Outgoing {
    pub(super) fn limits(&self) -> Limits {
        let order = &self.order;
        let max_downtime = order.max_downtime_ms.map(Duration::from_millis);
        Limits {
            downtime: Duration::from_millis(order.downtime_ms),
            max_downtime,
            cap: max_downtime.unwrap_or(CAP),
            timeout: self.timeout(),
            progress_timeout: Duration::from_secs(order.progress_timeout_s),
            on_timeout: order.on_timeout,
            auto_converge: order.auto_converge,
        }
    }

    /// As the operator gave it, or by how much there is to be sent.
    pub(super) fn timeout(&self) -> Duration {
        let seconds = self.order.timeout_s.unwrap_or_else(|| {
            let description = &self.prepare.description;
            let copied = |name: &String| self.own_disks.disks.iter().any(|disk| disk.name == *name);
            let disks = description.disks.iter().filter(|disk| copied(&disk.name));
            let memory = description.config.pointer("/memory/size");
            let memory = memory.and_then(serde_json::Value::as_u64).unwrap_or_default();
            let bytes = disks.fold(memory, |bytes, disk| bytes.saturating_add(disk.size));
            let all = bytes.div_ceil(GB).max(1);
            all.saturating_mul(self.order.timeout_per_gib_s)
        });
        Duration::from_secs(seconds)
    }

    /// A round has ended: how much that was, and how long it took.
    pub(super) fn round(&mut self, number: u64, hands: &mut Hands<'_>) -> Option<Event> {
        let now = Instant::now();
        let sent = self.relay.as_ref().map_or(0, SourceRelay::sent);
        hands.board.round(number, sent);
        let began = self.times.began.unwrap_or(now);
        let rounds = self.rounds.as_mut()?;
        let (since, before) = rounds.last.replace((now, sent)).unwrap_or((began, 0));
        let round = Round {
            number,
            bytes: sent.saturating_sub(before),
            took: now.duration_since(since),
        };
        let step = rounds.convergence.round(round, now.duration_since(began));
        let text = rounds.convergence.describe(round);
        self.progress("sending", text);
        self.take(step)
    }

    /// The time for the rounds is over.
    pub(super) fn time_over(&mut self) -> Option<Event> {
        if self.times.paused.is_some() || self.shown != Some(status::Step::Sending) {
            return None;
        }
        let step = self.rounds.as_mut()?.convergence.time_over();
        self.take(step)
    }

    fn take(&mut self, step: Step) -> Option<Event> {
        match step {
            Step::GoOn => {}
            Step::GiveUp(why) => return Some(Event::Cancel(why)),
            Step::Slow(percent) => {
                if let Some(vcpus) = self.vcpus() {
                    vcpus.slow(percent);
                }
            }
            Step::Hold => {
                if let Some(vcpus) = self.vcpus() {
                    vcpus.hold();
                }
            }
        }
        None
    }

    fn vcpus(&mut self) -> Option<&Vcpus> {
        let rounds = self.rounds.as_mut()?;
        if rounds.vcpus.is_none() {
            let (say, mut told) = tokio::sync::mpsc::unbounded_channel();
            match Vcpus::new(rounds.vmm, move |what| drop(say.send(what))) {
                Ok(vcpus) => rounds.vcpus = Some(vcpus),
                Err(error) => {
                    not_stopped(&error);
                    rounds.convergence.cannot_stop();
                    return None;
                }
            }
            let sink = self.sink.clone();
            self.tasks.spawn(async move {
                while let Some(what) = told.recv().await {
                    sink.send(Report::Vcpus(what)).await;
                }
            });
        }
        self.rounds.as_ref()?.vcpus.as_ref()
    }

    pub(super) fn vcpus_told(&mut self, told: Told) {
        match told {
            Told::Held if self.times.paused.is_none() && self.relay.is_some() => {
                self.paused("the guest's vCPUs are stopped; the rest of its memory is being copied");
            }
            Told::Held => {}
            Told::Failed(why) => {
                not_stopped(&why);
                if let Some(rounds) = &mut self.rounds {
                    rounds.vcpus = None;
                    rounds.convergence.cannot_stop();
                }
            }
        }
    }

    /// The guest stands still, from now on or for a moment already.
    pub(super) fn paused(&mut self, text: &str) {
        if self.times.paused.is_none() {
            self.times.paused = Some(Instant::now());
            if let Some(relay) = &self.relay {
                relay.lift_limit();
            }
            let limit = self.limits().cap;
            let why = format!(
                "the target did not take the guest within {} of its pause (--max-downtime)",
                humantime::format_duration(limit)
            );
            self.later(limit, Event::Cancel(why));
        }
        self.progress("sending", text.to_owned());
    }

    /// They run, as far as hawser is concerned.
    pub(super) fn release_vcpus(&mut self) {
        if let Some(rounds) = &mut self.rounds {
            rounds.vcpus = None;
        }
    }
}

fn not_stopped(why: &dyn std::fmt::Display) {
    tracing::warn!(
        event = "vcpus-not-stopped",
        "migration: the guest's vCPUs cannot be stopped from outside cloud-hypervisor, so the rounds over its memory go on as \
         they are until --timeout: {why}; the container's seccomp profile has to allow ptrace, and the node's \
         kernel.yama.ptrace_scope has to be 0 or 1"
    );
}
