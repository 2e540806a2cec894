//! The straight line from a manifest to an exit code. Each phase takes the one before by value.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hawser_netsetup::{Journal, Linux, NetSpec, Nft, Owner, Plan, apply, find_routers, observe, undo};

use crate::cli::{
    Cli, Command, Common, ExplainArgs, ExplainFormat, Format, MigrateArgs, PlanArgs, RunArgs, SecurityArgs,
};
use crate::control::{self, Order};
use crate::error::{ExitCode, Failure};
use crate::image::{self, KernelFiles};
use crate::migration::{self, Identity, Listener, Security};
use crate::picture::Picture;
use crate::resolv::{self, Resolv};
use crate::spec::{self, GuestSpec, Loaded};
use crate::state_dir::{StateDir, vmm_dir};
use crate::supervisor::{self, Job, Start};
use crate::vmm::config::vm_config;
use crate::{binding, doctor, keeper, privileges};

/// Does what the command line says.
pub fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Run(args) => run(&args),
        Command::Setup(common) => setup(&common),
        Command::Plan(args) => plan(&args),
        Command::Explain(args) => explain(&args),
        Command::Check(args) => doctor::check(&args),
        Command::Status(args) => control::status(&vmm_dir(&args.state_dir)),
        Command::Migrate(args) => migrate(args),
        Command::Schema => {
            println!("{:#}", spec::schema());
            Ok(ExitCode::Success)
        }
        Command::Version => {
            println!("hawser {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::Success)
        }
    }
}

fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let common = &args.common;
    let start = start(args)?;
    let guest = load(common.vmi.as_deref())?;
    let files = image::kernel_files(common, &guest.kernel_boot)?;
    let owner = privileges::owner(common.uid)?;
    let net = binding::net_spec(&guest, owner)?;
    let nft = begin_wiring()?;
    for device in privileges::DEVICES {
        privileges::device(device, owner)?;
    }
    let program = doctor::find_program(&common.cloud_hypervisor)?;
    let state = StateDir::open(&common.state_dir, owner)?;

    let plan = make_plan(&net)?;
    let resolv = resolv::read();
    say(&resolv.notes);
    let job = job(&guest, files, &plan, &resolv, owner, program, &state, start);
    let parent = nix::unistd::getpid();
    let journal = state.journal();
    let kept = keeper::keep(
        |orders| supervisor::supervise(job, parent, orders),
        || wire(&plan, nft, &journal),
    )?;
    let undone = take_down(&kept.wired?, &journal);
    Ok(match kept.verdict {
        ExitCode::Success if !undone => ExitCode::Teardown,
        verdict => verdict,
    })
}

/// Whether the guest boots here, or comes from elsewhere and who may bring it.
fn start(args: &RunArgs) -> Result<Start, Failure> {
    if !args.incoming {
        return Ok(Start::Boot);
    }
    let security = match security(&args.security)? {
        Some(directory) => Security::Tls(directory),
        None => Security::Plain,
    };
    migration::check(&security, true).map_err(|error| {
        Failure::new(ExitCode::PodUnfit, "certificates of the migration")
            .because(error)
            .remedy("mount a directory with ca-cert.pem, server-cert.pem and server-key.pem, readable for the guest's user, and name it with --tls-dir")
    })?;
    Ok(Start::Receive(Listener {
        address: args.migration_listen,
        security,
    }))
}

/// The directory of the certificates; none if that was asked for in so many words.
fn security(args: &SecurityArgs) -> Result<Option<PathBuf>, Failure> {
    if args.tls_dir.is_none() && !args.insecure_plain_tcp {
        return Err(Failure::new(ExitCode::Usage, "a migration without certificates").remedy(
            "name their directory with --tls-dir; --insecure-plain-tcp does without, on a network that nobody else is on",
        ));
    }
    Ok(args.tls_dir.clone())
}

fn migrate(args: MigrateArgs) -> Result<ExitCode, Failure> {
    let order = match args.to {
        None => None,
        Some(to) => Some(Order {
            tls_dir: security(&args.security)?,
            to,
            server_name: args.server_name,
            downtime_ms: u64::try_from(args.downtime.as_millis()).unwrap_or(u64::MAX),
            timeout_s: args.timeout.as_secs().max(1),
            connections: args.connections,
        }),
    };
    control::migrate(&vmm_dir(&args.state_dir), order)
}

#[expect(clippy::too_many_arguments, reason = "each is what one phase has come to")]
fn job(
    guest: &GuestSpec,
    files: KernelFiles,
    plan: &Plan,
    resolv: &Resolv,
    owner: Owner,
    program: PathBuf,
    state: &StateDir,
    start: Start,
) -> Job {
    let attachments = binding::attachments(guest, &plan.nics, resolv);
    Job {
        owner,
        config: vm_config(
            guest,
            &files,
            &attachments,
            &migration::tls_directory(&state.vmm_dir()),
        ),
        start,
        identity: Identity {
            namespace: guest.namespace.clone(),
            name: guest.name.clone(),
            uid: guest.uid.clone(),
        },
        nics: binding::describe(guest, &plan.nics, &attachments),
        obstacles: migration::obstacles(guest),
        servers: attachments
            .into_iter()
            .filter_map(|attachment| attachment.server)
            .collect(),
        program,
        directory: state.vmm_dir(),
        grace: Duration::from_secs(guest.termination_grace_period_seconds),
    }
}

fn setup(common: &Common) -> Result<ExitCode, Failure> {
    let guest = load(common.vmi.as_deref())?;
    let owner = privileges::owner(common.uid)?;
    let net = binding::net_spec(&guest, owner)?;
    let nft = begin_wiring()?;
    privileges::device("/dev/net/tun", owner)?;
    let state = StateDir::open(&common.state_dir, owner)?;
    wire(&make_plan(&net)?, nft, &state.journal())?;
    tracing::info!("the pod is wired for {}: hawser run finds it done", guest.name);
    Ok(ExitCode::Success)
}

fn plan(args: &PlanArgs) -> Result<ExitCode, Failure> {
    let guest = load(args.common.vmi.as_deref())?;
    // A plan needs no privilege, so it also shows what root would do to those who are not.
    let owner = privileges::owner(args.common.uid).unwrap_or(Owner {
        uid: args.common.uid,
        gid: args.common.uid,
    });
    let net = binding::net_spec(&guest, owner)?;
    let plan = make_plan(&net)?;
    let resolv = resolv::read();
    let picture = Picture {
        guest: &guest,
        plan: &plan,
        attachments: binding::attachments(&guest, &plan.nics, &resolv),
        files: image::kernel_files(&args.common, &guest.kernel_boot),
        resolv: &resolv,
        certificates: migration::tls_directory(&vmm_dir(&args.common.state_dir)),
    };
    match args.output {
        Format::Text => print!("{}", picture.text()),
        Format::Json => println!("{:#}", picture.json()),
        Format::Dot => print!("{}", picture.dot()),
    }
    Ok(ExitCode::Success)
}

fn explain(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let explanations = binding::explain(&load(args.vmi.as_deref())?);
    match args.output {
        ExplainFormat::Text => print!("{}", binding::explanation_text(&explanations)),
        ExplainFormat::Json => println!("{:#}", serde_json::json!({ "interfaces": explanations })),
    }
    Ok(ExitCode::Success)
}

/// The manifest that the command line or the environment names.
fn load(vmi: Option<&Path>) -> Result<GuestSpec, Failure> {
    let text = match vmi {
        Some(path) => read(path)?,
        None => std::env::var("STANDALONE_VMI").map_err(|_| {
            Failure::new(ExitCode::Usage, "no manifest").remedy(
                "name one with --vmi FILE (- for standard input), or put it into STANDALONE_VMI as JSON",
            )
        })?,
    };
    let Loaded { spec, warnings } = spec::load(&text).map_err(|refusals| {
        Failure::new(ExitCode::Manifest, format!("the manifest is refused\n{refusals}"))
    })?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(spec)
}

/// One byte more than is accepted is read at most, so that the check for the size has something to refuse.
fn read(path: &Path) -> Result<String, Failure> {
    let fail = |error: std::io::Error| {
        Failure::new(
            ExitCode::Manifest,
            format!("read the manifest {}", path.display()),
        )
        .because(error)
    };
    let mut text = String::new();
    let most = spec::MAX_BYTES as u64 + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().take(most).read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .map_err(fail)?
            .take(most)
            .read_to_string(&mut text)
    };
    read.map_err(fail)?;
    Ok(text)
}

/// Makes the capability effective where it is held, since what can be done decides what is planned, and starts the tool
/// that will need it.
fn begin_wiring() -> Result<Option<Nft>, Failure> {
    if !privileges::has(caps::Capability::CAP_NET_ADMIN) {
        return Ok(None);
    }
    privileges::raise_net_admin()?;
    // Where there is none, the step that needs it says so.
    Ok(Nft::start().ok())
}

fn make_plan(net: &NetSpec) -> Result<Plan, Failure> {
    block_on(async {
        let mut observed = observe().await?;
        find_routers(net, &mut observed).await?;
        Ok(Plan::new(net, &observed)?)
    })
}

/// Makes the namespace as the plan wants it. What comes back is what to take down at the end.
fn wire(plan: &Plan, nft: Option<Nft>, journal: &Path) -> Result<Journal, Failure> {
    say(&plan.notes);
    if plan.steps.is_empty() {
        tracing::info!("the pod is wired already");
    } else {
        privileges::raise_net_admin()?;
    }
    block_on(async { Ok(apply(&mut Linux::open()?.with_nft(nft), plan, journal).await?) })
}

/// Takes back what was done, last first, and reports every error. False if something is left.
fn take_down(done: &Journal, journal: &Path) -> bool {
    if done.undo.is_empty() {
        return true;
    }
    if !privileges::has(caps::Capability::CAP_NET_ADMIN) {
        tracing::info!("the wiring stays: it was set up beforehand, and taking it down needs CAP_NET_ADMIN");
        return true;
    }
    let result = privileges::raise_net_admin()
        .and_then(|()| block_on(async { Ok(undo(&mut Linux::open()?, done, journal).await) }));
    match result {
        Ok(failures) => {
            for failure in &failures {
                tracing::error!("{failure}: {}", failure.source);
            }
            failures.is_empty()
        }
        Err(failure) => {
            tracing::error!("{failure}");
            false
        }
    }
}

/// A runtime that is gone when this returns: the process forks, and there must be no thread then.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Internal, "start the runtime").because(error))?;
    runtime.block_on(work)
}

fn say(notes: &[String]) {
    for note in notes {
        tracing::warn!("{note}");
    }
}
