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
//! How it knows that instruction without reading it: request and answer alternate on the first connection. The VMM
//! emits its event `restored` before it answers the request that carried the guest's last state; whatever the source
//! sends after that answer is the instruction to run. So before an answer is passed on, the event stream is looked
//! into, and once it has said `restored`, what comes next from the source is kept.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::channel::{self, Address};

/// Where each VMM meets its relay. A port that no binding gives to the guest.
pub(crate) const MEETING: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 49153);
/// Bytes, for each direction of each connection.
const BUFFER: usize = 256 << 10;

/// The source's half. Dropped, all its connections close.
#[derive(Debug)]
pub(crate) struct SourceRelay(JoinHandle<()>);

impl SourceRelay {
    /// Listens for the VMM, and carries each of its connections to the target.
    pub(crate) async fn start(address: Address, id: String) -> io::Result<Self> {
        let listener = TcpListener::bind(MEETING).await?;
        Ok(Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut ours, _)) = listener.accept().await {
                let (address, id) = (address.clone(), id.clone());
                connections.spawn(async move {
                    let _ = ours.set_nodelay(true);
                    match channel::dial_memory(&address, &id).await {
                        Ok(mut theirs) => {
                            // An end in either direction is for the VMMs to judge.
                            let _ =
                                copy_bidirectional_with_sizes(&mut ours, &mut theirs, BUFFER, BUFFER).await;
                        }
                        Err(error) => {
                            tracing::warn!("the guest's memory: {}", crate::error::chain(&error));
                        }
                    }
                });
            }
        })))
    }
}

impl Drop for SourceRelay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A question to whoever reads the VMM's events: has it said `restored`, up to now?
pub(crate) type Question = oneshot::Sender<bool>;

/// The target's half.
#[derive(Debug)]
pub(crate) struct TargetRelay {
    connections: JoinSet<()>,
    release: watch::Sender<bool>,
    questions: mpsc::Sender<Question>,
    held: mpsc::Sender<()>,
    first: bool,
}

impl TargetRelay {
    pub(crate) fn new(questions: mpsc::Sender<Question>, held: mpsc::Sender<()>) -> Self {
        Self {
            connections: JoinSet::new(),
            release: watch::Sender::new(false),
            questions,
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
                questions: self.questions.clone(),
                held: self.held.clone(),
            };
            self.connections.spawn(async move {
                if let Ok(ours) = meet().await {
                    hold.carry(theirs, ours).await;
                }
            });
        } else {
            let mut theirs = theirs;
            self.connections.spawn(async move {
                if let Ok(mut ours) = meet().await {
                    let _ = copy_bidirectional_with_sizes(&mut theirs, &mut ours, BUFFER, BUFFER).await;
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
    questions: mpsc::Sender<Question>,
    held: mpsc::Sender<()>,
}

impl Hold {
    async fn carry(self, theirs: TcpStream, ours: TcpStream) {
        let Self {
            mut release,
            questions,
            held,
        } = self;
        let (mut from_source, mut to_source) = theirs.into_split();
        let (mut from_vmm, mut to_vmm) = ours.into_split();
        let holding = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&holding);
        let requests = async move {
            let mut buffer = vec![0; BUFFER];
            loop {
                let bytes = match from_source.read(&mut buffer).await {
                    Ok(read) if read > 0 => buffer.get(..read).unwrap_or_default(),
                    // The source has closed. Instructions that were held are worth nothing without it: whoever
                    // releases has them already.
                    _ => break,
                };
                if seen.load(Ordering::SeqCst) && !*release.borrow() {
                    let _ = held.send(()).await;
                    if release.wait_for(|released| *released).await.is_err() {
                        break;
                    }
                }
                if to_vmm.write_all(bytes).await.is_err() {
                    break;
                }
            }
            let _ = to_vmm.shutdown().await;
        };
        let answers = async move {
            let mut buffer = vec![0; BUFFER];
            loop {
                let bytes = match from_vmm.read(&mut buffer).await {
                    Ok(read) if read > 0 => buffer.get(..read).unwrap_or_default(),
                    _ => break,
                };
                if !holding.load(Ordering::SeqCst) {
                    let (question, answer) = oneshot::channel();
                    if questions.send(question).await.is_err() {
                        break;
                    }
                    match answer.await {
                        Ok(true) => holding.store(true, Ordering::SeqCst),
                        Ok(false) => {}
                        // Nobody knows: then nothing more is let through.
                        Err(_) => break,
                    }
                }
                if to_source.write_all(bytes).await.is_err() {
                    break;
                }
            }
            let _ = to_source.shutdown().await;
        };
        tokio::join!(requests, answers);
    }
}
