//! Pods with guests.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::api::{Cluster, LABEL, Namespace, fed, until};
use super::pace::allowed;
use crate::process::Process;

/// What the guest's web server listens at (images/guest/init).
pub(super) const PORT: u16 = 8080;

/// For a controller to make a pod.
const MADE: Duration = Duration::from_secs(60);
/// For a guest to go down by its power button, which takes 10 s to 30 s with everything emulated.
const GRACE: Duration = Duration::from_secs(60);

/// From a container's start to a guest with both addresses, with everything emulated: 20 s on an idle machine.
pub(super) const BOOT: Duration = Duration::from_secs(240);
/// For a server in the guest to answer once the guest has its addresses.
pub(super) const SERVE: Duration = Duration::from_secs(60);

/// What a scenario wants of a guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) binding: &'a str,
    /// Whether its pod is ready only when its web server answers.
    pub(super) probed: bool,
    /// Whether it is started again after it has failed.
    pub(super) again: bool,
    /// `runStrategy` where it is started again.
    pub(super) strategy: &'a str,
    /// Volumes of the manifest, each with a disk whose serial number is its name.
    pub(super) volumes: &'a [Value],
    /// Options of `hawser pod`.
    pub(super) options: &'a [&'a str],
    /// What its spec has besides, or in place of what is usual: a merge patch (RFC 7396).
    pub(super) changes: Option<&'a Value>,
    /// The pod's name, where it is not the guest's.
    pub(super) pod: Option<&'a str>,
    /// Of its NIC.
    pub(super) mac: Option<&'a str>,
    /// The node that it has to run on.
    pub(super) node: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// As most guests are.
    pub(super) fn by(binding: &'a str) -> Self {
        Self {
            name: "guest",
            binding,
            probed: false,
            again: false,
            strategy: "RerunOnFailure",
            volumes: &[],
            options: &[],
            changes: None,
            pod: None,
            mac: None,
            node: None,
        }
    }

    /// The manifest of a guest with one NIC on the pod network.
    fn manifest(self, kernel_image: &str) -> Value {
        let interface: serde_json::Map<String, Value> = [
            ("name".to_owned(), json!("default")),
            (self.binding.to_owned(), json!({})),
        ]
        .into_iter()
        .chain(self.mac.map(|mac| ("macAddress".to_owned(), json!(mac))))
        .collect();
        let selector = self.node.map(|node| json!({"kubernetes.io/hostname": node}));
        let disk = |volume: &Value| {
            let name = volume.get("name");
            json!({"name": name, "serial": name, "disk": {"bus": "virtio"}})
        };
        let disks: Vec<Value> = self.volumes.iter().map(disk).collect();
        let mut spec = json!({
            "terminationGracePeriodSeconds": allowed(GRACE).as_secs(),
            "domain": {
                "cpu": {"cores": 1},
                "memory": {"guest": "192Mi"},
                "devices": {"interfaces": [interface], "disks": disks},
                "firmware": {"kernelBoot": {
                    "container": {"image": kernel_image, "kernelPath": "/vmlinux", "initrdPath": "/initrd.img"},
                    "kernelArgs": "console=ttyS0 quiet panic=-1 mitigations=off"
                }}
            },
            "networks": [{"name": "default", "pod": {}}],
            "volumes": self.volumes,
            "nodeSelector": selector,
        });
        if self.probed
            && let Some(spec) = spec.as_object_mut()
        {
            let probe = json!({"httpGet": {"port": PORT}, "periodSeconds": 1, "failureThreshold": 2});
            spec.insert("readinessProbe".to_owned(), probe);
        }
        if let Some(changes) = self.changes {
            merge(&mut spec, changes);
        }
        let labels = json!({LABEL: self.name});
        if self.again {
            json!({
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachine",
                "metadata": {"name": self.name},
                "spec": {
                    "runStrategy": self.strategy,
                    "template": {"metadata": {"labels": labels}, "spec": spec},
                },
            })
        } else {
            json!({
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachineInstance",
                "metadata": {"name": self.name, "labels": labels},
                "spec": spec,
            })
        }
    }

    /// The objects that run it, as `hawser pod` prints them.
    pub(super) fn objects(self, cluster: &Cluster) -> Result<Vec<Value>> {
        let manifest = self.manifest(&cluster.images.guest);
        let mut hawser = Command::new(&cluster.hawser);
        hawser.args(["pod", "--vmi", "-", "--output", "json", "--launcher-image"]);
        hawser.arg(&cluster.images.launcher).args(self.options);
        let text = fed(&mut hawser, &manifest.to_string()).context("hawser pod")?;
        let mut list: Value = serde_json::from_str(&text).context("hawser pod prints no JSON")?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(objects)) => Ok(objects),
            _ => bail!("hawser pod prints no list: {text}"),
        }
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        patch.clone_into(target);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(target) = target.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.shift_remove(key);
        } else {
            merge(target.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

/// A guest in its pod.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    namespace: &'a Namespace<'a>,
    name: String,
    /// `kubectl logs`: the guest's console and the launcher's log.
    log: Process,
}

impl<'a> Guest<'a> {
    /// Makes the guest's pod and waits until its container runs.
    pub(super) fn start(namespace: &'a Namespace<'a>, wanted: Wanted<'_>) -> Result<Self> {
        namespace.apply(&wanted.objects(namespace.cluster)?)?;
        Self::found(namespace, wanted.pod.unwrap_or(wanted.name))
    }

    /// Waits until there is this pod, and its container runs.
    pub(super) fn found(namespace: &'a Namespace<'a>, name: &str) -> Result<Self> {
        let pod = format!("pod/{name}");
        until(&format!("there is the {pod}"), MADE, || {
            Ok(namespace.get(&pod).ok())
        })?;
        namespace.wait_until_running(name)?;
        Ok(Self {
            namespace,
            name: name.to_owned(),
            log: namespace.follow(&["logs", "--follow", name])?,
        })
    }

    /// Waits for a line of its log.
    pub(super) fn said(&self, what: &str, limit: Duration) -> Result<()> {
        self.log.wait_for(what, 1, allowed(limit)).map(drop)
    }

    /// Whether this is in its log so far.
    pub(super) fn has_said(&self, what: &str) -> bool {
        self.log.transcript().contains(what)
    }

    /// Begins anew with its log: it ends with the kubelet that serves it, and with the container.
    pub(super) fn read_again(&mut self) -> Result<()> {
        self.log = self.namespace.follow(&["logs", "--follow", &self.name])?;
        Ok(())
    }

    /// Deletes the pod. The guest must go down by its power button, and its launcher end with 0 before anybody is killed.
    pub(super) fn end(self) -> Result<()> {
        let watch = self.namespace.follow(&[
            "get",
            "pod",
            &self.name,
            "--watch",
            "--output",
            "jsonpath=exit={.status.containerStatuses[0].state.terminated.exitCode};{\"\\n\"}",
        ])?;
        let started = Instant::now();
        self.namespace
            .run(&["delete", "pod", &self.name, "--wait=true"])?;
        let took = started.elapsed();
        self.said("guest: power button", SERVE)?;
        watch.wait_for("exit=0;", 1, allowed(SERVE))?;
        ensure!(
            took < allowed(GRACE),
            "the pod was there for {took:?} after its deletion"
        );
        Ok(())
    }

    /// Waits until the guest says that it has an address of each family, and a way out.
    pub(super) fn wait_for_both_families(&self) -> Result<()> {
        self.said("guest: ipv4 eth0 ", BOOT)?;
        self.said("guest: ipv6 eth0 ", BOOT)?;
        self.log
            .wait_for("guest: ipv6-route eth0 default via ", 1, BOOT)?;
        Ok(())
    }

    /// The pod's addresses, one of each family.
    pub(super) fn addresses(&self) -> Result<[IpAddr; 2]> {
        self.namespace.addresses(&self.name)
    }

    pub(super) fn pod(&self) -> Result<Value> {
        self.namespace.get(&format!("pod/{}", self.name))
    }

    pub(super) fn node(&self) -> Result<String> {
        let pod = self.pod()?;
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str);
        Ok(node.context("the pod has no node")?.to_owned())
    }

    /// Whether the pod is ready.
    pub(super) fn is_ready(&self) -> Result<bool> {
        let pod = self.pod()?;
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        let mut ready = conditions.into_iter().flatten().filter(|condition| {
            let text = |key: &str| condition.get(key).and_then(Value::as_str);
            text("type") == Some("Ready") && text("status") == Some("True")
        });
        Ok(ready.next().is_some())
    }

    /// The identity of the container that runs now, and how often it was started again.
    pub(super) fn container(&self) -> Result<(String, u64)> {
        let pod = self.pod()?;
        let status = pod
            .pointer("/status/containerStatuses/0")
            .context("no container status")?;
        let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str);
        ensure!(
            status.pointer("/state/running").is_some(),
            "the container of {} does not run: {status}",
            self.name
        );
        let id = text("/containerID").context("the container has no identity")?;
        let restarts = status.get("restartCount").and_then(Value::as_u64);
        Ok((id.to_owned(), restarts.unwrap_or_default()))
    }

    /// What `hawser status` says, executed in the pod.
    pub(super) fn status(&self) -> Result<Value> {
        let text = self.namespace.exec(&self.name, &["hawser", "status"])?;
        serde_json::from_str(&text).context("hawser status prints no JSON")
    }

    /// It has to say that the guest runs.
    pub(super) fn expect_running(&self) -> Result<()> {
        let status = self.status()?;
        ensure!(
            status.get("state").and_then(Value::as_str) == Some("running"),
            "hawser status: {status}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_a_manifest_are_merged_into_it() {
        let mut spec =
            json!({"domain": {"memory": {"guest": "1Gi"}, "devices": {}}, "networks": [1], "gone": 1});
        let patch = json!({"domain": {"memory": {"guest": "2Gi"}}, "networks": [2, 3], "gone": null, "probe": {"port": 1}});
        merge(&mut spec, &patch);
        let wanted = json!({
            "domain": {"memory": {"guest": "2Gi"}, "devices": {}},
            "networks": [2, 3],
            "probe": {"port": 1},
        });
        assert_eq!(spec, wanted);
    }
}
