//! The straight line from a manifest to an exit code. Each phase takes the one before by value.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hawser_netsetup::{
    CniNic, Journal, Linux, MacvtapError, NetSpec, Nft, Owner, Plan, apply, find_routers, interface_names,
    observe, open_macvtap, undo,
};

use crate::binding::{self, Attachment, Device, Found, Functions, Macvtap, sriov};
use crate::cli::{
    Cli, Command, Common, ExplainArgs, ExplainFormat, Format, MigrateArgs, PlanArgs, RunArgs, SecurityArgs,
};
use crate::commands::check as doctor;
use crate::commands::plan::Picture;
use crate::control::{self, Order};
use crate::disks;
use crate::error::{ExitCode, Failure};
use crate::hooks::{Deadlines, Hooks};
use crate::migration::{self, Identity, Listener, Security};
use crate::pod::resolv;
use crate::pod::{boot_source as image, cpus, host_devices, hugepages, vfio};
use crate::spec::{self, GuestSpec, Loaded};
use crate::state_dir::{StateDir, vmm_dir};
use crate::supervisor::{self, Job, Passt, Shared, Start};
use crate::vmm::config::vm_config;
use crate::{devices, hooks, inputs, keeper, passt, privileges, virtiofs};

/// Whom a TAP is asked about where nobody is going to run a guest.
const KUBEVIRTS_UID: u32 = 107;
/// For the pod's annotations to reach it: the kubelet looks every minute at the latest.
const ANNOTATION: Duration = Duration::from_secs(90);

/// Does what the command line says.
pub fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Run(args) => run(&args),
        Command::Setup(common) => setup(&common),
        Command::Plan(args) => plan(&args),
        Command::Explain(args) => explain(&args),
        Command::Check(args) => {
            let guest = match &args.inputs.vmi {
                Some(_) => Some(inputs::load(&args.inputs)?.spec),
                None => None,
            };
            doctor::check(&args, guest.as_ref())
        }
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
    let Loaded { spec, vmi, .. } = inputs::load(&common.inputs)?;
    let guest = inputs::named(spec, &common.pod, &interface_names(), ANNOTATION)?;
    let boot = image::boot(common, &guest)?;
    hugepages::check(&guest)?;
    let pinning = cpus::pin(&guest)?;
    may_come(args, &migration::obstacles(&guest, &[]))?;
    let owner = privileges::owner(common.uid)?;
    let mut drives =
        privileges::as_owner(owner, || disks::find(common, &guest, &vmm_dir(&common.state_dir)))?;
    let shared = shared(common, &guest, owner)?;
    let net = binding::net_spec(&guest, owner)?;
    let (functions, nodes) = functions(&guest, common, owner)?;
    let nft = if net.nics.is_empty() {
        None
    } else {
        begin_wiring()?
    };
    for device in privileges::DEVICES {
        if device != privileges::TUN || binding::needs_tap(&guest) {
            privileges::device(device, owner)?;
        }
    }
    let program = doctor::find_program(&common.cloud_hypervisor)?;
    let hooks = hooks(common, &guest, vmi)?;
    let state = StateDir::open(&common.state_dir, owner)?;

    let Planned { plan, cni } = make_plan(&guest, &net)?;
    let mut obstacles = migration::obstacles(&guest, &cni);
    may_come(args, &obstacles)?;
    let resolv = resolv::read();
    say(&resolv.notes);
    say(&binding::notes(&guest));
    let found = Found { cni, functions };
    let attachments = binding::attachments(&guest, &plan.nics, &found, &resolv, &state.vmm_dir());
    disks::tell(&mut drives, &binding::tagged(&guest, &attachments));
    let PasstsFound {
        passts,
        version: passt_version,
        obstacle,
    } = find_passt(&attachments)?;
    if let (Some(why), true) = (&obstacle, args.incoming) {
        return Err(
            Failure::new(ExitCode::PodUnfit, why.clone()).remedy("install a newer passt in the image")
        );
    }
    obstacles.extend(obstacle);
    let helper = if passts.is_empty() {
        None
    } else {
        passt_helper(&state, owner)?
    };
    let job = Job {
        owner,
        config: vm_config(
            &guest,
            &boot,
            &drives,
            &attachments,
            &found.functions,
            &state.vmm_dir(),
        )
        .pinned(pinning.as_ref()),
        start,
        identity: Identity {
            namespace: guest.namespace.clone(),
            name: guest.name.clone(),
            uid: guest.uid.clone(),
        },
        nics: binding::describe(&guest, &plan.nics, &found, &attachments),
        functions: binding::devices(&attachments),
        readonly_disks: migration::readonly_disks(&drives),
        obstacles,
        passt_version,
        repairs: helper.as_ref().map(|helper| helper.directory().clone()),
        hooks,
        descriptors: open_macvtaps(&attachments, owner)?,
        drives,
        shared,
        servers: attachments
            .into_iter()
            .filter_map(|attachment| attachment.server)
            .collect(),
        passts,
        program,
        directory: state.vmm_dir(),
        grace: Duration::from_secs(guest.termination_grace_period_seconds),
        nodes,
    };
    if let Some(pinning) = &pinning {
        pinning.keep_off()?;
    }
    let parent = nix::unistd::getpid();
    let journal = state.journal();
    let kept = keeper::keep(
        |orders| supervisor::supervise(job, parent, orders),
        || wire(&plan, nft, &journal),
        helper,
    )?;
    let wired = kept.wired?;
    if kept.verdict.given_away {
        tracing::info!("the wiring stays as long as the pod: the guest's addresses are in use elsewhere");
        return Ok(kept.verdict.code);
    }
    let undone = take_down(&wired, &journal);
    Ok(match kept.verdict.code {
        ExitCode::Success if !undone => ExitCode::Teardown,
        code => code,
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

/// A target refuses a guest that could not leave where it is either.
fn may_come(args: &RunArgs, obstacles: &[String]) -> Result<(), Failure> {
    if !args.incoming || obstacles.is_empty() {
        return Ok(());
    }
    let reasons = obstacles.join("\n  ");
    Err(Failure::new(
        ExitCode::Manifest,
        format!("this guest cannot come by migration\n  {reasons}"),
    ))
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

/// What is to be done in the pod, and what a CNI plugin has done there for the guest.
struct Planned {
    plan: Plan,
    cni: Vec<CniNic>,
}

/// Opened before anything is wired, by whoever hawser is: if it may not, nothing has happened yet.
fn open_macvtaps(
    attachments: &[Attachment],
    owner: Owner,
) -> Result<BTreeMap<String, Vec<OwnedFd>>, Failure> {
    let mut opened = BTreeMap::new();
    for attachment in attachments {
        let Device::Macvtap(
            net,
            Macvtap {
                interface,
                index,
                queue_pairs,
            },
        ) = &attachment.device
        else {
            continue;
        };
        let queues = open_macvtap(interface, *index, *queue_pairs).map_err(|error| {
            let remedy = match &error {
                MacvtapError::Open { path, .. } => format!(
                    "let user {} read and write {} (chown it on the node), and allow the pod the device", owner.uid, path.display()
                ),
                MacvtapError::NoNode { .. } | MacvtapError::Other { .. } => format!(
                    "give the pod the device of its interface {interface}: a device plugin in Kubernetes, --device \
                     /dev/tapN with podman, where N is the interface's index when it was made"
                ),
            };
            Failure::new(ExitCode::PodUnfit, "network").because(error).remedy(remedy)
        })?;
        opened.insert(net.id().to_owned(), queues);
    }
    Ok(opened)
}

/// The functions that the guest is to have, each looked at closely enough that the VMM will get it, and the nodes by
/// which it will.
fn functions(guest: &GuestSpec, common: &Common, owner: Owner) -> Result<(Functions, Vec<PathBuf>), Failure> {
    let (vfs, notes) = sriov::vfs(guest, &common.pod, ANNOTATION)?;
    say(&notes);
    let mut functions = Functions {
        host: host_devices::find(guest, &common.pod, &vfs)?,
        vfs,
        access: vfio::Access::Group,
    };
    let addresses = functions.addresses();
    if addresses.is_empty() {
        return Ok((functions, Vec::new()));
    }
    let vfio::Fit { access, nodes } = vfio::fit(&addresses, owner, guest.memory)?;
    functions.access = access;
    Ok((functions, nodes))
}

/// What the unprivileged half shares with the guest. Found by the user that will.
fn shared(common: &Common, guest: &GuestSpec, owner: Owner) -> Result<Shared, Failure> {
    let mut shared = Shared {
        vsock: guest.vsock.is_some(),
        ..Shared::default()
    };
    if !guest.filesystems.is_empty() {
        shared.virtiofsd = virtiofs::program()?;
        shared.exports = privileges::as_owner(owner, || virtiofs::find(common, guest))?;
    }
    Ok(shared)
}

/// The passts to run, and what their program means for a migration.
#[derive(Default)]
struct PasstsFound {
    passts: Vec<Passt>,
    version: Option<u32>,
    obstacle: Option<String>,
}

/// The passts to run, where there are any, with one that is fit for it.
fn find_passt(attachments: &[Attachment]) -> Result<PasstsFound, Failure> {
    let commands: Vec<_> = attachments.iter().filter_map(|a| a.passt.as_ref()).collect();
    if commands.is_empty() {
        return Ok(PasstsFound::default());
    }
    let program = passt::find()?;
    let fit = passt::check(&program, &commands)?;
    say(fit.note.as_slice());
    tracing::debug!("passt {}", fit.version);
    let passt = |command: &&passt::Command| Passt {
        program: program.clone(),
        command: (*command).clone(),
    };
    Ok(PasstsFound {
        passts: commands.iter().map(passt).collect(),
        version: fit.date,
        obstacle: fit.obstacle(),
    })
}

/// Who moves passt's open connections, if somebody can.
fn passt_helper(state: &StateDir, owner: Owner) -> Result<Option<passt::Helper>, Failure> {
    let directory = state.repairs(owner).map_err(|error| {
        Failure::new(ExitCode::PodUnfit, "the state directory's repair/")
            .because(error)
            .remedy("mount a writable volume there (emptyDir), or name another with --state-dir")
    })?;
    Ok(passt::Helper::find(directory))
}

fn setup(common: &Common) -> Result<ExitCode, Failure> {
    let guest = inputs::guest(&common.inputs, &common.pod, ANNOTATION)?;
    let owner = privileges::owner(common.uid)?;
    let net = binding::net_spec(&guest, owner)?;
    let nft = begin_wiring()?;
    if binding::needs_tap(&guest) {
        privileges::device(privileges::TUN, owner)?;
    }
    let state = StateDir::open(&common.state_dir, owner)?;
    wire(&make_plan(&guest, &net)?.plan, nft, &state.journal())?;
    tracing::info!("the pod is wired for {}: hawser run finds it done", guest.name);
    Ok(ExitCode::Success)
}

fn plan(args: &PlanArgs) -> Result<ExitCode, Failure> {
    let guest = inputs::guest(&args.common.inputs, &args.common.pod, Duration::ZERO)?;
    // A plan needs no privilege, so it also shows what root would do to those who are not.
    let owner = privileges::owner(args.common.uid).unwrap_or(Owner {
        uid: args.common.uid,
        gid: args.common.uid,
    });
    let net = binding::net_spec(&guest, owner)?;
    let Planned { plan, cni } = make_plan(&guest, &net)?;
    let resolv = resolv::read();
    let (vfs, mut notes) = sriov::vfs(&guest, &args.common.pod, Duration::ZERO)?;
    let mut functions = Functions {
        host: host_devices::find(&guest, &args.common.pod, &vfs)?,
        vfs,
        access: vfio::Access::Group,
    };
    let (access, lacks) = vfio::glance(&functions.addresses());
    functions.access = access;
    notes.extend(lacks);
    let found = Found { cni, functions };
    let picture = Picture {
        guest: &guest,
        plan: &plan,
        found: &found,
        attachments: binding::attachments(
            &guest,
            &plan.nics,
            &found,
            &resolv,
            &vmm_dir(&args.common.state_dir),
        ),
        notes,
        boot: image::boot(&args.common, &guest),
        pinning: cpus::pin(&guest),
        drives: disks::find(&args.common, &guest, &vmm_dir(&args.common.state_dir)),
        resolv: &resolv,
        directory: vmm_dir(&args.common.state_dir),
    };
    match args.output {
        Format::Text => print!("{}", picture.text()),
        Format::Json => println!("{:#}", picture.json()),
        Format::Dot => print!("{}", picture.dot()),
    }
    Ok(ExitCode::Success)
}

fn explain(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let guest = inputs::load(&args.inputs)?.spec;
    // Also where the pod is not, so that its interfaces are not looked for in vain.
    let here = inputs::named(guest.clone(), &args.pod, &interface_names(), Duration::ZERO);
    let guest = here.or_else(|_| inputs::named(guest, &args.pod, &[], Duration::ZERO))?;
    let owner = privileges::owner(KUBEVIRTS_UID).unwrap_or(Owner {
        uid: KUBEVIRTS_UID,
        gid: KUBEVIRTS_UID,
    });
    let cni = find_cni(&guest, owner);
    let explanations = binding::explain(&guest, &cni);
    let devices = devices::explain(&guest);
    match args.output {
        ExplainFormat::Text => {
            print!("{}", binding::explanation_text(&explanations));
            print!("{}", devices::explanation_text(&devices));
        }
        ExplainFormat::Json => {
            println!(
                "{:#}",
                serde_json::json!({ "interfaces": explanations, "devices": devices })
            );
        }
    }
    Ok(ExitCode::Success)
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

fn make_plan(guest: &GuestSpec, net: &NetSpec) -> Result<Planned, Failure> {
    block_on(async {
        let mut observed = observe().await?;
        find_routers(net, &mut observed).await?;
        let mut notes = Vec::new();
        let cni = binding::cni_specs(guest)
            .iter()
            .map(|spec| CniNic::find(spec, net.owner, &observed, &mut notes))
            .collect::<Result<_, _>>()?;
        let mut plan = Plan::new(net, &observed)?;
        plan.notes.extend(notes);
        Ok(Planned { plan, cni })
    })
}

/// What CNI plugins have made for the guest, if this is its pod.
fn find_cni(guest: &GuestSpec, owner: Owner) -> Vec<CniNic> {
    let specs = binding::cni_specs(guest);
    if specs.is_empty() {
        return Vec::new();
    }
    let Ok(observed) = block_on(async { Ok(observe().await?) }) else {
        return Vec::new();
    };
    let find = |spec| CniNic::find(spec, owner, &observed, &mut Vec::new()).ok();
    specs.iter().filter_map(find).collect()
}

/// Makes the namespace as the plan wants it. What comes back is what to take down at the end.
fn wire(plan: &Plan, nft: Option<Nft>, journal: &Path) -> Result<Journal, Failure> {
    say(&plan.notes);
    if plan.nics.is_empty() {
        tracing::info!("the pod needs no wiring");
    } else if plan.steps.is_empty() {
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
