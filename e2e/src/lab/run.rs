//! The machine's side of the lab: prepares, boots the node, and watches it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::build::{LauncherBinary, launcher};
use super::cache::Cache;
use super::events::{Asked, Event, REQUEST, Request};
use super::node_image::NodeImage;
use super::process::progress;
use super::qemu::Node;
use super::scenarios::datapath::{ORDER, Order};
use super::tries::Tries;
use super::{GROUP, debian, debian_guest, guest_image, payload, scenarios, vmm};
use crate::report::{Outcome, Report, Skip, is_selected};

/// From power-on to the agent's first word. 10 s on two idle cores, 80 s seen on busy ones.
const BOOT_DEADLINE: Duration = Duration::from_secs(300);
/// The longest that the node may be silent afterwards: every scenario ends itself before.
const SILENCE_DEADLINE: Duration = Duration::from_secs(600);

/// How many nodes one run may take. The emulation of guests in guests is not free of faults: now and then the node's
/// processor, its timer or its kernel ends, whatever runs in it. That is said aloud each time.
const NODES: usize = 6;
/// What a run that is to end within a time gives second tries besides.
const SECOND_TRIES: Duration = Duration::from_secs(600);

/// How a node's run ended where it did not fail as a whole.
#[derive(Debug)]
enum Ended {
    Done,
    /// The node is no more, or says nothing.
    Lost {
        how: String,
        /// The scenario that ran.
        during: Option<String>,
    },
}

/// What a run is asked for besides its scenarios.
#[derive(Clone, Copy, Debug, Default)]
struct Manner {
    /// Show the guests' consoles.
    narrate: bool,
    /// No scenario begins later.
    until: Option<Instant>,
    /// What fails is tried in another node.
    again: bool,
}

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
            ..Manner::default()
        };
        run_prepared(report, &names, binary, manner, |_| Ok(()));
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
    names: &[&str],
    binary: &LauncherBinary,
    manner: Manner,
    more: impl FnOnce(&Node<'_>) -> Result<()>,
) {
    let mut tries = Tries::new(names, manner.again);
    let result = prepare(names, binary, |node| {
        more(node)?;
        for left in (0..NODES).rev() {
            request(node.payload, &tries, manner)?;
            progress("booting the node (emulated: everything in it takes its time)");
            let mut child = node.start_agent()?;
            let watched = watch(&mut child, report, &mut tries);
            // Already gone where all went well.
            let _ = child.kill();
            let status = child.wait()?;
            let console = || format!("the node's console ends:\n{}", last_lines(&node.console(), 25));
            if let Ended::Lost { how, during } = watched.with_context(console)? {
                let place = during.as_deref().unwrap_or("no scenario");
                let error = format!("{how} ({status}) in {place}; {}", console());
                progress(&error);
                match during {
                    Some(name) => tries.finished(report, &name, Outcome::Failed(error), None),
                    None if left == 0 => bail!(error),
                    None => {}
                }
            }
            if tries.owed().is_empty() {
                break;
            }
            progress(format!(
                "another node for what is left: {}",
                tries.owed().join(", ")
            ));
        }
        Ok(())
    });
    let outcome = match result {
        Ok(()) => Outcome::Failed("the node did not run it".to_owned()),
        Err(error) => Err(error).into(),
    };
    for name in tries.owed() {
        report.record(GROUP, name, outcome.clone(), None);
    }
}

/// Everything before the node is switched on; then `then`.
fn prepare(
    names: &[&str],
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
    request(&payload, &Tries::new(names, false), Manner::default())?;
    let results = cache.scratch("results")?;
    then(&Node {
        image: &image,
        payload: &payload,
        results: &results,
    })
}

/// What the node is to run.
fn request(payload: &Path, tries: &Tries<'_>, manner: Manner) -> Result<()> {
    let asked = |&name: &&str| {
        let more = if tries.has_failed(name) {
            SECOND_TRIES
        } else {
            Duration::ZERO
        };
        let within = |until: Instant| (until + more).saturating_duration_since(Instant::now());
        Asked {
            name: name.to_owned(),
            within: manner.until.map(within),
        }
    };
    let request = Request {
        scenarios: tries.owed().iter().map(asked).collect(),
        narrate: manner.narrate,
    };
    Ok(fs::write(payload.join(REQUEST), serde_json::to_vec(&request)?)?)
}

/// Follows the agent's events until it is done, crossing off what was owed.
fn watch(child: &mut Child, report: &mut Report, tries: &mut Tries<'_>) -> Result<Ended> {
    let events = event_stream(child)?;
    let mut deadline = BOOT_DEADLINE;
    let mut during = None;
    loop {
        let event = match events.recv_timeout(deadline) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => {
                let how = format!("no word from the node in {} s", deadline.as_secs());
                return Ok(Ended::Lost { how, during });
            }
            Err(RecvTimeoutError::Disconnected) => {
                let how = "the node went down".to_owned();
                return Ok(Ended::Lost { how, during });
            }
        };
        deadline = SILENCE_DEADLINE;
        match event {
            Event::Up => progress("the node is up"),
            Event::Step { what } => progress(what),
            Event::Unprepared { error } => bail!("the node could not be prepared: {error}"),
            Event::Started { scenario } => {
                progress(format!("{GROUP} {scenario}"));
                during = Some(scenario);
            }
            Event::Line { text } => println!("    {text}"),
            Event::Finished {
                scenario,
                outcome,
                took,
            } => {
                during = None;
                tries.finished(report, &scenario, outcome, Some(took));
            }
            Event::Done => return Ok(Ended::Done),
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
