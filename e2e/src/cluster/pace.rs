//! How slow this machine is, and what limits of time therefore come to: the lab's idea (`crate::lab::node::pace`), measured
//! by what a cluster does anyway.

use std::sync::OnceLock;
use std::time::Duration;

/// From power-on to ready nodes, on the machine that the limits are written for.
const REFERENCE: Duration = Duration::from_secs(30);
/// Beyond this a scenario that never ends is not told from one that is slow.
const SLOWEST: f64 = 6.0;

static FACTOR: OnceLock<f64> = OnceLock::new();

/// What the nodes took to be ready. Never faster than the reference, which no limit would gain from.
pub(super) fn measured(took: Duration) -> f64 {
    *FACTOR.get_or_init(|| (took.as_secs_f64() / REFERENCE.as_secs_f64()).clamp(1.0, SLOWEST))
}

/// What a limit of the reference comes to here.
pub(super) fn allowed(limit: Duration) -> Duration {
    limit.mul_f64(FACTOR.get().copied().unwrap_or(1.0))
}
