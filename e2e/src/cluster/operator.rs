//! Whoever runs the node: ends its services, for what becomes of guests then.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::api::{LABEL, Namespace, until};
use crate::report::Skip;

/// For a service manager to have started again what was killed.
const BACK: Duration = Duration::from_secs(90);

/// A privileged pod among the node's own processes. The node's service manager is expected to start again what ends.
#[derive(Debug)]
pub(super) struct Operator<'a> {
    namespace: &'a Namespace<'a>,
}

/// Bytes of a guest's container, and how often the kernel has killed there.
#[derive(Debug)]
pub(super) struct Memory {
    peak: u64,
    current: u64,
    file: u64,
    shared: u64,
    kernel: u64,
    /// What the guest has of its memory: the VMM's largest mapping.
    guest: u64,
    pub(super) kills: u64,
}

impl Memory {
    /// What is not the guest's, and what the kernel cannot take back when there is no more: its page cache is not in it, the
    /// guest's memory where it is shared is.
    pub(super) fn beside_the_guest(&self) -> u64 {
        let kept = self.current.saturating_sub(self.file.saturating_sub(self.shared));
        kept.saturating_sub(self.guest)
    }

    /// The most that it ever was, the page cache with it.
    pub(super) fn peak_beside_the_guest(&self) -> u64 {
        self.peak.saturating_sub(self.guest)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [peak, current, file, shared, kernel, guest] = [
            self.peak,
            self.current,
            self.file,
            self.shared,
            self.kernel,
            self.guest,
        ]
        .map(|bytes| bytes >> 20);
        write!(
            f,
            "at most {peak} MiB, now {current} MiB (of that {guest} MiB the guest's, {file} MiB files, {shared} MiB shared, \
             {kernel} MiB the kernel's), {} killed",
            self.kills
        )
    }
}

const NAME: &str = "operator";
/// Where the node has its programs.
const NODE_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where it sees the node's control groups.
const CGROUPS: &str = "/cgroup";

impl<'a> Operator<'a> {
    pub(super) fn start(namespace: &'a Namespace<'a>, node: &str) -> Result<Self> {
        namespace
            .apply(&[json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": NAME, "labels": {LABEL: NAME}},
                "spec": {
                    "nodeName": node,
                    "hostPID": true,
                    "terminationGracePeriodSeconds": 0,
                    "automountServiceAccountToken": false,
                    "volumes": [{"name": "cgroups", "hostPath": {"path": "/sys/fs/cgroup"}}],
                    "containers": [{
                        "name": NAME,
                        "image": namespace.cluster.images.client,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["sleep", "infinity"],
                        "securityContext": {"privileged": true},
                        "volumeMounts": [{"name": "cgroups", "mountPath": CGROUPS}],
                    }],
                },
            })])
            .map_err(|error| match format!("{error:#}") {
                said if said.contains("violates PodSecurity") => {
                    Skip::because(format!("the cluster has no privileged pods: {said}")).into()
                }
                _ => error,
            })?;
        namespace.wait_until_running(NAME)?;
        Ok(Self { namespace })
    }

    /// Kills a service of the node, and waits until there is another process of it.
    pub(super) fn restart(&self, service: &str) -> Result<()> {
        let before = self.processes(service)?;
        ensure!(!before.is_empty(), "the node has no process {service}");
        // In the background, so that the answer gets out first where it comes by way of this very process.
        let script = format!("(sleep 1; kill -KILL {before}) > /dev/null 2>&1 &");
        self.namespace.exec(NAME, &["sh", "-c", &script])?;
        until(&format!("{service} is back"), BACK, || {
            // Not answered while the kubelet is away.
            Ok(self
                .processes(service)
                .ok()
                .filter(|after| !after.is_empty() && *after != before))
        })
        .map(drop)
    }

    /// What a shell script prints that is run by the node's own programs.
    pub(super) fn on_the_node(&self, script: &str) -> Result<String> {
        // With its path: busybox takes `sh` alone for its own, and then every program that it has an applet for.
        let enter = ["nsenter", "-t", "1", "-m", "-n", "--", "/usr/bin/env", NODE_PATH];
        let shell = ["/bin/sh", "-c", script];
        self.namespace.exec(NAME, &[enter.as_slice(), &shell].concat())
    }

    /// What the kernel has counted for a container.
    pub(super) fn memory(&self, container: &str) -> Result<Memory> {
        let id = container.rsplit('/').next().unwrap_or(container);
        let script = format!(
            "cd $(find /sys/fs/cgroup -type d -name '{id}' | head -n 1) && echo peak $(cat memory.peak) && \
             echo current $(cat memory.current) && cat memory.events memory.stat && \
             for one in $(cat cgroup.procs); do grep -q cloud-hyper /proc/$one/comm && \
             awk '/^Rss:/ {{ if ($2 > most) most = $2 }} END {{ print \"guest\", most }}' /proc/$one/smaps; done; true"
        );
        let text = self.on_the_node(&script)?;
        let of = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|count| count.parse::<u64>().ok())
                .with_context(|| format!("the container's group has no {name}: {text}"))
        };
        Ok(Memory {
            peak: of("peak")?,
            current: of("current")?,
            file: of("file")?,
            shared: of("shmem")?,
            kernel: of("kernel")?,
            guest: of("guest")? << 10,
            kills: of("oom_kill")?,
        })
    }

    /// Kills all processes of this name.
    pub(super) fn kill(&self, name: &str) -> Result<()> {
        self.signal("KILL", name)
    }

    /// Does `work` while the processes of this name stand still.
    pub(super) fn while_stopped<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.signal("STOP", name)?;
        let done = work();
        self.signal("CONT", name)?;
        done
    }

    fn signal(&self, signal: &str, name: &str) -> Result<()> {
        let processes = self.processes(name)?;
        ensure!(!processes.is_empty(), "the node has no process {name}");
        let script = format!("kill -{signal} {processes}");
        self.namespace.exec(NAME, &["sh", "-c", &script]).map(drop)
    }

    /// Takes memory in the container that has this process until the kernel kills what is in it.
    pub(super) fn exhaust_memory(&self, program: &str) -> Result<()> {
        let processes = self.processes(program)?;
        let process = processes
            .split_whitespace()
            .next()
            .with_context(|| format!("the node has no process {program}"))?;
        // A shell that has joined the container's group, and a string that doubles.
        let script = format!(
            "group=$(find {CGROUPS} -name cgroup.procs -exec grep -lx {process} {{}} + | head -n 1) && [ -n \"$group\" ] && \
             (echo 0 > \"$group\" && exec awk 'BEGIN {{ s = \"0123456789abcdef\"; while (1) s = s s }}') > /dev/null 2>&1 || true"
        );
        self.namespace.exec(NAME, &["sh", "-c", &script]).map(drop)
    }

    /// Waits until the node has no process of this name.
    pub(super) fn wait_until_gone(&self, name: &str) -> Result<()> {
        until(&format!("no process {name} is left"), BACK, || {
            Ok(self.processes(name)?.is_empty().then_some(()))
        })
    }

    /// Has the node start anew, at once and without a word to anybody.
    pub(super) fn reboot(&self) -> Result<()> {
        let script = "(sleep 1; reboot -f) > /dev/null 2>&1 &";
        self.namespace.exec(NAME, &["sh", "-c", script]).map(drop)
    }

    /// The identities of the node's processes of this name.
    fn processes(&self, name: &str) -> Result<String> {
        // Its status is 1 where there are none.
        let script = format!("pidof {name} || true");
        Ok(self
            .namespace
            .exec(NAME, &["sh", "-c", &script])?
            .trim()
            .to_owned())
    }
}
