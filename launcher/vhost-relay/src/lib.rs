//! Stands between the VMM and a vhost-user backend, so that the backend may die and be replaced without the VMM noticing.
//!
//! Only control messages pass through: how the memory, the rings and their bells are set up. The rings themselves are
//! shared memory between guest and backend, so no packet comes by here. What the VMM has said is remembered ([`state`], pure)
//! and said again to a fresh backend, after which both sides of each running ring are woken once.
//!
//! Two differences of the two sides' readings of the protocol are bridged as well, both for a live migration's sake: the
//! form of the reply to SET_LOG_BASE, for which the VMM would wait for ever, and the end of a backend that has handed
//! over. passt then ends at once, while the VMM still asks for the last of the log.

mod channel;
#[doc(hidden)]
pub mod fuzzing;
mod message;
mod state;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::net::UnixStream;

use channel::Descriptor;
use message::{Message, request};
use state::Relay;

pub use channel::{Channel, ChannelError};
pub use message::Malformed;
pub use state::Refused;

/// An answer to a control message takes a backend microseconds.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a backend is not used, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("it closed the connection")]
    Gone,
    #[error("it did not answer within {} s", REPLY_TIMEOUT.as_secs())]
    Silent,
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Protocol(#[from] Refused),
    #[error("it refused request {0}")]
    Failed(u32),
}

/// How [`Session::carry`] ended.
#[derive(Debug)]
pub enum End {
    /// The VMM closed its side: the device is gone, or the guest starts anew.
    Frontend,
    /// The VMM said something that is not carried.
    FrontendFault(String),
    /// The backend has given all it knows to another one, elsewhere, and is gone.
    HandedOver,
    Backend(BackendError),
}

/// One connection of the VMM.
#[derive(Debug)]
pub struct Session {
    frontend: Channel,
    relay: Relay<Descriptor>,
    /// Set once the VMM has begun to hand the device over.
    leaving: Arc<AtomicBool>,
}

impl Session {
    pub fn new(frontend: UnixStream, leaving: Arc<AtomicBool>) -> Self {
        leaving.store(false, Ordering::Relaxed);
        Self {
            frontend: Channel::new(frontend),
            relay: Relay::default(),
            leaving,
        }
    }

    /// Carries messages until one side ends.
    pub async fn carry(&mut self, backend: &mut Channel) -> End {
        match self.carry_on(backend).await {
            End::Backend(_) if self.relay.has_handed_over() => End::HandedOver,
            end => end,
        }
    }

    async fn carry_on(&mut self, backend: &mut Channel) -> End {
        loop {
            tokio::select! {
                received = self.frontend.receive(), if !self.relay.awaits() => match self.take(received) {
                    Ok(message) => if let Err(error) = backend.send(&message).await {
                        return End::Backend(error.into());
                    },
                    Err(end) => return end,
                },
                received = backend.receive() => {
                    let message = match received {
                        Ok(Some(message)) => message,
                        Ok(None) => return End::Backend(BackendError::Gone),
                        Err(error) => return End::Backend(error.into()),
                    };
                    match self.relay.process_reply(message) {
                        Ok(message) => if self.frontend.send(&message).await.is_err() {
                            return End::Frontend;
                        },
                        Err(error) => return End::Backend(error.into()),
                    }
                }
            }
        }
    }

    /// Brings a fresh backend to where the one before it was, asks it what the VMM waits for, and wakes both sides.
    pub async fn resume(&mut self, backend: &mut Channel) -> Result<(), BackendError> {
        for message in self.relay.replay(read_u16) {
            backend.send(&message).await?;
            if self.relay.has_reply(&message) {
                let reply = answer(backend, message.request).await?;
                if reply.u64(0) != Some(0) {
                    return Err(BackendError::Failed(message.request));
                }
            }
        }
        if let Some(message) = self.relay.pending() {
            backend.send(message).await?;
        }
        for bell in self.relay.bells() {
            // A counter that is full rings already.
            let _ = ring(&bell);
        }
        Ok(())
    }

    /// Answers the VMM in the stead of a backend that will not come back, until it lets go of the device.
    pub async fn stand_in(&mut self) -> End {
        loop {
            if let Some(answer) = self.relay.stand_in()
                && self.frontend.send(&answer).await.is_err()
            {
                return End::Frontend;
            }
            let received = self.frontend.receive().await;
            if let Err(end) = self.take(received) {
                return end;
            }
        }
    }

    fn take(
        &mut self,
        received: Result<Option<Message<Descriptor>>, ChannelError>,
    ) -> Result<Message<Descriptor>, End> {
        match received {
            Ok(Some(message)) => {
                let passed = self.relay.process_request(message);
                if self.relay.is_handing_over() {
                    self.leaving.store(true, Ordering::Relaxed);
                }
                passed.map_err(|error| End::FrontendFault(error.to_string()))
            }
            Ok(None) => Err(End::Frontend),
            Err(error) => Err(End::FrontendFault(error.to_string())),
        }
    }
}

/// Asks a backend something harmless: its answer says that it is there, has put its own house in order and serves.
pub async fn greet(backend: &mut Channel) -> Result<(), BackendError> {
    backend
        .send(&Message::new(request::GET_FEATURES, Vec::new()))
        .await?;
    match backend.receive().await? {
        Some(reply) if reply.request == request::GET_FEATURES && reply.is_reply() => Ok(()),
        Some(reply) => Err(Refused::Unasked(reply.request).into()),
        None => Err(BackendError::Gone),
    }
}

async fn answer(backend: &mut Channel, request: u32) -> Result<Message<Descriptor>, BackendError> {
    let received = tokio::time::timeout(REPLY_TIMEOUT, backend.receive()).await;
    match received.map_err(|_| BackendError::Silent)?? {
        Some(reply) if reply.request == request && reply.is_reply() => Ok(reply),
        Some(reply) => Err(Refused::Unasked(reply.request).into()),
        None => Err(BackendError::Gone),
    }
}

/// Without waiting: what the VMM sent for an eventfd may be anything, such as a pipe that nobody reads. It shares the flag
/// with us, and sets it on its eventfds itself.
fn ring(bell: &Descriptor) -> rustix::io::Result<()> {
    let flags = fcntl_getfl(bell)?;
    if !flags.contains(OFlags::NONBLOCK) {
        fcntl_setfl(bell, flags | OFlags::NONBLOCK)?;
    }
    rustix::io::write(bell, &1_u64.to_ne_bytes()).map(drop)
}

/// Of guest memory, by the file that it is: nothing is mapped here.
fn read_u16(memory: &Descriptor, offset: u64) -> Option<u16> {
    let mut bytes = [0; 2];
    let read: Result<usize, io::Error> = rustix::io::pread(memory, &mut bytes, offset).map_err(Into::into);
    (read.ok()? == bytes.len()).then(|| u16::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests;
