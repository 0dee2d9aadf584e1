//! A flush: each batch that was accepted up to an instant is answered, or is moved to the disk while the exporter runs.
//!
//! A batch is safe in a file, or in the journal as durable as its policy asks for.

use std::time::{Duration, Instant};

use span_buffer::Entry;

use super::storage::RETRY;
use super::{Batch, Core, InFlight, Phase, Work};
use crate::report::ledger::Place;

/// The wait of a user's thread for the batches that were accepted before it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flush {
    /// The instant of its call.
    pub(crate) since: Instant,
    /// The end of the time for answers.
    pub(crate) until: Instant,
    /// The flush has asked for one attempt outside of backoff and breaker.
    pub(crate) attempts: bool,
}

/// A flush wants batches to be safe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Saving {
    /// Those that were accepted up to this instant.
    since: Instant,
    /// While the disk is in trouble a call has this time for its answer before the flush gives it up: longer with each
    /// attempt on the disk, so that the answer of a slow collector counts in the end.
    patience: Duration,
}

/// A flush that waits, and the spans of its batches that were dropped meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    id: u64,
    since: Instant,
    dropped: u64,
}

/// The beginning and the end of a flush.
impl Core {
    /// A flush waits for the batches that were accepted up to `since`. Returns its id.
    pub(crate) fn on_flush_begun(&mut self, since: Instant) -> u64 {
        let id = self.flushes.last().map_or(0, |last| last.id + 1);
        self.flushes.push(Waiting { id, since, dropped: 0 });
        id
    }

    /// The flush waits no longer. Returns the spans of its batches that were dropped meanwhile.
    pub(crate) fn on_flush_ended(&mut self, id: u64) -> u64 {
        let place = self.flushes.iter().position(|flush| flush.id == id);
        place.map_or(0, |place| self.flushes.remove(place).dropped)
    }

    /// A batch of memory is dropped.
    pub(super) fn on_dropped(&mut self, entry: &Entry<Batch>) {
        for flush in self.flushes.iter_mut().filter(|flush| entry.accepted <= flush.since) {
            flush.dropped += entry.size.count as u64;
        }
    }
}

/// Commands.
impl Core {
    /// A checkpoint asks for a call at once: the next one passes backoff and breaker, but no pause of the peer's, and
    /// no batch waits for itself.
    pub(crate) fn attempt_now(&mut self) {
        self.grant_passes();
        self.batches_mut().for_each(|batch| batch.suspicion.end_wait());
    }

    /// Has every batch that was accepted up to `since` and is not safe moved to the disk, those in calls too: no answer
    /// to such a call counts any more. Goes on with each poll until all are safe.
    pub(crate) fn save(&mut self, since: Instant, now: Instant) {
        // A program may flush again and again while the disk is in trouble.
        let (earlier, patience) = self.saving.map_or((since, Duration::ZERO), |saving| (saving.since, saving.patience));
        self.saving = Some(Saving { since: earlier.max(since), patience });
        self.go_on_saving(now);
    }

    /// Moves the batches that a flush wants to the disk, as far as the disk takes them now.
    pub(super) fn go_on_saving(&mut self, now: Instant) {
        let Some(Saving { since, patience }) = self.saving else { return };
        // A shutdown moves every batch to the disk.
        if self.phase != Phase::Running || !self.storage.is_enabled() || !self.has_unsafe_since(since) {
            self.saving = None;
            return;
        }
        if !self.storage.is_ready(now) {
            if let Some(instant) = self.storage.retry_at() {
                self.wake_at(instant);
            }
            return;
        }
        let is_in_trouble = self.storage.trouble().is_some();
        let age = if is_in_trouble { patience } else { Duration::ZERO };
        if self.abandon_unsafe_calls(since, age, now) && is_in_trouble {
            self.saving = Some(Saving { since, patience: patience.saturating_mul(2).max(2 * RETRY) });
        }
        let durable = &self.durable;
        let wanted = |entry: &_| !durable.has_synced(entry);
        let unsafe_ones = self.memory.take_accepted(since, wanted, now);
        if !unsafe_ones.is_empty() {
            self.spill(unsafe_ones);
        }
    }

    /// Calls were given up since the last look: the net thread ends those that it still makes.
    pub(crate) fn take_has_abandoned(&mut self) -> bool {
        std::mem::take(&mut self.has_abandoned)
    }

    /// The batches of these calls, out for this time at least, wait in memory again. Returns whether there are any.
    fn abandon_unsafe_calls(&mut self, since: Instant, age: Duration, now: Instant) -> bool {
        let durable = &self.durable;
        // A batch that no file takes now is safe by an answer only.
        let is_unsafe = |call: &InFlight| match &call.work {
            Work::Live(entry) => entry.accepted <= since && entry.item.may_spill(now) && !durable.has_synced(entry),
            Work::Replay(_) => false,
        };
        let ends = |call: &InFlight| call.started.checked_add(age);
        let is_over = |call: &mut InFlight| is_unsafe(call) && ends(call).is_some_and(|end| end <= now);
        let abandoned = self.in_flight.extract_if(.., is_over).collect::<Vec<_>>();
        let next = self.in_flight.iter().filter(|call| is_unsafe(call)).filter_map(ends).min();
        let has_abandoned = !abandoned.is_empty();
        self.has_abandoned |= has_abandoned;
        for InFlight { id, endpoint, work, ticket, started, .. } in abandoned {
            let waiting = self.repeats.len();
            self.repeats.retain(|call| call.id != id);
            // A repeated call that has not gone out makes no duplicate.
            let has_gone_out = self.repeats.len() == waiting;
            self.endpoints.of_mut(endpoint).on_abandoned(ticket, started, now);
            self.endpoints.on_given_up(endpoint, now);
            let Work::Live(entry) = work else { continue };
            self.accounts.counters.count_possible_duplicates(if has_gone_out { entry.size.count as u64 } else { 0 });
            self.memory.on_call_ended(&entry);
            self.accounts.transfer(entry.size.count, Place::InFlight, Place::Buffered);
            self.memory.give_back(entry);
        }
        self.store_oversized();
        if let Some(instant) = next {
            self.wake_at(instant);
        }
        has_abandoned
    }
}

/// Queries.
impl Core {
    /// A batch that was accepted up to `instant` has neither an answer nor a place in a file.
    pub(crate) fn has_unanswered_since(&self, instant: Instant) -> bool {
        self.memory.has_accepted(instant, |_| true)
            || self.in_flight.iter().any(|call| matches!(&call.work, Work::Live(entry) if entry.accepted <= instant))
    }

    /// A batch that was accepted up to `instant` is in memory and nowhere else.
    pub(crate) fn has_unsafe_since(&self, instant: Instant) -> bool {
        let is_unsafe = |entry: &_| !self.durable.has_synced(entry);
        let is_in_call = |call: &InFlight| match &call.work {
            Work::Live(entry) => entry.accepted <= instant && is_unsafe(entry),
            Work::Replay(_) => false,
        };
        // The journal may have the batches of a file that the disk thread is to write: that is certain if it has all.
        self.only_in_memory() > 0
            && (self.memory.has_accepted(instant, is_unsafe) || self.in_flight.iter().any(is_in_call))
    }

    /// No answer is to be expected before the flush saves its batches: the endpoint accepts nothing, or its next call
    /// goes out later. An attempt that the flush has asked for is awaited.
    pub(crate) fn is_hopeless(&self, flush: Flush, now: Instant) -> bool {
        let is_out = self.in_flight.iter().any(|call| call.started >= flush.since);
        let calls = self.calls_out(now);
        let is_paused = self.endpoints.pause(&calls, now).is_some_and(|rest| now + rest >= flush.until);
        if flush.attempts && (is_out || self.endpoints.has_pass(&calls, now) && !is_paused) {
            return false;
        }
        let next_call = self.endpoints.next_call(&calls, now).filter(|_| self.in_flight.is_empty());
        let is_late = next_call.is_some_and(|instant| flush.attempts || instant >= flush.until);
        is_paused || is_late || self.is_unwilling(now)
    }

    /// A flush has a place for batches whose answers do not come: files, or the journal.
    pub(crate) fn has_safe_place(&self) -> bool {
        self.storage.is_enabled() || self.durable.is_on()
    }
}
