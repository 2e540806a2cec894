//! The pods of one guest, each in its place.

use hawser_kubernetes::guest_selector;
use serde_json::Value;

use crate::failure::Failure;
use crate::kubectl::{Error, Kubectl};
use crate::pod::{Phase, Pod};

#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) pods: Vec<Pod>,
}

impl Scene {
    pub(crate) fn look(kubectl: &Kubectl, guest: &str) -> Result<Self, Error> {
        let selector = guest_selector(guest);
        let list = kubectl.json(&["get", "pods", "--selector", &selector, "--output", "json"])?;
        let items = list.get("items").and_then(Value::as_array);
        let mut pods: Vec<Pod> = items.into_iter().flatten().cloned().filter_map(Pod::of).collect();
        let created = |pod: &Pod| {
            pod.text("/metadata/creationTimestamp")
                .unwrap_or_default()
                .to_owned()
        };
        pods.sort_by_key(|pod| (created(pod), pod.name.clone()));
        Ok(Self { pods })
    }

    /// A target whose migration is not over: with all that is to be done when it is.
    pub(crate) fn open_target(&self) -> Option<&Pod> {
        let mut open = self
            .pods
            .iter()
            .filter(|pod| pod.from.is_some() && !pod.is_settled);
        open.next_back()
    }

    /// The source that this target was made of, if it is still there: another pod of its name is not.
    pub(crate) fn source_of(&self, target: &Pod) -> Option<&Pod> {
        let from = target.from.as_ref()?;
        self.pods.iter().find(|pod| pod.uid == from.uid)
    }

    /// A pod whose guest has settled in another one: it has no guest, and networks may still lead to it.
    pub(crate) fn left_behind(&self) -> Option<(&Pod, &Pod)> {
        let mut settled = self.pods.iter().filter(|pod| pod.is_settled);
        settled.find_map(|target| Some((self.source_of(target)?, target)))
    }

    /// The pod that has the guest while no migration is under way, without asking launchers.
    pub(crate) fn holder(&self, guest: &str) -> Result<&Pod, Failure> {
        let left = self.left_behind().map(|(source, _)| source.uid.clone());
        let living: Vec<&Pod> = self
            .pods
            .iter()
            .filter(|pod| !matches!(pod.phase, Phase::Ended(_)))
            .filter(|pod| pod.from.is_none() || pod.is_settled)
            .filter(|pod| Some(&pod.uid) != left.as_ref())
            .collect();
        match living.as_slice() {
            [one] => Ok(one),
            [] => Err(self.none(guest)),
            several => {
                let names: Vec<&str> = several.iter().map(|pod| pod.name.as_str()).collect();
                Err(Failure::Refused(format!(
                    "the guest {guest} has several pods: {}; delete those that are not it",
                    names.join(", ")
                )))
            }
        }
    }

    fn none(&self, guest: &str) -> Failure {
        let pods: Vec<String> = self
            .pods
            .iter()
            .map(|pod| match pod.phase {
                Phase::Ended(Some(code)) => format!("; {} has ended with exit code {code}", pod.place()),
                _ => format!("; {} has no guest", pod.place()),
            })
            .collect();
        Failure::Refused(format!(
            "no pod with the label {} runs the guest{}",
            guest_selector(guest),
            pods.concat()
        ))
    }
}
