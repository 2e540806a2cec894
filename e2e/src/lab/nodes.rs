//! Nodes at work: each is booted, asks for one scenario after the other, and is replaced where it is lost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::GROUP;
use super::events::{Event, Turn};
use super::memory;
use super::owed::Owed;
use super::process::progress;
use super::qemu::Node;
use crate::report::Outcome;

/// From power-on to the agent's first word. 10 s on two idle cores, 80 s seen on busy ones.
const BOOT_DEADLINE: Duration = Duration::from_secs(300);
/// The longest that the node may be silent afterwards, times what it has measured: every scenario ends itself before.
const SILENCE_DEADLINE: Duration = Duration::from_secs(600);

/// How many nodes one worker may take. The emulation of guests in guests is not free of faults: now and then the node's
/// processor, its timer or its kernel ends, whatever runs in it. The scenario that ran then has failed; the others go on in
/// another node.
const NODES: usize = 5;

/// Nodes at once. One emulated processor is one thread, so two keep two cores busy.
const MOST: usize = 2;
/// Memory that a node may come to take, with what the machine keeps of its disk.
const MEMORY: u64 = 6 << 30;
/// Fewer scenarios are not worth another boot.
const WORTH: usize = 4;

/// How many nodes the machine has room for.
pub(super) fn room(scenarios: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let fit = usize::try_from(memory::available().unwrap_or(0) / MEMORY).unwrap_or(MOST);
    (scenarios / WORTH).min(MOST).min(cores).min(fit).max(1)
}

pub(super) fn locked<'a, 'r>(owed: &'a Mutex<Owed<'r>>) -> MutexGuard<'a, Owed<'r>> {
    owed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a node's run ended where it did not fail as a whole.
#[derive(Debug)]
enum Ended {
    Done,
    /// The node is no more, or says nothing.
    Lost {
        how: String,
        /// The scenario that ran.
        during: Option<&'static str>,
    },
}

/// One node after the other, until there is nothing left to be run.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    node: &'a Node<'a>,
    /// Before each of its lines, where there are several.
    label: &'a str,
    narrate: bool,
}

impl<'a> Worker<'a> {
    pub(super) fn new(node: &'a Node<'a>, label: &'a str, narrate: bool) -> Self {
        Self { node, label, narrate }
    }

    pub(super) fn run(&self, owed: &Mutex<Owed<'_>>) -> Result<()> {
        for left in (0..NODES).rev() {
            if !locked(owed).any() {
                return Ok(());
            }
            self.say("booting the node (emulated: everything in it takes its time)");
            self.node.clear_turns()?;
            let mut child = self.node.start_agent()?;
            let watched = self.watch(&mut child, owed);
            // Already gone where all went well.
            let _ = child.kill();
            let status = child.wait()?;
            let console = || {
                let lines = last_lines(&self.node.console(), 25);
                format!("the node's console ends:\n{lines}")
            };
            if let Ended::Lost { how, during } = watched.with_context(console)? {
                let error = format!("{how} ({status}); {}", console());
                self.say(&error);
                match during {
                    Some(name) => locked(owed).finished(name, Outcome::Failed(error), None),
                    None if left == 0 => bail!(error),
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn say(&self, what: impl std::fmt::Display) {
        progress(format!("{}{what}", self.label));
    }

    /// Follows the agent's events until it is done, and gives it its turns.
    fn watch(&self, child: &mut Child, owed: &Mutex<Owed<'_>>) -> Result<Ended> {
        let events = event_stream(child)?;
        let mut deadline = BOOT_DEADLINE;
        let mut silence = SILENCE_DEADLINE;
        let mut during = None;
        let mut turns = 0;
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
            deadline = silence;
            match event {
                Event::Up => self.say("the node is up"),
                Event::Measured { factor } => silence = SILENCE_DEADLINE.mul_f64(factor),
                Event::Step { what } => self.say(what),
                Event::Unprepared { error } => bail!("the node could not be prepared: {error}"),
                Event::Ready => {
                    during = locked(owed).next();
                    if let Some(scenario) = during {
                        self.say(format!("{GROUP} {scenario}"));
                    }
                    let turn = Turn {
                        scenario: during.map(str::to_owned),
                        narrate: self.narrate,
                    };
                    self.node.give_turn(turns, &turn)?;
                    turns += 1;
                }
                Event::Line { text } => println!("    {text}"),
                Event::Finished { outcome, took } => {
                    if let Some(scenario) = during.take() {
                        locked(owed).finished(scenario, outcome, Some(took));
                    }
                }
                Event::Done => return Ok(Ended::Done),
            }
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
