//! The memory that batches take: in the buffer, in calls, and on their way to the disk. All of it counts against the
//! limits.

mod compression;

use std::collections::{BTreeMap, btree_map};
use std::time::Instant;

use otlp_payload::Payload;
use span_buffer::{Buffer, Entry, Limits, Size, Snapshot};

use self::compression::{Compression, is_ready};
use super::batch::{Batch, Tried};

/// The parts of a limit above which, and down to which, the buffer moves its oldest batches to the disk in one go. The
/// part above takes the batches that arrive while the disk thread writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Marks {
    above: (usize, usize),
    down_to: (usize, usize),
}

/// While an endpoint takes batches, only those that it does not take in time leave memory.
pub(super) const SPILL_LATE: Marks = Marks { above: (7, 8), down_to: (3, 4) };

/// While no endpoint does, each batch has to leave memory, and the disk thread of a busy computer needs time.
pub(super) const SPILL_EARLY: Marks = Marks { above: (1, 2), down_to: (1, 4) };

/// A batch with this many failed calls, or throttled ones, lets batches with fewer go first.
const STEP_ASIDE_AFTER: u32 = 2;

/// The rule by which the next call chooses its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// The oldest that has not failed twice, else the oldest of those that failed the least: a batch that always fails
    /// blocks no other.
    Ordinary,
    /// The oldest, however often it failed: no batch waits for ever behind new ones.
    Oldest,
    /// The oldest of those that failed the least: a probe, or a call to an endpoint that refuses, decides for all.
    Probe,
}

pub(crate) struct Memory {
    buffer: Buffer<Batch>,
    in_flight: Size,
    /// Batches that the disk thread is to write: spills and dead letters.
    writing: Size,
    /// The number of these batches that were accepted at an instant.
    written_of: BTreeMap<Instant, usize>,
    /// Batches that a drain has tried once.
    tried: Vec<Entry<Batch>>,
    /// Room for spans that are no batch yet.
    reserved: Size,
    /// None if waiting batches stay plain.
    compression: Option<Compression>,
}

impl Memory {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            buffer: Buffer::new(limits),
            in_flight: Size::default(),
            writing: Size::default(),
            written_of: BTreeMap::new(),
            tried: Vec::new(),
            reserved: Size::default(),
            compression: None,
        }
    }

    // The buffer.

    /// Adds a batch; returns the batches that leave for it, the new one itself if nothing else would help.
    pub(super) fn push(&mut self, batch: Batch, size: Size, now: Instant) -> Vec<Entry<Batch>> {
        self.note_ripe(&batch, now);
        self.buffer.push_beside(batch, size, sum(self.away(), self.reserved_beside(size)), now)
    }

    /// Returns a batch that was taken to its place by age.
    pub(super) fn give_back(&mut self, entry: Entry<Batch>) {
        self.note_ripe(&entry.item, entry.accepted);
        self.buffer.give_back(entry);
    }

    /// Takes the batch of the next call to this endpoint, by the rule of its turn. A batch that waits for itself stays,
    /// and so does a compressed one without room for its request.
    pub(super) fn take_next(&mut self, endpoint: usize, turn: Turn, now: Instant) -> Option<Entry<Batch>> {
        let room = self.room_to_unpack();
        let is_ready = |entry: &Entry<Batch>| is_ready(entry, room, now);
        let first = match turn {
            Turn::Oldest => self.buffer.take_where(is_ready),
            Turn::Ordinary => self.buffer.take_where(|entry| {
                let Tried { failed, throttled } = entry.item.tries.at(endpoint);
                is_ready(entry) && failed < STEP_ASIDE_AFTER && throttled < STEP_ASIDE_AFTER
            }),
            Turn::Probe => None,
        };
        first.or_else(|| {
            let ready = self.buffer.iter().filter(|entry| is_ready(entry));
            let tries = |entry: &Entry<Batch>| entry.item.tries.at(endpoint);
            let fewest = ready.map(tries).min()?;
            self.buffer.take_where(|entry| is_ready(entry) && tries(entry) == fewest)
        })
    }

    /// A batch may be sent now, as far as it and memory are concerned.
    pub(super) fn has_ready(&self, now: Instant) -> bool {
        let room = self.room_to_unpack();
        self.buffer.iter().any(|entry| is_ready(entry, room, now))
    }

    /// A batch may be sent once there is room for its request.
    pub(super) fn waits_for_room(&self, now: Instant) -> bool {
        self.compression.is_some() && self.buffer.iter().any(|entry| entry.item.waits_until(now).is_none())
    }

    /// The first end of a wait, if every batch waits for itself.
    pub(super) fn next_ready(&self, now: Instant) -> Option<Instant> {
        self.buffer.iter().filter_map(|entry| entry.item.waits_until(now)).min()
    }

    /// Takes every waiting batch for which `wanted` returns true, oldest first.
    pub(super) fn take_all_where(&mut self, mut wanted: impl FnMut(&Batch) -> bool) -> Vec<Entry<Batch>> {
        self.buffer.take_all_where(|entry| wanted(&entry.item))
    }

    /// The batches that wait in the buffer.
    pub(super) fn batches_mut(&mut self) -> impl Iterator<Item = &mut Batch> {
        self.buffer.items_mut()
    }

    /// Takes the oldest batches that are to go to the disk before a batch of this size is added.
    pub(super) fn take_surplus(&mut self, marks: Marks, size: Size, now: Instant) -> Vec<Entry<Batch>> {
        let mut held = sum(sum(self.buffer.total(), self.in_flight), sum(self.reserved, size));
        let mut surplus = Vec::new();
        if self.is_over(held, marks.above) {
            while self.is_over(held, marks.down_to) {
                let Some(entry) = self.buffer.take_where(|entry| entry.item.may_spill(now)) else { break };
                held = less(held, entry.size);
                surplus.push(entry);
            }
        }
        surplus
    }

    /// Takes the oldest batches that must go before a batch of this size fits. None, if the new batch would not fit
    /// beside the batches that are away even with an empty buffer.
    pub(super) fn take_excess(&mut self, size: Size) -> Vec<Entry<Batch>> {
        let beside = sum(sum(self.away(), self.reserved_beside(size)), size);
        let mut excess = Vec::new();
        if !self.is_over(beside, (1, 1)) {
            while self.is_over(sum(self.buffer.total(), beside), (1, 1)) {
                let Some(entry) = self.buffer.take() else { break };
                excess.push(entry);
            }
        }
        excess
    }

    /// A batch of this size fits.
    pub(super) fn has_room_for(&self, size: Size) -> bool {
        !self.is_over(sum(sum(self.held_size(), self.reserved_beside(size)), size), (1, 1))
    }

    /// Takes the oldest of these batches until a batch of this size fits.
    pub(super) fn take_excess_of(
        &mut self,
        size: Size,
        mut wanted: impl FnMut(&Entry<Batch>) -> bool,
    ) -> Vec<Entry<Batch>> {
        let mut excess = Vec::new();
        while !self.has_room_for(size) {
            let Some(entry) = self.buffer.take_where(&mut wanted) else { break };
            excess.push(entry);
        }
        excess
    }

    /// Takes the oldest of these batches that may go to a file now, of so many bytes together.
    pub(super) fn take_oldest(
        &mut self,
        bytes: usize,
        mut wanted: impl FnMut(&Entry<Batch>) -> bool,
        now: Instant,
    ) -> Vec<Entry<Batch>> {
        let (mut oldest, mut taken) = (Vec::new(), 0);
        while taken < bytes {
            let Some(entry) = self.buffer.take_where(|entry| entry.item.may_spill(now) && wanted(entry)) else { break };
            taken += entry.size.bytes;
            oldest.push(entry);
        }
        oldest
    }

    /// Takes these of the batches that were accepted up to an instant and may go to a file now, oldest first.
    pub(super) fn take_accepted(
        &mut self,
        until: Instant,
        mut wanted: impl FnMut(&Entry<Batch>) -> bool,
        now: Instant,
    ) -> Vec<Entry<Batch>> {
        self.buffer.take_all_where(|entry| entry.accepted <= until && entry.item.may_spill(now) && wanted(entry))
    }

    /// Takes the batches that have reached the age limit; with `may_stay`, not those that no file can take now.
    pub(super) fn take_expired(&mut self, may_stay: bool, now: Instant) -> Vec<Entry<Batch>> {
        let mut expired = self.buffer.expire(now);
        let stays = |entry: &mut Entry<Batch>| may_stay && !entry.item.may_spill(now) || entry.item.is_kept(now);
        for entry in expired.extract_if(.., stays).collect::<Vec<_>>() {
            self.buffer.give_back(entry);
        }
        expired
    }

    // Spans that are no batch yet.

    /// Keeps this room free for spans that will be a batch.
    pub(super) fn reserve(&mut self, size: Size) {
        self.reserved = sum(self.reserved, size);
    }

    pub(super) fn release(&mut self, size: Size) {
        self.reserved = less(self.reserved, size);
    }

    // Batches that are away.

    /// The batch is in a call: its request, and beside it its compressed form, if it has one.
    pub(super) fn on_sent(&mut self, entry: &Entry<Batch>) {
        self.in_flight = sum(self.in_flight, entry.size);
        self.compression.iter_mut().for_each(|compression| compression.unpacked += entry.item.payload.unpacked_len());
    }

    pub(super) fn on_call_ended(&mut self, entry: &Entry<Batch>) {
        self.in_flight = less(self.in_flight, entry.size);
        self.compression.iter_mut().for_each(|compression| compression.unpacked -= entry.item.payload.unpacked_len());
    }

    pub(super) fn on_write_begun(&mut self, entries: &[Entry<Batch>]) {
        self.writing = sum(self.writing, total(entries));
        entries.iter().for_each(|entry| *self.written_of.entry(entry.accepted).or_default() += 1);
    }

    pub(super) fn on_write_ended(&mut self, entries: &[Entry<Batch>]) {
        self.writing = less(self.writing, total(entries));
        for entry in entries {
            if let btree_map::Entry::Occupied(mut count) = self.written_of.entry(entry.accepted) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }

    /// A drain has tried this batch once.
    pub(super) fn set_tried(&mut self, entry: Entry<Batch>) {
        self.tried.push(entry);
    }

    /// Begins another round of a drain: the tried batches wait in the buffer again.
    pub(super) fn try_again(&mut self) {
        for entry in std::mem::take(&mut self.tried) {
            self.buffer.give_back(entry);
        }
    }

    /// Takes every waiting batch at the end of a drain, oldest first.
    pub(super) fn take_all(&mut self) -> Vec<Entry<Batch>> {
        let mut rest = std::mem::take(&mut self.tried);
        rest.extend(self.buffer.drain());
        rest.sort_by_key(|entry| entry.accepted);
        rest
    }

    // Queries.

    /// The batches that wait in the buffer, oldest first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Entry<Batch>> {
        self.buffer.iter()
    }

    #[cfg(test)]
    pub(crate) fn waiting_size(&self) -> Size {
        self.buffer.total()
    }

    #[cfg(test)]
    pub(crate) fn reserved_size(&self) -> Size {
        self.reserved
    }

    pub(crate) fn writing_size(&self) -> Size {
        self.writing
    }

    /// One of these batches was accepted up to an instant and waits, or the disk thread is to write one that was.
    pub(super) fn has_accepted(&self, until: Instant, mut wanted: impl FnMut(&Entry<Batch>) -> bool) -> bool {
        let is_early = |entry: &&Entry<Batch>| entry.accepted <= until;
        self.buffer.iter().chain(&self.tried).filter(is_early).any(&mut wanted)
            || self.written_of.first_key_value().is_some_and(|(first, _)| *first <= until)
    }

    #[cfg(test)]
    pub(crate) fn tried_size(&self) -> Size {
        total(&self.tried)
    }

    /// The instant at which the oldest batch was accepted that waits or is being written. Batches in calls are none of
    /// these.
    pub(super) fn oldest_accepted(&self) -> Option<Instant> {
        let waiting = self.buffer.iter().next().map(|entry| entry.accepted);
        let written = self.written_of.first_key_value().map(|(accepted, _)| *accepted);
        let tried = self.tried.iter().map(|entry| entry.accepted);
        tried.chain(waiting).chain(written).min()
    }

    pub(crate) fn snapshot(&self, now: Instant) -> Snapshot {
        self.buffer.snapshot(now)
    }

    /// The memory that all batches take.
    pub(crate) fn held_size(&self) -> Size {
        sum(self.buffer.total(), self.away())
    }

    /// No batch waits for its next call.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Batches that a drain has tried once.
    pub(super) fn tried(&self) -> impl Iterator<Item = &Entry<Batch>> {
        self.tried.iter()
    }

    pub(super) fn has_tried(&self) -> bool {
        !self.tried.is_empty()
    }

    /// The instant at which `take_expired` has a batch to take.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let max_age = self.buffer.limits().max_age;
        let mut first = None::<Instant>;
        for entry in self.buffer.iter() {
            let expiry = entry.accepted.checked_add(max_age)?;
            let rests = [entry.item.spill_after, entry.item.kept_until];
            let at = rests.into_iter().flatten().fold(expiry, Instant::max);
            first = Some(first.map_or(at, |first| first.min(at)));
            if rests == [None; 2] {
                // Those behind are younger.
                break;
            }
        }
        first
    }

    /// The batches that wait take more than this part of a limit.
    pub(super) fn is_waiting_above(&self, part: (usize, usize)) -> bool {
        self.is_over(self.buffer.total(), part)
    }

    /// All batches together take more than half of a limit.
    pub(super) fn is_held_above_half(&self) -> bool {
        self.is_over(self.taken_size(), (1, 2))
    }

    /// All batches together take more than this part of a limit.
    pub(super) fn is_held_above(&self, part: (usize, usize)) -> bool {
        self.is_over(self.taken_size(), part)
    }

    /// A batch of this size is larger than the whole buffer.
    pub(super) fn is_larger_than_all(&self, size: Size) -> bool {
        self.is_over(size, (1, 1))
    }

    /// The memory that all batches take, and the room for spans that are none yet.
    fn taken_size(&self) -> Size {
        sum(self.held_size(), self.reserved)
    }

    /// The room that stays reserved beside a batch of this size. One that is nearly as large as the whole memory takes
    /// that room too: an oversized span is no reason to drop it.
    fn reserved_beside(&self, size: Size) -> Size {
        if self.is_over(sum(size, self.reserved), (1, 1)) { Size::default() } else { self.reserved }
    }

    /// A batch waits that leaves no room to reserve.
    pub(super) fn has_batch_for_all(&self) -> bool {
        self.buffer.iter().any(|entry| self.is_over(sum(entry.size, self.reserved), (1, 1)))
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
    Size { count: payload.item_count(), bytes: payload.bytes().len() }
}

pub(super) fn total(entries: &[Entry<Batch>]) -> Size {
    entries.iter().fold(Size::default(), |size, entry| sum(size, entry.size))
}

fn sum(one: Size, other: Size) -> Size {
    Size { count: one.count + other.count, bytes: one.bytes + other.bytes }
}

fn less(whole: Size, part: Size) -> Size {
    Size { count: whole.count - part.count, bytes: whole.bytes - part.bytes }
}
