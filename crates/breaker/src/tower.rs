//! A breaker round a tower service.
//!
//! The permit is asked for in `call` and handed back by the response future; dropping that future drops the permit. A
//! refusal is the error [`CallError::Rejected`] of the response, never of `poll_ready`: a refusing service stays
//! usable. A failed `poll_ready` of the inner service counts as a failed call. One that is pending is waited for in
//! every state of the breaker, and a slot that it has reserved stays with that handle when the call is refused.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::breaker::Breaker;
use crate::call::CallError;
use crate::permit::Permit;
use crate::state::{Outcome, Rejected};

/// Puts services behind one shared breaker.
#[derive(Clone, Debug)]
pub struct BreakerLayer<C = ByResult> {
    breaker: Breaker,
    classify: C,
}

impl BreakerLayer {
    /// Every service made by this layer, and the caller's own handle, share `breaker`.
    #[must_use]
    pub const fn new(breaker: Breaker) -> BreakerLayer {
        BreakerLayer { breaker, classify: ByResult }
    }
}

impl<C> BreakerLayer<C> {
    /// Turns a result into an outcome, such as a response with status 503 into a failure. Default [`ByResult`].
    #[must_use]
    pub fn with_classifier<D>(self, classify: D) -> BreakerLayer<D> {
        BreakerLayer { breaker: self.breaker, classify }
    }
}

impl<S, C: Clone> Layer<S> for BreakerLayer<C> {
    type Service = Guarded<S, C>;

    fn layer(&self, inner: S) -> Guarded<S, C> {
        Guarded { inner, breaker: self.breaker.clone(), classify: self.classify.clone() }
    }
}

/// Turns a result of a service into an outcome. Called once per response, on the task that polls it; any
/// `Fn(&Result<Response, Error>) -> Outcome` will do.
pub trait Classify<T, E> {
    /// The outcome.
    fn classify(&self, result: &Result<T, E>) -> Outcome;
}

/// `Ok` is a success, `Err` a failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByResult;

impl<T, E> Classify<T, E> for ByResult {
    fn classify(&self, result: &Result<T, E>) -> Outcome {
        result.into()
    }
}

impl<T, E, F: Fn(&Result<T, E>) -> Outcome> Classify<T, E> for F {
    fn classify(&self, result: &Result<T, E>) -> Outcome {
        self(result)
    }
}

/// A service behind a breaker; a clone shares the breaker.
#[derive(Clone, Debug)]
pub struct Guarded<S, C = ByResult> {
    inner: S,
    breaker: Breaker,
    classify: C,
}

impl<S, C> Guarded<S, C> {
    /// The breaker, to look at it or to work it by hand.
    #[must_use]
    pub const fn breaker(&self) -> &Breaker {
        &self.breaker
    }
}

impl<S, R, C> Service<R> for Guarded<S, C>
where
    S: Service<R>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = CallError<S::Error>;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let Err(error) = ready!(self.inner.poll_ready(context)) else { return Poll::Ready(Ok(())) };
        let result = Err(error);
        if let Ok(permit) = self.breaker.try_acquire_ref() {
            let _ = permit.report(self.classify.classify(&result));
        }
        Poll::Ready(result.map(|_: S::Response| ()).map_err(CallError::Inner))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let state = match self.breaker.try_acquire() {
            Ok(permit) => Progress::Running {
                future: self.inner.call(request),
                permit: Some(permit),
                classify: self.classify.clone(),
            },
            Err(rejected) => Progress::Rejected { rejected },
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// The response of a [`Guarded`] service. Dropped before its end it counts as a dropped permit.
    pub struct ResponseFuture<F, C> {
        #[pin]
        state: Progress<F, C>,
    }
}

pin_project! {
    #[project = ProgressProjection]
    enum Progress<F, C> {
        Running { #[pin] future: F, permit: Option<Permit>, classify: C },
        Rejected { rejected: Rejected },
    }
}

impl<F, C, T, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    C: Classify<T, E>,
{
    type Output = Result<T, CallError<E>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            ProgressProjection::Running { future, permit, classify } => {
                let result = ready!(future.poll(context));
                if let Some(permit) = permit.take() {
                    let _ = permit.report(classify.classify(&result));
                }
                Poll::Ready(result.map_err(CallError::Inner))
            }
            ProgressProjection::Rejected { rejected } => Poll::Ready(Err(CallError::Rejected(*rejected))),
        }
    }
}
