//! The control socket: `control.sock` in the VMM's directory, for `hawser status` and `hawser migrate` in the same pod.
//!
//! Who asks is known from the kernel (SO_PEERCRED), not from what is said: root, or the user that the launcher runs as.
//! One line of JSON asks; the answers are lines of JSON, the last of which ends the connection, or has it carry the guest's
//! console from then on. The supervisor is only sent what was asked: nothing here decides anything.

mod board;
mod client;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

pub(crate) use board::{Board, GIVEN_AWAY, Whereabouts, note_predecessor, whereabouts};
pub(crate) use client::{connect, live, migrate, status};

use crate::accept::Accepting;
use crate::console::{self, Console, Keyboard};
use crate::queue::Sink;
use crate::status::Status;

/// Bytes of a request's line.
const MAX_REQUEST: u64 = 16 << 10;
/// For that line to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    Status,
    Migrate(Order),
    Cancel,
    /// The connection is the console's from here on.
    Console {
        /// Whoever asks wants to type.
        types: bool,
    },
}

/// `hawser migrate`'s command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// tcp:HOST:PORT
    pub(crate) to: String,
    /// Absent for plain TCP.
    pub(crate) tls_dir: Option<PathBuf>,
    /// Name to verify in the target's certificate, where it is not HOST.
    pub(crate) server_name: Option<String>,
    pub(crate) downtime_ms: u64,
    pub(crate) timeout_s: u64,
    pub(crate) connections: u32,
    pub(crate) on_timeout: OnTimeout,
    /// The longest that the guest is paused before it is resumed here.
    pub(crate) max_downtime_ms: u64,
}

/// What to do with a guest whose memory cannot be sent within the downtime, however often it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnTimeout {
    /// Abort the migration: the guest stays.
    Cancel,
    /// Pause the guest until the rest is sent, for as long as --max-downtime allows.
    Pause,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    Status(Box<Status>),
    /// The last line: the console's bytes follow.
    Attached {
        keyboard: Keyboard,
    },
    Progress {
        step: String,
        text: String,
    },
    /// The last line.
    Ended {
        /// The guest runs at the target.
        migrated: bool,
        text: String,
    },
}

/// A request, and where its answers go. The connection ends when `answers` is dropped, or after [`Answer::Ended`], upon which
/// it is closed.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) answers: mpsc::UnboundedSender<Answer>,
}

pub(crate) fn path(vmm_dir: &Path) -> PathBuf {
    vmm_dir.join("control.sock")
}

/// Serves the socket until the runtime ends; each request goes to `calls`.
pub(crate) fn serve(vmm_dir: &Path, calls: Sink<Call>, console: Console) -> io::Result<()> {
    let path = path(vmm_dir);
    let listener = UnixListener::from_std(hawser_linux::unix_socket::bind_nonblocking(&path)?)?;
    // Root without DAC_OVERRIDE is one among others; the directory keeps strangers out, and the credentials do.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    tokio::spawn(async move {
        let mut accepting = Accepting::at("control socket");
        loop {
            let (stream, _) = accepting.next(|context| listener.poll_accept(context)).await;
            let (calls, console) = (calls.clone(), console.clone());
            tokio::spawn(async move {
                if let Err(error) = answer(stream, calls, &console).await {
                    tracing::debug!("control socket: {error}");
                }
            });
        }
    });
    Ok(())
}

async fn answer(stream: UnixStream, calls: Sink<Call>, console: &Console) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        tracing::warn!(
            event = "control-connection-rejected",
            uid,
            "control socket: rejected a connection from uid {uid}"
        );
        return Ok(());
    }
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    let mut bounded = BufReader::new(reading.take(MAX_REQUEST));
    tokio::time::timeout(REQUEST_TIMEOUT, bounded.read_line(&mut line)).await??;
    let (answers, mut come) = mpsc::unbounded_channel();
    match serde_json::from_str(&line) {
        // Nothing is lost in the reader's buffer: who asks for it waits for the answer.
        Ok(Request::Console { types }) => {
            let reading = bounded.into_inner().into_inner();
            return console::serve(console, types, reading, writing).await;
        }
        Ok(request) => calls.send(Call { request, answers }).await,
        Err(error) => {
            let text = format!("not understood: {error}");
            let _ = answers.send(Answer::Ended {
                migrated: false,
                text,
            });
            drop(answers);
        }
    }
    while let Some(answer) = come.recv().await {
        let last = matches!(answer, Answer::Ended { .. });
        let mut line = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        line.push(b'\n');
        writing.write_all(&line).await?;
        if last {
            break;
        }
    }
    writing.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (queue, mut calls) = mpsc::channel::<Call>(1);
            serve(dir.path(), Sink::new(queue), Console::default()).unwrap();
            tokio::spawn(async move {
                while let Some(call) = calls.recv().await {
                    let text = format!("{:?}", call.request);
                    let _ = call.answers.send(Answer::Ended {
                        migrated: false,
                        text,
                    });
                }
            });
            let mut stream = UnixStream::connect(path(dir.path())).await.unwrap();
            // One that was refused may have closed by now.
            let _ = stream.write_all(text.as_bytes()).await;
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            answer
        })
    }

    #[test]
    fn a_line_is_a_question_and_junk_is_told_so() {
        assert!(ask("{\"ask\":\"status\"}\n").contains("Status"));
        assert!(ask("{\"ask\":\"fetch\"}\n").contains("not understood"));
        assert!(ask("{\"ask\":\"migrate\",\"to\":\"x\"}\n").contains("not understood"));
        let endless = "x".repeat(MAX_REQUEST as usize + 10);
        // The answer to one that goes on after that may be lost with the connection.
        assert!(!ask(&endless).contains("Status"));
    }
}
