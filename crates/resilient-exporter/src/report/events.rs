//! Events, which programs subscribe to and which the log names.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use breaker::State;
use parking_lot::Mutex;

use crate::report::ledger::DropReason;

/// A change that a subscriber may act on. An event is published outside every lock; the events of one thread arrive in
/// their order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The breaker changed its state.
    Breaker {
        /// The state it left.
        from: State,
        /// The state it is in.
        to: State,
    },
    /// Spans went from memory to a fallback file.
    Spilled {
        /// How many.
        spans: usize,
        /// The name of the file, or the name that a user's fallback gives the place.
        file: String,
    },
    /// No fallback file is left to replay.
    Replayed,
    /// The collector rejected a part of a batch (partial success) and accepted the rest; nothing is sent again.
    Rejected {
        /// How many.
        spans: usize,
        /// The collector's explanation.
        message: String,
    },
    /// The collector refused spans for good; they are stored as dead letters.
    DeadLettered {
        /// How many.
        spans: usize,
        /// The collector's answer.
        reason: String,
    },
    /// An operator redrove a dead letter: its spans are in the fallback and are replayed.
    Redriven {
        /// How many spans are stored again.
        spans: usize,
    },
    /// Accepted spans were dropped: they are lost.
    Dropped {
        /// How many.
        spans: usize,
        /// The reason.
        reason: DropReason,
        /// More about the cause, such as an error's text; empty if the reason is enough.
        detail: String,
    },
    /// The journal cannot be written: batches that are accepted now may not survive a crash. The disk thread tries
    /// again.
    JournalTrouble {
        /// The journal's error.
        error: String,
    },
    /// The fallback cannot be used: spans wait in memory. The disk thread tries again.
    DiskTrouble {
        /// The fallback's error.
        error: String,
    },
}

/// Events that wait for one slow subscriber; that subscriber alone misses the events beyond.
const BACKLOG: usize = 1_024;

/// The log has at most one warning in this time for each reason of drops, with the sum of spans since the last one.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The subscribers, and the drops that the log does not name yet.
#[derive(Default)]
pub(crate) struct Listeners {
    senders: Mutex<Vec<SyncSender<Event>>>,
    drops: Mutex<BTreeMap<DropReason, Drops>>,
}

/// The drops of one reason.
#[derive(Default)]
struct Drops {
    /// The instant of the last warning.
    warned: Option<Instant>,
    /// Spans since then.
    spans: usize,
    detail: String,
}

impl Listeners {
    pub(crate) fn subscribe(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(BACKLOG);
        self.senders.lock().push(sender);
        receiver
    }

    /// Publishes an event to the subscribers and logs it.
    pub(crate) fn publish(&self, event: Event, now: Instant) {
        if let Event::Dropped { spans, reason, detail } = &event {
            let mut drops = self.drops.lock();
            let drops = drops.entry(*reason).or_default();
            drops.spans += spans;
            drops.detail.clone_from(detail);
        } else {
            log(&event);
        }
        self.warn(now, false);
        self.senders.lock().retain(|sender| {
            !matches!(sender.try_send(event.clone()), Err(std::sync::mpsc::TrySendError::Disconnected(_)))
        });
    }

    /// Logs the drops whose last warning is older than [`WARN_EVERY`], or `all` that are not logged yet.
    pub(crate) fn warn(&self, now: Instant, all: bool) {
        let mut due = Vec::new();
        for (reason, drops) in self.drops.lock().iter_mut() {
            let is_due = drops.warned.is_none_or(|warned| now.saturating_duration_since(warned) >= WARN_EVERY);
            if drops.spans > 0 && (is_due || all) {
                drops.warned = Some(now);
                due.push((*reason, std::mem::take(&mut drops.spans), std::mem::take(&mut drops.detail)));
            }
        }
        for (reason, spans, detail) in due {
            let (why, remedy) = (reason.as_str(), reason.remedy());
            tracing::warn!(spans, why, remedy, detail, "spans were dropped");
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::Breaker { from, to } => tracing::info!(?from, ?to, "circuit breaker changed its state"),
        Event::Spilled { spans, file } => tracing::debug!(spans, file, "spans written to a fallback file"),
        Event::Replayed => tracing::info!("all fallback files are delivered"),
        Event::Rejected { spans, message } => tracing::warn!(spans, message, "the collector rejected spans"),
        Event::DeadLettered { spans, reason } => {
            tracing::warn!(spans, reason, "the collector refused spans for good; they are stored as dead letters");
        }
        Event::Redriven { spans } => tracing::info!(spans, "a dead letter was redriven; its spans are replayed"),
        Event::Dropped { .. } => {}
        Event::JournalTrouble { error } => {
            tracing::warn!(
                error,
                "the journal cannot be written; until it can be, accepted batches may not survive a crash"
            );
        }
        Event::DiskTrouble { error } => {
            tracing::warn!(error, "the fallback cannot be used; until it can be, spans wait in memory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_drops_are_one_warning_with_their_sum() {
        let listeners = Listeners::default();
        #[expect(clippy::disallowed_methods, reason = "any instant serves: the subscribers read no clock")]
        let start = Instant::now();
        let drop_one_span = |after: u64| {
            let event = Event::Dropped { spans: 1, reason: DropReason::BufferFull, detail: String::new() };
            listeners.publish(event, start + Duration::from_secs(after));
        };
        let unlogged = || listeners.drops.lock()[&DropReason::BufferFull].spans;
        drop_one_span(0);
        assert_eq!(unlogged(), 0, "the first drop is logged at once");
        (1..=9).for_each(drop_one_span);
        assert_eq!(unlogged(), 9);
        listeners.warn(start + Duration::from_secs(10), false);
        assert_eq!(unlogged(), 0);
        drop_one_span(11);
        listeners.warn(start + Duration::from_secs(12), true);
        assert_eq!(unlogged(), 0, "`all` logs the drops that are not due yet");
    }
}
