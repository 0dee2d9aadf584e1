//! Decides after each call of a retried operation: whether there is a further call, and the delay before it.
//!
//! [`Driver`] reads no clock and never sleeps; the front ends `retry.rs` and `retry_async.rs` do, and report the time
//! to it.

use std::fmt;
use std::time::Duration;

use crate::budget::Budget;
use crate::delays::{Delays, Stop};
use crate::limits::Backoff;
use crate::policy::Policy;
use crate::rules::{Rules, Verdict};

/// A retried operation ended without a success.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GaveUp<E> {
    /// The error of the last call.
    pub error: E,
    /// The limit or rule that forbade a further call.
    pub stop: Stop,
    /// How many calls were made: one more than retries.
    pub calls: u32,
    /// From the start of the first call to the end of the last.
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

/// One retried operation under way.
pub(crate) struct Driver<P, R> {
    delays: Delays<P>,
    rules: R,
    purse: Purse,
    calls: u32,
}

impl<P: Policy, R: Rules> Driver<P, R> {
    pub(crate) fn new(backoff: Backoff<P>, rules: R, budget: Option<Budget>) -> Driver<P, R> {
        Driver { delays: backoff.into_delays(), rules, purse: Purse::new(budget), calls: 0 }
    }

    /// A call begins: a retry that was paid for is spent.
    pub(crate) const fn call_begins(&mut self) {
        self.purse.spend();
    }

    /// The call succeeded: the budget gets its share.
    pub(crate) fn call_succeeded(&self) {
        self.purse.deposit();
    }

    /// The call failed, `elapsed` after the start of the first one: the delay before the next call, or the end.
    pub(crate) fn call_failed(&mut self, error: R::Error, elapsed: Duration) -> Result<Duration, GaveUp<R::Error>> {
        self.calls = self.calls.saturating_add(1);
        match self.next_delay(&error, elapsed) {
            Ok(delay) => {
                self.rules.notify(&error, delay);
                Ok(delay)
            }
            Err(stop) => Err(GaveUp { error, stop, calls: self.calls, elapsed }),
        }
    }

    fn next_delay(&mut self, error: &R::Error, elapsed: Duration) -> Result<Duration, Stop> {
        let Verdict::Retry { hint } = self.rules.judge(error) else { return Err(Stop::NotRetryable) };
        let delay = self.delays.next_after(elapsed, hint)?;
        // Last: a retry that a limit forbids must not be paid for.
        if !self.purse.pay() {
            return Err(Stop::Budget);
        }
        Ok(delay)
    }
}

/// Pays for retries from the budget. Dropped between the payment for a retry and its call, the purse gives the price
/// back.
#[derive(Debug)]
pub(crate) struct Purse {
    budget: Option<Budget>,
    paid: bool,
}

impl Purse {
    pub(crate) const fn new(budget: Option<Budget>) -> Purse {
        Purse { budget, paid: false }
    }

    /// Takes the price of one retry; `false` if the budget does not have it.
    pub(crate) fn pay(&mut self) -> bool {
        let Some(budget) = &self.budget else { return true };
        self.paid = budget.withdraw();
        self.paid
    }

    /// The retry that was paid for begins.
    pub(crate) const fn spend(&mut self) {
        self.paid = false;
    }

    /// The share of a success.
    pub(crate) fn deposit(&self) {
        if let Some(budget) = &self.budget {
            budget.deposit();
        }
    }
}

/// A clone has paid for nothing.
#[cfg(feature = "tower")]
impl Clone for Purse {
    fn clone(&self) -> Purse {
        Purse::new(self.budget.clone())
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        if let (Some(budget), true) = (&self.budget, self.paid) {
            budget.refund();
        }
    }
}
