//! One vhost-user message, and how a stream of bytes is cut into them.
//!
//! Header of three little-endian u32 (request, flags, size of the payload), then the payload; descriptors come with the
//! first bytes. [`Framer`] never asks for a byte beyond the message at hand, so what descriptors have arrived by its end
//! are its own.

/// Bytes.
pub(super) const HEADER: usize = 12;
/// As much as cloud-hypervisor's side takes; a full memory table is not near it.
pub(super) const MAX_PAYLOAD: usize = 4096;
/// As many as cloud-hypervisor's side sends with one message.
pub(super) const MAX_DESCRIPTORS: usize = 32;

/// Bits of the flags.
const VERSION_MASK: u32 = 0b11;
pub(super) const VERSION: u32 = 1;
pub(super) const REPLY: u32 = 1 << 2;
pub(super) const NEED_REPLY: u32 = 1 << 3;

/// Requests of the vhost-user protocol that can pass.
pub(super) mod request {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_LOG_BASE: u32 = 6;
    pub(crate) const SET_LOG_FD: u32 = 7;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const SET_DEVICE_STATE_FD: u32 = 42;
    pub(crate) const CHECK_DEVICE_STATE: u32 = 43;
}

/// `F` is a descriptor: a real one, or a number in tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message<F> {
    pub(super) request: u32,
    pub(super) flags: u32,
    pub(super) payload: Vec<u8>,
    pub(super) descriptors: Vec<F>,
}

impl<F> Message<F> {
    pub(super) fn new(request: u32, payload: Vec<u8>) -> Self {
        Self {
            request,
            flags: VERSION,
            payload,
            descriptors: Vec::new(),
        }
    }

    pub(super) fn with(mut self, descriptors: impl IntoIterator<Item = F>) -> Self {
        self.descriptors.extend(descriptors);
        self
    }

    pub(super) fn is_reply(&self) -> bool {
        self.flags & REPLY != 0
    }

    pub(super) fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// The payload's u32 at `offset`.
    pub(super) fn u32(&self, offset: usize) -> Option<u32> {
        let bytes = self.payload.get(offset..offset.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The payload's u64 at `offset`.
    pub(super) fn u64(&self, offset: usize) -> Option<u64> {
        let bytes = self.payload.get(offset..offset.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// As it goes over the socket, without the descriptors.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let size = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER.saturating_add(self.payload.len()));
        for word in [self.request, self.flags, size] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&self.payload);
        bytes
    }
}

/// Bytes that are no vhost-user message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a payload of {0} bytes, {MAX_PAYLOAD} at most are taken")]
    Payload(u32),
    #[error("version {0} of the protocol, not {VERSION}")]
    Version(u32),
    #[error("more than {MAX_DESCRIPTORS} descriptors with one message")]
    Descriptors,
    #[error("the stream ended inside a message")]
    Cut,
}

/// Cuts a stream into messages.
#[derive(Debug)]
pub(super) struct Framer<F> {
    bytes: Vec<u8>,
    descriptors: Vec<F>,
}

impl<F> Default for Framer<F> {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            descriptors: Vec::new(),
        }
    }
}

impl<F> Framer<F> {
    /// How many bytes to read next, at most: never zero.
    pub(super) fn wanted(&self) -> usize {
        let end = match self.size() {
            Some(size) => HEADER.saturating_add(size),
            None => HEADER,
        };
        end.saturating_sub(self.bytes.len()).max(1)
    }

    /// The payload's size, once the header is there. Checked in `feed`.
    fn size(&self) -> Option<usize> {
        let bytes = self.bytes.get(8..HEADER)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    }

    /// Takes what was read, no more than was wanted, and yields the message that it completes.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        descriptors: impl IntoIterator<Item = F>,
    ) -> Result<Option<Message<F>>, Malformed> {
        self.bytes.extend_from_slice(bytes);
        self.descriptors.extend(descriptors);
        if self.descriptors.len() > MAX_DESCRIPTORS {
            return Err(Malformed::Descriptors);
        }
        let Some([request, flags, size]) = self.header() else {
            return Ok(None);
        };
        if flags & VERSION_MASK != VERSION {
            return Err(Malformed::Version(flags & VERSION_MASK));
        }
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD {
            return Err(Malformed::Payload(size));
        }
        if self.bytes.len() < HEADER.saturating_add(length) {
            return Ok(None);
        }
        let payload = self.bytes.split_off(HEADER);
        self.bytes.clear();
        Ok(Some(Message {
            request,
            flags,
            payload,
            descriptors: std::mem::take(&mut self.descriptors),
        }))
    }

    /// The stream is over: between two messages, or inside one.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Cut)
        }
    }

    fn header(&self) -> Option<[u32; 3]> {
        let mut words = self
            .bytes
            .get(..HEADER)?
            .chunks_exact(4)
            .map(|word| word.try_into().map_or(0, u32::from_le_bytes));
        Some([words.next()?, words.next()?, words.next()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_in_any_pieces_with_their_own_descriptors() {
        let first = Message::new(5, vec![7; 40]).with([1_u32, 2]);
        let second = Message::new(1, Vec::new());
        let stream: Vec<u8> = [first.bytes(), second.bytes()].concat();
        for most in [1, 3, 12, 100] {
            let mut framer = Framer::default();
            let mut rest = stream.as_slice();
            let mut descriptors = vec![1, 2];
            let mut seen = Vec::new();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(framer.wanted().min(most).min(rest.len()));
                rest = after;
                seen.extend(framer.feed(piece, descriptors.drain(..)).unwrap());
            }
            assert_eq!(seen, [first.clone(), second.clone()], "in pieces of {most}");
            assert_eq!(framer.end(), Ok(()));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let feed = |bytes: &[u8]| Framer::<u32>::default().feed(bytes, []);
        let header = |flags: u32, size: u32| [1, flags, size].map(u32::to_le_bytes).concat();
        assert_eq!(feed(&header(2, 0)), Err(Malformed::Version(2)));
        assert_eq!(feed(&header(1, 4097)), Err(Malformed::Payload(4097)));
        assert_eq!(feed(&header(1, u32::MAX)), Err(Malformed::Payload(u32::MAX)));
        let mut framer = Framer::default();
        assert_eq!(framer.feed(&[1], 0..33), Err(Malformed::Descriptors));
        assert_eq!(framer.end(), Err(Malformed::Cut));
    }
}
