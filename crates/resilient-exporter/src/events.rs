//! What happened, for people and programs that listen; and the log.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use breaker::State;
use parking_lot::Mutex;

use crate::ledger::DropReason;

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
    /// Accepted spans were given up.
    Dropped {
        /// How many.
        spans: usize,
        /// Why.
        reason: DropReason,
        /// More about it, if there is more.
        detail: String,
    },
    /// The fallback cannot be used; spans wait in memory, and it is tried again.
    DiskTrouble {
        /// What the fallback said.
        error: String,
    },
}

/// Events that wait for one slow listener; more are lost to that listener alone.
const BACKLOG: usize = 1_024;

/// Who listens.
#[derive(Default)]
pub(crate) struct Listeners {
    senders: Mutex<Vec<SyncSender<Event>>>,
}

impl Listeners {
    pub(crate) fn subscribe(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(BACKLOG);
        self.senders.lock().push(sender);
        receiver
    }

    /// Tells everybody, and the log.
    pub(crate) fn tell(&self, event: Event) {
        log(&event);
        self.senders.lock().retain(|sender| {
            !matches!(sender.try_send(event.clone()), Err(std::sync::mpsc::TrySendError::Disconnected(_)))
        });
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
        Event::Dropped { spans, reason, detail } => {
            let (why, remedy) = (reason.as_str(), reason.remedy());
            tracing::warn!(spans, why, remedy, detail, "spans were dropped");
        }
        Event::DiskTrouble { error } => {
            tracing::warn!(error, "the fallback cannot be used; spans wait in memory until it can");
        }
    }
}
