//! `hawser run`: from a manifest to an exit code. Each phase takes what the one before came to.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::args::{PodArgs, SecurityArgs};
use super::wiring;
use crate::daemons::passt;
use crate::error::{ExitCode, Failure};
use crate::guest;
use crate::keeper;
use crate::launch::{Launch, Role};
use crate::migration::{self, Listener, Security};
use crate::nic;
use crate::pod::landlock::Landlock;
use crate::privileges;
use crate::spec::GuestSpec;
use crate::state_dir::StateDir;
use crate::stop_signals;
use crate::survey::{Look, Survey};

/// For the pod's annotations to reach it: the kubelet looks every minute at the latest.
pub(super) const ANNOTATION_TIMEOUT: Duration = Duration::from_secs(90);

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub pod: PodArgs,
    /// Boot nothing; wait for a guest that another launcher migrates to this pod.
    #[arg(long)]
    pub incoming: bool,
    /// Address to wait at; [::] is every address of either family. hawser keeps port 49152 from every guest.
    #[arg(
        long,
        value_name = "tcp:ADDRESS:PORT",
        default_value = "tcp:[::]:49152",
        requires = "incoming",
        value_parser = migration::listen_address
    )]
    pub migration_listen: SocketAddr,
    /// Name that the source's certificate must have: a DNS name or an IP address. By default NAME.NAMESPACE.vmi, of the guest's
    /// own name and namespace. Any other source is refused and told nothing.
    #[arg(long, requires = "incoming", conflicts_with = "insecure_plain_tcp", value_parser = migration::check_name)]
    pub peer_name: Option<String>,
    #[command(flatten)]
    pub security: SecurityArgs,
    /// Serve metrics for Prometheus at this address, as /metrics. hawser keeps port 49154 from every guest. Without this option
    /// nothing listens.
    #[arg(
        long,
        value_name = "tcp:ADDRESS:PORT",
        env = "HAWSER_METRICS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "tcp:0.0.0.0:49154",
        value_parser = migration::listen_address
    )]
    pub metrics: Option<SocketAddr>,
}

pub(super) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    stop_signals::end_at_once()
        .map_err(|errno| Failure::new(ExitCode::Internal, "handle stop signals").because(errno))?;
    privileges::keep_memory_private()?;
    let security = args.incoming_security()?;
    let loaded = args.pod.manifest.load()?;
    let role = args.role(security, &loaded.spec)?;
    role.check(&loaded.spec)?;
    // Started this early, nft is ready by the time there are rules for it.
    let nft = match nic::needs_wiring(&loaded.spec) {
        true => wiring::begin()?,
        false => None,
    };
    let places = args.pod.places();
    let survey = Survey {
        places: &places,
        uid: args.pod.uid,
        look: Look::Start {
            wait: ANNOTATION_TIMEOUT,
        },
        certificates: role.certificates(),
    };
    let (pod, notes) = survey.pod(loaded.spec).fit()?;
    wiring::note(&notes);
    let landlock = Landlock::of_kernel();
    if let Some(lack) = landlock.lack() {
        tracing::warn!(event = "landlock-lacking", "{lack}");
    }
    let hooks = args.pod.hooks(loaded.vmi);
    let launch = Launch::new(pod, role, hooks, landlock, &places.vmm_dir())?;
    wiring::note(&launch.notes);
    let state = StateDir::open(&places.state_dir, launch.job.owner)?;
    let mut launch = launch;
    launch.job.metrics = args.metrics;
    keep(launch, &state, nft)
}

/// Splits the process in two, runs the guest to its end in one half, and wires the pod and takes the wiring down in the
/// other.
fn keep(launch: Launch, state: &StateDir, nft: Option<hawser_netsetup::Nft>) -> Result<ExitCode, Failure> {
    let Launch {
        plan, cpus, mut job, ..
    } = launch;
    let repair = match &job.passt {
        Some(_) => passt::RepairProgram::find(state.repairs(job.owner)?),
        None => None,
    };
    job.repairs = repair.as_ref().map(|repair| repair.directory().clone());
    if let Some(cpus) = &cpus {
        cpus.pin_self()?;
    }
    let parent = nix::unistd::getpid();
    let journal = state.journal()?;
    let kept = keeper::keep(
        |orders| guest::supervise(job, parent, orders),
        || wiring::wire(&plan, nft, &journal),
        repair,
    )?;
    let wired = kept.wired?;
    if kept.verdict.given_away {
        tracing::info!(
            event = "wiring-kept",
            "the wiring is kept until the pod ends: the guest's addresses are in use in another pod"
        );
        return Ok(kept.verdict.code);
    }
    let undone = wiring::take_down(&wired, &journal);
    Ok(match kept.verdict.code {
        ExitCode::Success if !undone => ExitCode::Teardown,
        code => code,
    })
}

impl RunArgs {
    /// How a source proves who it is, if one is to come.
    fn incoming_security(&self) -> Result<Option<Security>, Failure> {
        if !self.incoming {
            return Ok(None);
        }
        Ok(Some(match self.security.tls_directory()? {
            Some(directory) => Security::Tls(directory),
            None => Security::Plain,
        }))
    }

    /// Whether the guest boots here, or is migrated here and by whom.
    fn role(&self, incoming: Option<Security>, guest: &GuestSpec) -> Result<Role, Failure> {
        let Some(security) = incoming else {
            return Ok(Role::Boot);
        };
        let own = || migration::peer_name(&guest.namespace, &guest.name);
        let peer_name = self.peer_name.clone().unwrap_or_else(own);
        migration::check_name(&peer_name).map_err(|why| {
            Failure::new(ExitCode::Usage, format!("the source's name: {why}"))
                .remedy("name what the source's certificate is for with --peer-name")
        })?;
        Ok(Role::Receive(Listener {
            address: self.migration_listen,
            security,
            peer_name,
        }))
    }
}
