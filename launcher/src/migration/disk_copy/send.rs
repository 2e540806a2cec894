//! The source's end: rounds over the disks until one is short enough for the pause, then more of them while the memory is
//! transferred, and the last one when the guest is paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::CopiedDisk;
use super::scan::{Found, Scan, Stopped};
use super::wire::{self, Frame};
use crate::error::chain;
use crate::migration::channel::{self, Address};
use crate::migration::said;
use crate::migration::tls::Security;
use crate::queue::Sink;

/// Blocks that wait to be sent.
const QUEUED: usize = 16;
/// Between two rounds when the last one was short enough: each reads the disks as a whole.
const INTERVAL: Duration = Duration::from_secs(1);
/// Rounds before it is said that they do not get shorter: the first sends everything, and the second what was written in the
/// long time that took.
const MIN_ROUNDS: u32 = 4;

/// What the copy says to the migration that it is a part of.
#[derive(Debug)]
pub(crate) enum Told {
    Progress(String),
    /// So little is left that the pause is long enough for it.
    Ready,
    /// The target has the disks as the paused guest has left them.
    Complete,
    Failed(String),
}

/// How long the rounds may take.
#[derive(Debug, Clone, Copy)]
pub(in crate::migration) struct Limits {
    /// The last one, in the pause.
    pub(in crate::migration) downtime: Duration,
    /// The last one, if they do not get shorter; none if the guest is to stay then.
    pub(in crate::migration) at_worst: Option<Duration>,
    /// Until one is short enough.
    pub(in crate::migration) timeout: Duration,
}

/// Where the target is, and for which hand-off.
#[derive(Debug, Clone)]
pub(in crate::migration) struct Route {
    pub(in crate::migration) address: Address,
    pub(in crate::migration) server_name: String,
    pub(in crate::migration) security: Security,
    pub(in crate::migration) id: String,
}

/// A copy that is under way. Dropped, it ends.
#[derive(Debug)]
pub(in crate::migration) struct DiskCopy {
    paused: watch::Sender<bool>,
    wanted: Arc<AtomicBool>,
    task: AbortHandle,
}

impl DiskCopy {
    pub(in crate::migration) fn start(
        route: Route,
        disks: Vec<CopiedDisk>,
        limits: Limits,
        sink: Sink<Told>,
    ) -> Self {
        let paused = watch::Sender::new(false);
        let wanted = Arc::new(AtomicBool::new(true));
        let copying = Copying {
            limits,
            paused: paused.subscribe(),
            wanted: wanted.clone(),
            sink: sink.clone(),
        };
        let task = tokio::spawn(async move {
            let told = match copying.run(&route, disks).await {
                Ok(()) => Told::Complete,
                Err(why) => Told::Failed(format!("the guest's disks are not copied: {why}")),
            };
            sink.send(told).await;
        });
        Self {
            paused,
            wanted,
            task: task.abort_handle(),
        }
    }

    /// The guest is paused, and writes no more: the round under way is of no use any more, the next one is the last.
    pub(in crate::migration) fn guest_is_paused(&self) {
        self.paused.send_if_modified(|paused| {
            let changed = !*paused;
            if changed {
                // Before the flag is seen, after which a round is wanted again.
                self.wanted.store(false, Ordering::SeqCst);
                *paused = true;
            }
            changed
        });
    }
}

impl Drop for DiskCopy {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::SeqCst);
        self.task.abort();
    }
}

struct Copying {
    limits: Limits,
    paused: watch::Receiver<bool>,
    wanted: Arc<AtomicBool>,
    sink: Sink<Told>,
}

impl Copying {
    async fn run(mut self, route: &Route, disks: Vec<CopiedDisk>) -> Result<(), String> {
        let Route {
            address,
            server_name,
            security,
            id,
        } = route;
        let stream = channel::connect_disks(address, server_name, security, id)
            .await
            .map_err(|error| said::text(&chain(&error)))?;
        let (mut answers, mut blocks) = tokio::io::split(stream);
        let mut scan = tokio::task::spawn_blocking(move || Scan::new(&disks))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let began = Instant::now();
        let mut ready = false;
        let mut before = Duration::MAX;
        for number in 0_u32.. {
            let last = *self.paused.borrow_and_update();
            if last {
                // Set after the one before it was stopped.
                self.wanted.store(true, Ordering::SeqCst);
            }
            let started = Instant::now();
            let (again, result) = self.round(scan, last, &mut blocks, &mut answers).await?;
            scan = again;
            let took = started.elapsed();
            let Some(found) = result else { continue };
            self.progress(number, last, found, took).await;
            if last {
                return Ok(());
            }
            if !ready {
                ready = self.is_ready(number, took, before, began.elapsed())?;
                if ready {
                    self.sink.send(Told::Ready).await;
                }
            }
            before = took;
            if ready {
                // Whichever is first.
                let _ = tokio::time::timeout(INTERVAL, self.paused.wait_for(|paused| *paused)).await;
            }
        }
        Err("too many rounds".to_owned())
    }

    /// What a round has found; nothing of one that was stopped for the last one.
    async fn round(
        &self,
        mut scan: Scan,
        last: bool,
        to: &mut (impl AsyncWrite + Unpin),
        from: &mut (impl AsyncRead + Unpin),
    ) -> Result<(Scan, Option<Found>), String> {
        let lost = |error: std::io::Error| {
            format!(
                "the connection to the target broke: {}",
                said::text(&error.to_string())
            )
        };
        let refused = |why: String| format!("the target: {}", said::text(&why));
        let (sender, mut found) = mpsc::channel(QUEUED);
        let wanted = self.wanted.clone();
        let scanning = tokio::task::spawn_blocking(move || {
            let result = scan.round(&sender, &wanted);
            (scan, result)
        });
        let sending = async {
            while let Some(frame) = found.recv().await {
                wire::write(to, &frame).await?;
            }
            to.flush().await
        };
        // It answers at the end of a round, and before that only if it cannot go on.
        let mut answer = std::pin::pin!(wire::answered(from));
        tokio::select! {
            early = &mut answer => {
                let why = early.map_err(lost)?.err().unwrap_or_default();
                return Err(refused(why));
            }
            sent = sending => sent.map_err(lost)?,
        }
        let (scan, result) = scanning.await.map_err(|error| error.to_string())?;
        let found = match result {
            // What it has sent is sent, and noted so.
            Err(Stopped::Unwanted) if !last => return Ok((scan, None)),
            result => result.map_err(|error| error.to_string())?,
        };
        let end = async {
            wire::write(to, &Frame::End { last }).await?;
            to.flush().await
        };
        end.await.map_err(lost)?;
        answer.await.map_err(lost)?.map_err(refused)?;
        Ok((scan, Some(found)))
    }

    /// Whether the last round fits into the pause: it takes about as long as this one.
    fn is_ready(
        &self,
        number: u32,
        took: Duration,
        before: Duration,
        since: Duration,
    ) -> Result<bool, String> {
        let Limits {
            downtime,
            at_worst,
            timeout,
        } = self.limits;
        if took <= downtime {
            return Ok(true);
        }
        let shorter = took.saturating_mul(10) < before.saturating_mul(9);
        if since < timeout && (shorter || number.saturating_add(1) < MIN_ROUNDS) {
            return Ok(false);
        }
        match at_worst {
            Some(at_worst) if took <= at_worst => Ok(true),
            limit => Err(format!(
                "the last round over them would take {} ms in the pause, and {} ms are allowed ({}); their rounds do not get \
                 shorter, so allow more",
                took.as_millis(),
                limit.unwrap_or(downtime).as_millis(),
                match limit {
                    Some(_) => "--max-downtime",
                    None => "--downtime, or with --on-timeout pause --max-downtime",
                }
            )),
        }
    }

    async fn progress(&self, number: u32, last: bool, found: Found, took: Duration) {
        let text = format!(
            "round {number} over the guest's disks{}: {} KiB of {} KiB had changed, {} ms",
            if last { ", in the pause" } else { "" },
            found.changed >> 10,
            found.read >> 10,
            took.as_millis()
        );
        self.sink.send(Told::Progress(text)).await;
    }
}
