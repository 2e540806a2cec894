//! The part of a status that has the form of a VirtualMachineInstance's `.status`: the same names and values, as far as a launcher
//! knows them. What only an agent in the guest could tell is absent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{BootState, Direction, GuestBoot, MigrationStatus, NicDescription, Phase, Status, Step};
use crate::spec::ReadyWhen;

/// What the launcher knows beside [`Status`], and nobody else needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Why the guest cannot migrate.
    pub(crate) obstacles: Vec<String>,
    /// By the NIC's name: the pod's interface that it is joined to.
    pub(crate) pod_interfaces: BTreeMap<String, String>,
    /// By the NIC's name: addresses that the guest was granted by DHCP, and has not released.
    pub(crate) leased: BTreeMap<String, Vec<IpAddr>>,
    /// The guest came from another pod with the addresses that it has.
    pub(crate) arrived: bool,
    /// NICs whose link is down by `hawser link`.
    pub(crate) down: Vec<String>,
    /// Of a guest with a virtio socket.
    pub(crate) boot: Option<GuestBoot>,
    /// What the guest has to report before it is ready.
    pub(crate) ready_when: Option<ReadyWhen>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Vmi {
    #[serde(default)]
    pub(crate) phase: String,
    #[serde(default)]
    pub(crate) conditions: Vec<Condition>,
    #[serde(default)]
    pub(crate) interfaces: Vec<Interface>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) migration_state: Option<MigrationState>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// `True` or `False`.
    pub(crate) status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ip_address: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ip_addresses: Vec<String>,
    /// Who says so, beside the VM's configuration (`domain`).
    pub(crate) info_source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queue_count: Option<u16>,
    pub(crate) link_state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod_interface_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MigrationState {
    pub(crate) start_timestamp: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end_timestamp: Option<String>,
    /// Of a migration away from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target_node_address: Option<String>,
    #[serde(default)]
    pub(crate) completed: bool,
    #[serde(default)]
    pub(crate) failed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure_reason: Option<String>,
    pub(crate) mode: String,
}

impl Facts {
    /// Why a guest that runs is not ready, where its manifest waits for what the guest reports.
    fn not_booted(&self) -> Option<String> {
        let when = self.ready_when.as_ref()?;
        // Before it is asked for the first time, nothing has been reported.
        let boot = self.boot.clone().unwrap_or_default();
        (!boot.is_ready(when)).then(|| {
            format!(
                "the guest runs and has not reported {when} (annotation hawser.dev/ready-when); its systemd: {}",
                boot.state.name()
            )
        })
    }
}

impl Vmi {
    pub(crate) fn of(status: &Status) -> Self {
        let facts = &status.facts;
        Self {
            phase: phase(status.state).to_owned(),
            conditions: conditions(status.state, facts),
            interfaces: status.nics.iter().map(|nic| interface(nic, facts)).collect(),
            migration_state: status
                .migration
                .as_ref()
                .filter(|migration| migration.step != Step::Waiting)
                .map(migration),
        }
    }
}

/// As KubeVirt calls it. A paused guest's is Running there too: the condition says that it is paused.
fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting | Phase::Receiving => "Scheduled",
        Phase::Running | Phase::Paused | Phase::Stopping => "Running",
        Phase::ShutDown | Phase::NeverStarted | Phase::Migrated => "Succeeded",
        Phase::Killed | Phase::Failed | Phase::NotReceived => "Failed",
        Phase::HandedOver => "Unknown",
    }
}

fn conditions(phase: Phase, facts: &Facts) -> Vec<Condition> {
    let condition = |kind: &str, status: bool, reason: Option<&str>, message: Option<String>| Condition {
        kind: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.map(str::to_owned),
        message,
    };
    let not_ready = match phase {
        Phase::Running => facts.not_booted().map(|why| ("GuestNotBooted", why)),
        other => Some(("GuestNotRunning", format!("the guest is {}", other.name()))),
    };
    let (reason, why) = not_ready.unzip();
    let mut all = vec![condition("Ready", reason.is_none(), reason, why)];
    if let Some(boot) = &facts.boot
        && matches!(phase, Phase::Running | Phase::Paused | Phase::Stopping)
    {
        let booted = boot.state == BootState::Booted;
        let reason = (!booted).then_some(boot.state.reason());
        all.push(condition("GuestBooted", booted, reason, boot.status.clone()));
    }
    if phase == Phase::Paused {
        let message = "VMI was paused by user".to_owned();
        all.push(condition("Paused", true, Some("PausedByUser"), Some(message)));
    }
    all.push(match facts.obstacles.as_slice() {
        [] => condition("LiveMigratable", true, None, None),
        some => condition(
            "LiveMigratable",
            false,
            Some("NotMigratable"),
            Some(some.join("; ")),
        ),
    });
    all
}

fn interface(nic: &NicDescription, facts: &Facts) -> Interface {
    let leased = facts.leased.get(&nic.name).map(Vec::as_slice).unwrap_or_default();
    let brought = nic
        .addresses
        .iter()
        .map(|address| address.split('/').next().unwrap_or(address).to_owned());
    let (addresses, source) = match leased {
        [] if nic.passt.is_some() => (brought.collect(), "domain, passt"),
        [] if facts.arrived && !nic.addresses.is_empty() => (brought.collect(), "domain, migration"),
        [] => (Vec::new(), "domain"),
        leased => (leased.iter().map(IpAddr::to_string).collect(), "domain, dhcp"),
    };
    let down = nic.binding == "down" || facts.down.contains(&nic.name);
    Interface {
        name: nic.name.clone(),
        mac: nic.mac.clone(),
        ip_address: addresses.first().cloned(),
        ip_addresses: addresses,
        info_source: source.to_owned(),
        queue_count: Some(nic.queue_pairs).filter(|pairs| *pairs > 0),
        link_state: if down { "down" } else { "up" }.to_owned(),
        pod_interface_name: facts.pod_interfaces.get(&nic.name).cloned(),
    }
}

fn migration(migration: &MigrationStatus) -> MigrationState {
    let ended = migration.step.is_end();
    let completed = migration.step == Step::Migrated;
    MigrationState {
        start_timestamp: time(migration.started),
        end_timestamp: ended.then(|| time(migration.since)),
        target_node_address: (migration.direction == Direction::Out).then(|| migration.address.clone()),
        completed: ended,
        failed: ended && !completed,
        failure_reason: migration.why.clone().filter(|_| ended && !completed),
        mode: "PreCopy".to_owned(),
    }
}

/// Seconds since 1970 as Kubernetes writes them.
pub(crate) fn time(seconds: u64) -> String {
    let time = UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::Identity;
    use super::*;

    fn nic(name: &str, binding: &str) -> NicDescription {
        NicDescription {
            name: name.to_owned(),
            binding: binding.to_owned(),
            tap: "tap0".to_owned(),
            tap_mac: None,
            mac: "02:00:5e:00:53:07".to_owned(),
            mtu: 1500,
            queue_pairs: 2,
            addresses: vec!["10.0.2.2/24".to_owned(), "fd10:0:2::2".to_owned()],
            passt: None,
            pod: None,
            addresses_may_change: false,
            vf: None,
        }
    }

    pub(crate) fn status(state: Phase) -> Status {
        let guest = Identity {
            namespace: "ns".into(),
            name: "web".into(),
            uid: None,
        };
        let mut status = Status::new(guest, state, 1_700_000_000, vec![nic("default", "masquerade")]);
        status.facts.pod_interfaces = BTreeMap::from([("default".to_owned(), "eth0".to_owned())]);
        status
    }

    #[test]
    fn a_guest_that_runs_with_a_lease() {
        let mut status = status(Phase::Running);
        let leased = vec!["10.0.2.2".parse().unwrap()];
        status.facts.leased = BTreeMap::from([("default".to_owned(), leased)]);
        insta::assert_json_snapshot!(Vmi::of(&status));
    }

    #[test]
    fn an_address_is_said_only_if_somebody_says_that_the_guest_has_it() {
        let mut status = status(Phase::Running);
        assert!(Vmi::of(&status).interfaces[0].ip_addresses.is_empty());
        status.facts.arrived = true;
        let vmi = Vmi::of(&status);
        assert_eq!(vmi.interfaces[0].ip_addresses, ["10.0.2.2", "fd10:0:2::2"]);
        assert_eq!(vmi.interfaces[0].info_source, "domain, migration");
    }

    #[test]
    fn a_paused_guest_and_one_that_cannot_migrate() {
        let mut status = status(Phase::Paused);
        status.facts.obstacles = vec!["a".to_owned(), "b".to_owned()];
        status.facts.down = vec!["default".to_owned()];
        let vmi = Vmi::of(&status);
        assert_eq!(vmi.phase, "Running");
        let kinds: Vec<_> = vmi
            .conditions
            .iter()
            .map(|condition| (condition.kind.as_str(), condition.status.as_str()))
            .collect();
        assert_eq!(
            kinds,
            [
                ("Ready", "False"),
                ("Paused", "True"),
                ("LiveMigratable", "False")
            ]
        );
        assert_eq!(vmi.conditions[2].message.as_deref(), Some("a; b"));
        assert_eq!(vmi.interfaces[0].link_state, "down");
    }

    #[test]
    fn a_guest_whose_manifest_waits_for_its_systemd_is_ready_when_that_has_reported() {
        let mut status = status(Phase::Running);
        let ready = |status: &mut Status, state: BootState, targets: &[&str]| {
            status.facts.boot = Some(GuestBoot {
                state,
                targets: targets.iter().map(|&target| target.to_owned()).collect(),
                ..GuestBoot::default()
            });
            status.refresh();
            status.not_ready().is_none()
        };
        assert!(
            ready(&mut status, BootState::NotReported, &[]),
            "nothing is waited for"
        );
        status.facts.ready_when = Some(ReadyWhen::Booted);
        for state in BootState::ALL {
            assert_eq!(
                ready(&mut status, state, &[]),
                state == BootState::Booted,
                "{state:?}"
            );
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        status.facts.ready_when = Some(ReadyWhen::Target("a.target".to_owned()));
        assert!(!ready(&mut status, BootState::Booted, &["b.target"]));
        let why = status.not_ready().unwrap();
        assert!(why.contains("has not reported a.target"), "{why}");
        assert!(ready(&mut status, BootState::Booting, &["b.target", "a.target"]));
        assert!(!ready(&mut status, BootState::ShuttingDown, &["a.target"]));
        status.state = Phase::Paused;
        assert!(!ready(&mut status, BootState::Booted, &["a.target"]), "paused");
    }

    #[test]
    fn a_migration_has_its_times_and_its_end() {
        let mut status = status(Phase::Running);
        status.migration = Some(MigrationStatus {
            direction: Direction::Out,
            address: "tcp:b:49152".into(),
            step: Step::Failed,
            since: 1_700_000_060,
            started: 1_700_000_000,
            rounds: Some(3),
            sent: None,
            why: Some("the network broke".into()),
        });
        insta::assert_json_snapshot!(Vmi::of(&status).migration_state);
    }
}
