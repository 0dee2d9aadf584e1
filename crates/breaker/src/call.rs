//! Whole calls: ask, run, report.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::breaker::Breaker;
use crate::state::{Outcome, Rejected};

/// Why a guarded call gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError<E> {
    /// The breaker refused; the call was not made.
    Rejected(Rejected),
    /// The call was made and failed.
    Inner(E),
}

impl Breaker {
    /// Makes a call if it may go out now: `Ok` is a success, `Err` a failure. A panic leaves as it came, and counts as
    /// a dropped permit.
    ///
    /// # Errors
    /// The refusal, or the error of `call`.
    #[inline]
    pub fn call<T, E>(&self, call: impl FnOnce() -> Result<T, E>) -> Result<T, CallError<E>> {
        self.call_with(by_result, call).map_err(CallError::Rejected)?.map_err(CallError::Inner)
    }

    /// [`call`](Breaker::call) where `classify` turns a result into an outcome.
    ///
    /// # Errors
    /// The refusal; the result of `call` is returned as it is.
    #[inline]
    pub fn call_with<R>(&self, classify: impl FnOnce(&R) -> Outcome, call: impl FnOnce() -> R) -> Result<R, Rejected> {
        let permit = self.try_acquire_ref()?;
        let result = call();
        let _ = permit.report(classify(&result));
        Ok(result)
    }

    /// Awaits `call` if it may go out now: `Ok` is a success, `Err` a failure. If it may not, `call` is dropped without
    /// being polled.
    ///
    /// # Errors
    /// The refusal, or the error of `call`.
    ///
    /// # Cancel safety
    /// Dropped before its end it counts as a dropped permit. It is `Send` if `call` is, and needs no runtime.
    pub async fn call_async<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, CallError<E>> {
        self.call_async_with(by_result, call).await.map_err(CallError::Rejected)?.map_err(CallError::Inner)
    }

    /// [`call_async`](Breaker::call_async) where `classify` turns a result into an outcome.
    ///
    /// # Errors
    /// The refusal; the result of `call` is returned as it is.
    ///
    /// # Cancel safety
    /// As [`call_async`](Breaker::call_async).
    pub async fn call_async_with<R>(
        &self,
        classify: impl FnOnce(&R) -> Outcome,
        call: impl Future<Output = R>,
    ) -> Result<R, Rejected> {
        let permit = self.try_acquire_ref()?;
        let result = call.await;
        let _ = permit.report(classify(&result));
        Ok(result)
    }
}

impl<E> CallError<E> {
    /// When to call again, if the breaker refused and knows.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            CallError::Rejected(rejected) => rejected.retry_after(),
            CallError::Inner(_) => None,
        }
    }

    /// The refusal, if it was one.
    #[must_use]
    pub const fn rejected(&self) -> Option<&Rejected> {
        match self {
            CallError::Rejected(rejected) => Some(rejected),
            CallError::Inner(_) => None,
        }
    }

    /// Both kinds as one error of the caller's own: an enum, or a `Box<dyn Error + Send + Sync>` in which [`Rejected`]
    /// can be found by downcasting.
    ///
    /// A box is no `Error` itself, so neither is a `CallError` of one; this is the way to layers that ask for one (a
    /// tower time-out outside of a breaker: `.map_err(CallError::into_error)`).
    pub fn into_error<F: From<Rejected> + From<E>>(self) -> F {
        match self {
            CallError::Rejected(rejected) => rejected.into(),
            CallError::Inner(error) => error.into(),
        }
    }
}

/// `Ok` is a success, `Err` a failure.
#[inline]
pub(crate) fn by_result<T, E>(result: &Result<T, E>) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(_) => Outcome::Failure,
    }
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Rejected(rejected) => rejected.fmt(f),
            CallError::Inner(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for CallError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // `Display` shows the inner error as it is, so its source is ours.
        match self {
            CallError::Rejected(_) => None,
            CallError::Inner(error) => error.source(),
        }
    }
}
