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
use super::owed::Owed;
use super::process::progress;
use super::qemu::Node;
use super::scenarios::datapath::{ORDER, Order};
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

/// Which scenarios are chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// What `cargo e2e test` runs; of the longer set only what is given by its whole name.
    Usual,
    /// The longer set too.
    All,
}

/// Runs the scenarios of the set that any of the filters selects (no filter: all) and adds each to the report. What would
/// begin after `until` is skipped.
pub(crate) fn run(
    report: &mut Report,
    set: Set,
    filters: &[String],
    binary: &LauncherBinary,
    until: Option<Instant>,
) {
    let mut names = Vec::new();
    for name in chosen(set, filters) {
        match scenarios::unsteady(name) {
            Some(reason) if !filters.iter().any(|filter| filter == name) => {
                let reason = format!("not steady: {reason}; `cargo e2e lab {name}` runs it");
                report.record(GROUP, name, Outcome::Skipped(reason), None);
            }
            _ => names.push(name),
        }
    }
    if !names.is_empty() {
        let manner = Manner {
            until,
            nodes: true,
            ..Manner::default()
        };
        run_prepared(report, &names, binary, manner, |_| Ok(()));
    }
}

fn chosen(set: Set, filters: &[String]) -> Vec<&'static str> {
    let matches =
        |name: &str| filters.is_empty() || filters.iter().any(|f| is_selected(GROUP, name, Some(f)));
    let longer = scenarios::LONGER.iter().map(|s| s.name).filter(|name| match set {
        Set::All => matches(name),
        Set::Usual => filters.iter().any(|filter| filter == name),
    });
    let usual = scenarios::usual().map(|s| s.name);
    usual.filter(|name| matches(name)).chain(longer).collect()
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
    let owed = Mutex::new(Owed::new(report, names, manner.until));
    let result = prepare(names, binary, |node| {
        more(node)?;
        let count = if manner.nodes { nodes::room(names.len()) } else { 1 };
        if count == 1 {
            return Worker::new(node, "", manner.narrate).run(&owed);
        }
        let nodes: Vec<(Node<'_>, String)> = (1..=count)
            .map(|number| Ok((node.beside(&number.to_string())?, format!("node {number}: "))))
            .collect::<Result<_>>()?;
        thread::scope(|scope| {
            let workers: Vec<_> = nodes
                .iter()
                .map(|(node, label)| scope.spawn(|| Worker::new(node, label, manner.narrate).run(&owed)))
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
    nodes::locked(&owed).give_up(&outcome);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_set_is_run_by_lab_and_by_its_whole_name() {
        let longer = scenarios::LONGER.first().unwrap().name;
        let named = [longer.to_owned()];
        assert_eq!(chosen(Set::Usual, &named), [longer]);
        assert!(!chosen(Set::Usual, &[]).contains(&longer));
        let part: String = longer.chars().skip(1).collect();
        assert!(!chosen(Set::Usual, std::slice::from_ref(&part)).contains(&longer));
        assert!(chosen(Set::All, &[part]).contains(&longer));
        assert!(chosen(Set::All, &[]).contains(&longer));
    }
}
