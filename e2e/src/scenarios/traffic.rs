//! Servers and clients in namespaces. Their sockets are made in a thread of the namespace and stay in it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{Shutdown, shutdown};

use crate::netns::Netns;

/// Long enough for a loaded machine; what is expected not to be answered is dropped or refused, and waits less.
const ANSWER: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_millis(400);

/// Greets every TCP connection with its name and the peer that it sees.
#[derive(Debug)]
pub(super) struct TcpServer {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl TcpServer {
    pub(super) fn start(netns: &Netns, name: &str, at: impl Into<SocketAddr>) -> Result<Self> {
        let at = at.into();
        let listener =
            Arc::new(netns.run(|| TcpListener::bind(at).with_context(|| format!("listen on {at}")))?);
        let (accepting, name) = (listener.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            for mut stream in accepting.incoming().map_while(Result::ok) {
                let peer = stream
                    .peer_addr()
                    .map(|peer| peer.ip().to_string())
                    .unwrap_or_default();
                let _ = writeln!(stream, "{name} {peer}");
            }
        });
        Ok(Self {
            listener,
            thread: Some(thread),
        })
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        // Wakes the accept.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects and returns the greeting.
pub(super) fn tcp(netns: &Netns, to: impl Into<SocketAddr>) -> Result<String> {
    tcp_within(netns, to.into(), ANSWER)
}

fn tcp_within(netns: &Netns, to: SocketAddr, limit: Duration) -> Result<String> {
    let attempt = || -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text.trim().to_owned())
    };
    netns
        .run(attempt)
        .with_context(|| format!("TCP from {} to {to}", netns.name()))
}

/// Expects a greeting that starts with `name`.
pub(super) fn reaches(netns: &Netns, to: impl Into<SocketAddr>, name: &str) -> Result<String> {
    let to = to.into();
    let greeting = tcp(netns, to)?;
    ensure!(
        greeting.split(' ').next() == Some(name),
        "{to} is answered by {greeting:?}, not by {name}"
    );
    Ok(greeting)
}

/// Expects no connection at all.
pub(super) fn unreachable(netns: &Netns, to: impl Into<SocketAddr>) -> Result<()> {
    let to = to.into();
    match tcp_within(netns, to, SILENCE) {
        Err(_) => Ok(()),
        Ok(greeting) => anyhow::bail!("{to} is reachable: {greeting:?}"),
    }
}

/// A UDP socket in a namespace.
pub(super) fn udp(netns: &Netns, at: impl Into<SocketAddr>) -> Result<UdpSocket> {
    let at = at.into();
    let socket = netns.run(|| UdpSocket::bind(at).with_context(|| format!("bind UDP {at}")))?;
    socket.set_read_timeout(Some(ANSWER))?;
    Ok(socket)
}

/// The next datagram and where it came from.
pub(super) fn receive(socket: &UdpSocket) -> Result<(String, SocketAddr)> {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).context("nothing came by UDP")?;
    Ok((
        String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned(),
        from,
    ))
}

/// Expects that nothing has come. For after a later packet of the same way that did come.
pub(super) fn nothing(socket: &UdpSocket, what: &str) -> Result<()> {
    socket.set_nonblocking(true)?;
    let mut buffer = [0; 2048];
    let received = socket.recv_from(&mut buffer);
    socket.set_nonblocking(false)?;
    match received {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
        Ok((length, from)) => anyhow::bail!(
            "{what}: {:?} came from {from}",
            String::from_utf8_lossy(buffer.get(..length).unwrap_or_default())
        ),
    }
}

/// Sends one datagram from `from` to `to` and expects it there and the answer back.
pub(super) fn udp_exchange(
    client: &UdpSocket,
    to: impl Into<SocketAddr>,
    server: &UdpSocket,
) -> Result<SocketAddr> {
    let to = to.into();
    client.send_to(b"question", to)?;
    let (text, from) = receive(server).with_context(|| format!("question to {to}"))?;
    ensure!(text == "question", "{text}");
    server.send_to(b"answer", from)?;
    let (text, answered_by) = receive(client).with_context(|| format!("answer from {to}"))?;
    ensure!(
        text == "answer" && answered_by == to,
        "{text} from {answered_by}, asked {to}"
    );
    Ok(from)
}
