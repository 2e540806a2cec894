//! The metrics at a port of the pod, for Prometheus. Only if `--metrics` asks for it: whoever reaches the pod can read them.
//!
//! It is the one thing of a launcher that listens to the pod's network without authenticating who comes, so it answers one path and
//! nothing else, and few at a time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use super::http::{Code, Message, MessageError};
use super::{Answer, Call, REQUEST_TIMEOUT, Request, refusal};
use crate::accept::Accepting;
use crate::metrics;
use crate::queue::Sink;

/// Connections at a time; Prometheus has one.
const MAX_CONNECTIONS: usize = 8;

/// Serves until the runtime ends.
pub(crate) async fn serve_metrics(address: SocketAddr, calls: Sink<Call>) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(async move {
        let mut accepting = Accepting::at("metrics' port");
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let (stream, _) = accepting.next(|context| listener.poll_accept(context)).await;
            // One too many is closed: whoever holds the others open has them for a few seconds.
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let calls = calls.clone();
            tokio::spawn(async move {
                let _place = place;
                let answered = tokio::time::timeout(REQUEST_TIMEOUT, answer(stream, calls)).await;
                if let Ok(Err(error)) = answered {
                    tracing::debug!("metrics' port: {error}");
                }
            });
        }
    });
    Ok(())
}

async fn answer(mut stream: TcpStream, calls: Sink<Call>) -> io::Result<()> {
    let reply = match Message::read(&mut stream).await {
        Ok(message) if message.path != "/metrics" => refusal(Code::NotFound, &"there is /metrics alone")?,
        Ok(message) if message.method != "GET" => {
            refusal(Code::MethodNotAllowed, &"this path has GET alone")?
        }
        Ok(_) => {
            let (answers, mut come) = mpsc::unbounded_channel();
            let request = Request::Metrics;
            calls.send(Call { request, answers }).await;
            match come.recv().await {
                Some(Answer::Metrics { text }) => Code::Ok.reply(metrics::CONTENT, text.as_bytes()),
                _ => refusal(Code::Unavailable, &"the launcher ended before it answered")?,
            }
        }
        Err(MessageError::Io(error)) => return Err(error),
        Err(error) => refusal(Code::BadRequest, &error)?,
    };
    stream.write_all(&reply).await?;
    stream.shutdown().await?;
    // What came after the request is read: to close with it unread would reset the connection under the answer.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
