//! The seam to the delay between calls to an endpoint that fails.

use std::time::Duration;

/// The delay before the next call to an endpoint that fails. The net thread asks outside every lock; until the answer
/// no call goes out. A panic counts as the longest delay of the default policy, 20 s.
pub trait Backoff: Send + Sync + 'static {
    /// The delay before retry number `attempt`, counted from 0; `unit` is a random sample from `[0, 1)`.
    fn delay(&self, attempt: u32, unit: f64) -> Duration;
}

impl Backoff for backoff::Exponential {
    fn delay(&self, attempt: u32, unit: f64) -> Duration {
        Self::delay(self, attempt, unit)
    }
}
