//! The kubelet as it is called, and a connection over a Unix socket as tonic wants it.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::VERSION;
use crate::v1beta1::registration_client::RegistrationClient;
use crate::v1beta1::{DevicePluginOptions, RegisterRequest};

/// The kubelet connects to the plugin before it answers, for which it takes 10 s at most.
const TIMEOUT: Duration = Duration::from_secs(15);

/// HTTP/2 wants a name of the server; a Unix socket has none.
pub(crate) const ORIGIN: &str = "http://localhost";

#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    /// It starts, or is gone and has left its socket, or went in the middle of the call.
    #[error("the kubelet cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("the kubelet refused: {}", .0.message())]
    Refused(Status),
    #[error("the kubelet did not answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
}

/// One connection of HTTP/2.
#[derive(Debug, Clone)]
pub struct Connection(SendRequest<Body>);

/// Connects to the socket at `path`. The connection ends when the last copy of it is dropped.
///
/// # Errors
/// Those of connect(2), and of hyper where the other end speaks no HTTP/2.
pub async fn connect(path: &Path) -> io::Result<Connection> {
    let stream = UnixStream::connect(path).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // Its errors are those of the calls on it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(Connection(sender))
}

/// Tells the kubelet at `kubelet` that `resource` is to be had at `endpoint` in its directory.
pub(crate) async fn register(
    kubelet: &Path,
    endpoint: String,
    resource: String,
) -> Result<(), RegisterError> {
    let call = async {
        let connection = connect(kubelet).await.map_err(RegisterError::Unreachable)?;
        let mut client = RegistrationClient::with_origin(connection, Uri::from_static(ORIGIN));
        let request = RegisterRequest {
            version: VERSION.to_owned(),
            endpoint,
            resource_name: resource,
            options: Some(DevicePluginOptions::default()),
        };
        client.register(request).await.map_err(|status| {
            // What the kubelet says has no source.
            match status.source() {
                Some(_) => RegisterError::Unreachable(io::Error::other(status.message().to_owned())),
                None => RegisterError::Refused(status),
            }
        })?;
        Ok(())
    };
    tokio::time::timeout(TIMEOUT, call)
        .await
        .unwrap_or(Err(RegisterError::TimedOut))
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
