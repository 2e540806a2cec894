//! What can be wrong with a sidecar. All of it is the pod's: exit code 4, since nothing of the guest has run.

use std::path::PathBuf;
use std::time::Duration;

use hawser_hooks::{Status, VERSION};

use crate::error::{ExitCode, Failure};
use crate::spec::{Refusals, quoted};

/// Characters of a sidecar's own words that are repeated.
const REPEATED: usize = 200;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("the sidecar of binding plugin {plugin} cannot be reached: no connection to {socket} within {} s", patience.as_secs())]
    Absent {
        plugin: String,
        socket: PathBuf,
        patience: Duration,
        #[source]
        source: std::io::Error,
    },
    #[error("the sidecar of binding plugin {plugin} cannot be called")]
    Http {
        plugin: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the sidecar of binding plugin {plugin}: {call}: no answer within {} s", deadline.as_secs())]
    Silent {
        plugin: String,
        call: &'static str,
        deadline: Duration,
    },
    #[error("the sidecar of binding plugin {plugin}: {call}: {}", status_text(status))]
    Failed {
        plugin: String,
        call: &'static str,
        status: Box<Status>,
    },
    #[error(
        "the sidecar on the socket of binding plugin {plugin} reports the name {}",
        quoted(said)
    )]
    OtherName { plugin: String, said: String },
    #[error(
        "the sidecar of binding plugin {plugin} speaks {}, hawser {VERSION}",
        versions_text(versions)
    )]
    OtherVersion { plugin: String, versions: Vec<String> },
    #[error(
        "the sidecar of binding plugin {plugin}: OnDefineVm of interface {interface}: its answer is not JSON: {why}"
    )]
    NoJson {
        plugin: String,
        interface: String,
        why: String,
    },
    #[error(
        "the sidecar of binding plugin {plugin}: OnDefineVm of interface {interface}: its answer is refused\n{refusals}"
    )]
    Refused {
        plugin: String,
        interface: String,
        refusals: Refusals,
    },
}

impl HookError {
    fn remedy(&self) -> String {
        match self {
            Self::Absent { .. } => {
                "start the plugin's sidecar container in this pod, with the directory of the socket shared (--hooks-dir); \
                 the user of the guest's processes must be able to connect; --hooks-timeout gives it more time"
                    .to_owned()
            }
            Self::Http { plugin, .. } | Self::Silent { plugin, .. } | Self::Failed { plugin, .. } => {
                format!("see the log of {plugin}'s sidecar container")
            }
            Self::OtherName { plugin, .. } => {
                format!("make {plugin}'s own sidecar listen on this socket, or register the plugin under the name that the sidecar reports")
            }
            Self::OtherVersion { plugin, .. } => {
                format!("use an image of {plugin}'s sidecar that speaks {VERSION}")
            }
            Self::NoJson { plugin, .. } | Self::Refused { plugin, .. } => format!(
                "{plugin}'s sidecar must answer with the vm_config that it was given, changed in its NIC alone (docs/hooks.md)"
            ),
        }
    }
}

impl From<HookError> for Failure {
    fn from(error: HookError) -> Self {
        let remedy = error.remedy();
        // Its cause is part of the chain; its own text comes first.
        let what = error.to_string();
        let failure = match error {
            HookError::Absent { source, .. } => Self::new(ExitCode::PodUnfit, what).because(source),
            HookError::Http { source, .. } => Self::new(ExitCode::PodUnfit, what).because(source),
            _ => Self::new(ExitCode::PodUnfit, what),
        };
        failure.remedy(remedy)
    }
}

/// Bounded and without control characters, as everything that others say in our log.
pub(super) fn status_text(status: &Status) -> String {
    let message: String = status.message().chars().take(REPEATED).collect();
    format!("{:?}: {}", status.code(), message.escape_debug())
}

fn versions_text(versions: &[String]) -> String {
    const SHOWN: usize = 8;
    if versions.is_empty() {
        return "no version".to_owned();
    }
    let shown: Vec<_> = versions
        .iter()
        .take(SHOWN)
        .map(|version| quoted(version))
        .collect();
    shown.join(", ")
}
