//! The journal thread's results, and batches that leave memory for the journal and return.
//!
//! A batch that is synced in the journal leaves memory where memory has no room, before any batch is dropped. It
//! returns when less than half of memory is taken and the endpoint takes batches. A journal that is nearly full gives
//! its oldest batches to files.

use std::time::Instant;

use otlp_payload::{BatchId, Payload};
use span_buffer::{Entry, Size};

use super::batch::Batch;
use super::durable::{Left, LeftBehind};
use super::kept::{Arrival, Destination};
use super::memory::size_of;
use super::{Core, Effect, Phase, Work};
use crate::report::events::Event;
use crate::report::ledger::{DropReason, Place};
use crate::seams::journal::{JournalUsage, Lost, Vanished};

/// Above this part of its limit a journal gives its oldest batches to files.
const NEARLY_FULL: (u64, u64) = (7, 8);

/// Bytes of the batches that make room for one append, about, if the journal holds nothing that memory does not.
const ROOM_BYTES: usize = 1_024 * 1_024;

/// Appends and usage.
impl Core {
    /// The journal thread has ended its commit. `recovered`: appends succeed again after a failure.
    pub(crate) fn on_committed(&mut self, recovered: bool) {
        if recovered {
            let waiting = self.memory.waiting().filter_map(|entry| entry.item.payload.as_plain());
            waiting.for_each(|payload| self.durable.retry_append(payload));
        }
        self.durable.on_committed();
    }

    /// The journal thread looks for marks, and ends the wait of batches for a journal that was full.
    pub(crate) fn on_look(&mut self) {
        self.durable.on_look();
    }

    /// Older batches of the journal are in the way of these: the core makes room, and then appends them again.
    pub(crate) fn on_journal_full(&mut self, payloads: Vec<Payload>, usage: JournalUsage, now: Instant) {
        self.durable.on_full(payloads, now);
        self.durable.kept.set_usage(is_nearly_full(usage));
        self.relieve_journal(now);
    }

    /// The bytes that the journal takes.
    pub(crate) fn on_journal_usage(&mut self, usage: JournalUsage, now: Instant) {
        let was_above = self.durable.kept.is_above();
        self.durable.kept.set_usage(is_nearly_full(usage));
        if was_above && !self.durable.kept.is_above() {
            self.durable.on_room();
        }
        self.relieve_journal(now);
    }

    /// Moves the oldest batches out of a journal that is nearly full: to files; without a fallback they are dropped,
    /// once an append says that the journal is full.
    pub(super) fn relieve_journal(&mut self, now: Instant) {
        if let Some(instant) = self.durable.retry_when_full(now) {
            self.wake_at(instant);
        }
        let (is_full, is_above) = (self.durable.is_full(), self.durable.kept.is_above());
        if !self.durable.is_on() || self.phase == Phase::Stopped || !is_full && !is_above {
            return;
        }
        if self.storage.is_ready(now) {
            let kept = &self.durable.kept;
            let is_movable =
                kept.unread() > 0 || kept.next_size(|size| !self.memory.is_larger_than_all(size)).is_some();
            if is_movable {
                self.move_oldest_to_file(now);
            } else if is_full && !kept.is_reading() && !self.spills.is_writing() {
                let oldest = self.memory.take_oldest(ROOM_BYTES, |entry| self.durable.has_synced(entry), now);
                self.spill(oldest);
            }
        } else if !self.storage.is_enabled() && is_full && is_above {
            self.drop_oldest_of_journal(now);
        }
    }

    /// Has the oldest batch that only the journal holds read for a file. It takes memory on its way: one that is larger
    /// than all of memory stays, until the endpoint takes its pieces.
    fn move_oldest_to_file(&mut self, now: Instant) {
        let kept = &self.durable.kept;
        let fits = match kept.unread() {
            0 => kept
                .next_size(|size| !self.memory.is_larger_than_all(size))
                .is_some_and(|size| self.memory.has_room_for(size)),
            // The size of a batch of an earlier process is not known before.
            _ => !self.memory.is_held_above(NEARLY_FULL_MEMORY),
        };
        if fits {
            self.read_kept(Destination::File, now);
        }
    }

    /// Without a fallback the oldest batch goes, one at a time: each commit with its mark tries the append again.
    fn drop_oldest_of_journal(&mut self, now: Instant) {
        if self.durable.kept.unread() > 0 {
            self.read_kept(Destination::Nowhere, now);
        } else if let Some((id, spans)) = self.durable.kept.take_oldest() {
            self.accounts.drop_spans(spans, Place::InJournal, DropReason::JournalFull, String::new());
            self.durable.on_kept_ended(id);
        }
    }

    /// The disk takes no more bytes, and memory has no room: the journal gives its oldest segment up.
    pub(super) fn remove_oldest_of_journal(&mut self, now: Instant) {
        let has_files = self.storage.is_ready(now);
        if self.durable.is_full() && !has_files && self.memory.is_held_above(NEARLY_FULL_MEMORY) {
            self.durable.remove_oldest(now);
        }
    }

    /// The journal has given up these batches, which were not done; none if it could not remove anything.
    pub(crate) fn on_removed(&mut self, given_up: Option<Lost>, now: Instant) {
        let Some(given_up) = given_up else { return self.durable.on_nothing_removed(now) };
        let lost = self.durable.on_given_up(&given_up);
        self.accounts.drop_spans_of(lost, Place::InJournal, DropReason::JournalFull);
        self.return_left_behind(DropReason::JournalFull);
        self.append_gone();
        self.durable.on_room();
    }

    /// Batches have vanished from the journal, which takes new ones. `payloads` are those of the commit during which
    /// the journal thread found that.
    pub(crate) fn on_journal_vanished(&mut self, vanished: &Vanished, payloads: &[Payload], now: Instant) {
        let (lost, taken_over) = self.durable.on_vanished(vanished, payloads, now);
        self.accounts.publish(Event::JournalVanished { spans: lost });
        self.accounts.drop_spans_of(lost, Place::InJournal, DropReason::Vanished);
        self.accounts.transfer(taken_over, Place::InJournal, Place::TakenOver);
        payloads.iter().for_each(|payload| self.durable.on_present(payload));
        self.return_left_behind(DropReason::Vanished);
        self.append_gone();
        self.durable.on_room();
    }

    /// The journal no longer has some of the batches that a shutdown has left in it: the core appends them anew if the
    /// journal takes batches, or drops them for this reason.
    fn return_left_behind(&mut self, reason: DropReason) {
        for LeftBehind { spans, entry, .. } in self.durable.take_left_behind() {
            match entry.filter(|_| self.durable.is_on()) {
                Some(entry) => {
                    self.accounts.transfer(spans, Place::InJournal, Place::Buffered);
                    self.durable.leave_again(entry);
                }
                None => self.accounts.drop_spans_of(spans, Place::InJournal, reason),
            }
        }
    }

    /// Appends all batches that the journal has lost and that are at hand. The others follow when their file, their
    /// dead letter or their `export` call returns them.
    fn append_gone(&mut self) {
        let out = self.in_flight.iter().filter_map(|call| match &call.work {
            Work::Live(entry) => Some(entry),
            Work::Replay(_) => None,
        });
        for entry in self.memory.waiting().chain(self.memory.tried()).chain(out).chain(self.spills.waiting()) {
            self.durable.on_batch_present(&entry.item);
        }
        self.durable.append_anew();
    }

    /// The journal was synced for the last time in this process.
    pub(crate) fn on_journal_closed(&mut self) {
        for entry in self.durable.close() {
            self.leave_or_drop(entry);
        }
        self.durable.on_look();
    }

    /// A batch that a shutdown cannot place elsewhere: it stays in the journal for the next start, or is dropped.
    pub(super) fn leave_or_drop(&mut self, entry: Entry<Batch>) {
        match self.durable.leave(entry) {
            Left::InJournal(spans) => self.accounts.transfer(spans, Place::Buffered, Place::InJournal),
            Left::Undecided => {}
            Left::Nowhere(entry) => self.drop_entry(&entry, DropReason::Shutdown),
        }
    }
}

/// Batches that leave memory and return.
impl Core {
    /// Makes room for a batch of this size: batches that the journal has and returns leave memory, oldest first; then
    /// the oldest of the others are dropped.
    pub(super) fn make_room_by_force(&mut self, size: Size, now: Instant) {
        if self.memory.has_room_for(size) {
            return;
        }
        if self.durable.can_leave() {
            for entry in self.spills.take_excess(|entry| self.durable.may_leave(entry)) {
                self.memory.on_write_ended(std::slice::from_ref(&entry));
                self.leave_memory(&entry);
            }
            for entry in self.memory.take_excess_of(size, |entry| self.durable.may_leave(entry)) {
                self.leave_memory(&entry);
            }
        }
        let reason = self.full_reason();
        for entry in self.memory.take_excess(size) {
            self.drop_entry(&entry, reason);
        }
        self.relieve_journal(now);
    }

    /// The batch leaves memory if the journal has it, or is dropped.
    pub(super) fn leave_or_end(&mut self, entry: &Entry<Batch>, reason: DropReason) {
        if self.durable.may_leave(entry) {
            self.leave_memory(entry);
        } else {
            self.drop_entry(entry, reason);
        }
    }

    fn leave_memory(&mut self, entry: &Entry<Batch>) {
        self.durable.on_left(entry);
        self.accounts.transfer(entry.size.count, Place::Buffered, Place::InJournal);
    }

    /// Asks for the next batch that only the journal holds while less than half of a limit is taken, batches on their
    /// way to the disk or the collector included: they may return, and new batches arrive beside them. Batches that
    /// left memory wait until the endpoint takes batches.
    pub(super) fn return_from_journal(&mut self, now: Instant) {
        let kept = &self.durable.kept;
        let is_draining = self.phase != Phase::Running;
        // In a drain one batch at a time: memory that the collector does not take goes to the disk.
        let may_return = if is_draining { self.is_replay_of_drain(now) } else { !self.memory.is_held_above_half() };
        if !may_return || !kept.is_waiting() {
            return;
        }
        if let Some(instant) = kept.retry_at().filter(|&instant| now < instant) {
            return self.wake_at(instant);
        }
        let waits_for_endpoint = is_draining || kept.unread() == 0;
        if waits_for_endpoint && !self.is_willing(now) {
            return;
        }
        self.read_kept(Destination::Memory, now);
    }

    fn read_kept(&mut self, to: Destination, now: Instant) {
        let may_go = |size| to != Destination::File || !self.memory.is_larger_than_all(size);
        if let Some(id) = self.durable.kept.start_read(to, may_go, now) {
            self.effects.push_back(Effect::Recover(id));
        }
    }

    /// The journal has found spans of earlier processes: its own at the start, later those of processes that have
    /// ended.
    pub(crate) fn on_found(&mut self, spans: u64) {
        if self.durable.is_off() {
            return;
        }
        let spans = usize::try_from(spans).unwrap_or(usize::MAX);
        self.durable.kept.on_found(spans);
        self.accounts.transfer(spans, Place::Recovered, Place::InJournal);
    }

    /// The journal thread has read a batch.
    pub(crate) fn on_recovered(&mut self, payload: Payload, now: Instant) {
        if self.phase == Phase::Stopped {
            return self.durable.kept.on_stopped();
        }
        let Some(Arrival { to, accepted, surplus, missing }) = self.durable.kept.on_read(&payload) else {
            return self.on_recovery_failed(now);
        };
        // A journal of a user's may give more than it promised, or less.
        self.accounts.transfer(surplus, Place::Recovered, Place::InJournal);
        self.lose_kept(missing);
        let (spans, size, accepted) = (payload.item_count(), size_of(&payload), accepted.unwrap_or(now));
        if self.durable.on_found_again(payload.id()) {
            self.accounts.transfer(spans, Place::InJournal, Place::TakenOver);
            return self.read_further(spans, now);
        }
        match to {
            Destination::Nowhere => {
                self.accounts.drop_spans(spans, Place::InJournal, DropReason::JournalFull, String::new());
                self.durable.on_kept_ended(payload.id());
            }
            // Memory has been filled since.
            Destination::File if !self.memory.has_room_for(size) => {
                self.durable.kept.put_back(&payload, accepted);
                return;
            }
            Destination::File => {
                self.durable.on_returned(&payload);
                self.accounts.transfer(spans, Place::InJournal, Place::Buffered);
                let item = Batch::new(payload);
                self.spill(vec![Entry { item, size, accepted, calls: 0 }]);
            }
            // Memory has been filled since, maybe with batches that the journal has lost: they would be dropped for it.
            Destination::Memory if self.may_stay(size) => {
                self.durable.kept.put_back(&payload, accepted);
                return;
            }
            Destination::Memory => {
                self.durable.on_returned(&payload);
                self.accounts.transfer(spans, Place::InJournal, Place::Buffered);
                self.readmit(payload, accepted, now);
            }
        }
        self.read_further(spans, now);
    }

    /// Memory has no room for this batch of the journal, which returns it another time.
    fn may_stay(&self, size: Size) -> bool {
        self.durable.can_leave() && !self.memory.is_larger_than_all(size) && !self.memory.has_room_for(size)
    }

    /// A batch of the journal takes its place in memory by its age, which counts anew for the limit on age.
    fn readmit(&mut self, payload: Payload, accepted: Instant, now: Instant) {
        let size = size_of(&payload);
        if self.memory.is_larger_than_all(size) || !self.memory.has_room_for(size) {
            // A recovered batch may be larger than all of memory, and is cut.
            let _ = self.admit(payload, Place::Dropped(DropReason::BufferFull), accepted);
            return;
        }
        let mut item = Batch::new(payload);
        item.keep_until(now.checked_add(self.memory.limits().max_age));
        self.memory.give_back(Entry { item, size, accepted, calls: 0 });
    }

    /// Spans that the journal had are damaged; `asked` is the batch of the read.
    pub(crate) fn on_recovery_damaged(&mut self, asked: Option<BatchId>, spans: u64, now: Instant) {
        let spans = self.durable.kept.on_lost(asked, spans);
        self.lose_kept(spans);
        self.read_further(spans, now);
    }

    fn lose_kept(&mut self, spans: usize) {
        if spans > 0 {
            let detail = "in the journal".to_owned();
            self.accounts.drop_spans(spans, Place::InJournal, DropReason::Corrupt, detail);
        }
    }

    /// The journal has no further batch of an earlier process, or not the one that was asked for: spans that it had
    /// found and did not give are lost.
    pub(crate) fn on_recovery_ended(&mut self, asked: Option<BatchId>, now: Instant) {
        self.on_recovery_damaged(asked, u64::MAX, now);
    }

    /// The storage failed while the journal thread read.
    pub(crate) fn on_recovery_failed(&mut self, now: Instant) {
        self.durable.kept.on_read_failed(now);
    }

    /// Asks for the next batch; later, if the last one has brought no progress: a journal of a user's shall not occupy
    /// the journal thread.
    fn read_further(&mut self, progress: usize, now: Instant) {
        if progress == 0 {
            self.durable.kept.on_read_failed(now);
        }
        self.relieve_journal(now);
        self.return_from_journal(now);
    }
}

/// The part of memory above which a journal on a full disk gives its oldest segment up.
const NEARLY_FULL_MEMORY: (usize, usize) = (7, 8);

fn is_nearly_full(usage: JournalUsage) -> bool {
    let (part, whole) = NEARLY_FULL;
    usage.max_bytes > 0 && usage.bytes > usage.max_bytes / whole * part
}
