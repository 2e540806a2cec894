//! A sidecar's side of the connection.

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::codegen::Service;

use crate::v1alpha1::hooks_server::{Hooks, HooksServer};

/// Answers on one connection until it ends.
///
/// # Errors
/// Those of hyper: a peer that speaks no HTTP/2, or is gone in the middle of a call.
pub async fn serve<H: Hooks>(stream: UnixStream, hooks: HooksServer<H>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| hooks.clone().call(request));
    http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await
}
