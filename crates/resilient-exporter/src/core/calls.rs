//! The net thread's polls: the calls that go out now, and the instant of the next poll.

use std::time::{Duration, Instant};

use breaker::Kind;
use otlp_transport::Cause;
use span_buffer::{Entry, Size};

use super::endpoint::{Traffic, Wait};
use super::endpoints::Refusal;
use super::memory::Turn;
use super::outage::{Failure, Tally, Transition};
use super::replay::Next;
use super::{Batch, Call, Core, Effect, InFlight, Phase, Work};
use crate::report::events::Event;
use crate::report::ledger::{DropReason, Place};
use crate::report::position::Position;
use crate::report::remedies::remedy;

/// After this time the endpoint is asked again, if it refused a call without a time and no answer is awaited.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// One live call in so many takes the oldest batch, however often it failed.
const OLDEST_EVERY: u64 = 8;

/// One poll cuts this many batches, or ends them as too large; the next poll goes on with the others.
const FITTED_AT_ONCE: usize = 256;

/// Stored batches share requests up to this size: about that of 400 usual spans.
const MERGED_BYTES: usize = 256 * 1_024;

impl Core {
    /// The calls that go out now.
    pub(crate) fn poll_calls(&mut self, now: Instant) -> Vec<Call> {
        self.wakeup = None;
        let mut calls = Vec::new();
        if self.is_stopped() {
            return calls;
        }
        self.accounts.observe(now);
        self.expire(now);
        self.look_for_expected(now);
        self.make_reserved_room(now);
        self.go_on_saving(now);
        if let Phase::Draining(drain) = self.phase {
            if now >= drain.until {
                self.stop(now);
                return calls;
            }
            self.wake_at(drain.until);
        }
        calls.append(&mut self.repeats);
        self.begin_replay_of_drain(now);
        self.return_from_journal(now);
        self.relieve_journal(now);
        let is_waiting = self.start_calls(now, &mut calls);
        self.store_oversized();
        self.follow_endpoints(now);
        self.begin_packing(now);
        self.publish_changes(now);
        self.follow_outages(now);
        self.follow_drain(is_waiting, now);
        calls
    }

    /// The instant at which `poll_calls` has something to do at the latest, as of its last call.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.wakeup
    }

    pub(super) fn wake_at(&mut self, instant: Instant) {
        self.wakeup = Some(self.wakeup.map_or(instant, |earlier| earlier.min(instant)));
    }

    fn expire(&mut self, now: Instant) {
        if self.storage.is_enabled() && !self.storage.is_ready(now) {
            // Age moves spans to the disk; while that is in trouble they stay until the limits remove them.
            if let Some(instant) = self.storage.retry_at() {
                self.wake_at(instant);
            }
            return;
        }
        if self.storage.retry_at().is_some() && self.phase == Phase::Running {
            // The disk may work again: a spill that began with the next batch would come too late for that batch.
            self.spill_surplus(Size::default(), now);
        }
        let expired = self.memory.take_expired(self.storage.is_enabled(), now);
        if self.storage.is_enabled() {
            self.spill(expired);
        } else {
            for mut entry in expired {
                if !self.durable.may_leave(&entry) && self.durable.has_synced(&entry) {
                    // The journal has it and cannot return it: durable spans are not dropped for their age.
                    entry.item.keep_until(now.checked_add(self.memory.limits().max_age));
                    self.memory.give_back(entry);
                } else {
                    self.leave_or_end(&entry, DropReason::BufferAge);
                }
            }
        }
        if let Some(instant) = self.memory.next_expiry() {
            self.wake_at(instant);
        }
    }

    /// Adds calls until the endpoint's concurrency is used up. Returns whether a batch waits for the endpoint.
    fn start_calls(&mut self, now: Instant, calls: &mut Vec<Call>) -> bool {
        while self.has_room_for_call(now) {
            let is_replay = self.is_replay_next(now);
            if !is_replay && !self.memory.has_ready(now) {
                if let Some(instant) = self.memory.next_ready(now) {
                    self.wake_at(instant);
                }
                if self.in_flight.is_empty() && self.memory.waits_for_room(now) {
                    // No answer will come that makes room.
                    self.wake_at(now + ASK_AGAIN);
                }
                return false;
            }
            let traffic = if is_replay { Traffic::Replay { live_waits: false } } else { Traffic::Live };
            let (endpoint, ticket) = match self.acquire(traffic, now) {
                Ok(permit) => permit,
                Err(Refusal::NoRoom) => return false,
                Err(Refusal::Wait(wait)) => {
                    self.note_wait(wait, now);
                    return true;
                }
            };
            // A batch that is cut, or ends as too large, makes room for another one.
            let mut fitted = 0;
            let work = loop {
                if fitted == FITTED_AT_ONCE {
                    // The lock is free in between.
                    self.endpoints.of_mut(endpoint).on_unused(ticket, now);
                    self.endpoints.on_trial_unused(endpoint, now);
                    self.wake_at(now);
                    return false;
                }
                fitted += 1;
                let work = match is_replay {
                    true => self.replay.take_next().map(Work::Replay),
                    false => self.take_next(endpoint, ticket.kind(), now).map(Work::Live),
                };
                match work.map(|work| self.fit(work, endpoint, now)) {
                    Some(Some(work)) => break Some(work),
                    Some(None) => {}
                    None => break None,
                }
            };
            let Some(work) = work else {
                // Only those of this kind are used up: a live batch may wait beside stored ones, or the reverse.
                self.endpoints.of_mut(endpoint).on_unused(ticket, now);
                self.endpoints.on_trial_unused(endpoint, now);
                self.settle_group(now);
                continue;
            };
            self.calls += 1;
            match &work {
                Work::Live(entry) => {
                    self.turns += 1;
                    self.replay.on_live_call();
                    self.memory.on_sent(entry);
                    self.accounts.transfer(entry.size.count, Place::Buffered, Place::InFlight);
                }
                Work::Replay(piece) => self.replay.on_replay_call(piece, now),
            }
            let id = self.calls;
            let is_fresh = self.endpoints.of(endpoint).wants_new_connection(&ticket);
            calls.push(Call { id, endpoint, payload: work.content(), is_fresh });
            self.in_flight.push(InFlight { id, endpoint, work, ticket, started: now, is_repeat: false });
        }
        false
    }

    /// Takes the batch of the next live call.
    fn take_next(&mut self, endpoint: usize, kind: Kind, now: Instant) -> Option<Entry<Batch>> {
        self.memory.take_next(endpoint, self.turn(endpoint, kind), now)
    }

    /// The rule by which the next live call chooses its batch. While the endpoint refuses, each call is a question to
    /// the endpoint as a probe is, and so is a trial: a batch that was not refused yet answers it.
    fn turn(&self, endpoint: usize, kind: Kind) -> Turn {
        match kind {
            Kind::Probe => Turn::Probe,
            _ if self.endpoints.of(endpoint).refusing().is_some() => Turn::Probe,
            _ if endpoint != self.endpoints.in_use() => Turn::Probe,
            _ if self.turns % OLDEST_EVERY == OLDEST_EVERY - 1 => Turn::Oldest,
            _ => Turn::Ordinary,
        }
    }

    /// A call failed: its endpoint may be out.
    pub(super) fn note_failure(&mut self, endpoint: usize, cause: &Cause, now: Instant) {
        // An outage whose end is confirmed by now ends before, with the numbers of its own.
        self.follow_outages(now);
        let (ledger, duplicates) = (self.accounts.ledger(), self.accounts.counters.possible_duplicates());
        let began = self.accounts.counters.last_failure();
        let collector = self.endpoints.collector_mut(endpoint);
        collector.tally.get_or_insert_with(|| Tally::new(ledger, duplicates, began)).note_failure();
        collector.outage.on_failure(Failure { cause: cause.to_string(), remedy: remedy(cause) }, now);
    }

    /// Publishes the beginnings and the ends of outages.
    fn follow_outages(&mut self, now: Instant) {
        for at in 0..self.endpoints.len() {
            self.follow_outage(at, now);
        }
        self.note_sizes();
        self.follow_records(now);
    }

    fn follow_outage(&mut self, at: usize, now: Instant) {
        let endpoint = Position::new(at);
        self.leave_outage(at, now);
        while let Some(transition) = self.endpoints.collector_mut(at).outage.poll(now) {
            let event = match transition {
                Transition::Began { since: _, failure: Failure { cause, remedy } } => {
                    let from = self.endpoints.collector(at).tally.as_ref().and_then(Tally::began);
                    self.records.on_began(endpoint, from, cause.clone(), remedy);
                    let wait = self.endpoints.of(at).next_call(now);
                    let next_attempt = wait.map(|instant| instant.saturating_duration_since(now));
                    Some(Event::OutageBegan { endpoint, cause, remedy, next_attempt })
                }
                Transition::Ended { since, until } => {
                    let duplicates = self.accounts.counters.possible_duplicates();
                    let tally = self.endpoints.collector_mut(at).tally.take();
                    let to = tally.as_ref().and_then(|tally| tally.ended_at(until));
                    let numbers = tally.map(|tally| tally.numbers(self.accounts.ledger(), duplicates));
                    self.records.on_ended(endpoint, until, to, numbers.clone().unwrap_or_default());
                    let (duration, record) = (until.saturating_duration_since(since), self.records.last_of(endpoint));
                    numbers.map(|numbers| Tally::ended(endpoint, duration, to, record, numbers))
                }
            };
            event.into_iter().for_each(|event| self.accounts.publish(event));
            self.set_outages_due();
        }
        let collector = self.endpoints.collector_mut(at);
        let wakeup = collector.outage.next_wakeup();
        if wakeup.is_none() && !collector.outage.is_active() {
            collector.tally = None;
        }
        if let Some(tally) = &mut collector.tally {
            tally.note_waiting(self.accounts.ledger());
        }
        wakeup.into_iter().for_each(|instant| self.wake_at(instant));
    }

    /// Interrupts the outage of an endpoint that calls have left for one of a higher priority.
    fn leave_outage(&mut self, at: usize, now: Instant) {
        if !std::mem::take(&mut self.endpoints.collector_mut(at).is_left) {
            return;
        }
        let duplicates = self.accounts.counters.possible_duplicates();
        let collector = self.endpoints.collector_mut(at);
        let (lasted, tally) = (collector.outage.leave(), collector.tally.take());
        if let Some(tally) = tally.filter(|_| lasted) {
            let numbers = tally.numbers(self.accounts.ledger(), duplicates);
            self.records.on_interrupted(Position::new(at), now, numbers);
            self.set_outages_due();
        }
    }

    pub(super) fn note_wait(&mut self, wait: Wait, now: Instant) {
        match wait {
            Wait::Until(instant) => self.wake_at(instant),
            // No call is out whose answer could end the wait.
            Wait::Answer if self.in_flight.is_empty() => self.wake_at(now + ASK_AGAIN),
            Wait::Answer => {}
        }
    }

    /// The calls to an endpoint that are out, at most, once one for a stored batch has begun. While the exporter runs
    /// and no live batch waits, one place is left for the next live one: it goes out at once beside any number of
    /// stored ones.
    pub(super) fn most_replay_calls(&self, endpoint: usize) -> usize {
        let all = self.endpoints.of(endpoint).concurrency();
        if self.phase == Phase::Running { all.saturating_sub(1).max(1) } else { all }
    }

    /// A call for a stored batch leaves a place of the endpoint in use.
    fn has_room_for_replay(&self, now: Instant) -> bool {
        let in_use = self.endpoints.in_use();
        let out = self.in_flight.iter().filter(|call| call.endpoint == in_use).count();
        // Another endpoint may have the call.
        out < self.most_replay_calls(in_use) || self.may_go_elsewhere(in_use, now)
    }

    /// The next call is a replay. Asks the disk thread for a group where a replay has none.
    fn is_replay_next(&mut self, now: Instant) -> bool {
        let may_replay = match self.phase {
            Phase::Running => {
                // Early spills hold the buffer below half: the calls that ask an unwilling endpoint are still for live
                // batches.
                let part = if self.is_unwilling(now) { (1, 8) } else { (1, 2) };
                !self.memory.is_waiting_above(part)
            }
            Phase::Draining(_) => self.is_replay_of_drain(now),
            Phase::Stopped => false,
        };
        if !may_replay {
            return false;
        }
        let has_spans = self.accounts.ledger().in_fallback > 0;
        let live_waits = self.memory.has_ready(now);
        match self.replay.next(has_spans, self.storage.is_ready(now), live_waits, now) {
            Next::Call => return live_waits || self.has_room_for_replay(now),
            Next::Wait(instant) => self.wake_at(instant),
            Next::Read if self.is_willing(now) => {
                let order = self.replay.on_read_begun();
                let learned = self.endpoints.current_mut().sizes.limit(MERGED_BYTES, now).unwrap_or(MERGED_BYTES);
                // Strict mode: a request of several records that is refused would be sent again, record by record.
                let merge_bytes = if self.policy.strict { 0 } else { learned.min(self.policy.request_max_bytes) };
                let merge = Size { count: self.policy.request_max_spans, bytes: merge_bytes };
                self.effects.push_back(Effect::ReadGroup { order, merge });
            }
            Next::Read | Next::Nothing => {}
        }
        false
    }
}
