//! How far the guest has booted, as its own systemd reports it over the guest's virtio socket.
//!
//! Whatever runs in the guest may report as much: it is the guest's word about itself, and nothing of the pod depends on it but
//! the guest's own readiness, where its manifest asks for that.

use serde::{Deserialize, Serialize};

use crate::spec::ReadyWhen;

/// Empty until something is reported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GuestBoot {
    pub(crate) state: BootState,
    /// Seconds since 1970, UTC.
    pub(crate) since: u64,
    /// Target units that are active.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) targets: Vec<String>,
    /// What systemd says that it is doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BootState {
    /// Nothing has been reported since the guest was started: it has not come so far, or it has no systemd that reports.
    #[default]
    NotReported,
    Booting,
    Booted,
    /// It has ended in emergency or rescue mode.
    Emergency,
    ShuttingDown,
}

impl BootState {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 5] = [
        Self::NotReported,
        Self::Booting,
        Self::Booted,
        Self::Emergency,
        Self::ShuttingDown,
    ];

    /// As it is printed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotReported => "not-reported",
            Self::Booting => "booting",
            Self::Booted => "booted",
            Self::Emergency => "emergency",
            Self::ShuttingDown => "shutting-down",
        }
    }

    /// As the reason of a condition.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NotReported => "NotReported",
            Self::Booting => "Booting",
            Self::Booted => "Booted",
            Self::Emergency => "EmergencyMode",
            Self::ShuttingDown => "ShuttingDown",
        }
    }
}

impl GuestBoot {
    /// Whether that is enough for a guest that is ready only then.
    pub(crate) fn is_ready(&self, when: &ReadyWhen) -> bool {
        match when {
            ReadyWhen::Booted => self.state == BootState::Booted,
            ReadyWhen::Target(name) => {
                self.state != BootState::ShuttingDown && self.targets.iter().any(|target| target == name)
            }
        }
    }
}
