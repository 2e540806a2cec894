//! The verbs of the command line that ask the launcher of this pod, and print what it answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::routes::{CONSOLE, KEYBOARD, Route, VSOCK, VSOCK_PORT};
use super::{Answer, Order, Refused, Verb, board, http};
use crate::console::Keyboard;
use crate::error::{ExitCode, Failure};
use crate::status::Status;

/// Bytes of an answer's head.
const MAX_HEAD: u64 = 16 << 10;

/// A connection that carries the guest's console from here on.
pub(crate) struct Talk {
    pub(crate) stream: UnixStream,
    /// What came already, and then the connection.
    pub(crate) reading: BufReader<UnixStream>,
    pub(crate) keyboard: Keyboard,
}

/// An answer whose body is not read yet.
struct Reply {
    code: u16,
    /// The value of the header that was asked for.
    header: Option<String>,
    body: BufReader<UnixStream>,
}

fn lost(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::new(ExitCode::Internal, "the launcher's answer").because(io::Error::other(error))
}

/// Asks the launcher. `header` is the header of the answer that matters.
fn ask(
    vmm_dir: &Path,
    (method, target): (&str, &str),
    upgrade: Option<&str>,
    body: &[u8],
    header: &str,
) -> Result<(UnixStream, Reply), Failure> {
    let path = super::path(vmm_dir);
    let fail = |error: io::Error| {
        Failure::new(
            ExitCode::PodUnfit,
            format!("no launcher answers at {}", path.display()),
        )
        .because(error)
        .remedy("run this in the container of a running hawser run, with the same --state-dir, as root or as its user")
    };
    let mut stream = UnixStream::connect(&path).map_err(fail)?;
    let upgrade = upgrade.map_or(String::new(), |protocol| {
        format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n")
    });
    let mut request = format!(
        "{method} {target} HTTP/1.1\r\nHost: hawser\r\n{upgrade}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.write_all(&request).map_err(fail)?;
    let mut body = BufReader::new(stream.try_clone().map_err(fail)?);
    let mut head = Vec::new();
    loop {
        let mut bounded = body.by_ref().take(MAX_HEAD.saturating_sub(head.len() as u64));
        if bounded.read_until(b'\n', &mut head).map_err(lost)? == 0 {
            return Err(Failure::new(ExitCode::Internal, "the launcher did not answer"));
        }
        if let Some((_, code, header)) = http::reply_head(&head, header).map_err(lost)? {
            return Ok((stream, Reply { code, header, body }));
        }
    }
}

impl Reply {
    /// Its body as JSON, or the reason why there is none, which is a failure with this exit code.
    fn json<T: serde::de::DeserializeOwned>(mut self, refused: ExitCode) -> Result<T, Failure> {
        let code = self.code;
        let mut text = Vec::new();
        self.body.read_to_end(&mut text).map_err(lost)?;
        if code == 200 {
            return serde_json::from_slice(&text).map_err(lost);
        }
        let why = serde_json::from_slice::<Refused>(&text)
            .map_or_else(|_| format!("HTTP status {code}"), |refused| refused.error);
        Err(Failure::new(refused, why))
    }
}

/// The status of a launcher that runs.
pub(crate) fn live(vmm_dir: &Path) -> Result<Status, Failure> {
    let (_, reply) = ask(vmm_dir, Route::Status.target(), None, b"", "")?;
    reply.json(ExitCode::Internal)
}

/// The launcher's own status, or the last one of a launcher that has ended.
pub(crate) fn status(vmm_dir: &Path) -> Result<Status, Failure> {
    live(vmm_dir).or_else(|failure| board::read(vmm_dir).map_err(|_| failure))
}

/// Has a verb carried out, and prints that it was.
pub(crate) fn operate(vmm_dir: &Path, verb: Verb) -> Result<ExitCode, Failure> {
    let (_, reply) = ask(vmm_dir, Route::Verb(verb).target(), None, b"", "")?;
    match reply.json(ExitCode::Vmm) {
        Ok(Answer::Done { text }) => {
            println!("{text}");
            Ok(ExitCode::Success)
        }
        Ok(_) => Err(lost("it is no answer to this")),
        Err(failure) => Err(failure),
    }
}

/// A connection to the guest's console.
pub(crate) fn console(vmm_dir: &Path, types: bool) -> Result<Talk, Failure> {
    let (method, path) = Route::Console.target();
    let target = match types {
        true => path.to_owned(),
        false => format!("{path}?read-only"),
    };
    let (stream, reply) = ask(vmm_dir, (method, &target), Some(CONSOLE), b"", KEYBOARD)?;
    match reply.header.as_deref().and_then(Keyboard::named) {
        Some(keyboard) => Ok(Talk {
            stream,
            reading: reply.body,
            keyboard,
        }),
        None => {
            let failure = match reply.json::<serde_json::Value>(ExitCode::Internal) {
                Ok(_) => lost("it does not say who types"),
                Err(failure) => failure,
            };
            Err(failure
                .remedy("attach with the hawser that runs the guest: another version knows other requests"))
        }
    }
}

/// A connection to this port of the guest's virtio socket: to write to, and to read from.
pub(crate) fn vsock_port(vmm_dir: &Path, port: u32) -> Result<(UnixStream, BufReader<UnixStream>), Failure> {
    let (method, path) = Route::Vsock.target();
    let target = format!("{path}?port={port}");
    let (stream, reply) = ask(vmm_dir, (method, &target), Some(VSOCK), b"", VSOCK_PORT)?;
    match reply.code {
        101 => Ok((stream, reply.body)),
        _ => match reply.json::<serde_json::Value>(ExitCode::Vmm) {
            Ok(_) => Err(lost("it is no answer to this")),
            Err(failure) => Err(failure),
        },
    }
}

/// Prints what the launcher has logged; with `follows` until it ends.
pub(crate) fn events(vmm_dir: &Path, follows: bool) -> Result<ExitCode, Failure> {
    let (method, path) = Route::Events.target();
    let target = match follows {
        true => format!("{path}?follow"),
        false => path.to_owned(),
    };
    let (_, reply) = ask(vmm_dir, (method, &target), None, b"", "")?;
    if reply.code != 200 {
        return reply
            .json::<serde_json::Value>(ExitCode::Internal)
            .and(Err(lost("no events")));
    }
    let mut out = io::stdout();
    for line in reply.body.lines() {
        let line = line.map_err(lost)?;
        // Whoever reads this may have read enough.
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(ExitCode::Success)
}

/// Has the guest moved, and prints how it goes, a line each step.
pub(crate) fn migrate(vmm_dir: &Path, order: Option<Order>) -> Result<ExitCode, Failure> {
    let (route, body) = match order {
        None => (Route::Cancel, Vec::new()),
        Some(order) => (Route::Migrate, serde_json::to_vec(&order).map_err(lost)?),
    };
    let (_, reply) = ask(vmm_dir, route.target(), None, &body, "")?;
    if reply.code != 200 {
        return Err(match reply.json::<serde_json::Value>(ExitCode::HandOff) {
            Ok(_) => lost("it is no answer to this"),
            Err(failure) => failure,
        });
    }
    for line in reply.body.lines() {
        let answer = line.and_then(|line| serde_json::from_str(&line).map_err(io::Error::other));
        match answer {
            Ok(Answer::Progress { step, text }) => println!("{step}: {text}"),
            Ok(Answer::Ended { migrated: true, text }) => {
                println!("migrated: {text}");
                return Ok(ExitCode::Success);
            }
            Ok(Answer::Ended { text, .. }) => return Err(Failure::new(ExitCode::HandOff, text)),
            Ok(Answer::Done { text }) => {
                println!("{text}");
                return Ok(ExitCode::Success);
            }
            Ok(Answer::Status(_) | Answer::Metrics { .. }) => {}
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
