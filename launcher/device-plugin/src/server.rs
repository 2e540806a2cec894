//! One resource's socket, and what the kubelet is answered there.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::codegen::Service;
use tonic::{Request, Response, Status};

use crate::offer::Offer;
use crate::registration::FileId;
use crate::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use crate::v1beta1::{
    AllocateRequest, AllocateResponse, DevicePluginOptions, Empty, ListAndWatchResponse,
    PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
    PreferredAllocationResponse,
};

/// After accept(2) has failed, which it does again at once where this process may open no more files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What the kubelet asks one resource.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    pub(crate) offer: Arc<Offer>,
    /// Whether the node can be used, as it was last seen.
    pub(crate) healthy: watch::Receiver<bool>,
    /// How many streams of devices are open.
    pub(crate) watchers: watch::Sender<usize>,
}

/// Listens, and removes its socket when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    path: PathBuf,
    pub(crate) socket: FileId,
    _connections: JoinSet<()>,
}

impl Server {
    /// In the place of whatever socket is there.
    pub(crate) fn listen(path: &Path, answers: Answers) -> io::Result<Self> {
        let listener = hawser_linux::unix_socket::bind_nonblocking(path)?;
        let listener = UnixListener::from_std(listener)?;
        let socket = FileId::of(path).ok_or(io::ErrorKind::NotFound)?;
        let mut connections = JoinSet::new();
        connections.spawn(serve(listener, DevicePluginServer::new(answers)));
        Ok(Self {
            path: path.to_owned(),
            socket,
            _connections: connections,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Another's, where it is not this one: the kubelet's, that has emptied the directory, or another process's.
        if FileId::of(&self.path) == Some(self.socket) {
            let _ = hawser_linux::unix_socket::remove_stale(&self.path);
        }
    }
}

/// Ends when it is dropped, and all connections with it.
async fn serve(listener: UnixListener, answers: DevicePluginServer<Answers>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let answers = answers.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answers.clone().call(request));
            let connection =
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            // A kubelet that ends breaks it off.
            drop(connection.await);
        });
    }
}

/// Counts an open stream for as long as it lives.
struct Watcher(watch::Sender<usize>);

impl Watcher {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count = count.saturating_add(1));
        Self(count.clone())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[tonic::async_trait]
impl DevicePlugin for Answers {
    type ListAndWatchStream = Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let mut healthy = self.healthy.clone();
        // The first list is sent at once.
        healthy.mark_changed();
        let state = (self.offer.clone(), healthy, Watcher::new(&self.watchers));
        let lists = stream::unfold(state, |(offer, mut healthy, watcher)| async move {
            healthy.changed().await.ok()?;
            let devices = offer.devices(*healthy.borrow_and_update());
            Some((Ok(ListAndWatchResponse { devices }), (offer, healthy, watcher)))
        });
        Ok(Response::new(Box::pin(lists)))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let path = self.offer.path();
        let answer = self.offer.answer().ok_or_else(|| {
            Status::failed_precondition(format!(
                "{}: the node has no such device at this moment",
                path.display()
            ))
        })?;
        let containers = request.into_inner().container_requests;
        tracing::debug!(
            event = "device-allocated",
            resource = self.offer.full_name(),
            containers = containers.len()
        );
        let container_responses = containers.iter().map(|_| answer.clone()).collect();
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Err(Status::unimplemented("any device is as good as any other"))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Err(Status::unimplemented(
            "nothing is to be done before a container starts",
        ))
    }
}
