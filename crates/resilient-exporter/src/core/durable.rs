//! Durable mode: the journal record of each batch in memory, from before the batch is offered until it has ended.
//!
//! Off is a state like the others: no record is ever opened then, and every method finds nothing to do.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use otlp_payload::{BatchId, Payload};
use span_buffer::Entry;

use super::batch::Batch;
use super::effects::{Commit, Effect};
use super::storage;
use crate::report::events::Event;

/// Health mentions batches that were accepted without being durable for this time.
const RECENT: Duration = Duration::from_secs(60);

/// Payload bytes of one group commit, about: the batches behind them form the next one.
const COMMIT_BYTES: usize = 8 * 1_024 * 1_024;

/// Up to here, ids of batches that ended before their append stay in the queue: the search for them would cost more.
const MANY_PENDING: usize = 1_024;

/// The journal records of all batches in memory. The pieces of a batch that was split share one record, the whole,
/// until the last piece has ended.
pub(crate) struct Durable {
    state: State,
    records: HashMap<BatchId, Record>,
    /// The pieces of batches that were cut.
    pieces: HashMap<BatchId, Piece>,
    /// Batches for the next commit, oldest first.
    pending: VecDeque<BatchId>,
    /// Batches that have ended, for the next commit.
    done: Vec<BatchId>,
    /// The disk thread has a commit, or the effect with it.
    is_committing: bool,
    recovery: Recovery,
    /// Spans that a shutdown leaves in the journal and takes out of memory.
    left: usize,
    /// Batches that a shutdown leaves there if the last sync makes them durable.
    last: Vec<Entry<Batch>>,
    /// The disk thread did not answer in time: no `export` call waits for it until it does.
    is_late: bool,
    /// The error of the last failed operation on the journal.
    trouble: Option<String>,
    /// Spans that were accepted without being durable, and the instant of the last of them.
    not_durable: u64,
    not_durable_at: Option<Instant>,
    effects: VecDeque<Effect>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Off,
    On,
    /// The journal was synced for the last time.
    Closed,
}

/// The batches of earlier processes that the journal gives back.
struct Recovery {
    /// Recovered batches count as accepted at the start of durable mode: their age begins anew.
    accepted: Option<Instant>,
    /// Spans that are in the journal and not in memory yet.
    unread: usize,
    /// The disk thread is asked to read a batch.
    is_reading: bool,
    /// Reading failed: no attempt before this instant.
    retry_at: Option<Instant>,
}

struct Record {
    /// Pieces that have not ended, and their spans.
    pieces: usize,
    spans: usize,
    state: RecordState,
    /// Failed appends.
    failures: u32,
}

struct Piece {
    /// The batch that it was cut from.
    whole: BatchId,
    spans: usize,
}

enum RecordState {
    /// Waits for a commit.
    Pending(Payload),
    /// The disk thread appends it.
    Writing,
    /// As durable as the policy asks for.
    Synced,
    /// Appended; the sync that the policy asks for failed.
    Unsynced,
    /// Not appended.
    Failed,
}

impl Record {
    fn new(spans: usize, state: RecordState) -> Self {
        Self { pieces: 1, spans, state, failures: 0 }
    }
}

/// The disk thread's result for some records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    /// As durable as the policy asks for.
    Synced,
    /// Appended; the sync that the policy asks for failed.
    Unsynced,
    /// Not appended.
    Failed,
}

impl Durable {
    pub(super) fn off() -> Self {
        Self {
            state: State::Off,
            records: HashMap::new(),
            pieces: HashMap::new(),
            pending: VecDeque::new(),
            done: Vec::new(),
            is_committing: false,
            recovery: Recovery { accepted: None, unread: 0, is_reading: false, retry_at: None },
            left: 0,
            last: Vec::new(),
            is_late: false,
            trouble: None,
            not_durable: 0,
            not_durable_at: None,
            effects: VecDeque::new(),
        }
    }

    pub(super) fn turn_on(&mut self, now: Instant) {
        self.state = State::On;
        self.recovery.accepted = Some(now);
    }

    // Events: the way of a batch into the journal.

    /// An `export` call has a new batch and is about to offer it. Returns whether the call waits for the commit first.
    pub(super) fn on_submitted(&mut self, payload: &Payload) -> bool {
        if self.state != State::On {
            return false;
        }
        let id = payload.id();
        self.records.insert(id, Record::new(payload.span_count(), RecordState::Pending(payload.clone())));
        self.pending.push_back(id);
        self.commit();
        true
    }

    /// The `export` call waits no longer for the commit of this batch: the batch is accepted, durable or not.
    pub(crate) fn on_wait_ended(&mut self, id: BatchId, spans: usize, now: Instant) {
        let Some(record) = self.records.get(&id) else { return };
        self.is_late |= matches!(record.state, RecordState::Pending(_) | RecordState::Writing);
        if !matches!(record.state, RecordState::Synced) {
            self.not_durable += spans as u64;
            self.not_durable_at = Some(now);
        }
    }

    /// The disk thread has a result for these batches.
    pub(crate) fn on_written(&mut self, ids: &[BatchId], written: Written) {
        self.is_late = false;
        for id in ids {
            if let Some(record) = self.records.get_mut(id) {
                record.state = match written {
                    Written::Synced => RecordState::Synced,
                    Written::Unsynced => RecordState::Unsynced,
                    Written::Failed => RecordState::Failed,
                };
                record.failures += u32::from(written == Written::Failed);
            }
        }
    }

    /// The disk thread has ended its commit; the next one begins with the batches that arrived meanwhile.
    pub(super) fn on_committed(&mut self) {
        self.is_committing = false;
        self.is_late = false;
        self.commit();
    }

    /// The disk thread begins a turn: batches that ended are marked with a commit of their own if no other takes them
    /// along.
    pub(super) fn on_disk_turn(&mut self) {
        self.commit();
    }

    /// The journal accepts appends again: this batch, which it refused once and which still waits in memory, is
    /// appended once more. A batch that is refused twice is itself the cause.
    pub(super) fn retry_append(&mut self, payload: &Payload) {
        let Some(record) = self.records.get_mut(&payload.id()) else { return };
        if matches!(record.state, RecordState::Failed) && record.failures == 1 {
            record.state = RecordState::Pending(payload.clone());
            self.pending.push_back(payload.id());
        }
    }

    /// Queues the next commit, unless one is under way.
    fn commit(&mut self) {
        if self.is_committing {
            return;
        }
        let (mut append, mut bytes) = (Vec::new(), 0);
        while bytes < COMMIT_BYTES
            && let Some(id) = self.pending.pop_front()
        {
            // A batch that has ended meanwhile has no record and needs no append.
            let Some(record) = self.records.get_mut(&id) else { continue };
            if let RecordState::Pending(payload) = std::mem::replace(&mut record.state, RecordState::Writing) {
                bytes += payload.bytes().len();
                append.push(payload);
            }
        }
        let done = std::mem::take(&mut self.done);
        if !append.is_empty() || !done.is_empty() {
            self.is_committing = true;
            self.effects.push_back(Effect::Commit(Commit { append, done }));
        }
    }

    // Events: the end of a batch.

    /// A batch, or a piece of one, has ended.
    pub(super) fn on_ended(&mut self, piece: BatchId) {
        let Piece { whole, spans } = self.take_piece(piece);
        let Some(record) = self.records.get_mut(&whole) else { return };
        record.pieces -= 1;
        record.spans -= spans;
        if record.pieces > 0 {
            return;
        }
        match self.records.remove(&whole).map(|record| record.state) {
            // The journal has nothing of it. While the disk hangs these ids would fill the queue.
            Some(RecordState::Pending(_)) if self.pending.len() > MANY_PENDING + 2 * self.records.len() => {
                self.pending.retain(|id| self.records.contains_key(id));
            }
            Some(RecordState::Pending(_)) => {}
            _ => self.done.push(whole),
        }
    }

    /// A batch, or a piece of one, was cut into these.
    pub(super) fn on_cut<'a>(&mut self, piece: BatchId, pieces: impl IntoIterator<Item = &'a Payload>) {
        let Piece { whole, spans } = self.take_piece(piece);
        let Some(record) = self.records.get_mut(&whole) else { return };
        record.pieces -= 1;
        record.spans -= spans;
        for payload in pieces {
            let spans = payload.span_count();
            record.pieces += 1;
            record.spans += spans;
            self.pieces.insert(payload.id(), Piece { whole, spans });
        }
    }

    /// Takes a piece from the list; a batch that was not cut is the only piece of itself.
    fn take_piece(&mut self, id: BatchId) -> Piece {
        let spans = || self.records.get(&id).map_or(0, |record| record.spans);
        self.pieces.remove(&id).unwrap_or_else(|| Piece { whole: id, spans: spans() })
    }

    /// The batches that a file of these entries takes over: no piece of them is elsewhere.
    pub(super) fn whole_in(&self, entries: &[Entry<Batch>]) -> Vec<BatchId> {
        let mut here = HashMap::<BatchId, usize>::new();
        if !self.records.is_empty() {
            for entry in entries {
                *here.entry(self.whole_of(entry.item.payload.id())).or_default() += 1;
            }
        }
        let whole = |(id, pieces): (BatchId, usize)| {
            self.records.get(&id).is_some_and(|record| record.pieces == pieces).then_some(id)
        };
        here.into_iter().filter_map(whole).collect()
    }

    fn whole_of(&self, piece: BatchId) -> BatchId {
        self.pieces.get(&piece).map_or(piece, |piece| piece.whole)
    }

    // Events: recovery.

    /// The journal has found spans of earlier processes. Returns how many it accounts for.
    pub(super) fn on_found(&mut self, spans: u64) -> usize {
        if self.state == State::Off {
            return 0;
        }
        let spans = usize::try_from(spans).unwrap_or(usize::MAX);
        self.recovery.unread += spans;
        spans
    }

    /// Asks the disk thread for the next batch, if one waits and none is asked for.
    pub(super) fn ask_for_recovered(&mut self, now: Instant) {
        let recovery = &mut self.recovery;
        if recovery.unread > 0 && !recovery.is_reading && recovery.retry_at.is_none_or(|instant| now >= instant) {
            recovery.is_reading = true;
            self.effects.push_back(Effect::Recover);
        }
    }

    /// The disk thread has read a batch. Returns how many of its spans the journal had not promised, and when the batch
    /// counts as accepted.
    pub(super) fn on_recovered(&mut self, payload: &Payload) -> (usize, Option<Instant>) {
        let spans = payload.span_count();
        self.records.insert(payload.id(), Record::new(spans, RecordState::Synced));
        let surplus = spans.saturating_sub(self.recovery.unread);
        self.recovery.unread -= spans - surplus;
        self.recovery.is_reading = false;
        self.recovery.retry_at = None;
        (surplus, self.recovery.accepted)
    }

    /// Spans that were found are damaged, or missing at the end. Returns how many of them were still expected.
    pub(super) fn on_recovery_lost(&mut self, spans: u64) -> usize {
        let spans = usize::try_from(spans).unwrap_or(usize::MAX).min(self.recovery.unread);
        self.recovery.unread -= spans;
        self.recovery.is_reading = false;
        spans
    }

    /// The storage failed while the disk thread read.
    pub(crate) fn on_recovery_failed(&mut self, now: Instant) {
        self.recovery.is_reading = false;
        self.recovery.retry_at = Some(now + storage::RETRY);
    }

    // Events: trouble and the end.

    /// The last operation on the journal succeeded, or failed with this error.
    pub(crate) fn on_trouble(&mut self, trouble: Option<String>) {
        if let Some(error) = &trouble
            && self.trouble.is_none()
        {
            self.effects.push_back(Effect::Publish(Event::JournalTrouble { error: error.clone() }));
        }
        self.trouble = trouble;
    }

    /// A shutdown has no other place for this batch. Returns the batch if the journal does not have it either; whether
    /// it has one that waits for the last sync is known after that.
    pub(super) fn leave(&mut self, entry: Entry<Batch>) -> Option<Entry<Batch>> {
        let whole = self.whole_of(entry.item.payload.id());
        match self.records.get(&whole).map(|record| &record.state) {
            Some(RecordState::Synced) => self.left += entry.size.count,
            Some(_) if self.state == State::On => self.last.push(entry),
            _ => return Some(entry),
        }
        None
    }

    /// A recovered batch stays in the journal, since the shutdown came first.
    pub(super) fn leave_recovered(&mut self, spans: usize) {
        self.left += spans;
    }

    /// The journal was synced for the last time. Returns the batches that waited for this sync.
    pub(super) fn close(&mut self) -> Vec<Entry<Batch>> {
        if self.state == State::On {
            self.state = State::Closed;
        }
        std::mem::take(&mut self.last)
    }

    // Queries and the poll.

    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// An `export` call has reason to wait for the commit of this batch.
    pub(crate) fn is_committing(&self, id: BatchId) -> bool {
        let record = self.records.get(&id).filter(|_| !self.is_late);
        record.is_some_and(|record| matches!(record.state, RecordState::Pending(_) | RecordState::Writing))
    }

    /// Batches have records: their marks want to be looked for soon.
    pub(super) fn has_records(&self) -> bool {
        !self.records.is_empty() || !self.done.is_empty() || self.recovery.unread > 0
    }

    /// Spans of earlier processes that wait in the journal.
    pub(crate) fn unread(&self) -> usize {
        self.recovery.unread
    }

    /// Spans that the ledger counts as waiting or in flight and that are safe in the journal, as durable as the policy
    /// asks for. They stay safe while the disk thread hangs in the file for them.
    pub(crate) fn left_in_journal(&self) -> u64 {
        let synced = self.records.values().filter(|record| matches!(record.state, RecordState::Synced));
        (self.recovery.unread + synced.map(|record| record.spans).sum::<usize>()) as u64
    }

    /// Spans that were accepted without being as durable as the policy asks for; none while durable mode is off.
    pub(crate) fn accepted_not_durable(&self) -> Option<u64> {
        (self.state != State::Off).then_some(self.not_durable)
    }

    pub(crate) fn is_recently_not_durable(&self, now: Instant) -> bool {
        self.not_durable_at.is_some_and(|instant| now.saturating_duration_since(instant) < RECENT)
    }

    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    #[cfg(test)]
    pub(crate) fn left_spans(&self) -> usize {
        self.left + super::memory::total(&self.last).count
    }

    #[cfg(test)]
    pub(crate) fn end_for_test(&mut self, id: BatchId) {
        self.on_ended(id);
    }

    /// Ids and records that take memory.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> usize {
        self.pending.len() + self.done.len() + self.records.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn payload(seq: u64, spans: usize) -> Payload {
        let id = BatchId { incarnation: 1, seq };
        Payload::new(id, SystemTime::UNIX_EPOCH, spans, bytes::Bytes::from_static(b"spans"))
    }

    #[test]
    fn the_pieces_of_a_synced_batch_that_have_not_ended_are_in_the_journal() {
        let mut durable = Durable::off();
        durable.state = State::On;
        let (whole, other) = (payload(0, 9), payload(1, 5));
        assert!(durable.on_submitted(&whole) && durable.on_submitted(&other));
        assert_eq!(durable.left_in_journal(), 0, "not yet synced");
        durable.on_written(&[whole.id()], Written::Synced);
        durable.on_written(&[other.id()], Written::Unsynced);
        assert_eq!(durable.left_in_journal(), 9);
        let (left, right) = (payload(2, 5), payload(3, 4));
        durable.on_cut(whole.id(), [&left, &right]);
        assert_eq!(durable.left_in_journal(), 9);
        durable.on_ended(left.id());
        assert_eq!(durable.left_in_journal(), 4);
        let pieces = [payload(4, 1), payload(5, 3)];
        durable.on_cut(right.id(), &pieces);
        durable.on_ended(pieces[1].id());
        assert_eq!(durable.left_in_journal(), 1);
        durable.on_ended(pieces[0].id());
        assert_eq!((durable.left_in_journal(), durable.pieces.len(), durable.done.len()), (0, 0, 1));
    }
}
