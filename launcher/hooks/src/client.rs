//! hawser's side of the connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::MAX_VM_CONFIG;
use crate::v1alpha1::hooks_client::HooksClient;

/// What a message has around the one field that may be large.
const AROUND: usize = 16;
/// A sidecar has no more to say in headers and trailers than a status and its message.
const MAX_HEADERS: u32 = 8 << 10;

/// Calls to one sidecar.
pub type Client = HooksClient<Connection>;

/// One connection of HTTP/2, as tonic wants it.
#[derive(Debug, Clone)]
pub struct Connection(SendRequest<Body>);

/// Speaks HTTP/2 on `stream`. The task ends when the connection does, from whichever side.
///
/// Nothing is waited for: a peer that says nothing is found out by the first call, which needs a deadline.
///
/// # Errors
/// Those of hyper, where the preface cannot be written.
pub async fn connect(
    stream: UnixStream,
) -> Result<(Client, JoinHandle<Result<(), hyper::Error>>), hyper::Error> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await?;
    let ended = tokio::spawn(connection);
    // HTTP/2 wants a name of the server; a Unix socket has none.
    let client = HooksClient::with_origin(Connection(sender), Uri::from_static("http://sidecar"))
        .max_decoding_message_size(MAX_VM_CONFIG + AROUND);
    Ok((client, ended))
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
