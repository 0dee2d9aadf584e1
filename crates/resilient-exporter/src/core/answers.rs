//! What an answer means for its batch, its endpoint and the ledger.

use std::time::{Instant, SystemTime};

use breaker::Kind;
use otlp_payload::Payload;
use otlp_transport::{Cause, Outcome};
use rand::RngExt as _;
use span_buffer::Entry;

use super::memory::{less, size_of, sum};
use super::{Core, Effect, InFlight, Phase, Replay, Work};
use crate::core::replay::MAX_FAILURES;
use crate::report::events::Event;
use crate::report::ledger::Place;
use crate::seams::fates::Refusal;

impl Core {
    /// Takes the outcome of one call.
    pub(crate) fn answered(
        &mut self,
        id: u64,
        outcome: Outcome,
        now: Instant,
        wall: SystemTime,
        effects: &mut Vec<Effect>,
    ) {
        let Some(position) = self.in_flight.iter().position(|call| call.id == id) else { return };
        let saturated = self.in_flight.len() >= self.endpoint.concurrency();
        let InFlight { work, payload, ticket, started, .. } = self.in_flight.swap_remove(position);
        let kind = ticket.kind();
        let unit = self.chance.random::<f64>();
        let spans = payload.span_count();
        if let Work::Live(entry) = &work {
            self.in_flight_size = less(self.in_flight_size, entry.size);
        }
        match outcome {
            Outcome::Delivered { rejected, message } => {
                self.counters.succeeded(wall);
                self.endpoint.succeeded(ticket, started, saturated, now);
                let rejected = rejected.min(spans);
                if rejected > 0 {
                    effects
                        .push(Effect::Tell(Event::Rejected { spans: rejected, message: message.unwrap_or_default() }));
                }
                self.delivered(work, rejected, effects);
            }
            Outcome::Retryable { after, cause, possible_duplicate } => {
                self.counters.failed(wall, &cause);
                if possible_duplicate {
                    self.counters.possible_duplicates += spans as u64;
                }
                match after {
                    Some(hint) => self.endpoint.throttled(ticket, hint, unit, now),
                    None => self.endpoint.failed(ticket, started, unit, now),
                }
                // Probes and throttles are not charged: an outage never spends a batch.
                let charged = after.is_none() && kind == Kind::Call;
                self.retry(work, cause, charged, now, effects);
            }
            Outcome::TooLarge { cause } => {
                self.counters.failed(wall, &cause);
                self.endpoint.neutral(ticket, now);
                self.back_to_buffered(&work);
                self.split(work, &payload, Some(cause), effects);
            }
            Outcome::Permanent { cause } => {
                self.counters.failed(wall, &cause);
                self.endpoint.neutral(ticket, now);
                self.back_to_buffered(&work);
                self.bury(work, cause, effects);
            }
            // `Outcome` may grow; what we do not know is treated as a failure that may be tried again.
            _ => {
                self.counters.failed(wall, &Cause::Foreign("an outcome unknown to this version".to_owned()));
                self.endpoint.failed(ticket, started, unit, now);
                self.retry(work, Cause::Foreign(String::new()), kind == Kind::Call, now, effects);
            }
        }
        self.tell_changes(effects);
    }

    fn delivered(&mut self, work: Work, rejected: usize, effects: &mut Vec<Effect>) {
        match work {
            Work::Live(entry) => {
                self.settle(entry.item.id());
                self.ledger.transfer(rejected, Place::InFlight, Place::Rejected);
                self.ledger.transfer(entry.size.count - rejected, Place::InFlight, Place::Delivered);
            }
            Work::Replay(piece) => {
                if let Replay::Sending(group) = &mut self.replay {
                    group.delivered(&piece, rejected);
                }
                self.finish_group(effects);
            }
        }
    }

    fn retry(&mut self, work: Work, cause: Cause, charged: bool, now: Instant, effects: &mut Vec<Effect>) {
        match work {
            Work::Live(mut entry) => {
                self.ledger.transfer(entry.size.count, Place::InFlight, Place::Buffered);
                entry.calls += u32::from(charged);
                if let Phase::Draining { .. } = self.phase {
                    self.tried.push(entry);
                } else if entry.calls >= self.policy.max_calls && self.disk_ready(now) {
                    self.spill(vec![entry], effects);
                } else {
                    self.buffer.give_back(entry);
                }
            }
            Work::Replay(mut piece) => {
                if charged {
                    piece.failed(self.others());
                }
                if let Replay::Sending(group) = &mut self.replay {
                    if piece.failures >= MAX_FAILURES {
                        let attempts = piece.failures;
                        group.refused(piece, cause, attempts, false);
                    } else {
                        group.give_back(piece);
                    }
                }
                self.finish_group(effects);
            }
        }
    }

    /// Two halves to the front, or, for a single span that nobody takes, a dead letter. `cause` is absent where our own
    /// limit asked for it before anything was sent.
    pub(super) fn split(&mut self, work: Work, payload: &Payload, cause: Option<Cause>, effects: &mut Vec<Effect>) {
        let (left, right) = (self.next_id(), self.next_id());
        let Some((left, right)) = payload.split(left, right) else {
            let limit = self.policy.request_max_bytes;
            let cause = cause.unwrap_or(Cause::RequestLimit { size: payload.bytes().len(), limit });
            self.bury(work, cause, effects);
            return;
        };
        match work {
            Work::Live(entry) => {
                self.cut(payload.id(), [left.id(), right.id()]);
                for payload in [right, left] {
                    let size = size_of(&payload);
                    self.buffer.give_back(Entry { item: payload, size, calls: 0, ..entry.clone() });
                }
            }
            Work::Replay(piece) => {
                if let Replay::Sending(group) = &mut self.replay {
                    group.split(&piece, left, right);
                }
            }
        }
    }

    /// Refused for good.
    fn bury(&mut self, work: Work, cause: Cause, effects: &mut Vec<Effect>) {
        match work {
            Work::Live(entry) => {
                self.disk.writing = sum(self.disk.writing, entry.size);
                let attempts = entry.calls + 1;
                effects.push(Effect::Bury(vec![Refusal { payload: entry.item, cause, attempts, permanent: true }]));
            }
            Work::Replay(piece) => {
                if let Replay::Sending(group) = &mut self.replay {
                    let attempts = piece.failures + 1;
                    group.refused(piece, cause, attempts, true);
                }
                self.finish_group(effects);
            }
        }
    }

    fn back_to_buffered(&mut self, work: &Work) {
        if let Work::Live(entry) = work {
            self.ledger.transfer(entry.size.count, Place::InFlight, Place::Buffered);
        }
    }
}
