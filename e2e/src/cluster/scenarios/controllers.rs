//! Guests whose pods a controller makes: `hawser pod --kind`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::api::{Cluster, LABEL, Namespace, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, SERVE, Wanted};

const KINDS: [&str; 2] = ["statefulset", "deployment"];
/// For a controller to make a pod, and to have ended one whose guest goes down by its power button.
const MADE: Duration = Duration::from_secs(90);

/// The pod is deleted, and the controller makes another, whose guest is reached. Without the controller there is none.
pub(super) fn make_another_pod(cluster: &Cluster) -> Result<()> {
    cluster.within("controllers", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        for kind in KINDS {
            another_of(namespace, &client, kind).context(kind)?;
        }
        Ok(())
    })
}

fn another_of(namespace: &Namespace<'_>, client: &Client<'_>, kind: &str) -> Result<()> {
    let wanted = Wanted {
        name: kind,
        again: true,
        strategy: "Always",
        options: &["--kind", kind],
        ..Wanted::by("masquerade")
    };
    namespace.apply(&wanted.objects(namespace.cluster)?)?;
    let first = the_pod_of(namespace, kind, None)?;
    let guest = answers(namespace, client, &first.0)?;
    namespace.run(&["delete", "pod", &first.0, "--wait=false"])?;
    guest.said("guest: power button", SERVE)?;
    let second = the_pod_of(namespace, kind, Some(&first.1))?;
    let guest = answers(namespace, client, &second.0).context("the second pod")?;
    namespace.run(&["delete", kind, kind, "--wait=false"])?;
    guest.said("guest: power button", SERVE)?;
    until("no pod is left", MADE, || {
        Ok(pods(namespace, kind)?.is_empty().then_some(()))
    })
}

fn answers<'a>(namespace: &'a Namespace<'a>, client: &Client<'_>, pod: &str) -> Result<Guest<'a>> {
    let guest = Guest::found(namespace, pod)?;
    guest.wait_for_both_families()?;
    for address in guest.addresses()? {
        client.greet_within(address, PORT, SERVE)?;
    }
    let (_, restarts) = guest.container()?;
    ensure!(restarts == 0, "its container was started again");
    Ok(guest)
}

/// Name and UID of the guest's only pod, once the one with the UID `before` is gone.
fn the_pod_of(namespace: &Namespace<'_>, guest: &str, before: Option<&str>) -> Result<(String, String)> {
    until("there is one pod", MADE, || {
        let pods = pods(namespace, guest)?;
        Ok(match pods.as_slice() {
            [(name, uid)] if before != Some(uid) => Some((name.clone(), uid.clone())),
            _ => None,
        })
    })
}

fn pods(namespace: &Namespace<'_>, guest: &str) -> Result<Vec<(String, String)>> {
    let selector = format!("{LABEL}={guest}");
    let template = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
    let listed = namespace.run(&["get", "pods", "--selector", &selector, "--output", template])?;
    let pair = |line: &str| {
        line.split_once(' ')
            .map(|(name, uid)| (name.to_owned(), uid.to_owned()))
    };
    Ok(listed.lines().filter_map(pair).collect())
}
