//! The asynchronous driver. It needs no runtime: the caller brings the sleeper.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::limits::Backoff;
use crate::plan::{self, GaveUp, Plan};
use crate::policy::{Exponential, Policy};

/// Awaits what `operation` makes until that succeeds or a limit is reached, and what `sleep` makes in between.
///
/// With the feature `tokio`, `tokio_sleep` is such a sleeper. The future is `Send` if operation, sleeper and closures are.
///
/// ```
/// use std::future::ready;
/// use std::task::{Context, Poll, Waker};
/// use backoff::retry_async;
///
/// let mut calls = 0;
/// let operation = || {
///     calls += 1;
///     ready(if calls < 3 { Err("not yet") } else { Ok(calls) })
/// };
/// // A sleeper that does not sleep, and a loop for a runtime: enough for an example.
/// let mut future = Box::pin(retry_async(operation, |_delay| ready(())).run());
/// let done = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
/// assert_eq!(done, Poll::Ready(Ok(3)));
/// ```
pub fn retry_async<T, E, F, Fut, S, Sleep>(operation: F, sleep: S) -> RetryAsync<F, S, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    S: FnMut(Duration) -> Sleep,
    Sleep: Future<Output = ()>,
{
    let plan = Plan {
        backoff: Backoff::default(),
        when: plan::always as fn(&E) -> bool,
        hint: plan::no_hint as fn(&E) -> Option<Duration>,
        notify: plan::silent as fn(&E, Duration),
        clock: plan::system_clock as fn() -> Instant,
        budget: None,
    };
    RetryAsync { operation, sleep, plan, error: PhantomData }
}

/// tokio's clock, paused time included.
#[cfg(feature = "tokio")]
pub async fn tokio_sleep(delay: Duration) {
    tokio::time::sleep(delay).await;
}

/// A retried operation; [`run`](RetryAsync::run) starts it. Its type parameters are its closures: write none of them down.
#[must_use = "nothing happens before `run` is awaited"]
pub struct RetryAsync<
    F,
    S,
    E,
    P = Exponential,
    W = fn(&E) -> bool,
    H = fn(&E) -> Option<Duration>,
    N = fn(&E, Duration),
    C = fn() -> Instant,
> {
    operation: F,
    sleep: S,
    plan: Plan<P, W, H, N, C>,
    error: PhantomData<fn(E)>,
}

impl<F, S, E, P, W, H, N, C> RetryAsync<F, S, E, P, W, H, N, C> {
    /// How long to wait and when to stop. Default [`Backoff::default`].
    pub fn backoff<Q: Policy>(self, backoff: Backoff<Q>) -> RetryAsync<F, S, E, Q, W, H, N, C> {
        let Plan { backoff: _, when, hint, notify, clock, budget } = self.plan;
        RetryAsync {
            operation: self.operation,
            sleep: self.sleep,
            plan: Plan { backoff, when, hint, notify, clock, budget },
            error: PhantomData,
        }
    }

    /// Whether an error is worth a retry. Default: every one is.
    pub fn when<V: FnMut(&E) -> bool>(self, when: V) -> RetryAsync<F, S, E, P, V, H, N, C> {
        let Plan { backoff, when: _, hint, notify, clock, budget } = self.plan;
        RetryAsync {
            operation: self.operation,
            sleep: self.sleep,
            plan: Plan { backoff, when, hint, notify, clock, budget },
            error: PhantomData,
        }
    }

    /// How long an error asks to wait: a `Retry-After`, the `retry_after` of a breaker. The longer of this and the policy's delay is waited for.
    pub fn hint<V: FnMut(&E) -> Option<Duration>>(self, hint: V) -> RetryAsync<F, S, E, P, W, V, N, C> {
        let Plan { backoff, when, hint: _, notify, clock, budget } = self.plan;
        RetryAsync {
            operation: self.operation,
            sleep: self.sleep,
            plan: Plan { backoff, when, hint, notify, clock, budget },
            error: PhantomData,
        }
    }

    /// Hears of each error that will be retried, with the delay before it is.
    pub fn notify<V: FnMut(&E, Duration)>(self, notify: V) -> RetryAsync<F, S, E, P, W, H, V, C> {
        let Plan { backoff, when, hint, notify: _, clock, budget } = self.plan;
        RetryAsync {
            operation: self.operation,
            sleep: self.sleep,
            plan: Plan { backoff, when, hint, notify, clock, budget },
            error: PhantomData,
        }
    }

    /// Reads another clock, for the elapsed limit and the report at the end.
    pub fn clock<V: Fn() -> Instant>(self, clock: V) -> RetryAsync<F, S, E, P, W, H, N, V> {
        let Plan { backoff, when, hint, notify, clock: _, budget } = self.plan;
        RetryAsync {
            operation: self.operation,
            sleep: self.sleep,
            plan: Plan { backoff, when, hint, notify, clock, budget },
            error: PhantomData,
        }
    }

    /// Pays for retries from a shared budget.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.plan.budget = Some(budget);
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`GaveUp`]: the last error, why there was no further retry, how many calls were made and how long it took.
    ///
    /// # Cancel safety
    /// Dropped at any point it drops the operation or the sleep under way; a retry that was paid for and not yet begun is given back to the
    /// budget.
    pub async fn run<T, Fut, Sleep>(mut self) -> Result<T, GaveUp<E>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        S: FnMut(Duration) -> Sleep,
        Sleep: Future<Output = ()>,
        P: Policy,
        W: FnMut(&E) -> bool,
        H: FnMut(&E) -> Option<Duration>,
        N: FnMut(&E, Duration),
        C: Fn() -> Instant,
    {
        let mut course = self.plan.start();
        loop {
            course.begins();
            let delay = match (self.operation)().await {
                Ok(value) => return Ok(course.succeeded(value)),
                Err(error) => course.failed(error)?,
            };
            (self.sleep)(delay).await;
        }
    }
}
