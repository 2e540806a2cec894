//! HTTP/1.1 on the Unix socket, as much of it as the API's clients use: no chunked bodies, no pipelining.

use std::io::{self, BufRead, BufReader, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::{process, thread};

use anyhow::{Context, Result};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::json;

use super::script::Point;
use super::vm::{Refused, Vmm};

const BODY_LIMIT: usize = 51_200;

#[derive(Debug)]
struct Request {
    method: String,
    path: String,
    body: String,
    /// Descriptors that came with any of its bytes.
    files: Vec<OwnedFd>,
}

/// Serves until the process exits.
///
/// # Errors
/// The listening socket's.
pub(crate) fn serve(listener: &UnixListener, vmm: &Arc<Vmm>) -> Result<()> {
    // One request at a time, whatever the number of connections, as the real API thread has it.
    let turn = Arc::new(Mutex::new(()));
    for stream in listener.incoming() {
        let stream = stream.context("accept")?;
        let (vmm, turn) = (vmm.clone(), turn.clone());
        thread::spawn(move || {
            if let Err(error) = connection(&stream, &vmm, &turn) {
                eprintln!("standin-vmm: API: {error:#}");
            }
        });
    }
    Ok(())
}

fn connection(stream: &UnixStream, vmm: &Arc<Vmm>, turn: &Mutex<()>) -> Result<()> {
    let mut reader = BufReader::new(Receiving {
        stream,
        files: Vec::new(),
    });
    loop {
        match read_request(&mut reader)? {
            Read1::End => return Ok(()),
            Read1::Bad(why) => {
                respond(stream, 400, Some(&json!({ "error": why }).to_string()))?;
                return Ok(());
            }
            Read1::Request(request) => {
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                answer(stream, vmm, request)?;
            }
        }
    }
}

enum Read1 {
    End,
    Bad(String),
    Request(Request),
}

fn read_request(reader: &mut BufReader<Receiving<'_>>) -> Result<Read1> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(Read1::End);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(path), Some("HTTP/1.1" | "HTTP/1.0")) =
        (words.next(), words.next(), words.next())
    else {
        return Ok(Read1::Bad("Invalid request".to_owned()));
    };
    let (method, path) = (method.to_owned(), path.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or((header, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => match value.trim().parse() {
                Ok(parsed) => length = parsed,
                Err(_) => return Ok(Read1::Bad("Invalid Content-Length".to_owned())),
            },
            "transfer-encoding" => return Ok(Read1::Bad("Unsupported header: Transfer-Encoding".to_owned())),
            _ => {}
        }
    }
    if length > BODY_LIMIT {
        // Taken off the socket first: closing with it unread would reset the connection under the answer.
        io::copy(&mut reader.take(length as u64), &mut io::sink())?;
        return Ok(Read1::Bad("Request payload too large".to_owned()));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Read1::Request(Request {
        method,
        path,
        body: String::from_utf8_lossy(&body).into_owned(),
        files: std::mem::take(&mut reader.get_mut().files),
    }))
}

/// Bytes of a connection, and the descriptors that come with them (SCM_RIGHTS).
struct Receiving<'a> {
    stream: &'a UnixStream,
    files: Vec<OwnedFd>,
}

impl Read for Receiving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut space = nix::cmsg_space!([RawFd; 64]);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        for rights in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = rights {
                // SAFETY: the kernel has just made these for this process.
                let owned = descriptors
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                self.files.extend(owned);
            }
        }
        Ok(message.bytes)
    }
}

fn answer(stream: &UnixStream, vmm: &Arc<Vmm>, request: Request) -> Result<()> {
    let name = request.path.strip_prefix("/api/v1/").unwrap_or_default();
    vmm.script.stamp(name);
    vmm.listen_or_hang();
    if vmm.script.hang.iter().any(|hanging| hanging == name) {
        loop {
            thread::park();
        }
    }
    match name {
        "vm.create" => vmm.script.die_at(Point::Create),
        "vm.boot" => vmm.script.die_at(Point::Boot),
        _ => {}
    }
    if let Some(failure) = vmm.script.fail.get(name) {
        respond(stream, failure.status, Some(&failure.body))?;
        return Ok(());
    }
    let done = match (request.method.as_str(), name) {
        ("GET", "vmm.ping") => Ok(Some(json!({
            // The level of the API that is spoken here; the build says by what.
            "version": "v53.0",
            "build_version": "standin-vmm",
            "pid": process::id(),
            "features": [],
        }))),
        ("GET", "vm.info") => vmm.info().map(Some),
        ("GET", "vm.counters") => vmm.counters().map(Some),
        ("PUT", "vm.create") => vmm.create(&request.body).map(|()| None),
        ("PUT", "vm.add-net") => vmm.add_net(&request.body, request.files).map(|()| None),
        ("PUT", "vm.boot") => vmm.boot().map(|()| None),
        ("PUT", "vm.send-migration") => vmm.send_migration(&request.body).map(|()| None),
        ("PUT", "vm.receive-migration") => vmm.receive_migration(&request.body).map(|()| None),
        ("PUT", "vm.power-button") => vmm.power_button().map(|()| None),
        ("PUT", "vm.shutdown") => vmm.shutdown().map(|()| None),
        ("PUT", "vm.delete") => {
            vmm.delete();
            Ok(None)
        }
        ("PUT", "vmm.shutdown") => {
            respond(stream, 204, None)?;
            vmm.exit_as_guest_shutdown()
        }
        (
            _,
            "vmm.ping"
            | "vm.info"
            | "vm.counters"
            | "vm.create"
            | "vm.add-net"
            | "vm.boot"
            | "vm.power-button"
            | "vm.send-migration"
            | "vm.receive-migration"
            | "vm.shutdown"
            | "vm.delete"
            | "vmm.shutdown",
        ) => Err(Refused {
            status: 400,
            chain: vec!["Bad Request".to_owned()],
        }),
        _ => Err(Refused {
            status: 404,
            chain: vec!["Not Found".to_owned()],
        }),
    };
    match done {
        Ok(None) => respond(stream, 204, None)?,
        Ok(Some(body)) => respond(stream, 200, Some(&body.to_string()))?,
        Err(refused) => {
            let body = serde_json::to_string(&refused.chain)?;
            respond(stream, refused.status, Some(&body))?;
            return Ok(());
        }
    }
    vmm.after(name);
    Ok(())
}

fn respond(mut stream: &UnixStream, status: u16, body: Option<&str>) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        _ => "Internal Server Error",
    };
    let mut response =
        format!("HTTP/1.1 {status} {reason}\r\nServer: standin-vmm\r\nConnection: keep-alive\r\n");
    if let Some(body) = body {
        response.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    } else {
        response.push_str("\r\n");
    }
    stream.write_all(response.as_bytes())
}
