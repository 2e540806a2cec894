//! The control socket: `control.sock` in the VMM's directory, for the verbs of the command line that ask a launcher, and for any
//! client of HTTP in the same pod. docs/control.openapi.json describes it.
//!
//! Who asks is known from the kernel (SO_PEERCRED), not from what is said: root, or the user that the launcher runs as.
//! A connection is one request. The answer is JSON: one value, or for what takes long a line for each step, the last of which
//! has the outcome. The connection of a console carries its bytes from the answer on. The supervisor is only sent what was
//! asked: nothing here decides anything.

mod board;
mod client;
mod http;
mod metrics_port;
#[cfg(test)]
mod openapi;
mod routes;
mod verb;
mod vsock;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

pub(crate) use board::{Board, GIVEN_AWAY, Whereabouts, note_predecessor, now, whereabouts};
pub(crate) use client::{Talk, console, events, live, migrate, operate, status, vsock_port};
pub(crate) use metrics_port::serve_metrics;
pub(crate) use verb::Verb;

use self::http::{Code, Message, MessageError};
use crate::accept::Accepting;
use crate::console::{self, Console, Keyboard};
use crate::log;
use crate::metrics;
use crate::queue::Sink;
use crate::status::Status;

/// For a request to come whole.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The content type of one JSON value a line.
const LINES: &str = "application/x-ndjson";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Status,
    Verb(Verb),
    Migrate(Order),
    Cancel,
    Metrics,
    Events {
        /// Those to come too.
        follows: bool,
    },
    /// The connection is the console's from here on.
    Console {
        /// Whoever asks wants to type.
        types: bool,
    },
    /// The connection is one to this port of the guest from here on.
    Vsock {
        port: u32,
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
    /// For the rounds; absent: as long as the guest's size takes.
    pub(crate) timeout_s: Option<u64>,
    /// For each GB (10^9 bytes) of what is copied.
    pub(crate) timeout_per_gib_s: u64,
    /// Without a smaller round.
    pub(crate) progress_timeout_s: u64,
    pub(crate) connections: u32,
    /// Bytes a second of the guest's memory, while it runs; absent or 0: as fast as it goes.
    pub(crate) bandwidth: Option<u64>,
    pub(crate) on_timeout: OnTimeout,
    /// The longest that the guest is paused; absent: no more downtime is allowed for rounds that do not shrink.
    pub(crate) max_downtime_ms: Option<u64>,
    /// Slow down a guest whose rounds do not shrink.
    pub(crate) auto_converge: bool,
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
    Metrics {
        text: String,
    },
    /// A verb was carried out.
    Done {
        text: String,
    },
    Progress {
        step: String,
        text: String,
    },
    /// The last line; of a verb, that it was refused.
    Ended {
        /// The guest runs at the target.
        migrated: bool,
        text: String,
    },
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Refused {
    error: String,
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
    let ports = vsock::Ports::of(vmm_dir);
    tokio::spawn(async move {
        let mut accepting = Accepting::at("control socket");
        loop {
            let (stream, _) = accepting.next(|context| listener.poll_accept(context)).await;
            let (calls, console, ports) = (calls.clone(), console.clone(), ports.clone());
            tokio::spawn(async move {
                if let Err(error) = answer(stream, calls, &console, &ports).await {
                    tracing::debug!("control socket: {error}");
                }
            });
        }
    });
    Ok(())
}

async fn answer(
    stream: UnixStream,
    calls: Sink<Call>,
    console: &Console,
    ports: &vsock::Ports,
) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        tracing::warn!(
            event = "control-connection-rejected",
            uid,
            "control socket: rejected a connection from uid {uid}"
        );
        return Ok(());
    }
    let (mut reading, mut writing) = stream.into_split();
    let message = match tokio::time::timeout(REQUEST_TIMEOUT, Message::read(&mut reading)).await? {
        Ok(message) => message,
        Err(MessageError::Io(error)) => return Err(error),
        Err(error) => return writing.write_all(&refusal(Code::BadRequest, &error)?).await,
    };
    let request = match routes::request(&message) {
        Ok(Request::Console { types }) => return console::serve(console, types, reading, writing).await,
        Ok(Request::Vsock { port }) => return ports.serve(port, reading, writing).await,
        Ok(Request::Events { follows }) => return stream_events(follows, reading, writing).await,
        Ok(request) => request,
        Err((code, why)) => return writing.write_all(&refusal(code, &why)?).await,
    };
    let (answers, mut come) = mpsc::unbounded_channel();
    let many = matches!(request, Request::Migrate(_));
    calls.send(Call { request, answers }).await;
    if many {
        return stream_answers(come, writing).await;
    }
    let reply = match come.recv().await {
        Some(Answer::Status(status)) => Code::Ok.json(&status)?,
        Some(Answer::Metrics { text }) => Code::Ok.reply(metrics::CONTENT, text.as_bytes()),
        Some(answer @ Answer::Done { .. }) => Code::Ok.json(&answer)?,
        Some(Answer::Ended { text, .. } | Answer::Progress { text, .. }) => refusal(Code::Conflict, &text)?,
        None => refusal(Code::Unavailable, &"the launcher ended before it answered")?,
    };
    writing.write_all(&reply).await?;
    writing.shutdown().await
}

/// A line for each answer, up to the last.
async fn stream_answers(
    mut come: mpsc::UnboundedReceiver<Answer>,
    mut writing: OwnedWriteHalf,
) -> io::Result<()> {
    writing.write_all(&Code::Ok.stream(LINES)).await?;
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

/// What this process has logged, and logs, until whoever asked has enough.
async fn stream_events(
    follows: bool,
    mut reading: OwnedReadHalf,
    mut writing: OwnedWriteHalf,
) -> io::Result<()> {
    let (lines, coming) = log::attach(follows);
    let mut text = Code::Ok.stream(LINES);
    for line in lines {
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    writing.write_all(&text).await?;
    if let Some(mut coming) = coming {
        let write = async {
            while let Some(line) = coming.recv().await {
                writing.write_all(format!("{line}\n").as_bytes()).await?;
            }
            Ok::<(), io::Error>(())
        };
        let mut byte = [0];
        tokio::select! {
            ended = write => ended?,
            _ = reading.read(&mut byte) => {}
        }
    }
    writing.shutdown().await
}

/// The reply to what is not done.
fn refusal(code: Code, why: &dyn std::fmt::Display) -> io::Result<Vec<u8>> {
    code.json(&Refused {
        error: why.to_string(),
    })
}

/// The head of the answer after which a connection carries a console.
pub(crate) fn console_head(keyboard: Keyboard) -> Vec<u8> {
    Code::upgrade(routes::CONSOLE, (routes::KEYBOARD, keyboard.name()))
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
    fn what_is_asked_is_answered_and_junk_is_told_so() {
        let get = |target: &str| ask(&format!("GET {target} HTTP/1.1\r\nHost: hawser\r\n\r\n"));
        let answer = get("/v1/status");
        assert!(
            answer.starts_with("HTTP/1.1 409 ") && answer.contains("Status"),
            "{answer}"
        );
        assert!(get("/v1/pause").starts_with("HTTP/1.1 405 "));
        assert!(get("/v1/fetch").starts_with("HTTP/1.1 404 "));
        assert!(get("/v1/console").starts_with("HTTP/1.1 426 "));
        let migrate = "POST /v1/migration HTTP/1.1\r\nContent-Length: 10\r\n\r\n{\"to\":\"x\"}";
        assert!(ask(migrate).starts_with("HTTP/1.1 400 "));
        assert!(ask("{\"ask\":\"status\"}\n").starts_with("HTTP/1.1 400 "));
        let endless = "x".repeat(http::MAX_REQUEST + 10);
        // The answer to one that goes on after that may be lost with the connection.
        assert!(!ask(&endless).contains("Status"));
    }
}
