//! Credentials that change: the call that repeats a refused one at once, and looks for changes without a refusal.
//!
//! New credentials pass backoff and breaker once, never a pause that the peer asked for.

use std::time::{Duration, Instant};

use otlp_transport::{Cause, Outcome, RefusalKind};

use super::answers::Answered;
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
    /// The transport has credentials or files that can change.
    pub(crate) fn set_can_change(&mut self, can_change: bool) {
        self.renewals.can_change = can_change;
    }

    /// Whether the transport is to be asked for changes now: every 5 s while batches wait for an endpoint that refuses,
    /// for one that no connection reaches, or for credentials. Follows `poll_calls`.
    pub(crate) fn poll_look(&mut self, now: Instant) -> bool {
        let is_refused = self.endpoint.refusing().is_some() || self.renewals.may_be_at_fault;
        let ledger = self.accounts.ledger();
        let waits = ledger.buffered + ledger.in_flight + ledger.in_fallback + ledger.in_journal > 0;
        if !(self.renewals.can_change && self.phase == Phase::Running && is_refused && waits) {
            self.renewals.look_at = None;
            return false;
        }
        let look_at = *self.renewals.look_at.get_or_insert(now + LOOK_EVERY);
        let is_due = look_at <= now;
        if is_due {
            self.renewals.look_at = Some(now + LOOK_EVERY);
        }
        self.renewals.look_at.into_iter().for_each(|instant| self.wake_at(instant));
        is_due
    }

    /// The transport has credentials that no call went out with: the next one passes backoff and breaker, and batches
    /// whose credentials were refused do not wait for themselves.
    pub(crate) fn on_credentials_changed(&mut self) {
        self.endpoint.grant_pass();
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
        let Answered { work, call, now, .. } = answered;
        self.endpoint.on_neutral(call.ticket, now);
        if self.renewals.take_pass(generation) {
            self.endpoint.grant_pass();
        }
        if let Ok(ticket) = self.endpoint.acquire(call.traffic, now) {
            self.calls += 1;
            match &work {
                Work::Live(entry) => {
                    self.replay.on_live_call();
                    self.memory.on_sent(entry);
                }
                Work::Replay(piece) => self.replay.on_replay_call(piece, now),
            }
            let is_fresh = self.endpoint.wants_new_connection(&ticket);
            self.repeats.push(Call { id: self.calls, payload: work.content(), is_fresh });
            self.in_flight.push(InFlight { id: self.calls, work, ticket, started: now, is_repeat: true });
            return;
        }
        self.return_to_buffered(&work);
        match work {
            Work::Live(entry) => self.return_tried(entry),
            Work::Replay(piece) => {
                self.with_group(|group| group.give_back(piece));
                self.settle_group(now);
            }
        }
    }
}
