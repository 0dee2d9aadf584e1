//! Batches that leave memory for the journal, and return.

use otlp_payload::{BatchId, Payload};
use span_buffer::Entry;

use super::super::Batch;
use super::{Durable, Record, RecordState};

/// A batch that a shutdown has left in the journal.
pub(in crate::core) struct LeftBehind {
    pub(in crate::core) id: BatchId,
    pub(in crate::core) spans: usize,
    /// The batch itself, until the last sync.
    pub(in crate::core) entry: Option<Entry<Batch>>,
}

impl Durable {
    /// The journal has the whole of this batch, and returns it: memory need not hold it.
    pub(crate) fn may_leave(&self, entry: &Entry<Batch>) -> bool {
        self.can_leave()
            && self.records.get(&entry.item.payload.id()).is_some_and(|record| {
                record.pieces == 1 && matches!(record.state, RecordState::Synced) && !entry.item.is_piece()
            })
    }

    /// The journal has this batch, or the whole that it is a piece of.
    pub(crate) fn has_synced(&self, entry: &Entry<Batch>) -> bool {
        let record = self.records.get(&self.whole_of(entry.item.payload.id()));
        record.is_some_and(|record| matches!(record.state, RecordState::Synced))
    }

    /// The batch leaves memory, and stays in the journal.
    pub(in crate::core) fn on_left(&mut self, entry: &Entry<Batch>) {
        self.records.remove(&entry.item.payload.id());
        self.kept.on_left(entry);
    }

    /// The journal has given this batch of an earlier process. Returns whether this process had read the batch already,
    /// before it lost its hold on that journal and found it again. If the batch, or a piece of it, is in memory, the
    /// journal has it again, under the record that there is; or it has left memory since for the own journal;
    /// or it has ended, and its mark is under way.
    pub(in crate::core) fn on_found_again(&mut self, id: BatchId) -> bool {
        if let Some(record) = self.records.get_mut(&id) {
            record.state = RecordState::Synced;
            return true;
        }
        // Only after a loss: the search takes time.
        self.vanished_at.is_some() && (self.kept.has(id) || self.is_marking(id))
    }

    /// The batch has ended, and the journal thread has its mark, or is to get it.
    pub(crate) fn is_marking(&self, id: BatchId) -> bool {
        self.done.contains(&id) || self.committing.as_ref().is_some_and(|commit| commit.done.contains(&id))
    }

    /// A batch that only the journal held is in memory.
    pub(in crate::core) fn on_returned(&mut self, payload: &Payload) {
        self.records.insert(payload.id(), Record::new(payload.item_count(), RecordState::Synced));
    }
}
