//! A daemon's standard error: line by line into our log, escaped, bounded in length and in number. Its last lines say
//! why it ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hawser_linux::lines;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;

/// Lines of one process that are shown; a guest can make a daemon write some.
const MAX_LINES: usize = 200;
/// Lines that are kept to say why it ended.
const MAX_LAST_LINES: usize = 5;
/// For standard error to end with its process.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The output of a process that runs.
#[derive(Debug)]
pub(super) struct Output {
    lines: JoinHandle<Vec<String>>,
    serves: Arc<AtomicBool>,
}

impl Output {
    /// `show` is called with each line.
    pub(super) fn follow(stderr: Option<ChildStderr>, show: impl Fn(&str) + Send + 'static) -> Self {
        let serves = Arc::new(AtomicBool::new(false));
        let serving = Arc::clone(&serves);
        let lines = tokio::spawn(async move {
            match stderr {
                Some(stderr) => follow(stderr, || serving.load(Ordering::Relaxed), show).await,
                None => Vec::new(),
            }
        });
        Self { lines, serves }
    }

    /// The process serves from here on: what it wrote before is not why it will end.
    pub(super) fn serves(&self) {
        self.serves.store(true, Ordering::Relaxed);
    }

    /// The last lines of a process that has ended, once.
    pub(super) async fn last_lines(&mut self) -> Vec<String> {
        let lines = tokio::time::timeout(END_TIMEOUT, &mut self.lines).await;
        lines.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Reads no more.
    pub(super) fn abort(&self) {
        self.lines.abort();
    }
}

/// The last lines as the end of a message; nothing where there are none.
pub(super) fn quote(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!(": it said: {}", lines.join(" / "))
}

/// Reads to the end, and returns the last lines; of a process that came to serve, those since then.
async fn follow(
    mut stderr: impl AsyncRead + Unpin,
    serves: impl Fn() -> bool,
    show: impl Fn(&str),
) -> Vec<String> {
    let mut lines = Lines::default();
    let mut served = false;
    let mut chunk = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut chunk).await {
        if !served && serves() {
            served = true;
            lines.last.clear();
        }
        for byte in chunk.get(..read).unwrap_or_default() {
            if let Some(line) = lines.push(*byte) {
                show(&line);
            }
        }
    }
    if let Some(line) = lines.finish() {
        show(&line);
    }
    if !served && serves() {
        return Vec::new();
    }
    lines.last.into()
}

#[derive(Default)]
struct Lines {
    line: lines::Lines,
    shown: usize,
    last: VecDeque<String>,
}

impl Lines {
    fn push(&mut self, byte: u8) -> Option<String> {
        let line = self.line.push(byte)?;
        self.shown(line.trim_start())
    }

    fn finish(&mut self) -> Option<String> {
        let line = self.line.finish()?;
        self.shown(line.trim_start())
    }

    /// What of the line is to be shown.
    fn shown(&mut self, line: &str) -> Option<String> {
        let text = line.to_owned();
        if self.last.len() >= MAX_LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(text.clone());
        self.shown = self.shown.saturating_add(1);
        match self.shown.cmp(&MAX_LINES) {
            std::cmp::Ordering::Less => Some(text),
            std::cmp::Ordering::Equal => Some(format!("{text} (more output is omitted)")),
            std::cmp::Ordering::Greater => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    async fn shown(text: &[u8]) -> (Vec<String>, Vec<String>) {
        let all = Mutex::new(Vec::new());
        let last = follow(text, || false, |line| all.lock().unwrap().push(line.to_owned())).await;
        (all.into_inner().unwrap(), last)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn lines_are_escaped_and_the_last_ones_kept() {
        let (all, last) = shown(b"can't\n\n\x1b[31mred\n3\n4\n5\nsix").await;
        assert_eq!(all, ["can't", "\\u{1b}[31mred", "3", "4", "5", "six"]);
        assert_eq!(last, all[1..]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_it_wrote_before_it_served_is_not_why_it_ended() {
        let asked = std::cell::Cell::new(0);
        let later = || asked.replace(asked.get() + 1) > 0;
        assert_eq!(follow(&b"warning\n"[..], later, |_| ()).await, [""; 0]);
        asked.set(0);
        let text = [b"warning\n".as_slice(), &b"x".repeat(1015), b"\nassertion\n"].concat();
        let last = follow(text.as_slice(), later, |_| ()).await;
        assert_eq!(last, ["assertion"]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn neither_an_endless_line_nor_endless_lines_fill_the_log() {
        let (all, last) = shown(&vec![b'x'; 1 << 20]).await;
        assert_eq!((all.len(), all[0].len()), (1, 1000));
        assert_eq!(last.len(), 1);
        let (all, last) = shown("line\n".repeat(10_000).as_bytes()).await;
        assert_eq!(all.len(), MAX_LINES);
        assert!(all[MAX_LINES - 1].contains("omitted"));
        assert_eq!(last.len(), MAX_LAST_LINES);
    }
}
