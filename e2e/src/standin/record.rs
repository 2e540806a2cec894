//! What the stand-in's guest writes to its disk: numbered records, each of which has a hash over all that came before.
//!
//! The guest remembers the last one. Before it writes the next, it reads that one back: a write that was lost, and one of
//! somebody else, show at once. The records that are on the disk can be held against each other later.

#![allow(
    dead_code,
    reason = "one half is for the stand-in, the other for the scenarios"
)]

use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

/// Bytes of a record: a sector.
pub(crate) const RECORD: usize = 512;
/// Records on the disk, one after another and then from the beginning again.
pub(crate) const RECORDS: u64 = 256;
const MAGIC: &[u8; 8] = b"numbered";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// From 1.
    pub(crate) number: u64,
    /// Who wrote it.
    pub(crate) writer: u64,
    hash: [u8; 32],
}

impl Record {
    pub(crate) fn next(&self, writer: u64) -> Self {
        let number = self.number + 1;
        Self {
            number,
            writer,
            hash: hash(&self.hash, number, writer),
        }
    }

    /// Where it belongs.
    pub(crate) fn offset(&self) -> u64 {
        self.number % RECORDS * RECORD as u64
    }

    pub(crate) fn put(&self, sector: &mut [u8]) {
        let mut bytes = Vec::with_capacity(RECORD);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.writer.to_le_bytes());
        bytes.extend_from_slice(&self.hash);
        for (to, from) in sector
            .iter_mut()
            .zip(bytes.into_iter().chain(std::iter::repeat(0)))
        {
            *to = from;
        }
    }

    /// None of a sector that has no record.
    pub(crate) fn of(sector: &[u8]) -> Option<Self> {
        let rest = sector.strip_prefix(MAGIC)?;
        let (number, rest) = rest.split_first_chunk()?;
        let (writer, rest) = rest.split_first_chunk()?;
        let (hash, _) = rest.split_first_chunk()?;
        Some(Self {
            number: u64::from_le_bytes(*number),
            writer: u64::from_le_bytes(*writer),
            hash: *hash,
        })
    }

    pub(crate) fn text(&self) -> String {
        let hash: String = self.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {} {hash}", self.number, self.writer)
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let number = words.next()?.parse().ok()?;
        let writer = words.next()?.parse().ok()?;
        let hex = words.next()?;
        let mut hash = [0; 32];
        for (index, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self { number, writer, hash })
    }
}

fn hash(before: &[u8; 32], number: u64, writer: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(number.to_le_bytes());
    hash.update(writer.to_le_bytes());
    hash.finalize().into()
}

/// The last record on a disk, and how many writers the records on it have; an error where two of them do not fit together.
pub(crate) fn check(disk: &std::fs::File) -> io::Result<(u64, usize)> {
    let mut records = Vec::new();
    for index in 0..RECORDS {
        let mut sector = [0; RECORD];
        disk.read_exact_at(&mut sector, index * RECORD as u64)?;
        records.extend(Record::of(&sector));
    }
    records.sort_by_key(|record| record.number);
    for pair in records.windows(2) {
        if let [before, after] = pair
            && before.next(after.writer) != *after
        {
            return Err(io::Error::other(format!(
                "record {} of writer {} does not follow record {} of writer {}",
                after.number, after.writer, before.number, before.writer
            )));
        }
    }
    let writers: std::collections::BTreeSet<_> = records.iter().map(|record| record.writer).collect();
    let last = records.last().map_or(0, |record| record.number);
    Ok((last, writers.len()))
}
