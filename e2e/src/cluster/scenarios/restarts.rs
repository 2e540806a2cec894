//! What ends under a running guest, or takes it along, and comes back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::api::{Cluster, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{BOOT, Guest, PORT, SERVE, Wanted};
use crate::cluster::operator::Operator;

/// For the kubelet to see that a container has ended, and to start it again.
const AGAIN: Duration = Duration::from_secs(60);

/// The launcher is killed: the kubelet starts its container again, in a pod that is wired already.
pub(super) fn launcher_killed(cluster: &Cluster) -> Result<()> {
    cluster.within("killed", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let wanted = Wanted {
            again: true,
            ..Wanted::by("masquerade")
        };
        let mut guest = Guest::start(namespace, wanted)?;
        guest.wait_for_both_families()?;
        let addresses = guest.addresses()?;
        let operator = Operator::start(namespace, &guest.node()?)?;
        operator.kill("hawser")?;
        until("the container runs again", AGAIN, || {
            Ok(guest.container().ok().filter(|(_, restarts)| *restarts == 1))
        })?;
        guest.read_again()?;
        guest.wait_for_both_families().context("the second start")?;
        ensure!(guest.addresses()? == addresses, "the pod has other addresses");
        for address in addresses {
            client
                .greet_within(address, PORT, SERVE)
                .context("the second start")?;
        }
        guest.end()
    })
}

/// The device plugin is killed and comes back: the guest that has its devices goes on, and another one gets some.
pub(super) fn device_plugin_killed(cluster: &Cluster) -> Result<()> {
    cluster.within("devices", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let guest = Guest::start(namespace, Wanted::by("masquerade"))?;
        guest.wait_for_both_families()?;
        let [address, _] = guest.addresses()?;
        client.greet_within(address, PORT, SERVE)?;
        let container = guest.container()?;
        let node = guest.node()?;
        Operator::start(namespace, &node)?.restart(cluster.device_plugin)?;

        let second = Guest::start(
            namespace,
            Wanted {
                name: "second",
                node: Some(&node),
                ..Wanted::by("masquerade")
            },
        )
        .context("a guest that comes after the device plugin's restart")?;
        second.said("guest: ready", BOOT)?;
        let after = guest.container()?;
        ensure!(
            after == container,
            "the guest's container was {container:?}, and is now {after:?}"
        );
        client
            .greet(address, PORT)
            .context("after the device plugin's restart")?;
        second.end()?;
        guest.end()
    })
}

/// The kubelet starts again while the device plugin does nothing: pods that have its devices are admitted again nevertheless.
pub(super) fn kubelet_without_device_plugin(cluster: &Cluster) -> Result<()> {
    cluster.within("late-devices", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let mut guest = Guest::start(namespace, Wanted::by("masquerade"))?;
        guest.wait_for_both_families()?;
        let [address, _] = guest.addresses()?;
        client.greet_within(address, PORT, SERVE)?;
        let container = guest.container()?;
        let uptime = client.uptime(address)?;
        let node = guest.node()?;
        let operator = Operator::start(namespace, &node)?;
        operator.while_stopped(cluster.device_plugin, || {
            operator.restart("kubelet")?;
            Client::start_on(namespace, "later", Some(&node)).context("after the kubelet's restart")
        })?;
        let after = guest.container().context("after the kubelet's restart")?;
        ensure!(
            after == container,
            "the guest's container was {container:?}, and is now {after:?}"
        );
        let now = client.uptime(address)?;
        ensure!(
            now > uptime,
            "the guest was up for {uptime} s, and is now for {now} s"
        );
        guest.read_again()?;
        guest.end()
    })
}
