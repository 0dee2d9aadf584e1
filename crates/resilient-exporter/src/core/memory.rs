//! Room in memory: what counts against the limits, what goes to the disk in time, and what is given up.

use std::time::Instant;

use otlp_payload::Payload;
use span_buffer::{Entry, Limits, Size};

use super::{Core, Effect, Plan};
use crate::report::events::Event;
use crate::report::ledger::{DropReason, Place};

/// A full buffer moves its oldest to the disk from 7/8 of a limit down to 3/4 in one go: the eighth above is room for
/// what comes in while the disk writes.
const SPILL_ABOVE: (usize, usize) = (7, 8);
const SPILL_DOWN_TO: (usize, usize) = (3, 4);

impl Core {
    /// Taken from the buffer and not finished: it counts against the limits.
    pub(super) fn away(&self) -> Size {
        sum(sum(self.in_flight_size, self.disk.writing), total(&self.tried))
    }

    pub(super) fn disk_ready(&self, now: Instant) -> bool {
        self.policy.fallback && self.disk.retry_at.is_none_or(|instant| now >= instant)
    }

    /// The disk's trouble keeps something waiting, or was met just now.
    pub(crate) fn disk_matters(&self, now: Instant) -> bool {
        !self.disk_ready(now) || self.ledger.buffered + self.ledger.in_fallback > 0
    }

    pub(super) fn full_reason(&self, now: Instant) -> DropReason {
        if self.disk_ready(now) { DropReason::DiskSlow } else { DropReason::BufferFull }
    }

    /// Moves the oldest to the disk in time, and gives them up where there is no other way.
    pub(super) fn make_room(&mut self, size: Size, now: Instant, effects: &mut Vec<Effect>) {
        let limits = self.policy.limits;
        let mut held = sum(sum(self.buffer.total(), self.in_flight_size), size);
        if self.disk_ready(now) && over(held, limits, SPILL_ABOVE) {
            let mut spill = Vec::new();
            while over(held, limits, SPILL_DOWN_TO) {
                let Some(entry) = self.buffer.take() else { break };
                held = less(held, entry.size);
                spill.push(entry);
            }
            self.spill(spill, effects);
        }
        if over(sum(self.away(), size), limits, (1, 1)) {
            // Giving up what waits would not help: the new one is what must go.
            return;
        }
        let reason = self.full_reason(now);
        while over(sum(sum(self.buffer.total(), self.away()), size), limits, (1, 1)) {
            let Some(entry) = self.buffer.take() else { break };
            self.drop_entry(&entry, reason, effects);
        }
    }

    pub(super) fn spill(&mut self, entries: Vec<Entry<Payload>>, effects: &mut Vec<Effect>) {
        if !entries.is_empty() {
            self.disk.writing = sum(self.disk.writing, total(&entries));
            effects.push(Effect::Spill(entries));
        }
    }

    pub(super) fn expire(&mut self, now: Instant, plan: &mut Plan) {
        if self.policy.fallback && !self.disk_ready(now) {
            // Age moves spans to the disk; while that is in trouble they stay until the limits remove them.
            if let Some(instant) = self.disk.retry_at {
                plan.note(instant);
            }
            return;
        }
        let old = self.buffer.expire(now);
        if self.policy.fallback {
            self.spill(old, &mut plan.effects);
        } else {
            for entry in &old {
                self.drop_entry(entry, DropReason::BufferAge, &mut plan.effects);
            }
        }
        if let Some(instant) = self.buffer.next_expiry() {
            plan.note(instant);
        }
    }

    pub(super) fn drop_entry(&mut self, entry: &Entry<Payload>, reason: DropReason, effects: &mut Vec<Effect>) {
        self.settle(entry.item.id());
        self.ledger.transfer(entry.size.count, Place::Buffered, Place::Dropped(reason));
        self.counters.lost();
        effects.push(Effect::Tell(Event::Dropped { spans: entry.size.count, reason, detail: String::new() }));
    }
}

pub(crate) fn size_of(payload: &Payload) -> Size {
    Size { count: payload.span_count(), bytes: payload.bytes().len() }
}

pub(crate) fn total(entries: &[Entry<Payload>]) -> Size {
    entries.iter().fold(Size::default(), |size, entry| sum(size, entry.size))
}

pub(super) fn sum(one: Size, other: Size) -> Size {
    Size { count: one.count + other.count, bytes: one.bytes + other.bytes }
}

pub(super) fn less(whole: Size, part: Size) -> Size {
    Size { count: whole.count - part.count, bytes: whole.bytes - part.bytes }
}

pub(super) fn over(size: Size, limits: Limits, (part, whole): (usize, usize)) -> bool {
    let above = |value: usize, limit: usize| value > limit / whole * part + limit % whole * part / whole;
    above(size.count, limits.max_count) || above(size.bytes, limits.max_bytes)
}
