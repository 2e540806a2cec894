//! What is known of a guest from outside its launcher: what `hawser status` prints, and what two launchers compare of a guest's
//! NICs. Data only. docs/migration.md names the steps.

mod guest_boot;
mod vmi;

use hawser_netsetup::Handed;
use serde::{Deserialize, Serialize};

pub(crate) use guest_boot::{BootState, GuestBoot};
pub(crate) use vmi::{Condition, Facts, Vmi, time};

/// Answer to `hawser status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) guest: Identity,
    pub(crate) state: Phase,
    /// Seconds since the beginning of 1970 in UTC.
    pub(crate) since: u64,
    pub(crate) nics: Vec<NicDescription>,
    /// The temporary disks that the guest writes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) disks: Vec<DiskStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) migration: Option<MigrationStatus>,
    /// The guest is this target's; no launcher starts it here again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) handed_over_to: Option<String>,
    /// Of a guest with a virtio socket, as of the last [`Self::refresh`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) guest_boot: Option<GuestBoot>,
    /// The same in KubeVirt's form, as of the last [`Self::refresh`].
    #[serde(flatten)]
    pub(crate) vmi: Vmi,
    #[serde(skip)]
    pub(crate) facts: Facts,
}

impl Status {
    pub(crate) fn new(guest: Identity, state: Phase, since: u64, nics: Vec<NicDescription>) -> Self {
        Self {
            guest,
            state,
            since,
            nics,
            disks: Vec::new(),
            migration: None,
            handed_over_to: None,
            guest_boot: None,
            vmi: Vmi::default(),
            facts: Facts::default(),
        }
    }

    /// Why a probe is told that the guest is not ready.
    pub(crate) fn not_ready(&self) -> Option<String> {
        let ready = self
            .vmi
            .conditions
            .iter()
            .find(|condition| condition.kind == "Ready");
        match ready {
            Some(ready) if ready.status == "True" => None,
            Some(Condition {
                message: Some(why), ..
            }) => Some(why.clone()),
            _ => Some(format!("the guest is {}", self.state.name())),
        }
    }

    /// Brings what is derived up to date.
    pub(crate) fn refresh(&mut self) {
        self.guest_boot.clone_from(&self.facts.boot);
        self.vmi = Vmi::of(self);
    }
}

/// How much room a disk takes in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DiskStatus {
    pub(crate) name: String,
    /// Bytes, as the guest sees it.
    pub(crate) size: u64,
    /// Bytes of its file; none where that cannot be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) taken: Option<u64>,
}

/// Where the guest's life is; the second half are ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    Starting,
    /// Waiting for another launcher.
    Receiving,
    Running,
    /// By an operator: its vCPUs are stopped.
    Paused,
    Stopping,
    ShutDown,
    NeverStarted,
    Killed,
    Failed,
    Migrated,
    NotReceived,
    HandedOver,
}

impl Phase {
    pub(crate) const ALL: [Self; 12] = [
        Self::Starting,
        Self::Receiving,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::ShutDown,
        Self::NeverStarted,
        Self::Killed,
        Self::Failed,
        Self::Migrated,
        Self::NotReceived,
        Self::HandedOver,
    ];

    /// As it is printed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Receiving => "receiving",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::ShutDown => "shut-down",
            Self::NeverStarted => "never-started",
            Self::Killed => "killed",
            Self::Failed => "failed",
            Self::Migrated => "migrated",
            Self::NotReceived => "not-received",
            Self::HandedOver => "handed-over",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MigrationStatus {
    pub(crate) direction: Direction,
    /// Where to, or where this launcher listens.
    pub(crate) address: String,
    pub(crate) step: Step,
    /// When that step began.
    pub(crate) since: u64,
    /// When the migration began.
    #[serde(default)]
    pub(crate) started: u64,
    /// Bytes that were sent, as of the end of the last round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sent: Option<u64>,
    /// Rounds over the guest's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rounds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// As seen from this pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    Out,
    In,
}

/// Of a migration: the source's, then the target's, then the ends of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    Describing,
    Preparing,
    Copying,
    Detaching,
    Sending,
    Fencing,
    Committed,
    Cancelling,
    Attaching,

    Waiting,
    Opening,
    Receiving,
    Holding,
    Resuming,

    Migrated,
    Failed,
    GuestEnded,
    Lost,
    InDoubt,
}

impl Step {
    pub(crate) fn is_end(self) -> bool {
        matches!(
            self,
            Self::Migrated | Self::Failed | Self::GuestEnded | Self::Lost | Self::InDoubt
        )
    }

    /// As it is printed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Describing => "describing",
            Self::Preparing => "preparing",
            Self::Copying => "copying",
            Self::Detaching => "detaching",
            Self::Sending => "sending",
            Self::Fencing => "fencing",
            Self::Committed => "committed",
            Self::Cancelling => "cancelling",
            Self::Attaching => "attaching",
            Self::Waiting => "waiting",
            Self::Opening => "opening",
            Self::Receiving => "receiving",
            Self::Holding => "holding",
            Self::Resuming => "resuming",
            Self::Migrated => "migrated",
            Self::Failed => "failed",
            Self::GuestEnded => "guest-ended",
            Self::Lost => "lost",
            Self::InDoubt => "in-doubt",
        }
    }
}

/// Whose VM it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
}

impl Identity {
    pub(crate) fn text(&self) -> String {
        let uid = self.uid.as_deref().unwrap_or("no uid");
        format!("{}/{} ({uid})", self.namespace, self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NicDescription {
    pub(crate) name: String,
    pub(crate) binding: String,
    pub(crate) tap: String,
    /// Where the TAP is a CNI plugin's: whoever receives the guest cannot change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tap_mac: Option<String>,
    pub(crate) mac: String,
    /// Bytes.
    pub(crate) mtu: u32,
    pub(crate) queue_pairs: u16,
    /// The addresses that the guest was offered, with their prefix lengths.
    pub(crate) addresses: Vec<String>,
    /// The same, where passt offers them: the guest brings it along, and the target's passt goes on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) passt: Option<Handed>,
    /// The pod's own, where passt serves the guest: others reach it by them, whatever the guest has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Handed>,
    /// The manifest allows the target's pod to have other ones for it.
    #[serde(default)]
    pub(crate) addresses_may_change: bool,
    /// A function of the node instead of a TAP. What is not known of it is empty above, or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vf: Option<VfDescription>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VfDescription {
    /// On the node's PCI.
    pub(crate) address: String,
    /// The guest has it.
    pub(crate) attached: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_printed_as_it_is_in_json() {
        for step in [
            Step::Preparing,
            Step::GuestEnded,
            Step::InDoubt,
            Step::Migrated,
            Step::Opening,
        ] {
            assert_eq!(serde_json::to_value(step).unwrap(), step.name());
        }
    }
}
