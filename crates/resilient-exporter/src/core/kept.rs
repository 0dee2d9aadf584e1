//! Batches that the journal holds and memory does not: those of earlier processes, and those that left memory.
//!
//! The journal thread reads one of them at a time, those of earlier processes first, then the oldest. A batch that left
//! memory returns under its id.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use otlp_payload::{BatchId, Payload};
use span_buffer::{Entry, Size};

use super::batch::Batch;
use super::memory::size_of;
use super::storage;

/// Between two recovered batches: memory gives batches of one instant back in the reverse order.
const ORDER: Duration = Duration::from_nanos(1);

#[derive(Default)]
pub(super) struct Kept {
    /// Recovered batches count as accepted at the start of durable mode, each after the one that was read before: their
    /// age begins anew.
    accepted: Option<Instant>,
    /// Spans of earlier processes that are in the journal and were not read yet.
    unread: usize,
    /// Batches that left memory, oldest first.
    away: VecDeque<Away>,
    /// The batch that the journal thread is asked to read.
    reading: Option<Read>,
    /// Reading failed: no attempt before this instant.
    retry_at: Option<Instant>,
    /// The journal is nearly full.
    is_above: bool,
}

/// A batch that only the journal holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Away {
    id: BatchId,
    size: Size,
    accepted: Instant,
}

/// The place for a batch that is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Destination {
    /// Memory has room, and the endpoint takes batches.
    Memory,
    /// The journal is nearly full.
    File,
    /// The journal is full, and there is no fallback.
    Nowhere,
}

#[derive(Clone, Copy, Debug)]
struct Read {
    /// None: the next batch of an earlier process.
    away: Option<Away>,
    to: Destination,
}

/// A batch that was read, and its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) to: Destination,
    /// The instant at which it counts as accepted.
    pub(super) accepted: Option<Instant>,
    /// Spans beyond those that the journal had promised.
    pub(super) surplus: usize,
    /// Spans that the journal had promised beyond these.
    pub(super) missing: usize,
}

impl Kept {
    pub(super) fn turn_on(&mut self, now: Instant) {
        self.accepted = Some(now);
    }

    // Events.

    /// The journal has found spans of earlier processes.
    pub(super) fn on_found(&mut self, spans: usize) {
        self.unread += spans;
    }

    /// A batch leaves memory.
    pub(super) fn on_left(&mut self, entry: &Entry<Batch>) {
        let away = Away { id: entry.item.payload.id(), size: entry.size, accepted: entry.accepted };
        self.insert(away);
    }

    fn insert(&mut self, away: Away) {
        let index = match self.away.back() {
            Some(newest) if newest.accepted > away.accepted => {
                self.away.partition_point(|other| other.accepted <= away.accepted)
            }
            _ => self.away.len(),
        };
        self.away.insert(index, away);
    }

    /// Chooses the next batch to read: `Some(None)` is one of an earlier process, else of those that `may_go` the
    /// oldest. None if no such batch waits, one is being read, or a failure has just ended.
    pub(super) fn start_read(
        &mut self,
        to: Destination,
        may_go: impl Fn(Size) -> bool,
        now: Instant,
    ) -> Option<Option<BatchId>> {
        if self.reading.is_some() || self.retry_at.is_some_and(|instant| now < instant) {
            return None;
        }
        let away = match self.unread {
            0 => Some(self.away.remove(self.away.iter().position(|away| may_go(away.size))?)?),
            _ => None,
        };
        self.reading = Some(Read { away, to });
        Some(away.map(|away| away.id))
    }

    /// The journal thread has read a batch. None: it was not asked for, or is not the batch that was asked for.
    pub(super) fn on_read(&mut self, payload: &Payload) -> Option<Arrival> {
        let Read { away, to } = self.reading?;
        let spans = payload.item_count();
        let arrival = match away {
            Some(away) if away.id != payload.id() => return None,
            Some(away) => Arrival {
                to,
                accepted: Some(away.accepted),
                surplus: spans.saturating_sub(away.size.count),
                missing: away.size.count.saturating_sub(spans),
            },
            None => {
                let surplus = spans.saturating_sub(self.unread);
                self.unread -= spans - surplus;
                let accepted = self.accepted;
                self.accepted = accepted.map(|instant| instant + ORDER);
                Arrival { to, accepted, surplus, missing: 0 }
            }
        };
        self.reading = None;
        self.retry_at = None;
        Some(arrival)
    }

    /// The batch that was read has no place now: the journal keeps it.
    pub(super) fn put_back(&mut self, payload: &Payload, accepted: Instant) {
        self.insert(Away { id: payload.id(), size: size_of(payload), accepted });
    }

    /// The batch that was asked for is damaged or missing, or `spans` of those that were found are. Returns how many
    /// spans are lost: none, if the answer is about a read that has been ended meanwhile.
    pub(super) fn on_lost(&mut self, asked: Option<BatchId>, spans: u64) -> usize {
        match self.reading.take_if(|read| read.away.map(|away| away.id) == asked) {
            None => 0,
            Some(Read { away: Some(away), .. }) => away.size.count,
            Some(Read { away: None, .. }) => {
                let spans = usize::try_from(spans).unwrap_or(usize::MAX).min(self.unread);
                self.unread -= spans;
                spans
            }
        }
    }

    /// The storage failed while the journal thread read. The batch goes behind the others, whose places in the storage
    /// may be readable.
    pub(super) fn on_read_failed(&mut self, now: Instant) {
        self.away.extend(self.reading.take().and_then(|read| read.away));
        self.retry_at = Some(now + storage::RETRY);
    }

    /// The process is about to end: a batch that is being read stays in the journal.
    pub(super) fn on_stopped(&mut self) {
        self.away.extend(self.reading.take().and_then(|read| read.away));
    }

    /// The journal no longer has these batches. Returns the spans of those that it alone held.
    pub(super) fn on_gone(&mut self, gone: &HashSet<BatchId>, unread: u64) -> usize {
        let unread = usize::try_from(unread).unwrap_or(usize::MAX).min(self.unread);
        self.unread -= unread;
        if gone.is_empty() {
            return unread;
        }
        // The read of one that is gone will return nothing.
        let reading = self.reading.take_if(|read| read.away.is_some_and(|away| gone.contains(&away.id)));
        let mut lost = unread + reading.and_then(|read| read.away).map_or(0, |away| away.size.count);
        self.away.retain(|away| {
            let is_gone = gone.contains(&away.id);
            lost += if is_gone { away.size.count } else { 0 };
            !is_gone
        });
        lost
    }

    /// The journal has lost all that it had. Returns the spans that it alone held.
    pub(super) fn on_all_gone(&mut self) -> usize {
        let lost = self.spans();
        self.away.clear();
        self.unread = 0;
        // The answer to a read of an earlier process's batch is about those that the journal has by then.
        self.reading.take_if(|read| read.away.is_some());
        lost
    }

    /// Takes the oldest batch that left memory, for its end.
    pub(super) fn take_oldest(&mut self) -> Option<(BatchId, usize)> {
        self.away.pop_front().map(|away| (away.id, away.size.count))
    }

    /// The journal is nearly full, or is not.
    pub(super) fn set_usage(&mut self, is_above: bool) {
        self.is_above = is_above;
    }

    // Queries.

    /// The journal is nearly full.
    pub(super) fn is_above(&self) -> bool {
        self.is_above
    }

    /// Spans that only the journal holds; a batch that is being read is one of them.
    pub(super) fn spans(&self) -> usize {
        let reading = self.reading.and_then(|read| read.away);
        self.unread + self.away.iter().chain(&reading).map(|away| away.size.count).sum::<usize>()
    }

    /// Spans of earlier processes that were not read yet.
    pub(super) fn unread(&self) -> usize {
        self.unread
    }

    /// A batch waits that a read could return.
    pub(super) fn is_waiting(&self) -> bool {
        self.reading.is_none() && (self.unread > 0 || !self.away.is_empty())
    }

    /// A batch waits, or is being read.
    pub(super) fn is_empty(&self) -> bool {
        self.unread == 0 && self.away.is_empty() && self.reading.is_none()
    }

    /// The size of the oldest batch that `may_go`, of those that left memory.
    pub(super) fn next_size(&self, may_go: impl Fn(Size) -> bool) -> Option<Size> {
        self.away.iter().map(|away| away.size).find(|size| may_go(*size))
    }

    /// The instant at which the oldest batch was accepted; one of an earlier process counts from the start of durable
    /// mode.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let reading = self.reading.and_then(|read| read.away);
        let found = self.accepted.filter(|_| self.unread > 0);
        self.away.front().into_iter().chain(&reading).map(|away| away.accepted).chain(found).min()
    }

    /// This batch has left memory.
    pub(super) fn has(&self, id: BatchId) -> bool {
        self.away.iter().any(|away| away.id == id)
    }

    /// A batch is being read.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// The instant before which no read begins, after a failure.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }
}
