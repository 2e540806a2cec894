//! The straight line from a manifest to an exit code. Each phase takes the one before by value.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use hawser_netsetup::{Journal, Linux, NetSpec, Nft, Owner, Plan, apply, find_routers, observe, undo};

use crate::binding::Attachment;
use crate::cli::{Cli, Command, Common, ExplainArgs, ExplainFormat, Format, PlanArgs};
use crate::error::{ExitCode, Failure};
use crate::image;
use crate::picture::Picture;
use crate::resolv;
use crate::spec::{self, GuestSpec, Loaded};
use crate::state_dir::{StateDir, vmm_dir};
use crate::supervisor::{self, Job, Passt};
use crate::vmm::config::vm_config;
use crate::{binding, doctor, hugepages, keeper, passt, privileges};

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
    let guest = load(common.vmi.as_deref())?;
    let files = image::kernel_files(common, &guest.kernel_boot)?;
    hugepages::check(&guest)?;
    let owner = privileges::owner(common.uid)?;
    let net = binding::net_spec(&guest, owner)?;
    let nft = begin_wiring()?;
    for device in privileges::DEVICES {
        if device != privileges::TUN || binding::needs_tap(&guest) {
            privileges::device(device, owner)?;
        }
    }
    let program = doctor::find_program(&common.cloud_hypervisor)?;
    let state = StateDir::open(&common.state_dir, owner)?;

    let plan = make_plan(&net)?;
    let resolv = resolv::read();
    say(&resolv.notes);
    say(&binding::notes(&guest));
    let attachments = binding::attachments(&guest, &plan.nics, &resolv, &state.vmm_dir());
    let passts = find_passt(&attachments)?;
    let job = Job {
        owner,
        config: vm_config(&guest, &files, &attachments),
        servers: attachments
            .into_iter()
            .filter_map(|attachment| attachment.server)
            .collect(),
        passts,
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

/// The passts to run, where there are any, with one that is fit for it.
fn find_passt(attachments: &[Attachment]) -> Result<Vec<Passt>, Failure> {
    let commands: Vec<_> = attachments.iter().filter_map(|a| a.passt.as_ref()).collect();
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let program = passt::find()?;
    let fit = passt::check(&program, &commands)?;
    say(fit.note.as_slice());
    tracing::debug!("passt {}", fit.version);
    let passt = |command: &&passt::Command| Passt {
        program: program.clone(),
        command: (*command).clone(),
    };
    Ok(commands.iter().map(passt).collect())
}

fn setup(common: &Common) -> Result<ExitCode, Failure> {
    let guest = load(common.vmi.as_deref())?;
    let owner = privileges::owner(common.uid)?;
    let net = binding::net_spec(&guest, owner)?;
    let nft = begin_wiring()?;
    if binding::needs_tap(&guest) {
        privileges::device(privileges::TUN, owner)?;
    }
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
        attachments: binding::attachments(&guest, &plan.nics, &resolv, &vmm_dir(&args.common.state_dir)),
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
    } else if plan.needs_net_admin() {
        privileges::raise_net_admin()?;
    }
    block_on(async { Ok(apply(&mut Linux::open()?.with_nft(nft), plan, journal).await?) })
}

/// Takes back what was done, last first, and reports every error. False if something is left.
fn take_down(done: &Journal, journal: &Path) -> bool {
    if done.undo.is_empty() {
        return true;
    }
    // Sysctls are root's to write, by its user id.
    let as_root = !done.needs_net_admin() && nix::unistd::geteuid().is_root();
    if !privileges::has(caps::Capability::CAP_NET_ADMIN) && !as_root {
        tracing::info!("the wiring stays: it was set up beforehand, and taking it down needs CAP_NET_ADMIN");
        return true;
    }
    let raised = if as_root {
        Ok(())
    } else {
        privileges::raise_net_admin()
    };
    let result = raised.and_then(|()| block_on(async { Ok(undo(&mut Linux::open()?, done, journal).await) }));
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
