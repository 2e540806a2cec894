//! A pod, as the API server has it.

use hawser_kubernetes::{GUEST, MIGRATED_FROM, MIGRATED_FROM_UID, READY_TIMESTAMP};
use serde_json::Value;

#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) object: Value,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) node: Option<String>,
    pub(crate) phase: Phase,
    /// Somebody has deleted it.
    pub(crate) leaves: bool,
    /// The source that this pod was made a target of.
    pub(crate) from: Option<From>,
    /// The migration that brought the guest here is over, and networks were told.
    pub(crate) is_settled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct From {
    pub(crate) name: String,
    pub(crate) uid: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    /// With the exit code of the guest's container, where there is one.
    Ended(Option<i64>),
}

impl Pod {
    /// Of an object of the API.
    pub(crate) fn of(object: Value) -> Option<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let annotation = |key: &str| {
            let annotations = object.pointer("/metadata/annotations")?;
            annotations.get(key)?.as_str().map(str::to_owned)
        };
        let phase = match text("/status/phase").as_deref() {
            Some("Running") => Phase::Running,
            Some("Succeeded" | "Failed") => Phase::Ended(exit_code(&object)),
            _ => Phase::Pending,
        };
        Some(Self {
            name: text("/metadata/name")?,
            namespace: text("/metadata/namespace")?,
            uid: text("/metadata/uid")?,
            node: text("/spec/nodeName"),
            phase,
            leaves: text("/metadata/deletionTimestamp").is_some(),
            from: annotation(MIGRATED_FROM)
                .zip(annotation(MIGRATED_FROM_UID))
                .map(|(name, uid)| From { name, uid }),
            is_settled: annotation(READY_TIMESTAMP).is_some(),
            object,
        })
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.condition("Ready")
            .is_some_and(|ready| ready.get("status").and_then(Value::as_str) == Some("True"))
    }

    pub(crate) fn condition(&self, kind: &str) -> Option<&Value> {
        let conditions = self.object.pointer("/status/conditions")?.as_array()?;
        conditions
            .iter()
            .find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))
    }

    pub(crate) fn text(&self, pointer: &str) -> Option<&str> {
        self.object.pointer(pointer).and_then(Value::as_str)
    }

    pub(crate) fn place(&self) -> String {
        format!(
            "the pod {} on {}",
            self.name,
            self.node.as_deref().unwrap_or("no node yet")
        )
    }

    /// The status of the guest's container.
    pub(crate) fn guest_container(&self) -> Option<&Value> {
        guest_container(&self.object)
    }
}

fn guest_container(object: &Value) -> Option<&Value> {
    let statuses = object.pointer("/status/containerStatuses")?.as_array()?;
    statuses
        .iter()
        .find(|status| status.get("name").and_then(Value::as_str) == Some(GUEST))
}

fn exit_code(object: &Value) -> Option<i64> {
    guest_container(object)?
        .pointer("/state/terminated/exitCode")?
        .as_i64()
}
