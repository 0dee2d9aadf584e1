//! Whole calls: ask, run, report.

use std::fmt;
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
        self.call_with(|result| result.into(), call)
    }

    /// [`call`](Breaker::call) where `classify` turns the result into an outcome; it gives back the same type.
    ///
    /// The classifier stands before the call, so that a long closure comes last. It sees the whole result: an `Ok` may
    /// be a failure (a response 503), an `Err` neutral (the caller's own mistake). `other.into()` is the outcome that
    /// [`call`](Breaker::call) takes.
    ///
    /// ```
    /// use breaker::{Breaker, CallError, Outcome};
    ///
    /// let breaker = Breaker::default();
    /// let not_found = breaker.call_with(
    ///     |result| match result {
    ///         Err(400..500) => Outcome::Neutral,
    ///         other => other.into(),
    ///     },
    ///     || Err::<(), u16>(404),
    /// );
    /// assert_eq!((not_found, breaker.consecutive_failures()), (Err(CallError::Inner(404)), 0));
    /// ```
    ///
    /// # Errors
    /// The refusal, or the error of `call`.
    #[inline]
    pub fn call_with<T, E>(
        &self,
        classify: impl FnOnce(&Result<T, E>) -> Outcome,
        call: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, CallError<E>> {
        let permit = self.try_acquire_ref().map_err(CallError::Rejected)?;
        let result = call();
        let _ = permit.report(classify(&result));
        result.map_err(CallError::Inner)
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
        self.call_async_with(|result| result.into(), call).await
    }

    /// [`call_async`](Breaker::call_async) where `classify` turns the result into an outcome, as in
    /// [`call_with`](Breaker::call_with): classifier first, the same type back.
    ///
    /// # Errors
    /// The refusal, or the error of `call`.
    ///
    /// # Cancel safety
    /// As [`call_async`](Breaker::call_async).
    pub async fn call_async_with<T, E>(
        &self,
        classify: impl FnOnce(&Result<T, E>) -> Outcome,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, CallError<E>> {
        let permit = self.try_acquire_ref().map_err(CallError::Rejected)?;
        let result = call.await;
        let _ = permit.report(classify(&result));
        result.map_err(CallError::Inner)
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

    /// The error of the call, if it was made.
    #[must_use]
    pub const fn inner(&self) -> Option<&E> {
        match self {
            CallError::Rejected(_) => None,
            CallError::Inner(error) => Some(error),
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
