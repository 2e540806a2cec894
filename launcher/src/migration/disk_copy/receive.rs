//! The target's end: writes what comes into the files that its VMM opens, or has open.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use tokio::sync::{mpsc, oneshot};

use super::CopiedDisk;
use super::wire::{self, BLOCK, Frame, invalid};
use crate::migration::channel::Stream;

/// Blocks that wait to be written.
const QUEUED: usize = 16;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

enum Work {
    Write(Frame),
    /// Tells that all before it is written.
    Written(oneshot::Sender<()>),
}

/// The disks of one migration at its target.
#[derive(Debug, Clone, Default)]
pub(in crate::migration) struct Receiver {
    disks: Vec<CopiedDisk>,
    complete: Arc<AtomicBool>,
}

impl Receiver {
    /// In the order in which the source numbers them.
    pub(in crate::migration) fn new(disks: Vec<CopiedDisk>) -> Self {
        Self {
            complete: Arc::new(AtomicBool::new(disks.is_empty())),
            disks,
        }
    }

    /// Whether the guest has its disks here, as they were when it was paused.
    pub(in crate::migration) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::SeqCst)
    }

    /// Takes all that comes. The source hears why it goes no further.
    pub(in crate::migration) async fn serve(self, mut stream: Box<dyn Stream>) {
        let Err(error) = self.take(&mut stream).await else {
            return;
        };
        tracing::warn!(
            event = "disk-copy-failed",
            "migration: the guest's disks do not arrive: {error}"
        );
        if wire::answer(&mut stream, Err(&error.to_string())).await.is_ok() {
            // It may be sending still; closed now, the connection would lose the answer.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    }

    async fn take(&self, stream: &mut Box<dyn Stream>) -> io::Result<()> {
        let (work, queue) = mpsc::channel(QUEUED);
        let disks = self.disks.clone();
        let writing = tokio::task::spawn_blocking(move || write_all(&disks, queue));
        let read = self.read(stream, work).await;
        // What could not be written is why nothing more was taken.
        writing.await.map_err(io::Error::other)??;
        read
    }

    async fn read(&self, stream: &mut Box<dyn Stream>, work: mpsc::Sender<Work>) -> io::Result<()> {
        let ended = || io::Error::other("the disks cannot be written any more");
        loop {
            match wire::read(stream).await? {
                Frame::End { last } => {
                    let (written, all) = oneshot::channel();
                    work.send(Work::Written(written)).await.map_err(|_| ended())?;
                    all.await.map_err(|_| ended())?;
                    self.complete.store(last, Ordering::SeqCst);
                    wire::answer(stream, Ok(())).await?;
                    if last {
                        return Ok(());
                    }
                }
                frame => work.send(Work::Write(frame)).await.map_err(|_| ended())?,
            }
        }
    }
}

struct Disk<'a> {
    name: &'a str,
    file: File,
    size: u64,
}

fn write_all(disks: &[CopiedDisk], mut queue: mpsc::Receiver<Work>) -> io::Result<()> {
    let named = |name: &str, error: io::Error| io::Error::new(error.kind(), format!("disk {name}: {error}"));
    let open = |disk| open(disk).map_err(|error| named(&disk.name, error));
    let disks = disks.iter().map(open).collect::<io::Result<Vec<_>>>()?;
    while let Some(work) = queue.blocking_recv() {
        let (number, at, length, bytes) = match work {
            Work::Written(written) => {
                let _ = written.send(());
                continue;
            }
            Work::Write(Frame::Data { disk, at, bytes }) => (disk, at, bytes.len() as u64, Some(bytes)),
            Work::Write(Frame::Zero { disk, at, length }) => (disk, at, u64::from(length), None),
            Work::Write(Frame::End { .. }) => continue,
        };
        let disk = disks
            .get(usize::from(number))
            .ok_or_else(|| invalid(format!("a block of disk {number}, which there is not")))?;
        if at.checked_add(length).is_none_or(|end| end > disk.size) {
            return Err(named(
                disk.name,
                invalid(format!("a block at {at}, beyond its end")),
            ));
        }
        let done = match bytes {
            Some(bytes) => disk.file.write_all_at(&bytes, at),
            None => zero(&disk.file, at, length),
        };
        done.map_err(|error| named(disk.name, error))?;
    }
    Ok(())
}

/// Never made here, and never through a link.
fn open(disk: &CopiedDisk) -> io::Result<Disk<'_>> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(&disk.path)?;
    let size = file.metadata()?.len();
    Ok(Disk {
        name: &disk.name,
        file,
        size,
    })
}

fn zero(file: &File, at: u64, length: u64) -> io::Result<()> {
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let signed = |number: u64| i64::try_from(number).map_err(io::Error::other);
    if fallocate(file, hole, signed(at)?, signed(length)?).is_ok() {
        return Ok(());
    }
    // Not every file system can. It is one block at most.
    let length = usize::try_from(length).unwrap_or(BLOCK);
    file.write_all_at(ZEROS.get(..length).unwrap_or(&ZEROS), at)
}
