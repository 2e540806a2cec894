//! How a guest's pod lives and ends: what ends under it, who ends it, and what comes after.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::api::{Cluster, Namespace, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, SERVE, Wanted};
use crate::cluster::operator::Operator;
use crate::report::Skip;

/// For the kubelet to see that a container has ended, and to start it again.
const AGAIN: Duration = Duration::from_secs(60);
/// For a node to start anew, and for the cluster to have seen it.
const REBOOT: Duration = Duration::from_secs(120);

/// containerd is killed and started again: containers are their shims' children, and the guest goes on.
pub(super) fn containerd_restarted(cluster: &Cluster) -> Result<()> {
    cluster.within("containerd", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let mut guest = Guest::start(namespace, Wanted::by("masquerade"))?;
        guest.wait_for_both_families()?;
        let [address, _] = guest.addresses()?;
        client.greet_within(address, PORT, SERVE)?;
        let container = guest.container()?;
        let uptime = client.uptime(address)?;
        let node = guest.node()?;
        Operator::start(namespace, &node)?.restart("containerd")?;
        // It has its pods back only when it can make another one.
        Client::start_on(namespace, "later", Some(&node)).context("after containerd's restart")?;
        let after = guest.container().context("after containerd's restart")?;
        ensure!(
            after == container,
            "the guest's container was {container:?}, and is now {after:?}"
        );
        let now = client.uptime(address)?;
        ensure!(
            now > uptime,
            "the guest was up for {uptime} s, and is now for {now} s"
        );
        guest.expect_running()?;
        guest.read_again()?;
        guest.end()
    })
}

/// More memory than the container's limit: the kernel ends all that is in it, the kubelet says why, and the launcher that is
/// started again says that there was one before.
pub(super) fn out_of_memory(cluster: &Cluster) -> Result<()> {
    cluster.within("memory", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let wanted = Wanted {
            again: true,
            ..Wanted::by("masquerade")
        };
        let mut guest = Guest::start(namespace, wanted)?;
        guest.wait_for_both_families()?;
        let [address, _] = guest.addresses()?;
        Operator::start(namespace, &guest.node()?)?.exhaust_memory("cloud-hypervisor")?;
        until("the container runs again", AGAIN, || {
            Ok(guest.container().ok().filter(|(_, restarts)| *restarts == 1))
        })?;
        let pod = guest.pod()?;
        let reason = pod.pointer("/status/containerStatuses/0/lastState/terminated/reason");
        ensure!(
            reason.and_then(Value::as_str) == Some("OOMKilled"),
            "the container's last state is not OOMKilled: {}",
            pod.pointer("/status/containerStatuses/0").unwrap_or(&Value::Null)
        );
        guest.read_again()?;
        guest.said("event=\"previous-launcher-killed\"", SERVE)?;
        guest.wait_for_both_families().context("the second start")?;
        client
            .greet_within(address, PORT, SERVE)
            .context("the second start")?;
        guest.end()
    })
}

/// Without its grace period, and by force: nothing of the guest is left on the node, and another one of its name can be made.
pub(super) fn deleted_without_grace(cluster: &Cluster) -> Result<()> {
    cluster.within("deleted", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        for how in [["--now", "--wait=true"], ["--grace-period=0", "--force"]] {
            let guest = Guest::start(namespace, Wanted::by("masquerade"))?;
            guest.wait_for_both_families()?;
            let [address, _] = guest.addresses()?;
            client
                .greet_within(address, PORT, SERVE)
                .with_context(|| format!("before kubectl delete {}", how.join(" ")))?;
            let operator = Operator::start(namespace, &guest.node()?)?;
            namespace.run(&[&["delete", "pod", "guest"], how.as_slice()].concat())?;
            for program in ["cloud-hypervisor", "hawser"] {
                operator
                    .wait_until_gone(program)
                    .with_context(|| format!("after kubectl delete {}", how.join(" ")))?;
            }
            ensure!(
                client.greet(address, PORT).is_err(),
                "{address} still answers as the guest"
            );
            namespace.run(&["delete", "pod", "operator"])?;
        }
        let guest = Guest::start(namespace, Wanted::by("masquerade")).context("another one of the name")?;
        guest.wait_for_both_families()?;
        guest.end()
    })
}

/// The node starts anew under its guests. The kubelet refuses the devices to every pod of before, as the device plugin is a pod too
/// and comes later: such a pod has failed, whatever its restart policy. A controller makes another.
pub(super) fn node_rebooted(cluster: &Cluster) -> Result<()> {
    if !cluster.own {
        return Err(
            Skip::because("it reboots a node, which is done to the suite's own cluster alone").into(),
        );
    }
    cluster.within("reboot", &[], |namespace| {
        Client::start(namespace, "client")?;
        let node = namespace.get("pod/client")?;
        let node = node.pointer("/spec/nodeName").and_then(Value::as_str);
        let node = node.context("the client has no node")?;
        let bare = Guest::start(
            namespace,
            Wanted {
                name: "bare",
                again: true,
                node: Some(node),
                ..Wanted::by("masquerade")
            },
        )?;
        let kept = Guest::start(
            namespace,
            Wanted {
                name: "kept",
                pod: Some("kept-0"),
                again: true,
                strategy: "Always",
                node: Some(node),
                options: &["--kind", "statefulset"],
                ..Wanted::by("masquerade")
            },
        )?;
        bare.wait_for_both_families()?;
        kept.wait_for_both_families()?;
        let boot = boot_of(namespace, node)?;
        let first = uid(&kept.pod()?);
        Operator::start(namespace, node)?.reboot()?;
        until("the node has started anew", REBOOT, || {
            Ok((boot_of(namespace, node)? != boot).then_some(()))
        })?;

        until("the bare pod has failed", REBOOT, || {
            let pod = bare.pod()?;
            Ok((pod.pointer("/status/phase").and_then(Value::as_str) == Some("Failed")).then_some(pod))
        })
        .and_then(|pod| {
            let reason = pod.pointer("/status/reason").and_then(Value::as_str);
            ensure!(
                reason == Some("UnexpectedAdmissionError"),
                "the bare pod failed for {reason:?}: {}",
                pod.pointer("/status").unwrap_or(&Value::Null)
            );
            Ok(())
        })?;
        until("the StatefulSet has another pod", REBOOT, || {
            Ok(kept.pod().ok().filter(|pod| uid(pod) != first))
        })?;
        let kept = Guest::found(namespace, "kept-0").context("after the reboot")?;
        kept.wait_for_both_families().context("after the reboot")?;
        let later = Client::start(namespace, "later").context("after the reboot")?;
        let [address, _] = kept.addresses()?;
        later
            .greet_within(address, PORT, SERVE)
            .context("after the reboot")?;
        Ok(())
    })
}

/// Of the node's kernel, as the kubelet has last said.
fn boot_of(namespace: &Namespace<'_>, node: &str) -> Result<String> {
    let node = namespace.get(&format!("node/{node}"))?;
    let boot = node.pointer("/status/nodeInfo/bootID").and_then(Value::as_str);
    Ok(boot.context("the node has no boot id")?.to_owned())
}

fn uid(object: &Value) -> Option<Value> {
    object.pointer("/metadata/uid").cloned()
}
