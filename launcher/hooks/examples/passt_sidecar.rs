//! A sidecar of a binding plugin: gives each of its NICs a passt of its own as vhost-user backend.
//!
//! Registered as `userspace: {sidecarImage: …}`, it runs in a container of the guest's pod that shares the hooks'
//! directory with hawser, here as /shared:
//!
//!     passt_sidecar --name userspace --directory /shared
//!
//! passt knows the pod's addresses and gives them to the guest, opens the ports that the manifest lists, or all of them,
//! and needs no privilege and no interface of its own. What is here beside that is all there is to a sidecar: `Info`,
//! `OnDefineVm`, `Shutdown`, and that it ends when it is of no use any more, which hawser sees.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use hawser_hooks::v1alpha1::hooks_server::{Hooks, HooksServer};
use hawser_hooks::v1alpha1::{
    InfoRequest, InfoResponse, OnDefineVmRequest, OnDefineVmResponse, ShutdownRequest, ShutdownResponse,
};
use hawser_hooks::{Request, Response, Status, VERSION, async_trait};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;

#[derive(Debug, Parser)]
struct Arguments {
    /// The name that the plugin is registered by.
    #[arg(long)]
    name: String,
    /// The directory that is shared with hawser, as it is called here.
    #[arg(long)]
    directory: PathBuf,
    #[arg(long, default_value = "passt")]
    passt: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let socket = arguments.directory.join(format!("{}.sock", arguments.name));
    let listener = listen(&socket)?;
    eprintln!("{}: listening on {}", arguments.name, socket.display());
    // As a container's first process it has no default for this signal.
    let mut terminate = signal(SignalKind::terminate())?;
    let sidecar = Arc::new(Sidecar {
        arguments,
        backends: Mutex::default(),
        farewell: AtomicBool::new(false),
    });
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = terminate.recv() => return Ok(()),
        };
        tokio::select! {
            // A hawser that is gone without a farewell may be started anew, and then connects again.
            result = hawser_hooks::serve(stream, HooksServer::from_arc(sidecar.clone())) => {
                if let Err(error) = result {
                    eprintln!("{}: {error}", sidecar.arguments.name);
                }
            }
            // Of no use any more; hawser sees the connection end.
            why = sidecar.backend_ended() => bail!(why),
            _ = terminate.recv() => return Ok(()),
        }
        sidecar.backends.lock().await.clear();
        // Not before the connection has ended: until then the answer is on its way.
        if sidecar.farewell.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

fn listen(socket: &Path) -> Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| socket.display().to_string());
        }
        _ => {}
    }
    UnixListener::bind(socket).with_context(|| socket.display().to_string())
}

#[derive(Debug)]
struct Sidecar {
    arguments: Arguments,
    /// By interface; killed when dropped.
    backends: Mutex<BTreeMap<String, Child>>,
    farewell: AtomicBool,
}

#[async_trait]
impl Hooks for Sidecar {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse {
            name: self.arguments.name.clone(),
            versions: vec![VERSION.to_owned()],
        }))
    }

    async fn on_define_vm(
        &self,
        request: Request<OnDefineVmRequest>,
    ) -> Result<Response<OnDefineVmResponse>, Status> {
        let OnDefineVmRequest {
            vmi,
            vm_config,
            interface,
            shared_directory,
        } = request.into_inner();
        let bad = |error: serde_json::Error| Status::invalid_argument(error.to_string());
        let vmi: Value = serde_json::from_slice(&vmi).map_err(bad)?;
        let mut config: Value = serde_json::from_slice(&vm_config).map_err(bad)?;
        // An interface's name is one of letters, digits, '-' and '_'.
        let file = format!("{interface}.vhost");
        self.start(&interface, &file, &vmi)
            .await
            .map_err(|error| Status::failed_precondition(format!("{error:#}")))?;
        let nics = config.get_mut("net").and_then(Value::as_array_mut);
        let nic = nics
            .into_iter()
            .flatten()
            .find(|nic| nic.get("id").and_then(Value::as_str) == Some(&interface))
            .and_then(Value::as_object_mut)
            .ok_or_else(|| Status::invalid_argument(format!("no NIC {interface}")))?;
        nic.insert("vhost_user".to_owned(), json!(true));
        // Named as hawser sees it.
        let socket = Path::new(&shared_directory).join(&file);
        nic.insert("vhost_socket".to_owned(), json!(socket));
        Ok(Response::new(OnDefineVmResponse {
            vm_config: config.to_string().into_bytes(),
        }))
    }

    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Result<Response<ShutdownResponse>, Status> {
        self.backends.lock().await.clear();
        self.farewell.store(true, Ordering::Relaxed);
        Ok(Response::new(ShutdownResponse {}))
    }
}

impl Sidecar {
    /// Starts a passt that listens on `file`, and waits until it does.
    async fn start(&self, interface: &str, file: &str, vmi: &Value) -> Result<()> {
        const TIMEOUT: Duration = Duration::from_secs(5);
        let socket = self.arguments.directory.join(file);
        // passt removes none that is left over, nor the second one that it makes for its own migration.
        for left in [
            socket.clone(),
            self.arguments.directory.join(format!("{file}.repair")),
        ] {
            let _ = std::fs::remove_file(left);
        }
        let mut child = Command::new(&self.arguments.passt)
            .args(["--foreground", "--vhost-user", "--socket"])
            .arg(&socket)
            .args(["--no-map-gw", "--map-host-loopback", "none"])
            .args(ports(vmi, interface))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start passt")?;
        let listening = async {
            while !socket.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            status = child.wait() => bail!("passt ended at once: {}", status?),
            result = tokio::time::timeout(TIMEOUT, listening) => result.context("passt does not listen")?,
        }
        self.backends.lock().await.insert(interface.to_owned(), child);
        Ok(())
    }

    /// Ends when one of the backends has ended by itself.
    async fn backend_ended(&self) -> String {
        loop {
            for (interface, child) in self.backends.lock().await.iter_mut() {
                if let Ok(Some(status)) = child.try_wait() {
                    return format!("the passt of {interface} has ended: {status}");
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// passt's options for the ports of the manifest: all of them where none is listed.
fn ports(vmi: &Value, interface: &str) -> Vec<String> {
    let interfaces = vmi
        .pointer("/spec/domain/devices/interfaces")
        .and_then(Value::as_array);
    let listed = interfaces
        .into_iter()
        .flatten()
        .find(|written| written.get("name").and_then(Value::as_str) == Some(interface))
        .and_then(|written| written.get("ports")?.as_array())
        .filter(|ports| !ports.is_empty());
    let Some(listed) = listed else {
        return ["--tcp-ports", "all", "--udp-ports", "all"]
            .map(str::to_owned)
            .to_vec();
    };
    let mut options = Vec::new();
    for port in listed {
        let udp = port.get("protocol").and_then(Value::as_str) == Some("UDP");
        if let Some(number) = port.get("port").and_then(Value::as_u64) {
            options.push(if udp { "--udp-ports" } else { "--tcp-ports" }.to_owned());
            options.push(number.to_string());
        }
    }
    options
}
