//! The machine's side of the lab: what is run, and what is prepared before a node is booted for it.

use std::fs;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use super::build::{LauncherBinary, launcher};
use super::cache::Cache;
use super::node_image::NodeImage;
use super::nodes::{self, Worker};
use super::process::progress;
use super::qemu::Node;
use super::scenarios::datapath::{ORDER, Order};
use super::tries::Tries;
use super::{GROUP, debian_guest, guest_image, payload, scenarios, vmm};
use crate::packages;
use crate::report::{Outcome, Report, Skip, is_selected};

/// What a run is asked for besides its scenarios.
#[derive(Clone, Copy, Debug, Default)]
struct Manner {
    /// Show the guests' consoles.
    narrate: bool,
    /// No scenario begins later.
    until: Option<Instant>,
    /// What fails is tried in another node.
    again: bool,
    /// As many as the machine has room for.
    nodes: bool,
}

/// Makes everything that is cached.
pub(crate) fn setup() -> Result<()> {
    packages::install()?;
    let cache = Cache::open()?;
    debian_guest::get(&cache)?;
    NodeImage::get(&cache)?;
    match vmm::find(&cache) {
        Ok(path) => progress(format!(
            "cloud-hypervisor: {} ({})",
            path.display(),
            vmm::version(&path)?
        )),
        Err(error) => progress(format!("{error:#}")),
    }
    Ok(())
}

/// The names of all scenarios, of those too that have to be named.
pub(crate) fn every() -> Vec<String> {
    let all = scenarios::all().chain(scenarios::NAMED);
    all.map(|scenario| scenario.name.to_owned()).collect()
}

/// Runs the scenarios that any of the filters selects (no filter: all) and adds each to the report. One that
/// has to be named is run for its whole name. What would begin after `until` is skipped.
pub(crate) fn run(report: &mut Report, filters: &[String], binary: &LauncherBinary, until: Option<Instant>) {
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| is_selected(GROUP, name, Some(f)));
    let mut names: Vec<&str> = scenarios::all()
        .map(|s| s.name)
        .filter(|name| wanted(name))
        .collect();
    names.extend(
        scenarios::NAMED
            .iter()
            .map(|s| s.name)
            .filter(|name| filters.iter().any(|filter| filter == name)),
    );
    if !names.is_empty() {
        let manner = Manner {
            until,
            again: true,
            nodes: true,
            ..Manner::default()
        };
        run_prepared(report, &names, binary, manner, |_| Ok(()));
    }
}

/// Why real guests cannot be run here, where that is so.
pub(crate) fn why_no_real_guests() -> Result<Option<String>> {
    packages::install()?;
    match vmm::find(&Cache::open()?) {
        Ok(_) => Ok(None),
        Err(error) if error.is::<Skip>() => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Runs the scenario that shows rather than checks.
pub(crate) fn demo(report: &mut Report, binary: &LauncherBinary) {
    let manner = Manner {
        narrate: true,
        ..Manner::default()
    };
    run_prepared(report, &[scenarios::DEMO.name], binary, manner, |_| Ok(()));
}

/// Runs the benchmark of what passes to and from guests.
pub(crate) fn bench(report: &mut Report, binary: &LauncherBinary, order: &Order) {
    run_prepared(
        report,
        &[scenarios::BENCH.name],
        binary,
        Manner::default(),
        |node| {
            fs::write(node.payload.join(ORDER), serde_json::to_vec(order)?)?;
            guest_image::with_load(&node.payload.join("guest"), node.image)
        },
    );
}

/// Runs the benchmark of migrations.
pub(crate) fn bench_migration(report: &mut Report, binary: &LauncherBinary, rounds: usize) {
    run_prepared(
        report,
        &[scenarios::BLACKOUT.name],
        binary,
        Manner::default(),
        |node| {
            Ok(fs::write(
                node.payload.join(scenarios::blackout::ROUNDS),
                rounds.to_string(),
            )?)
        },
    );
}

/// A shell in the node.
pub(crate) fn shell(binary: &LauncherBinary) -> Result<()> {
    prepare(&[], binary, |node| {
        let mut child = node.start_shell()?;
        child.wait()?;
        Ok(())
    })
}

/// `more` adds to the payload.
fn run_prepared(
    report: &mut Report,
    names: &[&'static str],
    binary: &LauncherBinary,
    manner: Manner,
    more: impl FnOnce(&Node<'_>) -> Result<()>,
) {
    let tries = Mutex::new(Tries::new(report, names, manner.again, manner.until));
    let result = prepare(names, binary, |node| {
        more(node)?;
        let count = if manner.nodes { nodes::room(names.len()) } else { 1 };
        if count == 1 {
            return Worker::new(node, "", manner.narrate).run(&tries);
        }
        let nodes: Vec<(Node<'_>, String)> = (1..=count)
            .map(|number| Ok((node.beside(&number.to_string())?, format!("node {number}: "))))
            .collect::<Result<_>>()?;
        thread::scope(|scope| {
            let workers: Vec<_> = nodes
                .iter()
                .map(|(node, label)| scope.spawn(|| Worker::new(node, label, manner.narrate).run(&tries)))
                .collect();
            let ended: Vec<Result<()>> = workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|_| bail!("panicked")))
                .collect();
            // One that ended early has left its share to the other: its error must not go unseen where nothing is left.
            for error in ended.iter().filter_map(|ended| ended.as_ref().err()) {
                progress(format!("a node's work ended early: {error:#}"));
            }
            ended.into_iter().collect()
        })
    });
    let outcome = match result {
        Ok(()) => Outcome::Failed("no node ran it".to_owned()),
        Err(error) => Err(error).into(),
    };
    nodes::locked(&tries).give_up(&outcome);
}

/// Everything before the node is switched on; then `then`.
fn prepare(
    names: &[&str],
    binary: &LauncherBinary,
    then: impl FnOnce(&Node<'_>) -> Result<()>,
) -> Result<()> {
    packages::install()?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Skip::because("the lab is made with debootstrap and chroot: run as root").into());
    }
    let cache = Cache::open()?;
    // First, because where it is missing nothing else is worth the time.
    let vmm = vmm::find(&cache)?;
    progress(format!(
        "cloud-hypervisor: {} ({})",
        vmm.display(),
        vmm::version(&vmm)?
    ));
    let hawser = launcher(binary)?;
    let image = NodeImage::get(&cache)?;
    let payload = cache.scratch("payload")?;
    let debian = names.iter().any(|name| name.starts_with(scenarios::DEBIAN));
    payload::fill(&payload, &cache, &image, &hawser, debian)?;
    let results = cache.scratch("results")?;
    then(&Node {
        image: &image,
        payload: &payload,
        results,
    })
}
