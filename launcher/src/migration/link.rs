//! One control channel at work: a task that reads, and one that writes and says every so often that it is alive.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use super::channel::Stream;
use super::message::{self, ALIVE_EVERY, Message, SILENCE};

/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a channel's reader has to tell.
#[derive(Debug)]
pub(crate) enum Heard {
    Said(Message),
    /// Nothing more will come.
    Lost(String),
}

/// The reader ends with it; the writer says what it was given, and then ends.
#[derive(Debug)]
pub(crate) struct Link {
    outbox: mpsc::UnboundedSender<Message>,
    writer: JoinHandle<()>,
    reader: Ending,
}

/// Aborted with whoever waits for it.
#[derive(Debug)]
struct Ending(JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// `tell` is given everything that is heard, and at last that the channel is lost.
    pub(crate) fn start<F, T>(stream: Box<dyn Stream>, tell: F) -> Self
    where
        F: Fn(Heard) -> T + Send + 'static,
        T: Future<Output = ()> + Send,
    {
        let (mut reading, mut writing) = tokio::io::split(stream);
        let (outbox, mut said) = mpsc::unbounded_channel();
        let writer = tokio::spawn(async move {
            let mut tick = interval(ALIVE_EVERY);
            loop {
                let message = tokio::select! {
                    message = said.recv() => match message {
                        Some(message) => message,
                        None => break,
                    },
                    _ = tick.tick() => Message::Alive,
                };
                let written = timeout(SILENCE, message::write(&mut writing, &message)).await;
                if !matches!(written, Ok(Ok(()))) {
                    // The reader finds out, and says why.
                    break;
                }
            }
            let _ = timeout(LAST_WORDS, tokio::io::AsyncWriteExt::shutdown(&mut writing)).await;
        });
        let reader = tokio::spawn(async move {
            loop {
                let heard = match timeout(SILENCE, message::read(&mut reading)).await {
                    Ok(Ok(Message::Alive)) => continue,
                    Ok(Ok(message)) => Heard::Said(message),
                    Ok(Err(error)) => {
                        Heard::Lost(format!("the channel to the other launcher broke: {error}"))
                    }
                    Err(_) => Heard::Lost(format!(
                        "the other launcher has said nothing for {} s",
                        SILENCE.as_secs()
                    )),
                };
                let lost = matches!(heard, Heard::Lost(_));
                tell(heard).await;
                if lost {
                    return;
                }
            }
        });
        Self {
            outbox,
            writer,
            reader: Ending(reader),
        }
    }

    pub(crate) fn say(&self, message: Message) {
        // A writer that is gone has lost its channel; the reader says so.
        let _ = self.outbox.send(message);
    }

    /// Waits until everything is said, or cannot be.
    pub(crate) async fn finish(self) {
        let Self {
            outbox,
            writer,
            reader,
        } = self;
        drop(outbox);
        let _ = timeout(LAST_WORDS, writer).await;
        drop(reader);
    }
}
