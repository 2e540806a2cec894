//! What a launcher says of itself: `hawser status`, through `kubectl exec`.

use serde::Deserialize;
use serde_json::Value;

use hawser_kubernetes::GUEST;

use crate::kubectl::{Error, Kubectl};
use crate::pod::{Phase, Pod};

/// A launcher, as far as it is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Launcher {
    /// Its pod is not there (any more).
    Gone,
    /// Its container has not started.
    NotYet,
    Says(Status),
    /// Its container has ended, with this exit code.
    Ended(Option<i64>),
    /// It runs, as far as the API server knows, and could not be asked.
    Unknown(String),
}

/// Of `hawser status`, what matters here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Status {
    pub(crate) guest: Identity,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) migration: Option<Migration>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Migration {
    pub(crate) direction: String,
    #[serde(default)]
    pub(crate) address: String,
    pub(crate) step: String,
    #[serde(default)]
    pub(crate) started: u64,
    #[serde(default)]
    pub(crate) sent: Option<u64>,
    #[serde(default)]
    pub(crate) rounds: Option<u64>,
    #[serde(default)]
    pub(crate) why: Option<String>,
}

/// Steps after which nothing more happens.
const ENDS: [&str; 5] = ["migrated", "failed", "guest-ended", "lost", "in-doubt"];

impl Migration {
    pub(crate) fn has_ended(&self) -> bool {
        ENDS.contains(&self.step.as_str())
    }

    pub(crate) fn is_out(&self) -> bool {
        self.direction == "out"
    }
}

impl Status {
    /// The migration that this launcher is the source of, while it is under way.
    pub(crate) fn leaving(&self) -> Option<&Migration> {
        self.migration
            .as_ref()
            .filter(|one| one.is_out() && !one.has_ended())
    }

    pub(crate) fn has_guest(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused")
    }
}

impl Launcher {
    pub(crate) fn says(&self) -> Option<&Status> {
        match self {
            Self::Says(status) => Some(status),
            _ => None,
        }
    }

    pub(crate) fn of(kubectl: &Kubectl, pod: &Pod) -> Self {
        match pod.phase {
            Phase::Ended(code) => return Self::Ended(code),
            Phase::Pending => return Self::NotYet,
            Phase::Running => {}
        }
        let state = |pointer: &str| {
            pod.guest_container()
                .and_then(|container| container.pointer(pointer))
        };
        if let Some(ended) = state("/state/terminated") {
            return Self::Ended(ended.get("exitCode").and_then(Value::as_i64));
        }
        if state("/state/waiting").is_some() {
            // To be started: for the first time, or again.
            return match state("/lastState/terminated/exitCode") {
                Some(code) => Self::Ended(code.as_i64()),
                None => Self::NotYet,
            };
        }
        match status(kubectl, &pod.name) {
            Ok(status) => Self::Says(status),
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}

/// The command line of a verb of hawser in a pod.
pub(crate) fn within<'a>(pod: &'a str, verb: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["exec", pod, "--container", GUEST, "--", "hawser"];
    words.extend(verb);
    words
}

pub(crate) fn status_json(kubectl: &Kubectl, pod: &str) -> Result<Value, Error> {
    kubectl.json(&within(pod, &["status", "--output", "json"]))
}

fn status(kubectl: &Kubectl, pod: &str) -> Result<Status, Error> {
    let value = status_json(kubectl, pod)?;
    serde_json::from_value(value).map_err(|source| Error::NotJson {
        verb: "exec".to_owned(),
        source,
    })
}
