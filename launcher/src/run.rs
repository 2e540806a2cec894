//! The straight line from a manifest to an exit code. Each phase takes the one before by value.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use hawser_netsetup::{Journal, Linux, NetSpec, Nft, Owner, Plan, apply, find_routers, observe, undo};

use crate::cli::{Cli, Command, Common, ExplainArgs, ExplainFormat, Format, Inputs, PlanArgs};
use crate::error::{ExitCode, Failure};
use crate::hooks::{Deadlines, Hooks};
use crate::image;
use crate::picture::Picture;
use crate::plugins::{self, Registry};
use crate::resolv;
use crate::spec::{self, GuestSpec, Loaded};
use crate::state_dir::StateDir;
use crate::supervisor::{self, Job};
use crate::vmm::config::vm_config;
use crate::{binding, doctor, hooks, keeper, privileges};

/// Does what the command line says.
pub fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Run(common) => run(&common),
        Command::Setup(common) => setup(&common),
        Command::Plan(args) => plan(&args),
        Command::Explain(args) => explain(&args),
        Command::Check(args) => doctor::check(&args),
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

fn run(common: &Common) -> Result<ExitCode, Failure> {
    let Loaded {
        spec: guest,
        manifest,
        ..
    } = load(&common.inputs)?;
    let files = image::kernel_files(common, &guest.kernel_boot)?;
    let owner = privileges::owner(common.uid)?;
    let net = binding::net_spec(&guest, owner)?;
    let nft = begin_wiring()?;
    for device in privileges::DEVICES {
        privileges::device(device, owner)?;
    }
    let program = doctor::find_program(&common.cloud_hypervisor)?;
    let hooks = hooks(common, &guest, manifest)?;
    let state = StateDir::open(&common.state_dir, owner)?;

    let plan = make_plan(&net)?;
    let resolv = resolv::read();
    say(&resolv.notes);
    let attachments = binding::attachments(&guest, &plan.nics, &resolv);
    let job = Job {
        owner,
        config: vm_config(&guest, &files, &attachments),
        hooks,
        servers: attachments
            .into_iter()
            .filter_map(|attachment| attachment.server)
            .collect(),
        program,
        directory: state.vmm_dir(),
        grace: Duration::from_secs(guest.termination_grace_period_seconds),
    };
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

/// The sidecars that complete the VM's configuration; absent where no plugin has one.
fn hooks(common: &Common, guest: &GuestSpec, vmi: serde_json::Value) -> Result<Option<Hooks>, Failure> {
    let plugins = hooks::plugins(guest);
    if plugins.is_empty() {
        return Ok(None);
    }
    let directory = match &common.hooks_dir {
        Some(directory) => directory.clone(),
        None => common.state_dir.join("hooks"),
    };
    let directory = std::path::absolute(&directory).map_err(|error| {
        Failure::new(
            ExitCode::PodUnfit,
            format!("the hooks' directory {}", directory.display()),
        )
        .because(error)
    })?;
    Ok(Some(Hooks {
        directory,
        deadlines: Deadlines::starting_within(Duration::from_secs(common.hooks_timeout)),
        vmi,
        plugins,
    }))
}

fn setup(common: &Common) -> Result<ExitCode, Failure> {
    let guest = load(&common.inputs)?.spec;
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
    let guest = load(&args.common.inputs)?.spec;
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
    };
    match args.output {
        Format::Text => print!("{}", picture.text()),
        Format::Json => println!("{:#}", picture.json()),
        Format::Dot => print!("{}", picture.dot()),
    }
    Ok(ExitCode::Success)
}

fn explain(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let explanations = binding::explain(&load(&args.inputs)?.spec);
    match args.output {
        ExplainFormat::Text => print!("{}", binding::explanation_text(&explanations)),
        ExplainFormat::Json => println!("{:#}", serde_json::json!({ "interfaces": explanations })),
    }
    Ok(ExitCode::Success)
}

/// The manifest that the command line or the environment names, with the binding plugins that it names in turn.
fn load(inputs: &Inputs) -> Result<Loaded, Failure> {
    let registry = match &inputs.bindings {
        Some(path) => registry(path)?,
        None => Registry::default(),
    };
    let text = match &inputs.vmi {
        Some(path) => read("the manifest", path)?,
        None => std::env::var("STANDALONE_VMI").map_err(|_| {
            Failure::new(ExitCode::Usage, "no manifest").remedy(
                "name one with --vmi FILE (- for standard input), or put it into STANDALONE_VMI as JSON",
            )
        })?,
    };
    let loaded = spec::load_with(&text, &registry).map_err(|refusals| {
        Failure::new(ExitCode::Manifest, format!("the manifest is refused\n{refusals}"))
    })?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded)
}

fn registry(path: &Path) -> Result<Registry, Failure> {
    let text = read("the binding plugins", path)?;
    let file = path.display().to_string();
    plugins::parse(&text, &file).map_err(|refusals| {
        Failure::new(
            ExitCode::Manifest,
            format!("the binding plugins of {file} are refused\n{refusals}"),
        )
    })
}

/// One byte more than is accepted is read at most, so that the check for the size has something to refuse.
fn read(what: &str, path: &Path) -> Result<String, Failure> {
    let fail = |error: std::io::Error| {
        Failure::new(ExitCode::Manifest, format!("read {what} {}", path.display())).because(error)
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
