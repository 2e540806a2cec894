//! The pure function at the heart: a frame in, at most one frame out.

use crate::event::Event;
use crate::frame::{self, Inbound};
use crate::lease::Lease;
use crate::{nd, ra, v4, v6};

/// Answers the frames of one guest out of one [`Lease`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Responder {
    lease: Lease,
}

/// What comes of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The Ethernet frame to send back, if any.
    pub reply: Option<Vec<u8>>,
    /// What happened, for the log.
    pub event: Event,
}

impl Responder {
    /// A responder that offers `lease` to the guest.
    pub fn new(lease: Lease) -> Self {
        Self { lease }
    }

    /// The lease that it offers.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The answer to one Ethernet frame. Any bytes are allowed; nothing is remembered of them.
    pub fn answer(&self, frame: &[u8]) -> Answer {
        let lease = &self.lease;
        let (reply, event) = match frame::parse(frame, lease.guest_mac) {
            Ok(Inbound::Dhcp4 {
                source,
                destination,
                message,
            }) => v4::answer(lease, source, destination, message),
            Ok(Inbound::Dhcp6 {
                source,
                destination,
                message,
            }) => v6::answer(lease, source, destination, message),
            Ok(Inbound::RouterSolicitation { source, message }) => ra::answer(lease, source, message),
            Ok(Inbound::NeighbourSolicitation { source, message }) => nd::answer(lease, source, message),
            Err(event) => (None, event),
        };
        Answer { reply, event }
    }

    /// The unsolicited router advertisement, if the guest has IPv6.
    pub fn advertisement(&self) -> Option<Vec<u8>> {
        ra::unsolicited(&self.lease)
    }
}
