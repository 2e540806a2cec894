//! A guest that writes its disk without pause, and the locks that the VMM holds on its disks.
//!
//! As cloud-hypervisor 53 does it: a lock on each disk (F_OFD_SETLK, over the whole file) when a VM boots and when it is
//! restored; released when a migration has paused the VM, and not taken again by a source whose migration failed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use serde::Deserialize;
use serde_json::Value;

use super::record::{RECORD, Record};

/// What a direct write has to be aligned to, at most.
const ALIGNMENT: usize = 4096;

#[derive(Debug, Deserialize)]
struct Disk {
    path: String,
    #[serde(default)]
    readonly: bool,
    #[serde(default)]
    direct: bool,
}

fn disks(config: &Value) -> Vec<Disk> {
    let all = config.as_array().cloned().unwrap_or_default();
    all.into_iter()
        .filter_map(|disk| serde_json::from_value(disk).ok())
        .collect()
}

/// Locks every disk, for as long as the files are open.
pub(super) fn lock_all(config: &Value) -> Result<Vec<File>> {
    let mut locked = Vec::new();
    for disk in disks(config) {
        let file = OpenOptions::new()
            .read(true)
            .write(!disk.readonly)
            .open(&disk.path)
            .with_context(|| disk.path.clone())?;
        let kind = if disk.readonly {
            libc::F_RDLCK
        } else {
            libc::F_WRLCK
        };
        let whole = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)).with_context(|| format!("cannot lock {}", disk.path))?;
        locked.push(file);
    }
    Ok(locked)
}

/// The guest's writes to its first disk that it can write. Dropped, it has finished the last one.
#[derive(Debug)]
pub(super) struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    /// `memory` has the last record that the guest wrote.
    pub(super) fn start(config: &Value, memory: Arc<Mutex<Record>>) -> Result<Self> {
        let disk = disks(config).into_iter().find(|disk| !disk.readonly);
        let disk = disk.context("the guest is to write a disk and has none that it can write")?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if disk.direct {
            options.custom_flags(libc::O_DIRECT);
        }
        let file = options.open(&disk.path).with_context(|| disk.path.clone())?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if let Err(error) = write_next(&file, &memory) {
                    eprintln!("standin-vmm: the guest's disk: {error:#}");
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_next(file: &File, memory: &Mutex<Record>) -> Result<()> {
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = vec![0; ALIGNMENT + RECORD];
    let at = buffer.as_ptr().align_offset(ALIGNMENT);
    let sector = buffer.get_mut(at..at + RECORD).context("alignment")?;
    if memory.number > 0 {
        file.read_exact_at(sector, memory.offset())?;
        let found = Record::of(sector);
        if found != Some(*memory) {
            bail!(
                "not as the guest left it: expected record {}, found {found:?}",
                memory.text()
            );
        }
    }
    let next = memory.next(u64::from(std::process::id()));
    next.put(sector);
    file.write_all_at(sector, next.offset())?;
    *memory = next;
    Ok(())
}
