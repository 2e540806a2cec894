//! The way of the guest's memory: VMM, relay, network, relay, VMM. The bytes are cloud-hypervisor's own, encrypted
//! between the two VMMs, and not looked at.
//!
//! Each VMM meets a relay of its own launcher on the loopback address, for three reasons. cloud-hypervisor cannot be
//! told to give up: the source's relay closes its connection, and it does so at once, where it would wait for a dead
//! network with a paused guest. It takes the first connection that comes for the source's: the target's relay lets
//! none through that does not know the hand-off's name. And it lets the target's guest run as soon as the source's VMM
//! says so, over a connection that may break before the answer is back, upon which the source's runs again too: the
//! target's relay holds that last instruction back until the launchers have agreed who has the guest.
//!
//! How it knows that instruction without reading it: request and answer alternate on the first connection, and
//! whatever the source sends after the answer to the guest's last state is the instruction to run. The VMM starts its
//! vCPUs' threads, paused, between that request and that answer, and has none before. So before an answer is passed
//! on, the kernel is asked for the VMM's threads, and once there is one of a vCPU, what comes next from the source is
//! kept. The VMM's event `restored` would be the more obvious sign, and is none: another thread writes it, later.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::Pid;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::bandwidth::Bandwidth;
use super::channel::{self, Address};
use super::pipe::Pipe;
use super::rejections::Rejections;
use super::vmm_socket::{self, Owner};
use crate::accept::Accepting;
use crate::vmm::threads;

/// Where each VMM meets its relay. A port that no binding gives to the guest.
pub(crate) const MEETING: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(Ipv4Addr::LOCALHOST),
    crate::spec::pod_ports::MIGRATION_RELAY,
);

/// The source's half. Dropped, all its connections close.
#[derive(Debug)]
pub(crate) struct SourceRelay {
    task: JoinHandle<()>,
    /// The VMM's first connection, on which it gives its instructions.
    first: Arc<OnceLock<OwnedFd>>,
    /// Bytes from the VMM to the target.
    sent: Arc<AtomicU64>,
    bandwidth: Arc<Bandwidth>,
}

impl SourceRelay {
    /// Listens for the VMM, and carries each of its connections to the target.
    pub(crate) async fn start(
        vmm: Pid,
        address: Address,
        id: String,
        bandwidth: Option<u64>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(MEETING).await?;
        Ok(Self::start_with(listener, vmm, address, id, bandwidth))
    }

    fn start_with(
        listener: TcpListener,
        vmm: Pid,
        address: Address,
        id: String,
        bandwidth: Option<u64>,
    ) -> Self {
        let bandwidth = Arc::new(Bandwidth::new(bandwidth));
        let limit = Arc::clone(&bandwidth);
        let first = Arc::new(OnceLock::new());
        let known = Arc::clone(&first);
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let rejections = Rejections::default();
            let mut accepting = Accepting::at("the relay for cloud-hypervisor");
            loop {
                let (ours, from) = accepting.next(|context| listener.poll_accept(context)).await;
                let is_first = known.get().is_none();
                if !is_of(vmm, &ours, from, is_first, &rejections).await {
                    continue;
                }
                if is_first {
                    let Ok(same) = ours.as_fd().try_clone_to_owned() else {
                        continue;
                    };
                    let _ = known.set(same);
                }
                let (address, id, count) = (address.clone(), id.clone(), Arc::clone(&count));
                let limit = Arc::clone(&limit);
                connections.spawn(async move {
                    let _ = ours.set_nodelay(true);
                    match channel::dial_memory(&address, &id).await {
                        // An end in either direction is for the VMMs to judge.
                        Ok(theirs) => drop(carry_out(ours, theirs, &count, &limit).await),
                        Err(error) => {
                            tracing::warn!(
                                event = "memory-connection-failed",
                                "the guest's memory: {}",
                                crate::error::chain(&error)
                            );
                        }
                    }
                });
            }
        });
        Self {
            task,
            first,
            sent,
            bandwidth,
        }
    }

    /// The guest is paused: as fast as it goes from here on.
    pub(crate) fn lift_limit(&self) {
        self.bandwidth.lift();
    }

    /// Bytes that have gone from the VMM to the target.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether the VMM has closed its connection. It does so before it gives up and resumes the guest; its event that
    /// says so is written by another thread, later.
    pub(crate) fn is_hung_up(&self) -> bool {
        let Some(first) = self.first.get() else {
            return true;
        };
        // POLLHUP and POLLERR are told unasked.
        let ends = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
        let mut looked_at = [PollFd::new(first.as_fd(), ends)];
        // What cannot be looked at is not known to be there.
        poll(&mut looked_at, PollTimeout::ZERO) != Ok(0)
    }
}

/// Whether this connection is the VMM's own. Another process of the pod may be the first to connect. Were it taken for the VMM,
/// the hand-off would fail when it closes its connection, and if it does not, nobody would see that the VMM has closed its own.
async fn is_of(
    vmm: Pid,
    ours: &TcpStream,
    from: SocketAddr,
    is_first: bool,
    rejections: &Rejections,
) -> bool {
    let owner = match ours.local_addr() {
        Ok(here) => tokio::task::spawn_blocking(move || vmm_socket::owner(vmm, here, from))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error))),
        Err(error) => Err(error),
    };
    match owner {
        Ok(Owner::Vmm) => return true,
        Ok(Owner::SameUser) if !is_first => return true,
        // The VMM keeps its first connection. One for memory may have been written to and closed by now: what is in it must not
        // get lost.
        Ok(Owner::Closed) if !is_first => return true,
        Ok(Owner::SameUser) => {
            tracing::warn!(
                event = "relay-connection-unverified",
                "migration: the kernel does not show which process connects from {from} as cloud-hypervisor; it has its user"
            );
            return true;
        }
        Ok(Owner::Closed | Owner::Other) => {
            rejections.log(from, "it is not cloud-hypervisor's connection to its relay")
        }
        Err(error) => rejections.log(
            from,
            &format!("whose connection to the relay it is, is not known: {error}"),
        ),
    }
    false
}

impl Drop for SourceRelay {
    fn drop(&mut self) {
        // The connections' other descriptor is theirs to close; this one must not keep it open.
        if let Some(first) = self.first.get() {
            let _ = shutdown(first.as_raw_fd(), Shutdown::Both);
        }
        self.task.abort();
    }
}

/// From the VMM to the target, and back.
///
/// cloud-hypervisor writes a request in several pieces and leaves Nagle's algorithm on, so that a piece which fills no
/// segment waits until the one before is acknowledged. On the loopback interface, where a segment is 64 KiB, that is
/// nearly every piece, and an acknowledgement with nothing to go along with waits for 40 ms. The guest would stand still
/// for two or three of those. So what was read is acknowledged at once; the kernel has to be told each time.
async fn carry_out(
    ours: TcpStream,
    theirs: TcpStream,
    count: &AtomicU64,
    limit: &Bandwidth,
) -> io::Result<()> {
    let requests = async {
        let mut pipe = Pipe::new()?;
        loop {
            let taken = pipe.take(&ours).await?;
            if taken == 0 {
                break;
            }
            let bytes = u64::try_from(taken).unwrap_or_default();
            count.fetch_add(bytes, Ordering::Relaxed);
            // Without it everything works, only later.
            let _ = ours.set_quickack(true);
            pipe.give(&theirs).await?;
            limit.sent(bytes).await;
        }
        end(&theirs)
    };
    tokio::try_join!(requests, carry(&theirs, &ours)).map(drop)
}

/// One direction to its end.
async fn carry(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let mut pipe = Pipe::new()?;
    while pipe.take(from).await? > 0 {
        pipe.give(to).await?;
    }
    end(to)
}

/// Nothing more will be written.
fn end(stream: &TcpStream) -> io::Result<()> {
    Ok(shutdown(stream.as_raw_fd(), Shutdown::Write)?)
}

/// The target's half.
#[derive(Debug)]
pub(crate) struct TargetRelay {
    connections: JoinSet<()>,
    release: watch::Sender<bool>,
    vmm: Pid,
    held: mpsc::Sender<()>,
    first: bool,
}

impl TargetRelay {
    pub(crate) fn new(vmm: Pid, held: mpsc::Sender<()>) -> Self {
        Self {
            connections: JoinSet::new(),
            release: watch::Sender::new(false),
            vmm,
            held,
            first: true,
        }
    }

    /// Carries a connection of the source's to the VMM.
    pub(crate) fn add(&mut self, theirs: TcpStream) {
        // The source opens the first, and waits for answers on it before it opens more.
        if std::mem::take(&mut self.first) {
            let hold = Hold {
                release: self.release.subscribe(),
                vmm: self.vmm,
                held: self.held.clone(),
            };
            self.connections.spawn(async move {
                if let Ok(ours) = meet().await {
                    hold.carry(theirs, ours).await;
                }
            });
        } else {
            self.connections.spawn(async move {
                if let Ok(ours) = meet().await {
                    let _ = tokio::try_join!(carry(&theirs, &ours), carry(&ours, &theirs));
                }
            });
        }
    }

    /// Passes on what is held.
    pub(crate) fn release(&self) {
        self.release.send_replace(true);
    }
}

async fn meet() -> io::Result<TcpStream> {
    let stream = TcpStream::connect(MEETING).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The first connection, whose last instruction waits.
struct Hold {
    release: watch::Receiver<bool>,
    vmm: Pid,
    held: mpsc::Sender<()>,
}

impl Hold {
    async fn carry(self, theirs: TcpStream, ours: TcpStream) {
        let Self {
            mut release,
            vmm,
            held,
        } = self;
        let holding = AtomicBool::new(false);
        let requests = async {
            let mut pipe = Pipe::new()?;
            // Once the source has closed, instructions that were held are worth nothing without it: whoever releases has
            // them already.
            while pipe.take(&theirs).await? > 0 {
                if holding.load(Ordering::SeqCst) && !*release.borrow() {
                    let _ = held.send(()).await;
                    if release.wait_for(|released| *released).await.is_err() {
                        break;
                    }
                }
                pipe.give(&ours).await?;
            }
            io::Result::Ok(())
        };
        let answers = async {
            let mut pipe = Pipe::new()?;
            while pipe.take(&ours).await? > 0 {
                if !holding.load(Ordering::SeqCst) {
                    // Where nobody knows, nothing more is let through.
                    let there = threads::vcpus(vmm).inspect_err(|error| {
                        tracing::warn!(
                            event = "vmm-threads-unknown",
                            "cloud-hypervisor's threads: {error}"
                        )
                    })?;
                    holding.store(there > 0, Ordering::SeqCst);
                }
                pipe.give(&theirs).await?;
            }
            io::Result::Ok(())
        };
        // An end or an error in either direction is for the VMMs to judge.
        let requests = async {
            let _ = requests.await;
            let _ = end(&ours);
        };
        let answers = async {
            let _ = answers.await;
            let _ = end(&theirs);
        };
        tokio::join!(requests, answers);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// As cloud-hypervisor writes the last of a guest's memory: header, table and pages, each by itself, then it waits.
    #[tokio::test]
    async fn pieces_of_a_request_do_not_wait_for_late_acknowledgements() {
        use std::io::{Read, Write};
        use std::time::Instant;

        let pieces = [38, 60, 4118, 4118, 4118];
        let length = pieces.iter().sum();
        let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address: Address = format!("tcp:{}", target.local_addr().unwrap()).parse().unwrap();
        std::thread::spawn(move || {
            let (mut theirs, _) = target.accept().unwrap();
            theirs.set_nodelay(true).unwrap();
            let mut preface = [0; 47];
            theirs.read_exact(&mut preface).unwrap();
            let mut request = vec![0; length];
            while theirs.read_exact(&mut request).is_ok() {
                theirs.write_all(b"ok").unwrap();
            }
        });
        let meeting = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = meeting.local_addr().unwrap();
        let _relay = SourceRelay::start_with(meeting, Pid::this(), address, "0".repeat(32), None);
        let vmm = tokio::task::spawn_blocking(move || {
            let mut vmm = std::net::TcpStream::connect(there).unwrap();
            let exchange = || {
                let began = Instant::now();
                for piece in pieces {
                    vmm.write_all(&vec![0; piece]).unwrap();
                }
                vmm.read_exact(&mut [0; 2]).unwrap();
                began.elapsed()
            };
            // The first ones do not wait in any case. A slow machine makes some slow, and not all.
            std::iter::repeat_with(exchange).take(12).skip(4).min().unwrap()
        });
        let quickest = vmm.await.unwrap();
        assert!(quickest < Duration::from_millis(25), "{quickest:?}");
    }

    #[tokio::test]
    async fn a_vmm_that_closes_is_seen_at_once_and_a_dropped_relay_closes() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = format!("tcp:{}", target.local_addr().unwrap()).parse().unwrap();
        for vmm_closes in [true, false] {
            let meeting = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let there = meeting.local_addr().unwrap();
            let relay = SourceRelay::start_with(meeting, Pid::this(), address.clone(), "0".repeat(32), None);
            assert!(relay.is_hung_up(), "nobody came yet");
            let mut vmm = TcpStream::connect(there).await.unwrap();
            let _theirs = target.accept().await.unwrap();
            assert!(!relay.is_hung_up());
            if vmm_closes {
                drop(vmm);
                assert!(relay.is_hung_up());
            } else {
                drop(relay);
                assert_eq!(vmm.read(&mut [0]).await.unwrap(), 0);
            }
        }
    }

    /// A process of the pod connects before the VMM does, and stays.
    #[tokio::test]
    async fn another_process_is_not_taken_for_the_vmm() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = format!("tcp:{}", target.local_addr().unwrap()).parse().unwrap();
        let meeting = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = meeting.local_addr().unwrap();
        let relay = SourceRelay::start_with(meeting, Pid::this(), address, "0".repeat(32), None);
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3", there.port());
        let mut stranger = tokio::process::Command::new("bash")
            .args(["-c", &script])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // It is closed, and the program ends.
        let ended = tokio::time::timeout(Duration::from_secs(10), stranger.wait()).await;
        assert!(ended.is_ok(), "another process was let in");
        assert!(relay.is_hung_up(), "the VMM has not come yet");
        let vmm = TcpStream::connect(there).await.unwrap();
        let (mut theirs, _) = target.accept().await.unwrap();
        theirs.read_exact(&mut [0; 47]).await.unwrap();
        assert!(!relay.is_hung_up());
        drop(vmm);
        assert!(relay.is_hung_up(), "the VMM is gone");
    }
}
