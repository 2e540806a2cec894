//! cloud-hypervisor's standard error: its log, and at its end the error that ended it. Everything is copied as it comes.
//! The last bytes are kept, because nothing else answers one question.
//!
//! While cloud-hypervisor sends a guest, its control loop does not have the VM, and every end of the guest is an error
//! there. The process then ends with the exit code of a failure, also where the guest has powered off; the chain of errors
//! that it prints says which of the two it was ([`crate::assumptions`]).

use std::io::{self, PipeReader, Read, Write};
use std::thread::JoinHandle;
use std::time::Duration;

use hawser_linux::lossy::Lossy;

pub use crate::assumptions::GuestEnd;
use crate::assumptions::guest_end;

/// For whoever reads standard error.
const READER_TIMEOUT: Duration = Duration::from_millis(100);
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
            .spawn(move || copy(from, Lossy::new(io::stderr(), READER_TIMEOUT)));
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
        last.drain(..last.len().saturating_sub(MAX_KEPT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assumptions::tests::chain;

    #[test]
    fn what_is_written_is_passed_on_and_the_last_of_it_kept() {
        let mut shown = Vec::new();
        let long = "x".repeat(3 * MAX_KEPT) + &chain("Error rebooting VM");
        let last = copy(long.as_bytes(), &mut shown);
        assert_eq!(shown, long.as_bytes());
        assert_eq!(last.len(), MAX_KEPT);
        assert_eq!(guest_end(&String::from_utf8_lossy(&last)), Some(GuestEnd::Reboot));
    }
}
