//! The machine's side of the lab: prepares, boots the node, and watches it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::build::{LauncherBinary, launcher};
use super::cache::Cache;
use super::events::{Event, REQUEST, Request};
use super::node_image::NodeImage;
use super::process::progress;
use super::qemu::Node;
use super::scenarios::datapath::{ORDER, Order};
use super::{debian, debian_guest, guest_image, payload, scenarios, vmm};
use crate::report::{Outcome, Report, Skip, is_selected};

/// From power-on to the agent's first word. 10 s on two idle cores.
const BOOT_DEADLINE: Duration = Duration::from_secs(300);
/// The longest that the node may be silent afterwards: every scenario ends itself before.
const SILENCE_DEADLINE: Duration = Duration::from_secs(300);

/// How many nodes one run may take. QEMU's emulation of guests in guests ends by itself now and then, without a word;
/// a node whose own kernel gave up is another matter, and no node follows that.
const NODES: usize = 3;

pub(crate) const GROUP: &str = "lab";

#[derive(Debug)]
struct WentDown;

impl std::fmt::Display for WentDown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the node went down")
    }
}

impl std::error::Error for WentDown {}

/// Makes everything that is cached.
pub(crate) fn setup() -> Result<()> {
    debian::install_machine_packages()?;
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

/// Runs the scenarios that any of the filters selects (no filter: all) in one node and adds each to the report. One that
/// has to be named is run for its whole name.
pub(crate) fn run(report: &mut Report, filters: &[String], binary: &LauncherBinary) {
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| is_selected(GROUP, name, Some(f)));
    let mut names: Vec<&str> = scenarios::ALL
        .iter()
        .chain(scenarios::DEBIAN)
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
        run_named(report, &names, binary, false);
    }
}

/// Why real guests cannot be run here, where that is so.
pub(crate) fn why_no_real_guests() -> Result<Option<String>> {
    debian::install_machine_packages()?;
    match vmm::find(&Cache::open()?) {
        Ok(_) => Ok(None),
        Err(error) if error.is::<Skip>() => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Runs the scenario that shows rather than checks.
pub(crate) fn demo(report: &mut Report, binary: &LauncherBinary) {
    run_named(report, &[scenarios::DEMO.name], binary, true);
}

/// Runs the benchmark of what passes to and from guests.
pub(crate) fn bench(report: &mut Report, binary: &LauncherBinary, order: &Order) {
    run_prepared(report, &[scenarios::BENCH.name], binary, false, |node| {
        fs::write(node.payload.join(ORDER), serde_json::to_vec(order)?)?;
        guest_image::with_load(&node.payload.join("guest"), node.image)
    });
}

/// Runs the benchmark of migrations.
pub(crate) fn bench_migration(report: &mut Report, binary: &LauncherBinary, rounds: usize) {
    run_prepared(report, &[scenarios::BLACKOUT.name], binary, false, |node| {
        Ok(fs::write(
            node.payload.join(scenarios::blackout::ROUNDS),
            rounds.to_string(),
        )?)
    });
}

/// A shell in the node.
pub(crate) fn shell(binary: &LauncherBinary) -> Result<()> {
    prepare(&[], false, binary, |node| {
        let mut child = node.start_shell()?;
        child.wait()?;
        Ok(())
    })
}

fn run_named(report: &mut Report, names: &[&str], binary: &LauncherBinary, narrate: bool) {
    run_prepared(report, names, binary, narrate, |_| Ok(()));
}

/// `more` adds to the payload.
fn run_prepared(
    report: &mut Report,
    names: &[&str],
    binary: &LauncherBinary,
    narrate: bool,
    more: impl FnOnce(&Node<'_>) -> Result<()>,
) {
    let mut owed = names.to_vec();
    let result = prepare(names, narrate, binary, |node| {
        more(node)?;
        for left in (0..NODES).rev() {
            progress("booting the node (emulated: everything in it takes its time)");
            let mut child = node.start_agent()?;
            let watched = watch(&mut child, report, &mut owed);
            // Already gone where all went well.
            let _ = child.kill();
            let how = child.wait()?;
            let Err(error) = watched else { return Ok(()) };
            let console = last_lines(&node.console(), 25);
            if left == 0 || !error.is::<WentDown>() || console.contains("Kernel panic") {
                return Err(anyhow!("{error:#}; the node's console ends:\n{console}"));
            }
            progress(format!(
                "the emulator ended by itself ({how}): the {} scenarios that are left run in another node",
                owed.len()
            ));
            request(node.payload, &owed, narrate)?;
        }
        Ok(())
    });
    let outcome = match result {
        Ok(()) if owed.is_empty() => return,
        Ok(()) => Outcome::Failed("the node did not run it".to_owned()),
        Err(error) => Err(error).into(),
    };
    for name in owed {
        report.record(GROUP, name, outcome.clone(), None);
    }
}

/// Everything before the node is switched on; then `then`.
fn prepare(
    names: &[&str],
    narrate: bool,
    binary: &LauncherBinary,
    then: impl FnOnce(&Node<'_>) -> Result<()>,
) -> Result<()> {
    debian::install_machine_packages()?;
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
    let debian = scenarios::DEBIAN
        .iter()
        .chain(scenarios::NAMED)
        .any(|scenario| names.contains(&scenario.name));
    payload::fill(&payload, &cache, &image, &hawser, debian)?;
    request(&payload, names, narrate)?;
    let results = cache.scratch("results")?;
    then(&Node {
        image: &image,
        payload: &payload,
        results: &results,
    })
}

/// What the node is to run.
fn request(payload: &Path, names: &[&str], narrate: bool) -> Result<()> {
    let request = Request {
        scenarios: names.iter().map(|&name| name.to_owned()).collect(),
        narrate,
    };
    Ok(fs::write(payload.join(REQUEST), serde_json::to_vec(&request)?)?)
}

/// Follows the agent's events until it is done, crossing off what was owed.
fn watch(child: &mut Child, report: &mut Report, owed: &mut Vec<&str>) -> Result<()> {
    let events = event_stream(child)?;
    let mut deadline = BOOT_DEADLINE;
    loop {
        let event = match events.recv_timeout(deadline) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => bail!("no word from the node in {} s", deadline.as_secs()),
            Err(RecvTimeoutError::Disconnected) => return Err(WentDown.into()),
        };
        deadline = SILENCE_DEADLINE;
        match event {
            Event::Up => progress("the node is up"),
            Event::Step { what } => progress(what),
            Event::Unprepared { error } => bail!("the node could not be prepared: {error}"),
            Event::Started { scenario } => progress(format!("{GROUP} {scenario}")),
            Event::Line { text } => println!("    {text}"),
            Event::Finished {
                scenario,
                outcome,
                took,
            } => {
                owed.retain(|name| *name != scenario);
                report.record(GROUP, &scenario, outcome, Some(took));
            }
            Event::Done => return Ok(()),
        }
    }
}

fn event_stream(child: &mut Child) -> Result<Receiver<Event>> {
    let stdout = child.stdout.take().context("QEMU has no stdout")?;
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(event) => {
                    if sender.send(event).is_err() {
                        return;
                    }
                }
                // QEMU's own words, not the agent's.
                Err(_) => eprintln!("    {line}"),
            }
        }
    });
    Ok(receiver)
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(count))
        .copied()
        .collect::<Vec<_>>()
        .join("\n")
}
