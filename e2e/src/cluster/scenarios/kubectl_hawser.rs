//! `kubectl hawser`: a guest there and back, with what stands around its pods.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::migration::{SECRET, SERVICE_PORT, certificates, service, settings};
use crate::cluster::api::{Cluster, Namespace};
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, SERVE, Wanted};
use crate::cluster::pace::allowed;
use crate::lab::process::progress;
use crate::process::Process;

const PLUGIN: &str = "kubectl-hawser";
/// For a migration with everything emulated: the target's start, the transfer, and the source's end.
const MIGRATE: Duration = Duration::from_secs(180);
/// For what cannot be placed to be said, here; on an idle cluster it is within ten seconds.
const UNPLACED: Duration = Duration::from_secs(30);
/// The Service may lead nowhere for so long: the downtime, and until kube-proxy has heard that the target is ready.
const NOWHERE: Duration = Duration::from_secs(20);
const BY_NAME: &str = "vm.kubevirt.io/name=guest";
/// A request each half a second, and what became of it.
const REQUESTS: &str = "while :; do if wget -q -T 2 -O /dev/null http://@/; then echo answered; else echo failed; fi; sleep 0.5; done";

/// There; back, where the plugin is killed in the middle and run again; and to a node that does not exist.
pub(super) fn migrates_a_guest(cluster: &Cluster) -> Result<()> {
    cluster.within("plugin", &[], |namespace| {
        let peer = format!("guest.{}.vmi", namespace.name);
        namespace.apply(&[certificates(&peer)?, settings(), service()])?;
        let plugin = Plugin::new(namespace)?;
        let volumes = [json!({"name": "settings", "configMap": {"name": "settings"}})];
        let changes = json!({"evictionStrategy": "LiveMigrate"});
        let options = ["--namespace", &namespace.name, "--tls-secret", SECRET];
        let client = Client::start(namespace, "client")?;
        let source = Guest::start(
            namespace,
            Wanted {
                volumes: &volumes,
                options: &options,
                changes: Some(&changes),
                ..Wanted::by("masquerade")
            },
        )?;
        source.wait_for_both_families()?;
        let [address, _] = source.addresses()?;
        client.greet_within(address, PORT, SERVE)?;
        let first = source.node()?;
        let boot = client.execute(address, "cat /proc/sys/kernel/random/boot_id")?;
        let status = plugin.run("status guest", 0)?;
        ensure!(
            status.contains("running") && status.contains(&first),
            "status: {status}"
        );

        // A node that does not exist: in the scheduler's words, and all is as before.
        let started = Instant::now();
        let said = plugin.run("migrate guest --keep-tags --to nowhere", 9)?;
        let took = started.elapsed();
        progress(format!(
            "to a node that does not exist, in {:.1} s:\n{said}",
            took.as_secs_f64()
        ));
        ensure!(said.contains("Unschedulable: 0/2 nodes are available"), "{said}");
        ensure!(took < allowed(UNPLACED), "it took {took:?}");
        ensure!(only_pod(namespace)?.0 == "guest", "a pod is left");
        expect_budget(namespace, 1)?;

        // There, while others reach it through its Service, and nobody may evict either pod.
        let requests = requests(namespace)?;
        let mut running = plugin.start("migrate guest --keep-tags")?;
        running.wait_for("the target waits in", 1, allowed(MIGRATE))?;
        for pod in pods(namespace)? {
            refuse_eviction(namespace, &pod)?;
        }
        expect_budget(namespace, 2)?;
        let status = running.wait_exit(allowed(MIGRATE))?;
        progress(format!("there:\n{}", running.transcript()));
        ensure!(
            status.code() == Some(0),
            "migrate: {status}\n{}",
            running.transcript()
        );
        let (there, second) = only_pod(namespace)?;
        ensure!(second != first, "the guest is on {second} still");
        expect_same(namespace, &client, &there, &boot)?;
        nowhere_for_long(&requests)?;
        drop(requests);

        // Back. The plugin is killed while the guest's memory is sent.
        let back = format!("migrate guest --keep-tags --to {first}");
        let mut killed = plugin.start(&back)?;
        killed.wait_for("sending: ", 1, allowed(MIGRATE))?;
        killed.signal(Signal::SIGKILL)?;
        killed.wait_exit(SERVE)?;
        let said = plugin.run(&back, 0)?;
        progress(format!("back, after the plugin was killed:\n{said}"));
        let (here, node) = only_pod(namespace)?;
        ensure!(node == first, "the guest is on {node}");
        expect_same(namespace, &client, &here, &boot)?;
        plugin.run("stop guest", 0)?;
        Ok(())
    })
}

/// The program, and a kubectl that knows its cluster.
struct Plugin<'a> {
    program: PathBuf,
    namespace: &'a Namespace<'a>,
    dir: TempDir,
}

impl<'a> Plugin<'a> {
    fn new(namespace: &'a Namespace<'a>) -> Result<Self> {
        let program = namespace.cluster.hawser.with_file_name(PLUGIN);
        if !program.is_file() {
            bail!("no {}: cargo build -p hawser-kubectl", program.display());
        }
        let dir = tempfile::tempdir()?;
        namespace.cluster.kubectl.script(&dir.path().join("kubectl"))?;
        Ok(Self {
            program,
            namespace,
            dir,
        })
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubectl").arg(self.dir.path().join("kubectl"));
        command
            .args(["--namespace", &self.namespace.name])
            .args(words.split(' '));
        command
    }

    fn start(&self, words: &str) -> Result<Process> {
        Process::spawn(&format!("kubectl hawser {words}"), &mut self.command(words))
    }

    /// What it says, where it exits with this code.
    fn run(&self, words: &str, code: i32) -> Result<String> {
        let mut process = self.start(words)?;
        let status = process.wait_exit(allowed(MIGRATE))?;
        let said = process.transcript();
        ensure!(
            status.code() == Some(code),
            "kubectl hawser {words}: {status}\n{said}"
        );
        Ok(said)
    }
}

fn pods(namespace: &Namespace<'_>) -> Result<Vec<String>> {
    let names = namespace.run(&["get", "pods", "--selector", BY_NAME, "--output", "name"])?;
    Ok(names.lines().map(|line| line.replace("pod/", "")).collect())
}

/// The name and the node of the guest's pod, which has to be the only one.
fn only_pod(namespace: &Namespace<'_>) -> Result<(String, String)> {
    let pods = pods(namespace)?;
    let [pod] = pods.as_slice() else {
        bail!("the guest has not one pod: {pods:?}");
    };
    let object = namespace.get(&format!("pod/{pod}"))?;
    let node = object.pointer("/spec/nodeName").and_then(Value::as_str);
    Ok((pod.clone(), node.context("the pod has no node")?.to_owned()))
}

fn expect_budget(namespace: &Namespace<'_>, wanted: u64) -> Result<()> {
    let budget = namespace.get("poddisruptionbudget/guest")?;
    let found = budget.pointer("/spec/minAvailable").and_then(Value::as_u64);
    ensure!(found == Some(wanted), "minAvailable is {found:?}, not {wanted}");
    Ok(())
}

/// As `kubectl drain` asks for it.
fn refuse_eviction(namespace: &Namespace<'_>, pod: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", namespace.name);
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": namespace.name},
    });
    match namespace.feed(
        &["create", "--raw", &path, "--filename", "-"],
        &eviction.to_string(),
    ) {
        Ok(_) => bail!("the pod {pod} was evicted in the middle of a migration"),
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(
                said.contains("disruption budget"),
                "the eviction of {pod}: {said}"
            );
            Ok(())
        }
    }
}

/// The pod is ready, networks know, the budget is as before, and the guest has not booted.
fn expect_same(namespace: &Namespace<'_>, client: &Client<'_>, pod: &str, boot: &str) -> Result<()> {
    let guest = Guest::found(namespace, pod)?;
    ensure!(guest.is_ready()?, "{pod} is not ready");
    guest.expect_running()?;
    let [address, _] = guest.addresses()?;
    client.greet_within(address, PORT, SERVE)?;
    let now = client.execute(address, "cat /proc/sys/kernel/random/boot_id")?;
    ensure!(now == boot, "the guest has booted anew");
    let object = guest.pod()?;
    let metadata = object.get("metadata").context("no metadata")?;
    let of = |field: &str, key: &str| Some(metadata.get(field)?.get(key)?.as_str()?.to_owned());
    let node = guest.node()?;
    ensure!(
        of("annotations", "kubevirt.io/migration-target-ready-timestamp").is_some()
            && of("labels", "kubevirt.io/nodeName") == Some(node),
        "what networks look for: {metadata}"
    );
    expect_budget(namespace, 1)
}

fn requests(namespace: &Namespace<'_>) -> Result<Process> {
    let service = namespace.get("service/guest-web")?;
    let address = service.pointer("/spec/clusterIP").and_then(Value::as_str);
    let address = format!(
        "{}:{SERVICE_PORT}",
        address.context("the Service has no address")?
    );
    let requests = namespace.follow(&[
        "exec",
        "client",
        "--",
        "sh",
        "-c",
        &REQUESTS.replace('@', &address),
    ])?;
    requests.wait_for("answered", 3, allowed(SERVE))?;
    Ok(requests)
}

/// From the first request that was not answered to the next that was; a request that fails takes two and a half seconds at most.
fn nowhere_for_long(requests: &Process) -> Result<()> {
    let before = requests.stdout().lines().count();
    requests.wait_for("answered", before + 3, allowed(SERVE))?;
    let text = requests.stdout();
    let mut longest = 0;
    let mut now = 0;
    for line in text.lines() {
        now = if line == "failed" { now + 1 } else { 0 };
        longest = longest.max(now);
    }
    progress(format!(
        "{} requests through the Service, of which at most {longest} in a row were not answered",
        text.lines().count()
    ));
    let longest = Duration::from_millis(2500) * u32::try_from(longest)?;
    ensure!(
        longest <= allowed(NOWHERE),
        "the Service led nowhere for up to {longest:?}"
    );
    Ok(())
}
