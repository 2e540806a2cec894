//! What the tasks of a target report to it.

use super::disks::DiskDescription;
use super::link::Received;
use super::message::Prepare;
use super::port;
use super::target::Event;

#[derive(Debug)]
pub(crate) enum Arrival {
    Connection(port::Incoming),
    Received(u32, Received),
    Event(Event),
    /// A source has asked, and the disks are known.
    Compared(Compared),
    /// The guest has been here for so long that its source has nothing left to ask.
    Settled,
}

/// What a source has asked, with the target's disks as they were then.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(super) channel: u32,
    pub(super) prepare: Box<Prepare>,
    pub(super) disks: Vec<DiskDescription>,
    /// Those that could not be read.
    pub(super) problems: Vec<String>,
}

impl From<port::Incoming> for Arrival {
    fn from(incoming: port::Incoming) -> Self {
        Self::Connection(incoming)
    }
}

impl From<(u32, Received)> for Arrival {
    fn from((channel, received): (u32, Received)) -> Self {
        Self::Received(channel, received)
    }
}
