//! The host's end of the guest's virtio socket.
//!
//! cloud-hypervisor has no vhost-vsock: it speaks virtio-vsock itself and maps it to Unix sockets (its docs/vsock.md). So
//! there is no device of the node's to be given, and the CID is the guest's own affair. The socket has a directory to
//! itself, since the VMM's landlock lets it write in the one that the socket is in.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Port of the host at which hawser listens to the guest's systemd. No port of the pod's network.
pub(crate) const NOTIFY_PORT: u32 = 49155;
/// For the guest to accept a connection. A guest that has not loaded its driver yet, or is paused, does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the VMM's answer: OK, and the number of a port.
const MAX_ANSWER: usize = 32;

/// Why there is no connection to a port of the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(
        "the guest has no virtio socket: set spec.domain.devices.autoattachVSOCK to true in its manifest, and start it with that"
    )]
    NoSocket,
    #[error("nothing in the guest listens at vsock port {0}")]
    Refused(u32),
    #[error(
        "the guest did not answer at vsock port {port} within {} s: its kernel has no driver for its virtio socket, or the guest is \
         paused or has not come so far",
        CONNECT_TIMEOUT.as_secs()
    )]
    Silent { port: u32 },
    #[error("the guest's virtio socket")]
    Io(#[from] io::Error),
}

/// Where others connect to reach the guest. What the guest connects to is at the same path with `_PORT` behind it.
pub(crate) fn socket(directory: &Path) -> PathBuf {
    place(directory).join("guest.sock")
}

/// Where the guest's connections to this port of the host arrive.
pub(crate) fn port_of_host(directory: &Path, port: u32) -> PathBuf {
    place(directory).join(format!("guest.sock_{port}"))
}

/// For these sockets alone.
pub(crate) fn place(directory: &Path) -> PathBuf {
    directory.join("vsock")
}

/// Makes the directory, and removes the socket that an earlier VMM has left: it would not bind to one that is there. Those
/// that the guest may connect to are somebody else's and stay.
pub(crate) fn prepare(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o770).create(place(directory)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match fs::remove_file(socket(directory)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A connection to this port of the guest.
pub(crate) async fn connect(directory: &Path, port: u32) -> Result<UnixStream, ConnectError> {
    let mut stream = UnixStream::connect(socket(directory))
        .await
        .map_err(|error| match error.kind() {
            // Or one that an earlier VMM has left.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ConnectError::NoSocket,
            _ => ConnectError::Io(error),
        })?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    match tokio::time::timeout(CONNECT_TIMEOUT, accepted(&mut stream)).await {
        Err(_) => Err(ConnectError::Silent { port }),
        Ok(Ok(true)) => Ok(stream),
        // The VMM ends the connection where the guest does not take it.
        Ok(Ok(false) | Err(_)) => Err(ConnectError::Refused(port)),
    }
}

/// Byte by byte: what comes behind the answer is the guest's.
async fn accepted(stream: &mut UnixStream) -> io::Result<bool> {
    let mut answer = Vec::new();
    while answer.len() < MAX_ANSWER {
        match stream.read_u8().await? {
            b'\n' => return Ok(answer.starts_with(b"OK ")),
            byte => answer.push(byte),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_a_killed_vmm_left_is_gone_and_what_others_put_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path()).unwrap();
        let _theirs = UnixListener::bind(place(directory.path()).join("guest.sock_7")).unwrap();
        drop(UnixListener::bind(socket(directory.path())).unwrap());
        prepare(directory.path()).unwrap();
        assert!(UnixListener::bind(socket(directory.path())).is_ok());
        assert!(place(directory.path()).join("guest.sock_7").exists());
    }

    /// What a VMM answers to CONNECT, and what comes behind it.
    async fn answered(answer: &'static [u8]) -> Result<Vec<u8>, ConnectError> {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path()).unwrap();
        let listener = tokio::net::UnixListener::bind(socket(directory.path())).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 11];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"CONNECT 22\n");
            stream.write_all(answer).await.unwrap();
        });
        let mut stream = connect(directory.path(), 22).await?;
        let mut behind = Vec::new();
        stream.read_to_end(&mut behind).await?;
        Ok(behind)
    }

    #[tokio::test]
    async fn a_port_of_the_guest_answers_or_does_not() {
        assert_eq!(answered(b"OK 1073741824\nSSH-2.0").await.unwrap(), b"SSH-2.0");
        for answer in [&b""[..], b"OK", b"no\n", &[b'x'; 100]] {
            let error = answered(answer).await.unwrap_err();
            assert!(matches!(error, ConnectError::Refused(22)), "{error}");
        }
        let directory = tempfile::tempdir().unwrap();
        let error = connect(directory.path(), 22).await.unwrap_err();
        assert!(matches!(error, ConnectError::NoSocket), "{error}");
    }
}
