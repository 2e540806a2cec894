//! How slow the cluster is, and what limits of time therefore come to: the lab's idea (`crate::lab::node::pace`), measured
//! by what a cluster does anyway.

use std::sync::OnceLock;
use std::time::Duration;

/// Beyond this a scenario that never ends is not told from one that is slow.
const SLOWEST: f64 = 6.0;

static FACTOR: OnceLock<f64> = OnceLock::new();

/// What something took that takes `reference` where the limits are written for. Never faster than that, which no limit would
/// gain from.
pub(super) fn measured(took: Duration, reference: Duration) -> f64 {
    *FACTOR.get_or_init(|| (took.as_secs_f64() / reference.as_secs_f64()).clamp(1.0, SLOWEST))
}

/// What a limit of the reference comes to here.
pub(super) fn allowed(limit: Duration) -> Duration {
    limit.mul_f64(FACTOR.get().copied().unwrap_or(1.0))
}
