//! Futures that no `tracing` subscriber sees.

use std::future::Future;

use tracing::Dispatch;
use tracing::instrument::{WithDispatch, WithSubscriber as _};

/// The future, of which no `tracing` subscriber sees a span or an event. h2 opens a span for each frame, and the first
/// of them has no parent: a layer that turns them into spans of OpenTelemetry would export them too, although the
/// thread's context suppresses telemetry, and each export would make dozens of new ones.
pub(crate) fn unobserved<F: Future>(future: F) -> WithDispatch<F> {
    future.with_subscriber(Dispatch::none())
}
