//! Output that does not wait for its reader for ever. What a pipe, a socket or a terminal does not take within a bound is dropped,
//! and how much that was is written once something is taken again.

use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::SendFlags;

/// A pipe that can be written to has room for as much at least (PIPE_BUF, pipe(7)).
const CHUNK: usize = 4096;

/// Writes to `fd`, which stays as it is: others may have it too.
#[derive(Debug)]
pub struct Lossy<F> {
    fd: F,
    kind: FileType,
    /// How long the reader is waited for, while it reads.
    patience: Duration,
    /// The reader has not read for that long.
    stalled: bool,
    /// Bytes.
    dropped: u64,
}

impl<F: AsFd> Lossy<F> {
    pub fn new(fd: F, patience: Duration) -> Self {
        // What cannot be examined is treated as what needs the most care.
        let kind = fstat(&fd).map_or(FileType::CharacterDevice, |stat| {
            FileType::from_raw_mode(stat.st_mode)
        });
        Self {
            fd,
            kind,
            patience,
            stalled: false,
            dropped: 0,
        }
    }

    /// Writes what is taken in time, and returns how much that is.
    fn offer(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut patience = if self.stalled {
            Duration::ZERO
        } else {
            self.patience
        };
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            let started = Instant::now();
            let now = match self.is_ready(patience)? {
                true => self.write_now(rest.get(..CHUNK).unwrap_or(rest))?,
                false => 0,
            };
            written = written.saturating_add(now);
            if now == 0 {
                self.stalled = true;
                return Ok(written);
            }
            patience = patience.saturating_sub(started.elapsed());
        }
        self.stalled = false;
        Ok(written)
    }

    fn is_ready(&self, patience: Duration) -> io::Result<bool> {
        if self.kind == FileType::RegularFile {
            return Ok(true);
        }
        let end = Instant::now().checked_add(patience);
        loop {
            let left = end.map_or(Duration::ZERO, |end| {
                end.saturating_duration_since(Instant::now())
            });
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Another writer may have taken the room since: where the kernel can, it is told not to wait.
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self.kind {
            FileType::Fifo => {
                let slices = [IoSlice::new(bytes)];
                match rustix::io::pwritev2(&self.fd, &slices, u64::MAX, ReadWriteFlags::NOWAIT) {
                    // Before Linux 6.4.
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::SPIPE) => {
                        rustix::io::write(&self.fd, bytes)
                    }
                    other => other,
                }
            }
            FileType::Socket => rustix::net::send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            _ => rustix::io::write(&self.fd, bytes),
        };
        match written {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            written => Ok(written?),
        }
    }
}

impl<F: AsFd> Write for Lossy<F> {
    /// Takes all of it; what the reader does not, is dropped.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.dropped > 0 {
            let note = format!(
                "\n[{} bytes were dropped: nothing read them in time]\n",
                self.dropped
            );
            if self.offer(note.as_bytes())? < note.len() {
                self.dropped = self.dropped.saturating_add(bytes.len() as u64);
                return Ok(bytes.len());
            }
            self.dropped = 0;
        }
        let written = self.offer(bytes)?;
        let rest = bytes.len().saturating_sub(written);
        self.dropped = self.dropped.saturating_add(rest as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn drain(reader: &mut io::PipeReader, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        reader.read_exact(&mut read).unwrap();
        read
    }

    #[test]
    fn a_reader_that_stops_is_waited_for_once_and_told_what_it_missed() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut lossy = Lossy::new(writer, Duration::from_millis(200));
        let began = Instant::now();
        let line = [b'x'; 1000];
        for _ in 0..1000 {
            lossy.write_all(&line).unwrap();
        }
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(2),
            "{took:?} for writes that nobody read"
        );
        // A pipe holds 64 KiB (pipe(7)).
        let held = 1_000_000 - usize::try_from(lossy.dropped).unwrap();
        assert!((60_000..=66_000).contains(&held), "{held}");
        assert_eq!(drain(&mut reader, held), vec![b'x'; held]);
        lossy.write_all(b"back\n").unwrap();
        drop(lossy);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let missed = 1_000_000 - held;
        assert_eq!(
            rest,
            format!("\n[{missed} bytes were dropped: nothing read them in time]\nback\n")
        );
    }

    #[test]
    fn a_slow_reader_misses_nothing() {
        let (mut reader, writer) = io::pipe().unwrap();
        let read = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut chunk = [0; 8192];
            while let Ok(read @ 1..) = reader.read(&mut chunk) {
                all.extend_from_slice(chunk.get(..read).unwrap());
                std::thread::sleep(Duration::from_millis(1));
            }
            all.len()
        });
        let mut lossy = Lossy::new(writer, Duration::from_secs(10));
        for _ in 0..300 {
            lossy.write_all(&[b'x'; 1000]).unwrap();
        }
        drop(lossy);
        assert_eq!(read.join().unwrap(), 300_000);
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let error = Lossy::new(writer, Duration::ZERO).write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_socket_and_a_file() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut lossy = Lossy::new(one, Duration::ZERO);
        for _ in 0..1000 {
            lossy.write_all(&[b'x'; 1000]).unwrap();
        }
        assert!(lossy.dropped > 0);
        drop(other);
        let file = tempfile::tempfile().unwrap();
        let mut lossy = Lossy::new(file, Duration::ZERO);
        for _ in 0..1000 {
            lossy.write_all(&[b'x'; 1000]).unwrap();
        }
        assert_eq!(lossy.dropped, 0);
    }
}
