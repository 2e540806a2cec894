//! cloud-hypervisor's standard error: its log, and at its end the error that ended it. Its lines are copied, escaped, and
//! no more than a bound in each second: a guest can have it write, at the rate of its exits, what it was surprised by. The
//! last bytes are kept as they came, because nothing else answers one question.
//!
//! While cloud-hypervisor sends a guest, its control loop does not have the VM, and every end of the guest is an error
//! there. The process then ends with the exit code of a failure, also where the guest has powered off; the chain of errors
//! that it prints says which of the two it was ([`crate::assumptions`]).

use std::collections::VecDeque;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hawser_linux::lines::Lines;
use hawser_linux::lossy::Lossy;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use crate::assumptions::GuestEnd;
use crate::assumptions::guest_end;

/// For whoever reads standard error.
const READER_TIMEOUT: Duration = Duration::from_millis(100);
/// Lines that are shown of those that come within `SECOND`.
const MAX_LINES: u32 = 50;
/// Lines before the end that are shown whatever came before them: the chain of errors is among them.
const MAX_LAST: usize = 15;
const SECOND: Duration = Duration::from_secs(1);
/// Bytes; more than the chain of errors takes.
const MAX_KEPT: usize = 4096;
/// To read what a process that has ended has written.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// A thread, as for the console.
#[derive(Debug)]
pub struct Log(Option<JoinHandle<Vec<u8>>>);

impl Log {
    /// Copies until the VMM closes its end.
    pub fn pass_on(from: PipeReader) -> Self {
        let spawned = std::thread::Builder::new()
            .name("vmm-log".into())
            .stack_size(128 << 10)
            .spawn(move || copy(from, Lossy::new(io::stderr(), READER_TIMEOUT), log_omitted));
        if let Err(error) = &spawned {
            tracing::error!(
                event = "vmm-log-lost",
                "cannot copy cloud-hypervisor's log: {error}"
            );
        }
        Self(spawned.ok())
    }

    /// Of a process that has ended: why, if it was the guest's end in the middle of a migration.
    pub async fn guest_end(&mut self) -> Option<GuestEnd> {
        let thread = self.0.take()?;
        let joined = tokio::task::spawn_blocking(move || thread.join().unwrap_or_default());
        let last = tokio::time::timeout(READ_TIMEOUT, joined).await.ok()?.ok()?;
        guest_end(&String::from_utf8_lossy(&last))
    }
}

impl Log {
    /// Of a process that has ended: waits until everything is passed on.
    pub async fn finish(mut self) {
        let _ = self.guest_end().await;
    }
}

fn log_omitted(lines: u64) {
    tracing::warn!(
        event = "vmm-log-omitted",
        lines,
        "{lines} lines of cloud-hypervisor's log were left out: it wrote more than {MAX_LINES} in a second"
    );
}

/// How many lines are shown.
#[derive(Debug, Default)]
struct Rate {
    /// When the first of a second's lines came.
    began: Option<Instant>,
    shown: u32,
    omitted: u64,
}

impl Rate {
    /// Whether a line that comes now is shown.
    fn shows(&mut self, now: Instant) -> bool {
        if self.rest(now).is_none() {
            (self.began, self.shown) = (Some(now), 0);
        }
        let shows = self.shown < MAX_LINES;
        match shows {
            true => self.shown = self.shown.saturating_add(1),
            false => self.omitted = self.omitted.saturating_add(1),
        }
        shows
    }

    /// What is left of the second at hand.
    fn rest(&self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.began?);
        SECOND.checked_sub(passed).filter(|rest| !rest.is_zero())
    }

    /// For how long more lines are waited for before it is said how many were left out.
    fn patience(&self, now: Instant) -> Option<Duration> {
        (self.omitted > 0).then(|| self.rest(now).unwrap_or_default())
    }
}

fn copy(mut from: PipeReader, mut out: impl Write, mut tell_omitted: impl FnMut(u64)) -> Vec<u8> {
    let mut last = Vec::new();
    let mut lines = Lines::default();
    let mut rate = Rate::default();
    // Of those that were left out.
    let mut held = VecDeque::new();
    let mut buffer = [0; 4096];
    loop {
        let patience = rate.patience(Instant::now());
        if patience == Some(Duration::ZERO) || patience.is_some_and(|patience| !is_readable(&from, patience))
        {
            tell_omitted(std::mem::take(&mut rate.omitted));
            held.clear();
        }
        let bytes = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => buffer.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        last.extend_from_slice(bytes);
        last.drain(..last.len().saturating_sub(MAX_KEPT));
        for line in bytes.iter().filter_map(|byte| lines.push(*byte)) {
            if rate.shows(Instant::now()) {
                show(&mut out, line);
                continue;
            }
            if held.len() >= MAX_LAST {
                held.pop_front();
            }
            held.push_back(line);
        }
    }
    let omitted = rate.omitted.saturating_sub(held.len() as u64);
    if omitted > 0 {
        tell_omitted(omitted);
    }
    for line in held.into_iter().chain(lines.finish()) {
        show(&mut out, line);
    }
    last
}

/// Nobody to show it to is no reason to have the VMM wait.
fn show(out: &mut impl Write, mut line: String) {
    line.push('\n');
    let _ = out.write_all(line.as_bytes());
}

/// Whether there is something to read, or an end, within this time.
fn is_readable(from: &PipeReader, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    let mut polled = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, timeout).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assumptions::tests::chain;

    /// What is shown, and kept, of what a VMM writes, and how many lines are left out.
    fn copied(text: &str) -> (String, Vec<u8>, u64) {
        let (from, mut to) = io::pipe().unwrap();
        let text = text.to_owned();
        let writer = std::thread::spawn(move || to.write_all(text.as_bytes()).unwrap());
        let (mut shown, mut omitted) = (Vec::new(), 0);
        let last = copy(from, &mut shown, |lines| omitted += lines);
        writer.join().unwrap();
        (String::from_utf8(shown).unwrap(), last, omitted)
    }

    #[test]
    fn what_is_written_is_passed_on_and_the_last_of_it_kept() {
        let long = format!("{}\n", "x".repeat(500)).repeat(10) + &chain("Error rebooting VM");
        let (shown, last, omitted) = copied(&long);
        assert_eq!((shown.trim_end(), omitted), (long.trim_end(), 0));
        assert_eq!(last.len(), MAX_KEPT);
        assert_eq!(guest_end(&String::from_utf8_lossy(&last)), Some(GuestEnd::Reboot));
    }

    #[test]
    fn a_guest_that_has_it_write_neither_floods_the_log_nor_writes_to_the_terminal() {
        let count = 100_000;
        let chain = chain("Error rebooting VM");
        let (shown, _, omitted) = copied(&("\x1b[2Jwarning\n".repeat(count) + &chain));
        let mut lines: Vec<_> = shown.lines().collect();
        assert!(shown.ends_with(&chain), "{shown}");
        lines.truncate(lines.len() - chain.lines().count());
        assert!((50..=50 * 10).contains(&lines.len()), "{} lines", lines.len());
        assert!(lines.iter().all(|line| *line == "\\u{1b}[2Jwarning"));
        assert_eq!(lines.len() as u64 + omitted, count as u64);
    }

    #[test]
    fn what_was_left_out_is_said_when_the_second_is_over() {
        let (from, mut to) = io::pipe().unwrap();
        let (told, omitted) = std::sync::mpsc::channel();
        let copying = std::thread::spawn(move || copy(from, io::sink(), |lines| told.send(lines).unwrap()));
        to.write_all("line\n".repeat(60).as_bytes()).unwrap();
        assert_eq!(
            omitted.recv_timeout(Duration::from_secs(10)),
            Ok(10),
            "while it goes on"
        );
        drop(to);
        copying.join().unwrap();
        assert!(omitted.recv().is_err(), "once");
    }
}
