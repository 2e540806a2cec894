//! The client of what the benchmark's guest serves (src/bin/load.rs). A measurement in which nothing passes is an error,
//! never a figure.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const WAIT: Duration = Duration::from_secs(10);
const SPAN: Duration = Duration::from_secs(1);
const BLOCK: usize = 64 << 10;

/// The guest's ports (RFC 862, 863, 864 and 867), as the manifest of a guest has to list them.
pub(crate) const PORTS: [u16; 4] = [7, 9, 13, 19];

/// What is measured, in the order of [`measure`]'s results.
pub(crate) const MEASURES: [&str; 4] = [
    "to the guest, Mbit/s",
    "from the guest, Mbit/s",
    "request/response, 1/s",
    "new connections, 1/s",
];

/// Until the guest serves all of it. It begins with the port of [`connection`] last.
pub(crate) fn wait_for(guest: IpAddr, deadline: Duration) -> Result<()> {
    let end = Instant::now() + deadline;
    loop {
        match connection(SocketAddr::new(guest, 13)) {
            Err(error) if Instant::now() > end => {
                return Err(error).with_context(|| format!("the guest at {guest} does not serve"));
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
            Ok(()) => return Ok(()),
        }
    }
}

/// Each for a second, one after the other.
pub(crate) fn measure(guest: IpAddr) -> Result<[f64; 4]> {
    let at = |port| SocketAddr::new(guest, port);
    Ok([
        to_guest(at(9)).context("to the guest")?,
        from_guest(at(19)).context("from the guest")?,
        exchanges(at(7)).context("request/response")?,
        rate(|| connection(at(13))).context("new connections")?,
    ])
}

fn connect(service: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&service, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Until the guest has read all: what is still on its way does not count as there.
fn to_guest(service: SocketAddr) -> Result<f64> {
    let mut stream = connect(service)?;
    let block = vec![b'x'; BLOCK];
    let mut sent = 0_usize;
    let started = Instant::now();
    while started.elapsed() < SPAN {
        stream.write_all(&block)?;
        sent += block.len();
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(megabits(sent, started.elapsed()))
}

fn from_guest(service: SocketAddr) -> Result<f64> {
    let mut stream = connect(service)?;
    let mut block = vec![0; BLOCK];
    let mut received = 0_usize;
    let started = Instant::now();
    while started.elapsed() < SPAN {
        let length = stream.read(&mut block)?;
        ensure!(length > 0, "the guest ended the connection");
        received += length;
    }
    Ok(megabits(received, started.elapsed()))
}

fn megabits(bytes: usize, time: Duration) -> f64 {
    bytes as f64 * 8.0 / 1e6 / time.as_secs_f64()
}

/// One byte there and back, over one connection.
fn exchanges(service: SocketAddr) -> Result<f64> {
    let mut stream = connect(service)?;
    rate(|| {
        stream.write_all(b"x")?;
        Ok(stream.read_exact(&mut [0])?)
    })
}

/// From connecting to the guest's end of the connection, with its one byte in between.
fn connection(service: SocketAddr) -> Result<()> {
    let mut stream = connect(service)?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    ensure!(said.len() == 1, "{} bytes came instead of one", said.len());
    Ok(())
}

fn rate(mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut count = 0_u32;
    let started = Instant::now();
    while started.elapsed() < SPAN {
        once()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// A guest of which connections come to nothing.
    fn mute() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || listener.incoming().for_each(drop));
        address
    }

    #[test]
    fn what_gives_nothing_is_an_error_and_no_figure() {
        let guest = mute();
        assert!(to_guest(guest).is_err());
        assert!(from_guest(guest).is_err());
        assert!(exchanges(guest).is_err());
        assert!(rate(|| connection(guest)).is_err());
    }
}
