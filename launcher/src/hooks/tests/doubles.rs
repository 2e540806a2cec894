//! Sidecars that misbehave, each in one way.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hawser_hooks::v1alpha1::hooks_server::{Hooks, HooksServer};
use hawser_hooks::v1alpha1::{
    InfoRequest, InfoResponse, OnDefineVmRequest, OnDefineVmResponse, ShutdownRequest, ShutdownResponse,
};
use hawser_hooks::{Request, Response, Status, async_trait};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};

/// What a double does where it does not do as it should.
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    pub(super) name: Option<&'static str>,
    pub(super) versions: Option<Vec<&'static str>>,
    /// The call that is never answered.
    pub(super) hangs: Option<&'static str>,
    /// The call that is answered with an error.
    pub(super) fails: Option<&'static str>,
    /// What takes the place of the answer to OnDefineVm.
    pub(super) answer: Option<Vec<u8>>,
    /// What is changed beside the NIC.
    pub(super) change: Option<(&'static str, Value)>,
    /// The path of the backend's socket below the shared directory; nobody's if it says so.
    pub(super) socket: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Double {
    plugin: String,
    script: Script,
    /// The calls that came, each with its interface.
    calls: Arc<Mutex<Vec<String>>>,
}

impl Double {
    async fn comes(&self, call: &str, about: &str) -> Result<(), Status> {
        self.calls
            .lock()
            .unwrap()
            .push(format!("{call} {about}").trim_end().to_owned());
        if self.script.hangs == Some(call) {
            std::future::pending::<()>().await;
        }
        if self.script.fails == Some(call) {
            return Err(Status::internal(format!(
                "out of order\u{1b}{}",
                "!".repeat(5000)
            )));
        }
        Ok(())
    }
}

#[async_trait]
impl Hooks for Double {
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        self.comes("Info", "").await?;
        let versions = self
            .script
            .versions
            .clone()
            .unwrap_or_else(|| vec!["v9", "v1alpha1"]);
        Ok(Response::new(InfoResponse {
            name: self.script.name.unwrap_or(&self.plugin).to_owned(),
            versions: versions.into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn on_define_vm(
        &self,
        request: Request<OnDefineVmRequest>,
    ) -> Result<Response<OnDefineVmResponse>, Status> {
        let request = request.into_inner();
        self.comes("OnDefineVm", &request.interface).await?;
        if let Some(answer) = &self.script.answer {
            return Ok(Response::new(OnDefineVmResponse {
                vm_config: answer.clone(),
            }));
        }
        let vmi: Value = serde_json::from_slice(&request.vmi).unwrap();
        assert_eq!(vmi, json!({"kind": "VirtualMachineInstance"}));
        let mut config: Value = serde_json::from_slice(&request.vm_config).unwrap();
        let socket = Path::new(&request.shared_directory)
            .join(self.script.socket.unwrap_or("backend.vhost"))
            .display()
            .to_string();
        for nic in config["net"].as_array_mut().unwrap() {
            if nic["id"] == request.interface.as_str() {
                nic["vhost_user"] = json!(true);
                nic["vhost_socket"] = json!(socket);
            }
        }
        if let Some((pointer, value)) = &self.script.change {
            *config.pointer_mut(pointer).unwrap() = value.clone();
        }
        Ok(Response::new(OnDefineVmResponse {
            vm_config: config.to_string().into_bytes(),
        }))
    }

    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Result<Response<ShutdownResponse>, Status> {
        self.comes("Shutdown", "").await?;
        Ok(Response::new(ShutdownResponse {}))
    }
}

/// A shared directory with a backend's socket in it, and the doubles that listen there.
pub(super) struct Shared {
    pub(super) dir: TempDir,
    _backend: std::os::unix::net::UnixListener,
    pub(super) calls: Arc<Mutex<Vec<String>>>,
}

impl Shared {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backend = std::os::unix::net::UnixListener::bind(dir.path().join("backend.vhost")).unwrap();
        Self {
            dir,
            _backend: backend,
            calls: Arc::default(),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Listens as `plugin`, one connection after another. Ended by aborting it.
    pub(super) fn sidecar(&self, plugin: &str, script: Script) -> tokio::task::JoinHandle<()> {
        let listener = self.listen(plugin);
        let double = HooksServer::new(Double {
            plugin: plugin.to_owned(),
            script,
            calls: self.calls.clone(),
        });
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let _ = hawser_hooks::serve(stream, double.clone()).await;
            }
        })
    }

    /// Listens as `plugin` and does as it likes with the first connection.
    pub(super) fn raw<F: Future<Output = ()> + Send>(
        &self,
        plugin: &str,
        with: impl FnOnce(UnixStream) -> F + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let listener = self.listen(plugin);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            with(stream).await;
        })
    }

    fn listen(&self, plugin: &str) -> UnixListener {
        UnixListener::bind(self.path().join(format!("{plugin}.sock"))).unwrap()
    }

    pub(super) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

/// Short, for doubles that use up all of them.
pub(super) const SHORT: Duration = Duration::from_millis(300);
