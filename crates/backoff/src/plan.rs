//! What both drivers share: the choices of a caller, and one operation under way.

use std::fmt;
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::delays::{Delays, Stop};
use crate::limits::Backoff;
use crate::policy::Policy;

/// The error that ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GaveUp<E> {
    /// The last error.
    pub error: E,
    /// Why it was the last.
    pub stop: Stop,
    /// How many calls were made: one more than retries.
    pub calls: u32,
    /// From the first call to the end of the last.
    pub elapsed: Duration,
}

impl<E> fmt::Display for GaveUp<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GaveUp { stop, calls, elapsed, .. } = self;
        let plural = if *calls == 1 { "" } else { "s" };
        write!(f, "gave up after {calls} call{plural} in {elapsed:?}: {stop}")
    }
}

impl<E: std::error::Error + 'static> std::error::Error for GaveUp<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// What a caller chose. Closures, not boxes: retrying allocates nothing and is `Send` if they are.
pub(crate) struct Plan<P, W, H, N, C> {
    pub(crate) backoff: Backoff<P>,
    pub(crate) when: W,
    pub(crate) hint: H,
    pub(crate) notify: N,
    pub(crate) clock: C,
    pub(crate) budget: Option<Budget>,
}

/// One operation under way.
pub(crate) struct Course<P, W, H, N, C> {
    delays: Delays<P>,
    when: W,
    hint: H,
    notify: N,
    clock: C,
    purse: Purse,
    start: Instant,
    calls: u32,
}

/// What retries are paid from. Whoever is dropped, or unwound, before a retry that was paid for gets its price back.
struct Purse {
    budget: Option<Budget>,
    paid: bool,
}

impl Purse {
    fn pay(&mut self) -> bool {
        let Some(budget) = &self.budget else { return true };
        self.paid = budget.withdraw();
        self.paid
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        if let (Some(budget), true) = (&self.budget, self.paid) {
            budget.refund();
        }
    }
}

impl<P: Policy, W, H, N, C: Fn() -> Instant> Plan<P, W, H, N, C> {
    pub(crate) fn start(self) -> Course<P, W, H, N, C> {
        let Plan { backoff, when, hint, notify, clock, budget } = self;
        let start = clock();
        let purse = Purse { budget, paid: false };
        Course { delays: backoff.into_delays(), when, hint, notify, clock, purse, start, calls: 0 }
    }
}

impl<P: Policy, W, H, N, C: Fn() -> Instant> Course<P, W, H, N, C> {
    /// The next call begins: what was paid for it is spent.
    pub(crate) const fn begins(&mut self) {
        self.purse.paid = false;
    }

    pub(crate) fn succeeded<T>(&self, value: T) -> T {
        if let Some(budget) = &self.purse.budget {
            budget.deposit();
        }
        value
    }

    /// How long to wait before the next call.
    pub(crate) fn failed<E>(&mut self, error: E) -> Result<Duration, GaveUp<E>>
    where
        W: FnMut(&E) -> bool,
        H: FnMut(&E) -> Option<Duration>,
        N: FnMut(&E, Duration),
    {
        self.calls = self.calls.saturating_add(1);
        let elapsed = (self.clock)().saturating_duration_since(self.start);
        match self.next_delay(&error, elapsed) {
            Ok(delay) => {
                (self.notify)(&error, delay);
                Ok(delay)
            }
            Err(stop) => Err(GaveUp { error, stop, calls: self.calls, elapsed }),
        }
    }

    fn next_delay<E>(&mut self, error: &E, elapsed: Duration) -> Result<Duration, Stop>
    where
        W: FnMut(&E) -> bool,
        H: FnMut(&E) -> Option<Duration>,
    {
        if !(self.when)(error) {
            return Err(Stop::NotRetryable);
        }
        let delay = self.delays.next_after(elapsed, (self.hint)(error))?;
        // Last: a retry that a limit forbids must not be paid for.
        if !self.purse.pay() {
            return Err(Stop::Budget);
        }
        Ok(delay)
    }
}

pub(crate) fn always<E>(_: &E) -> bool {
    true
}

pub(crate) fn no_hint<E>(_: &E) -> Option<Duration> {
    None
}

pub(crate) fn silent<E>(_: &E, _: Duration) {}

#[expect(clippy::disallowed_methods, reason = "the drivers' one read of the clock; `clock` replaces it")]
pub(crate) fn system_clock() -> Instant {
    Instant::now()
}
