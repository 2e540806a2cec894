//! The supervisor's loop: starts the VMM and what serves beside it, and takes what happens to the guest one by one.

use std::io;
use std::path::PathBuf;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};

use super::boot::{ask_sidecars, begin, boot};
use super::driver::{Migrating, Supervisor};
use super::faults;
use super::heard::Heard;
use super::machine::{Event, Guest, VmmExit};
use super::notify::{self, Notified};
use super::replug::{Replug, unplug};
use super::verbs::Verbs;
use super::{End, Input, Job, Start};
use crate::console::{self, Console};
use crate::control::{self, Board};
use crate::daemons::passt::{self, Passt};
use crate::daemons::virtiofsd::{self, Exports};
use crate::devices::vsock;
use crate::disks::{GROWTH_INTERVAL, Growth};
use crate::error::{ExitCode, Failure};
use crate::keeper::{GO, Orders};
use crate::migration::{self, Incoming, VfHotplug};
use crate::queue::Sink;
use crate::status::Phase;
use crate::vmm::log::Log;
use crate::vmm::process::{self, Vmm};

/// Events that wait to be taken; whoever sends more waits.
const QUEUE: usize = 64;

fn internal(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::new(ExitCode::Internal, what).because(error)
}

pub(super) fn run(mut job: Job, orders: Orders) -> Result<End, Failure> {
    let growth = Growth::of(&job.drives);
    growth.compare_with_room(&job.directory);
    // What was to be made is made: its bytes need not stay in memory while the guest runs.
    job.drives = Vec::new();
    let faults = faults::watch();
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
        let vmm = process::start(&job.program, &job.vmm_may, &job.directory).map_err(|error| {
            Failure::new(ExitCode::PodUnfit, "cloud-hypervisor").because(error).remedy(
                "put cloud-hypervisor on PATH, or name it with --cloud-hypervisor; the state directory must be writable",
            )
        })?;
        supervise(vmm, job, orders, faults, growth).await
    })
}

/// What runs beside the VMM, with the sockets that are there before the VMM hears of them.
struct Beside {
    passt: Option<(Passt, passt::Frontend)>,
    handle: Option<passt::Handle>,
    virtiofsd: PathBuf,
    shares: Vec<virtiofsd::Share>,
}

impl Beside {
    fn listen(job: &mut Job) -> Result<Self, Failure> {
        let mut handle = None;
        let passt = job
            .passt
            .take()
            .map(|passt| {
                let nic = &passt.command.nic;
                let (frontend, its) = passt::Frontend::listen(&job.directory, nic, job.repairs.clone())?;
                handle = Some(its);
                Ok((passt, frontend))
            })
            .transpose()
            .map_err(|error: io::Error| {
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
        Ok(Self {
            passt,
            handle,
            virtiofsd,
            shares,
        })
    }
}

/// Where a guest is to be migrated to this launcher: the half that receives it, and its port.
async fn listen(
    job: &Job,
    passt: Option<passt::Handle>,
    queue: &mpsc::Sender<Input>,
) -> Result<Option<(Incoming, TcpListener)>, Failure> {
    let Start::Receive(listener) = job.start.clone() else {
        return Ok(None);
    };
    let address = listener.address;
    // The disks are read when a source asks.
    let own = (job.description(String::new()), job.migrating_disks.clone());
    let directory = job.directory.clone();
    let sink = Sink::new(queue.clone());
    let bound = Incoming::bind(listener, own, passt, directory, sink).await;
    bound.map(Some).map_err(|error| {
        Failure::new(ExitCode::PodUnfit, format!("listen for a migration at {address}"))
            .because(error)
            .remedy("give --migration-listen an address of this pod and a port that is free")
    })
}

/// Feeds the machine until the guest has ended.
async fn supervise(
    vmm: Vmm,
    mut job: Job,
    mut orders: pipe::Receiver,
    mut faults: mpsc::UnboundedReceiver<()>,
    growth: Growth,
) -> Result<End, Failure> {
    let Vmm {
        child,
        api,
        events,
        console,
        keyboard,
        log,
    } = vmm;
    let Beside {
        passt,
        handle,
        virtiofsd,
        shares,
    } = Beside::listen(&mut job)?;
    let notified = job.vsock.then(|| Notified::new(job.facts.ready_when.as_ref()));
    if let Some(notified) = notified.clone() {
        let listener = notify::listen(&job.directory).map_err(|error| {
            Failure::new(
                ExitCode::PodUnfit,
                "the socket in the state directory for what the guest's systemd reports",
            )
            .because(error)
            .remedy("the state directory must be writable, and its path not longer than about 80 characters")
        })?;
        tokio::spawn(notify::serve(listener, notified));
    }
    let viewers = Console::new(keyboard);
    let logged = job.console_logged.then_some(job.directory.as_path());
    let console = console::pump(console, logged, viewers.clone());
    let log = Log::pass_on(log);
    let (queue, mut inputs) = mpsc::channel(QUEUE);
    control::serve(&job.directory, Sink::new(queue.clone()), viewers).map_err(|error| {
        Failure::new(ExitCode::PodUnfit, "control socket")
            .because(error)
            .remedy("the state directory must be writable, and its path short enough for a socket")
    })?;
    if let Some(address) = job.metrics {
        let served = control::serve_metrics(address, Sink::new(queue.clone())).await;
        served.map_err(|error| {
            Failure::new(ExitCode::PodUnfit, format!("listen for metrics at {address}"))
                .because(error)
                .remedy("give --metrics an address of this pod and a port that is free")
        })?;
    }
    let (incoming, mut socket) = listen(&job, handle.clone(), &queue).await?.unzip();
    // While the keeper wires the pod, the VMM comes up and is told what the guest is; it runs once both are done.
    let (go, wired) = oneshot::channel();
    let mut go = Some((go, passt, (virtiofsd, shares)));
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
    // A guest that comes from elsewhere runs there.
    let held = job.starts_paused && incoming.is_none();
    tokio::spawn(boot(api.clone(), config, descriptors, wired, held, queue.clone()));
    let mut guest = match incoming {
        Some(_) => Guest::receiving(),
        None => Guest::Booting,
    };
    control::note_predecessor(&job.directory);
    let api_of_verbs = api.clone();
    let mut this = Supervisor {
        child: Some(child),
        api,
        events,
        log,
        board: Board::new(&job.directory, job.identity.clone(), job.nics.clone()),
        vfs: VfHotplug::new(&job.functions, incoming.is_some()),
        incoming,
        servers: job.servers.clone(),
        end_servers,
        vmm_version: String::new(),
        passt: handle,
        migrating: Migrating::default(),
        replug: Replug::default(),
        growth,
        heard: Heard::default(),
        notified,
        verbs: Verbs::new(api_of_verbs, held, queue.clone()),
        job,
        queue,
    };
    this.board.status.facts = std::mem::take(&mut this.job.facts);
    this.vfs.show(&mut this.board);
    let mut looks = tokio::time::interval(GROWTH_INTERVAL);
    let mut events_open = true;
    let mut keeper_there = true;
    let mut unfit = None;
    let mut faulty = false;
    let outcome = loop {
        if let Guest::Ended(outcome) = guest {
            break outcome;
        }
        let mut byte = [0];
        let mut happened = Vec::new();
        tokio::select! {
            exit = exited(&mut this.child) => {
                let exit = this.exit(exit, &guest).await;
                happened.push(Event::VmmExited(exit));
            }
            Some(input) = inputs.recv() => match input {
                Input::Event(event) => happened.push(event),
                Input::Wired(version) => {
                    this.vmm_version = version;
                    if let (Some(incoming), Some(socket)) = (&mut this.incoming, socket.take()) {
                        incoming.open(socket, process::id(&this.child), &this.vmm_version);
                        this.board.phase(Phase::Receiving);
                    }
                }
                Input::Unfit(failure) => {
                    happened.push(Event::StartFailed(failure.to_string()));
                    unfit = Some(failure);
                }
                Input::Call(call) => happened.extend(this.called(call)),
                Input::Described(call, described) => happened.push(this.described(call, described)),
                Input::Source(call, report) => happened.extend(this.reported(call, report)),
                Input::Target(arrival) => happened.extend(this.arrived(arrival, &guest)),
                Input::PasstLost(passt::Report { nic }) => {
                    tokio::spawn(unplug(this.api.clone(), nic));
                }
            },
            read = orders.read(&mut byte), if keeper_there => {
                keeper_there = matches!(read, Ok(1));
                if keeper_there && byte == [GO] {
                    if let Some((go, passt, shares)) = go.take() {
                        // The servers are there before the guest's first frame; a guest that has yet to come is not theirs.
                        if this.incoming.is_none() {
                            this.serve(false);
                        }
                        tokio::spawn(begin(passt, shares, go, this.queue.clone()));
                    }
                } else {
                    happened.push(Event::Stop);
                }
            }
            _ = looks.tick() => this.growth.look(),
            Some(()) = faults.recv() => {
                faulty = true;
                happened.push(Event::Stop);
            }
            event = this.events.next(), if events_open => match event {
                Some(event) => happened = this.vmm_event(&event),
                None => events_open = false,
            },
        }
        for event in happened {
            guest = this.apply(guest, event).await;
        }
    };
    let target = this.last_target().to_owned();
    this.end(&outcome).await;
    // They are told, and have a moment to answer.
    if let Some(sidecars) = sidecars {
        let _ = sidecars.await;
    }
    // The last output of a guest matters most.
    if let Some(console) = console {
        let _ = tokio::task::spawn_blocking(move || console.join()).await;
    }
    match unfit {
        Some(failure) => Err(failure),
        None => Ok(End {
            outcome,
            target,
            faulty,
        }),
    }
}

/// A VMM that has ended is waited for no more.
async fn exited(child: &mut Option<Child>) -> VmmExit {
    let Some(running) = child else {
        return std::future::pending().await;
    };
    let exit = match running.wait().await {
        Ok(status) if status.success() => VmmExit::Success,
        Ok(status) => VmmExit::Failure(format!("cloud-hypervisor ended with {status}")),
        Err(error) => VmmExit::Failure(format!("cloud-hypervisor cannot be waited for: {error}")),
    };
    *child = None;
    exit
}
