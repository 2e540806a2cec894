//! The calls in their order, and the watch over the connections.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use hawser_hooks::v1alpha1::{InfoRequest, OnDefineVmRequest, ShutdownRequest};
use hawser_hooks::{Client, Response, Status, VERSION};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::error::status_text;
use super::{HookError, Hooked, Hooks, Plugin, rules, socket};
use crate::spec::Refusals;

/// Between two attempts to connect: nothing says when another container has come so far.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// A connected sidecar.
struct Sidecar {
    plugin: String,
    client: Client,
    /// Ends with the connection.
    connection: JoinHandle<Result<(), hyper::Error>>,
    interfaces: Vec<String>,
}

/// Has `config` completed by all sidecars and answers `defined` with it; then reports sidecars that end, until `over`
/// closes, and tells the others to shut down.
pub(crate) async fn run(
    hooks: Hooks,
    config: Value,
    defined: oneshot::Sender<Result<Value, HookError>>,
    over: watch::Receiver<()>,
) {
    let mut sidecars = Vec::new();
    let result = tokio::select! {
        result = define(&hooks, config, &mut sidecars) => Some(result),
        () = closed(over.clone()) => None,
    };
    if let Some(result) = result {
        // Where nobody wants it any more, `over` closes next.
        let _ = defined.send(result);
    }
    let mut watches = JoinSet::new();
    for sidecar in sidecars {
        watches.spawn(accompany(sidecar, hooks.deadlines.farewell, over.clone()));
    }
    while watches.join_next().await.is_some() {}
}

/// Nothing is ever sent on it: only the sender's end completes this.
async fn closed(mut over: watch::Receiver<()>) {
    while over.changed().await.is_ok() {}
}

async fn define(hooks: &Hooks, mut config: Value, sidecars: &mut Vec<Sidecar>) -> Result<Value, HookError> {
    let give_up = Instant::now() + hooks.deadlines.start;
    let vmi = hooks.vmi.to_string().into_bytes();
    for plugin in &hooks.plugins {
        let (client, connection) = connect(hooks, plugin, give_up).await?;
        sidecars.push(Sidecar {
            plugin: plugin.name.clone(),
            client: client.clone(),
            connection,
            interfaces: plugin
                .interfaces
                .iter()
                .map(|hooked| hooked.name.clone())
                .collect(),
        });
        introduce(client.clone(), hooks, plugin).await?;
        for hooked in &plugin.interfaces {
            let answer = ask(client.clone(), hooks, plugin, hooked, &vmi, &config).await?;
            config = accept(&hooks.directory, plugin, hooked, &config, &answer)?;
            tracing::info!(
                event = "sidecar-defined-interface",
                interface = %hooked.name,
                plugin = %plugin.name,
                "interface {}: completed by the sidecar of binding plugin {}",
                hooked.name,
                plugin.name
            );
        }
    }
    rules::share_memory_where_needed(&mut config);
    Ok(config)
}

/// Tries until the sidecar's container has come up.
async fn connect(
    hooks: &Hooks,
    plugin: &Plugin,
    give_up: Instant,
) -> Result<(Client, JoinHandle<Result<(), hyper::Error>>), HookError> {
    let socket = hooks.directory.join(format!("{}.sock", plugin.name));
    let mut said = false;
    let stream = loop {
        let error = match timeout_at(give_up, UnixStream::connect(&socket)).await {
            Ok(Ok(stream)) => break stream,
            Ok(Err(error)) => error,
            Err(_) => std::io::ErrorKind::TimedOut.into(),
        };
        // A path that is too long does not become shorter.
        let hopeless = error.kind() == std::io::ErrorKind::InvalidInput;
        if hopeless || Instant::now() >= give_up {
            return Err(HookError::Absent {
                plugin: plugin.name.clone(),
                socket,
                patience: hooks.deadlines.start,
                source: error,
            });
        }
        if !said {
            said = true;
            let socket = socket.display();
            tracing::info!(
                event = "waiting-for-sidecar",
                plugin = %plugin.name,
                "waiting for the sidecar of binding plugin {} on {socket}",
                plugin.name
            );
        }
        sleep(RETRY_INTERVAL).await;
    };
    hawser_hooks::connect(stream)
        .await
        .map_err(|source| HookError::Http {
            plugin: plugin.name.clone(),
            source,
        })
}

async fn introduce(mut client: Client, hooks: &Hooks, plugin: &Plugin) -> Result<(), HookError> {
    let request = InfoRequest {
        versions: vec![VERSION.to_owned()],
    };
    let info = answered(hooks, plugin, "Info", client.info(request)).await?;
    if info.name != plugin.name {
        return Err(HookError::OtherName {
            plugin: plugin.name.clone(),
            said: info.name,
        });
    }
    if !info.versions.iter().any(|version| version == VERSION) {
        return Err(HookError::OtherVersion {
            plugin: plugin.name.clone(),
            versions: info.versions,
        });
    }
    Ok(())
}

async fn ask(
    mut client: Client,
    hooks: &Hooks,
    plugin: &Plugin,
    hooked: &Hooked,
    vmi: &[u8],
    config: &Value,
) -> Result<Vec<u8>, HookError> {
    let request = OnDefineVmRequest {
        vmi: vmi.to_vec(),
        vm_config: config.to_string().into_bytes(),
        interface: hooked.name.clone(),
        shared_directory: hooks.directory.display().to_string(),
    };
    let answer = answered(hooks, plugin, "OnDefineVm", client.on_define_vm(request)).await?;
    Ok(answer.vm_config)
}

/// Reads what a sidecar answered, and takes over what it may set.
fn accept(
    directory: &Path,
    plugin: &Plugin,
    hooked: &Hooked,
    config: &Value,
    answer: &[u8],
) -> Result<Value, HookError> {
    let theirs: Value = serde_json::from_slice(answer).map_err(|error| HookError::NoJson {
        plugin: plugin.name.clone(),
        interface: hooked.name.clone(),
        why: error.to_string(),
    })?;
    let refused = |refusals| HookError::Refused {
        plugin: plugin.name.clone(),
        interface: hooked.name.clone(),
        refusals,
    };
    let merged = rules::merge(config, &theirs, hooked).map_err(refused)?;
    if let Some(path) = &merged.socket {
        socket::check(directory, path).map_err(|why| {
            let field = merged.nic.key("vhost_socket").to_string();
            refused(Refusals::one(
                &field,
                format!("{}: {why}", crate::spec::quoted(path)),
            ))
        })?;
    }
    Ok(merged.config)
}

async fn answered<T>(
    hooks: &Hooks,
    plugin: &Plugin,
    call: &'static str,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, HookError> {
    let plugin = || plugin.name.clone();
    let deadline = hooks.deadlines.call;
    match timeout(deadline, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(HookError::Failed {
            plugin: plugin(),
            call,
            status: Box::new(status),
        }),
        Err(_) => Err(HookError::Silent {
            plugin: plugin(),
            call,
            deadline,
        }),
    }
}

/// Stays with a sidecar until one of the two ends: it, or the guest.
async fn accompany(sidecar: Sidecar, farewell: Duration, over: watch::Receiver<()>) {
    let Sidecar {
        plugin,
        mut client,
        mut connection,
        interfaces,
    } = sidecar;
    tokio::select! {
        // The guest's end first: sidecars may end with it.
        biased;
        () = closed(over) => {
            match timeout(farewell, client.shutdown(ShutdownRequest {})).await {
                Ok(Ok(_)) => tracing::debug!("the sidecar of binding plugin {plugin} knows that the guest has ended"),
                Ok(Err(status)) => {
                    tracing::warn!(
                        event = "sidecar-shutdown-failed",
                        plugin = %plugin,
                        "the sidecar of binding plugin {plugin}: Shutdown: {}",
                        status_text(&status)
                    );
                }
                Err(_) => {
                    let seconds = farewell.as_secs();
                    tracing::warn!(
                        event = "sidecar-shutdown-failed",
                        plugin = %plugin,
                        "the sidecar of binding plugin {plugin}: Shutdown: no answer within {seconds} s"
                    );
                }
            }
            connection.abort();
        }
        result = &mut connection => {
            let why = match result {
                Ok(Err(error)) => format!(": {error}"),
                _ => String::new(),
            };
            tracing::error!(
                event = "sidecar-exited",
                plugin = %plugin,
                interfaces = %interfaces.join(","),
                "the sidecar of binding plugin {plugin} exited{why}; the guest runs on, and its NIC {} may have no network any more",
                interfaces.join(", ")
            );
        }
    }
}
