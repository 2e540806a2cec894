//! One control channel at work: a task that reads, and one that writes, and sends every so often that it is alive.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use super::channel::Stream;
use super::message::{self, ALIVE_EVERY, MAX_SILENCE, Message};
use super::said;

/// To send what is queued when the channel is to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Messages for a peer that does not read. The hand-off has fewer altogether.
const MAX_QUEUED: usize = 32;

/// What comes out of a channel.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message),
    /// Nothing more will come.
    Lost(String),
}

/// The reader ends with it; the writer sends what is queued, and then ends.
#[derive(Debug)]
pub(crate) struct Link {
    outbox: mpsc::Sender<Message>,
    writer: JoinHandle<()>,
    reader: AbortOnDrop,
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// `forward` gets everything that is received, and at last that the channel is lost.
    pub(crate) fn start<F, T>(stream: Box<dyn Stream>, forward: F) -> Self
    where
        F: Fn(Received) -> T + Send + 'static,
        T: Future<Output = ()> + Send,
    {
        let (mut reading, mut writing) = tokio::io::split(stream);
        let (outbox, mut queued) = mpsc::channel(MAX_QUEUED);
        let writer = tokio::spawn(async move {
            let mut tick = interval(ALIVE_EVERY);
            loop {
                let message = tokio::select! {
                    message = queued.recv() => match message {
                        Some(message) => message,
                        None => break,
                    },
                    _ = tick.tick() => Message::Alive,
                };
                let written = timeout(MAX_SILENCE, message::write(&mut writing, &message)).await;
                if !matches!(written, Ok(Ok(()))) {
                    // The reader finds out, and says why.
                    break;
                }
            }
            let _ = timeout(CLOSE_TIMEOUT, tokio::io::AsyncWriteExt::shutdown(&mut writing)).await;
        });
        let reader = tokio::spawn(async move {
            loop {
                let received = match timeout(MAX_SILENCE, message::read(&mut reading)).await {
                    Ok(Ok(Message::Alive)) => continue,
                    Ok(Ok(message)) => Received::Message(message),
                    Ok(Err(error)) => {
                        let why = said::text(&error.to_string());
                        Received::Lost(format!("the channel to the other launcher broke: {why}"))
                    }
                    Err(_) => Received::Lost(format!(
                        "the other launcher has sent nothing for {} s",
                        MAX_SILENCE.as_secs()
                    )),
                };
                let lost = matches!(received, Received::Lost(_));
                forward(received).await;
                if lost {
                    return;
                }
            }
        });
        Self {
            outbox,
            writer,
            reader: AbortOnDrop(reader),
        }
    }

    pub(crate) fn send(&self, message: Message) {
        // A writer that is gone has lost its channel; the reader reports that. One whose peer does not read is about to.
        let _ = self.outbox.try_send(message);
    }

    /// Waits until everything is sent, or cannot be.
    pub(crate) async fn finish(self) {
        let Self {
            outbox,
            writer,
            reader,
        } = self;
        drop(outbox);
        let _ = timeout(CLOSE_TIMEOUT, writer).await;
        drop(reader);
    }
}
