//! The target's port: who comes, what for, and who is let in.
//!
//! A connection is a stranger's until its first line is read, and until its certificate is known if the line asks for the
//! control channel. Strangers are limited in number ([`super::strangers`]) and in time. One of the memory's is known by the
//! hand-off that it names: it is let in at once, however many there are, or not at all.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::channel::{self, ChannelError, Purpose, Stream, in_time};
use super::rejections::Rejections;
use super::strangers::Strangers;
use super::tls::Server;
use crate::accept::Accepting;
use crate::error::chain;
use crate::queue::Sink;

/// Connections that have not said what they are for. A source opens up to 128 for the guest's memory and one to the launcher,
/// and those of one address may all be on their way at once.
const MAX_SILENT: usize = 256;
const MAX_SILENT_PER_ADDRESS: usize = 160;
/// Handshakes. Each costs the launcher some milliseconds.
const MAX_HANDSHAKES: usize = 16;
const MAX_HANDSHAKES_PER_ADDRESS: usize = 4;

/// What was let in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Control { stream: Box<dyn Stream>, from: IpAddr },
    Disks(Box<dyn Stream>),
    Memory(TcpStream),
}

/// The migration under way, as the target's own task knows it.
#[derive(Debug, Default)]
struct Expected {
    id: Option<String>,
    source: Option<IpAddr>,
}

/// Of each of these there is one for all connections.
#[derive(Debug, Clone)]
pub(super) struct Port {
    /// None over plain TCP.
    tls: Option<Arc<Server>>,
    expected: Arc<Mutex<Expected>>,
    silent: Arc<Mutex<Strangers<Waiting>>>,
    handshakes: Arc<Mutex<Strangers<Waiting>>>,
    keys: Arc<AtomicU64>,
    pub(super) rejections: Rejections,
}

/// A connection that waits, and how to end it.
#[derive(Debug)]
struct Waiting {
    task: AbortHandle,
    from: SocketAddr,
}

/// One among strangers, for as long as it is held.
struct Place {
    among: Arc<Mutex<Strangers<Waiting>>>,
    key: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = lock(&self.among).remove(self.key);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    pub(super) fn new(tls: Option<Server>) -> Self {
        let strangers = |total, per_address| Arc::new(Mutex::new(Strangers::new(total, per_address)));
        Self {
            tls: tls.map(Arc::new),
            expected: Arc::default(),
            silent: strangers(MAX_SILENT, MAX_SILENT_PER_ADDRESS),
            handshakes: strangers(MAX_HANDSHAKES, MAX_HANDSHAKES_PER_ADDRESS),
            keys: Arc::default(),
            rejections: Rejections::default(),
        }
    }

    /// From here on this migration's memory is let in, and its source has places of its own.
    pub(super) fn expect(&self, id: &str, source: Option<IpAddr>) {
        *lock(&self.expected) = Expected {
            id: Some(id.to_owned()),
            source,
        };
    }

    /// Accepts until it is dropped, and all that was not let in is closed then.
    pub(super) async fn serve(self, socket: TcpListener, sink: Sink<Incoming>) {
        let mut greeting = JoinSet::new();
        let mut accepting = Accepting::at("migration port");
        loop {
            let (stream, from) = accepting.next(|context| socket.poll_accept(context)).await;
            // A socket of both families shows IPv4 peers as IPv4-mapped addresses.
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            while greeting.try_join_next().is_some() {}
            let key = self.keys.fetch_add(1, Ordering::Relaxed);
            // The task must not have ended before it has its place.
            let mut silent = lock(&self.silent);
            let (this, sink) = (self.clone(), sink.clone());
            let task = greeting.spawn(async move {
                if let Err(error) = this.greet(stream, from, key, sink).await {
                    this.rejections.log(from, &chain(&error));
                }
            });
            let source = lock(&self.expected).source;
            let crowded_out = silent.admit(key, from.ip(), Waiting { task, from }, source);
            drop(silent);
            self.crowd_out(crowded_out);
        }
    }

    fn crowd_out(&self, waiting: Option<Waiting>) {
        if let Some(Waiting { task, from }) = waiting {
            task.abort();
            self.rejections
                .log(from, "it had said nothing for longest, and there were too many");
        }
    }

    /// Lets one in, or says why not.
    async fn greet(
        &self,
        mut stream: TcpStream,
        from: SocketAddr,
        key: u64,
        sink: Sink<Incoming>,
    ) -> Result<(), ChannelError> {
        let place = |among: &Arc<Mutex<_>>| Place {
            among: Arc::clone(among),
            key,
        };
        let silent = place(&self.silent);
        let purpose = in_time("the first line", channel::purpose(&mut stream)).await?;
        let waiting = lock(&self.silent).remove(key);
        drop(silent);
        let _handshake = place(&self.handshakes);
        match purpose {
            Purpose::Memory(id) if lock(&self.expected).id.as_ref() == Some(&id) => {
                sink.send(Incoming::Memory(stream)).await;
            }
            Purpose::Memory(_) => return Err(ChannelError::Memory),
            Purpose::Disks(id) if lock(&self.expected).id.as_ref() != Some(&id) => {
                return Err(ChannelError::Disks);
            }
            purpose @ (Purpose::Control | Purpose::Disks(_)) => {
                if let Some(waiting) = waiting {
                    let source = lock(&self.expected).source;
                    let crowded_out = lock(&self.handshakes).admit(key, from.ip(), waiting, source);
                    self.crowd_out(crowded_out);
                }
                let stream: Box<dyn Stream> = match &self.tls {
                    None => Box::new(stream),
                    Some(tls) => {
                        let handshake = async { Ok(tls.accept(stream).await?) };
                        Box::new(in_time("the handshake", handshake).await?)
                    }
                };
                let from = from.ip();
                let incoming = match purpose {
                    Purpose::Disks(_) => Incoming::Disks(stream),
                    _ => Incoming::Control { stream, from },
                };
                sink.send(incoming).await;
            }
        }
        Ok(())
    }
}
