//! /proc/sys, which in a container is often there to read only.

use std::fs;
use std::io::Write;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

use crate::error::StepFailure;
use crate::observed::Sysctl;

/// Absent where the kernel or the namespace has no such setting. Asks whether it could be written without writing.
pub(super) fn read(path: &str) -> Option<Sysctl> {
    let value = fs::read_to_string(path).ok()?.trim().to_owned();
    // By what this process may do now: plain access(2) asks for the real uid without its capabilities.
    let writable = faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok();
    Some(Sysctl { value, writable })
}

pub(super) fn write(path: &str, value: &str) -> Result<(), StepFailure> {
    let attempt = || {
        fs::OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all(value.as_bytes())
    };
    attempt().map_err(|source| StepFailure::system(format!("write {value} to {path}"), source))
}
