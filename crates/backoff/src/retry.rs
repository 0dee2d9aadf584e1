//! The blocking driver.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::limits::Backoff;
use crate::plan::{self, GaveUp, Plan};
use crate::policy::{Exponential, Policy};

/// Calls `operation` until it succeeds or a limit is reached; waits on the calling thread in between.
///
/// ```
/// use std::time::Duration;
/// use backoff::{Backoff, Constant, Jitter, retry};
///
/// let mut calls = 0;
/// let value = retry(|| {
///     calls += 1;
///     if calls < 3 { Err("not yet") } else { Ok(calls) }
/// })
/// .backoff(Backoff::new(Constant::new(Duration::from_millis(1), Jitter::None)?))
/// .when(|error| *error == "not yet")
/// .run();
/// assert_eq!(value, Ok(3));
/// # Ok::<(), backoff::InvalidConfig>(())
/// ```
pub fn retry<T, E, F: FnMut() -> Result<T, E>>(operation: F) -> Retry<F, fn(Duration), E> {
    let plan = Plan {
        backoff: Backoff::default(),
        when: plan::always as fn(&E) -> bool,
        hint: plan::no_hint as fn(&E) -> Option<Duration>,
        notify: plan::silent as fn(&E, Duration),
        clock: plan::system_clock as fn() -> Instant,
        budget: None,
    };
    Retry { operation, sleep: sleep as fn(Duration), plan, error: PhantomData }
}

/// A retried operation; [`run`](Retry::run) starts it. Its type parameters are its closures: write none of them down.
#[must_use = "nothing happens before `run`"]
pub struct Retry<
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

impl<F, S, E, P, W, H, N, C> Retry<F, S, E, P, W, H, N, C> {
    /// How long to wait and when to stop. Default [`Backoff::default`].
    pub fn backoff<Q: Policy>(self, backoff: Backoff<Q>) -> Retry<F, S, E, Q, W, H, N, C> {
        let Plan { backoff: _, when, hint, notify, clock, budget } = self.plan;
        Retry {
            operation: self.operation,
            sleep: self.sleep,
            plan: Plan { backoff, when, hint, notify, clock, budget },
            error: PhantomData,
        }
    }

    /// Whether an error is worth a retry. Default: every one is.
    pub fn when<V: FnMut(&E) -> bool>(self, when: V) -> Retry<F, S, E, P, V, H, N, C> {
        let Plan { backoff, when: _, hint, notify, clock, budget } = self.plan;
        Retry {
            operation: self.operation,
            sleep: self.sleep,
            plan: Plan { backoff, when, hint, notify, clock, budget },
            error: PhantomData,
        }
    }

    /// How long an error asks to wait: a `Retry-After`, the `retry_after` of a breaker. The longer of this and the policy's delay is waited for.
    pub fn hint<V: FnMut(&E) -> Option<Duration>>(self, hint: V) -> Retry<F, S, E, P, W, V, N, C> {
        let Plan { backoff, when, hint: _, notify, clock, budget } = self.plan;
        Retry {
            operation: self.operation,
            sleep: self.sleep,
            plan: Plan { backoff, when, hint, notify, clock, budget },
            error: PhantomData,
        }
    }

    /// Hears of each error that will be retried, with the delay before it is.
    pub fn notify<V: FnMut(&E, Duration)>(self, notify: V) -> Retry<F, S, E, P, W, H, V, C> {
        let Plan { backoff, when, hint, notify: _, clock, budget } = self.plan;
        Retry {
            operation: self.operation,
            sleep: self.sleep,
            plan: Plan { backoff, when, hint, notify, clock, budget },
            error: PhantomData,
        }
    }

    /// Reads another clock, for the elapsed limit and the report at the end.
    pub fn clock<V: Fn() -> Instant>(self, clock: V) -> Retry<F, S, E, P, W, H, N, V> {
        let Plan { backoff, when, hint, notify, clock: _, budget } = self.plan;
        Retry {
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

    /// Waits by other means than blocking the thread: a simulated clock, a condition that ends it early.
    pub fn sleep_with<V: FnMut(Duration)>(self, sleep: V) -> Retry<F, V, E, P, W, H, N, C> {
        Retry { operation: self.operation, sleep, plan: self.plan, error: PhantomData }
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`GaveUp`]: the last error, why there was no further retry, how many calls were made and how long it took.
    pub fn run<T>(mut self) -> Result<T, GaveUp<E>>
    where
        F: FnMut() -> Result<T, E>,
        S: FnMut(Duration),
        P: Policy,
        W: FnMut(&E) -> bool,
        H: FnMut(&E) -> Option<Duration>,
        N: FnMut(&E, Duration),
        C: Fn() -> Instant,
    {
        let mut course = self.plan.start();
        loop {
            course.begins();
            match (self.operation)() {
                Ok(value) => return Ok(course.succeeded(value)),
                Err(error) => (self.sleep)(course.failed(error)?),
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "waiting is what this driver does; `sleep_with` replaces it")]
fn sleep(delay: Duration) {
    std::thread::sleep(delay);
}
