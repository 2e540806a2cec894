//! cloud-hypervisor's event stream: JSON objects separated by blank lines.
//!
//! The stream is what the VMM says of itself and of the guest. It is advisory: what ends the guest is the end of the
//! process. So junk in it is skipped, and its memory is bounded. A live migration asks more of it: where the order of an
//! event and of something else matters, [`Events::pending`] takes what has been written up to now.

use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Far more than an event takes.
pub(crate) const MAX_EVENT: usize = 64 << 10;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct VmmEvent {
    pub source: String,
    pub event: String,
    /// Different for each event; its values are text.
    #[serde(default)]
    pub properties: Option<serde_json::Value>,
}

#[derive(Debug)]
pub struct Events {
    pipe: pipe::Receiver,
    splitter: Splitter,
}

impl Events {
    pub fn new(pipe: pipe::Receiver) -> Self {
        Self {
            pipe,
            splitter: Splitter::default(),
        }
    }

    /// The next event; none once the VMM has closed the stream. Cancel-safe.
    pub async fn next(&mut self) -> Option<VmmEvent> {
        loop {
            if let Some(event) = self.splitter.take() {
                return Some(event);
            }
            let mut chunk = [0; 4096];
            let read = self.pipe.read(&mut chunk).await.ok()?;
            if read == 0 {
                return None;
            }
            self.splitter.feed(chunk.get(..read).unwrap_or_default());
        }
    }
}

impl Events {
    /// Everything that the VMM has written so far, without waiting. Read from the kernel itself: what the runtime knows of
    /// the pipe may be a moment old.
    pub fn pending(&mut self) -> Vec<VmmEvent> {
        let mut chunk = [0; 4096];
        // The end and an error are for `next` to find.
        while let Ok(read) = nix::unistd::read(&self.pipe, &mut chunk)
            && read > 0
        {
            self.splitter.feed(chunk.get(..read).unwrap_or_default());
        }
        std::iter::from_fn(|| self.splitter.take()).collect()
    }
}

/// Cuts the stream at its blank lines.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    buffer: Vec<u8>,
    /// Too long to be an event: thrown away up to the next blank line.
    skipping: bool,
}

impl Splitter {
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes.
    pub(crate) fn held(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn take(&mut self) -> Option<VmmEvent> {
        loop {
            let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") else {
                if self.buffer.len() > MAX_EVENT {
                    // The last byte stays: it may be the first half of a blank line.
                    self.buffer.drain(..self.buffer.len().saturating_sub(1));
                    self.skipping = true;
                }
                return None;
            };
            let piece: Vec<u8> = self.buffer.drain(..end.saturating_add(2)).collect();
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if let Ok(event) = serde_json::from_slice(&piece) {
                return Some(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(splitter: &mut Splitter) -> Vec<String> {
        std::iter::from_fn(|| splitter.take())
            .map(|event| event.event)
            .collect()
    }

    #[test]
    fn events_in_pieces_and_junk_between_them() {
        let stream = b"{\"source\":\"vm\",\n\"event\":\"booting\"}\n\nnonsense\n\n{}\n\n{\"source\":\"vm\",\"event\":\"booted\"}\n\n";
        for size in [1, 2, 7, 1000] {
            let mut splitter = Splitter::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(size) {
                splitter.feed(chunk);
                seen.extend(all(&mut splitter));
            }
            assert_eq!(seen, ["booting", "booted"], "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_pending_is_there_without_waiting() {
        use std::io::Write;
        use std::os::fd::OwnedFd;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let mut events = Events::new(pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).unwrap());
            assert!(events.pending().is_empty());
            let event = "{\"source\":\"vm\",\"event\":\"restored\",\"properties\":{\"id\":\"3\"}}\n\n";
            writer.write_all(event.as_bytes()).unwrap();
            writer.write_all(event.as_bytes()).unwrap();
            let seen = events.pending();
            assert_eq!(seen.len(), 2);
            assert_eq!(seen[0].properties.as_ref().unwrap()["id"], "3");
            writer.write_all(event.as_bytes()).unwrap();
            assert_eq!(events.next().await.unwrap().event, "restored");
            drop(writer);
            assert!(events.pending().is_empty() && events.next().await.is_none());
        });
    }

    #[test]
    fn an_endless_event_costs_bounded_memory_and_the_next_is_heard() {
        let mut splitter = Splitter::default();
        for _ in 0..100 {
            splitter.feed(&[b'x'; 4096]);
            assert!(splitter.take().is_none());
            assert!(splitter.held() <= MAX_EVENT + 4096);
        }
        splitter.feed(b"\n\n{\"source\":\"vm\",\"event\":\"shutdown\"}\n\n");
        assert_eq!(all(&mut splitter), ["shutdown"]);
    }
}
