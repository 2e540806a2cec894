//! Both ends of a virtio socket, from inside a guest: `vsock serve PORT` answers every connection with what it was sent,
//! `vsock ask PORT TEXT` sends TEXT to the host and prints the answer.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, VsockAddr, accept, bind, connect, listen, shutdown,
    socket,
};

/// vsock(7): VMADDR_CID_ANY and VMADDR_CID_HOST.
const ANY: u32 = u32::MAX;
const HOST: u32 = 2;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", port] => serve(port.parse()?),
        ["ask", port, text] => ask(port.parse()?, text),
        _ => bail!("usage: vsock serve PORT | vsock ask PORT TEXT"),
    }
}

fn stream() -> Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::empty(),
        None,
    )?)
}

fn serve(port: u32) -> Result<()> {
    let listener = stream()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(ANY, port)).context("bind")?;
    listen(&listener, Backlog::new(4)?)?;
    println!("serving");
    loop {
        let accepted = accept(listener.as_raw_fd())?;
        // SAFETY: it has just been made, and nobody else has it.
        let mut peer = File::from(unsafe { OwnedFd::from_raw_fd(accepted) });
        let mut chunk = [0; 1024];
        while let Ok(read @ 1..) = peer.read(&mut chunk) {
            peer.write_all(chunk.get(..read).unwrap_or_default())?;
        }
    }
}

fn ask(port: u32, text: &str) -> Result<()> {
    let host = stream()?;
    connect(host.as_raw_fd(), &VsockAddr::new(HOST, port)).context("connect to the host")?;
    let mut host = File::from(host);
    host.write_all(text.as_bytes())?;
    shutdown(host.as_raw_fd(), Shutdown::Write)?;
    let mut answer = String::new();
    host.read_to_string(&mut answer)?;
    println!("{answer}");
    Ok(())
}
