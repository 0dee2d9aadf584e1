//! The seam to the delay between calls to an endpoint that fails.

use std::time::Duration;

/// How long to wait before the next call after `failures` failures in a row, counted from 0; `unit` is a sample from
/// `[0, 1)`. Asked under a lock: it must not block, nor ask a `Handle`. A panic counts as the longest wait of the default
/// policy, 20 s.
pub trait Backoff: Send + Sync + 'static {
    /// The delay before retry number `attempt`, counted from 0.
    fn delay(&self, attempt: u32, unit: f64) -> Duration;
}

impl Backoff for backoff::Exponential {
    fn delay(&self, attempt: u32, unit: f64) -> Duration {
        Self::delay(self, attempt, unit)
    }
}
