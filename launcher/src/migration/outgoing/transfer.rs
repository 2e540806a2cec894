//! The transfer itself, from its beginning to the fence.

use std::time::{Duration, Instant};

use super::rounds::Rounds;
use super::{Hands, Outgoing, REBOOTED};
use crate::control::OnTimeout;
use crate::error::chain;
use crate::migration::fence::stop;
use crate::migration::relay::{MEETING, SourceRelay};
use crate::migration::report::Report;
use crate::migration::source::Event;
use crate::migration::tls::Security;
use crate::migration::{descriptors, session_certs};
use crate::vmm::api::{SendMigration, TimeoutStrategy};
use crate::vmm::{process, threads};

/// Beyond the transfer's own limit, for a VMM that hangs in a dead connection and does not look at it.
const OVERTIME: Duration = Duration::from_secs(30);

impl Outgoing {
    pub(super) async fn transfer(&mut self, hands: &mut Hands<'_>) -> Option<Event> {
        let to = self.address.to_string();
        self.times.began = Some(Instant::now());
        // The exit of one that has ended is an event of its own.
        let vmm = process::id(hands.child)?;
        self.vcpus = threads::vcpus(vmm).unwrap_or(0);
        descriptors::raise();
        let (address, id) = (self.address.clone(), self.prepare.id.clone());
        let started = match SourceRelay::start(vmm, address, id, self.order.bandwidth).await {
            Ok(relay) => {
                self.relay = Some(relay);
                hands.board.prepare_hand_over(&to)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            return Some(Event::TransferFailed(format!(
                "the transfer cannot be prepared: {error}"
            )));
        }
        let limits = self.limits();
        self.rounds = Some(Rounds::new(vmm, limits));
        let timeout = limits.timeout.as_secs().max(1);
        let how = SendMigration {
            destination_url: format!("tcp:{MEETING}"),
            downtime_ms: self.order.downtime_ms,
            // hawser cancels it itself, with the numbers.
            timeout_s: match self.order.on_timeout {
                OnTimeout::Cancel => timeout.saturating_add(OVERTIME.as_secs()),
                OnTimeout::Pause => timeout,
            },
            timeout_strategy: match self.order.on_timeout {
                OnTimeout::Cancel => TimeoutStrategy::Cancel,
                OnTimeout::Pause => TimeoutStrategy::Ignore,
            },
            connections: self.order.connections,
            tls_dir: matches!(self.security, Security::Tls(_))
                .then(|| session_certs::directory(&self.vmm_dir)),
        };
        let (api, sink) = (hands.api.clone(), self.sink.clone());
        self.tasks.spawn(async move {
            if let Err(error) = api.send_migration(&how).await {
                sink.send(Report::Event(Event::TransferFailed(chain(&error))))
                    .await;
            }
        });
        self.tasks.spawn({
            let sink = self.sink.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(timeout)).await;
                sink.send(Report::TimeOver).await;
            }
        });
        let limit = limits.timeout.saturating_add(limits.cap).saturating_add(OVERTIME);
        self.later(
            limit,
            Event::Cancel(format!("the transfer was not over within {} s", limit.as_secs())),
        );
        None
    }

    /// Stops the VMM, looks whether it had given up before, and notes that the guest is given away.
    pub(super) async fn fence(&mut self, hands: &mut Hands<'_>) -> Event {
        if let Err(why) = stop(hands.child).await {
            return Event::CannotFence(why);
        }
        // It is stopped, so this is everything that it has reported.
        let reported = hands.events.pending();
        let has_reported =
            |names: &[&str]| reported.iter().any(|event| names.contains(&event.event.as_str()));
        if has_reported(&["migration-finished"]) {
            return Event::TransferFinished;
        }
        if has_reported(&["rebooting"]) {
            return Event::GuestEnded(REBOOTED.to_owned());
        }
        let hung_up = self.relay.as_ref().is_none_or(SourceRelay::is_hung_up);
        if hung_up || has_reported(&["migration-failed", "resuming"]) {
            return Event::Fenced { failed: true };
        }
        match hands.board.hand_over(&self.address.to_string()) {
            Ok(()) => Event::Fenced { failed: false },
            Err(error) => Event::CannotFence(format!(
                "cannot write to the state directory that the guest is given away: {error}"
            )),
        }
    }
}
