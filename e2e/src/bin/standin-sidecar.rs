//! A scripted test double of a binding plugin's sidecar: the protocol is real, what it stands for is not.
//!
//! `standin-sidecar NAME DIRECTORY FAULT [TAP]` listens on DIRECTORY/NAME.sock. Without a fault (`none`) it gives each of
//! its NICs the TAP, or where none is named a vhost-user socket that it listens on and says nothing over. It says on
//! stdout what it is asked.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use hawser_hooks::v1alpha1::hooks_server::{Hooks, HooksServer};
use hawser_hooks::v1alpha1::{
    InfoRequest, InfoResponse, OnDefineVmRequest, OnDefineVmResponse, ShutdownRequest, ShutdownResponse,
};
use hawser_hooks::{Request, Response, Status, VERSION, async_trait};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;

/// What it does otherwise than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Calls itself by another name.
    Name,
    /// Speaks another version.
    Version,
    /// Accepts the connection and never says a word.
    HalfOpen,
    /// Never answers OnDefineVm.
    Hang,
    /// Answers OnDefineVm with more than any VM's configuration may have.
    Huge,
    /// Changes what is not its own: the guest's memory, its command line, and adds a NIC.
    Lie,
    /// Names a socket outside the shared directory.
    Escape,
    /// Never answers Shutdown.
    Stay,
    /// No fault: leaves the NIC its device and sets the size of its queues.
    Tune,
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "none" => Self::None,
            "name" => Self::Name,
            "version" => Self::Version,
            "half-open" => Self::HalfOpen,
            "hang" => Self::Hang,
            "huge" => Self::Huge,
            "lie" => Self::Lie,
            "escape" => Self::Escape,
            "stay" => Self::Stay,
            "tune" => Self::Tune,
            other => bail!("no fault {other}"),
        })
    }
}

#[derive(Debug)]
struct Sidecar {
    name: String,
    directory: PathBuf,
    fault: Fault,
    tap: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, directory, fault, rest @ ..] = args.as_slice() else {
        bail!("usage: standin-sidecar NAME DIRECTORY FAULT [TAP]");
    };
    let sidecar = Sidecar {
        name: name.clone(),
        directory: directory.into(),
        fault: fault.parse()?,
        tap: rest.first().cloned(),
    };
    let _backend = std::os::unix::net::UnixListener::bind(sidecar.directory.join("backend"))?;
    let socket = sidecar.directory.join(format!("{name}.sock"));
    let listener = UnixListener::bind(&socket).with_context(|| socket.display().to_string())?;
    println!("standin-sidecar: listening");
    let fault = sidecar.fault;
    let server = HooksServer::new(sidecar);
    loop {
        let (mut stream, _) = listener.accept().await?;
        if fault == Fault::HalfOpen {
            stream.read_to_end(&mut Vec::new()).await?;
            continue;
        }
        if let Err(error) = hawser_hooks::serve(stream, server.clone()).await {
            println!("standin-sidecar: {error}");
        }
        println!("standin-sidecar: disconnected");
    }
}

#[async_trait]
impl Hooks for Sidecar {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        println!("standin-sidecar: Info");
        let name = if self.fault == Fault::Name {
            "somebody-else"
        } else {
            &self.name
        };
        let version = if self.fault == Fault::Version {
            "v9"
        } else {
            VERSION
        };
        Ok(Response::new(InfoResponse {
            name: name.to_owned(),
            versions: vec![version.to_owned()],
        }))
    }

    async fn on_define_vm(
        &self,
        request: Request<OnDefineVmRequest>,
    ) -> Result<Response<OnDefineVmResponse>, Status> {
        let request = request.into_inner();
        println!("standin-sidecar: OnDefineVm {}", request.interface);
        match self.fault {
            Fault::Hang => std::future::pending().await,
            Fault::Huge => {
                return Ok(Response::new(OnDefineVmResponse {
                    vm_config: vec![b' '; 64 << 20],
                }));
            }
            _ => {}
        }
        let answer = self
            .complete(&request)
            .map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
        Ok(Response::new(OnDefineVmResponse {
            vm_config: answer.to_string().into_bytes(),
        }))
    }

    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Result<Response<ShutdownResponse>, Status> {
        println!("standin-sidecar: Shutdown");
        if self.fault == Fault::Stay {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(ShutdownResponse {}))
    }
}

impl Sidecar {
    fn complete(&self, request: &OnDefineVmRequest) -> Result<Value> {
        let mut config: Value = serde_json::from_slice(&request.vm_config)?;
        let nics = config
            .get_mut("net")
            .and_then(Value::as_array_mut)
            .context("no net")?;
        let nic = nics
            .iter_mut()
            .find(|nic| nic.get("id").and_then(Value::as_str) == Some(&request.interface))
            .and_then(Value::as_object_mut)
            .context("no such NIC")?;
        if self.fault == Fault::Tune {
            nic.insert("queue_size".to_owned(), json!(512));
        } else if let Some(tap) = &self.tap {
            nic.insert("tap".to_owned(), json!(tap));
        } else {
            let socket = if self.fault == Fault::Escape {
                PathBuf::from("/etc/passwd")
            } else {
                Path::new(&request.shared_directory).join("backend")
            };
            nic.insert("vhost_user".to_owned(), json!(true));
            nic.insert("vhost_socket".to_owned(), json!(socket));
        }
        if self.fault == Fault::Lie {
            nics.push(json!({"id": "extra", "tap": "tap7"}));
            for (pointer, value) in [
                ("/memory/size", json!(1 << 30)),
                ("/payload/cmdline", json!("init=/bin/sh")),
            ] {
                *config.pointer_mut(pointer).context("no such field")? = value;
            }
        }
        Ok(config)
    }
}
