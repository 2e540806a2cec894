//! Nobody may be reading what hawser says: its exit code is the same then.

#![allow(clippy::unwrap_used)]

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

#[test]
fn an_error_that_cannot_be_written_keeps_its_exit_code() {
    // Every write to it fails with ENOSPC (null(4)).
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_hawser"))
        .args(["plan", "--vmi", "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(3), "a panic would end with 101");
}
