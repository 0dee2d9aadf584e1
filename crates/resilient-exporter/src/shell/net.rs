//! The net thread: asks the core what may go out, sends it, tells the core what came of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use opentelemetry::Context;
use otlp_transport::{Cause, Outcome, Transport};

use crate::core::Call;
use crate::shell::shared::Shared;

/// Between two panics of what a user plugged in, at most.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Runs until a drain has ended. The runtime is made for this thread, used on it and ended on it.
pub(crate) fn run(shared: &Shared, transport: &Arc<dyn Transport>, runtime: tokio::runtime::Runtime, limit: Duration) {
    // Or the exporter traces itself.
    let _suppressed = Context::enter_telemetry_suppressed_scope();
    let mut pause = Duration::from_millis(1);
    while catch_unwind(AssertUnwindSafe(|| runtime.block_on(drive(shared, transport, limit)))).is_err() {
        tracing::error!("the net thread panicked; it goes on with what was in flight");
        let now = shared.clock.now();
        shared.core().abandon_calls(now);
        // Whatever panics may do so at once again.
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(MAX_PAUSE);
    }
    // Not a plain drop: that would wait for name look-ups that hang.
    runtime.shutdown_background();
    shared.moved();
}

async fn drive(shared: &Shared, transport: &Arc<dyn Transport>, limit: Duration) {
    let mut calls = FuturesUnordered::new();
    loop {
        let now = shared.clock.now();
        let plan = shared.decide(|core, effects| {
            let mut plan = core.plan(now);
            effects.append(&mut plan.effects);
            plan
        });
        shared.listeners.warn(now, false);
        if plan.finished {
            return;
        }
        for call in plan.calls {
            calls.push(send(transport, call, limit));
        }
        let wait = plan.wake_at.map_or(Duration::from_secs(3_600), |instant| instant.saturating_duration_since(now));
        tokio::select! {
            biased;
            Some((id, outcome)) = calls.next() => {
                answered(shared, id, outcome);
                // What else has been answered meanwhile needs no plan of its own.
                while let Some(Some((id, outcome))) = calls.next().now_or_never() {
                    answered(shared, id, outcome);
                }
                shared.progress();
            }
            () = shared.net.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn answered(shared: &Shared, id: u64, outcome: Outcome) {
    let (now, wall) = (shared.clock.now(), shared.clock.wall());
    shared.decide(|core, effects| core.answered(id, outcome, now, wall, effects));
}

/// One attempt. A transport that panics or never answers is a failure like any other.
async fn send(transport: &Arc<dyn Transport>, call: Call, limit: Duration) -> (u64, Outcome) {
    let attempt = AssertUnwindSafe(async { transport.send(&call.payload).await }).catch_unwind();
    let outcome = match tokio::time::timeout(limit, attempt).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => unknown(Cause::Broken("the transport panicked".to_owned())),
        Err(_) => unknown(Cause::Timeout(limit)),
    };
    (call.id, outcome)
}

fn unknown(cause: Cause) -> Outcome {
    Outcome::Retryable { after: None, cause, possible_duplicate: true }
}
