//! The log of connections that are not let in. Anybody who reaches the port can make them, as many as there is time for, so
//! there is one line for the first, and then one a second that says how many there were.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::said;

const LOG_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Default)]
pub(super) struct Rejections {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// A line was logged within the interval; what comes meanwhile is counted.
    logged: bool,
    count: u64,
    last: String,
}

impl Rejections {
    /// `from` is rejected, for this reason. To be called in a runtime.
    pub(super) fn log(&self, from: impl Display, why: &str) {
        let why = said::text(why);
        let mut state = self.lock();
        if state.logged {
            state.count = state.count.saturating_add(1);
            state.last = format!("{from}: {why}");
            return;
        }
        state.logged = true;
        drop(state);
        tracing::warn!(
            event = "migration-connection-rejected",
            address = %from,
            "migration: rejected a connection from {from}: {why}"
        );
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOG_INTERVAL).await;
                let Some((count, last)) = this.counted() else {
                    return;
                };
                tracing::warn!(
                    event = "migration-connections-rejected",
                    count,
                    "migration: rejected {count} more connections within {} s, at last one from {last}",
                    LOG_INTERVAL.as_secs()
                );
            }
        });
    }

    /// Those since the last line. If there were none, the next one is logged at once.
    fn counted(&self) -> Option<(u64, String)> {
        let mut state = self.lock();
        if state.count == 0 {
            state.logged = false;
            return None;
        }
        Some((std::mem::take(&mut state.count), std::mem::take(&mut state.last)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crowd_is_counted_and_the_next_one_after_it_is_named_again() {
        let rejections = Rejections::default();
        for number in 0..45_000 {
            rejections.log(format!("10.0.0.1:{number}"), "no\nlauncher's");
        }
        assert_eq!(
            rejections.counted(),
            Some((44_999, "10.0.0.1:44999: no\\nlauncher's".to_owned()))
        );
        assert_eq!(rejections.counted(), None);
        assert!(!rejections.lock().logged);
    }
}
