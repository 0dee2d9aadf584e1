//! Sends one OTLP payload and says what came of it.

mod outcome;

use async_trait::async_trait;
use otlp_payload::Payload;

pub use outcome::{Cause, Outcome};

/// Sends payloads to one collector. Called by one task at a time or by several (replay, concurrency): `send` must not
/// assume otherwise. It runs inside a current-thread tokio runtime with I/O and time enabled and must not block it.
/// The caller may drop the future at any point (shutdown); what was sent until then may have been taken.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends one payload once: no retry inside, and no waiting for one. Its own time-out bounds the call.
    async fn send(&self, payload: &Payload) -> Outcome;

    /// Where it sends to, for people: no user-info, no header.
    fn endpoint(&self) -> &str;
}
