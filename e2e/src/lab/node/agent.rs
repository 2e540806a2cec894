//! The node's agent: prepares the node, runs one scenario after the other as the machine asks for them, and tells it about
//! each.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::context::{Lab, RESULTS};
use super::pace;
use super::prepare::prepare;
use crate::lab::events::{Event, PORT, Turn, turn_file};
use crate::lab::scenarios;
use crate::report::Outcome;

const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Runs one scenario after the other, as it is told. Their failures are events, not errors.
pub(crate) fn run() -> Result<()> {
    let port = OpenOptions::new()
        .write(true)
        .open(port_device()?)
        .context("cannot open the event port")?;
    let mut lab = Lab::new(port);
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
