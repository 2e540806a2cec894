//! How often a daemon that exits is started again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Fresh ones within `WINDOW`; more would hide a fault that does not go away.
pub(super) const MAX_RESTARTS: usize = 5;
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// Before the second fresh one within the window; doubled for each after it. The first comes at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// When there may be another process.
#[derive(Debug)]
pub(crate) struct Restarts {
    most: usize,
    recent: VecDeque<Instant>,
}

impl Default for Restarts {
    fn default() -> Self {
        Self::at_most(MAX_RESTARTS)
    }
}

impl Restarts {
    /// So many within `WINDOW`.
    pub(crate) fn at_most(most: usize) -> Self {
        Self {
            most,
            recent: VecDeque::new(),
        }
    }

    /// Whether there may be another at once.
    pub(crate) fn again(&mut self, now: Instant) -> bool {
        self.count(now).is_some()
    }

    /// How many there were before another that there may be.
    fn count(&mut self, now: Instant) -> Option<usize> {
        let is_old = |then: &Instant| now.saturating_duration_since(*then) >= WINDOW;
        while self.recent.front().is_some_and(is_old) {
            self.recent.pop_front();
        }
        let count = self.recent.len();
        if count >= self.most {
            return None;
        }
        self.recent.push_back(now);
        Some(count)
    }

    /// How long to wait before the next; none when there were too many.
    pub(super) fn next(&mut self, now: Instant) -> Option<Duration> {
        let count = self.count(now)?;
        let doubled = |times: u32| FIRST_PAUSE.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX));
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Some(count.checked_sub(1).map_or(Duration::ZERO, doubled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_as_often_as_is_allowed_within_a_minute() {
        let mut restarts = Restarts::at_most(2);
        let start = Instant::now();
        assert!(restarts.again(start) && restarts.again(start) && !restarts.again(start));
        assert!(restarts.again(start + WINDOW) && restarts.again(start + WINDOW));
        assert!(!restarts.again(start + WINDOW));
    }

    #[test]
    fn five_within_a_minute_further_and_further_apart_and_then_none() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let pauses: Vec<_> = (0..6).map(|_| restarts.next(start)).collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(
            pauses,
            [ms(0), ms(100), ms(200), ms(400), ms(800), None],
            "bounded"
        );
        assert_eq!(restarts.next(start + WINDOW - Duration::from_secs(1)), None);
        assert_eq!(
            restarts.next(start + WINDOW),
            ms(0),
            "a minute later all is forgotten"
        );
    }
}
