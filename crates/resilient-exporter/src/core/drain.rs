//! A shutdown: each live batch is tried once, then stored batches are replayed for a while, and the rest stays on the
//! disk.
//!
//! Live batches go first, also past a call for a stored batch that is never answered. Stored batches follow once no
//! live one is left to try, in their files and in the journal alike, as long as the endpoint is willing.

use std::time::{Duration, Instant};

use super::endpoint::{Endpoint, Traffic};
use super::endpoints::Refusal;
use super::{Core, Effect, Phase, Work};
use crate::core::replay::Next;

/// A shutdown that has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Drain {
    /// The end of all calls.
    pub(super) until: Instant,
    /// The longest time for stored batches.
    replay: Duration,
    /// The end of that time, once it has begun.
    replay_until: Option<Instant>,
    /// The disk thread takes over what ended processes have left.
    is_taking_over: bool,
}

/// Commands.
impl Core {
    /// Ends intake. The polls try each live batch once more until `until`, then stored ones for `replay` at most; the
    /// rest goes to the disk, or stays there. The first call passes backoff and breaker, and a pause of the peer's if
    /// no batch can be kept.
    pub(crate) fn drain(&mut self, until: Instant, replay: Duration, now: Instant) {
        if self.phase != Phase::Running {
            return;
        }
        self.phase = Phase::Draining(Drain { until, replay, replay_until: None, is_taking_over: false });
        self.dropped_before = self.ledger().dropped.clone();
        self.grant_passes();
        if !self.can_keep() {
            self.endpoints.iter_mut().for_each(Endpoint::end_pause);
        }
        self.batches_mut().for_each(|batch| batch.suspicion.end_wait());
        if !self.memory.is_empty() {
            // A stored batch that is the breaker's probe may never be answered: a live batch takes its place.
            for call in self.in_flight.iter().filter(|call| !call.work.is_live()) {
                self.endpoints.of_mut(call.endpoint).on_neutral(call.ticket, now);
            }
        }
    }

    /// The disk takes every batch that a shutdown leaves, or the journal has each of them.
    fn can_keep(&self) -> bool {
        self.storage.is_enabled() && self.storage.trouble().is_none() || self.only_in_memory() == 0
    }

    /// Ends a drain at once: every batch goes to the disk, stays in the journal, or is dropped, and the disk thread
    /// ends after that.
    pub(crate) fn stop(&mut self, now: Instant) {
        if self.phase == Phase::Stopped {
            return;
        }
        self.on_calls_abandoned(now);
        let rest = self.memory.take_all();
        if self.storage.is_enabled() {
            // Also if the disk is in trouble: this is the last attempt.
            self.spill(rest);
        } else {
            for entry in rest {
                self.leave_or_drop(entry);
            }
        }
        if let Some((fates, repeated)) = self.replay.take_interrupted() {
            self.accounts.counters.count_possible_duplicates(repeated);
            self.effects.push_back(Effect::SettleGroup(fates));
        }
        self.keep_last_records(now);
        self.phase = Phase::Stopped;
        self.effects.push_back(Effect::Stop);
    }
}

/// Events.
impl Core {
    /// The disk thread has taken over what ended processes have left, or a part of it: then `has_more`.
    pub(crate) fn on_taken_over(&mut self, has_more: bool) {
        self.storage.set_more(has_more);
        if let Phase::Draining(drain) = &mut self.phase {
            drain.is_taking_over = false;
        }
    }
}

/// The polls during a drain.
impl Core {
    /// Before the calls of a poll.
    pub(super) fn begin_replay_of_drain(&mut self, now: Instant) {
        let is_live_done = self.memory.is_empty() && !self.has_live_call();
        // Without a place on the disk, batches that were tried go out again in rounds.
        let has_rounds = self.memory.has_tried() && !self.can_keep();
        if let Phase::Draining(drain) = &mut self.phase
            && is_live_done
            && !has_rounds
        {
            let until = now.checked_add(drain.replay).map_or(drain.until, |until| until.min(drain.until));
            drain.replay_until.get_or_insert(until);
        }
    }

    /// After the calls of a poll: ends the drain once nothing more is to be sent or awaited. `is_waiting`: a batch
    /// waits for the endpoint.
    pub(super) fn follow_drain(&mut self, is_waiting: bool, now: Instant) {
        let Phase::Draining(drain) = self.phase else { return };
        if let Some(until) = drain.replay_until {
            if now >= until {
                return self.stop(now);
            }
            self.wake_at(until);
        }
        if self.has_live_call() {
            return;
        }
        let is_kept = self.can_keep();
        if !self.memory.is_empty() {
            if is_waiting && is_kept {
                // The collector is not willing now: a shutdown does not wait for it where the disk takes the rest.
                self.stop(now);
            }
        } else if self.memory.has_tried() && !is_kept {
            // The batches have no other place: another round, as long as there is time.
            self.memory.try_again();
            self.wake_at(now);
        } else if !self.awaits_stored(now) {
            self.stop(now);
        }
    }

    /// Stored batches may be sent now: the time for them has begun and is not over, and no live batch waits.
    pub(super) fn is_replay_of_drain(&self, now: Instant) -> bool {
        let until = match self.phase {
            Phase::Draining(drain) => drain.replay_until,
            Phase::Running | Phase::Stopped => None,
        };
        until.is_some_and(|until| now < until) && self.memory.is_empty()
    }

    /// A stored batch is on its way, or can go out before the time is over.
    fn awaits_stored(&mut self, now: Instant) -> bool {
        let Phase::Draining(Drain { replay_until: Some(until), is_taking_over, .. }) = self.phase else { return false };
        let is_at_disk = is_taking_over || self.replay.is_at_disk() || self.durable.kept.is_reading();
        if is_at_disk || !self.in_flight.is_empty() {
            return true;
        }
        if !self.is_willing(now) {
            return false;
        }
        let is_early = |instant: Instant| instant < until;
        let has_spans = self.accounts.ledger().in_fallback > 0;
        let has_next = match self.replay.next(has_spans, self.storage.is_ready(now), false, now) {
            Next::Call | Next::Read => true,
            Next::Wait(instant) => is_early(instant),
            Next::Nothing => false,
        };
        let retry_at = self.durable.kept.retry_at().filter(|instant| now < *instant);
        if has_next || self.durable.kept.is_waiting() && retry_at.is_none_or(is_early) {
            return true;
        }
        if self.storage.has_more() {
            self.set_taking_over();
            return true;
        }
        false
    }

    /// The endpoint has failed. In a drain a live batch may go past that once more, and a stored one may not.
    pub(super) fn end_pass_of_drain(&mut self, endpoint: usize) {
        if let Phase::Draining(_) = self.phase
            && self.memory.is_empty()
        {
            self.endpoints.of_mut(endpoint).end_pass();
        }
    }

    fn set_taking_over(&mut self) {
        if let Phase::Draining(drain) = &mut self.phase {
            drain.is_taking_over = true;
            self.effects.push_back(Effect::TakeOver);
        }
    }

    /// An endpoint takes a call for a stored batch now.
    pub(super) fn is_willing(&mut self, now: Instant) -> bool {
        match self.acquire(Traffic::Replay { live_waits: false }, now) {
            Ok((endpoint, ticket)) => {
                self.endpoints.of_mut(endpoint).on_unused(ticket, now);
                true
            }
            Err(Refusal::NoRoom) => true,
            Err(Refusal::Wait(wait)) => {
                self.note_wait(wait, now);
                false
            }
        }
    }

    /// A live batch is in a call.
    pub(super) fn has_live_call(&self) -> bool {
        self.in_flight.iter().any(|call| call.work.is_live())
    }
}

impl Work {
    fn is_live(&self) -> bool {
        matches!(self, Self::Live(_))
    }
}
