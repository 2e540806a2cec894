//! A raw copy of a container image's disk, for a guest that is to migrate.
//!
//! An overlay is quicker to make, and cannot be copied while the VMM has it open: cloud-hypervisor 53 keeps tables of a qcow2
//! file in its own memory, and a pause does not write them. A raw file has no tables. It is sparse, or shares its blocks with
//! the image where the file system can do that (a reflink).
//!
//! A qcow2 image is read by its two levels of tables (QEMU's docs/interop/qcow2.rst). Compressed clusters are raw deflate; zstd
//! and extended tables are not read ([`super::qcow2::not_expanded`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use miniz_oxide::inflate::decompress_to_vec_with_limit;

use super::extents::next_data;
use super::{ImageType, SECTOR};

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ALL_ZERO: u64 = 1;
/// Bytes that are copied at once.
const PIECE: u64 = 1 << 20;

/// Fills `to` with the disk of `size` bytes in the image `from`.
pub(super) fn expand(from: &File, image_type: ImageType, size: u64, to: &File) -> io::Result<()> {
    match image_type {
        // Both are as long as the disk.
        ImageType::Raw if rustix::fs::ioctl_ficlone(to, from).is_ok() => Ok(()),
        ImageType::Raw => {
            to.set_len(size)?;
            raw(from, size, to)
        }
        ImageType::Qcow2 => {
            to.set_len(size)?;
            Image::open(from, size)?.expand(to)
        }
    }
}

fn raw(from: &File, size: u64, to: &File) -> io::Result<()> {
    let mut at = 0;
    while at < size
        && let Some((start, end)) = next_data(from, at, size)?
    {
        at = start;
        while at < end.min(size) {
            let bytes = read(from, at, PIECE.min(end.min(size).saturating_sub(at)))?;
            write(to, at, &bytes)?;
            at = at.saturating_add(bytes.len() as u64);
        }
    }
    Ok(())
}

/// What is zero takes no room.
fn write(to: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let mut at = at;
    for part in bytes.chunks(64 << 10) {
        if part.iter().any(|byte| *byte != 0) {
            to.write_all_at(part, at)?;
        }
        at = at.saturating_add(part.len() as u64);
    }
    Ok(())
}

fn read(from: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    from.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn word(bytes: &[u8], index: u64) -> Option<u64> {
    let at = usize::try_from(index.checked_mul(8)?).ok()?;
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_be_bytes(word.try_into().ok()?))
}

/// A qcow2 image whose header has been found sound ([`super::qcow2::virtual_size`]).
struct Image<'a> {
    file: &'a File,
    length: u64,
    size: u64,
    cluster_bits: u32,
    tables: u64,
    table: u64,
}

impl<'a> Image<'a> {
    fn open(file: &'a File, size: u64) -> io::Result<Self> {
        let header = read(file, 0, 48)?;
        let word = |index| word(&header, index).ok_or_else(|| damaged("header"));
        let cluster_bits = u32::try_from(word(2)? & 0xffff_ffff).unwrap_or(u32::MAX);
        if !(9..=21).contains(&cluster_bits) {
            return Err(damaged("cluster size"));
        }
        Ok(Self {
            file,
            length: file.metadata()?.len(),
            size,
            cluster_bits,
            tables: word(4)? & 0xffff_ffff,
            table: word(5)?,
        })
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn expand(&self, to: &File) -> io::Result<()> {
        let entries = self.cluster() / 8;
        for first in 0..self.tables {
            let begins = first.saturating_mul(entries).saturating_mul(self.cluster());
            if begins >= self.size {
                break;
            }
            let place = self.table.saturating_add(first.saturating_mul(8));
            let entry = word(&read(self.file, place, 8)?, 0).unwrap_or_default() & OFFSET;
            if entry == 0 {
                continue;
            }
            let second = read(self.file, entry, self.cluster())?;
            for index in 0..entries {
                let at = begins.saturating_add(index.saturating_mul(self.cluster()));
                if at >= self.size {
                    break;
                }
                let entry = word(&second, index).unwrap_or_default();
                if let Some(bytes) = self.bytes(entry)? {
                    let left = usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX);
                    write(to, at, bytes.get(..left).unwrap_or(&bytes))?;
                }
            }
        }
        Ok(())
    }

    /// Of a cluster with this entry in the second table; nothing where it is zero.
    fn bytes(&self, entry: u64) -> io::Result<Option<Vec<u8>>> {
        if entry & COMPRESSED != 0 {
            return self.compressed(entry & !(3 << 62)).map(Some);
        }
        match entry & OFFSET {
            0 => Ok(None),
            _ if entry & ALL_ZERO != 0 => Ok(None),
            // The last cluster of an image may be cut off where its disk ends.
            at => {
                let there = self.length.saturating_sub(at).min(self.cluster());
                let mut bytes = read(self.file, at, there)?;
                bytes.resize(usize::try_from(self.cluster()).unwrap_or_default(), 0);
                Ok(Some(bytes))
            }
        }
    }

    fn compressed(&self, entry: u64) -> io::Result<Vec<u8>> {
        let bits = 62_u32.saturating_sub(self.cluster_bits.saturating_sub(8));
        let at = entry & (1_u64 << bits).saturating_sub(1);
        let sectors = (entry >> bits).saturating_add(1);
        let length = sectors.saturating_mul(SECTOR).saturating_sub(at % SECTOR);
        let packed = read(self.file, at, length.min(self.length.saturating_sub(at)))?;
        let wanted = usize::try_from(self.cluster()).unwrap_or_default();
        // More may follow it in its last sector.
        let bytes = decompress_to_vec_with_limit(&packed, wanted)
            .map_err(|error| damaged(&format!("compressed cluster at {at}: {error}")))?;
        match bytes.len() == wanted {
            true => Ok(bytes),
            false => Err(damaged(&format!(
                "compressed cluster at {at}: {} bytes",
                bytes.len()
            ))),
        }
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the qcow2 image is damaged: {what}"),
    )
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;
