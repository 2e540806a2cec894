//! Reading fields of guest packets without a chance to panic, and writing ours.

/// Takes bytes from the front of a slice. Every method gives `None`, and takes nothing, when too few are left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Guest bytes made fit for a log line: escaped to printable ASCII, at most 64 of them.
pub(crate) fn printable(bytes: &[u8]) -> String {
    const MAX_BYTES: usize = 64;
    let mut text = bytes
        .iter()
        .take(MAX_BYTES)
        .copied()
        .map(std::ascii::escape_default)
        .fold(String::new(), |mut text, escaped| {
            text.extend(escaped.map(char::from));
            text
        });
    if bytes.len() > MAX_BYTES {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_takes_nothing_when_too_little_is_left() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u32(), None);
        assert_eq!(reader.u16(), Some(0x0102));
        assert_eq!(reader.take(2), None);
        assert_eq!(reader.rest(), &[3]);
    }

    #[test]
    fn guest_strings_are_escaped_and_bounded() {
        assert_eq!(printable(b"web\x1b[31m\n"), "web\\x1b[31m\\n");
        let long = printable(&[0xff; 1000]);
        assert_eq!(long.len(), 64 * 4 + 3);
    }
}
