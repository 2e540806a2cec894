//! Virtual functions by Multus, the SR-IOV CNI plugin and its device plugin: e2e/kind/sriov/mixed.yaml in a cluster that runs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::addons_sriov::{self, CARD, Functions, RESOURCE, TAGGED, UNTAGGED};
use crate::cluster::api::{Cluster, Namespace};
use crate::cluster::client::Client;
use crate::cluster::guest::{BOOT, Guest, PORT, SERVE, Wanted};
use crate::cluster::operator::Operator;
use crate::lab::node::hang;
use crate::report::Skip;

/// The guest's NICs by VF: name, MAC and address, on the two networks in their order.
const NICS: [(&str, &str, &str); 2] = [
    ("red", "02:91:00:00:00:02", "10.91.0.2"),
    ("blue", "02:92:00:00:00:02", "10.92.0.2"),
];
/// For a frame to go there and back.
const ECHO: Duration = Duration::from_secs(10);

pub(super) fn masquerade_and_two_functions(cluster: &Cluster) -> Result<()> {
    addons_sriov::offer(cluster)?;
    cluster.within("sriov", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let node = node_of(namespace, "client")?;
        let operator = Operator::start(namespace, &node)?;
        let _functions = Functions::make(namespace, &operator, &node)?;
        let resources = NICS.map(|(name, _, _)| format!("{name}={RESOURCE}"));
        let [red, blue] = &resources;
        let changes = changes();
        let wanted = Wanted {
            options: &[
                "--ipv6-sysctl",
                "--network-resource",
                red,
                "--network-resource",
                blue,
            ],
            changes: Some(&changes),
            ..Wanted::by("masquerade")
        };
        let guest = Guest::start(namespace, wanted)?;
        if let Err(error) = guest.said("guest: ready", BOOT) {
            return Err(match hung(&operator)? {
                Some(seen) => Skip::because(seen).into(),
                None => error,
            });
        }
        let attached = addons_sriov::networks_of(&guest.pod()?)?;
        for ((_, mac, _), name) in NICS.iter().zip([UNTAGGED, TAGGED]) {
            let name = format!("{}/{name}", namespace.name);
            let found = attached
                .iter()
                .find(|network| network.get("name") == Some(&json!(name)))
                .with_context(|| format!("{name} is not in the network-status: {attached:?}"))?;
            ensure!(
                found.get("mac") == Some(&json!(mac)),
                "it has another MAC: {found}"
            );
        }

        let [address, _] = guest.addresses()?;
        client.greet_within(address, PORT, SERVE)?;
        for ((name, _, own), card) in NICS.iter().zip(CARD) {
            let script = format!("ping -c 1 -w {} -I {own} {card}", ECHO.as_secs());
            client
                .execute(address, &script)
                .with_context(|| format!("from the guest's NIC {name} to the card"))?;
        }
        guest.expect_running()?;
        guest.end()
    })
}

/// The masqueraded NIC's network is not the default one, which the card's own is.
fn changes() -> Value {
    let mut interfaces = vec![json!({"name": "default", "masquerade": {}})];
    let mut networks = vec![json!({"name": "default", "pod": {"vmNetworkCIDR": "10.0.100.0/24"}})];
    let mut arguments = "console=ttyS0 quiet panic=-1 mitigations=off".to_owned();
    for ((name, mac, own), network) in NICS.iter().zip([UNTAGGED, TAGGED]) {
        interfaces.push(json!({"name": name, "sriov": {}, "macAddress": mac}));
        networks.push(json!({"name": name, "multus": {"networkName": network}}));
        arguments.push_str(&format!(" guest.ip.{mac}={own}/24"));
    }
    json!({
        "domain": {
            "devices": {"interfaces": interfaces},
            "firmware": {"kernelBoot": {"kernelArgs": arguments}},
        },
        "networks": networks,
    })
}

fn node_of(namespace: &Namespace<'_>, pod: &str) -> Result<String> {
    let pod = namespace.get(&format!("pod/{pod}"))?;
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str);
    Ok(node.context("the pod has no node")?.to_owned())
}

/// What a guest that does not come up does in the emulated processor, if it hangs there.
fn hung(operator: &Operator<'_>) -> Result<Option<String>> {
    let sample = format!(
        "cd {0} 2> /dev/null && [ -d events/kvm ] || mount -t tracefs none {0}; cd {0} && : > trace && \
         echo 1 > events/kvm/kvm_exit/enable && sleep {1} && echo 0 > events/kvm/kvm_exit/enable && cat trace",
        hang::TRACING,
        hang::SAMPLE.as_secs()
    );
    Ok(hang::judge(&operator.on_the_node(&sample)?))
}
