//! The loop around the pure part: reads frames, writes replies, keeps the advertisement timer.
//!
//! There are no sockets. The server reads and writes whole Ethernet frames on one descriptor that gives a frame a
//! `read` and takes one a `write`. In production that is a small helper TAP: a netdev rule forwards the guest's
//! DHCPv4, DHCPv6 and router-solicitation frames to it, and what is written is forwarded to the guest's TAP. Why:
//!
//! - no CAP_NET_RAW for packet sockets and no CAP_NET_BIND_SERVICE for ports 67 and 547, so the process can hold
//!   no capability at all while it reads what a guest wrote;
//! - nothing that this server writes can leave by the pod's own wire;
//! - one path for guests behind NAT and guests on a bridge, where the kernel's own stack never sees their frames;
//! - an address need not exist anywhere for a reply to come from it.
//!
//! What a guest can cost: each wake-up reads a bounded number of frames; a token bucket bounds how many are
//! answered a second, and the rest are thrown away unread at a bounded pace. Events are bounded with them.
//!
//! No final advertisement with a router lifetime of zero is sent when the server stops: it stops because the guest
//! ended, or because the guest migrated to a pod where the same server continues.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use crate::bucket::Bucket;
use crate::event::Event;
use crate::lease::Lease;
use crate::responder::{Answer, Responder};

/// Frames read before other tasks and the cancellation get their turn.
const FRAMES_A_WAKE: usize = 64;
/// The pause after a wake-up that met a flood: long enough to cost next to nothing, short enough to be through a
/// TAP's queue of a thousand frames before a client asks again.
const FLOOD_PAUSE: Duration = Duration::from_millis(10);
/// The pause after a read that failed, so that an error that stays does not fill the log.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// The least time between two reports of a flood.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Unsolicited advertisements: RFC 4861 6.2.1 and 10.
const ADVERTISE_MIN: Duration = Duration::from_secs(200);
const ADVERTISE_MAX: Duration = Duration::from_secs(600);
const INITIAL_ADVERTISEMENTS: u32 = 3;
const INITIAL_INTERVAL: Duration = Duration::from_secs(16);
/// The least time between two advertisements to all nodes (MIN_DELAY_BETWEEN_RAS).
const ADVERTISE_SPACING: Duration = Duration::from_secs(3);

/// Why the server could not start or continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor refused to become non-blocking.
    #[error("make the frame channel non-blocking")]
    NonBlocking(#[source] io::Error),
    /// The descriptor is of a kind that cannot be waited for, or there is no runtime with I/O.
    #[error("wait for the frame channel")]
    Wait(#[source] io::Error),
    /// The descriptor can no longer be read, for instance because its TAP was deleted.
    #[error("read from the frame channel")]
    Read(#[source] io::Error),
    /// The descriptor can no longer be written.
    #[error("write to the frame channel")]
    Write(#[source] io::Error),
    /// The other end of the channel was closed.
    #[error("the other end closed the frame channel")]
    Closed,
}

/// Serves one guest on `channel` until `cancel` is done, and calls `observer` with each event.
///
/// Needs a tokio runtime with I/O and time; a current-thread one is enough. `channel` gives one Ethernet frame a
/// read and is made non-blocking. Errors that pass (EIO of a TAP that is down, ENOBUFS, a full queue) cost a frame
/// and are reported as events.
///
/// # Errors
/// When the descriptor cannot be set up, or stops being usable for good.
pub async fn serve(
    channel: OwnedFd,
    lease: Lease,
    observer: impl FnMut(Event),
    cancel: impl Future<Output = ()>,
) -> Result<(), Error> {
    let flags =
        fcntl(channel.as_fd(), FcntlArg::F_GETFL).map_err(|errno| Error::NonBlocking(errno.into()))?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(channel.as_fd(), FcntlArg::F_SETFL(flags)).map_err(|errno| Error::NonBlocking(errno.into()))?;
    // The largest frame the link carries, with a VLAN tag to spare: longer ones come truncated and are refused.
    let buffer = vec![0; usize::from(lease.mtu.max(1500)) + 18];
    // SAFETY: the descriptor is owned here and open, moves into the `AsyncFd`, and is neither replaced nor taken
    // out before the `AsyncFd` is dropped.
    let channel = unsafe { AsyncFd::register_with_interest(channel, Interest::READABLE) };
    let channel = channel.map_err(|error| Error::Wait(error.into()))?;
    let now = Instant::now();
    let mut server = Server {
        channel,
        advertise_at: lease.v6.is_some().then_some(now),
        responder: Responder::new(lease),
        observer,
        buffer,
        bucket: Bucket::new(now),
        advertised: 0,
        last_advertised: None,
        thrown_away: 0,
        reported: None,
        unwritten: 0,
        rest_until: None,
    };
    let mut cancel = pin!(cancel);
    loop {
        let (advertise_at, rest_until) = (server.advertise_at, server.rest_until);
        tokio::select! {
            biased;
            () = &mut cancel => return Ok(()),
            () = sleep_until(advertise_at.unwrap_or(now)), if advertise_at.is_some() => server.advertise()?,
            () = sleep_until(rest_until.unwrap_or(now)), if rest_until.is_some() => server.rest_until = None,
            // Readiness is kept: `drain` clears it when a read finds nothing.
            ready = server.channel.readable(), if rest_until.is_none() => {
                ready.map_err(Error::Wait)?.retain_ready();
                server.drain()?;
                tokio::task::yield_now().await;
            }
        }
    }
}

#[derive(Debug)]
struct Server<Observer> {
    channel: AsyncFd<OwnedFd>,
    responder: Responder,
    observer: Observer,
    buffer: Vec<u8>,
    bucket: Bucket,
    /// When the next advertisement to all nodes is due; `None` without IPv6.
    advertise_at: Option<Instant>,
    advertised: u32,
    last_advertised: Option<Instant>,
    thrown_away: u64,
    reported: Option<Instant>,
    unwritten: u64,
    rest_until: Option<Instant>,
}

/// Errors after which a descriptor does not come back. EBADFD is a TAP without its device.
fn is_fatal(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EBADF | Errno::EBADFD | Errno::EFAULT | Errno::ENOTCONN | Errno::ECONNRESET | Errno::EPIPE
    )
}

impl<Observer: FnMut(Event)> Server<Observer> {
    /// Reads what is there, up to a bound.
    fn drain(&mut self) -> Result<(), Error> {
        let mut rest = None;
        for _ in 0..FRAMES_A_WAKE {
            let buffer = self.buffer.as_mut_slice();
            let read = self.channel.try_io(Interest::READABLE, |channel| {
                nix::unistd::read(channel, buffer).map_err(io::Error::from)
            });
            let len = match read {
                Ok(0) => return Err(Error::Closed),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let errno = errno(&error);
                    if is_fatal(errno) {
                        return Err(Error::Read(error));
                    }
                    (self.observer)(Event::ReadFailed { error: errno.desc() });
                    rest = Some(FAILURE_PAUSE);
                    break;
                }
            };
            let now = Instant::now();
            if self.bucket.take(now) {
                self.answer(len, now)?;
            } else {
                self.thrown_away += 1;
                rest = Some(FLOOD_PAUSE);
            }
        }
        let now = Instant::now();
        self.rest_until = rest.map(|pause| now + pause);
        // A flood that ends within the second is reported with the next frame after it.
        let due = self
            .reported
            .is_none_or(|last| now.saturating_duration_since(last) >= REPORT_INTERVAL);
        if self.thrown_away > 0 && due {
            (self.observer)(Event::Throttled {
                frames: self.thrown_away,
            });
            self.thrown_away = 0;
            self.reported = Some(now);
        }
        Ok(())
    }

    fn answer(&mut self, len: usize, now: Instant) -> Result<(), Error> {
        let frame = self.buffer.get(..len).unwrap_or_default();
        let Answer { reply, event } = self.responder.answer(frame);
        if event == (Event::RouterSolicitation { unicast: false }) {
            let earliest = self
                .last_advertised
                .map_or(now, |last| now.max(last + ADVERTISE_SPACING));
            self.advertise_at = self.advertise_at.map(|due| due.min(earliest));
            (self.observer)(event);
            return Ok(());
        }
        if let Some(frame) = reply {
            self.write(&frame)?;
        }
        (self.observer)(event);
        Ok(())
    }

    /// Sends the advertisement to all nodes and sets the time of the next.
    fn advertise(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if let Some(frame) = self.responder.advertisement()
            && self.write(&frame)?
        {
            (self.observer)(Event::RouterAdvertisement);
        }
        self.advertised = self.advertised.saturating_add(1);
        self.last_advertised = Some(now);
        let mut wait = random_between(ADVERTISE_MIN, ADVERTISE_MAX);
        if self.advertised < INITIAL_ADVERTISEMENTS {
            wait = wait.min(INITIAL_INTERVAL);
        }
        self.advertise_at = Some(now + wait);
        Ok(())
    }

    /// Writes a frame, or drops it if the channel does not take it now. Says whether it was written.
    fn write(&mut self, frame: &[u8]) -> Result<bool, Error> {
        // Not through readiness: a reply that cannot be written at once is dropped, the client asks again.
        let errno = match nix::unistd::write(self.channel.get_ref(), frame) {
            Ok(_) => return Ok(true),
            Err(errno) => errno,
        };
        if is_fatal(errno) {
            return Err(Error::Write(errno.into()));
        }
        self.unwritten += 1;
        (self.observer)(Event::WriteDropped {
            frames: self.unwritten,
            error: errno.desc(),
        });
        Ok(false)
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Random enough to keep two routers from advertising in step, which is all that RFC 4861 wants of it.
fn random_between(least: Duration, most: Duration) -> Duration {
    let span = u64::try_from(most.saturating_sub(least).as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    least + Duration::from_millis(RandomState::new().hash_one(0u8) % span)
}

#[cfg(test)]
mod tests;
