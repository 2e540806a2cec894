//! Why a target's pod does not start, in the words of those who know: the scheduler, the kubelet, the container runtime. Pure.

use std::time::Duration;

use serde_json::Value;

use crate::pod::{Phase, Pod};

/// For a scheduler to find a place: one that was full a moment ago may not be.
const PLACED: Duration = Duration::from_secs(3);
/// For any scheduler to have looked at the pod, and for the kubelet to pull an image that it could not at first.
const LOOKED_AT: Duration = Duration::from_secs(9);

/// Reasons of a container that waits which do not go away by waiting.
const HOPELESS: [&str; 8] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
];

/// What is in the way of a target that has been there for so long, if it is known.
pub(crate) fn obstacle(target: &Pod, source: Option<&Pod>, age: Duration) -> Option<String> {
    if let Phase::Ended(code) = target.phase {
        return Some(ended(target, code));
    }
    if target.leaves {
        return Some("somebody has deleted the target's pod".to_owned());
    }
    let Some(node) = &target.node else {
        return unplaced(target, age);
    };
    if source.and_then(|source| source.node.as_ref()) == Some(node) {
        return Some(format!(
            "the scheduler has put the target on {node}, where the source is"
        ));
    }
    waiting(target).filter(|_| age >= LOOKED_AT)
}

fn unplaced(target: &Pod, age: Duration) -> Option<String> {
    let scheduled = target.condition("PodScheduled");
    let of = |field: &str| scheduled.and_then(|one| one.get(field)).and_then(Value::as_str);
    match of("reason") {
        Some(reason) if age >= PLACED => Some(format!(
            "the target has no node: {reason}: {}",
            of("message").unwrap_or("no message")
        )),
        None if age >= LOOKED_AT => Some(format!(
            "the target has no node, and no scheduler has looked at it (schedulerName: {})",
            target.text("/spec/schedulerName").unwrap_or("default-scheduler")
        )),
        _ => None,
    }
}

fn waiting(target: &Pod) -> Option<String> {
    let lists = ["initContainerStatuses", "containerStatuses"].into_iter();
    let mut waiting = lists
        .filter_map(|list| target.object.get("status")?.get(list)?.as_array())
        .flatten()
        .filter_map(|status| status.pointer("/state/waiting"));
    waiting.find_map(|waiting| {
        let reason = waiting.get("reason")?.as_str()?;
        let message = waiting
            .get("message")
            .and_then(Value::as_str)
            .unwrap_or("no message");
        HOPELESS
            .contains(&reason)
            .then(|| format!("the target does not start: {reason}: {message}"))
    })
}

fn ended(target: &Pod, code: Option<i64>) -> String {
    let reason = target.text("/status/reason");
    let message = target.text("/status/message");
    match (reason, message, code) {
        (Some(reason), Some(message), _) => format!("the target has ended: {reason}: {message}"),
        (Some(reason), ..) => format!("the target has ended: {reason}"),
        (.., Some(code)) => format!("the target's launcher has ended with exit code {code}"),
        _ => "the target's pod has ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: Option<&str>, status: Value) -> Pod {
        Pod::of(json!({
            "metadata": {"name": "web-1", "namespace": "vms", "uid": "u"},
            "spec": {"nodeName": node, "schedulerName": "other"},
            "status": status,
        }))
        .unwrap()
    }

    fn after(seconds: u64, pod: &Pod, source: Option<&Pod>) -> Option<String> {
        obstacle(pod, source, Duration::from_secs(seconds))
    }

    /// kubevirt/kubevirt#5565, #18946: within ten seconds, in the words of those who know.
    #[test]
    fn what_has_no_place_is_said_within_ten_seconds() {
        let why = "0/2 nodes are available: 1 node(s) didn't match pod anti-affinity rules";
        let condition =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why});
        let full = pod(None, json!({"phase": "Pending", "conditions": [condition]}));
        assert_eq!(after(1, &full, None), None, "it may find a place yet");
        assert!(after(9, &full, None).unwrap().contains(why));
        let unseen = pod(None, json!({"phase": "Pending"}));
        assert_eq!(after(5, &unseen, None), None);
        assert!(after(9, &unseen, None).unwrap().contains("schedulerName: other"));
        let pull = json!([{"name": "guest", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]);
        let pull = pod(Some("b"), json!({"phase": "Pending", "containerStatuses": pull}));
        assert_eq!(after(1, &pull, None), None);
        assert!(after(9, &pull, None).unwrap().contains("ErrImagePull: not found"));
    }

    #[test]
    fn a_pod_that_the_kubelet_refuses_and_one_beside_its_source() {
        let refused = json!({"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no kvm"});
        let refused = pod(Some("b"), refused);
        assert!(
            after(0, &refused, None)
                .unwrap()
                .contains("UnexpectedAdmissionError: no kvm")
        );
        let (one, other) = (pod(Some("a"), json!({})), pod(Some("a"), json!({})));
        assert!(
            after(0, &one, Some(&other))
                .unwrap()
                .contains("on a, where the source is")
        );
        assert_eq!(after(0, &pod(Some("b"), json!({})), Some(&other)), None);
    }
}
