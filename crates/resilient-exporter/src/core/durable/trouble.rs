//! A journal that is full, that gives batches up, or that has lost some or all of them.

use std::collections::HashSet;
use std::time::Instant;

use otlp_payload::{BatchId, Payload};
use span_buffer::Entry;

use super::super::{Batch, Effect, storage};
use super::{Durable, LeftBehind, RECENT, Record, RecordState};
use crate::seams::journal::{Lost, Vanished};

impl Durable {
    /// Older batches are in the way of these: they wait for the next commit.
    pub(in crate::core) fn on_full(&mut self, payloads: Vec<Payload>, now: Instant) {
        self.is_full = true;
        self.append_at = now.checked_add(storage::RETRY);
        for payload in payloads.into_iter().rev() {
            let id = payload.id();
            if let Some(record) = self.records.get_mut(&id) {
                record.state = RecordState::Pending(payload);
                self.pending.push_front(id);
            }
        }
    }

    /// The journal may have room for the batches that wait.
    pub(in crate::core) fn on_room(&mut self) {
        if std::mem::take(&mut self.is_full) {
            self.commit();
        }
    }

    /// Batches that have ended make room too: the next append is tried after a while. Returns the instant until then.
    pub(in crate::core) fn retry_when_full(&mut self, now: Instant) -> Option<Instant> {
        let at = self.append_at.filter(|_| self.is_full)?;
        if now >= at {
            self.on_room();
            return None;
        }
        Some(at)
    }

    /// The journal has lost these batches: they are appended anew once [`on_present`](Self::on_present) has their
    /// payloads.
    fn on_gone(&mut self, is_gone: impl Fn(BatchId, &RecordState) -> bool) {
        for (id, record) in &mut self.records {
            if !matches!(record.state, RecordState::Pending(_)) && is_gone(*id, &record.state) {
                record.state = RecordState::Gone;
                self.has_gone = true;
            }
        }
    }

    /// The journal no longer has these batches. Returns the spans of those that it alone held.
    fn on_lost(&mut self, lost: &Lost) -> usize {
        let gone = lost.batches.iter().copied().collect::<HashSet<_>>();
        self.on_gone(|id, _| gone.contains(&id));
        self.kept.on_gone(&gone, lost.unread)
    }

    /// Batches have vanished from the journal, during a commit of these if there are any. Returns the spans of those
    /// that it alone held: of batches that are lost, and of those that are taken over.
    pub(in crate::core) fn on_vanished(
        &mut self,
        vanished: &Vanished,
        committing: &[Payload],
        now: Instant,
    ) -> (usize, usize) {
        self.vanished_at = Some(now);
        match vanished {
            Vanished::Batches { lost, taken_over } => (self.on_lost(lost), self.on_lost(taken_over)),
            Vanished::All => {
                let committing = committing.iter().map(Payload::id).collect::<HashSet<_>>();
                // A commit that has not begun appends its batches to the new journal, also those that have ended.
                let next = self.committing.as_ref().filter(|_| committing.is_empty());
                self.done.retain(|id| next.is_some_and(|next| next.append.contains(id)));
                self.on_gone(|id, state| !matches!(state, RecordState::Writing) || committing.contains(&id));
                (self.kept.on_all_gone(), 0)
            }
        }
    }

    /// Batches have vanished from the journal lately.
    pub(crate) fn has_recently_vanished(&self, now: Instant) -> bool {
        self.vanished_at.is_some_and(|instant| now.saturating_duration_since(instant) < RECENT)
    }

    /// Takes the batches that a shutdown has left in the journal, and which that has lost since.
    pub(in crate::core) fn take_left_behind(&mut self) -> Vec<LeftBehind> {
        let Self { left, records, pieces, .. } = self;
        let is_gone = |left: &mut LeftBehind| {
            let whole = pieces.get(&left.id).map_or(left.id, |piece| piece.whole);
            let record = records.get_mut(&whole).filter(|record| matches!(record.state, RecordState::Gone));
            record.is_some_and(|record| {
                record.spans += left.spans;
                true
            })
        };
        left.extract_if(.., is_gone).collect()
    }

    /// A batch that a shutdown had left in the journal is appended anew, and waits for the last sync.
    pub(in crate::core) fn leave_again(&mut self, entry: Entry<Batch>) {
        self.on_batch_present(&entry.item);
        self.last.push(entry);
    }

    /// This batch, or piece of one, is in memory: if the journal has lost it, it is appended anew.
    pub(in crate::core) fn on_present(&mut self, payload: &Payload) {
        if !self.has_gone {
            return;
        }
        let id = payload.id();
        let whole = self.whole_of(id);
        let Some(record) = self.records.get_mut(&whole) else { return };
        if !matches!(record.state, RecordState::Gone) {
            return;
        }
        if whole == id {
            record.state = RecordState::Pending(payload.clone());
        } else {
            // The whole is not at hand any more: each piece has a record of its own from now on.
            let spans = payload.item_count();
            self.pieces.remove(&id);
            record.pieces -= 1;
            record.spans -= spans;
            if record.pieces == 0 {
                self.records.remove(&whole);
            }
            self.records.insert(id, Record::new(spans, RecordState::Pending(payload.clone())));
        }
        self.pending.push_back(id);
    }

    /// The same for a batch, which in durable mode is not compressed.
    pub(in crate::core) fn on_batch_present(&mut self, batch: &Batch) {
        batch.payload.as_plain().into_iter().for_each(|payload| self.on_present(payload));
    }

    /// Begins a commit with the batches that are appended anew.
    pub(in crate::core) fn append_anew(&mut self) {
        if !self.has_gone {
            return;
        }
        self.has_gone = self.records.values().any(|record| matches!(record.state, RecordState::Gone));
        self.commit();
    }

    /// Has the journal thread remove the oldest segment, unless it is about to, or could not within the last second.
    pub(in crate::core) fn remove_oldest(&mut self, now: Instant) {
        if !self.is_removing && self.remove_at.is_none_or(|instant| now >= instant) {
            self.is_removing = true;
            self.effects.push_back(Effect::RemoveOldest);
        }
    }

    /// The journal had no segment to remove, or failed to.
    pub(in crate::core) fn on_nothing_removed(&mut self, now: Instant) {
        self.is_removing = false;
        self.remove_at = now.checked_add(storage::RETRY);
    }

    /// The journal has given these batches up. Returns the spans of those that it alone held.
    pub(in crate::core) fn on_given_up(&mut self, given_up: &Lost) -> usize {
        self.is_removing = false;
        self.on_lost(given_up)
    }
}
