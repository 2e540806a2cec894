//! Volumes as the kubelet mounts them in a pod with a user namespace: what a guest finds on each, and what of its writing
//! lasts longer than its pod.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::api::{Cluster, LABEL, Namespace, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, SERVE, Wanted};

/// For a pod that only makes files.
const MADE: Duration = Duration::from_secs(120);
/// Of the cluster, not of the scenario's namespace.
const PERSISTENT_VOLUME: &str = "hawser-scenario-volumes";
/// A directory of the node's.
const NODE_DIR: &str = "/data/hawser-scenario-volumes";

/// A variable for every disk, named by its serial number; and what an initramfs lacks for disks and their file systems.
const PROLOGUE: &str = "for module in virtio_blk nls_cp437 nls_ascii fat vfat cdrom isofs; do
    [ -d /sys/module/$module ] || insmod /modules/$module.ko
done
mkdir -p /mnt
for disk in /sys/block/vd*; do eval \"$(cat $disk/serial)=${disk##*/}\"; done
files() { mount -t ${3:-vfat} -o ro /dev/$1 /mnt && (cd /mnt && cat \"$2\"); umount /mnt; echo; }
";

pub(super) fn of_every_kind(cluster: &Cluster) -> Result<()> {
    let outcome = cluster.within("volumes", &[], lasting_and_not);
    // It belongs to no namespace that would take it along.
    let gone = cluster.kubectl.run(&[
        "delete",
        "persistentvolume",
        PERSISTENT_VOLUME,
        "--ignore-not-found",
    ]);
    outcome.and(gone.map(drop))
}

fn lasting_and_not(namespace: &Namespace<'_>) -> Result<()> {
    namespace.apply(&objects())?;
    make_files(namespace)?;
    let client = Client::start(namespace, "client")?;
    let volumes = volumes();
    let wanted = Wanted {
        volumes: &volumes,
        ..Wanted::by("masquerade")
    };

    let (guest, address) = start(namespace, &client, wanted)?;
    let pod = guest.pod()?;
    ensure!(
        pod.pointer("/spec/hostUsers") == Some(&json!(false)),
        "the pod has no user namespace"
    );
    let seen = run(
        &client,
        address,
        "files $config motd; files $keys password; files $account namespace; files $labels labels
        files $seed user-data iso9660
        for disk in data copy host scratch; do
            eval device=\\$$disk
            echo \"$disk $(cat /sys/block/$device/size) $(head -c 14 /dev/$device | tr -d '\\0')\"
            [ $disk = copy ] && block=2 || block=1
            echo written by the guest | dd of=/dev/$device bs=4096 seek=$block conv=notrunc,fsync 2> /dev/null
        done",
    )?;
    let label = format!("{LABEL}=\"guest\"");
    for wanted in [
        "welcome",
        "sesame",
        namespace.name.as_str(),
        label.as_str(),
        "#cloud-config",
        "data 32768 a claim's disk",
        "copy 32768 a claim's disk",
        "host 32768 a node's disk",
        "scratch 16384",
    ] {
        ensure!(
            seen.lines().any(|line| line.trim() == wanted),
            "no line {wanted:?} in what the guest found: {seen}"
        );
    }
    guest.end()?;

    let (guest, address) = start(namespace, &client, wanted).context("the second pod")?;
    let seen = run(
        &client,
        address,
        "for disk in data copy host scratch; do
            eval device=\\$$disk
            for block in 1 2; do
                echo \"$disk $block $(dd if=/dev/$device bs=4096 skip=$block count=1 2> /dev/null | head -c 7 | tr -d '\\0')\"
            done
        done",
    )?;
    // The ephemeral disk is the claim as it is by now, without what was written to the ephemeral disk before.
    for wanted in [
        "data 1 written",
        "data 2 ",
        "copy 1 written",
        "copy 2 ",
        "host 1 written",
        "scratch 1 ",
    ] {
        ensure!(
            seen.lines().any(|line| line == wanted),
            "no line {wanted:?} in what the second pod's guest found: {seen}"
        );
    }
    guest.end()
}

fn start<'a>(
    namespace: &'a Namespace<'a>,
    client: &Client<'_>,
    wanted: Wanted<'_>,
) -> Result<(Guest<'a>, IpAddr)> {
    let guest = Guest::start(namespace, wanted)?;
    guest.wait_for_both_families()?;
    let [address, _] = guest.addresses()?;
    client.greet_within(address, PORT, SERVE)?;
    Ok((guest, address))
}

fn run(client: &Client<'_>, guest: IpAddr, script: &str) -> Result<String> {
    client.execute(guest, &format!("{PROLOGUE}\n{script}"))
}

fn volumes() -> [Value; 9] {
    [
        json!({"name": "config", "configMap": {"name": "config"}}),
        json!({"name": "keys", "secret": {"secretName": "keys"}}),
        json!({"name": "account", "serviceAccount": {"serviceAccountName": "default"}}),
        json!({"name": "labels", "downwardAPI": {"fields": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
        ]}}),
        json!({"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}}),
        json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}}),
        json!({"name": "copy", "ephemeral": {"persistentVolumeClaim": {"claimName": "data"}}}),
        json!({"name": "host", "hostDisk": {"path": format!("{NODE_DIR}/host/disk.img"), "type": "Disk"}}),
        json!({"name": "scratch", "emptyDisk": {"capacity": "8Mi"}}),
    ]
}

fn objects() -> [Value; 5] {
    let claim = json!({
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "volumeName": PERSISTENT_VOLUME,
        "resources": {"requests": {"storage": "16Mi"}},
    });
    [
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "config"},
            "data": {"motd": "welcome"},
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "keys"},
            "stringData": {"password": "sesame"},
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "seed"},
            "stringData": {"userdata": "#cloud-config"},
        }),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": PERSISTENT_VOLUME},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "16Mi"},
                "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": format!("{NODE_DIR}/claim"), "type": "DirectoryOrCreate"},
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data"},
            "spec": claim,
        }),
    ]
}

/// What is on the disks before any guest: made by a pod, for KubeVirt's user.
fn make_files(namespace: &Namespace<'_>) -> Result<()> {
    const NAME: &str = "maker";
    let script = "make() { mkdir -p $1 && printf \"$2\" > $1/disk.img && truncate -s 16M $1/disk.img && chown 107:107 $1 $1/disk.img; }
        make /node/claim \"a claim's disk\" && make /node/host \"a node's disk\"";
    namespace.apply(&[json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "labels": {LABEL: NAME}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "containers": [{
                "name": NAME,
                "image": namespace.cluster.images.client,
                "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "node", "mountPath": "/node"}],
            }],
            "volumes": [{"name": "node", "hostPath": {"path": NODE_DIR, "type": "DirectoryOrCreate"}}],
        },
    })])?;
    until("the disks' files are made", MADE, || {
        let pod = namespace.get(&format!("pod/{NAME}"))?;
        let phase = pod.pointer("/status/phase").and_then(Value::as_str);
        ensure!(phase != Some("Failed"), "the pod that makes the files failed");
        Ok((phase == Some("Succeeded")).then_some(()))
    })
}
