//! Frames between the launcher's TAP and a guest port, until the guest ends.
//!
//! The two talk over a SOCK_SEQPACKET Unix socket, one message a frame, with a tag in front. A Unix socket by path
//! crosses network namespaces, which is what lets a VMM without capabilities reach the guest's one.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg, socket,
};
use serde::{Deserialize, Serialize};

use super::tap::VNET_HDR;

/// First byte of a message.
pub(crate) const FRAME: u8 = 0;
/// Guest port to VMM: a line for the console.
pub(crate) const CONSOLE: u8 = 1;
/// VMM to guest port: [`Nic`] as JSON, first of all.
pub(crate) const NIC: u8 = 2;

/// Larger than any frame of a TAP without offloads.
pub(crate) const BUFFER: usize = 65536 + 64;

/// What a guest sees of its NIC.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Nic {
    pub(crate) mac: String,
    pub(crate) mtu: Option<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) rx_frames: AtomicU64,
    pub(crate) rx_bytes: AtomicU64,
    pub(crate) tx_frames: AtomicU64,
    pub(crate) tx_bytes: AtomicU64,
}

/// # Errors
/// A port that nobody serves.
pub(crate) fn connect_port(path: &Path, nic: &Nic) -> Result<OwnedFd> {
    let port = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    connect(port.as_raw_fd(), &UnixAddr::new(path)?)
        .with_context(|| format!("guest port {}", path.display()))?;
    send_message(&port, NIC, &serde_json::to_vec(nic)?)?;
    Ok(port)
}

/// Drops what does not fit, like a cable: two ends that waited for each other would never wake up.
pub(crate) fn send_message(port: &impl AsRawFd, tag: u8, body: &[u8]) -> nix::Result<()> {
    let tag = [tag];
    let parts = [IoSlice::new(&tag), IoSlice::new(body)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    match sendmsg::<()>(port.as_raw_fd(), &parts, &[], flags, None) {
        Err(nix::Error::EAGAIN) => Ok(()),
        other => other.map(drop),
    }
}

/// Runs until the port hangs up, the TAP is gone, or `stop` is closed at its other end.
///
/// # Errors
/// What poll, the TAP or the port say.
pub(crate) fn run(
    queues: &[File],
    port: Option<&OwnedFd>,
    stop: &OwnedFd,
    counters: &Arc<Counters>,
    console: &dyn Fn(&str),
) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut wait = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        wait.extend(
            queues
                .iter()
                .map(|queue| PollFd::new(queue.as_fd(), PollFlags::POLLIN)),
        );
        wait.extend(port.map(|port| PollFd::new(port.as_fd(), PollFlags::POLLIN)));
        match poll(&mut wait, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            other => other?,
        };
        let mut ready = wait.iter().map(|fd| fd.any().unwrap_or(true));
        if ready.next().unwrap_or(true) {
            return Ok(());
        }
        let ready: Vec<bool> = ready.collect();
        for (mut queue, _) in queues.iter().zip(&ready).filter(|(_, ready)| **ready) {
            let length = match queue.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                other => other.context("read from the TAP")?,
            };
            let Some(frame) = buffer.get(VNET_HDR..length) else {
                continue;
            };
            counters.rx_frames.fetch_add(1, Ordering::Relaxed);
            counters.rx_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
            if let Some(port) = port {
                send_message(port, FRAME, frame).context("write to the guest port")?;
            }
        }
        if let Some(port) = port.filter(|_| ready.last() == Some(&true)) {
            let length =
                recv(port.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("read from the guest port")?;
            match buffer.get(..length).and_then(|message| message.split_first()) {
                None => return Ok(()),
                Some((&FRAME, frame)) => {
                    counters.tx_frames.fetch_add(1, Ordering::Relaxed);
                    counters.tx_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                    let mut message = vec![0; VNET_HDR];
                    message.extend_from_slice(frame);
                    let Some(mut queue) = queues.first() else { continue };
                    match queue.write(&message) {
                        // The kernel refuses runts; a guest may send what it likes.
                        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {}
                        other => drop(other.context("write to the TAP")?),
                    }
                }
                Some((&CONSOLE, line)) => console(&String::from_utf8_lossy(line)),
                Some(_) => {}
            }
        }
    }
}
