//! `hawser status` and `hawser migrate`: they ask the launcher of this pod, and print what it answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Answer, Order, Request, board};
use crate::error::{ExitCode, Failure};
use crate::status::Status;

/// A connection over which this was asked.
pub(crate) fn connect(vmm_dir: &Path, request: &Request) -> Result<UnixStream, Failure> {
    let path = super::path(vmm_dir);
    let fail = |error: std::io::Error| {
        Failure::new(
            ExitCode::PodUnfit,
            format!("no launcher answers at {}", path.display()),
        )
        .because(error)
        .remedy("run this in the container of a running hawser run, with the same --state-dir, as root or as its user")
    };
    let mut stream = UnixStream::connect(&path).map_err(fail)?;
    let mut line = serde_json::to_vec(request).map_err(|error| fail(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(fail)?;
    Ok(stream)
}

fn ask(vmm_dir: &Path, request: &Request) -> Result<impl Iterator<Item = std::io::Result<Answer>>, Failure> {
    Ok(BufReader::new(connect(vmm_dir, request)?)
        .lines()
        .map(|line| line.and_then(|line| serde_json::from_str(&line).map_err(std::io::Error::other))))
}

/// The status of a launcher that runs.
pub(crate) fn live(vmm_dir: &Path) -> Result<Status, Failure> {
    match ask(vmm_dir, &Request::Status)?.next() {
        Some(Ok(Answer::Status(status))) => Ok(*status),
        _ => Err(Failure::new(ExitCode::Internal, "the launcher did not answer")),
    }
}

/// Prints the status as JSON: the launcher's own, or the last one of a launcher that has ended.
pub(crate) fn status(vmm_dir: &Path) -> Result<ExitCode, Failure> {
    let status = match live(vmm_dir) {
        Ok(status) => status,
        Err(failure) => board::read(vmm_dir).map_err(|_| failure)?,
    };
    let text = serde_json::to_string_pretty(&status)
        .map_err(|error| Failure::new(ExitCode::Internal, "the status").because(error))?;
    println!("{text}");
    Ok(ExitCode::Success)
}

/// Has the guest moved, and prints how it goes, a line each step.
pub(crate) fn migrate(vmm_dir: &Path, order: Option<Order>) -> Result<ExitCode, Failure> {
    let request = order.map_or(Request::Cancel, Request::Migrate);
    for answer in ask(vmm_dir, &request)? {
        match answer {
            Ok(Answer::Progress { step, text }) => println!("{step}: {text}"),
            Ok(Answer::Ended { migrated: true, text }) => {
                println!("migrated: {text}");
                return Ok(ExitCode::Success);
            }
            Ok(Answer::Ended { text, .. }) => return Err(Failure::new(ExitCode::HandOff, text)),
            Ok(Answer::Status(_) | Answer::Attached { .. }) => {}
            Err(error) => {
                return Err(Failure::new(ExitCode::HandOff, "the launcher's answer").because(error));
            }
        }
    }
    Err(Failure::new(
        ExitCode::HandOff,
        "the launcher exited without reporting the result of the migration",
    )
    .remedy("ask hawser status in this container, or at the target"))
}
