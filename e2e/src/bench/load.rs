//! The client of what the benchmark's guest serves (src/bin/load.rs): for each measure a piece of work of a fixed size, and
//! how long it took. One in which nothing passes is an error, never a figure.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const WAIT: Duration = Duration::from_secs(20);
const BLOCK: usize = 64 << 10;
/// Of a transfer: 1 MiB.
const BLOCKS: usize = 16;
const EXCHANGES: usize = 20;
const CONNECTIONS: usize = 4;

/// The guest's ports (RFC 862, 863, 864 and 867), as the manifest of a guest has to list them.
pub(crate) const PORTS: [u16; 4] = [7, 9, 13, 19];

pub(crate) struct Measure {
    pub(crate) name: &'static str,
    port: u16,
    /// How much there is of it, in the name's unit.
    amount: f64,
    work: fn(SocketAddr) -> Result<Duration>,
}

pub(crate) const MEASURES: [Measure; 4] = [
    Measure {
        name: "to the guest, Mbit/s",
        port: 9,
        amount: MEGABITS,
        work: to_guest,
    },
    Measure {
        name: "from the guest, Mbit/s",
        port: 19,
        amount: MEGABITS,
        work: from_guest,
    },
    Measure {
        name: "request/response, 1/s",
        port: 7,
        amount: EXCHANGES as f64,
        work: exchanges,
    },
    Measure {
        name: "new connections, 1/s",
        port: 13,
        amount: CONNECTIONS as f64,
        work: connections,
    },
];

const MEGABITS: f64 = (BLOCK * BLOCKS * 8) as f64 / 1e6;

impl Measure {
    /// In the name's unit.
    pub(crate) fn take(&self, guest: IpAddr) -> Result<f64> {
        let took = (self.work)(SocketAddr::new(guest, self.port)).context(self.name)?;
        Ok(self.amount / took.as_secs_f64())
    }
}

/// Until the guest serves all of it. It begins with the port of [`connections`] last.
pub(crate) fn wait_for(guest: IpAddr, deadline: Duration) -> Result<()> {
    let end = Instant::now() + deadline;
    loop {
        match connections(SocketAddr::new(guest, 13)) {
            Err(error) if Instant::now() > end => {
                return Err(error).with_context(|| format!("the guest at {guest} does not serve"));
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
            Ok(_) => return Ok(()),
        }
    }
}

fn connect(service: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&service, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Until the guest has read all: what is still on its way does not count as there.
fn to_guest(service: SocketAddr) -> Result<Duration> {
    let mut stream = connect(service)?;
    let block = vec![b'x'; BLOCK];
    let started = Instant::now();
    for _ in 0..BLOCKS {
        stream.write_all(&block)?;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(started.elapsed())
}

fn from_guest(service: SocketAddr) -> Result<Duration> {
    let mut stream = connect(service)?;
    let mut block = vec![0; BLOCK];
    let started = Instant::now();
    for _ in 0..BLOCKS {
        stream.read_exact(&mut block)?;
    }
    Ok(started.elapsed())
}

/// One byte there and back, over one connection.
fn exchanges(service: SocketAddr) -> Result<Duration> {
    let mut stream = connect(service)?;
    let started = Instant::now();
    for _ in 0..EXCHANGES {
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
    }
    Ok(started.elapsed())
}

/// From connecting to the guest's end of the connection, with its one byte in between.
fn connections(service: SocketAddr) -> Result<Duration> {
    let started = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut said = Vec::new();
        connect(service)?.read_to_end(&mut said)?;
        ensure!(said.len() == 1, "{} bytes came instead of one", said.len());
    }
    Ok(started.elapsed())
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
        for measure in MEASURES {
            assert!((measure.work)(guest).is_err(), "{}", measure.name);
        }
    }
}
