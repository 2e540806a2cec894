//! The client of what the benchmark's guest serves (src/bin/load.rs).

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const WAIT: Duration = Duration::from_secs(10);
const SPAN: Duration = Duration::from_secs(3);
const BLOCK: usize = 64 << 10;

/// What is measured, in the order of [`measure`]'s results.
pub(crate) const MEASURES: [&str; 4] = [
    "to the guest, Mbit/s",
    "from the guest, Mbit/s",
    "request/response, 1/s",
    "new connections, 1/s",
];

/// Each for three seconds, one after the other.
pub(crate) fn measure(guest: IpAddr) -> Result<[f64; 4]> {
    Ok([
        to_guest(guest).context("to the guest")?,
        from_guest(guest).context("from the guest")?,
        exchanges(guest).context("request/response")?,
        connections(guest).context("new connections")?,
    ])
}

fn connect(guest: IpAddr, port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(guest, port), WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Until the guest has read all: what is still on its way does not count as there.
fn to_guest(guest: IpAddr) -> Result<f64> {
    let mut stream = connect(guest, 9)?;
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

fn from_guest(guest: IpAddr) -> Result<f64> {
    let mut stream = connect(guest, 19)?;
    let mut block = vec![0; BLOCK];
    let mut received = 0_usize;
    let started = Instant::now();
    while started.elapsed() < SPAN {
        received += stream.read(&mut block)?;
    }
    Ok(megabits(received, started.elapsed()))
}

fn megabits(bytes: usize, time: Duration) -> f64 {
    bytes as f64 * 8.0 / 1e6 / time.as_secs_f64()
}

/// One byte there and back, over one connection.
fn exchanges(guest: IpAddr) -> Result<f64> {
    let mut stream = connect(guest, 7)?;
    rate(|| {
        stream.write_all(b"x")?;
        Ok(stream.read_exact(&mut [0])?)
    })
}

/// From connecting to the guest's end of the connection.
fn connections(guest: IpAddr) -> Result<f64> {
    rate(|| {
        let mut stream = connect(guest, 13)?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    })
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
