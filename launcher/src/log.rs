//! Where hawser's log and its errors go: standard error, for which nothing waits. A container runtime that has stopped reading
//! must not stop a guest, its DHCP, or SIGTERM.

use std::io::{Stderr, Write};
use std::sync::Mutex;
use std::time::Duration;

use hawser_linux::lossy::Lossy;

/// For a runtime that reads slowly, once.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// The log's writer: one for the whole process, so that it knows what was dropped.
pub fn writer() -> Mutex<Lossy<Stderr>> {
    Mutex::new(stderr())
}

fn stderr() -> Lossy<Stderr> {
    Lossy::new(std::io::stderr(), WRITE_TIMEOUT)
}

/// The whole chain of an error, and what to do about it. The exit code has the kind of it where this cannot be written.
pub fn error(failure: &crate::Failure) {
    let _ = stderr().write_all(format!("{failure}\n").as_bytes());
}
