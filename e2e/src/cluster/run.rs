//! The machine's side of the cluster: what is run, and what is made before.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
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
use super::{DEVICE_PLUGIN, DEVICES, GROUP, disk, image, network, node, pace, scenarios};
use crate::lab::cache::Cache;
use crate::lab::node_image::NodeImage;
use crate::lab::process::progress;
use crate::lab::qemu::Node;
use crate::lab::{LauncherBinary, launcher, payload, vmm};
use crate::packages;
use crate::programs;
use crate::report::{Outcome, Report, Skip, is_selected};

/// From power-on to a node that is ready: 26 s on an idle machine.
const READY: Duration = Duration::from_secs(600);

/// Which scenarios are chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    Usual,
    /// The longer set too.
    All,
}

/// Runs the scenarios of the set that any of the filters selects (no filter: all) and adds each to the report.
pub(crate) fn run(report: &mut Report, set: Set, filters: &[String], binary: &LauncherBinary) {
    let longer = scenarios::LONGER
        .iter()
        .filter(|_| set == Set::All || !filters.is_empty());
    let chosen: Vec<_> = scenarios::USUAL
        .iter()
        .chain(longer)
        .filter(|s| filters.is_empty() || filters.iter().any(|f| is_selected(GROUP, s.name, Some(f))))
        .collect();
    if chosen.is_empty() {
        return;
    }
    let ran = with_cluster(binary, 1, |cluster, _| {
        for scenario in &chosen {
            progress(format!("{GROUP} {}", scenario.name));
            let started = Instant::now();
            let outcome = scenario.outcome(cluster);
            report.record(GROUP, scenario.name, outcome, Some(started.elapsed()));
        }
        Ok(())
    });
    if let Err(error) = ran {
        let outcome = Outcome::from(Err(error));
        for scenario in &chosen {
            report.record(GROUP, scenario.name, outcome.clone(), None);
        }
    }
}

/// A shell with `kubectl` in the cluster's namespace.
pub(crate) fn shell(binary: &LauncherBinary) -> Result<()> {
    with_cluster(binary, 1, |_, shell| {
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
    let vmm = vmm::find(&cache)?;
    progress(format!(
        "cloud-hypervisor: {} ({})",
        vmm.display(),
        vmm::version(&vmm)?
    ));
    let go = Programs::get(&cache)?;
    let hawser = launcher(binary)?;
    let image = NodeImage::get(&cache)?;
    let disk = disk::get(&cache, &image, &go)?;

    let payload = cache.scratch("cluster-payload")?;
    payload::fill(&payload, &cache, &image, &hawser, false)?;
    node::fill(&payload)?;
    // As `cargo build` makes it: it waits nearly all the time, and a release build takes minutes.
    let plugin = programs::build(DEVICE_PLUGIN, "--bin", DEVICE_PLUGIN)?;
    programs::copy(&plugin, &payload.join("build/out/usr/bin").join(DEVICE_PLUGIN))?;
    let images = payload.join("images");
    fs::create_dir(&images)?;
    image::launcher(&payload, &images.join("hawser.tar"))?;
    image::guest(&payload, &images.join("guest.tar"))?;
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
    };
    let data = cache.scratch("cluster-etcd")?;
    let _control_plane = ControlPlane::start(&netns, &go, &pki, &cluster.kubectl, &data, &results)?;

    progress("booting the node (emulated: everything in it takes its time)");
    let booted = Instant::now();
    let mut machines = Vec::new();
    for number in 1..=nodes {
        let node = Node {
            image: &image,
            payload: &payload,
            results: results.join(format!("node-{number}")),
        };
        fs::create_dir(&node.results)?;
        machines.push(ClusterNode::start(&node, number, &netns, &disk)?);
    }
    install(
        &cluster.kubectl,
        &cluster.images.launcher,
        &results.join("kubernetes"),
    )?;
    wait_until_ready(&cluster.kubectl, &mut machines)?;
    let took = booted.elapsed();
    progress(format!(
        "the cluster is ready after {:.0} s: time limits times {:.1}",
        took.as_secs_f64(),
        pace::measured(took)
    ));

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
