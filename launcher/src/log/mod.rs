//! Where hawser's log and its errors go: standard error, for which nothing waits. A container runtime that has stopped reading
//! must not stop a guest, its DHCP, or SIGTERM.

mod json;
mod recent;

use std::io::{Stderr, Write};
use std::sync::Mutex;
use std::time::Duration;

use hawser_linux::lossy::Lossy;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub(crate) use recent::{attach, counts};

/// For a runtime that reads slowly, once.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Time, level, text, fields.
    #[default]
    Text,
    /// An object a line: time, level, event, message, fields.
    Json,
}

/// Begins to log. `HAWSER_LOG` says what; stdout is the guest's console, or the data that was asked for.
pub fn begin(format: Format) {
    let filter = EnvFilter::try_from_env("HAWSER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer())
        .with_target(false)
        .with_ansi(false)
        // A line that cannot be written must not end the guest: the crate would report it by eprintln!, which panics.
        .log_internal_errors(false);
    let kept = tracing_subscriber::registry().with(filter).with(recent::Keep);
    match format {
        Format::Text => kept.with(layer).init(),
        Format::Json => kept.with(layer.event_format(json::Lines)).init(),
    }
}

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
