//! From a guest and a fit pod to everything that a launcher does with them, decided in one place and without touching
//! anything.

mod confinement;
mod credentials;
mod explanations;
pub(crate) mod migratable;
mod vm_config;

use std::path::Path;
use std::time::Duration;

use hawser_netsetup::{CniNic, Plan};
use serde_json::Value;

pub(crate) use self::explanations::Explanations;
pub(crate) use self::migratable::obstacles;
pub(crate) use self::vm_config::Parts;
use crate::daemons::passt::Passt;
use crate::disks;
use crate::error::{ExitCode, Failure};
use crate::guest::{Job, Start};
use crate::hooks::{self, Deadlines, Hooks};
use crate::migration::{self, Identity, Listener, Security};
use crate::nic::{self, Attachment, Found};
use crate::pod::cpus::Pinning;
use crate::pod::landlock::Landlock;
use crate::pod::pci::PciFunctions;
use crate::pod::resolv::Resolv;
use crate::spec::{GuestSpec, SerialConsole};
use crate::status::Facts;
use crate::survey::FitPod;

/// What this launcher is there for.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    /// To boot the guest.
    Boot,
    /// To take the guest over from another launcher, which comes to this address.
    Receive(Listener),
}

impl Role {
    /// A target refuses a guest that cannot migrate: it could not leave the source. Where the manifest alone shows
    /// that, it is refused before the pod is read.
    pub(crate) fn check(&self, guest: &GuestSpec) -> Result<(), Failure> {
        self.allows(&obstacles(guest, &[]))
    }

    fn allows(&self, obstacles: &[String]) -> Result<(), Failure> {
        match self {
            Self::Receive(_) if !obstacles.is_empty() => Err(Failure::new(
                ExitCode::Manifest,
                format!(
                    "this guest cannot be migrated, so no launcher can receive it\n  {}",
                    obstacles.join("\n  ")
                ),
            )),
            Self::Boot | Self::Receive(_) => Ok(()),
        }
    }

    pub(crate) fn certificates(&self) -> Option<&Security> {
        match self {
            Self::Boot => None,
            Self::Receive(listener) => Some(&listener.security),
        }
    }
}

/// How each NIC of the guest is joined to the pod.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) explanations: Explanations,
    /// What the user should know although nothing is wrong.
    pub(crate) notes: Vec<String>,
}

impl Layout {
    /// Sockets are below `directory`, the unprivileged half's.
    pub(crate) fn new(
        guest: &GuestSpec,
        plan: &Plan,
        cni: &[CniNic],
        pci: &PciFunctions,
        resolv: &Resolv,
        directory: &Path,
    ) -> Self {
        let found = Found { cni, pci };
        let mut notes = nic::notes(guest);
        notes.extend(resolv.notes.iter().cloned());
        notes.extend(nic::dns_notes(&plan.nics, resolv));
        Self {
            attachments: nic::attachments(guest, &plan.nics, &found, resolv, directory),
            explanations: Explanations::new(guest, cni),
            notes,
        }
    }
}

/// Everything that a launcher does, before it does any of it.
#[derive(Debug)]
pub(crate) struct Launch {
    /// For the privileged half.
    pub(crate) plan: Plan,
    pub(crate) cpus: Option<Pinning>,
    /// For the unprivileged half.
    pub(crate) job: Job,
    /// What the user should know although nothing is wrong.
    pub(crate) notes: Vec<String>,
}

/// What the sidecars of binding plugins are asked with.
#[derive(Debug)]
pub(crate) struct HookOptions {
    pub(crate) timeout: Duration,
    /// The VirtualMachineInstance, as it was written.
    pub(crate) vmi: Value,
}

impl Launch {
    pub(crate) fn new(
        pod: FitPod,
        role: Role,
        options: HookOptions,
        landlock: Landlock,
        directory: &Path,
    ) -> Result<Self, Failure> {
        let FitPod {
            guest,
            owner,
            plan,
            cni,
            descriptors,
            boot,
            cpus,
            disks,
            root_keys,
            exports,
            pci,
            passt,
            cloud_hypervisor,
            hooks,
            resolv,
        } = pod;
        let mut obstacles = obstacles(&guest, &cni);
        obstacles.extend(migratable::overlays(&guest, &disks));
        role.allows(&obstacles)?;
        if let Some(why) = passt.as_ref().and_then(|passt| passt.not_migratable.clone()) {
            if matches!(role, Role::Receive(_)) {
                return Err(Failure::unfit(why, "install a newer passt in the image"));
            }
            obstacles.push(why);
        }
        let Layout {
            attachments,
            notes: others,
            explanations: _,
        } = Layout::new(&guest, &plan, &cni, &pci, &resolv, directory);
        let notes = plan.notes.iter().cloned().chain(others).collect();
        let disks = match role {
            Role::Boot => disks,
            Role::Receive(_) => disks::of_a_target(disks),
        };
        let drives = disks::tagged(disks, &nic::tagged(&guest, &attachments));
        let found = Found { cni: &cni, pci: &pci };
        let parts = Parts {
            guest: &guest,
            boot: &boot,
            cpus: cpus.as_ref(),
            drives: &drives,
            attachments: &attachments,
            functions: &pci,
            root_keys: &root_keys,
            directory,
        };
        let vmm_may = parts.vmm_may(&cloud_hypervisor);
        let mut config = parts.vm_config();
        config.landlock_enable = landlock.suffices_for_vmm();
        let job = Job {
            owner,
            config,
            start: match role {
                Role::Boot => Start::Boot,
                Role::Receive(listener) => Start::Receive(listener),
            },
            identity: Identity {
                namespace: guest.namespace.clone(),
                name: guest.name.clone(),
                uid: guest.uid.clone(),
            },
            facts: Facts {
                obstacles: obstacles.clone(),
                pod_interfaces: nic::pod_interfaces(&plan.nics, &found),
                ready_when: guest.vsock.as_ref().and_then(|vsock| vsock.ready_when.clone()),
                ..Facts::default()
            },
            nics: nic::describe(&guest, &plan.nics, &found, &attachments),
            functions: nic::devices(&attachments),
            migrating_disks: migration::migrating_disks(&drives),
            obstacles,
            passt_version: passt.as_ref().and_then(|passt| passt.date),
            repairs: None,
            metrics: None,
            liveness_probe: options
                .vmi
                .pointer("/spec/livenessProbe")
                .is_some_and(|probe| !probe.is_null()),
            hooks: sidecars(&guest, hooks, options),
            descriptors,
            drives,
            exports,
            vsock: guest.vsock.is_some(),
            console_logged: guest.serial_console == SerialConsole::Logged,
            passt: attachments
                .iter()
                .find_map(|attachment| attachment.passt.clone())
                .zip(passt)
                .map(|(command, passt)| Passt {
                    program: passt.path,
                    command,
                }),
            servers: attachments
                .into_iter()
                .filter_map(|attachment| attachment.server)
                .collect(),
            program: cloud_hypervisor,
            vmm_may,
            directory: directory.to_owned(),
            grace: Duration::from_secs(guest.termination_grace_period_seconds),
            starts_paused: guest.starts_paused,
            ends_at_reboot: guest.ends_at_reboot,
            nodes: pci.nodes,
        };
        Ok(Self {
            plan,
            cpus,
            job,
            notes,
        })
    }
}

/// The sidecars that complete the VM's configuration; none where no plugin has one.
fn sidecars(guest: &GuestSpec, directory: std::path::PathBuf, options: HookOptions) -> Option<Hooks> {
    let plugins = hooks::plugins(guest);
    if plugins.is_empty() {
        return None;
    }
    Some(Hooks {
        directory,
        deadlines: Deadlines::starting_within(options.timeout),
        vmi: options.vmi,
        plugins,
    })
}
