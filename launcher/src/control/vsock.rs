//! A connection of the control socket that goes on as one to a port of the guest's virtio socket (`hawser vsock`).
//!
//! The bytes pass through the supervisor, because whoever may use the control socket need not be able to open the VMM's: root
//! in a container without capabilities is not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;

use super::http::Code;
use super::{refusal, routes};
use crate::devices::vsock;
use crate::error::chain;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 16;
/// Once whoever asked has sent everything, the guest may be silent for so long before its answer counts as complete.
const SILENCE: Duration = Duration::from_secs(60);

/// The guest's ports, for all who ask.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    directory: PathBuf,
    places: Arc<Semaphore>,
}

impl Ports {
    pub(super) fn of(vmm_dir: &Path) -> Self {
        Self {
            directory: vmm_dir.to_owned(),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }

    /// Connects, and passes bytes both ways until the guest ends the connection.
    pub(super) async fn serve(
        &self,
        port: u32,
        reading: OwnedReadHalf,
        mut writing: OwnedWriteHalf,
    ) -> io::Result<()> {
        let Ok(_place) = self.places.try_acquire() else {
            let why =
                format!("{MAX_CONNECTIONS} connections to the guest are open, and there can be no more");
            return writing.write_all(&refusal(Code::Conflict, &why)?).await;
        };
        let guest = match vsock::connect(&self.directory, port).await {
            Ok(guest) => guest,
            Err(error) => return writing.write_all(&refusal(Code::Conflict, &chain(&error))?).await,
        };
        let head = Code::upgrade(routes::VSOCK, (routes::VSOCK_PORT, &port.to_string()));
        writing.write_all(&head).await?;
        let (from_guest, to_guest) = guest.into_split();
        let sent_all = AtomicBool::new(false);
        let sends = async {
            send(reading, to_guest).await?;
            sent_all.store(true, Ordering::Relaxed);
            Ok::<(), io::Error>(())
        };
        tokio::select! {
            ended = receive(from_guest, writing, &sent_all) => ended,
            Err(error) = sends => Err(error),
        }
    }
}

async fn send(mut reading: OwnedReadHalf, mut to_guest: OwnedWriteHalf) -> io::Result<()> {
    tokio::io::copy(&mut reading, &mut to_guest).await?;
    to_guest.shutdown().await
}

/// Whoever asked may be gone, which a silent guest would never show.
async fn receive(
    mut from_guest: OwnedReadHalf,
    mut writing: OwnedWriteHalf,
    sent_all: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = vec![0; 8 << 10];
    loop {
        let read = match tokio::time::timeout(SILENCE, from_guest.read(&mut buffer)).await {
            Ok(read) => read?,
            Err(_) if sent_all.load(Ordering::Relaxed) => 0,
            Err(_) => continue,
        };
        if read == 0 {
            return writing.shutdown().await;
        }
        writing.write_all(buffer.get(..read).unwrap_or_default()).await?;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    /// A guest that answers each connection with what it was sent, in capitals, once it has been sent all.
    fn guest(directory: &Path) {
        vsock::prepare(directory).unwrap();
        let listener = UnixListener::bind(vsock::socket(directory)).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut connect = [0; 11];
                    stream.read_exact(&mut connect).await.unwrap();
                    if connect != *b"CONNECT 22\n" {
                        return;
                    }
                    stream.write_all(b"OK 1\n").await.unwrap();
                    let mut text = String::new();
                    stream.read_to_string(&mut text).await.unwrap();
                    stream.write_all(text.to_uppercase().as_bytes()).await.unwrap();
                });
            }
        });
    }

    async fn ask(ports: &Ports, port: u32, text: &str) -> String {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (reading, writing) = theirs.into_split();
        let ports = ports.clone();
        let served = tokio::spawn(async move { ports.serve(port, reading, writing).await });
        ours.write_all(text.as_bytes()).await.unwrap();
        ours.shutdown().await.unwrap();
        // A refusal comes although what was sent is not read, and then the kernel resets the connection.
        let mut answer = Vec::new();
        let _ = ours.read_to_end(&mut answer).await;
        served.await.unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_connection_goes_on_as_one_to_the_guest() {
        let directory = tempfile::tempdir().unwrap();
        let ports = Ports::of(directory.path());
        let answer = ask(&ports, 22, "hello").await;
        assert!(
            answer.starts_with("HTTP/1.1 409 ") && answer.contains("autoattachVSOCK"),
            "{answer}"
        );
        guest(directory.path());
        let answer = ask(&ports, 22, "hello").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 101 ") && head.contains("Hawser-Vsock-Port: 22"),
            "{head}"
        );
        assert_eq!(body, "HELLO");
        let answer = ask(&ports, 23, "").await;
        assert!(
            answer.contains("nothing in the guest listens at vsock port 23"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn there_is_a_bound_to_connections() {
        let directory = tempfile::tempdir().unwrap();
        let ports = Ports::of(directory.path());
        guest(directory.path());
        let mut open = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let (reading, writing) = theirs.into_split();
            let ports = ports.clone();
            tokio::spawn(async move { ports.serve(22, reading, writing).await });
            let mut head = [0; 12];
            ours.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"HTTP/1.1 101");
            open.push(ours);
        }
        assert!(ask(&ports, 22, "").await.contains("there can be no more"));
        drop(open);
        while ports.places.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(ask(&ports, 22, "x").await.ends_with('X'));
    }
}
