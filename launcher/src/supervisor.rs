//! The unprivileged half: serves the guest its addresses, starts the VMM, and drives the guest's life to its end.
//!
//! It runs in a process of its own that has given up everything before it reads a byte from the guest: the user is
//! the unprivileged one, no capability is left, and no_new_privs holds for it and for the VMM.

mod console;
mod drive;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use hawser_dhcp::serve;
use hawser_netsetup::{Owner, open_tap};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};

use self::drive::Drive;
use crate::binding::Server;
use crate::control::{self, Board, Call};
use crate::error::{ExitCode, Failure, chain};
use crate::keeper::{GO, Orders, die_with};
use crate::lifecycle::{Event, Outcome, State};
use crate::migration::{self, Description, Identity, Incoming, NicDescription};
use crate::privileges;
use crate::vmm::api::Api;
use crate::vmm::config::VmConfig;
use crate::vmm::process::{self, Vmm};

/// KubeVirt presses the power button every five seconds, and so do guests' firmware and init expect it.
const PRESS_INTERVAL: Duration = Duration::from_secs(5);
/// The oldest cloud-hypervisor that is not known to crash or to be exploitable by its guest (CVE-2026-45782).
const OLDEST: u32 = 52;
/// A server whose channel broke is started again after this.
const SERVER_PAUSE: Duration = Duration::from_secs(1);

/// Everything the supervisor needs, decided beforehand.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) owner: Owner,
    pub(crate) servers: Vec<Server>,
    pub(crate) config: VmConfig,
    pub(crate) program: PathBuf,
    /// For the API socket and the console's log; belongs to the owner.
    pub(crate) directory: PathBuf,
    pub(crate) grace: Duration,
    pub(crate) start: Start,
    pub(crate) identity: Identity,
    pub(crate) nics: Vec<NicDescription>,
    /// Why the guest cannot migrate.
    pub(crate) obstacles: Vec<String>,
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
        Description {
            identity: self.identity.clone(),
            vmm_version,
            nics: self.nics.clone(),
            config: serde_json::to_value(&self.config).unwrap_or_default(),
            obstacles: self.obstacles.clone(),
        }
    }
}

/// Runs the guest to its end. The keeper is this process's parent.
pub(crate) fn supervise(job: Job, keeper: Pid, orders: Orders) -> ExitCode {
    match try_supervise(job, keeper, orders) {
        Ok(outcome) => {
            match &outcome {
                Outcome::ShutDown => tracing::info!("the guest has shut down"),
                Outcome::NeverStarted => tracing::info!("stopped before the guest ran"),
                Outcome::Killed => {
                    tracing::error!("the guest did not power off within its grace period: killed")
                }
                Outcome::Failed(why) => tracing::error!("the guest failed: {why}"),
                Outcome::Migrated(to) => tracing::info!("migrated to {to}"),
                Outcome::NotReceived(why) => tracing::error!("no guest was received: {why}"),
                Outcome::HandedOver(why) => tracing::error!("no guest is left here: {why}"),
            }
            outcome.exit_code()
        }
        Err(failure) => {
            eprintln!("{failure}");
            failure.code()
        }
    }
}

fn try_supervise(job: Job, keeper: Pid, orders: Orders) -> Result<Outcome, Failure> {
    let internal = |what: &'static str| {
        move |error: std::io::Error| Failure::new(ExitCode::Internal, what).because(error)
    };
    privileges::drop_all(job.owner)?;
    die_with(keeper).map_err(|errno| internal("follow the keeper")(errno.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(internal("start the runtime"))?;
    if let Some(to) = control::handed_over(&job.directory) {
        let what = format!("the guest of this pod was given to {to}");
        return Err(Failure::new(ExitCode::NotOurs, what).remedy(
            "ask there; to start it here all the same, see that it runs nowhere and remove vmm/status.json in the state directory",
        ));
    }
    migration::make_tls_directory(&job.directory).map_err(internal("make a directory for certificates"))?;
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

/// Serves one NIC until `ended` says so, over a new channel whenever the old one breaks.
async fn serve_guest(Server { tap, lease }: Server, ended: watch::Receiver<()>) {
    loop {
        let cancel = {
            let mut ended = ended.clone();
            // Only the sender's end completes this: nothing is ever sent.
            async move { while ended.changed().await.is_ok() {} }
        };
        let observer = |event: hawser_dhcp::Event| match event {
            hawser_dhcp::Event::Ignored(_) => tracing::debug!("{tap}: {event}"),
            event => tracing::info!("{tap}: {event}"),
        };
        let channel: Result<OwnedFd, _> = open_tap(&tap);
        let result = match channel {
            Ok(channel) => serve(channel, lease.clone(), observer, cancel)
                .await
                .map_err(|error| chain(&error)),
            Err(error) => Err(chain(&error)),
        };
        match result {
            Ok(()) => return,
            Err(why) => tracing::error!("{tap}: the guest gets no DHCP and no router advertisements: {why}"),
        }
        tokio::time::sleep(SERVER_PAUSE).await;
    }
}

/// Performs what the lifecycle decides.
async fn drive(vmm: Vmm, job: Job, mut orders: pipe::Receiver) -> Result<Outcome, Failure> {
    let Vmm {
        child,
        api,
        events,
        console,
    } = vmm;
    let console = console::pump(console, &job.directory);
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
            let bound = Incoming::bind(listener, description, job.directory.clone(), arrive).await;
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
    let mut go = Some(go);
    let config = incoming.is_none().then(|| job.config.clone());
    tokio::spawn(boot(api.clone(), config, wired, send.clone()));
    let mut this = Drive {
        child: Some(child),
        api,
        events,
        state: State::Starting,
        board: Board::new(&job.directory, job.identity.clone(), job.nics.clone()),
        outgoing: None,
        incoming,
        servers: job.servers.clone(),
        end_servers: watch::Sender::new(()),
        vmm_version: String::new(),
        exited: None,
        job,
        send,
        tell,
    };
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
                        incoming.open(socket, &this.vmm_version);
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
                    if let Some(go) = go.take() {
                        // The servers are there before the guest's first frame; a guest that has yet to come is none of
                        // theirs.
                        if this.incoming.is_none() {
                            this.serve();
                        }
                        // A boot that has failed already listens no more.
                        let _ = go.send(());
                    }
                } else {
                    this.stop().await;
                }
            }
            event = this.events.next(), if events_open => match event {
                Some(event) => this.vmm_said(&event).await,
                None => events_open = false,
            },
        }
    }
    let state = this.end().await;
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
    /// The VMM that was found is not one to run a guest with.
    Unfit(Failure),
}

/// Tells the VMM what to run, and to run it once `wired` says that the TAPs are there.
/// Without a configuration there is nothing to tell: the guest comes with its own.
async fn boot(api: Api, config: Option<VmConfig>, wired: oneshot::Receiver<()>, send: mpsc::Sender<Message>) {
    let attempt = async {
        let ping = api
            .ping()
            .await
            .map_err(|error| Message::Lifecycle(Event::ApiFailed(chain(&error))))?;
        tracing::debug!("cloud-hypervisor {} ({})", ping.version, ping.build_version);
        check_version(&ping.version).map_err(Message::Unfit)?;
        let failed = |error| Message::Lifecycle(Event::ApiFailed(chain(&error)));
        if let Some(config) = &config {
            api.create(config).await.map_err(failed)?;
        }
        if wired.await.is_err() {
            let why = "the keeper ended before the pod was wired".to_owned();
            return Err(Message::Lifecycle(Event::ApiFailed(why)));
        }
        let _ = send.send(Message::Wired(ping.version)).await;
        if config.is_none() {
            return Ok(false);
        }
        tracing::debug!("asking for vm.boot");
        api.boot().await.map_err(failed)?;
        Ok(true)
    };
    let message = match attempt.await {
        Ok(true) => {
            tracing::info!("the guest is running");
            Message::Lifecycle(Event::Booted)
        }
        Ok(false) => return,
        Err(message) => message,
    };
    // Nobody listens any more once the VMM is gone.
    let _ = send.send(message).await;
}

/// `v53.0`, `53.0.0` or `v53.0-dirty`: the first number counts. A version that has none is the user's own build.
fn check_version(version: &str) -> Result<(), Failure> {
    let digits: String = version
        .trim_start_matches('v')
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    match digits.parse::<u32>() {
        Ok(major) if major < OLDEST => Err(Failure::new(
            ExitCode::PodUnfit,
            format!("cloud-hypervisor {version} is too old: v{OLDEST}.0 or newer is needed"),
        )
        .remedy("install a newer release of cloud-hypervisor")),
        Ok(_) => Ok(()),
        Err(_) => {
            tracing::warn!(
                "cloud-hypervisor's version {:?} says nothing; v{OLDEST}.0 or newer is needed",
                version
            );
            Ok(())
        }
    }
}

async fn press(api: Api, send: mpsc::Sender<Message>) {
    if let Err(error) = api.power_button().await {
        let why = chain(&error);
        tracing::warn!("the power button could not be pressed: {why}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_52_on() {
        for good in ["v52.0", "v53.0", "53.0.0", "v53.0-dirty", "v100.1", "unknown"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["v51.1", "v9.0", "51.2.0"] {
            let failure = check_version(bad).unwrap_err();
            assert_eq!(failure.code(), ExitCode::PodUnfit, "{bad}");
        }
    }
}
