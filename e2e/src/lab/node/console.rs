//! The output of a running program, to wait for lines in.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::hang;
use super::pace;
use crate::report::Skip;

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    readers: usize,
}

impl State {
    fn last(&self, count: usize) -> String {
        self.lines
            .iter()
            .skip(self.lines.len().saturating_sub(count))
            .cloned()
            .collect::<Vec<_>>()
            .join(" | ")
    }
}

/// All lines so far, of however many streams feed it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Console {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Console {
    /// Reads `stream` to its end in a thread, keeping it in `log` as well and showing each line to `show`.
    pub(crate) fn follow(
        &self,
        stream: impl Read + Send + 'static,
        log: &Path,
        show: impl Fn(&str) + Send + 'static,
    ) -> Result<()> {
        let mut log = File::options().create(true).append(true).open(log)?;
        self.change(|state| state.readers += 1);
        let console = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                // A log that cannot be written is no reason to lose the line.
                let _ = writeln!(log, "{line}");
                show(&line);
                console.change(|state| state.lines.push(line));
            }
            console.change(|state| state.readers -= 1);
        });
        Ok(())
    }

    /// The first line that contains `wanted`, as soon as there is one.
    pub(crate) fn wait_for(&self, wanted: &str, deadline: Duration) -> Result<String> {
        self.wait_for_nth(&[wanted], 1, deadline)
    }

    /// The line that is the `nth`, counted from 1, to contain all of `wanted`.
    pub(crate) fn wait_for_nth(&self, wanted: &[&str], nth: usize, deadline: Duration) -> Result<String> {
        let end = pace::deadline(deadline);
        let (state, changed) = &*self.shared;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let is_wanted = |line: &&String| wanted.iter().all(|part| line.contains(part));
            if let Some(line) = state.lines.iter().filter(is_wanted).nth(nth - 1) {
                return Ok(line.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.readers == 0 || left.is_zero() {
                let what = if left.is_zero() {
                    "no line in time"
                } else {
                    "the output ended without a line"
                };
                let last = state.last(8);
                drop(state);
                if left.is_zero()
                    && let Some(seen) = hang::look()
                {
                    return Err(Skip::because(format!("{seen}; {what} with {wanted:?}")).into());
                }
                bail!("{what} with {wanted:?} ({nth}); the last ones: {last}");
            }
            state = changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until every stream has ended.
    pub(crate) fn wait_for_end(&self, deadline: Duration) -> Result<()> {
        let (state, changed) = &*self.shared;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, waited) = changed
            .wait_timeout_while(state, pace::allowed(deadline), |state| state.readers > 0)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            bail!(
                "no end within {} s; the last lines: {}",
                pace::allowed(deadline).as_secs(),
                state.last(8)
            );
        }
        Ok(())
    }

    /// The last `count` lines, for an error message.
    pub(crate) fn last(&self, count: usize) -> String {
        self.shared
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last(count)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.1.notify_all();
    }
}
