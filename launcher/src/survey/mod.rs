//! One look at the pod, before anything is touched: what a start for this guest would use, and everything that stands
//! in its way. `run` refuses with all of that, `check` prints it, and `plan` goes on with what there is.

mod interfaces;
pub(crate) mod namespace;
mod parts;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hawser_netsetup::{CniNic, Owner, Plan};

pub(crate) use self::interfaces::as_far_as_known;
use self::interfaces::{name_interfaces, networks_unfit};
use self::namespace::{Descriptors, Network};
use crate::daemons::virtiofsd::{self, Exports};
use crate::disks::{self, Drive};
use crate::error::{ExitCode, Failure};
use crate::migration::{self, Security};
use crate::nic;
use crate::pod::boot_source::{self, Boot};
use crate::pod::cpus::{self, Pinning};
use crate::pod::finding::{Finding, Part};
use crate::pod::hugepages;
use crate::pod::memory_limit;
use crate::pod::networks::PodNetworks;
use crate::pod::pci::{self, PciFunctions};
use crate::pod::places::Places;
use crate::pod::programs::{self, PasstProgram};
use crate::pod::resolv::{self, Resolv};
use crate::privileges;
use crate::spec::GuestSpec;

/// How closely the pod is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// As anybody can: no device is opened and nothing waited for.
    Glance,
    /// With the rights of a start, which is about to follow. An annotation that is still missing is waited for so long.
    Start { wait: Duration },
    /// The same, for a report.
    Check,
}

/// What is looked for.
#[derive(Debug)]
pub(crate) struct Survey<'a> {
    pub(crate) places: &'a Places,
    /// The user that the guest's processes run as where hawser is root.
    pub(crate) uid: u32,
    pub(crate) look: Look,
    /// Certificates that a migration to this pod needs.
    pub(crate) certificates: Option<&'a Security>,
}

/// What the pod has for its guest, part by part, in the order in which it is reported.
#[derive(Debug)]
pub(crate) struct Pod {
    /// With the interfaces that the pod has on its networks.
    pub(crate) guest: GuestSpec,
    pub(crate) owner: Part<Owner>,
    certificates: Part<()>,
    devices: Part<Vec<&'static str>>,
    networks: Part<Option<PodNetworks>>,
    pub(crate) network: Part<Network>,
    wiring: Part<()>,
    pub(crate) descriptors: Part<Descriptors>,
    pub(crate) boot: Part<Boot>,
    memory: Part<()>,
    pub(crate) cpus: Part<Option<Pinning>>,
    pub(crate) disks: Part<Vec<Drive>>,
    pub(crate) root_keys: Part<Vec<String>>,
    pub(crate) exports: Part<Exports>,
    pub(crate) pci: Part<PciFunctions>,
    passt: Part<Option<PasstProgram>>,
    cloud_hypervisor: Part<PathBuf>,
    state_dir: Part<()>,
    hooks: Part<PathBuf>,
    pub(crate) resolv: Resolv,
}

/// A pod in which nothing stands in the way of this guest.
#[derive(Debug)]
pub(crate) struct FitPod {
    pub(crate) guest: GuestSpec,
    pub(crate) owner: Owner,
    pub(crate) plan: Plan,
    pub(crate) cni: Vec<CniNic>,
    pub(crate) descriptors: Descriptors,
    pub(crate) boot: Boot,
    pub(crate) cpus: Option<Pinning>,
    pub(crate) disks: Vec<Drive>,
    pub(crate) root_keys: Vec<String>,
    pub(crate) exports: Exports,
    pub(crate) pci: PciFunctions,
    pub(crate) passt: Option<PasstProgram>,
    pub(crate) cloud_hypervisor: PathBuf,
    pub(crate) hooks: PathBuf,
    pub(crate) resolv: Resolv,
}

impl Survey<'_> {
    pub(crate) fn pod(&self, guest: GuestSpec) -> Pod {
        let (owner, user) = self.owner();
        let networks = self.networks();
        let (guest, named) = name_interfaces(guest, &networks);
        let resolv = resolv::read();
        let network = named.and_then(|()| namespace::network(&guest, user, &resolv));
        Pod {
            certificates: self.certificates(),
            devices: match self.look {
                Look::Glance => Part::silent(Vec::new()),
                Look::Start { .. } | Look::Check => devices(&guest, user, &privileges::DEVICES),
            },
            wiring: match network.value() {
                Some(network) if self.look != Look::Glance => namespace::wiring(&network.plan, self.look),
                _ => Part::silent(()),
            },
            descriptors: match network.value() {
                Some(network) if self.look != Look::Glance => namespace::descriptors(&network.cni, user),
                Some(_) => Part::silent(Descriptors::new()),
                None => Part::unknown(),
            },
            boot: Part::of(boot_source::boot(self.places, &guest), Boot::to_string),
            memory: Part::or_bad(hugepages::check(&guest)).with_notes(memory_limit::note(&guest)),
            cpus: cpus(&guest),
            disks: self.disks(&guest, &owner),
            root_keys: self.root_keys(&guest, &owner),
            exports: self.exports(&guest, &owner),
            pci: match networks.value() {
                Some(networks) => self.pci(&guest, networks.as_ref(), user),
                None => Part::unknown(),
            },
            passt: programs::passt(nic::behind_passt(&guest)),
            cloud_hypervisor: self.cloud_hypervisor(),
            state_dir: self.state_dir(),
            hooks: self.hooks(&guest),
            resolv,
            guest,
            owner,
            networks,
            network,
        }
    }

    /// And the user for whom the rest is asked: the one that the guest's processes would be.
    fn owner(&self) -> (Part<Owner>, Owner) {
        let (uid, gid) = (self.uid, self.uid);
        let owner = Part::of(privileges::owner(uid), |owner| {
            format!("user: the guest's processes run as {}:{}", owner.uid, owner.gid)
        });
        let user = owner.value().copied().unwrap_or(Owner { uid, gid });
        (owner, user)
    }

    /// The wiring alone: the user of the guest's processes, and what is changed.
    pub(crate) fn wiring(&self, guest: GuestSpec) -> Result<(Owner, Plan, Vec<String>), Failure> {
        let owner = privileges::owner_elsewhere(self.uid);
        let networks = self.networks();
        let (guest, named) = name_interfaces(guest, &networks);
        let devices = devices(&guest, owner, &[privileges::TUN]);
        let named = networks.join(named, |_, ()| ());
        let network = named.and_then(|()| namespace::network(&guest, owner, &resolv::read()));
        let notes = network.notes().map(str::to_owned).collect();
        let needs = match network.value() {
            Some(network) => namespace::wiring(&network.plan, self.look),
            None => Part::silent(()),
        };
        let all = devices
            .join(network, |_, network| network)
            .join(needs, |network, ()| network);
        Ok((owner, all.require()?.plan, notes))
    }

    /// What is found in a pod whose guest is not known.
    pub(crate) fn without_guest(&self) -> Vec<Finding> {
        let (mut owner, user) = self.owner();
        let mut findings = owner.take_findings();
        findings.extend(usable(privileges::DEVICES, user).take_findings());
        findings.push(namespace::net_admin());
        findings.push(namespace::nft());
        findings.extend(programs::passt_if_needed());
        findings.extend(self.cloud_hypervisor().take_findings());
        findings.extend(self.state_dir().take_findings());
        findings.extend(namespace::facts().take_findings());
        findings
    }

    fn certificates(&self) -> Part<()> {
        let Some(security) = self.certificates else {
            return Part::silent(());
        };
        Part::or_bad(migration::check(security, true).map_err(|error| {
            Failure::unfit(
                "certificates of the migration",
                "mount a directory with ca-cert.pem, server-cert.pem and server-key.pem, readable for the guest's user, and \
                 name it with --tls-dir",
            )
            .because(error)
        }))
    }

    fn networks(&self) -> Part<Option<PodNetworks>> {
        let wait = match self.look {
            Look::Start { wait } => wait,
            Look::Glance | Look::Check => Duration::ZERO,
        };
        let path = self.places.network_status.as_deref();
        Part::or_bad(PodNetworks::await_file(path, wait).map_err(networks_unfit))
    }

    /// As the user that will open them, so that what is found can be opened.
    fn as_owner<T>(&self, owner: &Part<Owner>, work: impl FnOnce() -> T) -> Result<T, Failure> {
        match owner.value() {
            Some(owner) if self.look != Look::Glance => privileges::as_owner(*owner, || Ok(work())),
            _ => Ok(work()),
        }
    }

    fn disks(&self, guest: &GuestSpec, owner: &Part<Owner>) -> Part<Vec<Drive>> {
        let users = disks::Users::of_a_target(self.certificates.is_some());
        let find = || disks::find(self.places, guest, &self.places.vmm_dir(), users);
        match self.as_owner(owner, find) {
            Ok(found) => {
                let note = disks::no_boot_loader(guest, &found);
                Part::all(found, Drive::to_string).with_notes(note)
            }
            Err(failure) => Part::bad(failure),
        }
    }

    fn exports(&self, guest: &GuestSpec, owner: &Part<Owner>) -> Part<Exports> {
        if guest.filesystems.is_empty() {
            return Part::silent(Exports::default());
        }
        let shown = |path: &PathBuf| format!("virtiofsd: {}", path.display());
        let virtiofsd = Part::of(virtiofsd::program(), shown);
        let directories = match self.as_owner(owner, || virtiofsd::find(self.places, guest)) {
            Ok(found) => Part::all(found, |export| {
                format!("file system {}: {}", export.name, export.directory.display())
            }),
            Err(failure) => Part::bad(failure),
        };
        virtiofsd.join(directories, |virtiofsd, directories| Exports {
            directories,
            virtiofsd,
        })
    }

    fn pci(&self, guest: &GuestSpec, networks: Option<&PodNetworks>, owner: Owner) -> Part<PciFunctions> {
        let found = pci::find(
            guest,
            &nic::with_vf(guest),
            networks,
            &self.places.device_metadata,
        );
        match self.look {
            Look::Glance => found.and_then(pci::glance),
            Look::Start { .. } | Look::Check => {
                found.and_then(|found| pci::examine(found, owner, guest.memory))
            }
        }
    }

    fn cloud_hypervisor(&self) -> Part<PathBuf> {
        let found = programs::cloud_hypervisor(&self.places.cloud_hypervisor);
        let found = found.and_then(|path| {
            // A start asks the running VMM.
            if self.look == Look::Check {
                programs::cloud_hypervisor_version(&path)?;
            }
            Ok(path)
        });
        Part::of(found, |path| format!("cloud-hypervisor: {}", path.display()))
    }

    fn state_dir(&self) -> Part<()> {
        let path = &self.places.state_dir;
        let nearest = path.ancestors().find(|path| path.exists());
        let nearest = nearest.unwrap_or(Path::new("/"));
        let found = nix::unistd::access(nearest, nix::unistd::AccessFlags::W_OK).map_err(|_| {
            Failure::unfit(
                format!("state directory: {} is not writable", nearest.display()),
                "mount a writable volume there (emptyDir), or name another with --state-dir",
            )
        });
        Part::of(found, |()| format!("state directory: {}", path.display()))
    }
}

impl Pod {
    /// Everything that was found, in order.
    pub(crate) fn findings(mut self) -> Vec<Finding> {
        self.take_findings()
    }

    fn take_findings(&mut self) -> Vec<Finding> {
        let mut all = self.owner.take_findings();
        all.extend(self.certificates.take_findings());
        all.extend(self.devices.take_findings());
        all.extend(self.networks.take_findings());
        all.extend(self.network.take_findings());
        all.extend(self.wiring.take_findings());
        all.extend(self.descriptors.take_findings());
        all.extend(self.boot.take_findings());
        all.extend(self.memory.take_findings());
        all.extend(self.cpus.take_findings());
        all.extend(self.disks.take_findings());
        all.extend(self.root_keys.take_findings());
        all.extend(self.exports.take_findings());
        all.extend(self.pci.take_findings());
        all.extend(self.passt.take_findings());
        all.extend(self.cloud_hypervisor.take_findings());
        all.extend(self.state_dir.take_findings());
        all.extend(self.hooks.take_findings());
        all
    }

    /// The pod and what to note of it, or everything that stands in the way.
    pub(crate) fn fit(mut self) -> Result<(FitPod, Vec<String>), Failure> {
        let mut failures = Vec::new();
        let mut notes = Vec::new();
        for finding in self.take_findings() {
            match finding {
                Finding::Good(text) => tracing::debug!("{text}"),
                Finding::Note(text) => notes.push(text),
                Finding::Bad(failure) => failures.push(failure),
            }
        }
        if let Some(failure) = Failure::all(failures) {
            return Err(failure);
        }
        let fit = self.into_fit().ok_or_else(neither)?;
        Ok((fit, notes))
    }

    /// What is to be known besides what stands in the way.
    pub(crate) fn notes(&self) -> Vec<String> {
        let networks = self.network.notes();
        networks
            .chain(self.pci.notes())
            .chain(self.passt.notes())
            .chain(self.memory.notes())
            .chain(self.disks.notes())
            .map(str::to_owned)
            .collect()
    }

    /// What a plan cannot do without.
    pub(crate) fn wiring_and_functions(&mut self) -> Result<(Network, PciFunctions), Failure> {
        let networks = std::mem::replace(&mut self.networks, Part::unknown());
        let network = std::mem::replace(&mut self.network, Part::unknown());
        let pci = std::mem::replace(&mut self.pci, Part::unknown());
        let all = networks
            .join(network, |_, network| network)
            .join(pci, |network, pci| (network, pci));
        all.require()
    }

    fn into_fit(self) -> Option<FitPod> {
        let Network { plan, cni } = self.network.into_value()?;
        Some(FitPod {
            guest: self.guest,
            owner: self.owner.into_value()?,
            plan,
            cni,
            descriptors: self.descriptors.into_value()?,
            boot: self.boot.into_value()?,
            cpus: self.cpus.into_value()?,
            disks: self.disks.into_value()?,
            root_keys: self.root_keys.into_value()?,
            exports: self.exports.into_value()?,
            pci: self.pci.into_value()?,
            passt: self.passt.into_value()?,
            cloud_hypervisor: self.cloud_hypervisor.into_value()?,
            hooks: self.hooks.into_value()?,
            resolv: self.resolv,
        })
    }
}

fn neither() -> Failure {
    Failure::new(
        ExitCode::Internal,
        "a part of the pod was checked without a result",
    )
}

/// The nodes that the VMM opens for every guest, and the one for TAPs where there is any.
fn devices(guest: &GuestSpec, owner: Owner, devices: &[&'static str]) -> Part<Vec<&'static str>> {
    let needed = devices
        .iter()
        .copied()
        .filter(|device| *device != privileges::TUN || nic::needs_tap(guest));
    usable(needed, owner)
}

fn usable(devices: impl IntoIterator<Item = &'static str>, owner: Owner) -> Part<Vec<&'static str>> {
    let look = |device: &'static str| privileges::device(device, owner).map(|()| device);
    let found = devices.into_iter().map(look).collect();
    Part::all(found, |device| format!("{device}: usable by user {}", owner.uid))
}

fn cpus(guest: &GuestSpec) -> Part<Option<Pinning>> {
    match cpus::pin(guest) {
        Ok(Some(pinning)) => {
            let line = Finding::Good(pinning.to_string());
            Part::silent(Some(pinning)).with(line)
        }
        Ok(None) => Part::silent(None),
        Err(failure) => Part::bad(failure),
    }
}
