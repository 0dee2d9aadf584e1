//! The net thread's polls: the calls that go out now, and the instant of the next poll.

use std::time::{Duration, Instant};

use super::endpoint::Wait;
use super::replay::Next;
use super::{Call, Core, Effect, InFlight, Phase, Work};
use crate::report::ledger::{DropReason, Place};

/// After this time the endpoint is asked again, if it refused a call without a time and no answer is awaited.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Core {
    /// The calls that go out now.
    pub(crate) fn poll_calls(&mut self, now: Instant) -> Vec<Call> {
        self.wakeup = None;
        let mut calls = Vec::new();
        if self.is_stopped() {
            return calls;
        }
        self.accounts.counters.stamp_loss(now);
        self.expire(now);
        if let Phase::Draining { until } = self.phase {
            if now >= until {
                self.stop(now);
                return calls;
            }
            self.wake_at(until);
        }
        let is_waiting = self.start_calls(now, &mut calls);
        self.publish_changes();
        if let Phase::Draining { .. } = self.phase
            && self.in_flight.is_empty()
        {
            let disk = self.storage.is_enabled() && self.storage.trouble().is_none();
            if self.memory.is_empty() && (!self.memory.has_tried() || disk) || is_waiting && disk {
                // The collector is not willing now: a shutdown does not wait for it where the disk takes the rest.
                self.stop(now);
            } else if self.memory.is_empty() {
                // The batches have no other place: another round, as long as there is time.
                self.memory.try_again();
                self.wake_at(now);
            }
        }
        calls
    }

    /// The instant at which `poll_calls` has something to do at the latest, as of its last call.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.wakeup
    }

    fn wake_at(&mut self, instant: Instant) {
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
        let expired = self.memory.take_expired(now);
        if self.storage.is_enabled() {
            self.spill(expired);
        } else {
            for entry in &expired {
                self.drop_entry(entry, DropReason::BufferAge);
            }
        }
        if let Some(instant) = self.memory.next_expiry() {
            self.wake_at(instant);
        }
    }

    /// Adds calls until the endpoint's concurrency is used up. Returns whether a batch waits for the endpoint.
    fn start_calls(&mut self, now: Instant, calls: &mut Vec<Call>) -> bool {
        while self.in_flight.len() < self.endpoint.concurrency() {
            let is_replay = self.is_replay_next(now);
            if !is_replay && self.memory.is_empty() {
                return false;
            }
            let ticket = match self.endpoint.acquire(now) {
                Ok(ticket) => ticket,
                Err(wait) => {
                    self.note_wait(wait, now);
                    return true;
                }
            };
            let work = match is_replay {
                true => self.replay.take_next().map(Work::Replay),
                false => self.memory.take_next().map(Work::Live),
            };
            let Some(work) = work else {
                self.endpoint.on_neutral(ticket, now);
                return false;
            };
            let payload = work.payload().clone();
            if payload.bytes().len() > self.policy.request_max_bytes && payload.span_count() > 1 {
                self.endpoint.on_neutral(ticket, now);
                self.split(work, &payload, None);
                continue;
            }
            self.calls += 1;
            match &work {
                Work::Live(entry) => {
                    self.replay.on_live_call();
                    self.memory.on_sent(entry.size);
                    self.accounts.transfer(entry.size.count, Place::Buffered, Place::InFlight);
                }
                Work::Replay(piece) => self.replay.on_replay_call(piece, now),
            }
            calls.push(Call { id: self.calls, payload: payload.clone() });
            self.in_flight.push(InFlight { id: self.calls, work, payload, ticket, started: now });
        }
        false
    }

    fn note_wait(&mut self, wait: Wait, now: Instant) {
        match wait {
            Wait::Until(instant) => self.wake_at(instant),
            // No call is out whose answer could end the wait.
            Wait::Answer if self.in_flight.is_empty() => self.wake_at(now + ASK_AGAIN),
            Wait::Answer => {}
        }
    }

    /// The next call is a replay. Asks the disk thread for a group where a replay has none.
    fn is_replay_next(&mut self, now: Instant) -> bool {
        if self.phase != Phase::Running || self.memory.is_waiting_above_half() {
            return false;
        }
        let has_spans = self.accounts.ledger().in_fallback > 0;
        match self.replay.next(has_spans, self.storage.is_ready(now), !self.memory.is_empty(), now) {
            Next::Call => return true,
            Next::Wait(instant) => self.wake_at(instant),
            Next::Read => match self.endpoint.acquire(now) {
                Ok(ticket) => {
                    self.endpoint.on_neutral(ticket, now);
                    self.replay.on_read_begun();
                    self.effects.push_back(Effect::ReadGroup);
                }
                Err(wait) => self.note_wait(wait, now),
            },
            Next::Nothing => {}
        }
        false
    }
}
