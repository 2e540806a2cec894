//! A namespace's own defaults and limits, and a node's memory: what a guest's pod asks for is enough, and is said.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cluster::api::{Cluster, Namespace, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, SERVE, Wanted};
use crate::cluster::operator::Operator;
use crate::lab::process::progress;

/// For a controller to have counted.
const COUNTED: Duration = Duration::from_secs(60);
/// For the kubelet to have measured what a pod has written.
const MEASURED: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
/// By default a container of the namespace may write so much, in MiB.
const DEFAULT_STORAGE: u64 = 500;
/// What the guest writes, in MiB.
const WRITTEN: u64 = 600;
/// Questions at once.
const QUESTIONS: usize = 20;
/// Guests whose memory is measured: name, binding and memory.
const MEMORY: [(&str, &str, &str); 3] = [
    ("small", "masquerade", "192Mi"),
    ("passt", "passt", "192Mi"),
    ("large", "masquerade", "1Gi"),
];

/// A guest fills a disk of its manifest beyond the namespace's default limit of storage, and is not evicted for it.
pub(super) fn default_storage(cluster: &Cluster) -> Result<()> {
    cluster.within("limits", &[], |namespace| {
        namespace.apply(&[json!({
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "small"},
            "spec": {"limits": [{
                "type": "Container",
                "default": {"ephemeral-storage": format!("{DEFAULT_STORAGE}Mi")},
                "defaultRequest": {"ephemeral-storage": "10Mi"},
            }]},
        })])?;
        let client = Client::start(namespace, "client")?;
        let volumes = [json!({"name": "scratch", "emptyDisk": {"capacity": "4Gi"}})];
        let wanted = Wanted {
            volumes: &volumes,
            ..Wanted::by("masquerade")
        };
        let guest = Guest::start(namespace, wanted)?;
        guest.wait_for_both_families()?;
        let [address, _] = guest.addresses()?;
        client.greet_within(address, PORT, SERVE)?;
        write(&client, address)?;
        let node = guest.node()?;
        until("the kubelet has measured what was written", MEASURED, || {
            let used = storage(namespace, &node, "guest")?;
            Ok((used > DEFAULT_STORAGE * MIB).then_some(()))
        })?;
        // Each measurement is looked at before the next is made.
        let first = measured_at(namespace, &node)?;
        until("the kubelet has measured again", MEASURED, || {
            Ok((measured_at(namespace, &node)? != first).then_some(()))
        })?;
        guest.expect_running()?;
        guest.end()
    })
}

/// Disks of guests are written in pieces that a request lasts for.
fn write(client: &Client<'_>, guest: IpAddr) -> Result<()> {
    client.execute(
        guest,
        "for module in virtio_blk; do [ -d /sys/module/$module ] || insmod /modules/$module.ko; done
        (dd if=/dev/zero of=/dev/vda bs=1M count=@ conv=fsync && echo written > /tmp/written) > /tmp/log 2>&1 &"
            .replace('@', &WRITTEN.to_string())
            .as_str(),
    )?;
    until("the guest has written", MEASURED, || {
        let said = client.execute(guest, "cat /tmp/written /tmp/log 2> /dev/null || true")?;
        ensure!(!said.contains("rror"), "the guest cannot write: {said}");
        Ok(said.starts_with("written").then_some(()))
    })
}

/// Bytes that the kubelet counts as the pod's.
fn storage(namespace: &Namespace<'_>, node: &str, pod: &str) -> Result<u64> {
    let summary = summary(namespace, node)?;
    let pods = summary.get("pods").and_then(Value::as_array);
    let found = pods.into_iter().flatten().find(|found| {
        let of = |field: &str| found.pointer(&format!("/podRef/{field}")).and_then(Value::as_str);
        of("name") == Some(pod) && of("namespace") == Some(namespace.name.as_str())
    });
    let used = found.and_then(|found| found.pointer("/ephemeral-storage/usedBytes")?.as_u64());
    Ok(used.unwrap_or_default())
}

fn measured_at(namespace: &Namespace<'_>, node: &str) -> Result<Option<Value>> {
    Ok(summary(namespace, node)?.pointer("/node/fs/time").cloned())
}

fn summary(namespace: &Namespace<'_>, node: &str) -> Result<Value> {
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let text = namespace.cluster.kubectl.run(&["get", "--raw", &path])?;
    serde_json::from_str(&text).context("the kubelet's summary is no JSON")
}

/// What a quota does not allow is refused with numbers that are those of `hawser pod`; a CPU limit is the manifest's to have.
pub(super) fn refused_by_quota(cluster: &Cluster) -> Result<()> {
    cluster.within("quota", &[], |namespace| {
        let enough = [
            ("requests.memory", "1Gi"),
            ("limits.memory", "1Gi"),
            ("limits.ephemeral-storage", "1Gi"),
        ];
        let quota = |hard: &[(&str, &str)]| {
            let hard = hard.iter().map(|(name, amount)| ((*name).to_owned(), json!(amount)));
            let hard: serde_json::Map<String, Value> = hard.collect();
            set_quota(namespace, &Value::Object(hard))
        };
        let objects = Wanted::by("masquerade").objects(cluster)?;
        let memory = objects
            .iter()
            .find_map(|object| object.pointer("/spec/containers/0/resources/requests/memory")?.as_str())
            .context("the pod asks for no memory")?;
        quota(&[("requests.memory", "256Mi")])?;
        refused(
            namespace,
            &objects,
            &format!(
                "exceeded quota: guests, requested: requests.memory={memory}, used: requests.memory=0, limited: \
                 requests.memory=256Mi"
            ),
        )?;

        quota(&[&enough[..], &[("limits.cpu", "1")]].concat())?;
        refused(namespace, &objects, "must specify limits.cpu")?;
        let changes = json!({"domain": {"resources": {"limits": {"cpu": "1"}}}});
        let limited = Wanted {
            changes: Some(&changes),
            ..Wanted::by("masquerade")
        };
        namespace
            .apply(&limited.objects(cluster)?)
            .context("with all that the quota counts")
    })
}

fn set_quota(namespace: &Namespace<'_>, hard: &Value) -> Result<()> {
    namespace.apply(&[json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "guests"},
        "spec": {"hard": hard},
    })])?;
    until("the quota is counted", COUNTED, || {
        let quota = namespace.get("resourcequota/guests")?;
        Ok((quota.pointer("/status/hard") == Some(hard)).then_some(()))
    })
}

fn refused(namespace: &Namespace<'_>, objects: &[Value], wanted: &str) -> Result<()> {
    let Err(refused) = namespace.apply(objects) else {
        bail!("the pod was taken, not refused with {wanted:?}");
    };
    let said = format!("{refused:#}");
    ensure!(
        said.contains(wanted),
        "the API server did not say {wanted:?}, but: {said}"
    );
    Ok(())
}

/// Guests use all of their memory while others ask for their state: the kernel kills nothing.
pub(super) fn all_memory_touched(cluster: &Cluster) -> Result<()> {
    cluster.within("touched", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let guests = MEMORY
            .iter()
            .map(|(name, binding, memory)| {
                let ports = json!([{"port": PORT}]);
                let interface: serde_json::Map<String, Value> = [
                    ("name".to_owned(), json!("default")),
                    ((*binding).to_owned(), json!({})),
                    ("ports".to_owned(), ports),
                ]
                .into_iter()
                .collect();
                let changes = json!({"domain": {
                    "memory": {"guest": memory},
                    "devices": {"interfaces": [interface]},
                }});
                let wanted = Wanted {
                    name,
                    changes: Some(&changes),
                    ..Wanted::by(binding)
                };
                Guest::start(namespace, wanted).context(*name)
            })
            .collect::<Result<Vec<_>>>()?;
        for guest in &guests {
            guest.wait_for_both_families()?;
            let [address, _] = guest.addresses()?;
            client.greet_within(address, PORT, SERVE)?;
            touch(&client, address)?;
        }
        let node = guests.first().context("no guest")?.node()?;
        let operator = Operator::start(namespace, &node)?;
        for (guest, (name, binding, memory)) in guests.iter().zip(MEMORY) {
            ask_at_once(namespace, name)?;
            let (id, restarts) = guest.container()?;
            ensure!(restarts == 0, "{name}: the container was started again");
            let counted = operator.memory(&id)?;
            let overhead = limit(&guest.pod()?)?.saturating_sub(bytes(memory)?);
            progress(format!(
                "{binding}, a guest of {memory}: beside it {} MiB, at most {} MiB, of {} MiB that the pod has for it; {counted}",
                counted.beside_the_guest() / MIB,
                counted.peak_beside_the_guest() / MIB,
                overhead / MIB
            ));
            ensure!(counted.kills == 0, "{name}: the kernel has killed: {counted}");
            ensure!(
                counted.beside_the_guest() < overhead,
                "{name}: what is beside the guest takes more than the {overhead} bytes that `hawser pod` reckons with: {counted}"
            );
            let [address, _] = guest.addresses()?;
            client.greet(address, PORT).context("with all memory touched")?;
        }
        guests.into_iter().try_for_each(Guest::end)
    })
}

/// Bytes that the guest's container may take.
fn limit(pod: &Value) -> Result<u64> {
    let limit = pod.pointer("/spec/containers/0/resources/limits/memory");
    bytes(limit.and_then(Value::as_str).context("no limit of memory")?)
}

fn bytes(quantity: &str) -> Result<u64> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30)];
    let unit = units
        .iter()
        .find_map(|(unit, shift)| Some((quantity.strip_suffix(unit)?, *shift)));
    let (count, shift) = unit.unwrap_or((quantity, 0));
    let count: u64 = count
        .parse()
        .with_context(|| format!("no quantity: {quantity:?}"))?;
    Ok(count << shift)
}

/// All of the guest's memory but what the answer to this takes.
fn touch(client: &Client<'_>, guest: IpAddr) -> Result<()> {
    client
        .execute(
            guest,
            "mkdir /tmp/full && mount -t tmpfs -o size=100% full /tmp/full
            free=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
            (dd if=/dev/zero of=/tmp/full/all bs=64k count=$(((free - 16384) / 64)); echo done > /tmp/touched) > /dev/null 2>&1 &",
        )
        .context("the guest cannot use its memory")?;
    until("the guest has touched its memory", MEASURED, || {
        let said = client.execute(guest, "cat /tmp/touched 2> /dev/null || true")?;
        Ok(said.starts_with("done").then_some(()))
    })
}

/// `hawser status` by [`QUESTIONS`] processes in the pod.
fn ask_at_once(namespace: &Namespace<'_>, pod: &str) -> Result<()> {
    let questions = (0..QUESTIONS)
        .map(|_| {
            let mut command = namespace.command();
            command.args(["exec", pod, "--", "hawser", "status"]);
            command.stdout(Stdio::null());
            Ok(command.spawn()?)
        })
        .collect::<Result<Vec<_>>>()?;
    for mut question in questions {
        let status = question.wait()?;
        ensure!(status.success(), "{pod}: hawser status: {status}");
    }
    Ok(())
}
