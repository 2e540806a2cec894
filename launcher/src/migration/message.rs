//! What the two launchers say to each other: JSON, each message after its length in four bytes, most significant first.
//!
//! A message is bounded, and a peer that says nothing for a while is taken for gone: both send [`Message::Alive`] in
//! between. The version is in [`Prepare`] and is judged before anything else in it.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::describe::Description;

/// Bytes. The largest message carries the VM's configuration, which cloud-hypervisor takes up to 50 KiB of.
const MAX_MESSAGE: u32 = 256 << 10;
/// How often something is said, and how long silence is borne.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_secs(2);
pub(crate) const MAX_SILENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum Message {
    /// Source: take this guest. Nothing has moved.
    Prepare(Box<Prepare>),
    /// Target: no, for all these reasons.
    Refused {
        reasons: Vec<String>,
    },
    /// Target: the pod is wired, the VMM listens.
    Prepared {
        /// Connections that are open behind passt can be taken up here: it has the same addresses, and who can do it.
        #[serde(default)]
        takes_connections: bool,
    },
    /// Target: all of the guest is here and stands still; it will not run without `Commit`.
    Holding,
    /// Source: the guest is yours. It cannot run here any more. Said again over a new channel where the answer was lost.
    Commit {
        id: String,
    },
    /// Target: it runs.
    Running,
    /// Target: it was ours, and it has failed.
    Lost {
        why: String,
    },
    /// Source: it stays here; forget it.
    Abort {
        why: String,
    },
    /// Target: it will not run here, and never has. Only said before a `Commit` was heard.
    Gone {
        why: String,
    },
    Alive,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prepare {
    pub(crate) version: u32,
    /// Of this hand-off; unguessable, since it also lets the memory's connections through.
    pub(crate) id: String,
    pub(crate) description: Description,
    /// For the VMMs' own TLS; absent over plain TCP.
    pub(crate) credentials: Option<ServerCredentials>,
}

/// What the target's VMM proves itself with, and whom it trusts: made for one hand-off.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerCredentials {
    pub(crate) ca_cert: String,
    pub(crate) server_cert: String,
    pub(crate) server_key: String,
}

/// A key is not for logs.
impl std::fmt::Debug for ServerCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerCredentials")
    }
}

/// Not cancel-safe: to be awaited to its end.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Message> {
    let length = from.read_u32().await?;
    if length > MAX_MESSAGE {
        return Err(invalid(format!(
            "a message of {length} bytes; at most {MAX_MESSAGE} are taken"
        )));
    }
    let mut body = Vec::new();
    from.take(length.into()).read_to_end(&mut body).await?;
    if body.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&body).map_err(|error| invalid(format!("not understood: {error}")))
}

pub(crate) async fn write(to: &mut (impl AsyncWrite + Unpin), message: &Message) -> io::Result<()> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length <= MAX_MESSAGE);
    let length = length.ok_or_else(|| invalid(format!("a message of {} bytes", body.len())))?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(body);
    to.write_all(&bytes).await?;
    to.flush().await
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(work)
    }

    #[test]
    fn what_is_written_is_read() {
        block_on(async {
            let mut bytes = Vec::new();
            let said = [
                Message::Refused {
                    reasons: vec!["a".into(), "b".into()],
                },
                Message::Commit { id: "x".into() },
                Message::Alive,
            ];
            for message in &said {
                write(&mut bytes, message).await.unwrap();
            }
            let mut rest = bytes.as_slice();
            for message in &said {
                assert_eq!(&read(&mut rest).await.unwrap(), message);
            }
            assert!(rest.is_empty());
        });
    }

    #[test]
    fn too_long_too_short_and_nonsense_are_errors() {
        block_on(async {
            let long = (MAX_MESSAGE + 1).to_be_bytes();
            assert!(
                read(&mut long.as_slice())
                    .await
                    .unwrap_err()
                    .to_string()
                    .contains("at most")
            );
            let cut = [0, 0, 0, 9, b'{'];
            let error = read(&mut cut.as_slice()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            let nonsense = [0, 0, 0, 2, b'{', b'}'];
            let error = read(&mut nonsense.as_slice()).await.unwrap_err();
            assert!(error.to_string().contains("not understood"), "{error}");
        });
    }
}
