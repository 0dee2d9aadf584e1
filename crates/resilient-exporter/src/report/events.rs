//! What happened, for people and programs that listen; and the log.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use breaker::State;
use parking_lot::Mutex;

use crate::report::ledger::DropReason;

/// Something worth telling. Events are told outside every lock, in the order in which they happened on one thread.
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
        /// The file's name, or what the fallback calls the place.
        file: String,
    },
    /// No fallback file is left to replay.
    Replayed,
    /// The collector refused a part of a batch (partial success): it has the rest, nothing is sent again.
    Rejected {
        /// How many.
        spans: usize,
        /// What the collector said.
        message: String,
    },
    /// The collector refused spans for good; they are kept as dead letters.
    DeadLettered {
        /// How many.
        spans: usize,
        /// The collector's answer.
        reason: String,
    },
    /// A dead letter was put back on its way, by request.
    Redriven {
        /// How many spans are stored again.
        spans: usize,
    },
    /// Accepted spans were given up.
    Dropped {
        /// How many.
        spans: usize,
        /// Why.
        reason: DropReason,
        /// More about it, if there is more.
        detail: String,
    },
    /// The journal cannot be written: what is accepted now may not survive a crash. It is tried again.
    JournalTrouble {
        /// What the journal said.
        error: String,
    },
    /// The fallback cannot be used; spans wait in memory, and it is tried again.
    DiskTrouble {
        /// What the fallback said.
        error: String,
    },
}

/// Events that wait for one slow listener; more are lost to that listener alone.
const BACKLOG: usize = 1_024;

/// Drops are told to the log at most this often for each reason, with the sum of what was dropped since.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Who listens, and what the log has not been told yet.
#[derive(Default)]
pub(crate) struct Listeners {
    senders: Mutex<Vec<SyncSender<Event>>>,
    drops: Mutex<BTreeMap<DropReason, Drops>>,
}

#[derive(Default)]
struct Drops {
    warned: Option<Instant>,
    spans: usize,
    detail: String,
}

impl Listeners {
    pub(crate) fn subscribe(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(BACKLOG);
        self.senders.lock().push(sender);
        receiver
    }

    /// Tells everybody, and the log.
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

    /// Warns of drops that have waited for long enough, or of all.
    pub(crate) fn warn(&self, now: Instant, all: bool) {
        let mut due = Vec::new();
        for (reason, drops) in self.drops.lock().iter_mut() {
            let rested = drops.warned.is_none_or(|warned| now.saturating_duration_since(warned) >= WARN_EVERY);
            if drops.spans > 0 && (rested || all) {
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
            tracing::warn!(spans, reason, "the collector refused spans for good; they are kept as dead letters");
        }
        Event::Redriven { spans } => tracing::info!(spans, "a dead letter is on its way again"),
        Event::Dropped { .. } => {}
        Event::JournalTrouble { error } => {
            tracing::warn!(
                error,
                "the journal cannot be written; what is accepted until it can may not survive a crash"
            );
        }
        Event::DiskTrouble { error } => {
            tracing::warn!(error, "the fallback cannot be used; spans wait in memory until it can");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_drops_is_one_warning_and_its_sum() {
        let listeners = Listeners::default();
        #[expect(clippy::disallowed_methods, reason = "any start will do: the listeners read no clock")]
        let start = Instant::now();
        let drop_one = |after: u64| {
            let event = Event::Dropped { spans: 1, reason: DropReason::BufferFull, detail: String::new() };
            listeners.publish(event, start + Duration::from_secs(after));
        };
        let waiting = || listeners.drops.lock()[&DropReason::BufferFull].spans;
        drop_one(0);
        assert_eq!(waiting(), 0, "the first is told at once");
        (1..=9).for_each(drop_one);
        assert_eq!(waiting(), 9);
        listeners.warn(start + Duration::from_secs(10), false);
        assert_eq!(waiting(), 0);
        drop_one(11);
        listeners.warn(start + Duration::from_secs(12), true);
        assert_eq!(waiting(), 0, "at the end nothing is kept back");
    }
}
