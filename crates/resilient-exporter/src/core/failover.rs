//! The moves of calls between collectors: the permits of calls, the failures for which calls go elsewhere, and the
//! events of a move.

use std::time::Instant;

use breaker::Ticket;
use otlp_transport::{Cause, RefusalKind};

use super::endpoint::Traffic;
use super::endpoints::{AllOut, Move, Refusal, Verdict};
use super::{Core, InFlight, Phase, Work};
use crate::report::events::Event;
use crate::report::ledger::Place;

impl Core {
    /// Takes a permit for the next call, and returns the place of its endpoint.
    pub(super) fn acquire(&mut self, traffic: Traffic, now: Instant) -> Result<(usize, Ticket), Refusal> {
        let out = self.calls_out(now);
        let permit = self.endpoints.acquire(traffic, self.has_trials(), &out, now);
        self.end_waits_of_moved();
        permit
    }

    /// Another call may go out. In a drain, calls for stored batches take no room from live ones.
    pub(super) fn has_room_for_call(&self, now: Instant) -> bool {
        self.endpoints.has_room_for_call(self.has_trials(), &self.calls_out(now), now)
    }

    /// A shutdown has no time for trials: each live batch has one call.
    fn has_trials(&self) -> bool {
        self.phase == Phase::Running
    }

    pub(super) fn calls_out(&self, now: Instant) -> AllOut {
        let only_live = matches!(self.phase, Phase::Draining(_)) && self.memory.has_ready(now);
        let mut all = AllOut::default();
        for call in &self.in_flight {
            let out = &mut all[call.endpoint];
            out.all += 1;
            out.counted += usize::from(!only_live || matches!(call.work, Work::Live(_)));
            out.oldest = Some(out.oldest.map_or(call.started, |oldest| oldest.min(call.started)));
        }
        all
    }

    /// A call of this endpoint failed. Without a connection, or without an answer in time, calls go to another
    /// endpoint. A stored record alone may be the cause of the time-out.
    pub(super) fn note_way_of_failure(&mut self, endpoint: usize, cause: &Cause, traffic: Traffic) {
        let is_down = match cause {
            Cause::Connect(_) | Cause::Credentials(_) => true,
            Cause::Timeout(_) => traffic == Traffic::Live,
            _ => false,
        };
        if is_down {
            self.endpoints.of_mut(endpoint).set_down();
        }
    }

    /// The endpoint refused a call, and not because of its batch. One that refuses the sender gets no calls while
    /// another endpoint takes them.
    pub(super) fn note_way_of_refusal(&mut self, endpoint: usize, kind: RefusalKind, now: Instant) {
        if kind == RefusalKind::Sender {
            self.endpoints.of_mut(endpoint).set_down();
        }
        self.endpoints.on_verdict(endpoint, Verdict::Failed, now);
    }

    /// The next call of this endpoint passes backoff and breaker, and goes at once if it is a trial.
    pub(super) fn grant_pass(&mut self, endpoint: usize) {
        self.endpoints.of_mut(endpoint).grant_pass();
        self.endpoints.end_trial_waits();
    }

    /// The next call of each endpoint passes backoff and breaker.
    pub(super) fn grant_passes(&mut self) {
        self.endpoints.iter_mut().for_each(super::Endpoint::grant_pass);
    }

    /// The batch of this call is a trial: the endpoint in use takes it as well.
    pub(super) fn is_trial(&self, endpoint: usize, now: Instant) -> bool {
        self.endpoints.has_better_place(endpoint, &self.calls_out(now), now)
    }

    /// A batch that this endpoint did not take may go to another one at once.
    pub(super) fn may_go_elsewhere(&self, endpoint: usize, now: Instant) -> bool {
        self.endpoints.may_go_elsewhere(endpoint, &self.calls_out(now), now)
    }

    /// With several endpoints: gives the calls of those that are silent up, but for the one in use, which calls leave
    /// by then. Wakes the net thread when the next one is silent, or the next trial is due.
    pub(super) fn follow_endpoints(&mut self, now: Instant) {
        if self.endpoints.len() == 1 {
            return;
        }
        let out = self.calls_out(now);
        for at in 0..self.endpoints.len() {
            match self.endpoints.silent_at(at, &out) {
                Some(instant) if now < instant => self.wake_at(instant),
                Some(_) if at != self.endpoints.in_use() => self.give_up_calls_of(at, now),
                _ => {}
            }
        }
        let next_trial = self.endpoints.next_trial(now).filter(|_| self.has_trials() && self.memory.has_ready(now));
        next_trial.filter(|&instant| now < instant).into_iter().for_each(|instant| self.wake_at(instant));
    }

    /// Answers of this endpoint are not awaited any more: it may have taken the batches, which wait again.
    fn give_up_calls_of(&mut self, at: usize, now: Instant) {
        self.endpoints.of_mut(at).set_down();
        for call in self.in_flight.extract_if(.., |call| call.endpoint == at).collect::<Vec<_>>() {
            let InFlight { id, work, ticket, started, .. } = call;
            self.has_abandoned = true;
            self.repeats.retain(|repeat| repeat.id != id);
            self.endpoints.of_mut(at).on_abandoned(ticket, started, now);
            self.accounts.counters.count_possible_duplicates(work.item_count() as u64);
            match work {
                Work::Live(entry) => {
                    self.memory.on_call_ended(&entry);
                    self.accounts.transfer(entry.size.count, Place::InFlight, Place::Buffered);
                    self.memory.give_back(entry);
                }
                Work::Replay(piece) => self.with_group(|group| group.give_back(piece)),
            }
        }
        self.endpoints.on_given_up(at, now);
        self.store_oversized();
        self.wake_at(now);
    }

    /// Batches that another endpoint than the one in use has refused do not wait for themselves after a move.
    fn end_waits_of_moved(&mut self) {
        if !self.endpoints.has_moved() {
            return;
        }
        let in_use = self.endpoints.in_use();
        self.batches_mut().filter(|batch| batch.suspicion.waits_for_other(in_use)).for_each(|batch| {
            batch.suspicion.end_wait();
        });
    }

    /// Publishes the moves since the last call.
    pub(super) fn publish_moves(&mut self) {
        self.end_waits_of_moved();
        for Move { from, to } in self.endpoints.take_moves() {
            self.accounts.publish(Event::EndpointChanged { from, to });
        }
    }
}
