//! Batches that wait in memory are compressed by a thread of their own, one job at a time.

use std::time::Instant;

use otlp_payload::{BatchId, Payload};
use span_buffer::Entry;

use super::memory::Memory;
use super::{Batch, Core, Damaged, Effect, Packed, Phase, Spill};
use crate::report::ledger::{DropReason, Place};

/// The job of the thread that compresses.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Packing {
    #[default]
    Idle,
    /// The thread has requests.
    Busy,
    /// The thread has ended: batches stay as they are.
    Ended,
}

impl Core {
    /// The same, whose waiting batches are compressed. Not in durable mode: there, batches leave memory for the
    /// journal, and are appended to it anew from memory.
    pub(crate) fn with_compression(mut self) -> Self {
        self.memory = Memory::with_compression(self.policy.limits);
        self
    }

    /// Has the oldest batches that wait for longer than a second compressed.
    pub(super) fn begin_packing(&mut self, now: Instant) {
        if self.phase != Phase::Running || self.packing != Packing::Idle {
            return;
        }
        let ripe = self.memory.ripe(now);
        if !ripe.is_empty() {
            self.packing = Packing::Busy;
            self.effects.push_back(Effect::Pack(ripe));
        } else if let Some(instant) = self.memory.ripe_at() {
            self.wake_at(instant);
        }
    }

    /// Requests were compressed, or are not worth it. A batch that has left memory meanwhile, or is in a call, stays as
    /// it is.
    pub(crate) fn on_packed(&mut self, results: Vec<(BatchId, Option<Packed>)>, now: Instant) {
        self.memory.on_packed(results);
        if self.packing == Packing::Busy {
            self.packing = Packing::Idle;
        }
        self.begin_packing(now);
    }

    /// Batches wait that the thread will compress.
    pub(crate) fn is_packing_due(&self) -> bool {
        self.packing == Packing::Idle && self.memory.ripe_at().is_some()
    }

    /// The thread that compresses has ended.
    pub(super) fn on_packer_ended(&mut self) {
        self.packing = Packing::Ended;
    }

    // Compressed forms that do not give their requests back.

    /// The call cannot go out: the compressed form of its batch is damaged.
    pub(crate) fn on_call_damaged(&mut self, id: u64, damaged: &Damaged, now: Instant) {
        let Some(position) = self.in_flight.iter().position(|call| call.id == id) else { return };
        let call = self.in_flight.swap_remove(position);
        self.endpoints.of_mut(call.endpoint).on_neutral(call.ticket, now);
        if let super::Work::Live(entry) = call.work {
            self.memory.on_call_ended(&entry);
            self.accounts.transfer(entry.size.count, Place::InFlight, Place::Buffered);
            self.end_damaged(&entry, damaged);
        }
    }

    /// The disk thread cannot write these batches of its file, or of its dead letters: their compressed forms are
    /// damaged.
    pub(crate) fn on_write_damaged(&mut self, entries: &[(Entry<Batch>, Damaged)]) {
        for (entry, damaged) in entries {
            self.memory.on_write_ended(std::slice::from_ref(entry));
            self.end_damaged(entry, damaged);
        }
    }

    /// The file that the disk thread was to write has no batch that can be written.
    pub(crate) fn on_spill_empty(&mut self, Spill { entries, .. }: &Spill) {
        debug_assert!(entries.is_empty(), "they were dropped");
        self.spills.on_written();
        self.spill_next();
    }

    /// Drops a batch whose compressed form is damaged.
    pub(super) fn end_damaged(&mut self, entry: &Entry<Batch>, damaged: &Damaged) {
        self.durable.on_ended(entry.item.payload.id());
        self.on_dropped(entry);
        self.accounts.drop_spans(entry.size.count, Place::Buffered, DropReason::Corrupt, damaged.to_string());
    }

    /// The request of this batch, which is neither in the buffer nor with a thread. Drops a batch whose compressed form
    /// is damaged.
    pub(super) fn plain_or_drop(&mut self, entry: &Entry<Batch>) -> Option<Payload> {
        match entry.item.payload.plain() {
            Ok(payload) => Some(payload),
            Err(damaged) => {
                self.end_damaged(entry, &damaged);
                None
            }
        }
    }
}
