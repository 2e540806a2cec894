//! The forms of a guest's pod besides the usual one.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::api::Cluster;
use crate::cluster::client::Client;
use crate::cluster::guest::{BOOT, Guest, PORT, SERVE, Wanted};
use crate::cluster::operator::Operator;

/// Without a user namespace: a container that wires the pod and stays, beside the guest's, which has no capability. Both live
/// through a restart of the kubelet, and the second ends with the first.
pub(super) fn two_containers(cluster: &Cluster) -> Result<()> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    without_user_namespace(cluster, "two-containers", &["--no-user-namespaces"], &lists)
}

/// The same with one container that does both.
pub(super) fn one_container(cluster: &Cluster) -> Result<()> {
    let options = ["--no-user-namespaces", "--single"];
    without_user_namespace(cluster, "one-container", &options, &["containerStatuses"])
}

/// `lists` are those of the pod's status that have a container each.
fn without_user_namespace(cluster: &Cluster, name: &str, options: &[&str], lists: &[&str]) -> Result<()> {
    cluster.within(name, &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let wanted = Wanted {
            options,
            ..Wanted::by("masquerade")
        };
        let mut guest = Guest::start(namespace, wanted)?;
        guest.said("guest: ipv4 eth0 10.0.2.2/24 via 10.0.2.1 ", BOOT)?;
        let [address, _] = guest.addresses()?;
        client.greet_within(address, PORT, SERVE)?;
        let containers = || -> Result<Vec<Value>> {
            let pod = guest.pod()?;
            ensure!(
                pod.pointer("/spec/hostUsers").is_none_or(Value::is_null),
                "the pod has a user namespace"
            );
            lists
                .iter()
                .map(|list| pod.pointer(&format!("/status/{list}/0/containerID")).cloned())
                .map(|id| id.context("a container has no identity"))
                .collect()
        };
        let before = containers()?;
        let node = guest.node()?;
        Operator::start(namespace, &node)?.restart("kubelet")?;
        Client::start_on(namespace, "later", Some(&node)).context("after the kubelet's restart")?;
        let after = containers()?;
        ensure!(
            after == before,
            "the containers were {before:?}, and are now {after:?}"
        );
        client
            .greet(address, PORT)
            .context("after the kubelet's restart")?;
        guest.read_again()?;
        guest.end()
    })
}
