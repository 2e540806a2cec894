//! The built binary and a double of the kubelet: a server of the kubelet's Registration service in this process, that does
//! what the real one does. It empties its directory when it starts, and connects to a plugin before it answers it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hawser_device_plugin::v1beta1::device_plugin_client::DevicePluginClient;
use hawser_device_plugin::v1beta1::registration_server::{Registration, RegistrationServer};
use hawser_device_plugin::v1beta1::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse, Empty, ListAndWatchResponse,
    RegisterRequest,
};
use hawser_device_plugin::{Connection, KUBELET_SOCKET, PASST_PROFILE, connect};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::AsyncBufReadExt;
use tokio::net::UnixListener;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::codegen::Service;
use tonic::{Code, Request, Response, Status, Streaming};

/// Longer than anything takes, and shorter than the plugin's own look at everything, which is to mend nothing here.
const LIMIT: Duration = Duration::from_secs(8);

type Client = DevicePluginClient<Connection>;

/// A plugin as the double knows it: its resource, and a connection to it.
struct Known {
    resource: String,
    client: Client,
}

#[derive(Clone)]
struct Double {
    directory: PathBuf,
    /// Whether it refuses.
    refuses: bool,
    registered: mpsc::UnboundedSender<Known>,
}

#[tonic::async_trait]
impl Registration for Double {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        assert_eq!(request.version, "v1beta1");
        assert!(!request.endpoint.contains('/'), "{}", request.endpoint);
        let client = client(&self.directory.join(&request.endpoint)).await;
        let known = Known {
            resource: request.resource_name,
            client,
        };
        self.registered.send(known).unwrap();
        match self.refuses {
            true => Err(Status::unknown("the double refuses")),
            false => Ok(Response::new(Empty {})),
        }
    }
}

async fn client(socket: &Path) -> Client {
    let connection = connect(socket).await.unwrap();
    DevicePluginClient::with_origin(connection, hyper::Uri::from_static("http://localhost"))
}

/// A kubelet that runs, until it is dropped.
struct Kubelet {
    registered: mpsc::UnboundedReceiver<Known>,
    _connections: JoinSet<()>,
}

impl Kubelet {
    fn start(directory: &Path, refuses: bool) -> Self {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_dir() {
                fs::remove_file(path).unwrap();
            }
        }
        Self::start_beside_what_is_there(directory, refuses)
    }

    fn start_beside_what_is_there(directory: &Path, refuses: bool) -> Self {
        let (sender, registered) = mpsc::unbounded_channel();
        let double = Double {
            directory: directory.to_owned(),
            refuses,
            registered: sender,
        };
        let listener = UnixListener::bind(directory.join(KUBELET_SOCKET)).unwrap();
        let server = RegistrationServer::new(double);
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| server.clone().call(request));
                    let connection = http2::Builder::new(TokioExecutor::new());
                    drop(connection.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self {
            registered,
            _connections: connections,
        }
    }

    async fn next(&mut self) -> Known {
        within(self.registered.recv())
            .await
            .expect("the double has ended")
    }

    /// As many plugins as are expected, by their resources.
    async fn all(&mut self, count: usize) -> BTreeMap<String, Client> {
        let mut all = BTreeMap::new();
        while all.len() < count {
            let known = self.next().await;
            all.insert(known.resource, known.client);
        }
        all
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("nothing happened in time")
}

async fn watch(client: &mut Client) -> Streaming<ListAndWatchResponse> {
    within(client.list_and_watch(Empty {}))
        .await
        .unwrap()
        .into_inner()
}

/// How many devices there are, and how many of them are healthy.
async fn list(stream: &mut Streaming<ListAndWatchResponse>) -> (usize, usize) {
    let list = within(stream.message())
        .await
        .unwrap()
        .expect("the stream has ended");
    let healthy = list.devices.iter().filter(|device| device.health == "Healthy");
    (list.devices.len(), healthy.count())
}

async fn allocate(client: &mut Client, containers: usize) -> Result<Vec<ContainerAllocateResponse>, Status> {
    let container = ContainerAllocateRequest {
        devices_ids: vec!["kvm0".to_owned()],
    };
    let request = AllocateRequest {
        container_requests: vec![container; containers],
    };
    let answer = within(client.allocate(request)).await?;
    Ok(answer.into_inner().container_responses)
}

/// A node's directories, and the plugin that runs on it.
struct Node {
    top: TempDir,
    plugin: Option<Child>,
}

impl Node {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("device-plugins")).unwrap();
        fs::create_dir(top.path().join("dev")).unwrap();
        Self { top, plugin: None }
    }

    fn directory(&self) -> PathBuf {
        self.top.path().join("device-plugins")
    }

    fn dev(&self) -> PathBuf {
        self.top.path().join("dev")
    }

    /// A device that everybody may open, in the place of a real one.
    fn load(&self, node: &str) {
        let path = self.dev().join(node);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink("/dev/null", path).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-device-plugin"));
        command
            .arg("--kubelet-dir")
            .arg(self.directory())
            .arg("--dev")
            .arg(self.dev())
            .arg("--passt-profile")
            .arg(self.top.path().join("seccomp/hawser/passt.json"))
            .args(arguments)
            .kill_on_drop(true);
        command
    }

    fn start(&mut self, arguments: &[&str]) {
        self.plugin = Some(self.command(arguments).spawn().unwrap());
    }

    /// Whoever has the log reads it.
    fn start_logging(&mut self, arguments: &[&str]) -> ChildStderr {
        let mut child = self.command(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let log = child.stderr.take().unwrap();
        self.plugin = Some(child);
        log
    }

    async fn kill(&mut self) {
        within(self.plugin.take().unwrap().kill()).await.unwrap();
    }

    fn sockets(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("hawser-")).collect()
    }
}

#[tokio::test]
async fn all_resources_are_registered_and_listed() {
    let mut node = Node::new();
    node.load("kvm");
    node.load("net/tun");
    let mut kubelet = Kubelet::start(&node.directory(), false);
    node.start(&[]);
    let mut all = kubelet.all(4).await;
    let names: Vec<_> = all.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["kvm", "tun", "vfio", "vhost-net"].map(|name| format!("devices.kubevirt.io/{name}"))
    );
    for (resource, client) in &mut all {
        let healthy = match resource.as_str() {
            "devices.kubevirt.io/kvm" | "devices.kubevirt.io/tun" => 1000,
            _ => 0,
        };
        let options = within(client.get_device_plugin_options(Empty {}))
            .await
            .unwrap()
            .into_inner();
        assert!(!options.pre_start_required && !options.get_preferred_allocation_available);
        assert_eq!(
            list(&mut watch(client).await).await,
            (1000, healthy),
            "{resource}"
        );
    }
    let tun = all.get_mut("devices.kubevirt.io/tun").unwrap();
    let answers = allocate(tun, 2).await.unwrap();
    assert_eq!(answers.len(), 2);
    for answer in answers {
        let [device] = answer.devices.as_slice() else {
            panic!("{answer:?}");
        };
        assert_eq!(
            (device.host_path.as_str(), device.container_path.as_str()),
            ("/dev/net/tun", "/dev/net/tun")
        );
        assert_eq!(device.permissions, "rw");
        assert!(answer.mounts.is_empty());
    }
    let profile = node.top.path().join("seccomp/hawser/passt.json");
    assert_eq!(fs::read_to_string(profile).unwrap(), PASST_PROFILE);
}

#[tokio::test]
async fn domain_number_and_choice_are_the_operators() {
    let mut node = Node::new();
    node.load("kvm");
    let mut kubelet = Kubelet::start(&node.directory(), false);
    node.start(&["--domain", "example.org", "--devices", "3", "--offer", "kvm"]);
    let mut known = kubelet.next().await;
    assert_eq!(known.resource, "example.org/kvm");
    assert_eq!(list(&mut watch(&mut known.client).await).await, (3, 3));
    assert_eq!(node.sockets(), ["hawser-kvm.sock"]);
}

#[tokio::test]
async fn a_node_that_comes_late_and_goes_is_reported() {
    let mut node = Node::new();
    let mut kubelet = Kubelet::start(&node.directory(), false);
    node.start(&["--offer", "vfio", "--devices", "5"]);
    let mut known = kubelet.next().await;
    let mut lists = watch(&mut known.client).await;
    assert_eq!(list(&mut lists).await, (5, 0));
    let refused = allocate(&mut known.client, 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("vfio/vfio"), "{refused}");
    // Its directory is new too.
    node.load("vfio/vfio");
    assert_eq!(list(&mut lists).await, (5, 5));
    assert!(allocate(&mut known.client, 1).await.is_ok());
    fs::remove_dir_all(node.dev().join("vfio")).unwrap();
    assert_eq!(list(&mut lists).await, (5, 0));
    node.load("vfio/vfio");
    assert_eq!(list(&mut lists).await, (5, 5));
}

#[tokio::test]
async fn a_kubelet_that_comes_late_or_restarts_is_told() {
    let mut node = Node::new();
    node.load("kvm");
    // A socket that nobody listens on: of a kubelet that was killed.
    drop(UnixListener::bind(node.directory().join(KUBELET_SOCKET)).unwrap());
    node.start(&["--offer", "kvm"]);
    for _ in 0..3 {
        let mut kubelet = Kubelet::start(&node.directory(), false);
        let mut known = kubelet.next().await;
        assert_eq!(list(&mut watch(&mut known.client).await).await, (1000, 1000));
    }
    // One that leaves its directory as it is.
    fs::remove_file(node.directory().join(KUBELET_SOCKET)).unwrap();
    let mut kubelet = Kubelet::start_beside_what_is_there(&node.directory(), false);
    kubelet.next().await;
}

#[tokio::test]
async fn a_directory_that_does_not_exist_yet_is_waited_for() {
    let mut node = Node::new();
    fs::remove_dir(node.directory()).unwrap();
    let log = node.start_logging(&["--offer", "kvm"]);
    // Logged after it has looked for the directory.
    let mut lines = tokio::io::BufReader::new(log).lines();
    while !within(lines.next_line())
        .await
        .unwrap()
        .unwrap()
        .contains("device-unavailable")
    {}
    fs::create_dir(node.directory()).unwrap();
    let mut kubelet = Kubelet::start(&node.directory(), false);
    kubelet.next().await;
}

#[tokio::test]
async fn its_own_socket_removed_or_left_by_another_is_made_again() {
    let mut node = Node::new();
    node.load("kvm");
    let mut kubelet = Kubelet::start(&node.directory(), false);
    // Of a process that was killed.
    drop(UnixListener::bind(node.directory().join("hawser-kvm.sock")).unwrap());
    node.start(&["--offer", "kvm"]);
    let mut known = kubelet.next().await;
    let mut lists = watch(&mut known.client).await;
    list(&mut lists).await;
    fs::remove_file(node.directory().join("hawser-kvm.sock")).unwrap();
    let mut known = kubelet.next().await;
    assert_eq!(list(&mut watch(&mut known.client).await).await, (1000, 1000));
}

#[tokio::test]
async fn a_kubelet_that_does_not_watch_is_told_again() {
    let mut node = Node::new();
    node.load("kvm");
    let mut kubelet = Kubelet::start(&node.directory(), false);
    node.start(&["--offer", "kvm"]);
    let mut known = kubelet.next().await;
    let mut lists = watch(&mut known.client).await;
    list(&mut lists).await;
    // As the kubelet does where another plugin registers the same resource, and where it has lost the connection.
    drop((lists, known));
    kubelet.next().await;
}

#[tokio::test]
async fn a_plugin_that_is_killed_starts_over_and_one_that_is_stopped_leaves_nothing() {
    let mut node = Node::new();
    node.load("kvm");
    let mut kubelet = Kubelet::start(&node.directory(), false);
    node.start(&[]);
    kubelet.all(4).await;
    node.kill().await;
    assert_eq!(node.sockets().len(), 4, "nobody could remove them");
    node.start(&[]);
    kubelet.all(4).await;
    let mut plugin = node.plugin.take().unwrap();
    let pid = Pid::from_raw(plugin.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(within(plugin.wait()).await.unwrap().code(), Some(0));
    assert_eq!(node.sockets(), Vec::<String>::new());
}

#[tokio::test]
async fn a_kubelet_that_refuses_does_not_end_the_plugin_and_the_next_one_is_told_at_once() {
    let mut node = Node::new();
    node.load("kvm");
    let mut kubelet = Kubelet::start(&node.directory(), true);
    node.start(&["--offer", "kvm"]);
    kubelet.next().await;
    let mut kubelet = Kubelet::start(&node.directory(), false);
    kubelet.next().await;
    assert!(node.plugin.as_mut().unwrap().try_wait().unwrap().is_none());
}

#[tokio::test]
async fn what_cannot_work_ends_with_a_reason_and_code_1() {
    let node = Node::new();
    drop(UnixListener::bind(node.directory().join(KUBELET_SOCKET)).unwrap());
    // No socket can take the place of a directory.
    fs::create_dir(node.directory().join("hawser-kvm.sock")).unwrap();
    let output = within(node.command(&[]).output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("plugin-failed") && text.contains("hawser-kvm.sock"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "creates device nodes: needs root"]
async fn of_a_node_that_not_everybody_may_open_a_copy_is_given() {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let mut node = Node::new();
    let kvm = node.dev().join("kvm");
    mknod(&kvm, SFlag::S_IFCHR, Mode::empty(), makedev(10, 232)).unwrap();
    // The umask does not count here.
    fs::set_permissions(&kvm, fs::Permissions::from_mode(0o660)).unwrap();
    let copies = node.top.path().join("copies");
    let mut kubelet = Kubelet::start(&node.directory(), false);
    node.start(&["--offer", "kvm", "--copies", copies.to_str().unwrap()]);
    let mut known = kubelet.next().await;
    let answer = allocate(&mut known.client, 1).await.unwrap().remove(0);
    let copy = copies.join("kvm");
    assert_eq!(answer.mounts[0].host_path, copy.to_str().unwrap());
    assert_eq!(answer.mounts[0].container_path, "/dev/kvm");
    assert_eq!(answer.devices[0].container_path, "/dev/hawser/kvm");
    let made = fs::metadata(&copy).unwrap();
    assert_eq!((made.rdev(), made.mode() & 0o7777), (makedev(10, 232), 0o666));
    assert_eq!(
        fs::metadata(&kvm).unwrap().mode() & 0o7777,
        0o660,
        "the host's is not touched"
    );
    // The host lets everybody open it from now on: its own is given.
    fs::set_permissions(&kvm, fs::Permissions::from_mode(0o666)).unwrap();
    let answer = allocate(&mut known.client, 1).await.unwrap().remove(0);
    assert_eq!(answer.devices[0].host_path, "/dev/kvm");
}
