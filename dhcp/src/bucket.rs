//! A token bucket: bursts pass, floods do not.

use std::time::Duration;

use tokio::time::Instant;

/// Answers, and with them events to log, that a guest gets a second once its burst is used up. No client sends more
/// than a handful a minute.
pub(crate) const RATE: u32 = 20;
/// Answers that a guest may have at once: a reboot loop or four clients started together stay far below.
pub(crate) const BURST: u32 = 100;

#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: u32,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            filled: now,
        }
    }

    /// Whether one more frame may be answered.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let each = Duration::from_secs(1) / RATE;
        let earned = now.saturating_duration_since(self.filled).as_nanos() / each.as_nanos().max(1);
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned >= BURST {
            self.tokens = BURST;
            self.filled = now;
        } else {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            // Only whole tokens are taken from the clock, or frequent calls would earn nothing.
            self.filled += each * earned;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let passed = (0..1000).filter(|_| bucket.take(start)).count();
        assert_eq!(passed, BURST as usize);
        // 2 s, asked every millisecond: the rate, whatever the pace of the questions.
        let passed = (1..=2000)
            .filter(|ms| bucket.take(start + Duration::from_millis(*ms)))
            .count();
        assert_eq!(passed, 2 * RATE as usize);
        let later = start + Duration::from_secs(3600);
        let passed = (0..1000).filter(|_| bucket.take(later)).count();
        assert_eq!(passed, BURST as usize);
    }
}
