//! Durable mode: the journal record of each batch in memory, from before the batch is offered until it has ended.
//!
//! Off is a state like the others: no record is ever opened then, and every method finds nothing to do.

mod leaving;
mod trouble;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use otlp_payload::{BatchId, Payload};
use span_buffer::Entry;

pub(super) use self::leaving::LeftBehind;
use super::batch::Batch;
use super::effects::{Commit, Effect};
use super::kept::Kept;
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
    /// The commit that the journal thread has, or the effect with it.
    committing: Option<Committing>,
    /// The journal thread knows that marks wait.
    is_mark_announced: bool,
    pub(super) kept: Kept,
    /// The journal reads a batch by its id.
    can_read: bool,
    /// The journal refused an append because older batches are in its way: no append before it has room.
    is_full: bool,
    /// The next commit writes marks that make room.
    makes_room: bool,
    /// The instant of the next append to a journal that is full.
    append_at: Option<Instant>,
    /// The journal has lost batches that are in memory: they are appended anew as soon as they are at hand.
    has_gone: bool,
    /// The journal thread is asked to remove the oldest segment.
    is_removing: bool,
    /// The journal thread found no such segment: the core asks again at this instant.
    remove_at: Option<Instant>,
    /// Batches vanished from the journal at this instant.
    vanished_at: Option<Instant>,
    /// Batches that a shutdown leaves in the journal.
    left: Vec<LeftBehind>,
    /// Batches that a shutdown leaves there if the last sync makes them durable.
    last: Vec<Entry<Batch>>,
    /// The journal thread did not answer in time: no `export` call waits for it until it does.
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

struct Record {
    /// Pieces that have not ended, and their spans.
    pieces: usize,
    spans: usize,
    state: RecordState,
    /// Failed appends.
    failures: u32,
    /// The `export` call of the batch has not offered it yet: the ledger does not count its spans.
    is_new: bool,
}

/// The batches of a commit.
struct Committing {
    append: Vec<BatchId>,
    done: Vec<BatchId>,
}

struct Piece {
    /// The batch that it was cut from.
    whole: BatchId,
    spans: usize,
}

enum RecordState {
    /// Waits for a commit.
    Pending(Payload),
    /// The journal thread appends it.
    Writing,
    /// As durable as the policy asks for.
    Synced,
    /// Appended; the sync that the policy asks for failed.
    Unsynced,
    /// Not appended.
    Failed,
    /// The journal had it and has lost it.
    Gone,
}

impl Record {
    fn new(spans: usize, state: RecordState) -> Self {
        Self { pieces: 1, spans, state, failures: 0, is_new: false }
    }
}

/// A batch that a shutdown has no other place for.
pub(super) enum Left {
    /// The batch stays in the journal for the next start; the number of its spans.
    InJournal(usize),
    /// The last sync decides.
    Undecided,
    /// The journal does not have it.
    Nowhere(Box<Entry<Batch>>),
}

/// The journal thread's result for some records.
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
            committing: None,
            is_mark_announced: false,
            kept: Kept::default(),
            can_read: false,
            is_full: false,
            makes_room: false,
            append_at: None,
            has_gone: false,
            is_removing: false,
            remove_at: None,
            vanished_at: None,
            left: Vec::new(),
            last: Vec::new(),
            is_late: false,
            trouble: None,
            not_durable: 0,
            not_durable_at: None,
            effects: VecDeque::new(),
        }
    }

    pub(super) fn turn_on(&mut self, can_read: bool, now: Instant) {
        self.state = State::On;
        self.can_read = can_read;
        self.kept.turn_on(now);
    }

    // Events: the way of a batch into the journal.

    /// An `export` call has a new batch and is about to offer it. Returns whether the call waits for the commit first.
    pub(super) fn on_submitted(&mut self, payload: &Payload) -> bool {
        if self.state != State::On {
            return false;
        }
        let id = payload.id();
        let record = Record::new(payload.item_count(), RecordState::Pending(payload.clone()));
        self.records.insert(id, Record { is_new: true, ..record });
        self.pending.push_back(id);
        self.commit();
        true
    }

    /// The `export` call offers its batch: the ledger counts the spans from now on.
    pub(super) fn on_offered(&mut self, id: BatchId) {
        if let Some(record) = self.records.get_mut(&id) {
            record.is_new = false;
        }
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

    /// The journal thread has a result for these batches.
    pub(crate) fn on_written(&mut self, ids: &[BatchId], written: Written) {
        self.is_late = false;
        for id in ids {
            // A batch that the journal has lost since waits for another append.
            let is_gone = |record: &Record| matches!(record.state, RecordState::Pending(_) | RecordState::Gone);
            if let Some(record) = self.records.get_mut(id).filter(|record| !is_gone(record)) {
                record.state = match written {
                    Written::Synced => RecordState::Synced,
                    Written::Unsynced => RecordState::Unsynced,
                    Written::Failed => RecordState::Failed,
                };
                record.failures += u32::from(written == Written::Failed);
            }
        }
    }

    /// The journal thread has ended its commit; the next one begins with the batches that arrived meanwhile. Batches
    /// that have ended since wait for the next commit or the next look.
    pub(super) fn on_committed(&mut self) {
        self.committing = None;
        self.is_late = false;
        if self.makes_room && self.done.is_empty() {
            // The marks that make room are written.
            (self.makes_room, self.is_full) = (false, false);
        }
        let waits = if self.is_full { self.makes_room } else { !self.pending.is_empty() };
        if waits {
            self.commit();
        } else {
            self.announce_marks();
        }
    }

    /// The journal thread looks for marks: batches that ended are marked with a commit of their own if no other has
    /// taken them along.
    pub(super) fn on_look(&mut self) {
        self.is_mark_announced = false;
        self.commit();
    }

    /// Has the journal thread look for marks soon, unless it knows of them.
    fn announce_marks(&mut self) {
        if !self.done.is_empty() && !self.is_mark_announced {
            self.is_mark_announced = true;
            self.effects.push_back(Effect::LookForMarks);
        }
    }

    /// The journal takes appends again: this batch, which it refused once and which still waits in memory, is
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
        if self.committing.is_some() {
            return;
        }
        let (mut append, mut bytes) = (Vec::new(), 0);
        while !self.is_full
            && bytes < COMMIT_BYTES
            && let Some(id) = self.pending.pop_front()
        {
            // A batch that has ended meanwhile has no record and needs no append.
            let Some(record) = self.records.get_mut(&id) else { continue };
            let RecordState::Pending(payload) = &record.state else { continue };
            bytes += payload.bytes().len();
            append.push(payload.clone());
            record.state = RecordState::Writing;
        }
        let done = std::mem::take(&mut self.done);
        self.is_mark_announced &= done.is_empty();
        if !append.is_empty() || !done.is_empty() {
            self.committing = Some(Committing { append: append.iter().map(Payload::id).collect(), done: done.clone() });
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
            Some(RecordState::Pending(_) | RecordState::Gone) => {}
            _ => {
                self.done.push(whole);
                if self.committing.is_none() {
                    self.announce_marks();
                }
            }
        }
    }

    /// A file has taken over these batches, all pieces of them.
    pub(super) fn on_handed_over(&mut self, ids: &[BatchId]) {
        ids.iter().for_each(|id| drop(self.records.remove(id)));
    }

    /// A journal that is full is to give this batch up, which it alone holds: its mark precedes the next append.
    pub(super) fn on_kept_ended(&mut self, id: BatchId) {
        self.done.push(id);
        self.makes_room = self.is_full;
        self.commit();
    }

    /// A batch, or a piece of one, was cut into these.
    pub(super) fn on_cut<'a>(&mut self, piece: BatchId, pieces: impl IntoIterator<Item = &'a Payload>) {
        let Piece { whole, spans } = self.take_piece(piece);
        let Some(record) = self.records.get_mut(&whole) else { return };
        record.pieces -= 1;
        record.spans -= spans;
        for payload in pieces {
            let spans = payload.item_count();
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

    /// The batches that a file of these entries takes over from the journal: no piece of them is elsewhere.
    pub(super) fn whole_in(&self, entries: &[Entry<Batch>]) -> Vec<BatchId> {
        let mut here = HashMap::<BatchId, usize>::new();
        if !self.records.is_empty() {
            for entry in entries {
                *here.entry(self.whole_of(entry.item.payload.id())).or_default() += 1;
            }
        }
        // A batch that waits for its append would be appended behind the marks of its file: it ends as others do.
        let is_appended = |record: &&Record| {
            matches!(record.state, RecordState::Writing | RecordState::Synced | RecordState::Unsynced)
        };
        let whole = |(id, pieces): (BatchId, usize)| {
            let record = self.records.get(&id).filter(is_appended);
            record.is_some_and(|record| record.pieces == pieces).then_some(id)
        };
        here.into_iter().filter_map(whole).collect()
    }

    fn whole_of(&self, piece: BatchId) -> BatchId {
        self.pieces.get(&piece).map_or(piece, |piece| piece.whole)
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
    pub(super) fn leave(&mut self, entry: Entry<Batch>) -> Left {
        let id = entry.item.payload.id();
        let whole = self.whole_of(id);
        match self.records.get_mut(&whole) {
            Some(record) if matches!(record.state, RecordState::Synced) => {
                // Its piece never ends: the record is not marked, whatever becomes of the other pieces.
                let spans = entry.size.count;
                record.spans -= spans;
                self.left.push(LeftBehind { id, spans, entry: Some(entry) });
                Left::InJournal(spans)
            }
            Some(_) if self.state == State::On => {
                self.last.push(entry);
                Left::Undecided
            }
            _ => Left::Nowhere(Box::new(entry)),
        }
    }

    /// The journal was synced for the last time. Returns the batches that waited for this sync.
    pub(super) fn close(&mut self) -> Vec<Entry<Batch>> {
        if self.state == State::On {
            self.state = State::Closed;
        }
        self.left.iter_mut().for_each(|left| left.entry = None);
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

    /// The journal is to have this batch and does not have it yet, as durable as the policy asks for.
    pub(super) fn is_expected(&self, id: BatchId) -> bool {
        self.records.get(&id).is_some_and(|record| !matches!(record.state, RecordState::Synced))
    }

    /// Durable mode is on, or was until the journal was synced for the last time.
    pub(crate) fn is_enabled(&self) -> bool {
        self.state != State::Off
    }

    pub(super) fn is_off(&self) -> bool {
        self.state == State::Off
    }

    /// Batches may leave memory for the journal.
    pub(super) fn can_leave(&self) -> bool {
        self.can_read && self.state == State::On
    }

    pub(super) fn is_on(&self) -> bool {
        self.state == State::On
    }

    /// The journal refused an append because older batches are in its way.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Spans of earlier processes that wait in the journal.
    pub(crate) fn unread(&self) -> usize {
        self.kept.unread()
    }

    /// Spans that the ledger counts as waiting or in flight and that are safe in the journal too, as durable as the
    /// policy asks for. They stay safe while the disk thread hangs in the file for them.
    pub(crate) fn also_in_journal(&self) -> u64 {
        let is_counted = |record: &&Record| !record.is_new && matches!(record.state, RecordState::Synced);
        self.records.values().filter(is_counted).map(|record| record.spans as u64).sum()
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

    /// Spans that only the journal holds.
    #[cfg(test)]
    pub(crate) fn kept_spans(&self) -> usize {
        self.kept.spans() + self.left.iter().map(|left| left.spans).sum::<usize>()
    }

    /// Spans that wait for the last sync.
    #[cfg(test)]
    pub(crate) fn last_spans(&self) -> usize {
        super::memory::total(&self.last).count
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
mod tests;
