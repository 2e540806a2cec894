//! What the relay does with a message, without a socket: what it remembers, what it passes on, and what it tells a fresh
//! backend so that the VMM need not know of it.
//!
//! The VMM's side (the frontend) sets a backend up once and then only talks to the rings. All of that set-up is
//! remembered, each thing as it was last said, descriptors included. [`Relay::replay`] says it again, in the order in
//! which the frontend says it. One thing in it is not the frontend's to know: how far the dead backend had come. That
//! is in the used ring, which the backend itself writes in guest memory; a backend that takes buffers in order, as passt
//! does, has used all before that index and none after it, so it is where the next one begins. What the dead one had
//! taken and not yet used is given again: to the guest's side a packet is late, not lost.

use std::collections::BTreeMap;

use super::message::{Message, NEED_REPLY, REPLY, VERSION, request};

/// Rings that are remembered; passt has two.
const MAX_RINGS: u32 = 16;
/// VHOST_USER_PROTOCOL_F_LOG_SHMFD.
const LOG_SHMFD: u64 = 1 << 1;
/// VHOST_USER_PROTOCOL_F_REPLY_ACK.
const REPLY_ACK: u64 = 1 << 3;
/// VHOST_USER_TRANSFER_STATE_DIRECTION_SAVE.
const SAVE: u32 = 0;
/// VHOST_USER_VRING_NOFD_MASK: no descriptor comes along.
const NO_DESCRIPTOR: u64 = 1 << 8;
/// Size of the reply to SET_LOG_BASE that cloud-hypervisor's side reads: the request's own form. passt, and the protocol's
/// text, have eight bytes.
const LOG_BASE_REPLY: usize = 16;

/// Why a message is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("request {0}, which could not be told to a second backend")]
    Unknown(u32),
    #[error("request {0} with a payload or descriptors that it does not have")]
    Form(u32),
    #[error("ring {0}: there are {MAX_RINGS} at most")]
    Ring(u32),
    #[error("a reply to request {0}, which nobody waits for")]
    Unasked(u32),
}

/// One of a ring's three eventfds.
#[derive(Debug, Clone)]
enum Eventfd<F> {
    /// The frontend has not set it, or has taken it back.
    Unset,
    /// Set to none: the ring is polled, or nobody wants to be notified.
    Absent,
    Present(F),
}

impl<F: Clone> Eventfd<F> {
    fn is_set(&self) -> bool {
        !matches!(self, Self::Unset)
    }

    fn descriptor(&self) -> Option<F> {
        match self {
            Self::Present(descriptor) => Some(descriptor.clone()),
            Self::Unset | Self::Absent => None,
        }
    }
}

/// One ring as it was set up. The payloads are kept as they came.
#[derive(Debug, Clone)]
struct Ring<F> {
    num: Option<Vec<u8>>,
    addr: Option<Vec<u8>>,
    base: u32,
    /// Started, and not stopped by a GET_VRING_BASE that was answered: how far it is stands in guest memory alone.
    ran: bool,
    kick: Eventfd<F>,
    call: Eventfd<F>,
    err: Eventfd<F>,
    enable: Option<Vec<u8>>,
}

impl<F> Default for Ring<F> {
    fn default() -> Self {
        Self {
            num: None,
            addr: None,
            base: 0,
            ran: false,
            kick: Eventfd::Unset,
            call: Eventfd::Unset,
            err: Eventfd::Unset,
            enable: None,
        }
    }
}

/// Everything that a backend has been told on one connection of the frontend.
#[derive(Debug)]
pub(crate) struct Relay<F> {
    owner: bool,
    features: Option<Vec<u8>>,
    protocol_features: u64,
    memory: Option<Message<F>>,
    log_base: Option<Message<F>>,
    log_descriptor: Option<Message<F>>,
    rings: BTreeMap<u32, Ring<F>>,
    /// The frontend waits for the answer to this.
    awaited: Option<Message<F>>,
    handing_over: HandingOver,
}

/// Where a backend is with giving what it knows to another one, which goes on in its place (SET_DEVICE_STATE_FD).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandingOver {
    No,
    /// It was asked to write it all down.
    Asked,
    /// And says that it has.
    Done,
}

impl<F> Default for Relay<F> {
    fn default() -> Self {
        Self {
            owner: false,
            features: None,
            protocol_features: 0,
            memory: None,
            log_base: None,
            log_descriptor: None,
            rings: BTreeMap::new(),
            awaited: None,
            handing_over: HandingOver::No,
        }
    }
}

impl<F: Clone> Relay<F> {
    /// Whether the frontend waits for a reply; it then says nothing more.
    pub(crate) fn awaits(&self) -> bool {
        self.awaited.is_some()
    }

    /// A message of the frontend, remembered and to be passed on as it is.
    pub(super) fn process_request(&mut self, message: Message<F>) -> Result<Message<F>, Refused> {
        self.remember(&message)?;
        if self.has_reply(&message) {
            self.awaited = Some(message.clone());
        }
        Ok(message)
    }

    /// A message of the backend, as it is to reach the frontend.
    pub(super) fn process_reply(&mut self, mut message: Message<F>) -> Result<Message<F>, Refused> {
        let awaited = self.awaited.take_if(|awaited| awaited.request == message.request);
        let Some(awaited) = awaited.filter(|_| message.is_reply()) else {
            return Err(Refused::Unasked(message.request));
        };
        match message.request {
            request::SET_LOG_BASE if message.payload.len() < LOG_BASE_REPLY => {
                message.payload = awaited.payload;
            }
            request::GET_VRING_BASE => {
                let base = message.u32(4).ok_or(Refused::Form(message.request))?;
                let ring = self.ring(&message)?;
                (ring.base, ring.ran) = (base, false);
            }
            request::CHECK_DEVICE_STATE
                if self.handing_over == HandingOver::Asked && message.u64(0) == Some(0) =>
            {
                self.handing_over = HandingOver::Done;
            }
            _ => {}
        }
        Ok(message)
    }

    /// Whether the VMM has stopped the rings for the last time, to have the backend's state.
    pub(super) fn is_handing_over(&self) -> bool {
        self.handing_over != HandingOver::No
    }

    /// Whether the backend has given all it knows away. passt ends upon that; what the VMM still has to say to it matters
    /// to nobody.
    pub(super) fn has_handed_over(&self) -> bool {
        self.handing_over == HandingOver::Done
    }

    /// What a fresh backend has to be told before it is asked what is pending. `used` reads the u16 at an offset of a memory
    /// region's descriptor.
    pub(super) fn replay(&self, used: impl Fn(&F, u64) -> Option<u16>) -> Vec<Message<F>> {
        let mut messages = Vec::new();
        if self.owner {
            messages.push(Message::new(request::SET_OWNER, Vec::new()));
        }
        if self.protocol_features != 0 {
            let payload = self.protocol_features.to_le_bytes().to_vec();
            messages.push(Message::new(request::SET_PROTOCOL_FEATURES, payload));
        }
        if let Some(features) = &self.features {
            messages.push(Message::new(request::SET_FEATURES, features.clone()));
        }
        messages.extend(self.memory.clone());
        messages.extend(self.log_base.clone());
        messages.extend(self.log_descriptor.clone());
        for (index, ring) in &self.rings {
            let message = |request, payload: &Option<Vec<u8>>| {
                payload.clone().map(|payload| Message::new(request, payload))
            };
            messages.extend(message(request::SET_VRING_NUM, &ring.num));
            messages.extend(message(request::SET_VRING_ADDR, &ring.addr));
            let came_to = self.used_index(ring, &used).filter(|_| ring.ran).map(u32::from);
            let base = [*index, came_to.unwrap_or(ring.base)];
            if ring.addr.is_some() {
                let payload = base.map(u32::to_le_bytes).concat();
                messages.push(Message::new(request::SET_VRING_BASE, payload));
            }
            let eventfd = |request, eventfd: &Eventfd<F>| {
                eventfd.is_set().then(|| {
                    let descriptor = eventfd.descriptor();
                    let absent = if descriptor.is_none() { NO_DESCRIPTOR } else { 0 };
                    let payload = (u64::from(*index) | absent).to_le_bytes().to_vec();
                    Message::new(request, payload).with(descriptor)
                })
            };
            messages.extend(eventfd(request::SET_VRING_CALL, &ring.call));
            messages.extend(eventfd(request::SET_VRING_ERR, &ring.err));
            messages.extend(eventfd(request::SET_VRING_KICK, &ring.kick));
        }
        let enables = self.rings.values().filter_map(|ring| ring.enable.clone());
        messages.extend(enables.map(|payload| Message::new(request::SET_VRING_ENABLE, payload)));
        if self.protocol_features & REPLY_ACK != 0 {
            // The features themselves agree on whether there are acknowledgements.
            let agreed = |message: &&mut Message<F>| {
                !matches!(
                    message.request,
                    request::SET_OWNER | request::SET_PROTOCOL_FEATURES
                )
            };
            for message in messages.iter_mut().filter(agreed) {
                message.flags = VERSION | NEED_REPLY;
            }
        }
        messages
    }

    /// Whether the backend answers this, by its kind or because it was asked to.
    pub(super) fn has_reply(&self, message: &Message<F>) -> bool {
        match message.request {
            request::GET_FEATURES
            | request::GET_PROTOCOL_FEATURES
            | request::GET_QUEUE_NUM
            | request::GET_VRING_BASE
            | request::SET_DEVICE_STATE_FD
            | request::CHECK_DEVICE_STATE => true,
            request::SET_LOG_BASE if self.protocol_features & LOG_SHMFD != 0 => true,
            _ => message.needs_reply() && self.protocol_features & REPLY_ACK != 0,
        }
    }

    /// What the frontend still waits for, to be asked of a fresh backend.
    pub(super) fn pending(&self) -> Option<&Message<F>> {
        self.awaited.as_ref()
    }

    /// Both bells of each running ring: a fresh backend looks at what waits there, and the guest at what the dead one had
    /// finished without ringing.
    pub(super) fn bells(&self) -> Vec<F> {
        let running = self.rings.values().filter(|ring| ring.kick.is_set());
        running
            .flat_map(|ring| [ring.kick.descriptor(), ring.call.descriptor()])
            .flatten()
            .collect()
    }

    /// An answer in the stead of a backend that will not come back, so that the VMM can let go of the device.
    pub(super) fn stand_in(&mut self) -> Option<Message<F>> {
        let awaited = self.awaited.take()?;
        let payload = match awaited.request {
            request::GET_VRING_BASE => {
                let index = awaited.u32(0).unwrap_or(0);
                let base = self.rings.get(&index).map_or(0, |ring| ring.base);
                [index, base].map(u32::to_le_bytes).concat()
            }
            request::SET_LOG_BASE => awaited.payload.clone(),
            // Zero is success to a question, and no feature to one for features.
            _ => vec![0; 8],
        };
        let mut answer = Message::new(awaited.request, payload);
        answer.flags |= REPLY;
        Some(answer)
    }

    /// Bytes and descriptors of whole messages that are held: for tests.
    pub(super) fn weight(&self) -> usize {
        let messages = [&self.memory, &self.log_base, &self.log_descriptor, &self.awaited];
        let kept = messages.into_iter().flatten();
        kept.map(|message| message.descriptors.len() + message.payload.len())
            .sum()
    }

    fn remember(&mut self, message: &Message<F>) -> Result<(), Refused> {
        let Message { request, payload, .. } = message;
        let form = Refused::Form(*request);
        match *request {
            request::SET_OWNER => self.owner = true,
            request::SET_FEATURES => {
                message.u64(0).ok_or(form)?;
                self.features = Some(payload.clone());
            }
            request::SET_PROTOCOL_FEATURES => self.protocol_features = message.u64(0).ok_or(form)?,
            request::SET_MEM_TABLE => self.memory = Some(plain(message)),
            request::SET_LOG_BASE => self.log_base = Some(plain(message)),
            request::SET_LOG_FD => self.log_descriptor = Some(plain(message)),
            request::SET_VRING_NUM => self.ring(message)?.num = Some(payload.clone()),
            request::SET_VRING_ADDR => self.ring(message)?.addr = Some(payload.clone()),
            request::SET_VRING_BASE => {
                let base = message.u32(4).ok_or(form)?;
                let ring = self.ring(message)?;
                (ring.base, ring.ran) = (base, ring.kick.is_set());
            }
            request::SET_VRING_ENABLE => self.ring(message)?.enable = Some(payload.clone()),
            // Stops the ring: it runs again with its next kick.
            request::GET_VRING_BASE => self.ring(message)?.kick = Eventfd::Unset,
            request::SET_VRING_KICK => {
                let eventfd = eventfd(message)?;
                let ring = self.ring(message)?;
                (ring.kick, ring.ran) = (eventfd, true);
            }
            request::SET_VRING_CALL => {
                let eventfd = eventfd(message)?;
                self.ring(message)?.call = eventfd;
            }
            request::SET_VRING_ERR => {
                let eventfd = eventfd(message)?;
                self.ring(message)?.err = eventfd;
            }
            request::SET_DEVICE_STATE_FD => {
                let saves = message.u32(0).ok_or(form)? == SAVE;
                self.handing_over = if saves {
                    HandingOver::Asked
                } else {
                    HandingOver::No
                };
            }
            request::GET_FEATURES
            | request::GET_PROTOCOL_FEATURES
            | request::GET_QUEUE_NUM
            | request::CHECK_DEVICE_STATE => {}
            unknown => return Err(Refused::Unknown(unknown)),
        }
        Ok(())
    }

    /// The ring that a message is about: the first number of its payload, of which bells use eight bits.
    fn ring(&mut self, message: &Message<F>) -> Result<&mut Ring<F>, Refused> {
        let index = message.u32(0).ok_or(Refused::Form(message.request))?;
        let index = match message.request {
            request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => index & 0xff,
            _ => index,
        };
        if index >= MAX_RINGS {
            return Err(Refused::Ring(index));
        }
        Ok(self.rings.entry(index).or_default())
    }

    /// The used ring's index (virtio 1.3, section 2.7.8: flags, then index), found by way of the memory table.
    fn used_index(&self, ring: &Ring<F>, read: impl Fn(&F, u64) -> Option<u16>) -> Option<u16> {
        const USED_ADDRESS: usize = 16;
        const INDEX: u64 = 2;
        let bytes = ring
            .addr
            .as_ref()?
            .get(USED_ADDRESS..USED_ADDRESS.checked_add(8)?)?;
        let address = u64::from_le_bytes(bytes.try_into().ok()?).checked_add(INDEX)?;
        let memory = self.memory.as_ref()?;
        // Number of regions and padding, then for each: guest address, size, the frontend's address, offset in the file.
        memory
            .descriptors
            .iter()
            .enumerate()
            .find_map(|(index, descriptor)| {
                let at = index.checked_mul(32)?.checked_add(8)?;
                let word = |place: usize| memory.u64(at.checked_add(place)?);
                let (size, start, offset) = (word(8)?, word(16)?, word(24)?);
                let inside = address.checked_sub(start).filter(|inside| *inside < size)?;
                read(descriptor, offset.checked_add(inside)?)
            })
    }
}

/// As it is said again: without what was asked about it then.
fn plain<F: Clone>(message: &Message<F>) -> Message<F> {
    Message {
        flags: VERSION,
        ..message.clone()
    }
}

fn eventfd<F: Clone>(message: &Message<F>) -> Result<Eventfd<F>, Refused> {
    let form = Refused::Form(message.request);
    let absent = message.u64(0).ok_or(form.clone())? & NO_DESCRIPTOR != 0;
    match message.descriptors.as_slice() {
        [] if absent => Ok(Eventfd::Absent),
        [descriptor] if !absent => Ok(Eventfd::Present(descriptor.clone())),
        _ => Err(form),
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
