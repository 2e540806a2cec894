//! What the guest prints: to standard output, to a file of bounded size, and to whoever has attached.
//!
//! A thread, because standard output may be a file, a pipe or a terminal, and each is written to in its own way. One that is not
//! read is waited for once, and then left out: a guest that prints must not stand still for it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use hawser_linux::lossy::Lossy;
use nix::libc;

use super::Console;

/// For whoever reads standard output.
const READER_TIMEOUT: Duration = Duration::from_secs(1);
/// At this size the log moves to `console.log.1`: a guest that prints without end fills no disk.
const MAX_LOG: u64 = 8 << 20;

/// Copies until the VMM closes its end. Without a directory, nothing is logged: only whoever has attached sees it.
pub(crate) fn pump(
    console: PipeReader,
    directory: Option<&Path>,
    viewers: Console,
) -> Option<JoinHandle<()>> {
    let path = directory.map(|directory| directory.join("console.log"));
    let spawned = std::thread::Builder::new()
        .name("console".into())
        .stack_size(128 << 10)
        .spawn(move || {
            match path {
                Some(path) => {
                    let out = Lossy::new(io::stdout(), READER_TIMEOUT);
                    copy(console, &viewers, out, Log::open(path));
                }
                None => copy(console, &viewers, io::sink(), Log::none()),
            }
            viewers.close();
        });
    match spawned {
        Ok(thread) => Some(thread),
        Err(error) => {
            tracing::error!(
                event = "console-not-shown",
                "the guest's console cannot be shown: {error}"
            );
            None
        }
    }
}

fn copy(mut console: impl Read, viewers: &Console, mut out: impl Write, mut log: Log) {
    let mut buffer = [0; 4096];
    let mut shown = true;
    loop {
        let bytes = match console.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => buffer.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::error!(event = "console-broken", "the guest's console failed: {error}");
                return;
            }
        };
        viewers.print(bytes);
        if shown && let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
            tracing::warn!(
                event = "console-stdout-lost",
                "standard output was closed; the console is written to its file only: {error}"
            );
            shown = false;
        }
        log.write(bytes);
    }
}

struct Log {
    path: PathBuf,
    file: Option<File>,
    written: u64,
}

impl Log {
    fn none() -> Self {
        Self {
            path: PathBuf::new(),
            file: None,
            written: 0,
        }
    }

    fn open(path: PathBuf) -> Self {
        let file = open(&path);
        Self {
            path,
            file,
            written: 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.written >= MAX_LOG {
            let _ = fs::rename(&self.path, self.path.with_extension("log.1"));
            self.file = open(&self.path);
            self.written = 0;
        }
        if let Some(file) = &mut self.file {
            match file.write_all(bytes) {
                Ok(()) => self.written = self.written.saturating_add(bytes.len() as u64),
                Err(error) => {
                    tracing::warn!(
                        event = "console-log-failed",
                        "{}: {error}: the console is no longer written to the file",
                        self.path.display()
                    );
                    self.file = None;
                }
            }
        }
    }
}

/// Links are not followed: the directory is the VMM's to write.
fn open(path: &Path) -> Option<File> {
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path);
    opened
        .inspect_err(|error| {
            tracing::warn!(
                event = "console-log-failed",
                "{}: {error}: the console is not written to the file",
                path.display()
            )
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_shown_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut shown = Vec::new();
        copy(
            &b"boot\r\nlogin: "[..],
            &Console::default(),
            &mut shown,
            Log::open(path.clone()),
        );
        assert_eq!(shown, b"boot\r\nlogin: ");
        assert_eq!(fs::read(path).unwrap(), shown);
    }

    #[test]
    fn a_link_in_the_logs_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let path = dir.path().join("console.log");
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        copy(
            &b"overwritten"[..],
            &Console::default(),
            io::sink(),
            Log::open(path),
        );
        assert_eq!(fs::read(victim).unwrap(), b"precious");
    }

    #[test]
    fn an_endless_guest_fills_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let endless = io::repeat(b'x').take(3 * MAX_LOG);
        copy(endless, &Console::default(), io::sink(), Log::open(path));
        let kept: u64 = fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum();
        assert!(kept <= 2 * MAX_LOG + 4096, "{kept}");
    }
}
