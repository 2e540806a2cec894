//! Typed requests to cloud-hypervisor's HTTP API on its Unix socket.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::assumptions::MIGRATING;
use crate::fd_stream::FdStream;

/// The API has one thread, and the slowest request is a boot.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes. No answer that is used is near this.
const MAX_BODY: usize = 1 << 20;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{request}: no answer within {} s", REPLY_TIMEOUT.as_secs())]
    TimedOut { request: &'static str },
    #[error("{request}: connect")]
    Connect {
        request: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{request}")]
    Http {
        request: &'static str,
        #[source]
        source: hyper::Error,
    },
    #[error("{request}: HTTP status {status}: {body}")]
    Refused {
        request: &'static str,
        status: u16,
        body: String,
    },
    #[error("{request}: cannot parse the answer: {why}")]
    Malformed { request: &'static str, why: String },
}

impl ApiError {
    /// cloud-hypervisor is sending the VM, and does not change it meanwhile.
    pub fn is_migrating(&self) -> bool {
        matches!(self, Self::Refused { body, .. } if body.contains(MIGRATING))
    }
}

/// Answer of `vmm.ping`.
#[derive(Debug, Clone, Deserialize)]
pub struct Ping {
    pub version: String,
    #[serde(default)]
    pub build_version: String,
}

/// Body of `vm.send-migration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SendMigration {
    pub destination_url: String,
    pub downtime_ms: u64,
    pub timeout_s: u64,
    pub timeout_strategy: TimeoutStrategy,
    pub connections: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<PathBuf>,
}

/// What becomes of a migration whose rounds do not shrink enough in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum TimeoutStrategy {
    /// It fails.
    Cancel,
    /// The VM is paused, however long the rest takes.
    Ignore,
}

/// Body of `vm.receive-migration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReceiveMigration {
    pub receiver_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct Api {
    socket: PathBuf,
}

impl Api {
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    pub async fn ping(&self) -> Result<Ping, ApiError> {
        const REQUEST: &str = "vmm.ping";
        let body = self.request(Method::GET, REQUEST, None).await?;
        serde_json::from_slice(&body).map_err(|error| malformed(REQUEST, &error))
    }

    /// `config` is the VM's configuration, as hawser and the sidecars have made it.
    pub async fn create(&self, config: &Value) -> Result<(), ApiError> {
        const REQUEST: &str = "vm.create";
        let body = config.to_string().into_bytes();
        self.request(Method::PUT, REQUEST, Some(body)).await.map(drop)
    }

    /// Adds a NIC to a VM that has not booted yet. `queues` are its device, one descriptor for each queue pair, where
    /// the device has no name that it could be opened by.
    pub async fn add_net(&self, nic: &Value, queues: Vec<OwnedFd>) -> Result<(), ApiError> {
        let body = nic.to_string().into_bytes();
        let exchange = self.exchange(Method::PUT, "vm.add-net", Some(body), queues);
        within(REPLY_TIMEOUT, "vm.add-net", exchange).await.map(drop)
    }

    pub async fn boot(&self) -> Result<(), ApiError> {
        self.request(Method::PUT, "vm.boot", None).await.map(drop)
    }

    /// What each device has carried since the guest booted: an object by device, of counters by name.
    pub async fn counters(&self) -> Result<Value, ApiError> {
        const REQUEST: &str = "vm.counters";
        let body = self.request(Method::GET, REQUEST, None).await?;
        serde_json::from_slice(&body).map_err(|error| malformed(REQUEST, &error))
    }

    pub async fn pause(&self) -> Result<(), ApiError> {
        self.request(Method::PUT, "vm.pause", None).await.map(drop)
    }

    pub async fn resume(&self) -> Result<(), ApiError> {
        self.request(Method::PUT, "vm.resume", None).await.map(drop)
    }

    /// As a computer's reset button. The events `rebooting` and `rebooted` come before the answer.
    pub async fn reset(&self) -> Result<(), ApiError> {
        self.request(Method::PUT, "vm.reboot", None).await.map(drop)
    }

    pub async fn nmi(&self) -> Result<(), ApiError> {
        self.request(Method::PUT, "vm.nmi", None).await.map(drop)
    }

    pub async fn power_button(&self) -> Result<(), ApiError> {
        self.request(Method::PUT, "vm.power-button", None).await.map(drop)
    }

    /// Begins to unplug a device. The event `device-removed` reports the end, once the guest has released it.
    pub async fn remove_device(&self, id: &str) -> Result<(), ApiError> {
        const REQUEST: &str = "vm.remove-device";
        let body = serde_json::to_vec(&serde_json::json!({ "id": id }))
            .map_err(|error| malformed(REQUEST, &error))?;
        self.request(Method::PUT, REQUEST, Some(body)).await.map(drop)
    }

    /// Plugs a PCI function into a running VM. `device` is a `DeviceConfig` of the VM's configuration.
    pub async fn add_device(&self, device: &Value) -> Result<(), ApiError> {
        let body = device.to_string().into_bytes();
        self.request(Method::PUT, "vm.add-device", Some(body))
            .await
            .map(drop)
    }

    /// Answered at once; events report the outcome.
    pub async fn send_migration(&self, how: &SendMigration) -> Result<(), ApiError> {
        const REQUEST: &str = "vm.send-migration";
        let body = serde_json::to_vec(how).map_err(|error| malformed(REQUEST, &error))?;
        self.request(Method::PUT, REQUEST, Some(body)).await.map(drop)
    }

    /// Answered when the migration is over, however long that takes; the API does not answer until then.
    pub async fn receive_migration(&self, how: &ReceiveMigration) -> Result<(), ApiError> {
        const REQUEST: &str = "vm.receive-migration";
        let body = serde_json::to_vec(how).map_err(|error| malformed(REQUEST, &error))?;
        self.exchange(Method::PUT, REQUEST, Some(body), Vec::new())
            .await
            .map(drop)
    }

    async fn request(
        &self,
        method: Method,
        request: &'static str,
        body: Option<Vec<u8>>,
    ) -> Result<Bytes, ApiError> {
        within(
            REPLY_TIMEOUT,
            request,
            self.exchange(method, request, body, Vec::new()),
        )
        .await
    }

    async fn exchange(
        &self,
        method: Method,
        request: &'static str,
        body: Option<Vec<u8>>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Bytes, ApiError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ApiError::Connect { request, source })?;
        converse(FdStream::new(stream, descriptors), method, request, body).await
    }
}

/// One request and its answer over a connection of its own.
pub(crate) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: Method,
    request: &'static str,
    body: Option<Vec<u8>>,
) -> Result<Bytes, ApiError> {
    let http = |source| ApiError::Http { request, source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    tokio::spawn(connection);
    let message = Request::builder()
        .method(method)
        .uri(format!("/api/v1/{request}"))
        .header("Host", "localhost")
        .header("Accept", "*/*")
        .header("Content-Type", "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|error| malformed(request, &error))?;
    let response = sender.send_request(message).await.map_err(http)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|error| ApiError::Malformed {
            request,
            why: error.to_string(),
        })?
        .to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    Err(ApiError::Refused {
        request,
        status: status.as_u16(),
        body: String::from_utf8_lossy(&body).escape_debug().take(2000).collect(),
    })
}

async fn within<T>(
    timeout: Duration,
    request: &'static str,
    exchange: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(timeout, exchange).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::TimedOut { request }),
    }
}

fn malformed(request: &'static str, why: &dyn std::fmt::Display) -> ApiError {
    ApiError::Malformed {
        request,
        why: why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_that_is_being_sent_is_distinguished_from_other_refusals() {
        let refused = |body: &str| ApiError::Refused {
            request: "vm.add-device",
            status: 500,
            body: body.into(),
        };
        // Seen with cloud-hypervisor 53.
        let migrating = r#"["Error from API","The device could not be added to the VM","VM is currently migrating and can't be modified"]"#;
        assert!(refused(migrating).is_migrating());
        assert!(!refused(r#"["Error from API","Cannot open a VFIO device"]"#).is_migrating());
        assert!(
            !ApiError::TimedOut {
                request: "vm.add-device"
            }
            .is_migrating()
        );
    }
}
