//! A NetworkPolicy over a guest's pod.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cluster::api::{Cluster, LABEL, Namespace, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, SERVE, Wanted};

/// The guest's second web server (images/guest/init).
const OTHER_PORT: u16 = 9090;
/// For the engine to have heard of a policy.
const KNOWN: Duration = Duration::from_secs(30);

/// One port is let in, from one pod: nothing else gets to the guest, and what hawser does for it goes on.
pub(super) fn lets_one_port_in(cluster: &Cluster) -> Result<()> {
    cluster.addons.network_policies(&cluster.kubectl)?;
    cluster.within("policy", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let stranger = Client::start(namespace, "stranger")?;
        let guest = Guest::start(namespace, Wanted::by("masquerade"))?;
        guest.wait_for_both_families()?;
        let addresses = guest.addresses()?;
        for address in addresses {
            client.greet_within(address, PORT, SERVE)?;
            client.greet(address, OTHER_PORT).context("without a policy")?;
            stranger.greet(address, PORT).context("without a policy")?;
        }
        let container = guest.container()?;

        apply_policy(namespace)?;
        for address in addresses {
            until_shut(&client, address, OTHER_PORT)?;
            until_shut(&stranger, address, PORT)?;
            client.greet(address, PORT).context("the port that is let in")?;
        }
        // What it answers is one thing, what it asks another: no policy is about that.
        for (address, own) in addresses.into_iter().zip(client.addresses()?) {
            client.seen(address, own)?;
        }
        let [address, _] = addresses;
        client.execute(address, "killall -USR1 udhcpc; killall -USR1 udhcpc6")?;
        guest
            .said(" event renew", SERVE)
            .context("a lease under the policy")?;
        guest.expect_running()?;
        until("the pod is ready", SERVE, || Ok(guest.is_ready()?.then_some(())))?;
        let after = guest.container()?;
        ensure!(
            after == container,
            "the guest's container was {container:?}, and is now {after:?}"
        );

        namespace.run(&["delete", "networkpolicy", "guest"])?;
        for address in addresses {
            client
                .greet_within(address, OTHER_PORT, KNOWN)
                .context("when the policy is gone")?;
        }
        guest.end()
    })
}

fn apply_policy(namespace: &Namespace<'_>) -> Result<()> {
    namespace.apply(&[json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "guest"},
        "spec": {
            "podSelector": {"matchLabels": {LABEL: "guest"}},
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {LABEL: "client"}}}],
                "ports": [{"protocol": "TCP", "port": PORT}],
            }],
        },
    })])
}

fn until_shut(client: &Client<'_>, address: IpAddr, port: u16) -> Result<()> {
    until(&format!("port {port} at {address} is shut"), KNOWN, || {
        Ok(client.greet(address, port).is_err().then_some(()))
    })
}
