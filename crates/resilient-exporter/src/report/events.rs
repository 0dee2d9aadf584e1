//! Events, which programs subscribe to and which the log names.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use breaker::State;
use otlp_transport::RefusalKind;

use super::ledger::{DropReason, RefuseReason};
use super::log;
use super::outages::{self, Began, Ended, Outages};
use super::position::Position;
use super::warnings::{self, Kind, Warnings};
use crate::locks::Mutex;

/// A change that a subscriber may act on. An event is published outside every lock; the events of one thread arrive in
/// their order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The breaker of a collector changed its state.
    Breaker {
        /// The collector.
        endpoint: Position,
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
    /// No fallback file is left.
    Replayed {
        /// Spans of files that the collector took since a file was first there.
        delivered: u64,
        /// Spans of files that left in another way: rejected, dead letters, dropped, taken over by another process.
        other: u64,
    },
    /// The collector rejected a part of a batch (partial success) and accepted the rest; nothing is sent again.
    Rejected {
        /// The collector.
        endpoint: Position,
        /// How many.
        spans: usize,
        /// The collector's explanation.
        message: String,
    },
    /// The collector refused a batch, which waits and is sent again.
    Refused {
        /// The collector.
        endpoint: Position,
        /// How many spans are in it.
        spans: usize,
        /// The side at which the answer hints.
        kind: RefusalKind,
        /// The collector's answer.
        cause: String,
        /// The remedy, as part of a sentence.
        remedy: &'static str,
        /// The collector takes other batches: this one waits alone. Otherwise the refusal is the endpoint's, and all
        /// batches wait.
        is_suspect: bool,
    },
    /// The collector asks for a pause, and takes no spans for more than 10 s by its own word. The spans wait in memory
    /// and in files.
    Throttled {
        /// The collector.
        endpoint: Position,
        /// The time from the first pause since the last acceptance to the end of this one.
        pause: Duration,
        /// The collector's answer.
        cause: String,
        /// The remedy, as part of a sentence.
        remedy: &'static str,
    },
    /// A status of success came with an answer that no OTLP server gives. The spans count as delivered.
    AcknowledgedUnreadably {
        /// The collector.
        endpoint: Position,
        /// How many.
        spans: usize,
        /// The answer.
        cause: String,
    },
    /// The collector took all spans of a batch and sent a message with its answer.
    CollectorWarned {
        /// The collector.
        endpoint: Position,
        /// The message.
        message: String,
    },
    /// Spans are stored as dead letters: the collector refused them for good or takes no span of this size, or calls
    /// for them failed again and again while others did not.
    DeadLettered {
        /// The collector.
        endpoint: Position,
        /// How many.
        spans: usize,
        /// The collector's answer to the last call, or the error of that call.
        reason: String,
    },
    /// The fallback removed dead letters by their limits: their spans are lost. The fallback warns of them, with their
    /// names; the log has no line of this event above DEBUG.
    DeadLettersEvicted {
        /// How many spans were in them.
        spans: u64,
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
    /// Spans were offered and not accepted: they are lost.
    NotAccepted {
        /// How many.
        spans: usize,
        /// The reason.
        reason: RefuseReason,
    },
    /// The collector takes no spans: no call has succeeded for 5 s after a failure, or the breaker has opened. The
    /// spans wait in memory and in files.
    OutageBegan {
        /// The collector.
        endpoint: Position,
        /// The cause of the last failed call.
        cause: String,
        /// The remedy, as part of a sentence.
        remedy: &'static str,
        /// The time until the next call; none if an answer is awaited first.
        next_attempt: Option<Duration>,
    },
    /// The collector takes spans again.
    OutageEnded {
        /// The collector.
        endpoint: Position,
        /// The time from the first failed call to the first successful one.
        duration: Duration,
        /// The first failed call, by the wall clock.
        from: Option<SystemTime>,
        /// The first successful call, by the wall clock.
        to: Option<SystemTime>,
        /// The cause of the last failed call before the outage was certain.
        cause: String,
        /// The most spans that waited at a time, in memory and in files.
        waited: u64,
        /// The spans that were dropped or not accepted meanwhile, by reason.
        lost: BTreeMap<&'static str, u64>,
        /// Spans of the outage's calls that the collector may have taken although no answer said so.
        possible_duplicates: u64,
        /// The greatest lateness of its batches that are delivered so far. [`Handle::outages`](crate::Handle::outages)
        /// has that of all, once the others are delivered.
        lateness: Option<Duration>,
        /// The most bytes of batches in memory at a time.
        peak_memory_bytes: u64,
        /// The most bytes of fallback files and journal on the disk at a time.
        peak_disk_bytes: u64,
    },
    /// All calls go to another collector from now on: the one in use is unavailable, or one of a higher priority takes
    /// spans again. Calls that are out end where they are.
    EndpointChanged {
        /// The collector that was in use.
        from: Position,
        /// The one that is.
        to: Position,
    },
    /// The journal cannot be written: batches that are accepted now may not survive a crash. The journal thread tries
    /// again.
    JournalTrouble {
        /// The journal's error.
        error: String,
    },
    /// Batches have vanished from the journal, such as by the removal of its directory or of a file in it. Those of
    /// them that are in memory are appended again, and are not durable before the next sync.
    JournalVanished {
        /// Spans of those that only the journal held: they are lost.
        spans: usize,
    },
    /// The fallback cannot be used: spans wait in memory. The disk thread tries again.
    DiskTrouble {
        /// The fallback's error.
        error: String,
    },
}

/// Events that wait for one slow subscriber; that subscriber alone misses the events beyond.
const BACKLOG: usize = 1_024;

/// The subscribers and the log. A subscriber gets every event, also one that the log suppresses, and also if the log's
/// own subscriber panics.
pub(crate) struct Listeners {
    /// The names of the collectors in lines about them, by their places.
    endpoints: Vec<String>,
    senders: Mutex<Vec<SyncSender<Event>>>,
    unlogged: Mutex<Unlogged>,
}

/// The part of the log that is limited by time.
#[derive(Default)]
struct Unlogged {
    warnings: Warnings,
    /// By the place of the collector.
    outages: BTreeMap<Position, Outages>,
}

impl Listeners {
    pub(crate) fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, senders: Mutex::default(), unlogged: Mutex::default() }
    }

    pub(crate) fn subscribe(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(BACKLOG);
        self.senders.lock().push(sender);
        receiver
    }

    /// Tells the subscribers of an event, and then the log.
    pub(crate) fn publish(&self, event: Event, now: Instant) {
        self.senders
            .lock()
            .retain(|sender| !matches!(sender.try_send(event.clone()), Err(TrySendError::Disconnected(_))));
        self.log(event, now);
        self.warn(now, false);
    }

    /// Has the log warn of something that is no event.
    pub(crate) fn note(&self, kind: Kind, detail: &str, now: Instant) {
        self.add(kind, 0, detail, now);
    }

    /// Logs the warnings that are due, or `all` that are not logged yet.
    pub(crate) fn warn(&self, now: Instant, all: bool) {
        let (lines, outages) = {
            let mut unlogged = self.unlogged.lock();
            let outages =
                unlogged.outages.iter_mut().map(|(endpoint, outages)| (*endpoint, outages.take_due(now, all)));
            let outages = outages.collect::<Vec<_>>();
            (unlogged.warnings.take_due(now, all), outages)
        };
        lines.iter().for_each(warnings::Line::log);
        outages.into_iter().for_each(|(endpoint, line)| self.log_outage(endpoint, line));
    }

    /// The instant at which [`warn`](Self::warn) is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let unlogged = self.unlogged.lock();
        let outages = unlogged.outages.values().filter_map(Outages::next_due);
        unlogged.warnings.next_due().into_iter().chain(outages).min()
    }

    fn log(&self, event: Event, now: Instant) {
        match event {
            Event::Breaker { endpoint, from, to } => {
                log::debug_contained!(%endpoint, ?from, ?to, "circuit breaker changed its state");
            }
            Event::Spilled { spans, file } => log::debug_contained!(spans, file, "spans written to a fallback file"),
            Event::Replayed { delivered, other: 0 } if delivered > 0 => {
                log::info_contained!(delivered, "all fallback files are delivered");
            }
            Event::Replayed { delivered, other } => {
                log::info_contained!(
                    delivered,
                    other,
                    "no fallback file is left; not all of their spans were delivered"
                );
            }
            Event::DeadLettersEvicted { spans } => log::debug_contained!(spans, "dead letters were removed"),
            Event::Redriven { spans } => {
                log::info_contained!(spans, "a dead letter was redriven; its spans are replayed");
            }
            Event::Rejected { endpoint, spans, message } => {
                self.add(Kind::Rejected, spans, &self.of(endpoint, message), now);
            }
            Event::Refused { endpoint, spans, kind: _, cause, remedy, is_suspect: _ } => {
                self.add(Kind::Refused, spans, &self.of(endpoint, format!("{cause}; {remedy}")), now);
            }
            Event::Throttled { endpoint, pause, cause, remedy } => {
                let seconds = pause.as_secs_f64();
                self.add(Kind::Throttled, 0, &self.of(endpoint, format!("{seconds:.0} s by {cause}; {remedy}")), now);
            }
            Event::AcknowledgedUnreadably { endpoint, spans, cause } => {
                self.add(Kind::AcknowledgedUnreadably, spans, &self.of(endpoint, cause), now);
            }
            Event::CollectorWarned { endpoint, message } => {
                self.add(Kind::CollectorWarned, 0, &self.of(endpoint, message), now);
            }
            Event::DeadLettered { endpoint, spans, reason } => {
                self.add(Kind::DeadLettered, spans, &self.of(endpoint, reason), now);
            }
            Event::Dropped { spans, reason, detail } => self.add(Kind::Dropped(reason), spans, &detail, now),
            Event::NotAccepted { spans, reason } => self.add(Kind::NotAccepted(reason), spans, "", now),
            Event::JournalTrouble { error } => self.add(Kind::JournalTrouble, 0, &error, now),
            Event::JournalVanished { spans } => self.add(Kind::JournalVanished, spans, "", now),
            Event::DiskTrouble { error } => self.add(Kind::DiskTrouble, 0, &error, now),
            Event::OutageBegan { endpoint, cause, remedy, next_attempt } => {
                let began = Began { cause, remedy, next_attempt };
                let line = self.unlogged.lock().outages.entry(endpoint).or_default().on_began(began, now);
                self.log_outage(endpoint, line);
            }
            Event::OutageEnded {
                endpoint,
                duration,
                from: _,
                to: _,
                cause: _,
                waited,
                lost,
                possible_duplicates,
                lateness,
                peak_memory_bytes,
                peak_disk_bytes,
            } => {
                let ended =
                    Ended { duration, waited, lost, possible_duplicates, lateness, peak_memory_bytes, peak_disk_bytes };
                let line = self.unlogged.lock().outages.entry(endpoint).or_default().on_ended(ended);
                self.log_outage(endpoint, line);
            }
            Event::EndpointChanged { from, to } if to < from => {
                let endpoint = self.name(to);
                log::info_contained!(%from, %to, endpoint, "spans go to a collector of a higher priority again");
            }
            Event::EndpointChanged { from, to } => {
                let detail = format!("from {from} ({}) to {to} ({})", self.name(from), self.name(to));
                self.add(Kind::EndpointChanged, 0, &detail, now);
            }
        }
    }

    fn name(&self, endpoint: Position) -> &str {
        self.endpoints.get(endpoint.index()).map_or("", String::as_str)
    }

    /// A detail about a collector, with its place if there are several.
    fn of(&self, endpoint: Position, detail: String) -> String {
        if self.endpoints.len() > 1 { format!("endpoint {endpoint}: {detail}") } else { detail }
    }

    fn add(&self, kind: Kind, spans: usize, detail: &str, now: Instant) {
        let line = self.unlogged.lock().warnings.add(kind, spans as u64, detail, now);
        if let Some(line) = line {
            line.log();
        }
    }

    fn log_outage(&self, endpoint: Position, line: Option<outages::Line>) {
        if let Some(line) = line {
            line.log(self.name(endpoint));
        }
    }
}
