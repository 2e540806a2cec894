//! Where a sparse file has data.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// The next bytes of `file` from `at` on that are no hole; none if nothing but a hole is left. A file system that knows no holes
/// has data everywhere.
pub(crate) fn next_data(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |at: u64, whence| {
        let at = i64::try_from(at).map_err(io::Error::other)?;
        match lseek(file, at, whence) {
            Ok(found) => Ok(u64::try_from(found).ok()),
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(io::Error::from(errno)),
        }
    };
    let Some(from) = seek(at, Whence::SeekData)? else {
        return Ok(None);
    };
    Ok(Some((from, seek(from, Whence::SeekHole)?.unwrap_or(size))))
}
