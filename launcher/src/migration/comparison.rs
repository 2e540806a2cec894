//! The target's disks as they are when a source asks.
//!
//! Between the target's start and the migration anybody who writes to the pod's volumes can have changed them, and what was
//! read at the start would then vouch for what the VMM does not get. So they are read for each request of a source: beside the
//! runtime, one request after the other, and at most one of each channel, so that who asks without end waits for himself.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::arrival::{Arrival, Compared};
use super::disks::{self, For, MigratingDisk};
use super::message::Prepare;
use super::target::Event;
use crate::queue::Sink;

/// The disks to compare.
#[derive(Debug)]
pub(super) struct Comparison {
    disks: Vec<MigratingDisk>,
    /// The channels whose request is being compared.
    asked: BTreeSet<u32>,
    turn: Arc<Semaphore>,
}

impl Comparison {
    pub(super) fn of(disks: Vec<MigratingDisk>) -> Self {
        Self {
            disks,
            asked: BTreeSet::new(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    pub(super) fn disks(&self) -> &[MigratingDisk] {
        &self.disks
    }

    /// Reads the disks; what comes of it is an arrival.
    pub(super) fn begin(
        &mut self,
        channel: u32,
        prepare: Box<Prepare>,
        tasks: &mut JoinSet<()>,
        sink: &Sink<Arrival>,
    ) {
        if !self.asked.insert(channel) {
            return;
        }
        let (disks, turn, sink) = (self.disks.clone(), self.turn.clone(), sink.clone());
        tasks.spawn(async move {
            let _turn = turn.acquire().await;
            let read = tokio::task::spawn_blocking(move || {
                let found = disks::describe(&disks, For::Source(&prepare.description.disks));
                Arrival::Compared(Compared {
                    channel,
                    prepare,
                    disks: found.disks,
                    problems: found.problems,
                })
            });
            let arrival = read.await.unwrap_or_else(|error| {
                Arrival::Event(Event::VmmFailed(format!(
                    "the target's disks cannot be read: {error}"
                )))
            });
            sink.send(arrival).await;
        });
    }

    /// The channel may ask again.
    pub(super) fn end(&mut self, channel: u32) {
        self.asked.remove(&channel);
    }
}
