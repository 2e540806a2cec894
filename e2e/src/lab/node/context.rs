//! What a scenario in the node is given: where it finds things, and how it tells the machine what it does.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Result;

use crate::lab::events::Event;

pub(crate) const PAYLOAD: &str = "/payload";
pub(crate) const RESULTS: &str = "/results";

/// What every scenario is given.
#[derive(Debug)]
pub(crate) struct Lab {
    port: Arc<Mutex<File>>,
    pub(crate) narrate: bool,
}

impl Lab {
    pub(super) fn new(port: File) -> Self {
        Self {
            port: Arc::new(Mutex::new(port)),
            narrate: false,
        }
    }

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
