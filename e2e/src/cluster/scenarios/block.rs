//! A claim that is a block device.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::api::{Cluster, Namespace};
use crate::cluster::client::Client;
use crate::cluster::guest::{BOOT, Guest, PORT, SERVE, Wanted};
use crate::cluster::operator::Operator;

/// Of the cluster, not of the scenario's namespace.
const PERSISTENT_VOLUME: &str = "hawser-scenario-block";
/// What stands for a disk of the node's.
const DISK: &str = "/var/lib/kubelet/hawser-scenario-block";

pub(super) fn written(cluster: &Cluster) -> Result<()> {
    let outcome = cluster.within("block", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let node = namespace.get("pod/client")?;
        let node = node
            .pointer("/spec/nodeName")
            .and_then(Value::as_str)
            .context("the pod has no node")?;
        let operator = Operator::start(namespace, node)?;
        let device = operator.on_the_node(&format!(
            "modprobe loop && printf \"the node's disk\" > {DISK} && truncate -s 16M {DISK} && losetup -f --show {DISK}"
        ))?;
        let device = device.trim();
        let outcome = by_a_guest(namespace, &client, &operator, node, device);
        // Not while the pod has it: the namespace's own end is too late for that.
        let gone = namespace
            .run(&["delete", "pod", "guest", "--grace-period=1", "--ignore-not-found"])
            .and_then(|_| operator.on_the_node(&format!("losetup -d {device} && rm {DISK}")));
        outcome.and(gone.map(drop))
    });
    let gone = cluster.kubectl.run(&[
        "delete",
        "persistentvolume",
        PERSISTENT_VOLUME,
        "--ignore-not-found",
    ]);
    outcome.and(gone.map(drop))
}

fn by_a_guest(
    namespace: &Namespace<'_>,
    client: &Client<'_>,
    operator: &Operator<'_>,
    node: &str,
    device: &str,
) -> Result<()> {
    namespace.apply(&claim(node, device))?;
    let volumes = [json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}})];
    let wanted = Wanted {
        volumes: &volumes,
        options: &["--block", "data", "--ipv6-sysctl"],
        ..Wanted::by("masquerade")
    };
    let guest = Guest::start(namespace, wanted)?;
    let pod = guest.pod()?;
    // A pod with a user namespace is refused a block device by the API server.
    ensure!(
        pod.pointer("/spec/hostUsers").is_none_or(Value::is_null),
        "the pod has a user namespace"
    );
    guest.said("guest: ready", BOOT)?;
    guest.wait_for_both_families()?;
    let [address, _] = guest.addresses()?;
    client.greet_within(address, PORT, SERVE)?;
    let found = client.execute(
        address,
        "[ -d /sys/module/virtio_blk ] || insmod /modules/virtio_blk.ko
        echo \"$(cat /sys/block/vda/serial) $(cat /sys/block/vda/size) $(head -c 15 /dev/vda)\"
        echo written by the guest | dd of=/dev/vda bs=4096 seek=1 conv=notrunc,fsync 2> /dev/null",
    )?;
    ensure!(
        found.trim() == "data 32768 the node's disk",
        "the guest found another disk: {found}"
    );
    let kept = operator.on_the_node(&format!(
        "dd if={device} bs=4096 skip=1 count=1 2> /dev/null | head -c 20"
    ))?;
    ensure!(kept == "written by the guest", "on the node's disk is {kept:?}");
    guest.end()
}

fn claim(node: &str, device: &str) -> [Value; 2] {
    let size = json!({"storage": "16Mi"});
    [
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": PERSISTENT_VOLUME},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": size,
                "storageClassName": "",
                "volumeMode": "Block",
                "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": device},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
                ]}]}},
            },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "",
                "volumeMode": "Block",
                "volumeName": PERSISTENT_VOLUME,
                "resources": {"requests": size},
            },
        }),
    ]
}
