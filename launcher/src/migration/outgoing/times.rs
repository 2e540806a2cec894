//! When the steps of a migration were.

use std::time::Instant;

/// What cloud-hypervisor would say of a migration itself, had it not been stopped before its end.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) began: Option<Instant>,
    pub(super) paused: Option<Instant>,
    pub(super) running: Option<Instant>,
}

impl Times {
    pub(super) fn text(&self) -> String {
        let (Some(began), Some(paused), Some(running)) = (self.began, self.paused, self.running) else {
            return String::new();
        };
        format!(
            "; the transfer took {} ms, with a downtime of {} ms",
            running.duration_since(began).as_millis(),
            running.duration_since(paused).as_millis()
        )
    }
}
