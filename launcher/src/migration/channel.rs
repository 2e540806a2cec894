//! How the launchers reach each other: one TCP port, TLS with certificates on both sides.
//!
//! A connection says first what it is for, in one line: the control channel, which then speaks TLS; the disks', which does too
//! ([`super::disk_copy`]); or one of the memory's, which is cloud-hypervisor's own from there on ([`super::relay`]). The last
//! two name the hand-off that they belong to.
//!
//! [`super::tls`] has the certificates, and [`super::port`] what the target does with those who come.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tls::{Client, Security, TlsError};

/// For a connection and its handshake.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
const CONTROL: &str = "HAWSER CONTROL";
const DISKS: &str = "HAWSER DISKS ";
const MEMORY: &str = "HAWSER MEMORY ";
/// Of a first line, with its end.
const MAX_PREFACE: usize = 80;

/// `tcp:HOST:PORT`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error("{what}: no answer within {} s", TIMEOUT.as_secs())]
    Slow { what: &'static str },
    #[error("connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("guest memory of no migration that is under way")]
    Memory,
    #[error("disks of no migration that is under way")]
    Disks,
    #[error("the first line")]
    Preface(#[source] io::Error),
}

/// Either kind of channel.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug> Stream for T {}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: expected tcp:HOST:PORT (an IPv6 address in brackets)");
        let (host, port) = text
            .strip_prefix("tcp:")
            .and_then(|rest| rest.rsplit_once(':'))
            .ok_or_else(wrong)?;
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match inner {
            Some(inner) => inner,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "tcp:[{}]:{}", self.host, self.port)
        } else {
            write!(f, "tcp:{}:{}", self.host, self.port)
        }
    }
}

pub(super) async fn in_time<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, ChannelError>>,
) -> Result<T, ChannelError> {
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(result) => result,
        Err(_) => Err(ChannelError::Slow { what }),
    }
}

/// To the target's port, with the first line said.
async fn dial(address: &Address, preface: &str) -> Result<TcpStream, ChannelError> {
    in_time("connect", async {
        let connect = |source| ChannelError::Connect {
            address: address.to_string(),
            source,
        };
        let mut stream = TcpStream::connect((address.host.as_str(), address.port))
            .await
            .map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let line = format!("{preface}\n");
        stream
            .write_all(line.as_bytes())
            .await
            .map_err(ChannelError::Preface)?;
        Ok(stream)
    })
    .await
}

/// One of the memory's connections.
pub(crate) async fn dial_memory(address: &Address, id: &str) -> Result<TcpStream, ChannelError> {
    dial(address, &format!("{MEMORY}{id}")).await
}

/// The source's end of the control channel. `name` is whom the target's certificate has to be for.
pub(crate) async fn connect(
    address: &Address,
    name: &str,
    security: &Security,
) -> Result<Box<dyn Stream>, ChannelError> {
    connect_for(CONTROL, address, name, security).await
}

/// The source's end of the disks' connection.
pub(super) async fn connect_disks(
    address: &Address,
    name: &str,
    security: &Security,
    id: &str,
) -> Result<Box<dyn Stream>, ChannelError> {
    connect_for(&format!("{DISKS}{id}"), address, name, security).await
}

async fn connect_for(
    preface: &str,
    address: &Address,
    name: &str,
    security: &Security,
) -> Result<Box<dyn Stream>, ChannelError> {
    let Security::Tls(directory) = security else {
        return Ok(Box::new(dial(address, preface).await?));
    };
    let client = Client::new(directory, name)?;
    let stream = dial(address, preface).await?;
    in_time("TLS", async {
        let stream = client.connect(stream).await?;
        Ok(Box::new(stream) as Box<dyn Stream>)
    })
    .await
}

/// What a connection to the target's port is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Control,
    /// Of the hand-off of this name.
    Disks(String),
    Memory(String),
}

/// Reads the first line, and nothing of what follows.
pub(super) async fn purpose(stream: &mut TcpStream) -> Result<Purpose, ChannelError> {
    stream.set_nodelay(true).map_err(ChannelError::Preface)?;
    let line = first_line(stream).await.map_err(ChannelError::Preface)?;
    if let Some(id) = line.strip_prefix(MEMORY) {
        return Ok(Purpose::Memory(id.to_owned()));
    }
    if let Some(id) = line.strip_prefix(DISKS) {
        return Ok(Purpose::Disks(id.to_owned()));
    }
    if line != CONTROL {
        let why = io::Error::new(io::ErrorKind::InvalidData, "not a launcher's");
        return Err(ChannelError::Preface(why));
    }
    Ok(Purpose::Control)
}

/// Byte by byte, so that nothing of what follows is taken.
async fn first_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    while line.len() < MAX_PREFACE {
        match stream.read_u8().await? {
            b'\n' => {
                return String::from_utf8(line)
                    .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not text"));
            }
            byte => line.push(byte),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "no end"))
}

/// What the target listens at.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.strip_prefix("tcp:").unwrap_or_default();
    address
        .parse()
        .ok()
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or_else(|| format!("{text:?}: expected tcp:ADDRESS:PORT (an IPv6 address in brackets)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_users_write_them() {
        let host = |text: &str| text.parse::<Address>().map(|address| address.host);
        assert_eq!(host("tcp:10.0.0.7:49152").unwrap(), "10.0.0.7");
        assert_eq!(host("tcp:[fd00::7]:49152").unwrap(), "fd00::7");
        assert_eq!(host("tcp:target.ns:1").unwrap(), "target.ns");
        assert_eq!(
            "tcp:[fd00::7]:9".parse::<Address>().unwrap().to_string(),
            "tcp:[fd00::7]:9"
        );
        for bad in [
            "10.0.0.7:1",
            "tcp:10.0.0.7",
            "tcp::1",
            "tcp:fd00::7:1",
            "tcp:h:0",
            "unix:/x",
            "tcp:h:x",
        ] {
            assert!(host(bad).is_err(), "{bad}");
        }
        assert!(listen_address("tcp:0.0.0.0:49152").is_ok() && listen_address("tcp:[::]:49152").is_ok());
        assert!(listen_address("tcp:localhost:49152").is_err() && listen_address("0.0.0.0:1").is_err());
    }
}
