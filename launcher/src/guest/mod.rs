//! The unprivileged half: serves the guest its addresses, starts the VMM, and drives the guest's life to its end.
//!
//! It runs in a process of its own that has given up everything before it reads a byte from the guest: the user is
//! the unprivileged one, no capability is left, and no_new_privs holds for it and for the VMM.

mod boot;
mod dhcp;
mod driver;
mod faults;
mod heard;
mod machine;
#[cfg(test)]
mod model;
mod notify;
mod power;
mod replug;
mod run;
mod verbs;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use hawser_linux::landlock::Allowed;
use hawser_netsetup::Owner;
use nix::unistd::Pid;

pub(crate) use self::boot::check_version;
use self::machine::{CallId, Event, Outcome};
pub(crate) use self::notify::Notified;
use crate::control::{self, Call, GIVEN_AWAY, Whereabouts};
use crate::daemons::passt::{self, Passt};
use crate::daemons::virtiofsd::Exports;
use crate::disks::{self, Drive as Disk};
use crate::error::{ExitCode, Failure};
use crate::hooks::Hooks;
use crate::keeper::{Orders, Verdict, die_with};
use crate::log;
use crate::migration::{self, Arrival, Description, MigratingDisk, Report, TokenFile};
use crate::nic::Server;
use crate::privileges;
use crate::status::{Facts, Identity, NicDescription};
use crate::vmm::config::{DeviceConfig, VmConfig};

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
    /// Whether what the guest prints goes to standard output and to a file.
    pub(crate) console_logged: bool,
    pub(crate) program: PathBuf,
    /// What the VMM may reach of the pod.
    pub(crate) vmm_may: Allowed,
    /// For the API socket and the console's log; belongs to the owner.
    pub(crate) directory: PathBuf,
    pub(crate) grace: Duration,
    /// The guest waits for an operator to start it.
    pub(crate) starts_paused: bool,
    /// A guest that reboots has ended.
    pub(crate) ends_at_reboot: bool,
    /// The kubelet asks the guest whether it lives, and a paused one does not answer.
    pub(crate) liveness_probe: bool,
    /// Devices that the VMM opens besides those that every guest needs.
    pub(crate) nodes: Vec<PathBuf>,
    pub(crate) start: Start,
    pub(crate) identity: Identity,
    pub(crate) nics: Vec<NicDescription>,
    /// What the status says of it beside that.
    pub(crate) facts: Facts,
    /// Those that a target has to have too.
    pub(crate) migrating_disks: Vec<MigratingDisk>,
    /// Where whoever comes is told the metrics.
    pub(crate) metrics: Option<SocketAddr>,
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
    /// As the launchers compare it, but for the disks, which have to be read.
    fn description(&self, vmm_version: String) -> Description {
        Description {
            disks: Vec::new(),
            identity: self.identity.clone(),
            vmm_version,
            nics: self.nics.clone(),
            config: serde_json::to_value(&self.config).unwrap_or_default(),
            obstacles: self.obstacles.clone(),
            passt_version: self.passt_version,
        }
    }
}

/// Everything that happens, from wherever in this process.
#[derive(Debug)]
enum Input {
    Event(Event),
    Call(Call),
    /// The pod is wired, and the VMM answers with its version.
    Wired(String),
    /// The VMM that was found, or a program beside it, is not one to run a guest with.
    Unfit(Failure),
    /// The guest is described for the target of a migration.
    Described(CallId, Result<(Description, Vec<TokenFile>), String>),
    /// From a migration away from here, by its call; of none, for a VF that is plugged at the target.
    Source(Option<CallId>, Report),
    /// From a migration to here.
    Target(Arrival),
    /// A passt does not run any more.
    PasstLost(passt::Report),
}

impl From<Call> for Input {
    fn from(call: Call) -> Self {
        Self::Call(call)
    }
}

impl From<Arrival> for Input {
    fn from(arrival: Arrival) -> Self {
        Self::Target(arrival)
    }
}

impl From<passt::Report> for Input {
    fn from(report: passt::Report) -> Self {
        Self::PasstLost(report)
    }
}

/// How the guest ended, and where it was last to be migrated to.
struct End {
    outcome: Outcome,
    target: String,
    /// hawser stopped it because of a fault of its own.
    faulty: bool,
}

impl End {
    fn exit_code(&self) -> ExitCode {
        match self.outcome {
            Outcome::ShutDown | Outcome::NeverStarted if self.faulty => ExitCode::Internal,
            _ => self.outcome.exit_code(),
        }
    }
}

/// Runs the guest to its end. The keeper is this process's parent.
pub(crate) fn supervise(job: Job, keeper: Pid, orders: Orders) -> Verdict {
    let directory = job.directory.clone();
    let code = match try_supervise(job, keeper, orders) {
        Ok(end) => {
            log_end(&end);
            end.exit_code()
        }
        Err(failure) => {
            log::error(&failure);
            failure.code()
        }
    };
    Verdict {
        code,
        given_away: control::whereabouts(&directory) != Whereabouts::Here,
    }
}

fn log_end(End { outcome, target, .. }: &End) {
    match outcome {
        Outcome::ShutDown => tracing::info!(event = "guest-shut-down", "the guest has shut down"),
        Outcome::NeverStarted => {
            tracing::info!(event = "guest-never-ran", "stopped before the guest ran");
        }
        Outcome::Killed => {
            tracing::error!(
                event = "guest-killed",
                "the guest did not power off within its grace period: killed"
            );
        }
        Outcome::Failed(why) => tracing::error!(event = "guest-failed", "the guest failed: {why}"),
        Outcome::Migrated => {
            tracing::info!(event = "guest-migrated", address = %target, "migrated to {target}");
        }
        Outcome::NotReceived(why) => {
            tracing::error!(event = "guest-not-received", "no guest was received: {why}");
        }
        Outcome::LostHere(why) => {
            tracing::error!(
                event = "guest-lost",
                "the guest was migrated to this launcher, and failed before it ran: {why}"
            );
        }
        Outcome::LostAtTarget(why) => {
            let why = migration::lost_there(target, why);
            tracing::error!(event = "guest-handed-off", "no guest is left here: {why}");
        }
        Outcome::InDoubt(why) => {
            let why = migration::in_doubt(target, why);
            tracing::error!(event = "guest-handed-off", "no guest is left here: {why}");
        }
    }
}

fn try_supervise(job: Job, keeper: Pid, orders: Orders) -> Result<End, Failure> {
    privileges::drop_all(job.owner, &job.nodes)?;
    privileges::forbid_unused_calls()?;
    die_with(keeper).map_err(|errno| Failure::new(ExitCode::Internal, "follow the keeper").because(errno))?;
    refuse_if_given_away(&job.directory)?;
    disks::make(&job.directory, &job.drives)?;
    let directory = job.directory.clone();
    let end = run::run(job, orders);
    if let Err(error) = disks::clear(&directory) {
        tracing::warn!(
            event = "temporary-disks-left",
            "the guest's temporary disks in {} are left: {error}",
            directory.display()
        );
    }
    end
}

fn refuse_if_given_away(directory: &std::path::Path) -> Result<(), Failure> {
    let remedy = format!(
        "check there whether it runs; to start it here anyway, first make sure that it runs nowhere else, then delete \
         vmm/{GIVEN_AWAY} from the state directory"
    );
    match control::whereabouts(directory) {
        Whereabouts::Here => Ok(()),
        Whereabouts::GivenAway(to) => Err(Failure::new(
            ExitCode::NotOurs,
            format!("this pod's guest was migrated to {to}"),
        )
        .remedy(remedy)),
        Whereabouts::Unknown(why) => Err(Failure::new(
            ExitCode::NotOurs,
            format!("this pod's guest may have been migrated to another pod: vmm/{GIVEN_AWAY} cannot be read: {why}"),
        )
        .remedy(remedy)),
    }
}
