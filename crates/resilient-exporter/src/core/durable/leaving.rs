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

    /// A batch that only the journal held is in memory.
    pub(in crate::core) fn on_returned(&mut self, payload: &Payload) {
        self.records.insert(payload.id(), Record::new(payload.span_count(), RecordState::Synced));
    }
}
