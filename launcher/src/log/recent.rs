//! The last events of this process, and those to come, for `hawser events`. The supervisor has those from before the split too:
//! it begins as a copy of the process that logged them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::json;

/// Bytes of lines that are kept.
const MAX_KEPT: usize = 32 << 10;
/// Lines that wait for whoever follows; one who does not read them is let go.
const MAX_WAITING: usize = 256;

static RECENT: Mutex<Recent> = Mutex::new(Recent {
    lines: VecDeque::new(),
    bytes: 0,
    followers: Vec::new(),
    counts: BTreeMap::new(),
});

#[derive(Debug)]
struct Recent {
    lines: VecDeque<String>,
    bytes: usize,
    followers: Vec<mpsc::Sender<String>>,
    counts: BTreeMap<String, u64>,
}

fn lock() -> MutexGuard<'static, Recent> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recent {
    fn note(&mut self, name: String, line: String) {
        let count = self.counts.entry(name).or_default();
        *count = count.saturating_add(1);
        self.followers
            .retain(|follower| follower.try_send(line.clone()).is_ok());
        self.bytes = self.bytes.saturating_add(line.len());
        self.lines.push_back(line);
        while self.bytes > MAX_KEPT
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes = self.bytes.saturating_sub(oldest.len());
        }
    }

    fn follow(&mut self) -> mpsc::Receiver<String> {
        let (follower, lines) = mpsc::channel(MAX_WAITING);
        self.followers.push(follower);
        lines
    }
}

/// Keeps what is logged with a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let json::Line { line, name } = json::line(event);
        if let Some(name) = name {
            lock().note(name, line);
        }
    }
}

/// The lines so far, and those to come for whoever wants them. No line is missing between the two.
pub(crate) fn attach(follows: bool) -> (Vec<String>, Option<mpsc::Receiver<String>>) {
    let mut recent = lock();
    let lines = recent.lines.iter().cloned().collect();
    let coming = follows.then(|| recent.follow());
    (lines, coming)
}

/// How often each event was logged, by its name.
pub(crate) fn counts() -> BTreeMap<String, u64> {
    lock().counts.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent() -> Recent {
        Recent {
            lines: VecDeque::new(),
            bytes: 0,
            followers: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    #[test]
    fn the_last_lines_are_kept_and_no_more_than_fit() {
        let mut recent = recent();
        for number in 0..10_000 {
            recent.note("a".to_owned(), format!("{{\"number\":{number}}}"));
        }
        let kept: usize = recent.lines.iter().map(String::len).sum();
        assert!(kept == recent.bytes && kept <= MAX_KEPT, "{kept}");
        assert_eq!(recent.lines.back().unwrap(), "{\"number\":9999}");
        recent.note("b".to_owned(), "x".repeat(2 * MAX_KEPT));
        assert!(recent.lines.is_empty() && recent.bytes == 0);
        assert_eq!((recent.counts["a"], recent.counts["b"]), (10_000, 1));
    }

    #[test]
    fn whoever_does_not_read_is_let_go() {
        let mut recent = recent();
        let mut reader = recent.follow();
        let idle = recent.follow();
        for _ in 0..=MAX_WAITING {
            recent.note("a".to_owned(), "{}".to_owned());
            assert_eq!(reader.try_recv().unwrap(), "{}");
        }
        assert_eq!(recent.followers.len(), 1);
        drop(idle);
    }
}
