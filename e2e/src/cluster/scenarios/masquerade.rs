//! A guest behind its pod's own addresses, from the pod's creation to its end.

use anyhow::{Context, Result, ensure};

use crate::cluster::api::{Cluster, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, SERVE, Wanted};
use crate::cluster::operator::Operator;

pub(super) fn over_a_restart_of_the_kubelet(cluster: &Cluster) -> Result<()> {
    cluster.within("masquerade", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let mut guest = Guest::start(namespace, Wanted::by("masquerade"))?;
        guest.wait_for_both_families()?;
        guest.said("guest: ipv4 eth0 10.0.2.2/24 via 10.0.2.1 ", SERVE)?;
        let addresses = guest.addresses()?;
        for address in addresses {
            client
                .greet_within(address, PORT, SERVE)
                .context("from another pod, through the pod's address")?;
        }
        guest.expect_running()?;
        until("the pod is ready", SERVE, || Ok(guest.is_ready()?.then_some(())))?;

        let [ipv4, _] = addresses;
        let container = guest.container()?;
        let uptime = client.uptime(ipv4)?;
        let node = guest.node()?;
        Operator::start(namespace, &node)?.restart("kubelet")?;
        // The kubelet admits the pods of its node anew, in the order of their creation.
        let later =
            Client::start_on(namespace, "later", Some(&node)).context("after the kubelet's restart")?;
        let after = guest.container().context("after the kubelet's restart")?;
        ensure!(
            after == container,
            "the guest's container was {container:?}, and is now {after:?}"
        );
        for address in addresses {
            later
                .greet(address, PORT)
                .context("after the kubelet's restart")?;
        }
        let now = later.uptime(ipv4)?;
        ensure!(
            now > uptime,
            "the guest was up for {uptime} s, and is now for {now} s"
        );
        guest.read_again()?;
        guest.end()
    })
}
