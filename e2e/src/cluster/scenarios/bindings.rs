//! A guest of each binding on the pod network, reached and reaching others at the pod's addresses in both families.

use anyhow::{Context, Result, ensure};

use crate::cluster::api::Cluster;
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, SERVE, Wanted};

pub(super) fn bridge(cluster: &Cluster) -> Result<()> {
    reached_and_reaching(cluster, "bridge", &[])
}

/// In a namespace of the highest level of the Pod Security Standards: the pod has no capability, and passt's own seccomp profile.
pub(super) fn passt(cluster: &Cluster) -> Result<()> {
    let labels = [
        ("pod-security.kubernetes.io/enforce", "restricted"),
        ("pod-security.kubernetes.io/enforce-version", "latest"),
    ];
    reached_and_reaching(cluster, "passt", &labels)
}

fn reached_and_reaching(cluster: &Cluster, binding: &str, labels: &[(&str, &str)]) -> Result<()> {
    cluster.within(binding, labels, |namespace| {
        let client = Client::start(namespace, "client")?;
        let guest = Guest::start(namespace, Wanted::by(binding))?;
        guest.wait_for_both_families()?;
        let addresses = guest.addresses()?;
        for (address, own) in addresses.into_iter().zip(client.addresses()?) {
            client
                .greet_within(address, PORT, SERVE)
                .context("from another pod, through the pod's address")?;
            let seen = client.seen(address, own)?;
            ensure!(
                seen == address,
                "a pod saw the guest as {seen}, not as its pod, {address}"
            );
        }
        guest.expect_running()?;
        guest.end()
    })
}
