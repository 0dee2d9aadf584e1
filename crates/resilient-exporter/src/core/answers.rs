//! The meaning of a call's outcome for its batch, the endpoint and the ledger.

use std::time::{Duration, Instant, SystemTime};

use breaker::Kind;
use otlp_transport::{Cause, Outcome, RefusalKind};
use span_buffer::Entry;

use super::batch::{Batch, WINDOW};
use super::endpoint::{Blame, Ended, Traffic};
use super::endpoints::Verdict;
use super::group::{Piece, Refused};
use super::{Core, Effect, InFlight, Phase, Work};
use crate::report::calls::CallResult;
use crate::report::events::Event;
use crate::report::facts::LONG_PAUSE;
use crate::report::ledger::{Place, Taken};
use crate::report::position::Position;
use crate::report::remedies::remedy;

/// The gRPC status `RESOURCE_EXHAUSTED`: retryable by the specification only with a hint.
const RESOURCE_EXHAUSTED: i32 = 8;

/// The endpoint accepts nearly all batches if less than one in so many of its calls ends otherwise.
const NEARLY_ALL: u64 = 10;

/// A call that has ended, and its batch.
pub(super) struct Answered {
    id: u64,
    pub(super) work: Work,
    /// The place of its endpoint.
    pub(super) endpoint: usize,
    pub(super) call: Ended,
    /// The backoff policy's delay.
    own: Duration,
    pub(super) now: Instant,
}

impl Core {
    /// A call has ended. `own` is the delay of the backoff policy, as [`Core::attempts`] asked for it; only outcomes
    /// that may be repeated use it.
    pub(crate) fn on_answered(&mut self, id: u64, outcome: Outcome, own: Duration, now: Instant, wall: SystemTime) {
        let Some(position) = self.in_flight.iter().position(|call| call.id == id) else { return };
        let endpoint = self.in_flight[position].endpoint;
        let out = self.in_flight.iter().filter(|call| call.endpoint == endpoint).count();
        let all = self.endpoints.of(endpoint).concurrency();
        let is_saturated = out >= if self.is_live(id) { all } else { self.most_replay_calls(endpoint) };
        let InFlight { work, ticket, started, is_repeat, .. } = self.in_flight.swap_remove(position);
        let traffic = match &work {
            Work::Live(entry) => {
                self.memory.on_call_ended(entry);
                Traffic::Live
            }
            Work::Replay(_) => Traffic::Replay { live_waits: self.memory.has_ready(now) },
        };
        let spans = work.item_count() as u64;
        self.accounts.calls.on_ended(CallResult::of(&outcome), now.saturating_duration_since(started));
        match &outcome {
            Outcome::Delivered { .. } | Outcome::AcknowledgedUnreadably { .. } => {
                self.accounts.counters.count_success(wall);
            }
            outcome => {
                self.accounts.counters.count_failure(wall, outcome.cause());
                outcome.cause().into_iter().for_each(|cause| self.endpoints.of_mut(endpoint).note_cause(cause));
            }
        }
        self.endpoints.collector_mut(endpoint).renewals.on_outcome(&outcome);
        let answered = Answered { id, work, endpoint, call: Ended { ticket, traffic, started }, own, now };
        match outcome {
            Outcome::Delivered { rejected, message } => self.accept(answered, rejected, message, None, is_saturated),
            Outcome::AcknowledgedUnreadably { cause } => {
                self.accept(answered, 0, None, Some(cause), is_saturated);
            }
            Outcome::Retryable { after, cause, possible_duplicate } => {
                self.accounts.counters.count_possible_duplicates(if possible_duplicate { spans } else { 0 });
                match after {
                    Some(hint) => self.throttle(answered, hint, &cause),
                    None => self.fail(answered, cause),
                }
            }
            Outcome::TooLarge { cause, possible_duplicate } => {
                self.accounts.counters.count_possible_duplicates(if possible_duplicate { spans } else { 0 });
                let Answered { work, call, now, .. } = answered;
                self.endpoints.of_mut(endpoint).on_too_large(call, now);
                self.go_on_draining(endpoint);
                self.return_to_buffered(&work);
                self.cut_refused(work, endpoint, cause, now);
            }
            Outcome::Refused { kind, cause, possible_duplicate } => {
                self.accounts.counters.count_possible_duplicates(if possible_duplicate { spans } else { 0 });
                self.refuse(answered, kind, cause);
            }
            Outcome::CredentialsRenewed { cause, generation } => self.renew(answered, is_repeat, cause, generation),
            // `Outcome` may grow: an unknown outcome is a failure that may be repeated.
            _ => {
                self.accounts.counters.count_possible_duplicates(spans);
                self.fail(answered, Cause::Foreign("an outcome unknown to this version".to_owned()));
            }
        }
        self.store_oversized();
        self.publish_changes(now);
    }

    /// The endpoint works, and its answer was about one batch alone: in a drain no other waits for an earlier failure.
    fn go_on_draining(&mut self, endpoint: usize) {
        if let Phase::Draining(_) = self.phase {
            self.endpoints.of_mut(endpoint).grant_pass();
        }
    }

    /// No answer will come for the calls that are out: their batches wait again.
    pub(crate) fn on_calls_abandoned(&mut self, now: Instant) {
        self.repeats.clear();
        for call in std::mem::take(&mut self.in_flight) {
            self.endpoints.of_mut(call.endpoint).on_neutral(call.ticket, now);
            self.accounts.counters.count_possible_duplicates(call.work.item_count() as u64);
            match call.work {
                Work::Live(entry) => {
                    self.memory.on_call_ended(&entry);
                    self.accounts.transfer(entry.size.count, Place::InFlight, Place::Buffered);
                    self.memory.give_back(entry);
                }
                Work::Replay(piece) => self.with_group(|group| group.give_back(piece)),
            }
        }
        self.store_oversized();
    }

    // Acceptances.

    /// The collector took a batch; `unreadable` is its answer if it is none of an OTLP server.
    fn accept(
        &mut self,
        answered: Answered,
        rejected: usize,
        message: Option<String>,
        unreadable: Option<Cause>,
        is_saturated: bool,
    ) {
        let Answered { id, work, endpoint: at, call, now, .. } = answered;
        let endpoint = Position::new(at);
        let (spans, bytes) = (work.item_count(), work.request_len());
        let is_readable = unreadable.is_none();
        if let Some(cause) = &unreadable {
            self.accounts.counters.count_unreadable(spans as u64);
            let cause = cause.to_string();
            self.accounts.publish(Event::AcknowledgedUnreadably { endpoint, spans, cause });
        }
        let rejected = rejected.min(spans);
        match message {
            message if rejected > 0 => {
                let message = message.unwrap_or_default();
                self.accounts.publish(Event::Rejected { endpoint, spans: rejected, message });
            }
            Some(message) => self.accounts.publish(Event::CollectorWarned { endpoint, message }),
            None => {}
        }
        let is_in_use = at == self.endpoints.in_use();
        let collector = self.endpoints.collector_mut(at);
        if is_in_use && collector.endpoint.has_failed() {
            self.replay.on_endpoint_recovered();
        }
        let has_refused_all = collector.endpoint.on_success(call, unreadable, is_saturated, now);
        collector.endpoint.sizes.on_accepted(bytes, now);
        collector.outage.on_success(now);
        let wall = self.accounts.counters.last_success();
        collector.tally.iter_mut().for_each(|tally| tally.note_success(now, wall));
        self.endpoints.on_verdict(at, Verdict::Delivered, now);
        match work {
            Work::Live(entry) => {
                self.durable.on_ended(entry.item.payload.id());
                let taken = Taken { delivered: spans - rejected, rejected };
                self.accounts.deliver(endpoint, taken, Place::InFlight);
            }
            Work::Replay(piece) => self.with_group(|group| group.on_delivered(&piece, at, rejected)),
        }
        if has_refused_all {
            let waits = |batch: &&mut Batch| batch.suspicion.waits() && batch.suspicion.is_of(at);
            self.batches_mut().filter(waits).for_each(|batch| {
                batch.suspicion.end_wait();
            });
        }
        if is_readable {
            self.count_refusals(id, at, now);
        }
        self.settle_group(now);
    }

    /// The endpoint accepted the batch of this call: its refusals that came before the call went out count now.
    fn count_refusals(&mut self, call: u64, endpoint: usize, now: Instant) {
        let counts = self.endpoints.of(endpoint).rates(now, WINDOW);
        let accepts_others = |own: u64| accepts_others(counts.refused + counts.failed, counts.accepted, own);
        self.replay.on_other_accepted(call, endpoint, accepts_others, now);
        if !self.has_suspects {
            return;
        }
        self.has_suspects = false;
        let mut has_suspects = false;
        for batch in self.batches_mut().filter(|batch| batch.suspicion.is_suspect()) {
            has_suspects = true;
            batch.suspicion.on_other_accepted(call, endpoint);
        }
        self.has_suspects = has_suspects;
        let makes_dead_letter = |batch: &Batch| {
            let suspicion = &batch.suspicion;
            let is_its = suspicion.is_of(endpoint);
            is_its && suspicion.may_end(now) && suspicion.makes_dead_letter(accepts_others(suspicion.recent(now)))
        };
        for entry in self.memory.take_all_where(makes_dead_letter) {
            let Some(cause) = entry.item.suspicion.cause().cloned() else { continue };
            self.end_as_dead_letter(vec![entry], endpoint, cause);
        }
    }

    /// The batches in memory and in calls.
    pub(super) fn batches_mut(&mut self) -> impl Iterator<Item = &mut Batch> {
        let out = self.in_flight.iter_mut().filter_map(|call| match &mut call.work {
            Work::Live(entry) => Some(&mut entry.item),
            Work::Replay(_) => None,
        });
        self.memory.batches_mut().chain(out)
    }

    // Failures.

    fn throttle(&mut self, answered: Answered, hint: Duration, cause: &Cause) {
        let Answered { work, endpoint: at, call, own, now, .. } = answered;
        let endpoint = self.endpoints.of_mut(at);
        endpoint.on_throttle(call, hint, own, now);
        if let Some((pause, _)) = endpoint.pause(now).filter(|(whole, _)| *whole > LONG_PAUSE) {
            let (endpoint, cause, remedy) = (Position::new(at), cause.to_string(), remedy(cause));
            self.accounts.publish(Event::Throttled { endpoint, pause, cause, remedy });
        }
        self.endpoints.on_verdict(at, Verdict::Failed, now);
        match work {
            Work::Live(mut entry) => {
                self.accounts.transfer(entry.size.count, Place::InFlight, Place::Buffered);
                entry.item.tries.add_throttled(at);
                self.return_tried(entry, at, now);
            }
            Work::Replay(piece) => {
                self.with_group(|group| group.on_throttled(piece));
                self.settle_group(now);
            }
        }
    }

    fn fail(&mut self, answered: Answered, cause: Cause) {
        if self.policy.strict && matches!(cause, Cause::Grpc { code: RESOURCE_EXHAUSTED, .. }) {
            return self.refuse(answered, RefusalKind::Unclear, cause);
        }
        let Answered { work, endpoint, call, own, now, .. } = answered;
        // Probes are not charged: an outage never spends a batch.
        let is_charged = call.ticket.kind() == Kind::Call;
        let blame = self.endpoints.of(endpoint).blame(now);
        self.note_way_of_failure(endpoint, &cause, call.traffic);
        self.endpoints.of_mut(endpoint).on_failure(call, own, now);
        self.endpoints.on_verdict(endpoint, Verdict::Failed, now);
        self.end_pass_of_drain(endpoint);
        self.note_failure(endpoint, &cause, now);
        match work {
            Work::Live(mut entry) => {
                self.accounts.transfer(entry.size.count, Place::InFlight, Place::Buffered);
                entry.calls += u32::from(is_charged);
                entry.item.tries.add_failed(endpoint);
                let is_spent = entry.calls >= self.policy.max_calls && self.storage.is_ready(now);
                if self.phase == Phase::Running && is_spent && entry.item.may_spill(now) {
                    self.spill(vec![entry]);
                } else {
                    self.return_tried(entry, endpoint, now);
                }
            }
            Work::Replay(piece) => self.fail_replay(piece, endpoint, cause, blame, now),
        }
    }

    /// A call for stored records failed and may be repeated.
    fn fail_replay(&mut self, piece: Piece, endpoint: usize, cause: Cause, blame: Blame, now: Instant) {
        let calls = self.calls;
        let counts = self.endpoints.of(endpoint).rates(now, WINDOW);
        let accepts_others = |own: u64| accepts_others(counts.refused + counts.failed, counts.accepted, own);
        self.with_group(|group| match blame {
            // No connection, or no credentials: that says nothing about the records.
            _ if matches!(cause, Cause::Connect(_) | Cause::Credentials(_)) => group.give_back(piece),
            _ if piece.is_merged() => group.take_apart(&piece),
            Blame::Batch => {
                let refused = Refused { endpoint, kind: None, cause, blame, accepts_others: &accepts_others };
                group.on_refused(piece, refused, calls, now);
            }
            Blame::Endpoint => group.on_failed(&piece, now),
        });
        self.settle_group(now);
    }

    // Refusals.

    /// The collector refused a request. Soon after an acceptance the batch is suspected, else the endpoint refuses all.
    pub(super) fn refuse(&mut self, answered: Answered, kind: RefusalKind, cause: Cause) {
        let Answered { work, endpoint, call, own, now, .. } = answered;
        self.return_to_buffered(&work);
        let blame = self.endpoints.of(endpoint).blame(now);
        let event = Event::Refused {
            endpoint: Position::new(endpoint),
            spans: work.item_count(),
            kind,
            cause: cause.to_string(),
            remedy: remedy(&cause),
            is_suspect: blame == Blame::Batch,
        };
        let is_own = blame == Blame::Endpoint;
        if is_own {
            self.note_way_of_refusal(endpoint, kind, now);
        }
        if self.policy.strict {
            if is_own && self.endpoints.len() > 1 && kind == RefusalKind::Sender {
                // Backoff and breaker make trials rare, each of which costs a batch.
                self.endpoints.of_mut(endpoint).on_refused(call, cause.clone(), own, now);
            } else {
                let own = is_own.then(|| cause.clone());
                self.endpoints.of_mut(endpoint).on_refused_for_good(call, own, now);
            }
            self.go_on_draining(endpoint);
            return self.end_refused(work, endpoint, cause, now);
        }
        self.accounts.publish(event);
        let is_trial = self.is_trial(endpoint, now);
        if is_own {
            self.endpoints.of_mut(endpoint).on_refused(call, cause.clone(), own, now);
            self.end_pass_of_drain(endpoint);
            self.note_failure(endpoint, &cause, now);
            if !self.is_suspect(&work, endpoint) {
                self.batches_mut().for_each(|batch| batch.suspicion.on_endpoint_refused(endpoint));
                self.replay.on_endpoint_refused(endpoint);
            }
        } else {
            self.endpoints.of_mut(endpoint).on_batch_refused(call, now);
            self.go_on_draining(endpoint);
        }
        let calls = self.calls;
        let counts = self.endpoints.of(endpoint).rates(now, WINDOW);
        let accepts_others = |own: u64| accepts_others(counts.refused + counts.failed, counts.accepted, own);
        match work {
            Work::Live(mut entry) => {
                let batch = &mut entry.item;
                batch.tries.add_failed(endpoint);
                match blame {
                    // The endpoint in use may take it.
                    Blame::Batch if is_trial => batch.suspicion.note(now),
                    Blame::Batch
                        if batch.suspicion.is_of(endpoint)
                            && batch.suspicion.makes_dead_letter(accepts_others(batch.suspicion.recent(now))) =>
                    {
                        // Its earlier refusals count already.
                        return self.end_as_dead_letter(vec![entry], endpoint, cause);
                    }
                    Blame::Batch => {
                        batch.suspicion.on_refused(endpoint, kind, cause, calls, now);
                        self.has_suspects = true;
                    }
                    Blame::Endpoint => batch.suspicion.note(now),
                }
                self.return_tried(entry, endpoint, now);
            }
            Work::Replay(piece) => {
                self.with_group(|group| match piece.is_merged() {
                    true => group.take_apart(&piece),
                    false => {
                        let accepts_others = &accepts_others;
                        let refused = Refused { endpoint, kind: Some(kind), cause, blame, accepts_others };
                        group.on_refused(piece, refused, calls, now);
                    }
                });
                self.settle_group(now);
            }
        }
    }

    /// Strict mode: the refused batch is a dead letter at once.
    fn end_refused(&mut self, work: Work, endpoint: usize, cause: Cause, now: Instant) {
        match work {
            Work::Live(mut entry) => {
                entry.item.tries.add_failed(endpoint);
                self.end_as_dead_letter(vec![entry], endpoint, cause);
            }
            Work::Replay(piece) => {
                self.with_group(|group| match piece.is_merged() {
                    true => group.take_apart(&piece),
                    false => group.on_dead(piece, endpoint, cause),
                });
                self.settle_group(now);
            }
        }
    }

    /// This endpoint has refused the batch before.
    fn is_suspect(&mut self, work: &Work, endpoint: usize) -> bool {
        match work {
            Work::Live(entry) => entry.item.suspicion.is_suspect_of(endpoint),
            Work::Replay(piece) => self.replay.group().is_some_and(|group| group.is_suspect(piece, endpoint)),
        }
    }

    // Batches after their calls.

    /// A batch of memory waits for its next call; in a drain for the next round, unless another endpoint may take it at
    /// once: each endpoint becomes unavailable once.
    pub(super) fn return_tried(&mut self, entry: Entry<Batch>, endpoint: usize, now: Instant) {
        if matches!(self.phase, Phase::Draining(_)) && !self.may_go_elsewhere(endpoint, now) {
            self.memory.set_tried(entry);
        } else {
            self.memory.give_back(entry);
        }
    }

    pub(super) fn return_to_buffered(&mut self, work: &Work) {
        if let Work::Live(entry) = work {
            self.accounts.transfer(entry.size.count, Place::InFlight, Place::Buffered);
        }
    }

    pub(super) fn with_group(&mut self, event: impl FnOnce(&mut super::group::Group)) {
        if let Some(group) = self.replay.group() {
            event(group);
        }
    }

    /// Has the disk thread mark a group once each of its records was tried.
    pub(super) fn settle_group(&mut self, now: Instant) {
        if let Some((fates, repeated)) = self.replay.take_ended(now) {
            self.accounts.counters.count_possible_duplicates(repeated);
            self.effects.push_back(Effect::SettleGroup(fates));
        }
    }
}

/// The endpoint accepts nearly all other batches: of its recent calls, `bad` did not end in delivery, `own` of these
/// are the batch's.
pub(super) fn accepts_others(bad: u64, good: u64, own: u64) -> bool {
    let bad = bad.saturating_sub(own);
    let all = bad + good;
    all > 0 && bad * NEARLY_ALL < all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_accepts_others_while_less_than_a_tenth_of_the_other_calls_fail() {
        assert!(accepts_others(3, 1, 3), "all failures are its own");
        assert!(!accepts_others(3, 0, 3), "there is no other call");
        assert!(accepts_others(4, 10, 3) && !accepts_others(4, 9, 3));
    }
}
