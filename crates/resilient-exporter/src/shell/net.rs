//! The net thread: polls the core for calls, makes them, reports their outcomes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use opentelemetry::Context;
use otlp_transport::{Cause, Outcome, Transport};

use super::shared::Shared;
use crate::core::Call;
use crate::report::calls::CallEnded;
use crate::report::warnings::Kind;
use crate::seams::clock::{Clock as _, SystemClock};

/// The longest pause after a panic of a transport or a clock of a user's.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause without a reason to poll.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// Runs until a drain has ended. The runtime is made for this thread, used on it and ended on it.
pub(crate) fn run(
    shared: &Shared,
    transports: &[Arc<dyn Transport>],
    runtime: tokio::runtime::Runtime,
    limit: Duration,
) {
    // Without this the exporter would trace itself.
    let _suppressed = Context::enter_telemetry_suppressed_scope();
    let mut pause = Duration::from_millis(1);
    while catch_unwind(AssertUnwindSafe(|| runtime.block_on(drive(shared, transports, limit)))).is_err() {
        shared.note(Kind::NetThreadPanicked, "");
        let now = shared.clock.now();
        shared.decide(|core| core.on_calls_abandoned(now));
        // The cause of the panic may still be there.
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(MAX_PAUSE);
    }
    // A plain drop would wait for name look-ups that hang.
    runtime.shutdown_background();
    shared.wake_all();
}

async fn drive(shared: &Shared, transports: &[Arc<dyn Transport>], limit: Duration) {
    let mut calls = FuturesUnordered::new();
    // At most one look for changes at a time for each transport.
    let mut looks = FuturesUnordered::new();
    let mut looking = vec![false; transports.len()];
    loop {
        shared.wakeups.count_net();
        // Before the poll, which sends what is sealed.
        let sealed_next = shared.seal_due();
        let (now, age_limit) = (shared.clock.now(), shared.age_limit());
        let (new, due_looks, wakeup, is_stopped, has_abandoned) = shared.decide(|core| {
            core.on_age_limit(age_limit);
            let calls = core.poll_calls(now);
            (calls, core.poll_looks(now), core.next_wakeup(), core.is_stopped(), core.take_has_abandoned())
        });
        if has_abandoned {
            shared.abandoned.notify_waiters();
        }
        for at in due_looks {
            if !std::mem::replace(&mut looking[at], true) {
                looks.push(has_changed(at, &transports[at], limit));
            }
        }
        shared.stir_storage(now);
        let due = shared.warn(false);
        if is_stopped {
            return;
        }
        calls.extend(new.into_iter().map(|call| send(shared, &transports[call.endpoint], call, limit)));
        let wait = wakeup.map_or(LONGEST_WAIT, |instant| instant.saturating_duration_since(now));
        let wait = due.map_or(wait, |due| wait.min(due));
        // The staging area goes by the system's clock.
        let sealed_in = sealed_next.map(|instant| instant.saturating_duration_since(SystemClock.now()));
        let wait = sealed_in.map_or(wait, |sealed_in| wait.min(sealed_in));
        tokio::select! {
            biased;
            Some(ended) = calls.next() => {
                answered(shared, ended);
                // Further answers that are here need no poll of their own.
                while let Some(Some(ended)) = calls.next().now_or_never() {
                    answered(shared, ended);
                }
                take_notes(shared, transports);
                shared.progress();
            }
            Some((at, has_changed)) = looks.next() => {
                looking[at] = false;
                take_notes(shared, transports);
                if has_changed {
                    shared.decide(|core| core.on_credentials_changed(at));
                }
            }
            () = shared.net.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A call that has ended.
struct Ended {
    id: u64,
    /// None if it was given up.
    outcome: Option<Outcome>,
    /// The time of the newest span, if the batch was delivered.
    newest: Option<SystemTime>,
}

fn answered(shared: &Shared, Ended { id, outcome, newest }: Ended) {
    let Some(outcome) = outcome else { return };
    let own = match &outcome {
        Outcome::Delivered { .. } | Outcome::AcknowledgedUnreadably { .. } | Outcome::TooLarge { .. } => Duration::ZERO,
        Outcome::Retryable { after, .. } => own_delay(shared, id, *after),
        // A refusal may be the endpoint's own.
        _ => own_delay(shared, id, None),
    };
    let (now, wall) = (shared.clock.now(), shared.clock.wall());
    let lateness = newest.map(|newest| wall.duration_since(newest).unwrap_or_default());
    let call = shared.decide(|core| {
        let lateness = lateness.filter(|_| core.is_awaited(id));
        if let Some(lateness) = lateness {
            core.on_delivered(lateness, now);
        }
        core.on_answered(id, outcome, own, now, wall);
        core.accounts.calls.take_last().map(|call| CallEnded { lateness, ..call })
    });
    call.into_iter().for_each(|call| shared.call_observers.tell(call));
}

/// The delay of the backoff policy, which may be a user's: it runs outside the core's lock.
fn own_delay(shared: &Shared, id: u64, hint: Option<Duration>) -> Duration {
    let attempts = shared.core().attempts(id, hint);
    attempts.map_or(Duration::ZERO, |attempts| attempts.delay(&*shared.backoff, hint))
}

/// Makes one call. A transport that panics or never answers is a failure like any other. A call that the core gives up
/// ends at once, so that it takes neither memory nor a stream.
async fn send(shared: &Shared, transport: &Arc<dyn Transport>, call: Call, limit: Duration) -> Ended {
    // A batch that was compressed while it waited: outside of the core's lock.
    let payload = match call.payload.plain() {
        Ok(payload) => payload,
        Err(damaged) => {
            let now = shared.clock.now();
            shared.decide(|core| core.on_call_damaged(call.id, &damaged, now));
            return Ended { id: call.id, outcome: None, newest: None };
        }
    };
    let attempt = AssertUnwindSafe(async {
        if call.is_fresh {
            transport.reconnect();
        }
        transport.send(&payload).await
    });
    let attempt = attempt.catch_unwind();
    let ended = tokio::select! {
        biased;
        ended = tokio::time::timeout(limit, attempt) => ended,
        () = given_up(shared, call.id) => return Ended { id: call.id, outcome: None, newest: None },
    };
    let outcome = match ended {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => unknown(Cause::Broken("the transport panicked".to_owned())),
        Err(_) => unknown(Cause::Timeout(limit)),
    };
    // Read here, outside of the core's lock.
    let newest = if outcome.is_delivered() { payload.newest() } else { None };
    Ended { id: call.id, outcome: Some(outcome), newest }
}

/// Waits until the core awaits no answer to this call.
async fn given_up(shared: &Shared, id: u64) {
    loop {
        shared.abandoned.notified().await;
        if !shared.core().is_awaited(id) {
            return;
        }
    }
}

/// Whether the transport has credentials or files that can change.
pub(crate) fn can_change(transport: &dyn Transport) -> bool {
    catch_unwind(AssertUnwindSafe(|| transport.can_change())).unwrap_or(false)
}

/// Asks the transport of an endpoint for changes. One that panics or never answers has none.
async fn has_changed(at: usize, transport: &Arc<dyn Transport>, limit: Duration) -> (usize, bool) {
    let look = AssertUnwindSafe(async { transport.has_changed().await }).catch_unwind();
    (at, matches!(tokio::time::timeout(limit, look).await, Ok(Ok(true))))
}

/// Has the log warn of the transports' notes.
fn take_notes(shared: &Shared, transports: &[Arc<dyn Transport>]) {
    for transport in transports {
        for note in catch_unwind(AssertUnwindSafe(|| transport.take_notes())).unwrap_or_default() {
            shared.note(Kind::TransportNoted, &note.message);
        }
    }
}

fn unknown(cause: Cause) -> Outcome {
    Outcome::Retryable { after: None, cause, possible_duplicate: true }
}
