//! What a disk's first and last sectors say of its type.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::SECTOR;

/// The first sector, and the size. An aligned read of whole pages, which O_DIRECT asks for too.
pub(super) fn head(file: &mut File) -> io::Result<(Vec<u8>, u64)> {
    let size = file.seek(SeekFrom::End(0))?;
    Ok((sector(file, 0)?, size))
}

fn sector(file: &File, at: u64) -> io::Result<Vec<u8>> {
    // O_DIRECT wants aligned memory; a second, plain descriptor of the same file does not.
    use std::os::fd::AsRawFd;
    let mut plain = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    plain.seek(SeekFrom::Start(at))?;
    let mut head = Vec::new();
    plain.take(SECTOR).read_to_end(&mut head)?;
    Ok(head)
}

/// Types that the VMM would recognise, and then refuse for not being what it was told.
pub(super) fn other_type(head: &[u8], file: &File, size: u64) -> io::Result<Option<&'static str>> {
    if head.starts_with(b"vhdxfile") {
        return Ok(Some("VHDX"));
    }
    let last = size.saturating_sub(SECTOR);
    if size > SECTOR && sector(file, last)?.starts_with(b"conectix") {
        return Ok(Some("VHD"));
    }
    Ok(None)
}
