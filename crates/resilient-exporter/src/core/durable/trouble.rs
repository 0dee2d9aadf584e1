//! A journal that is full, that gives batches up, or that has lost all that it had.

use std::collections::HashSet;
use std::time::Instant;

use otlp_payload::{BatchId, Payload};

use super::super::{Effect, storage};
use super::{Durable, Record, RecordState};
use crate::seams::journal::GivenUp;

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

    /// The journal has lost these batches, or all: they are appended anew once [`on_present`](Self::on_present) has
    /// their payloads.
    pub(in crate::core) fn on_gone(&mut self, is_gone: impl Fn(BatchId) -> bool) {
        for (id, record) in &mut self.records {
            if is_gone(*id) && !matches!(record.state, RecordState::Pending(_)) {
                record.state = RecordState::Gone;
                self.has_gone = true;
            }
        }
    }

    /// The journal has lost all that it had. Returns the spans that only the journal held.
    pub(in crate::core) fn on_vanished(&mut self, now: Instant) -> usize {
        self.vanished_at = Some(now);
        self.done.clear();
        self.on_gone(|_| true);
        self.kept.on_vanished()
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
            let spans = payload.span_count();
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
    pub(in crate::core) fn on_given_up(&mut self, given_up: &[GivenUp]) -> usize {
        self.is_removing = false;
        // A batch that has ended is known too: the journal lacked its mark alone.
        let is_known = |id: BatchId| self.records.contains_key(&id) || self.done.contains(&id);
        let lost = self.kept.on_given_up(given_up, is_known);
        let gone = given_up.iter().map(|one| one.id).collect::<HashSet<_>>();
        self.on_gone(|id| gone.contains(&id));
        lost
    }
}
