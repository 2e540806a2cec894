//! The unprivileged half: serves the guest its addresses, starts the VMM, and drives the guest's life to its end.
//!
//! It runs in a process of its own that has given up everything before it reads a byte from the guest: the user is
//! the unprivileged one, no capability is left, and no_new_privs holds for it and for the VMM.

mod boot;
mod console;
mod drive;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use hawser_netsetup::Owner;
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::boot::check_version;
use self::boot::{ask_sidecars, begin, boot};
use self::drive::Drive;
use crate::control::{self, Board, Call};
use crate::daemons::passt::{self, Passt};
use crate::daemons::virtiofsd::{self, Exports};
use crate::devices::vsock;
use crate::disks::{self, Drive as Disk};
use crate::error::{ExitCode, Failure, chain};
use crate::hooks::Hooks;
use crate::keeper::{GO, Orders, Verdict, die_with};
use crate::lifecycle::{Event, Outcome, State};
use crate::migration::{self, Description, Functions, Identity, Incoming, NicDescription};
use crate::nic::Server;
use crate::privileges;
use crate::vmm::api::Api;
use crate::vmm::config::{DeviceConfig, VmConfig};
use crate::vmm::log::Log;
use crate::vmm::process::{self, Vmm};

/// KubeVirt presses the power button every five seconds, and so do guests' firmware and init expect it.
const PRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Between two tries of an order that cloud-hypervisor does not take yet.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Everything the supervisor needs, decided beforehand.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) owner: Owner,
    pub(crate) servers: Vec<Server>,
    pub(crate) passt: Option<Passt>,
    pub(crate) config: VmConfig,
    /// Those who complete `config`.
    pub(crate) hooks: Option<Hooks>,
    /// The devices of NICs that are handed over, by the NIC's id: a descriptor for each queue pair.
    pub(crate) descriptors: BTreeMap<String, Vec<OwnedFd>>,
    pub(crate) drives: Vec<Disk>,
    pub(crate) exports: Exports,
    /// Whether the guest has a virtio socket.
    pub(crate) vsock: bool,
    pub(crate) program: PathBuf,
    /// For the API socket and the console's log; belongs to the owner.
    pub(crate) directory: PathBuf,
    pub(crate) grace: Duration,
    /// Devices that the VMM opens besides those that every guest needs.
    pub(crate) nodes: Vec<PathBuf>,
    pub(crate) start: Start,
    pub(crate) identity: Identity,
    pub(crate) nics: Vec<NicDescription>,
    /// By name and path.
    pub(crate) readonly_disks: Vec<(String, PathBuf)>,
    /// The guest's VFs.
    pub(crate) functions: Vec<DeviceConfig>,
    /// Why the guest cannot migrate.
    pub(crate) obstacles: Vec<String>,
    /// As the launchers compare it.
    pub(crate) passt_version: Option<u32>,
    /// Where the helper waits that can move passt's open connections.
    pub(crate) repairs: Option<PathBuf>,
}

/// Where the guest comes from.
#[derive(Debug, Clone)]
pub(crate) enum Start {
    Boot,
    /// From another launcher, which comes to this address.
    Receive(migration::Listener),
}

impl Job {
    /// As the launchers compare it.
    fn description(&self, vmm_version: String) -> Description {
        let (disks, problems) = migration::describe_disks(&self.readonly_disks);
        Description {
            disks,
            identity: self.identity.clone(),
            vmm_version,
            nics: self.nics.clone(),
            config: serde_json::to_value(&self.config).unwrap_or_default(),
            obstacles: self.obstacles.iter().cloned().chain(problems).collect(),
            passt_version: self.passt_version,
        }
    }
}

/// Runs the guest to its end. The keeper is this process's parent.
pub(crate) fn supervise(job: Job, keeper: Pid, orders: Orders) -> Verdict {
    let directory = job.directory.clone();
    let code = match try_supervise(job, keeper, orders) {
        Ok(outcome) => {
            match &outcome {
                Outcome::ShutDown => tracing::info!(event = "guest-shut-down", "the guest has shut down"),
                Outcome::NeverStarted => {
                    tracing::info!(event = "guest-never-ran", "stopped before the guest ran")
                }
                Outcome::Killed => {
                    tracing::error!(
                        event = "guest-killed",
                        "the guest did not power off within its grace period: killed"
                    )
                }
                Outcome::Failed(why) => tracing::error!(event = "guest-failed", "the guest failed: {why}"),
                Outcome::Migrated(to) => {
                    tracing::info!(event = "guest-migrated", address = %to, "migrated to {to}")
                }
                Outcome::NotReceived(why) => {
                    tracing::error!(event = "guest-not-received", "no guest was received: {why}")
                }
                Outcome::HandedOver(why) => {
                    tracing::error!(event = "guest-handed-off", "no guest is left here: {why}")
                }
            }
            outcome.exit_code()
        }
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{failure}");
            failure.code()
        }
    };
    Verdict {
        code,
        given_away: control::handed_over(&directory).is_some(),
    }
}

fn try_supervise(job: Job, keeper: Pid, orders: Orders) -> Result<Outcome, Failure> {
    let internal = |what: &'static str| {
        move |error: std::io::Error| Failure::new(ExitCode::Internal, what).because(error)
    };
    privileges::drop_all(job.owner, &job.nodes)?;
    die_with(keeper).map_err(|errno| internal("follow the keeper")(errno.into()))?;
    if let Some(to) = control::handed_over(&job.directory) {
        let what = format!("the guest of this pod was given to {to}");
        return Err(Failure::new(ExitCode::NotOurs, what).remedy(
            "ask there; to start it here all the same, see that it runs nowhere and remove vmm/status.json in the state directory",
        ));
    }
    disks::make(&job.directory, &job.drives)?;
    let directory = job.directory.clone();
    let outcome = run_vmm(job, orders);
    if let Err(error) = disks::clear(&directory) {
        tracing::warn!(
            event = "temporary-disks-left",
            "the guest's temporary disks in {} are left: {error}",
            directory.display()
        );
    }
    outcome
}

fn run_vmm(mut job: Job, orders: Orders) -> Result<Outcome, Failure> {
    let internal = |what: &'static str| {
        move |error: std::io::Error| Failure::new(ExitCode::Internal, what).because(error)
    };
    // What was to be made is made: its bytes need not stay in memory while the guest runs.
    job.drives = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(internal("start the runtime"))?;
    migration::make_tls_directory(&job.directory).map_err(internal("make a directory for certificates"))?;
    if job.vsock {
        vsock::prepare(&job.directory).map_err(internal("make a directory for the guest's vsock"))?;
    }
    runtime.block_on(async {
        let orders = pipe::Receiver::from_owned_fd(orders).map_err(internal("listen to the keeper"))?;
        let vmm = process::start(&job.program, &job.directory).map_err(|error| {
            Failure::new(ExitCode::PodUnfit, "cloud-hypervisor").because(error).remedy(
                "put cloud-hypervisor on PATH, or say where it is with --cloud-hypervisor; the state directory must be writable",
            )
        })?;
        drive(vmm, job, orders).await
    })
}

/// Performs what the lifecycle decides.
async fn drive(vmm: Vmm, job: Job, mut orders: pipe::Receiver) -> Result<Outcome, Failure> {
    let Vmm {
        child,
        api,
        events,
        console,
        log,
    } = vmm;
    let mut job = job;
    // Before the VMM is told of them.
    let mut handles = BTreeMap::new();
    let passt = job
        .passt
        .take()
        .map(|passt| {
            let (frontend, handle) = passt::Frontend::listen(&job.directory, job.repairs.clone())?;
            handles.insert(passt.command.nic.clone(), handle);
            Ok((passt, frontend))
        })
        .transpose()
        .map_err(|error: std::io::Error| {
            Failure::new(ExitCode::PodUnfit, "passt's socket in the state directory")
                .because(error)
                .remedy(
                    "the state directory must be writable, and its path not longer than about 80 characters",
                )
        })?;
    let Exports {
        directories,
        virtiofsd,
    } = std::mem::take(&mut job.exports);
    let shares = virtiofsd::listen(&job.directory, directories).map_err(|error| {
        Failure::new(
            ExitCode::PodUnfit,
            "a file system's socket in the state directory",
        )
        .because(error)
        .remedy("the state directory must be writable, and its path not longer than about 60 characters")
    })?;
    let shares = (virtiofsd, shares);
    let (lost, mut given_up) = mpsc::channel(1);
    let console = console::pump(console, &job.directory);
    let log = Log::pass_on(log);
    let (send, mut receive) = mpsc::channel(16);
    let (tell, mut told) = mpsc::channel(16);
    let (arrive, mut arrivals) = mpsc::channel(64);
    let unserved = |error: std::io::Error| {
        Failure::new(ExitCode::PodUnfit, "control socket")
            .because(error)
            .remedy("the state directory must be writable, and its path short enough for a socket")
    };
    let calls = send.clone();
    control::serve(&job.directory, move |call| {
        let calls = calls.clone();
        async move { drop(calls.send(Message::Call(call)).await) }
    })
    .map_err(unserved)?;
    let (incoming, mut socket) = match job.start.clone() {
        Start::Boot => (None, None),
        Start::Receive(listener) => {
            let address = listener.address;
            let description = job.description(String::new());
            let (passts, directory) = (handles.clone(), job.directory.clone());
            let bound = Incoming::bind(listener, description, passts, directory, arrive).await;
            let (incoming, socket) = bound.map_err(|error| {
                Failure::new(ExitCode::PodUnfit, format!("listen for a migration at {address}"))
                    .because(error)
                    .remedy("give --migration-listen an address of this pod and a port that nobody has")
            })?;
            (Some(incoming), Some(socket))
        }
    };
    // While the keeper wires the pod, the VMM comes up and is told what the guest is; it runs once both are done.
    let (go, wired) = oneshot::channel();
    let mut go = Some((go, passt, shares));
    let end_servers = watch::Sender::new(());
    let (config, sidecars) = match incoming {
        // The guest comes with its own.
        Some(_) => (None, None),
        None => {
            let (config, sidecars) = ask_sidecars(&mut job, &end_servers)?;
            (Some(config), sidecars)
        }
    };
    let descriptors = std::mem::take(&mut job.descriptors);
    tokio::spawn(boot(api.clone(), config, descriptors, wired, send.clone()));
    let mut this = Drive {
        child: Some(child),
        api,
        events,
        log,
        state: State::Starting,
        board: Board::new(&job.directory, job.identity.clone(), job.nics.clone()),
        outgoing: None,
        functions: Functions::new(&job.functions, incoming.is_some()),
        incoming,
        servers: job.servers.clone(),
        end_servers,
        vmm_version: String::new(),
        passts: handles,
        restored: false,
        plug_again: BTreeSet::new(),
        exited: None,
        job,
        send,
        tell,
    };
    this.functions.show(&mut this.board);
    let mut events_open = true;
    let mut keeper_there = true;
    let mut unfit = None;
    while !matches!(this.state, State::Ended(_)) {
        let mut byte = [0];
        tokio::select! {
            how = ended(&mut this.child) => this.vmm_exited(how).await,
            Some(message) = receive.recv() => match message {
                Message::Lifecycle(event) => this.apply(event),
                Message::Wired(version) => {
                    this.vmm_version = version;
                    if let (Some(incoming), Some(socket)) = (&mut this.incoming, socket.take()) {
                        incoming.open(socket, process::id(&this.child), &this.vmm_version);
                        this.board.state("receiving");
                    }
                }
                Message::Call(call) => this.called(call).await,
                Message::Unfit(failure) => {
                    let why = failure.to_string();
                    unfit = Some(failure);
                    this.apply(Event::ApiFailed(why));
                }
            },
            Some(told) = told.recv() => this.told(told).await,
            Some(arrival) = arrivals.recv() => this.arrived(arrival).await,
            read = orders.read(&mut byte), if keeper_there => {
                keeper_there = matches!(read, Ok(1));
                if keeper_there && byte == [GO] {
                    if let Some((go, passt, shares)) = go.take() {
                        // The servers are there before the guest's first frame; a guest that has yet to come is none of
                        // theirs.
                        if this.incoming.is_none() {
                            this.serve(false);
                        }
                        tokio::spawn(begin(passt, shares, lost.clone(), go, this.send.clone()));
                    }
                } else {
                    this.stop().await;
                }
            }
            Some(passt::Report { nic }) = given_up.recv() => {
                tokio::spawn(take_out(this.api.clone(), nic));
            }
            event = this.events.next(), if events_open => match event {
                Some(event) => this.vmm_said(&event).await,
                None => events_open = false,
            },
        }
    }
    let state = this.end().await;
    // They are told, and have a moment to answer.
    if let Some(sidecars) = sidecars {
        let _ = sidecars.await;
    }
    // The last words of a guest matter most.
    if let Some(console) = console {
        let _ = tokio::task::spawn_blocking(move || console.join()).await;
    }
    match (state, unfit) {
        (_, Some(failure)) => Err(failure),
        (State::Ended(outcome), None) => Ok(outcome),
        (other, None) => Err(Failure::new(
            ExitCode::Internal,
            format!("left in the state {other:?}"),
        )),
    }
}

/// A VMM that has ended is waited for no more.
async fn ended(child: &mut Option<Child>) -> Option<String> {
    match child {
        Some(running) => {
            let how = how(running.wait().await);
            *child = None;
            how
        }
        None => std::future::pending().await,
    }
}

enum Message {
    Lifecycle(Event),
    /// The pod is wired, and the VMM answers and says what it is.
    Wired(String),
    Call(Call),
    /// The VMM that was found is not one to run a guest with, or a sidecar is not one to heed.
    Unfit(Failure),
}

/// A NIC that does not work any more is better not there: the guest sees that, and does not wait for answers.
async fn take_out(api: Api, nic: String) {
    if let Err(error) = api.remove_device(&nic).await {
        tracing::error!(
            event = "nic-unplug-failed",
            nic = %nic,
            "{nic}: the NIC is down and could not be taken out: {}",
            chain(&error)
        );
    }
}

/// Out of a guest that has stayed. cloud-hypervisor says that the transfer has failed a moment before it takes orders for
/// the guest again, and says nothing then.
async fn take_out_after_migration(api: Api, nic: String) {
    const TRIES: u32 = 100;
    for _ in 1..TRIES {
        match api.remove_device(&nic).await {
            Ok(()) => return,
            Err(error) => tracing::debug!("{nic}: not yet taken out: {}", chain(&error)),
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
    take_out(api, nic).await;
}

/// Back into the guest, after it has been taken out.
async fn put_back(api: Api, nic: Value) {
    match api.add_net(&nic, Vec::new()).await {
        Ok(()) => tracing::info!(event = "nic-plugged", "the NIC is back in the guest"),
        Err(error) => tracing::error!(
            event = "nic-plug-failed",
            "the NIC could not be put back: {}",
            chain(&error)
        ),
    }
}

async fn press(api: Api, send: mpsc::Sender<Message>) {
    if let Err(error) = api.power_button().await {
        let why = chain(&error);
        tracing::warn!(
            event = "power-button-press-failed",
            "the power button could not be pressed: {why}"
        );
        let _ = send.send(Message::Lifecycle(Event::ApiFailed(why))).await;
    }
}

fn later(delay: Duration, event: Event, send: &mpsc::Sender<Message>) {
    let send = send.clone();
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        let _ = send.send(Message::Lifecycle(event)).await;
    });
}

/// Absent for a clean exit.
fn how(status: std::io::Result<std::process::ExitStatus>) -> Option<String> {
    match status {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("cloud-hypervisor ended with {status}")),
        Err(error) => Some(format!("cloud-hypervisor cannot be waited for: {error}")),
    }
}
