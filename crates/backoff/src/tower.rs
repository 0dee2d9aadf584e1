//! Retries inside a tower stack.
//!
//! [`RetryPolicy`] is a policy of tower's own retry middleware: `ServiceBuilder::retry(policy)`, or
//! `RetryLayer::new(policy)`. It stands above a breaker's layer, so that each retry asks for a permit of its own, and a
//! refusal says when to come back:
//!
//! ```
//! use std::time::Duration;
//! use backoff::{Exponential, tower::RetryPolicy};
//! use breaker::{Breaker, CallError, tower::BreakerLayer};
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = service_fn(|path: &'static str| async move { Ok::<_, std::io::Error>(path.len()) });
//! let policy = Exponential::new(Duration::from_millis(100), Duration::from_secs(10))?;
//! let mut service = ServiceBuilder::new()
//!     .retry(RetryPolicy::new(policy).hint(CallError::retry_after))
//!     .layer(BreakerLayer::new(Breaker::default()))
//!     .service(client);
//! assert_eq!(service.ready().await?.call("/orders").await?, 7);
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use tower::retry::Policy as TowerPolicy;

use crate::budget::Budget;
use crate::delays::Delays;
use crate::driver::Purse;
use crate::limits::Backoff;
use crate::policy::{Exponential, Policy};

pub use crate::rules::Verdict;

/// Retries the requests of a tower service; a clone of it serves one request, as tower asks for. On tokio's clock,
/// paused time included.
///
/// | Part | Default | |
/// | --- | --- | --- |
/// | delays and limits | [`Backoff::default`] | [`new`](RetryPolicy::new), [`max_retries`](RetryPolicy::max_retries) |
/// | which results are retried | every error | [`hint`](RetryPolicy::hint), [`with_classifier`](RetryPolicy::with_classifier) |
/// | which requests may go out again | every one, cloned | [`with_request_clone`](RetryPolicy::with_request_clone) |
/// | shared budget | none | [`budget`](RetryPolicy::budget) |
///
/// At the end of the retries the caller gets the last result as it is.
#[derive(Clone, Debug)]
#[must_use = "a policy does nothing outside of a stack"]
pub struct RetryPolicy<P = Exponential, C = EveryError, K = Cloned> {
    backoff: Backoff<P>,
    classify: C,
    requests: K,
    budget: Option<Budget>,
    /// Of the request that this clone serves.
    session: Option<Session<P>>,
}

#[derive(Clone, Debug)]
struct Session<P> {
    delays: Delays<P>,
    purse: Purse,
    start: Instant,
}

impl<P: Policy> RetryPolicy<P> {
    /// With a [`Backoff`], or a policy with the default limits.
    pub fn new(backoff: impl Into<Backoff<P>>) -> RetryPolicy<P> {
        let (backoff, classify, requests) = (backoff.into(), EveryError, Cloned);
        RetryPolicy { backoff, classify, requests, budget: None, session: None }
    }
}

impl<P, C, K> RetryPolicy<P, C, K> {
    /// Every error is retried, and `hint` says how long it asks to wait: `CallError::retry_after` of `breaker`, for
    /// instance. The retry waits for the longer of the hint and the policy's delay.
    pub fn hint<F>(self, hint: F) -> RetryPolicy<P, Hinted<F>, K> {
        self.with_classifier(Hinted { hint })
    }

    /// Which results are retried, and how long they ask to wait: a response with status 503 and its `Retry-After`, for
    /// instance. Takes the place of [`hint`](RetryPolicy::hint).
    ///
    /// ```
    /// use std::time::Duration;
    /// use backoff::{Exponential, tower::{RetryPolicy, Verdict}};
    ///
    /// type Answer = Result<(u16, Option<Duration>), std::io::Error>; // a status and a `Retry-After`
    ///
    /// let retries = RetryPolicy::new(Exponential::default()).with_classifier(|answer: &Answer| match answer {
    ///     Ok((503, retry_after)) => Verdict::Retry { hint: *retry_after },
    ///     Ok(_) => Verdict::Final,
    ///     Err(_) => Verdict::Retry { hint: None },
    /// });
    /// # let _ = retries;
    /// ```
    pub fn with_classifier<D>(self, classify: D) -> RetryPolicy<P, D, K> {
        let RetryPolicy { backoff, requests, budget, session, .. } = self;
        RetryPolicy { backoff, classify, requests, budget, session }
    }

    /// How a request is kept for a retry. Where `request_clone` gives `None`, the request goes out once: a body that
    /// cannot be repeated, a call that is not idempotent.
    ///
    /// ```
    /// use backoff::{Exponential, tower::RetryPolicy};
    ///
    /// let only_reads = |request: &(&'static str, &'static str)| (request.0 == "GET").then_some(*request);
    /// let retries = RetryPolicy::new(Exponential::default()).with_request_clone(only_reads);
    /// # let _ = retries;
    /// ```
    pub fn with_request_clone<L>(self, request_clone: L) -> RetryPolicy<P, C, L> {
        let RetryPolicy { backoff, classify, budget, session, .. } = self;
        RetryPolicy { backoff, classify, requests: request_clone, budget, session }
    }

    /// How many retries of a request, in the place of the limit of the [`Backoff`]. Default 5: six calls.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.backoff.max_retries = Some(retries);
        self
    }

    /// Pays for retries from a shared budget. An `Ok` that is not retried brings in its share, unless its request goes
    /// out only once: tower shows a policy no result of such a request.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }
}

impl<P: Policy + Clone, C, K> RetryPolicy<P, C, K> {
    fn new_session(&self) -> Session<P> {
        let (delays, purse) = (self.backoff.clone().into_delays(), Purse::new(self.budget.clone()));
        Session { delays, purse, start: Instant::now() }
    }
}

impl<P, C, K, Req, Res, E> TowerPolicy<Req, Res, E> for RetryPolicy<P, C, K>
where
    P: Policy + Clone,
    C: Classify<Res, E>,
    K: CloneRequest<Req>,
{
    type Future = Sleep;

    fn retry(&mut self, _: &mut Req, result: &mut Result<Res, E>) -> Option<Sleep> {
        let mut session = self.session.take().unwrap_or_else(|| self.new_session());
        let delay = match self.classify.classify(result) {
            Verdict::Retry { hint } => session.delays.next_after(session.start.elapsed(), hint).ok(),
            Verdict::Final => {
                if result.is_ok() {
                    session.purse.deposit();
                }
                None
            }
        };
        // Last: a retry that a limit forbids must not be paid for.
        let delay = delay.filter(|_| session.purse.pay());
        self.session = Some(session);
        delay.map(sleep)
    }

    /// tower calls this before each call: the first one begins the session, the others spend what was paid for.
    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        match &mut self.session {
            Some(session) if session.delays.retries() > 0 => session.purse.spend(),
            _ => self.session = Some(self.new_session()),
        }
        self.requests.clone_request(request)
    }
}

/// Whether a result is retried. Called once for each result, on the task that polls it; any
/// `Fn(&Result<Response, Error>) -> Verdict` will do.
pub trait Classify<T, E> {
    /// The verdict.
    fn classify(&self, result: &Result<T, E>) -> Verdict;
}

/// Every error is retried, no response is.
#[derive(Clone, Copy, Debug, Default)]
pub struct EveryError;

/// Made by [`RetryPolicy::hint`].
#[derive(Clone, Copy, Debug)]
pub struct Hinted<F> {
    hint: F,
}

impl<T, E> Classify<T, E> for EveryError {
    fn classify(&self, result: &Result<T, E>) -> Verdict {
        match result {
            Ok(_) => Verdict::Final,
            Err(_) => Verdict::Retry { hint: None },
        }
    }
}

impl<T, E, F: Fn(&E) -> Option<Duration>> Classify<T, E> for Hinted<F> {
    fn classify(&self, result: &Result<T, E>) -> Verdict {
        match result {
            Ok(_) => Verdict::Final,
            Err(error) => Verdict::Retry { hint: (self.hint)(error) },
        }
    }
}

impl<T, E, F: Fn(&Result<T, E>) -> Verdict> Classify<T, E> for F {
    fn classify(&self, result: &Result<T, E>) -> Verdict {
        self(result)
    }
}

/// Keeps a request for a retry. Called before each call; any `Fn(&Request) -> Option<Request>` will do.
pub trait CloneRequest<Req> {
    /// The request for the next call, or `None` if it may go out only once.
    fn clone_request(&self, request: &Req) -> Option<Req>;
}

/// Every request is cloned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cloned;

impl<Req: Clone> CloneRequest<Req> for Cloned {
    fn clone_request(&self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

impl<Req, F: Fn(&Req) -> Option<Req>> CloneRequest<Req> for F {
    fn clone_request(&self, request: &Req) -> Option<Req> {
        self(request)
    }
}
