//! `standin-vmm guest-port --listen SOCKET --tap NAME`: the guest's end of the cable.
//!
//! Runs in the guest's namespace, with CAP_NET_ADMIN there. Each VMM that connects is one boot of the guest: the TAP
//! is made with the MAC and MTU that the VMM's NIC has, and goes when the VMM does. Says `up NAME` and `down NAME` on
//! stdout. On stdin, `console TEXT` prints a line on the guest's console and `frame HEX` sends a frame.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen, recv, socket,
};

use super::pump::{BUFFER, CONSOLE, FRAME, NIC, Nic, send_message};
use super::tap;

/// # Errors
/// Arguments, the socket, and what the kernel says to the TAP.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [listen_flag, path, tap_flag, name] = args else {
        bail!("usage: guest-port --listen SOCKET --tap NAME");
    };
    ensure!(
        listen_flag == "--listen" && tap_flag == "--tap",
        "usage: guest-port --listen SOCKET --tap NAME"
    );

    let path = Path::new(path);
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?).with_context(|| path.display().to_string())?;
    // The VMM is another, unprivileged user.
    fs::set_permissions(path, Permissions::from_mode(0o777))?;
    listen(&listener, Backlog::new(1)?)?;
    say("listening", name)?;

    let current: Arc<Mutex<Option<OwnedFd>>> = Arc::default();
    {
        let current = current.clone();
        std::thread::spawn(move || forward_console(&current));
    }
    loop {
        let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: accept4 has just made it, and nothing else owns it.
        let vmm = unsafe { OwnedFd::from_raw_fd(fd) };
        if let Ok(mut current) = current.lock() {
            *current = Some(vmm.try_clone()?);
        }
        let served = serve(&vmm, name);
        if let Ok(mut current) = current.lock() {
            *current = None;
        }
        if let Err(error) = served {
            eprintln!("guest-port: {error:#}");
        }
        say("down", name)?;
    }
}

fn say(what: &str, name: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{what} {name}")?;
    stdout.flush()
}

fn forward_console(current: &Mutex<Option<OwnedFd>>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        if let Ok(current) = current.lock()
            && let Some(vmm) = &*current
        {
            // What comes while nobody listens is lost, as on a wire.
            let _ = match line.split_once(' ') {
                Some(("console", text)) => send_message(vmm, CONSOLE, text.as_bytes()),
                Some(("frame", hex)) => send_message(vmm, FRAME, &bytes(hex)),
                _ => Ok(()),
            };
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|c| c.to_digit(16))
        .filter_map(|d| u8::try_from(d).ok())
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect()
}

fn serve(vmm: &OwnedFd, name: &str) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    let length = recv(vmm.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let Some((&NIC, body)) = buffer.get(..length).and_then(<[u8]>::split_first) else {
        bail!("the VMM did not say what its NIC is");
    };
    let nic: Nic = serde_json::from_slice(body)?;
    let tap = tap::make(name)?;
    let mut ip = Command::new("ip");
    ip.args(["link", "set", "dev", name, "address", &nic.mac, "up"]);
    if let Some(mtu) = nic.mtu {
        ip.args(["mtu", &mtu.to_string()]);
    }
    ensure!(ip.status()?.success(), "ip link set failed");
    say("up", name)?;
    carry(vmm, &tap, &mut buffer)
}

fn carry(vmm: &OwnedFd, mut tap: &File, buffer: &mut [u8]) -> Result<()> {
    loop {
        let mut wait = [
            PollFd::new(vmm.as_fd(), PollFlags::POLLIN),
            PollFd::new(tap.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut wait, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            other => other?,
        };
        let [from_vmm, from_tap] = wait.map(|fd| fd.any().unwrap_or(true));
        if from_vmm {
            match recv(vmm.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(0) | Err(nix::Error::ECONNRESET) => return Ok(()),
                Ok(length) => {
                    if let Some((&FRAME, frame)) = buffer.get(..length).and_then(<[u8]>::split_first) {
                        // A guest whose interface is down loses its frames.
                        let _ = tap.write(frame);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        if from_tap {
            match tap.read(buffer) {
                Ok(length) => match send_message(vmm, FRAME, buffer.get(..length).unwrap_or_default()) {
                    Err(nix::Error::EPIPE | nix::Error::ECONNRESET) => return Ok(()),
                    other => other?,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
