//! The asynchronous front end. It needs no runtime: the caller brings the sleeper.

use std::time::{Duration, Instant};

use crate::driver::GaveUp;
use crate::policy::{Exponential, Policy};
use crate::retry::{Retry, system_clock};
use crate::rules::{EveryError, Rules};

/// Awaits the futures of `operation` until one succeeds or a limit is reached; [`run_async`](Retry::run_async) makes
/// the future that does so.
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
/// // A sleeper that does not sleep, and one poll for a runtime: enough for an example.
/// let mut future = Box::pin(retry_async(operation).run_async(|_delay| ready(())));
/// let done = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
/// assert_eq!(done, Poll::Ready(Ok(3)));
/// ```
pub fn retry_async<T, E, F, Fut>(operation: F) -> Retry<F, Exponential, EveryError<E>>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    Retry::new(operation)
}

/// A sleeper on tokio's clock, paused time included.
#[cfg(feature = "tokio")]
pub async fn tokio_sleep(delay: Duration) {
    tokio::time::sleep(delay).await;
}

impl<F, P: Policy, R: Rules> Retry<F, P, R> {
    /// Runs an asynchronous operation, with the system's clock; for each delay the future that `sleep` makes is
    /// awaited. With the feature `tokio`, `tokio_sleep` is such a sleeper.
    ///
    /// # Errors
    /// [`GaveUp`]: the last error, why there was no further retry, how many calls were made and how long they took.
    ///
    /// # Cancel safety
    /// The future, dropped at any point, drops the operation or the sleep under way; the price of a retry that was paid
    /// for and not yet begun goes back to the budget.
    pub async fn run_async<T, Fut, Sleep>(self, sleep: impl FnMut(Duration) -> Sleep) -> Result<T, GaveUp<R::Error>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, R::Error>>,
        Sleep: Future<Output = ()>,
    {
        self.run_async_with(system_clock, sleep).await
    }

    /// [`run_async`](Retry::run_async) with the caller's `clock`, read before the first and after each failed call.
    ///
    /// # Errors
    /// As [`run_async`](Retry::run_async).
    ///
    /// # Cancel safety
    /// As [`run_async`](Retry::run_async).
    pub async fn run_async_with<T, Fut, Sleep>(
        self,
        clock: impl Fn() -> Instant,
        mut sleep: impl FnMut(Duration) -> Sleep,
    ) -> Result<T, GaveUp<R::Error>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, R::Error>>,
        Sleep: Future<Output = ()>,
    {
        let (mut operation, mut driver) = self.into_driver();
        let start = clock();
        loop {
            driver.call_begins();
            let delay = match operation().await {
                Ok(value) => {
                    driver.call_succeeded();
                    return Ok(value);
                }
                Err(error) => driver.call_failed(error, clock().saturating_duration_since(start))?,
            };
            sleep(delay).await;
        }
    }
}
