//! What is said while a guest migrates: each step, and at least a line every half minute.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::launcher::Migration;

/// A terminal that says nothing for longer looks like one that hangs.
const SILENCE: Duration = Duration::from_secs(25);

#[derive(Debug)]
pub(crate) struct Progress {
    said: Instant,
    last: String,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            said: Instant::now(),
            last: String::new(),
        }
    }

    /// On standard error, which is for what goes on.
    pub(crate) fn say(&mut self, text: &str) {
        eprintln!("{text}");
        self.said = Instant::now();
        text.clone_into(&mut self.last);
    }

    /// Where it is another one than before, or nothing was said for long.
    pub(crate) fn still(&mut self, text: &str) {
        if text != self.last || self.said.elapsed() >= SILENCE {
            self.say(text);
        }
    }

    /// Only so that something is said.
    pub(crate) fn heartbeat(&mut self, migration: &Migration) {
        if self.said.elapsed() >= SILENCE {
            self.say(&described(migration, now()));
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// How far it is. What is left is not known, for the guest writes on; how fast it goes is.
fn described(migration: &Migration, now: u64) -> String {
    let seconds = now.saturating_sub(migration.started);
    let mut text = format!("{}, for {seconds} s", migration.step);
    if let Some(sent) = migration.sent.filter(|sent| *sent > 0) {
        let mebibytes = sent >> 20;
        text += &format!(": {mebibytes} MiB sent");
        if let Some(rate) = mebibytes.checked_div(seconds).filter(|rate| *rate > 0) {
            text += &format!(", {rate} MiB/s");
        }
        if let Some(rounds) = migration.rounds {
            text += &format!(", {rounds} rounds over the memory so far");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is() {
        let mut migration = Migration {
            direction: "out".to_owned(),
            address: String::new(),
            step: "sending".to_owned(),
            started: 100,
            sent: None,
            rounds: None,
            why: None,
        };
        assert_eq!(described(&migration, 130), "sending, for 30 s");
        migration.sent = Some(3000 << 20);
        migration.rounds = Some(2);
        assert_eq!(
            described(&migration, 130),
            "sending, for 30 s: 3000 MiB sent, 100 MiB/s, 2 rounds over the memory so far"
        );
        assert!(
            described(&migration, 90).starts_with("sending, for 0 s: "),
            "another clock"
        );
    }
}
