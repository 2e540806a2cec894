//! So many bytes of the guest's memory a second, over all of a migration's connections together, as long as the guest runs.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

#[derive(Debug)]
pub(super) struct Bandwidth {
    /// None: without a limit.
    rate: Option<u64>,
    /// When what was sent so far may have been sent.
    until: Mutex<Instant>,
    lifted: watch::Sender<bool>,
}

impl Bandwidth {
    /// Bytes a second.
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self {
            rate: rate.filter(|rate| *rate > 0),
            until: Mutex::new(Instant::now()),
            lifted: watch::Sender::new(false),
        }
    }

    /// After so many bytes, waits until more may follow.
    pub(super) async fn sent(&self, bytes: u64) {
        let Some(rate) = self.rate.filter(|_| !*self.lifted.borrow()) else {
            return;
        };
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let until = {
            let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
            *until = Instant::now().max(*until) + takes;
            *until
        };
        let mut lifted = self.lifted.subscribe();
        tokio::select! {
            () = sleep_until(until) => {}
            _ = lifted.wait_for(|lifted| *lifted) => {}
        }
    }

    /// The guest is paused: nothing is waited for any more.
    pub(super) fn lift(&self) {
        self.lifted.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_bytes_a_second_until_the_guest_is_paused() {
        let bandwidth = std::sync::Arc::new(Bandwidth::new(Some(10 << 20)));
        let began = Instant::now();
        // Two connections have it together.
        let other = tokio::spawn({
            let bandwidth = bandwidth.clone();
            async move { bandwidth.sent(1 << 20).await }
        });
        bandwidth.sent(1 << 20).await;
        other.await.unwrap();
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(200), "{took:?}");
        let waits = tokio::spawn({
            let bandwidth = bandwidth.clone();
            async move { bandwidth.sent(1 << 40).await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        bandwidth.lift();
        waits.await.unwrap();
        bandwidth.sent(1 << 40).await;
        Bandwidth::new(Some(0)).sent(1 << 40).await;
        Bandwidth::new(None).sent(1 << 40).await;
    }
}
