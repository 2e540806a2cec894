use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use nix::fcntl::{FallocateFlags, fallocate};
use tokio::sync::mpsc;

use super::receive::Receiver;
use super::scan::{Found, Scan, Stopped};
use super::wire::{self, BLOCK, Frame};
use super::*;

const SIZE: u64 = 40 * BLOCK as u64 + 512;

fn disk(dir: &Path, direct: bool) -> CopiedDisk {
    std::fs::create_dir_all(dir).unwrap();
    let path = dir.join("data.img");
    File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    CopiedDisk {
        name: "data".into(),
        path,
        direct,
    }
}

/// Scanned, and taken by a target of its own over a connection.
struct Pair {
    scan: Option<Scan>,
    stream: tokio::io::DuplexStream,
}

impl Pair {
    fn new(source: &CopiedDisk, target: &CopiedDisk) -> (Self, Receiver) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let receiver = Receiver::new(vec![target.clone()]);
        tokio::spawn(receiver.clone().serve(Box::new(theirs)));
        let scan = Scan::new(std::slice::from_ref(source)).unwrap();
        let this = Self {
            scan: Some(scan),
            stream: ours,
        };
        (this, receiver)
    }

    async fn round(&mut self, last: bool) -> Found {
        let (sender, mut frames) = mpsc::channel(4);
        let mut scan = self.scan.take().unwrap();
        let scanning = tokio::task::spawn_blocking(move || {
            let found = scan.round(&sender, &AtomicBool::new(true)).unwrap();
            (scan, found)
        });
        while let Some(frame) = frames.recv().await {
            wire::write(&mut self.stream, &frame).await.unwrap();
        }
        wire::write(&mut self.stream, &Frame::End { last }).await.unwrap();
        wire::answered(&mut self.stream).await.unwrap().unwrap();
        let (scan, found) = scanning.await.unwrap();
        self.scan = Some(scan);
        found
    }
}

#[tokio::test]
async fn what_the_guest_writes_between_rounds_and_frees_is_at_the_target() {
    for direct in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let source = disk(&dir.path().join("source"), direct);
        let target = disk(&dir.path().join("target"), direct);
        let file = File::options().read(true).write(true).open(&source.path).unwrap();
        let same = || {
            let read = |disk: &CopiedDisk| std::fs::read(&disk.path).unwrap();
            assert!(read(&source) == read(&target), "direct: {direct}");
        };
        let (mut pair, receiver) = Pair::new(&source, &target);
        // At the beginning, across two blocks in the middle, and the last bytes.
        for (at, bytes) in [
            (0, vec![1; 512]),
            (9 * BLOCK as u64 - 512, vec![2; 1024]),
            (SIZE - 512, vec![3; 512]),
        ] {
            file.write_all_at(&bytes, at).unwrap();
        }
        let found = pair.round(false).await;
        assert_eq!(found.changed, 3 * BLOCK as u64 + 512);
        same();
        assert_eq!(pair.round(false).await.changed, 0);
        assert!(!receiver.is_complete());
        // One is changed and changed back, one is changed, and one is freed.
        file.write_all_at(&[9], 5).unwrap();
        file.write_all_at(&[1], 5).unwrap();
        file.write_all_at(&[7], SIZE - 1).unwrap();
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let _ = fallocate(&file, hole, 8 * BLOCK as i64, 2 * BLOCK as i64);
        file.write_all_at(&vec![0; 2 * BLOCK], 8 * BLOCK as u64).unwrap();
        assert_eq!(pair.round(true).await.changed, 2 * BLOCK as u64 + 512);
        same();
        assert!(receiver.is_complete());
        let taken = std::fs::metadata(&target.path).unwrap().blocks() * 512;
        assert!(taken < SIZE / 2, "what was zero takes no room: {taken}");
    }
}

#[tokio::test]
async fn a_target_takes_no_block_that_is_not_of_its_disks_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let data = |disk, at| Frame::Data {
        disk,
        at,
        bytes: vec![1; 512],
    };
    for (frame, why) in [
        (data(1, 0), "a block of disk 1"),
        (data(0, SIZE - 511), "disk data: a block at"),
        (data(0, u64::MAX), "disk data: a block at"),
        (
            Frame::Zero {
                disk: 0,
                at: SIZE,
                length: 1,
            },
            "disk data: a block at",
        ),
    ] {
        let target = disk(dir.path(), false);
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let receiver = Receiver::new(vec![target.clone()]);
        tokio::spawn(receiver.clone().serve(Box::new(theirs)));
        wire::write(&mut ours, &frame).await.unwrap();
        // What is said after it is not taken for the end.
        wire::write(&mut ours, &Frame::End { last: true }).await.unwrap();
        let answer = wire::answered(&mut ours).await.unwrap().unwrap_err();
        assert!(answer.starts_with(why), "{answer}");
        assert!(!receiver.is_complete());
        assert_eq!(std::fs::metadata(&target.path).unwrap().len(), SIZE);
    }
}

#[test]
fn a_round_that_nobody_wants_any_more_ends() {
    let dir = tempfile::tempdir().unwrap();
    let source = disk(dir.path(), false);
    std::fs::write(&source.path, vec![1; SIZE as usize]).unwrap();
    let mut scan = Scan::new(&[source]).unwrap();
    let (sender, receiver) = mpsc::channel(1);
    let stopped = scan.round(&sender, &AtomicBool::new(false));
    assert!(matches!(stopped, Err(Stopped::Unwanted)), "{stopped:?}");
    drop(receiver);
    let stopped = scan.round(&sender, &AtomicBool::new(true));
    assert!(matches!(stopped, Err(Stopped::Unwanted)), "{stopped:?}");
}
