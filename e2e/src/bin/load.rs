//! What the benchmark's guest serves over TCP: echo, discard and characters without end, at the ports of RFC 862, RFC 863
//! and RFC 864, and at the port of RFC 867 one byte for each connection.

use std::io::{Read, Result, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::thread;

const BLOCK: usize = 64 << 10;

type Service = fn(TcpStream) -> Result<()>;

pub(crate) fn main() -> Result<()> {
    for (port, service) in [(7, echo as Service), (9, discard), (19, generate)] {
        // Also takes IPv4.
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away ends its connection and nothing else.
                thread::spawn(move || service(stream));
            }
        });
    }
    for mut stream in TcpListener::bind((Ipv6Addr::UNSPECIFIED, 13))?
        .incoming()
        .flatten()
    {
        let _ = stream.write_all(b"x");
    }
    Ok(())
}

fn echo(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut block = [0; 1024];
    loop {
        match stream.read(&mut block)? {
            0 => return Ok(()),
            length => stream.write_all(block.get(..length).unwrap_or_default())?,
        }
    }
}

fn discard(mut stream: TcpStream) -> Result<()> {
    let mut block = vec![0; BLOCK];
    while stream.read(&mut block)? > 0 {}
    Ok(())
}

fn generate(mut stream: TcpStream) -> Result<()> {
    let block = vec![b'x'; BLOCK];
    loop {
        stream.write_all(&block)?;
    }
}
