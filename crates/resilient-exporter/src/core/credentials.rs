//! Credentials that change: the call that repeats a refused one at once, and looks for changes without a refusal.
//!
//! New credentials pass backoff and breaker once, never a pause that the peer asked for.

use std::time::{Duration, Instant};

use otlp_transport::{Cause, Outcome, RefusalKind};

use super::answers::Answered;
use super::endpoints::Collector;
use super::{Call, Core, InFlight, Phase, Work};

/// The transport is asked this often whether credentials have changed, while batches wait for that.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The changes of the transport's credentials.
#[derive(Default)]
pub(super) struct Renewals {
    /// The transport has credentials or files that can change.
    can_change: bool,
    /// The next look, while batches wait.
    look_at: Option<Instant>,
    /// The newest generation that has passed backoff and breaker after a refusal.
    passed: Option<u64>,
    /// Since the last acceptance credentials were missing or refused, or no connection came about: a peer that refuses
    /// a client certificate lets none come about.
    may_be_at_fault: bool,
}

impl Renewals {
    pub(super) fn on_outcome(&mut self, outcome: &Outcome) {
        match outcome {
            outcome if outcome.is_delivered() => self.may_be_at_fault = false,
            Outcome::Retryable { cause: Cause::Credentials(_) | Cause::Connect(_), .. } => self.may_be_at_fault = true,
            Outcome::Refused { cause, .. } if cause.is_about_credentials() => self.may_be_at_fault = true,
            _ => {}
        }
    }

    /// Whether this generation is one that no call has passed with.
    fn take_pass(&mut self, generation: u64) -> bool {
        let is_newer = self.passed < Some(generation);
        self.passed = self.passed.max(Some(generation));
        is_newer
    }
}

impl Core {
    /// The transport of this endpoint has credentials or files that can change.
    pub(crate) fn set_can_change(&mut self, endpoint: usize, can_change: bool) {
        self.endpoints.collector_mut(endpoint).renewals.can_change = can_change;
    }

    /// The endpoints whose transports are to be asked for changes now: every 5 s while batches wait for an endpoint
    /// that refuses, for one that no connection reaches, or for credentials. Follows `poll_calls`.
    pub(crate) fn poll_looks(&mut self, now: Instant) -> Vec<usize> {
        let ledger = self.accounts.ledger();
        let waits = ledger.buffered + ledger.in_flight + ledger.in_fallback + ledger.in_journal > 0;
        let may_look = self.phase == Phase::Running && waits;
        (0..self.endpoints.len()).filter(|&at| self.is_look_due(at, may_look, now)).collect()
    }

    fn is_look_due(&mut self, at: usize, may_look: bool, now: Instant) -> bool {
        // While another endpoint takes the batches, none waits for long.
        let is_left = at < self.endpoints.in_use() && self.phase == Phase::Running;
        let Collector { endpoint, renewals, .. } = self.endpoints.collector_mut(at);
        let is_refused = endpoint.refusing().is_some() || renewals.may_be_at_fault;
        if !((may_look || is_left) && renewals.can_change && is_refused) {
            renewals.look_at = None;
            return false;
        }
        if !may_look {
            return false;
        }
        let look_at = *renewals.look_at.get_or_insert(now + LOOK_EVERY);
        let is_due = look_at <= now;
        let next = if is_due { now + LOOK_EVERY } else { look_at };
        renewals.look_at = Some(next);
        self.wake_at(next);
        is_due
    }

    /// The transport of this endpoint has credentials that no call went out with: the next one passes backoff and
    /// breaker, and batches whose credentials were refused do not wait for themselves.
    pub(crate) fn on_credentials_changed(&mut self, endpoint: usize) {
        self.grant_pass(endpoint);
        let is_refused = |batch: &&mut super::Batch| {
            batch.suspicion.cause().is_some_and(|cause: &Cause| cause.is_about_credentials())
        };
        self.batches_mut().filter(is_refused).for_each(|batch| batch.suspicion.end_wait());
    }

    /// The peer refused the credentials of a call, and newer ones are there: the batch goes out once more at once, if
    /// no pause of the peer's forbids it. Only the first call of a generation passes backoff and breaker. The refusal
    /// of the repeated call is one like any other, and so is each one in strict mode.
    pub(super) fn renew(&mut self, answered: Answered, is_repeat: bool, cause: Cause, generation: u64) {
        if is_repeat || self.policy.strict {
            return self.refuse(answered, RefusalKind::Sender, cause);
        }
        let Answered { work, call, endpoint, now, .. } = answered;
        let collector = self.endpoints.collector_mut(endpoint);
        collector.endpoint.on_neutral(call.ticket, now);
        if collector.renewals.take_pass(generation) {
            collector.endpoint.grant_pass();
        }
        if let Ok(ticket) = collector.endpoint.acquire(call.traffic, now) {
            self.calls += 1;
            match &work {
                Work::Live(entry) => {
                    self.replay.on_live_call();
                    self.memory.on_sent(entry);
                }
                Work::Replay(piece) => self.replay.on_replay_call(piece, now),
            }
            let id = self.calls;
            let is_fresh = self.endpoints.of(endpoint).wants_new_connection(&ticket);
            self.repeats.push(Call { id, endpoint, payload: work.content(), is_fresh });
            self.in_flight.push(InFlight { id, endpoint, work, ticket, started: now, is_repeat: true });
            return;
        }
        self.return_to_buffered(&work);
        match work {
            Work::Live(entry) => self.return_tried(entry, endpoint, now),
            Work::Replay(piece) => {
                self.with_group(|group| group.give_back(piece));
                self.settle_group(now);
            }
        }
    }
}
