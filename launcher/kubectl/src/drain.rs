//! `drain`: a node's guests migrate to other nodes, where their manifests let a drain wait for that; the others are shut down.
//!
//! Which of the two is a guest's `evictionStrategy`. `hawser pod` makes a PodDisruptionBudget of it, and that is what is looked at.

use std::process::ExitCode;

use serde_json::Value;

use crate::budget;
use crate::cli::{DrainArgs, MigrateArgs};
use crate::failure::Failure;
use crate::kubectl::Kubectl;
use crate::migrate;
use crate::pod::Pod;

/// Guests' pods in all namespaces.
const GUESTS: &str = "vm.kubevirt.io/name,app.kubernetes.io/managed-by=hawser";

pub(crate) fn drain(kubectl: &Kubectl, args: &DrainArgs) -> Result<ExitCode, Failure> {
    let node = &args.node;
    kubectl.ask(&["cordon", node])?;
    let mut left = Vec::new();
    for pod in guests(kubectl, node)? {
        let guest = pod
            .text("/metadata/labels/vm.kubevirt.io~1name")
            .unwrap_or_default();
        let within = kubectl.in_namespace(&pod.namespace);
        if let Err(failure) = one(&within, &pod, guest, args) {
            left.push(format!("{}/{guest}: {failure}", pod.namespace));
        }
    }
    if left.is_empty() {
        println!("no guest is left on {node}");
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::NotMigrated(format!(
        "guests are left on {node}\n{}",
        left.join("\n")
    )))
}

fn one(kubectl: &Kubectl, pod: &Pod, guest: &str, args: &DrainArgs) -> Result<(), Failure> {
    if pod.from.is_some() && !pod.is_settled {
        eprintln!(
            "{}/{guest}: a migration to this node is under way: cancelling it",
            pod.namespace
        );
        return migrate::cancel(kubectl, guest, &args.pace).map(drop);
    }
    if budget::is_there(kubectl, guest)? {
        eprintln!("{}/{guest}: migrating", pod.namespace);
        let migration = MigrateArgs {
            guest: guest.to_owned(),
            to: None,
            timeout: args.timeout.clone(),
            downtime: None,
            max_downtime: None,
            start_timeout: args.start_timeout,
            keep_tags: args.keep_tags,
            selinux_level: None,
            pace: args.pace,
        };
        return migrate::migrate(kubectl, &migration).map(drop);
    }
    eprintln!(
        "{}/{guest}: its evictionStrategy does not ask for a migration: shutting it down",
        pod.namespace
    );
    migrate::shut_down(kubectl, guest, pod, &args.pace)
}

fn guests(kubectl: &Kubectl, node: &str) -> Result<Vec<Pod>, Failure> {
    let fields = format!("spec.nodeName={node},status.phase=Running");
    let list = kubectl.json(&[
        "get",
        "pods",
        "--all-namespaces",
        "--selector",
        GUESTS,
        "--field-selector",
        &fields,
        "--output",
        "json",
    ])?;
    let items = list.get("items").and_then(Value::as_array);
    Ok(items.into_iter().flatten().cloned().filter_map(Pod::of).collect())
}
