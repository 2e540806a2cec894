//! The control channels that a target has. One is its source's; over plain TCP anybody can have another.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::channel::Stream;
use super::link::{Link, Received};
use super::message::Message;
use crate::queue::Sink;

/// At a time. There is one source, which may come back before its last channel is known to be lost.
const MAX_CHANNELS: usize = 8;

/// By age.
#[derive(Debug, Default)]
pub(super) struct Channels {
    open: BTreeMap<u32, Channel>,
    last: u32,
    /// The source's, and where it came from first.
    source: Option<u32>,
    address: Option<IpAddr>,
}

#[derive(Debug)]
struct Channel {
    link: Link,
    from: IpAddr,
}

impl Channels {
    /// What comes over it goes to `sink` with its number. The address is that of a channel which has to go for it: the oldest,
    /// first of those that are not from the source's address. The source's own stays.
    pub(super) fn add(
        &mut self,
        stream: Box<dyn Stream>,
        from: IpAddr,
        sink: Sink<(u32, Received)>,
    ) -> Option<IpAddr> {
        self.last = self.last.wrapping_add(1);
        let number = self.last;
        let link = Link::start(stream, move |received| {
            let sink = sink.clone();
            async move { sink.send((number, received)).await }
        });
        self.open.insert(number, Channel { link, from });
        if self.open.len() <= MAX_CHANNELS {
            return None;
        }
        let others = self.open.iter().filter(|(number, _)| !self.is_source(**number));
        let oldest = others.min_by_key(|(number, other)| (self.address == Some(other.from), **number));
        let oldest = oldest.map(|(number, _)| *number)?;
        self.open.remove(&oldest).map(|channel| channel.from)
    }

    /// Whether it is open still. What one has sent that was closed meanwhile is of no interest.
    pub(super) fn has(&self, number: u32) -> bool {
        self.open.contains_key(&number)
    }

    pub(super) fn is_source(&self, number: u32) -> bool {
        self.source == Some(number)
    }

    /// The source's is this one from here on. Returns where the source came from first.
    pub(super) fn choose(&mut self, number: u32) -> Option<IpAddr> {
        self.source = Some(number);
        let from = self.open.get(&number).map(|channel| channel.from);
        self.address = self.address.or(from);
        self.address
    }

    /// It has ended. Whether it was the source's.
    pub(super) fn lose(&mut self, number: u32) -> bool {
        self.open.remove(&number);
        let was_source = self.is_source(number);
        if was_source {
            self.source = None;
        }
        was_source
    }

    /// Says one last word over it. Returns where it came from.
    pub(super) fn dismiss(&mut self, number: u32, message: Message) -> Option<IpAddr> {
        let channel = self.open.remove(&number)?;
        channel.link.send(message);
        Some(channel.from)
    }

    /// To the source, if there is a channel.
    pub(super) fn send(&self, message: Message) {
        if let Some(channel) = self.source.and_then(|source| self.open.get(&source)) {
            channel.link.send(message);
        }
    }

    /// Closes all of them, once what is queued is sent.
    pub(super) async fn finish(self) {
        for channel in self.open.into_values() {
            channel.link.finish().await;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}
