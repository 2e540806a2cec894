//! The machine's side of the cluster: what is run, and what is made before.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::addons::{Addons, Place};
use super::api::{Cluster, Images, Kubectl, until};
use super::control_plane::ControlPlane;
use super::daemon::inside;
use super::go::Programs;
use super::install::install;
use super::node::ClusterNode;
use super::pki::Pki;
use super::selection::{Chosen, Order};
use super::{DEVICE_PLUGIN, DEVICES, GROUP, disk, image, network, node, pace};
use crate::lab::cache::Cache;
use crate::lab::memory;
use crate::lab::node_image::NodeImage;
use crate::lab::process::progress;
use crate::lab::qemu::Node;
use crate::lab::{LauncherBinary, launcher, payload, vmm, why_no_real_guests};
use crate::netns::Netns;
use crate::packages;
use crate::programs;
use crate::report::{Outcome, Report, Skip};

/// From power-on to ready nodes, on the machine that the limits are written for.
const BOOT: Duration = Duration::from_secs(30);
/// For the nodes to be ready on any machine.
const READY: Duration = Duration::from_secs(600);
/// Bytes of memory that two nodes and the control plane come to take, with what the machine keeps of their disks.
const TWO_NODES: u64 = 14 << 30;

/// Runs what is chosen, and adds each to the report. What would begin after `until` is skipped, and so is what would not be
/// worth its preparation until then.
pub(crate) fn run(report: &mut Report, order: &Order<'_>, binary: &LauncherBinary, until: Option<Instant>) {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let fit = fit(report, order.chosen(), |one| one.too_late(left));
    let wanted = fit.iter().map(|one| one.nodes).max().unwrap_or(0);
    let (nodes, why) = room(wanted, order.nodes);
    let fit = self::fit(report, fit, |one| (one.nodes > nodes).then(|| why.clone()));
    if fit.is_empty() {
        return;
    }
    let nodes = fit.iter().map(|one| one.nodes).max().unwrap_or(0);
    let mut ran = false;
    let made = with_cluster(binary, nodes, |cluster, _| {
        ran = true;
        run_each(report, &fit, cluster, until);
        Ok(())
    });
    if let Err(error) = made
        && !ran
    {
        let outcome = Outcome::from(Err(error));
        for one in &fit {
            report.record(GROUP, one.name(), outcome.clone(), None);
        }
    }
}

/// Those for which there is no reason not to run them; the others are skipped for it.
pub(super) fn fit(
    report: &mut Report,
    chosen: Vec<Chosen>,
    why_not: impl Fn(&Chosen) -> Option<String>,
) -> Vec<Chosen> {
    let skipped = |one: &Chosen| match why_not(one) {
        Some(reason) => {
            report.record(GROUP, one.name(), Outcome::Skipped(reason), None);
            false
        }
        None => true,
    };
    chosen.into_iter().filter(skipped).collect()
}

/// One after the other.
pub(super) fn run_each(report: &mut Report, chosen: &[Chosen], cluster: &Cluster, until: Option<Instant>) {
    for one in chosen {
        if until.is_some_and(|until| Instant::now() >= until) {
            let reason = "the time of --within was used up before it began";
            report.record(GROUP, one.name(), Outcome::Skipped(reason.to_owned()), None);
            continue;
        }
        progress(format!("{GROUP} {}", one.name()));
        let started = Instant::now();
        let outcome = one.scenario.outcome(cluster);
        report.record(GROUP, one.name(), outcome, Some(started.elapsed()));
    }
}

/// How many of the wanted nodes there can be, and why not more.
fn room(wanted: usize, asked: Option<usize>) -> (usize, String) {
    if let Some(asked) = asked.filter(|asked| *asked < wanted) {
        return (asked, format!("--nodes is {asked}, and it needs more"));
    }
    if wanted > 0 {
        // What else goes wrong here goes wrong again where it counts as a failure.
        if let Ok(Some(reason)) = why_no_real_guests() {
            return (0, reason);
        }
    }
    match memory::available() {
        Some(bytes) if wanted > 1 && bytes < TWO_NODES => {
            let reason = format!(
                "it needs two nodes, which take {} GiB of memory, and {} are available",
                TWO_NODES >> 30,
                bytes >> 30
            );
            (1, reason)
        }
        _ => (wanted, String::new()),
    }
}

/// A shell with `kubectl` in the cluster's namespace.
pub(crate) fn shell(binary: &LauncherBinary, nodes: Option<usize>) -> Result<()> {
    with_cluster(binary, nodes.unwrap_or(1), |_, shell| {
        shell.status().context("cannot start a shell")?;
        Ok(())
    })
}

/// Everything before the cluster is there; then `then`, with a shell that reaches the cluster; then the end of it all.
fn with_cluster(
    binary: &LauncherBinary,
    nodes: usize,
    then: impl FnOnce(&Cluster, &mut Command) -> Result<()>,
) -> Result<()> {
    packages::install()?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Skip::because(
            "the cluster is made with namespaces, debootstrap and chroot: run as root",
        )
        .into());
    }
    let cache = Arc::new(Cache::open()?);
    // First what may be missing: nothing else is worth the time then.
    if nodes > 0 {
        let vmm = vmm::find(&cache)?;
        progress(format!(
            "cloud-hypervisor: {} ({})",
            vmm.display(),
            vmm::version(&vmm)?
        ));
    }
    let go = Programs::get(&cache, nodes > 0)?;
    let hawser = launcher(binary)?;
    let payload = cache.scratch("cluster-payload")?;
    let parts = match nodes {
        0 => None,
        _ => Some(Parts::make(&cache, &go, &payload, &hawser)?),
    };
    let certificates = payload.join("pki");
    fs::create_dir(&certificates)?;
    let pki = Pki::make(&certificates, nodes)?;
    let results = cache.scratch("cluster-results")?;

    progress("starting the control plane");
    let netns = Arc::new(network::make(nodes)?);
    let kubectl = go.path("kubectl")?;
    let config = pki.file("admin.conf");
    let reach = |program: &Path, arguments: &[&str]| inside(&netns, program.as_os_str(), arguments);
    let cached = format!("--cache-dir={}", results.join("kubectl").display());
    let words = reach(
        &kubectl,
        &["--kubeconfig", &config.display().to_string(), &cached],
    );
    let cluster = Cluster {
        kubectl: Kubectl::new(words_of(&words)),
        images: Images::default(),
        device_plugin: DEVICE_PLUGIN,
        hawser,
        addons: Addons::of_our_own(Place {
            cache: Arc::clone(&cache),
            netns: Arc::clone(&netns),
            payload: payload.clone(),
            results: results.clone(),
        }),
        own: true,
    };
    let data = cache.scratch("cluster-etcd")?;
    let _control_plane = ControlPlane::start(&netns, &go, &pki, &cluster.kubectl, &data, &results)?;

    let _machines = match &parts {
        None => Vec::new(),
        Some(parts) => parts.boot(nodes, &netns, &payload, &results, &cluster)?,
    };

    let mut shell = reach(Path::new("/bin/sh"), &["-i"]);
    let mut path = kubectl
        .parent()
        .map(|dir| dir.as_os_str().to_owned())
        .unwrap_or_default();
    if let Some(inherited) = std::env::var_os("PATH") {
        path.push(":");
        path.push(inherited);
    }
    shell.env("KUBECONFIG", &config).env("PATH", path);
    then(&cluster, &mut shell)
}

/// Writes the images of the scenarios to a directory, as archives that container runtimes load.
pub(crate) fn images(binary: &LauncherBinary, to: &Path) -> Result<()> {
    packages::install()?;
    let cache = Cache::open()?;
    let hawser = launcher(binary)?;
    let node = NodeImage::get(&cache)?;
    let payload = cache.scratch("cluster-payload")?;
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    fill(&payload, &cache, &node, &hawser, to)?;
    let busybox = node.root().join("usr/bin/busybox");
    image::client(&busybox, &payload, &to.join("client.tar"))
}

/// Fills the payload with what images are made of, and makes those of hawser and of the guest.
fn fill(payload: &Path, cache: &Cache, node: &NodeImage, hawser: &Path, images: &Path) -> Result<()> {
    payload::stages(payload, cache, node, hawser)?;
    // As `cargo build` makes it: it waits nearly all the time, and a release build takes minutes.
    let plugin = programs::build(DEVICE_PLUGIN, "--bin", DEVICE_PLUGIN)?;
    programs::copy(&plugin, &payload.join("build/out/usr/bin").join(DEVICE_PLUGIN))?;
    image::launcher(payload, &images.join("hawser.tar"))?;
    image::guest(payload, &images.join("guest.tar"))
}

/// What a node is made of.
#[derive(Debug)]
struct Parts {
    image: NodeImage,
    disk: PathBuf,
}

impl Parts {
    /// Fills the payload that all nodes share.
    fn make(cache: &Cache, go: &Programs, payload: &Path, hawser: &Path) -> Result<Self> {
        let image = NodeImage::get(cache)?;
        let disk = disk::get(cache, &image, go)?;
        let images = payload.join("images");
        fs::create_dir(&images)?;
        fill(payload, cache, &image, hawser, &images)?;
        node::fill(payload)?;
        Ok(Self { image, disk })
    }

    /// Switches so many nodes on, all at once, and returns when guests can be run on each.
    fn boot(
        &self,
        nodes: usize,
        netns: &Netns,
        payload: &Path,
        results: &Path,
        cluster: &Cluster,
    ) -> Result<Vec<ClusterNode>> {
        progress(match nodes {
            1 => "booting the node (emulated: everything in it takes its time)".to_owned(),
            _ => format!("booting {nodes} nodes (emulated: everything in them takes its time)"),
        });
        let booted = Instant::now();
        let mut machines = Vec::new();
        for number in 1..=nodes {
            let node = Node {
                image: &self.image,
                payload,
                results: results.join(format!("node-{number}")),
            };
            fs::create_dir(&node.results)?;
            machines.push(ClusterNode::start(&node, number, netns, &self.disk)?);
        }
        let manifests = results.join("kubernetes");
        install(&cluster.kubectl, &cluster.images.launcher, &manifests)?;
        wait_until_ready(&cluster.kubectl, &mut machines)?;
        let took = booted.elapsed();
        progress(format!(
            "the cluster is ready after {:.0} s: time limits times {:.1}",
            took.as_secs_f64(),
            pace::measured(took, BOOT)
        ));
        Ok(machines)
    }
}

fn words_of(command: &Command) -> Vec<OsString> {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsString::from)
        .collect()
}

/// Each node ready, and with the devices that guests ask for.
fn wait_until_ready(kubectl: &Kubectl, machines: &mut [ClusterNode]) -> Result<()> {
    let wanted = machines.len();
    let template = format!(
        "jsonpath={{range .items[*]}}{{.status.conditions[?(@.type==\"Ready\")].status}} \
         {{.status.allocatable.{}/kvm}}{{\"\\n\"}}{{end}}",
        DEVICES.replace('.', "\\.")
    );
    let ready = until("the nodes are ready", READY, || {
        for machine in machines.iter_mut() {
            machine.check()?;
        }
        let nodes = kubectl.run(&["get", "nodes", "--output", &template])?;
        let ready = nodes.lines().filter(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some("True") && words.next().is_some_and(|count| count != "0")
        });
        Ok((ready.count() == wanted).then_some(()))
    });
    if let Err(error) = ready {
        let said: Vec<String> = machines.iter().map(ClusterNode::last).collect();
        bail!("{error:#}\n{}", said.join("\n"));
    }
    Ok(())
}
