//! A policy with its limits.

use std::time::Duration;

use crate::error::{self, InvalidConfig};
use crate::policy::{Exponential, Policy};

/// A policy, and when to stop.
///
/// | Setting | Default | Accepted |
/// | --- | --- | --- |
/// | `max_retries` | 5 (six calls) | any, or none |
/// | `max_elapsed` | none | up to 365 days |
/// | `max_hint` | 1 hour | up to 365 days |
/// | `seed` | a random one each time | any |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff<P = Exponential> {
    pub(crate) policy: P,
    pub(crate) max_retries: Option<u32>,
    pub(crate) max_elapsed: Option<Duration>,
    pub(crate) max_hint: Duration,
    pub(crate) seed: Option<u64>,
}

impl<P> Backoff<P> {
    /// `policy` with the default limits.
    #[must_use]
    pub const fn new(policy: P) -> Backoff<P> {
        Backoff { policy, max_retries: Some(5), max_elapsed: None, max_hint: HOUR, seed: None }
    }

    /// `policy` with limits of your own.
    pub const fn builder(policy: P) -> BackoffBuilder<P> {
        BackoffBuilder { backoff: Backoff::new(policy) }
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new(Exponential::default())
    }
}

/// The policy with the default limits, so that a policy alone will do where a [`Backoff`] is asked for.
impl<P: Policy> From<P> for Backoff<P> {
    fn from(policy: P) -> Backoff<P> {
        Backoff::new(policy)
    }
}

impl<P: Policy> Policy for &P {
    #[inline]
    fn delay(&self, attempt: u32, previous: Duration, unit: f64) -> Duration {
        P::delay(self, attempt, previous, unit)
    }
}

/// Collects the limits of a [`Backoff`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct BackoffBuilder<P> {
    backoff: Backoff<P>,
}

impl<P> BackoffBuilder<P> {
    /// How many retries; `None` for as many as it takes. Default 5.
    pub const fn with_max_retries(mut self, retries: Option<u32>) -> BackoffBuilder<P> {
        self.backoff.max_retries = retries;
        self
    }

    /// Stops when the time since the start *and* the next delay would exceed this; real time, so slow attempts count.
    /// Off by default: work that lives long must not lose its retries to a timer that its caller did not set.
    pub const fn with_max_elapsed(mut self, elapsed: Duration) -> BackoffBuilder<P> {
        self.backoff.max_elapsed = Some(elapsed);
        self
    }

    /// The longest wait that a hint (`Retry-After`, the `retry_after` of a breaker) can ask for. Default 1 hour.
    pub const fn with_max_hint(mut self, hint: Duration) -> BackoffBuilder<P> {
        self.backoff.max_hint = hint;
        self
    }

    /// Makes the jitter repeatable: every operation draws the same delays.
    pub const fn with_seed(mut self, seed: u64) -> BackoffBuilder<P> {
        self.backoff.seed = Some(seed);
        self
    }

    /// Checks the whole.
    ///
    /// # Errors
    /// Names the first limit that is out of its range, with its value and the range.
    pub fn build(self) -> Result<Backoff<P>, InvalidConfig> {
        if let Some(elapsed) = self.backoff.max_elapsed {
            error::duration("max_elapsed", elapsed, Duration::from_nanos(1), YEAR)?;
        }
        error::duration("max_hint", self.backoff.max_hint, Duration::ZERO, YEAR)?;
        Ok(self.backoff)
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
