//! A retried operation: its settings, and the blocking front end.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::driver::{Driver, GaveUp};
use crate::limits::Backoff;
use crate::policy::{Exponential, Policy};
use crate::rules::{EveryError, Hint, Notify, Rules, When};

/// Calls `operation` until it succeeds or a limit is reached; [`run`](Retry::run) starts it and blocks the thread
/// between the calls.
///
/// ```
/// use std::time::Duration;
/// use backoff::{Constant, Jitter, retry};
///
/// let mut calls = 0;
/// let value = retry(|| {
///     calls += 1;
///     if calls < 3 { Err("not yet") } else { Ok(calls) }
/// })
/// .backoff(Constant::new(Duration::from_millis(1), Jitter::None)?)
/// .when(|error| *error == "not yet")
/// .run();
/// assert_eq!(value, Ok(3));
/// # Ok::<(), backoff::InvalidConfig>(())
/// ```
pub fn retry<T, E, F: FnMut() -> Result<T, E>>(operation: F) -> Retry<F, Exponential, EveryError<E>> {
    Retry::new(operation)
}

/// An operation with its retry settings, made by [`retry`] or [`retry_async`](crate::retry_async): the operation `F`,
/// its policy `P` and its rules `R` (the closures of `when`, `hint` and `notify`). The type follows from the settings;
/// no caller writes it down.
///
/// Closures, not boxes: retrying allocates nothing, and a `Retry` is `Send` if operation, policy and closures are.
#[must_use = "nothing happens before `run` or `run_async`"]
pub struct Retry<F, P, R> {
    operation: F,
    backoff: Backoff<P>,
    rules: R,
    budget: Option<Budget>,
    max_retries: Option<u32>,
}

impl<F, E> Retry<F, Exponential, EveryError<E>> {
    pub(crate) fn new(operation: F) -> Self {
        let (backoff, rules) = (Backoff::default(), EveryError(PhantomData));
        Retry { operation, backoff, rules, budget: None, max_retries: None }
    }
}

impl<F, P: Policy, R: Rules> Retry<F, P, R> {
    /// How long to wait and when to stop: a [`Backoff`], or a policy with the default limits. Default
    /// [`Backoff::default`].
    pub fn backoff<Q: Policy>(self, backoff: impl Into<Backoff<Q>>) -> Retry<F, Q, R> {
        let Retry { operation, rules, budget, max_retries, .. } = self;
        Retry { operation, backoff: backoff.into(), rules, budget, max_retries }
    }

    /// How many retries, in the place of the limit of the [`Backoff`], whichever of the two is given first. Default 5:
    /// six calls.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = Some(retries);
        self
    }

    /// Whether an error is worth a retry. Default: every one is. Given twice, both must accept the error.
    pub fn when<V: FnMut(&R::Error) -> bool>(self, when: V) -> Retry<F, P, impl Rules<Error = R::Error>> {
        self.with_rules(|rules| When { rules, when })
    }

    /// How long an error asks to wait: a `Retry-After`, the `retry_after` of a breaker. The retry waits for the longer
    /// of the hint and the policy's delay. Given twice, the longer hint counts.
    pub fn hint<V>(self, hint: V) -> Retry<F, P, impl Rules<Error = R::Error>>
    where
        V: FnMut(&R::Error) -> Option<Duration>,
    {
        self.with_rules(|rules| Hint { rules, hint })
    }

    /// Calls `notify` with each error that will be retried, and the delay before the retry. Given twice, both are
    /// called.
    pub fn notify<V: FnMut(&R::Error, Duration)>(self, notify: V) -> Retry<F, P, impl Rules<Error = R::Error>> {
        self.with_rules(|rules| Notify { rules, notify })
    }

    /// Pays for retries from a shared budget.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    fn with_rules<S: Rules>(self, add: impl FnOnce(R) -> S) -> Retry<F, P, S> {
        let Retry { operation, backoff, rules, budget, max_retries } = self;
        Retry { operation, backoff, rules: add(rules), budget, max_retries }
    }

    /// The operation, and a driver that has seen no call of it.
    pub(crate) fn into_driver(mut self) -> (F, Driver<P, R>) {
        self.backoff.max_retries = self.max_retries.or(self.backoff.max_retries);
        (self.operation, Driver::new(self.backoff, self.rules, self.budget))
    }

    /// Runs the operation on this thread, with the system's clock, and blocks the thread for each delay.
    ///
    /// # Errors
    /// [`GaveUp`]: the last error, why there was no further retry, how many calls were made and how long they took.
    pub fn run<T>(self) -> Result<T, GaveUp<R::Error>>
    where
        F: FnMut() -> Result<T, R::Error>,
    {
        self.run_with(system_clock, block_thread)
    }

    /// [`run`](Retry::run) with the caller's `clock`, read before the first and after each failed call, and the
    /// caller's `sleep`: simulated time, or a wait that a condition can end early.
    ///
    /// # Errors
    /// As [`run`](Retry::run).
    pub fn run_with<T>(
        self,
        clock: impl Fn() -> Instant,
        mut sleep: impl FnMut(Duration),
    ) -> Result<T, GaveUp<R::Error>>
    where
        F: FnMut() -> Result<T, R::Error>,
    {
        let (mut operation, mut driver) = self.into_driver();
        let start = clock();
        loop {
            driver.call_begins();
            match operation() {
                Ok(value) => {
                    driver.call_succeeded();
                    return Ok(value);
                }
                Err(error) => sleep(driver.call_failed(error, clock().saturating_duration_since(start))?),
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the only read of the clock; `run_with` and `run_async_with` replace it")]
pub(crate) fn system_clock() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "`run` blocks its thread by contract; `run_with` replaces it")]
fn block_thread(delay: Duration) {
    std::thread::sleep(delay);
}
