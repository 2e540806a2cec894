//! The target of a live migration, of the source's pod as the API server has it.
//!
//! ```text
//! the source's pod ──► checked ──► metadata, containers, images by digest, place ──► the target's pod
//! ```
//!
//! The pod alone says how its guest was rendered, whichever options `hawser pod` had, and which images it runs with. What the API
//! server, the scheduler, the kubelet and network plugins wrote into it for this one pod is left out. Like everything here it is
//! pure: the name of the target follows from the source's uid, so that who asks again gets the same pod.

use hawser_manifest::{FieldPath, Refusals, Report, quoted};
use serde_json::{Map, Value, json};

use crate::metadata::NAME_LABEL;
use crate::names;
use crate::pinned;
use crate::place;
use crate::probes;
use crate::source::text_at;
use crate::target_metadata as metadata;

/// Seconds for a target to receive its guest: the default time for the rounds over the memory, the same for those over the disks,
/// and as much again. A target that nobody came to does not stay for ever.
const RECEIVE_SECONDS: u32 = 3 * 3600;
/// What only the cluster writes into a pod's `spec`.
const OF_THE_CLUSTER: [&str; 6] = [
    "nodeName",
    "priority",
    "preemptionPolicy",
    "serviceAccount",
    "ephemeralContainers",
    "schedulingGates",
];
/// Volumes of this name are the API server's own.
const TOKEN: &str = "kube-api-access-";

/// What the user asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetOf {
    /// The node for the target.
    pub node: Option<String>,
    /// Name images as the source does, also where that is by a tag.
    pub keep_tags: bool,
    /// The level of the source's SELinux label, where its pod does not say it.
    pub selinux_level: Option<String>,
}

/// The name that the target of this pod has.
///
/// # Errors
/// A pod that cannot be a source, by field path.
pub fn target_name(pod: &Value) -> Result<String, Refusals> {
    name(pod).ok_or_else(|| {
        Refusals::one(
            "metadata",
            "expected a pod of hawser as the API server has it, with its uid and labels",
        )
    })
}

/// The target's pod.
///
/// # Errors
/// Every reason why this pod cannot be a source, by field path of the pod; an option's path is the option.
pub fn target_of(pod: &Value, options: &TargetOf) -> Result<Value, Refusals> {
    let mut report = Report::default();
    check(pod, options, &mut report);
    let name = name(pod).unwrap_or_default();
    let mut spec = pod
        .get("spec")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for field in OF_THE_CLUSTER {
        spec.shift_remove(field);
    }
    without_tokens(&mut spec);
    spec.insert("restartPolicy".to_owned(), "Never".into());
    if let Some(guest) = guest_mut(&mut spec) {
        receive(guest);
    }
    pinned::pin(pod, &mut spec, options.keep_tags, &mut report);
    place::place(pod, &mut spec, options.node.as_deref(), &mut report);
    if let Some(level) = &options.selinux_level {
        at_level(&mut spec, level);
    }
    let target = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata::of(pod, &name, options.node.as_deref()),
        "spec": spec,
    });
    report.finish(pod)?;
    Ok(target)
}

fn name(pod: &Value) -> Option<String> {
    let guest = pod.get("metadata")?.get("labels")?.get(NAME_LABEL)?.as_str()?;
    let uid = text_at(pod, "/metadata/uid").filter(|uid| !uid.is_empty())?;
    Some(names::with_suffix(
        guest.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()),
        &names::hash(uid.as_bytes()),
        names::LABEL_MAX,
    ))
}

fn check(pod: &Value, options: &TargetOf, report: &mut Report) {
    let mut refuse = |path: &str, why: String| report.refuse(FieldPath::of(path), why);
    match text_at(pod, "/kind") {
        Some("Pod") => {}
        other => refuse(
            "kind",
            format!("expected Pod, found {}", quoted(other.unwrap_or_default())),
        ),
    }
    let labels = pod.pointer("/metadata/labels");
    if labels.and_then(|labels| labels.get(NAME_LABEL)).is_none() {
        refuse(
            "metadata.labels",
            format!("no label {NAME_LABEL}: this pod is not one that hawser pod made"),
        );
    }
    if text_at(pod, "/metadata/uid").is_none() {
        refuse(
            "metadata.uid",
            "not there: expected the pod as kubectl get pod -o yaml prints it, with its status".to_owned(),
        );
    }
    if text_at(pod, "/metadata/deletionTimestamp").is_some() {
        refuse(
            "metadata.deletionTimestamp",
            "the pod is being deleted, and its guest shut down".to_owned(),
        );
    }
    if let Some(owner) = controller(pod) {
        refuse(
            "metadata.ownerReferences",
            format!(
                "{owner} would make another pod when this one has ended: only a pod by itself can be migrated"
            ),
        );
    }
    match text_at(pod, "/status/phase") {
        Some("Running") => {}
        phase => refuse(
            "status.phase",
            format!(
                "expected Running, found {}: no guest runs in the pod",
                quoted(phase.unwrap_or_default())
            ),
        ),
    }
    let guest = guest(pod);
    let runs = guest.and_then(|guest| text_at(guest, "/args/0")) == Some("run");
    if !runs {
        refuse(
            "spec.containers",
            format!(
                "no container {} that has the argument run: this pod is not one that hawser pod made",
                names::GUEST
            ),
        );
    }
    let mounts = guest
        .and_then(|guest| guest.get("volumeMounts"))
        .and_then(Value::as_array);
    let has_certificates = mounts
        .into_iter()
        .flatten()
        .any(|mount| text_at(mount, "/mountPath") == Some(crate::migration::MOUNT));
    if runs && !has_certificates {
        refuse(
            "spec.containers",
            format!(
                "no certificates at {}: make the guest's pod with hawser pod --tls-secret NAME",
                crate::migration::MOUNT
            ),
        );
    }
    let node = text_at(pod, "/spec/nodeName");
    if node.is_some() && node == options.node.as_deref() {
        refuse(
            "--node",
            format!("the guest is on {} already", quoted(node.unwrap_or_default())),
        );
    }
}

/// The object that makes such pods, if there is one.
fn controller(pod: &Value) -> Option<String> {
    let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners
        .iter()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))?;
    let of = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
    Some(format!("the {} {}", of("kind"), quoted(of("name"))))
}

fn guest(pod: &Value) -> Option<&Value> {
    let containers = pod.pointer("/spec/containers")?.as_array()?;
    containers
        .iter()
        .find(|container| text_at(container, "/name") == Some(names::GUEST))
}

fn guest_mut(spec: &mut Map<String, Value>) -> Option<&mut Map<String, Value>> {
    let containers = spec.get_mut("containers")?.as_array_mut()?;
    containers
        .iter_mut()
        .find(|container| text_at(container, "/name") == Some(names::GUEST))?
        .as_object_mut()
}

/// The guest's container boots nothing: it waits for the guest.
fn receive(container: &mut Map<String, Value>) {
    if let Some(Value::Array(arguments)) = container.get_mut("args") {
        // Where the source was a target itself, it has them.
        arguments.retain(|word| !crate::migration::INCOMING.iter().any(|own| word == own));
        arguments.extend(crate::migration::INCOMING.map(Value::from));
    }
    // Ready within a second of the guest's arrival, and without such a question each second ever after: the kubelet asks the
    // readiness probe at once when the one of the start has succeeded.
    container.insert(
        "startupProbe".to_owned(),
        json!({
            "exec": probes::ask("--ready"),
            "periodSeconds": 1,
            "timeoutSeconds": probes::TIMEOUT,
            "failureThreshold": RECEIVE_SECONDS,
        }),
    );
}

/// Takes out the volumes that the API server adds to each pod, and their mounts.
fn without_tokens(spec: &mut Map<String, Value>) {
    let is_own = |value: &Value| text_at(value, "/name").is_some_and(|name| name.starts_with(TOKEN));
    if let Some(Value::Array(volumes)) = spec.get_mut("volumes") {
        volumes.retain(|volume| !is_own(volume));
    }
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if let Some(Value::Array(mounts)) = container.get_mut("volumeMounts") {
                mounts.retain(|mount| !is_own(mount));
            }
        }
    }
}

/// The runtime gives the files of a claim the level of the pod that starts last. With another one than the source's, the source
/// would lose its disk.
fn at_level(spec: &mut Map<String, Value>, level: &str) {
    let context = spec.entry("securityContext").or_insert_with(|| json!({}));
    let Some(context) = context.as_object_mut() else {
        return;
    };
    let options = context.entry("seLinuxOptions").or_insert_with(|| json!({}));
    if let Some(options) = options.as_object_mut() {
        options.entry("level").or_insert_with(|| level.into());
    }
}
