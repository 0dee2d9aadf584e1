//! What one collector owns: its failures, when it may be called next, and how many calls it gets at once.

use std::time::{Duration, Instant};

use breaker::{Breaker, Permit};

/// Calls to one collector at a time, at most.
pub(crate) const MAX_CONCURRENCY: usize = 8;

/// A peer's hint is honoured up to here: a collector that says "in a year" is asked again within the buffer's default
/// age, before waiting spans become old.
pub(crate) const MAX_HINT: Duration = Duration::from_secs(300);

/// An answer within this time is quick: it earns concurrency.
const QUICK: Duration = Duration::from_millis(500);

/// How long to wait before the next call after `failures` failures in a row, counted from 0; `unit` is a sample from
/// `[0, 1)`. Asked under a lock: it must not block.
pub trait Backoff: Send + Sync + 'static {
    /// The delay before retry number `attempt`, counted from 0.
    fn delay(&self, attempt: u32, unit: f64) -> Duration;
}

impl Backoff for backoff::Exponential {
    fn delay(&self, attempt: u32, unit: f64) -> Duration {
        Self::delay(self, attempt, unit)
    }
}

/// One collector: breaker, backoff and concurrency. Pure: time and chance are arguments.
pub(crate) struct Endpoint {
    pub(crate) breaker: Breaker,
    backoff: Box<dyn Backoff>,
    failures: u32,
    not_before: Option<Instant>,
    last_failure: Option<Instant>,
    /// Concurrency in eighths of a call, so that additive increase needs no float.
    concurrency: usize,
}

/// Why no call may go out now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Not before this instant.
    Until(Instant),
    /// An answer that is awaited will say more.
    Answer,
}

const STEP: usize = 8;

impl Endpoint {
    pub(crate) fn new(breaker: Breaker, backoff: Box<dyn Backoff>) -> Self {
        Self { breaker, backoff, failures: 0, not_before: None, last_failure: None, concurrency: STEP }
    }

    /// Calls that may be out at once.
    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency / STEP
    }

    /// When the wait that the backoff or the peer asked for ends, if it is still to come.
    pub(crate) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|&instant| now < instant)
    }

    /// Asks for one call.
    pub(crate) fn acquire(&mut self, now: Instant) -> Result<Permit, Wait> {
        if let Some(instant) = self.waits_until(now) {
            return Err(Wait::Until(instant));
        }
        self.breaker.try_acquire_at(now).map_err(|rejected| match rejected.retry_after {
            Some(after) => Wait::Until(now + after.max(Duration::from_millis(1))),
            None => Wait::Answer,
        })
    }

    /// The collector took a batch. `saturated`: as many calls were out as allowed.
    pub(crate) fn succeeded(&mut self, permit: Permit, latency: Duration, saturated: bool, now: Instant) {
        let _ = permit.success_at(now);
        self.failures = 0;
        self.not_before = None;
        if saturated && latency <= QUICK {
            // One more call per round of answers: additive increase.
            self.concurrency = (self.concurrency + STEP / self.concurrency()).min(MAX_CONCURRENCY * STEP);
        }
    }

    /// A failure without a hint. Calls that were out together when one of them failed are one failure: a single broken
    /// connection must not open the breaker by the number of its streams.
    pub(crate) fn failed(&mut self, permit: Permit, started: Instant, unit: f64, now: Instant) {
        if self.last_failure.is_some_and(|last| started < last) {
            let _ = permit.neutral_at(now);
            return;
        }
        let _ = permit.failure_at(now);
        self.last_failure = Some(now);
        self.not_before = Some(now + self.backoff.delay(self.failures, unit));
        self.failures = self.failures.saturating_add(1);
        self.halve();
    }

    /// A throttle: the peer lives and says when to come back.
    pub(crate) fn throttled(&mut self, permit: Permit, hint: Duration, unit: f64, now: Instant) {
        let _ = permit.neutral_at(now);
        let own = if self.failures == 0 { Duration::ZERO } else { self.backoff.delay(self.failures - 1, unit) };
        let until = now + hint.min(MAX_HINT).max(own);
        self.not_before = Some(self.not_before.map_or(until, |instant| instant.max(until)));
        self.halve();
    }

    fn halve(&mut self) {
        self.concurrency = (self.concurrency / 2).max(STEP);
    }
}
