//! The memory that batches take: in the buffer, in calls, and on their way to the disk. All of it counts against the
//! limits.

use std::time::Instant;

use otlp_payload::Payload;
use span_buffer::{Buffer, Entry, Limits, Size, Snapshot};

/// A full buffer moves its oldest batches to the disk, from 7/8 of a limit down to 3/4 in one go. The eighth above
/// takes the batches that arrive while the disk thread writes.
const SPILL_ABOVE: (usize, usize) = (7, 8);
const SPILL_DOWN_TO: (usize, usize) = (3, 4);

/// A batch with this many charged calls lets batches with fewer go first.
const STEP_ASIDE_AFTER: u32 = 2;

pub(crate) struct Memory {
    buffer: Buffer<Payload>,
    in_flight: Size,
    /// Batches that the disk thread is to write: spills and dead letters.
    writing: Size,
    /// Batches that a drain has tried once.
    tried: Vec<Entry<Payload>>,
}

impl Memory {
    pub(super) fn new(limits: Limits) -> Self {
        Self { buffer: Buffer::new(limits), in_flight: Size::default(), writing: Size::default(), tried: Vec::new() }
    }

    // The buffer.

    /// Adds a batch; returns the batches that leave for it, the new one itself if nothing else would help.
    pub(super) fn push(&mut self, payload: Payload, size: Size, now: Instant) -> Vec<Entry<Payload>> {
        self.buffer.push_beside(payload, size, self.away(), now)
    }

    /// Returns a batch that was taken to its place by age.
    pub(super) fn give_back(&mut self, entry: Entry<Payload>) {
        self.buffer.give_back(entry);
    }

    /// Takes the batch of the next call: the oldest that has not failed twice, else the oldest of those that failed the
    /// least, so that a batch which always fails blocks no other.
    pub(super) fn take_next(&mut self) -> Option<Entry<Payload>> {
        let fresh = self.buffer.take_where(|entry| entry.calls < STEP_ASIDE_AFTER);
        fresh.or_else(|| {
            let fewest = self.buffer.iter().map(|entry| entry.calls).min()?;
            self.buffer.take_where(|entry| entry.calls == fewest)
        })
    }

    /// Takes the oldest batches that are to go to the disk before a batch of this size is added.
    pub(super) fn take_surplus(&mut self, size: Size) -> Vec<Entry<Payload>> {
        let mut held = sum(sum(self.buffer.total(), self.in_flight), size);
        let mut surplus = Vec::new();
        if self.is_over(held, SPILL_ABOVE) {
            while self.is_over(held, SPILL_DOWN_TO) {
                let Some(entry) = self.buffer.take() else { break };
                held = less(held, entry.size);
                surplus.push(entry);
            }
        }
        surplus
    }

    /// Takes the oldest batches that must go before a batch of this size fits. None, if the new batch would not fit
    /// beside the batches that are away even with an empty buffer.
    pub(super) fn take_excess(&mut self, size: Size) -> Vec<Entry<Payload>> {
        let beside = sum(self.away(), size);
        let mut excess = Vec::new();
        if !self.is_over(beside, (1, 1)) {
            while self.is_over(sum(self.buffer.total(), beside), (1, 1)) {
                let Some(entry) = self.buffer.take() else { break };
                excess.push(entry);
            }
        }
        excess
    }

    /// Takes the batches that have reached the age limit.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Entry<Payload>> {
        self.buffer.expire(now)
    }

    // Batches that are away.

    pub(super) fn on_sent(&mut self, size: Size) {
        self.in_flight = sum(self.in_flight, size);
    }

    pub(super) fn on_call_ended(&mut self, size: Size) {
        self.in_flight = less(self.in_flight, size);
    }

    pub(super) fn on_write_begun(&mut self, size: Size) {
        self.writing = sum(self.writing, size);
    }

    pub(super) fn on_write_ended(&mut self, size: Size) {
        self.writing = less(self.writing, size);
    }

    /// A drain has tried this batch once.
    pub(super) fn set_tried(&mut self, entry: Entry<Payload>) {
        self.tried.push(entry);
    }

    /// Begins another round of a drain: the tried batches wait in the buffer again.
    pub(super) fn try_again(&mut self) {
        for entry in std::mem::take(&mut self.tried) {
            self.buffer.give_back(entry);
        }
    }

    /// Takes every waiting batch at the end of a drain, oldest first.
    pub(super) fn take_all(&mut self) -> Vec<Entry<Payload>> {
        let mut rest = std::mem::take(&mut self.tried);
        rest.extend(self.buffer.drain());
        rest.sort_by_key(|entry| entry.accepted);
        rest
    }

    // Queries.

    #[cfg(test)]
    pub(crate) fn limits(&self) -> Limits {
        self.buffer.limits()
    }

    /// The batches that wait in the buffer, oldest first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Entry<Payload>> {
        self.buffer.iter()
    }

    #[cfg(test)]
    pub(crate) fn waiting_size(&self) -> Size {
        self.buffer.total()
    }

    pub(crate) fn writing_size(&self) -> Size {
        self.writing
    }

    #[cfg(test)]
    pub(crate) fn tried_size(&self) -> Size {
        total(&self.tried)
    }

    pub(crate) fn snapshot(&self, now: Instant) -> Snapshot {
        self.buffer.snapshot(now)
    }

    /// No batch waits for its next call.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub(super) fn has_tried(&self) -> bool {
        !self.tried.is_empty()
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.buffer.next_expiry()
    }

    /// The batches that wait take more than half of a limit.
    pub(super) fn is_waiting_above_half(&self) -> bool {
        self.is_over(self.buffer.total(), (1, 2))
    }

    /// All batches together take more than half of a limit.
    pub(super) fn is_held_above_half(&self) -> bool {
        self.is_over(sum(self.buffer.total(), self.away()), (1, 2))
    }

    /// A batch of this size is larger than the whole buffer.
    pub(super) fn is_larger_than_all(&self, size: Size) -> bool {
        self.is_over(size, (1, 1))
    }

    fn away(&self) -> Size {
        sum(sum(self.in_flight, self.writing), total(&self.tried))
    }

    fn is_over(&self, size: Size, (part, whole): (usize, usize)) -> bool {
        let limits = self.buffer.limits();
        let above = |value: usize, limit: usize| value > limit / whole * part + limit % whole * part / whole;
        above(size.count, limits.max_count) || above(size.bytes, limits.max_bytes)
    }

    /// Loses a batch behind the ledger's back.
    #[cfg(test)]
    pub(crate) fn lose_oldest(&mut self) {
        drop(self.buffer.take());
    }
}

pub(super) fn size_of(payload: &Payload) -> Size {
    Size { count: payload.span_count(), bytes: payload.bytes().len() }
}

pub(super) fn total(entries: &[Entry<Payload>]) -> Size {
    entries.iter().fold(Size::default(), |size, entry| sum(size, entry.size))
}

fn sum(one: Size, other: Size) -> Size {
    Size { count: one.count + other.count, bytes: one.bytes + other.bytes }
}

fn less(whole: Size, part: Size) -> Size {
    Size { count: whole.count - part.count, bytes: whole.bytes - part.bytes }
}
