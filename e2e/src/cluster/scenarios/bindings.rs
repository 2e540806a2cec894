//! A guest of each binding on the pod network, reached and reaching others at the pod's addresses in both families.

use anyhow::{Context, Result, ensure};

use crate::cluster::api::Cluster;
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, SERVE, Wanted};

pub(super) fn bridge(cluster: &Cluster) -> Result<()> {
    reached_and_reaching(cluster, Wanted::by("bridge"))
}

/// passt makes a user namespace for its sandbox, which the runtime's default profile denies.
pub(super) fn passt(cluster: &Cluster) -> Result<()> {
    let wanted = Wanted {
        seccomp: "Unconfined",
        ..Wanted::by("passt")
    };
    reached_and_reaching(cluster, wanted)
}

fn reached_and_reaching(cluster: &Cluster, wanted: Wanted<'_>) -> Result<()> {
    cluster.within(wanted.binding, &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let guest = Guest::start(namespace, wanted)?;
        guest.wait_for_both_families()?;
        let addresses = guest.addresses()?;
        for (address, own) in addresses.into_iter().zip(client.addresses()?) {
            client
                .greet_within(address, PORT, SERVE)
                .context("from another pod, through the pod's address")?;
            let seen = client.seen(address, own)?;
            ensure!(
                seen == address.to_string(),
                "a pod saw the guest as {seen}, not as its pod, {address}"
            );
        }
        guest.expect_running()?;
        guest.end()
    })
}
