//! What of a disk is not as it was sent.
//!
//! A hash of each block says what the target has. It is keyed anew for each migration (std's SipHash with 64 bits), so that a
//! guest cannot look for two blocks with the same one. What is hashed and what is sent are the same bytes: a guest that writes a
//! block while it is read shows in the next round.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::OFlag;
use tokio::sync::mpsc;

use super::CopiedDisk;
use super::wire::{BLOCK, Frame};
use crate::disks::next_data;

/// What memory and offsets are aligned to for O_DIRECT, at most.
const ALIGNMENT: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// What a block was when it was sent. The target's disks are zero at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Zero,
    Hash(u64),
}

#[derive(Debug)]
struct Disk {
    number: u16,
    name: String,
    file: File,
    size: u64,
    sent: Vec<Sent>,
}

/// All disks, and what of them has been sent.
#[derive(Debug)]
pub(super) struct Scan {
    disks: Vec<Disk>,
    key: RandomState,
    memory: Vec<u8>,
}

/// Bytes of one round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Without holes.
    pub(super) read: u64,
    pub(super) changed: u64,
}

/// Why a round ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    #[error("disk {name}: {source}")]
    Read { name: String, source: io::Error },
    /// Whoever takes the blocks takes no more of them.
    #[error("the round was not wanted any more")]
    Unwanted,
}

impl Scan {
    pub(super) fn new(disks: &[CopiedDisk]) -> Result<Self, Stopped> {
        let open = |(number, disk): (usize, &CopiedDisk)| {
            let direct = if disk.direct {
                OFlag::O_DIRECT
            } else {
                OFlag::empty()
            };
            let file = OpenOptions::new()
                .read(true)
                .custom_flags((direct | OFlag::O_NOFOLLOW).bits())
                .open(&disk.path)?;
            let size = file.metadata()?.len();
            let blocks = usize::try_from(size.div_ceil(BLOCK as u64)).map_err(io::Error::other)?;
            Ok(Disk {
                number: u16::try_from(number).map_err(io::Error::other)?,
                name: disk.name.clone(),
                file,
                size,
                sent: vec![Sent::Zero; blocks],
            })
        };
        let opened = disks.iter().enumerate().map(|(number, disk)| {
            open((number, disk)).map_err(|source| Stopped::Read {
                name: disk.name.clone(),
                source,
            })
        });
        Ok(Self {
            disks: opened.collect::<Result<_, _>>()?,
            key: RandomState::new(),
            memory: vec![0; BLOCK + ALIGNMENT],
        })
    }

    /// Reads all disks once. `wanted`: whether the round is still to be gone on with.
    pub(super) fn round(
        &mut self,
        blocks: &mpsc::Sender<Frame>,
        wanted: &AtomicBool,
    ) -> Result<Found, Stopped> {
        let mut found = Found::default();
        let Self { disks, key, memory } = self;
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let buffer = memory
            .get_mut(start..start.saturating_add(BLOCK))
            .unwrap_or_default();
        for disk in disks {
            let mut at = 0;
            while at < disk.size {
                let data = disk.data(at).map_err(|source| disk.failed(source))?;
                let (from, to) = data.unwrap_or((disk.size, disk.size));
                while at < from {
                    disk.hole(at, blocks, &mut found)?;
                    at = at.saturating_add(BLOCK as u64);
                }
                while at < to {
                    if !wanted.load(Ordering::Relaxed) {
                        return Err(Stopped::Unwanted);
                    }
                    disk.block(at, buffer, key, blocks, &mut found)?;
                    at = at.saturating_add(BLOCK as u64);
                }
            }
        }
        Ok(found)
    }
}

impl Disk {
    fn failed(&self, source: io::Error) -> Stopped {
        Stopped::Read {
            name: self.name.clone(),
            source,
        }
    }

    /// The next bytes from `at` on that are no hole, as whole blocks.
    fn data(&self, at: u64) -> io::Result<Option<(u64, u64)>> {
        let Some((from, to)) = next_data(&self.file, at, self.size)? else {
            return Ok(None);
        };
        let block = BLOCK as u64;
        Ok(Some((
            from / block * block,
            to.div_ceil(block).saturating_mul(block),
        )))
    }

    fn length(&self, at: u64) -> usize {
        usize::try_from(self.size.saturating_sub(at))
            .unwrap_or(BLOCK)
            .min(BLOCK)
    }

    /// What was sent of the block at `at`.
    fn sent(&mut self, at: u64) -> Option<&mut Sent> {
        self.sent.get_mut(usize::try_from(at / BLOCK as u64).ok()?)
    }

    fn hole(&mut self, at: u64, blocks: &mpsc::Sender<Frame>, found: &mut Found) -> Result<(), Stopped> {
        let length = self.length(at);
        let disk = self.number;
        let Some(sent) = self.sent(at) else { return Ok(()) };
        if *sent == Sent::Zero {
            return Ok(());
        }
        *sent = Sent::Zero;
        found.changed = found.changed.saturating_add(length as u64);
        let length = u32::try_from(length).unwrap_or_default();
        blocks
            .blocking_send(Frame::Zero { disk, at, length })
            .map_err(|_| Stopped::Unwanted)
    }

    fn block(
        &mut self,
        at: u64,
        buffer: &mut [u8],
        key: &RandomState,
        blocks: &mpsc::Sender<Frame>,
        found: &mut Found,
    ) -> Result<(), Stopped> {
        let length = self.length(at);
        let read = self.read(at, buffer, length);
        read.map_err(|source| self.failed(source))?;
        let bytes = buffer.get(..length).unwrap_or_default();
        found.read = found.read.saturating_add(length as u64);
        if Some(bytes) == ZEROS.get(..length) {
            return self.hole(at, blocks, found);
        }
        let mut hasher = key.build_hasher();
        hasher.write(bytes);
        let now = Sent::Hash(hasher.finish());
        let disk = self.number;
        let Some(sent) = self.sent(at) else { return Ok(()) };
        if *sent == now {
            return Ok(());
        }
        *sent = now;
        found.changed = found.changed.saturating_add(length as u64);
        let bytes = bytes.to_vec();
        blocks
            .blocking_send(Frame::Data { disk, at, bytes })
            .map_err(|_| Stopped::Unwanted)
    }

    /// O_DIRECT takes whole sectors, so more is asked for than the end of a disk has.
    fn read(&self, at: u64, buffer: &mut [u8], length: usize) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let rest = buffer.get_mut(done..).unwrap_or_default();
            match self.file.read_at(rest, at.saturating_add(done as u64)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done = done.saturating_add(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
