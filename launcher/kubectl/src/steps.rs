//! What is changed in the cluster, one object a step. Each step may be done twice.

use std::time::SystemTime;

use hawser_kubernetes::{NODE_NAME, READY_TIMESTAMP, TargetOf};
use hawser_manifest::pod_ports::MIGRATION as PORT;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::kubectl::{Background, Error, Kubectl};
use crate::launcher::{Identity, within};
use crate::pod::Pod;

/// Where both pods have their certificates.
const TLS: &str = "/etc/hawser-tls";

/// The target's pod, as it is to be made.
pub(crate) fn rendered(source: &Pod, options: &TargetOf) -> Result<(String, Value), Failure> {
    let refused = |refusals: hawser_manifest::Refusals| {
        Failure::Refused(format!("the pod {} cannot be migrated\n{refusals}", source.name))
    };
    let name = hawser_kubernetes::target_name(&source.object).map_err(refused)?;
    let target = hawser_kubernetes::target_of(&source.object, options).map_err(refused)?;
    Ok((name, target))
}

pub(crate) fn create(kubectl: &Kubectl, target: &Value) -> Result<(), Error> {
    kubectl
        .feed(&["create", "--filename", "-"], &target.to_string())
        .map(drop)
}

/// Removes this pod, and not another one that has its name since.
pub(crate) fn remove(kubectl: &Kubectl, pod: &Pod) -> Result<(), Error> {
    let options = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": pod.uid},
    });
    let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
    kubectl
        .feed(
            &["delete", "--raw", &path, "--filename", "-"],
            &options.to_string(),
        )
        .map(drop)
}

/// Tells networks that the guest runs here.
pub(crate) fn settle(kubectl: &Kubectl, target: &Pod) -> Result<(), Error> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let patch = json!({
        "metadata": {
            "annotations": {READY_TIMESTAMP: now},
            "labels": {NODE_NAME: target.node},
        },
    });
    let pod = format!("pod/{}", target.name);
    kubectl
        .ask(&["patch", &pod, "--type", "merge", "--patch", &patch.to_string()])
        .map(drop)
}

/// Has the source's launcher begin the hand-off.
pub(crate) fn hand_off(
    kubectl: &Kubectl,
    source: &Pod,
    target: &Pod,
    guest: &Identity,
    options: &[String],
) -> Result<Background, Failure> {
    let Some(address) = target.text("/status/podIP") else {
        return Err(Failure::NotMigrated("the target's pod has no address".to_owned()));
    };
    let to = match address.contains(':') {
        true => format!("tcp:[{address}]:{PORT}"),
        false => format!("tcp:{address}:{PORT}"),
    };
    let name = format!("{}.{}.vmi", guest.name, guest.namespace);
    let mut verb = vec!["migrate", "--to", &to, "--server-name", &name, "--tls-dir", TLS];
    verb.extend(options.iter().map(String::as_str));
    Ok(kubectl.background(&within(&source.name, &verb))?)
}
