//! The streams of one connection: at a time no more than the peer allows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Counts the calls that are out on a connection. h2 bounds them too, but by a queue of its own, in which it is not
/// known whether a request has gone out, and which a call cannot leave for another connection.
pub(super) struct Slots {
    state: Mutex<State>,
    /// A change for the one call that waits: others wait for their turn behind it.
    changed: Notify,
}

struct State {
    /// The peer's `MAX_CONCURRENT_STREAMS`.
    limit: usize,
    taken: usize,
    /// No further call uses the connection.
    is_closed: bool,
}

/// The place of one call.
pub(super) struct Slot(Arc<Slots>);

impl Slots {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { limit, taken: 0, is_closed: false }), changed: Notify::new() })
    }

    /// Waits for a free slot; none once the connection is closed. Called by one task at a time.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Slot> {
        loop {
            {
                let mut state = self.state();
                if state.is_closed {
                    return None;
                }
                if state.taken < state.limit {
                    state.taken += 1;
                    return Some(Slot(Arc::clone(self)));
                }
            }
            self.changed.notified().await;
        }
    }

    /// The peer's limit is this from now on. Calls that are out stay out.
    pub(super) fn limit_to(&self, limit: usize) {
        let mut state = self.state();
        if state.limit != limit {
            state.limit = limit;
            self.changed.notify_one();
        }
    }

    /// No call takes a slot any more; the one that waits leaves.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    /// The peer lets no request in.
    pub(super) fn is_shut(&self) -> bool {
        self.state().limit == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state().taken -= 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_call_above_the_limit_waits_for_the_end_of_another() {
        let slots = Slots::new(1);
        let first = slots.take().now_or_never().flatten().expect("free");
        let mut second = Box::pin(slots.take());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert!(second.now_or_never().flatten().is_some());
        assert_eq!(slots.state().taken, 0);
    }

    #[test]
    fn a_waiting_call_sees_a_new_limit_and_the_end() {
        let slots = Slots::new(0);
        assert!(slots.is_shut());
        let mut call = Box::pin(slots.take());
        assert!(call.as_mut().now_or_never().is_none());
        slots.limit_to(usize::MAX);
        let first = call.now_or_never().flatten().expect("free");
        slots.limit_to(1);
        let mut call = Box::pin(slots.take());
        assert!(call.as_mut().now_or_never().is_none());
        slots.close();
        assert!(call.now_or_never().expect("over").is_none());
        drop(first);
        assert!(slots.take().now_or_never().expect("over").is_none(), "closed");
    }
}
