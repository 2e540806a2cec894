//! What cloud-hypervisor writes to standard error: its log, and at last why it ended. It is passed on as it comes; its
//! last words are kept, because one question is answered by nothing else.
//!
//! While cloud-hypervisor 53 sends a guest, its control loop does not have the VM, and every end that the guest may come
//! to is an error there: `vmm/src/lib.rs` has it as a follow-up. The process then ends with the exit code of a failure,
//! also where the guest has powered off; the chain that it prints says which of the two it was.

use std::io::{self, PipeReader, Read, Write};
use std::thread::JoinHandle;
use std::time::Duration;

/// More than the chain of errors takes.
const LAST_WORDS: usize = 4096;
/// For what a process that has ended has written to be read.
const PATIENCE: Duration = Duration::from_secs(2);

/// A thread, as for the console: only blocking writes suit whatever standard error is.
#[derive(Debug)]
pub struct Log(Option<JoinHandle<Vec<u8>>>);

/// What the guest did that cloud-hypervisor could not carry out, since it was sending it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEnd {
    ShutDown,
    Reboot,
}

impl Log {
    /// Copies until the VMM closes its end.
    pub fn pass_on(from: PipeReader) -> Self {
        let spawned = std::thread::Builder::new()
            .name("vmm-log".into())
            .stack_size(128 << 10)
            .spawn(move || copy(from, io::stderr()));
        if let Err(error) = &spawned {
            tracing::error!("cloud-hypervisor's log cannot be shown: {error}");
        }
        Self(spawned.ok())
    }

    /// Of a process that has ended: why, if it was the guest's end in the middle of a migration.
    pub async fn guest_end(&mut self) -> Option<GuestEnd> {
        let thread = self.0.take()?;
        let joined = tokio::task::spawn_blocking(move || thread.join().unwrap_or_default());
        let last = tokio::time::timeout(PATIENCE, joined).await.ok()?.ok()?;
        guest_end(&String::from_utf8_lossy(&last))
    }
}

impl Log {
    /// Of a process that has ended: waits until everything is passed on.
    pub async fn finish(mut self) {
        let _ = self.guest_end().await;
    }
}

fn copy(mut from: impl Read, mut out: impl Write) -> Vec<u8> {
    let mut last = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let bytes = match from.read(&mut buffer) {
            Ok(0) => return last,
            Ok(read) => buffer.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return last,
        };
        // Nobody to show it to is no reason to have the VMM wait.
        let _ = out.write_all(bytes);
        last.extend_from_slice(bytes);
        last.drain(..last.len().saturating_sub(LAST_WORDS));
    }
}

/// As cloud-hypervisor 53 prints it: `Error::VmmShutdown` or `Error::VmReboot`, because of `VmError::VmMigrating`.
fn guest_end(last_words: &str) -> Option<GuestEnd> {
    let mut before = "";
    for line in last_words.lines() {
        if line.ends_with(": VM is currently migrating and can't be modified") {
            if before.ends_with(": Error shutting down VMM") {
                return Some(GuestEnd::ShutDown);
            }
            if before.ends_with(": Error rebooting VM") {
                return Some(GuestEnd::Reboot);
            }
        }
        before = line;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen with cloud-hypervisor 53.
    fn chain(what: &str) -> String {
        format!(
            "cloud-hypervisor:  14.911577s: <migration-worker> WARN:vmm/src/cpu.rs:823 -- vCPU thread did not respond in 990ms to signal - retrying\n\
             Error: Cloud Hypervisor exited with the following chain of errors:\n  0: VMM thread exited with error\n  1: {what}\n  \
             2: VM is currently migrating and can't be modified\n"
        )
    }

    #[test]
    fn the_guests_end_is_told_from_failures() {
        assert_eq!(
            guest_end(&chain("Error shutting down VMM")),
            Some(GuestEnd::ShutDown)
        );
        assert_eq!(guest_end(&chain("Error rebooting VM")), Some(GuestEnd::Reboot));
        assert_eq!(guest_end(&chain("Error activating virtio devices")), None);
        let refused = "[\"Error from API\",\"VM is currently migrating and can't be modified\"]\n";
        assert_eq!(guest_end(refused), None, "an answer to a request");
        assert_eq!(guest_end(""), None);
    }

    #[test]
    fn what_is_written_is_passed_on_and_the_last_of_it_kept() {
        let mut shown = Vec::new();
        let long = "x".repeat(3 * LAST_WORDS) + &chain("Error rebooting VM");
        let last = copy(long.as_bytes(), &mut shown);
        assert_eq!(shown, long.as_bytes());
        assert_eq!(last.len(), LAST_WORDS);
        assert_eq!(guest_end(&String::from_utf8_lossy(&last)), Some(GuestEnd::Reboot));
    }
}
