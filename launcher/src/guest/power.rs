//! The guest's power button.

use std::time::Duration;

use crate::error::chain;
use crate::vmm::api::Api;

/// KubeVirt presses it every five seconds, and so do guests' firmware and init expect it.
pub(super) const PRESS_INTERVAL: Duration = Duration::from_secs(5);

/// A press that fails is followed by the next one; a VMM that is gone has an exit, which is an event of its own.
pub(super) async fn press(api: Api) {
    if let Err(error) = api.power_button().await {
        tracing::warn!(
            event = "power-button-press-failed",
            "the power button could not be pressed: {}",
            chain(&error)
        );
    }
}
