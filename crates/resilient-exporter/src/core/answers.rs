//! The meaning of a call's outcome for its batch, the endpoint and the ledger.

use std::time::{Duration, Instant, SystemTime};

use breaker::Kind;
use otlp_payload::Payload;
use otlp_transport::{Cause, Outcome};
use span_buffer::Entry;

use super::memory::size_of;
use super::replay::Others;
use super::{Core, Effect, InFlight, Phase, Work};
use crate::report::events::Event;
use crate::report::ledger::Place;
use crate::seams::fates::Refusal;

impl Core {
    /// A call has ended. `own` is the delay of the backoff policy, as [`Core::attempts`] asked for it; only outcomes
    /// that may be repeated use it.
    pub(crate) fn on_answered(&mut self, id: u64, outcome: Outcome, own: Duration, now: Instant, wall: SystemTime) {
        let Some(position) = self.in_flight.iter().position(|call| call.id == id) else { return };
        let saturated = self.in_flight.len() >= self.endpoint.concurrency();
        let InFlight { work, payload, ticket, started, .. } = self.in_flight.swap_remove(position);
        let kind = ticket.kind();
        let spans = payload.span_count();
        if let Work::Live(entry) = &work {
            self.memory.on_call_ended(entry.size);
        }
        match outcome {
            Outcome::Delivered { rejected, message } => {
                self.accounts.counters.count_success(wall);
                self.endpoint.on_success(ticket, started, saturated, now);
                let rejected = rejected.min(spans);
                if rejected > 0 {
                    let message = message.unwrap_or_default();
                    self.accounts.publish(Event::Rejected { spans: rejected, message });
                }
                self.deliver(work, rejected);
            }
            Outcome::Retryable { after, cause, possible_duplicate } => {
                self.accounts.counters.count_failure(wall, &cause);
                if possible_duplicate {
                    self.accounts.counters.count_possible_duplicates(spans as u64);
                }
                match after {
                    Some(hint) => self.endpoint.on_throttle(ticket, hint, own, now),
                    None => self.endpoint.on_failure(ticket, started, own, now),
                }
                // Probes and throttles are not charged: an outage never spends a batch.
                let charged = after.is_none() && kind == Kind::Call;
                self.retry(work, cause, charged, now);
            }
            Outcome::TooLarge { cause, .. } => {
                self.accounts.counters.count_failure(wall, &cause);
                self.endpoint.on_neutral(ticket, now);
                self.return_to_buffered(&work);
                self.split(work, &payload, Some(cause));
            }
            Outcome::Refused { cause, .. } => {
                self.accounts.counters.count_failure(wall, &cause);
                self.endpoint.on_neutral(ticket, now);
                self.return_to_buffered(&work);
                self.refuse(work, cause);
            }
            // `Outcome` may grow: an unknown outcome is a failure that may be repeated.
            _ => {
                let cause = Cause::Foreign("an outcome unknown to this version".to_owned());
                self.accounts.counters.count_failure(wall, &cause);
                self.endpoint.on_failure(ticket, started, own, now);
                self.retry(work, Cause::Foreign(String::new()), kind == Kind::Call, now);
            }
        }
        self.publish_changes();
    }

    /// No answer will come for the calls that are out: their batches wait again.
    pub(crate) fn on_calls_abandoned(&mut self, now: Instant) {
        for call in std::mem::take(&mut self.in_flight) {
            self.endpoint.on_neutral(call.ticket, now);
            self.accounts.counters.count_possible_duplicates(call.payload.span_count() as u64);
            match call.work {
                Work::Live(entry) => {
                    self.memory.on_call_ended(entry.size);
                    self.accounts.transfer(entry.size.count, Place::InFlight, Place::Buffered);
                    self.memory.give_back(entry);
                }
                Work::Replay(piece) => self.replay.give_back(piece),
            }
        }
    }

    fn deliver(&mut self, work: Work, rejected: usize) {
        match work {
            Work::Live(entry) => {
                self.durable.on_ended(entry.item.id());
                self.accounts.transfer(rejected, Place::InFlight, Place::Rejected);
                self.accounts.transfer(entry.size.count - rejected, Place::InFlight, Place::Delivered);
            }
            Work::Replay(piece) => {
                self.replay.on_delivered(&piece, rejected);
                self.settle_group();
            }
        }
    }

    fn retry(&mut self, work: Work, cause: Cause, charged: bool, now: Instant) {
        match work {
            Work::Live(mut entry) => {
                self.accounts.transfer(entry.size.count, Place::InFlight, Place::Buffered);
                entry.calls += u32::from(charged);
                if let Phase::Draining { .. } = self.phase {
                    self.memory.set_tried(entry);
                } else if entry.calls >= self.policy.max_calls && self.storage.is_ready(now) {
                    self.spill(vec![entry]);
                } else {
                    self.memory.give_back(entry);
                }
            }
            Work::Replay(piece) => {
                self.replay.on_failed(piece, cause, charged, self.others());
                self.settle_group();
            }
        }
    }

    /// Returns two halves to the front of the queue; a single span that no peer takes becomes a dead letter. `cause` is
    /// absent if our own limit asked for the split before a call went out.
    pub(super) fn split(&mut self, work: Work, payload: &Payload, cause: Option<Cause>) {
        let (left, right) = (self.next_id(), self.next_id());
        let Some((left, right)) = payload.split(left, right) else {
            let limit = self.policy.request_max_bytes;
            let cause = cause.unwrap_or(Cause::RequestLimit { size: payload.bytes().len(), limit });
            self.refuse(work, cause);
            return;
        };
        match work {
            Work::Live(entry) => {
                self.durable.on_cut(payload.id(), [left.id(), right.id()]);
                for payload in [right, left] {
                    let size = size_of(&payload);
                    self.memory.give_back(Entry { item: payload, size, calls: 0, ..entry.clone() });
                }
            }
            Work::Replay(piece) => self.replay.on_split(&piece, left, right),
        }
    }

    /// The collector will never take this batch: it becomes a dead letter.
    fn refuse(&mut self, work: Work, cause: Cause) {
        match work {
            Work::Live(entry) => {
                self.memory.on_write_begun(entry.size);
                let attempts = entry.calls + 1;
                let refusal = Refusal { payload: entry.item, cause, attempts, permanent: true };
                self.effects.push_back(Effect::StoreDeadLetters(vec![refusal]));
            }
            Work::Replay(piece) => {
                self.replay.on_refused(piece, cause);
                self.settle_group();
            }
        }
    }

    fn return_to_buffered(&mut self, work: &Work) {
        if let Work::Live(entry) = work {
            self.accounts.transfer(entry.size.count, Place::InFlight, Place::Buffered);
        }
    }

    /// Has the disk thread mark a group once each of its batches has ended.
    fn settle_group(&mut self) {
        if let Some(fates) = self.replay.take_ended() {
            self.effects.push_back(Effect::SettleGroup(fates));
        }
    }

    pub(super) fn others(&self) -> Others {
        Others { successes: self.accounts.counters.successes(), trips: self.endpoint.trips() }
    }
}
