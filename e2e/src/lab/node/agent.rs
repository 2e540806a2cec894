//! The node's agent: prepares the node, runs one scenario after the other as the machine asks for them, and tells it about
//! each.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::pace;
use super::prepare::prepare;
use crate::lab::events::{Event, PORT, Turn, turn_file};
use crate::lab::scenarios;
use crate::report::Outcome;

pub(crate) const PAYLOAD: &str = "/payload";
pub(crate) const RESULTS: &str = "/results";

const ASK_AGAIN: Duration = Duration::from_millis(100);

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

/// Runs one scenario after the other, as it is told. Their failures are events, not errors.
pub(crate) fn run() -> Result<()> {
    let port = OpenOptions::new()
        .write(true)
        .open(port_device()?)
        .context("cannot open the event port")?;
    let mut lab = Lab {
        port: Arc::new(Mutex::new(port)),
        narrate: false,
    };
    lab.tell(&Event::Up);
    if let Err(error) = measure(&lab).and_then(|()| prepare(&lab)) {
        lab.tell(&Event::Unprepared {
            error: format!("{error:#}"),
        });
        return Err(error);
    }
    for number in 0.. {
        lab.tell(&Event::Ready);
        let turn = turn(number)?;
        let Some(name) = turn.scenario else { break };
        lab.narrate = turn.narrate;
        let started = Instant::now();
        let outcome = match scenarios::find(&name) {
            Some(scenario) => scenario.outcome(&lab),
            None => Outcome::Failed("the node does not know it".to_owned()),
        };
        lab.tell(&Event::Finished {
            outcome,
            took: started.elapsed(),
        });
    }
    lab.tell(&Event::Done);
    Ok(())
}

fn measure(lab: &Lab) -> Result<()> {
    let (pace, sample) = pace::measure().context("cannot measure what this node can do")?;
    lab.tell(&Event::Measured {
        factor: pace.factor(),
    });
    lab.record(
        "pace",
        &format!(
            "the sample took {:.2} s: time limits times {:.1}, migrations with {} ms of downtime",
            sample.as_secs_f64(),
            pace.factor(),
            pace::downtime().as_millis()
        ),
    )
}

/// The machine's answer. It comes by renaming, so it is whole when it is there.
fn turn(number: usize) -> Result<Turn> {
    let path = Path::new(RESULTS).join(turn_file(number));
    loop {
        match fs::read(&path) {
            Ok(turn) => return Ok(serde_json::from_slice(&turn)?),
            Err(error) if error.kind() == ErrorKind::NotFound => thread::sleep(ASK_AGAIN),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
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
