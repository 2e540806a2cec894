//! The node's agent: prepares the node, runs the scenarios that the machine asked for, and tells it about each.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::prepare::prepare;
use crate::lab::events::{Asked, Event, PORT, REQUEST, Request};
use crate::lab::scenarios;
use crate::report::Outcome;

pub(crate) const PAYLOAD: &str = "/payload";
pub(crate) const RESULTS: &str = "/results";

/// What every scenario is given.
#[derive(Debug)]
pub(crate) struct Lab {
    port: Arc<Mutex<File>>,
    pub(crate) narrate: bool,
}

impl Lab {
    /// Tells the machine. If it does not listen any more, it has its reasons.
    pub(crate) fn tell(&self, event: &Event) {
        send(&self.port, event);
    }

    pub(crate) fn step(&self, what: impl Into<String>) {
        self.tell(&Event::Step { what: what.into() });
    }

    /// Keeps a line of measurement in the results.
    pub(crate) fn record(&self, name: &str, line: &str) -> Result<()> {
        self.step(format!("{name}: {line}"));
        let path = Path::new(RESULTS).join(format!("{name}.txt"));
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(writeln!(file, "{line}")?)
    }

    /// Shows lines to the user, where there is one who watches. Outlives the lab's borrow, for threads that read.
    pub(crate) fn narrator(&self) -> impl Fn(&str) + Send + 'static {
        let port = self.narrate.then(|| Arc::clone(&self.port));
        move |text| {
            if let Some(port) = &port {
                send(
                    port,
                    &Event::Line {
                        text: text.to_owned(),
                    },
                );
            }
        }
    }
}

fn send(port: &Mutex<File>, event: &Event) {
    if let (Ok(mut line), Ok(mut port)) = (serde_json::to_vec(event), port.lock()) {
        line.push(b'\n');
        let _ = port.write_all(&line);
    }
}

/// Runs to the end of the request. Failures of scenarios are events, not errors.
pub(crate) fn run() -> Result<()> {
    let begun = Instant::now();
    let request: Request = serde_json::from_slice(&fs::read(Path::new(PAYLOAD).join(REQUEST))?)?;
    let port = OpenOptions::new()
        .write(true)
        .open(port_device()?)
        .context("cannot open the event port")?;
    let lab = Lab {
        port: Arc::new(Mutex::new(port)),
        narrate: request.narrate,
    };
    lab.tell(&Event::Up);
    if let Err(error) = prepare(&lab) {
        lab.tell(&Event::Unprepared {
            error: format!("{error:#}"),
        });
        return Err(error);
    }
    for Asked { name, within } in request.scenarios {
        let Some(scenario) = scenarios::find(&name) else {
            continue;
        };
        if within.is_some_and(|within| begun.elapsed() >= within) {
            let reason = format!("the time of --within was over: `cargo e2e lab {name}` runs it");
            lab.tell(&Event::Finished {
                scenario: name,
                outcome: Outcome::Skipped(reason),
                took: Duration::ZERO,
            });
            continue;
        }
        lab.tell(&Event::Started {
            scenario: name.clone(),
        });
        let started = Instant::now();
        let outcome = scenario.outcome(&lab);
        lab.tell(&Event::Finished {
            scenario: name,
            outcome,
            took: started.elapsed(),
        });
    }
    lab.tell(&Event::Done);
    Ok(())
}

/// The virtio port by its name: the device's own name depends on probing order.
fn port_device() -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT) {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    anyhow::bail!("no virtio port called {PORT}")
}
