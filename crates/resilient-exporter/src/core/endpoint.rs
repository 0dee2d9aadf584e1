//! One collector: its breaker and waits, the number of calls at a time, and the side at which its refusals hint.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use breaker::{Change, Command, Kind, Machine, Outcome, State, Ticket};
use otlp_transport::Cause;

use super::sizes::Sizes;
use crate::report::rates::{Answered, Counts, Rates};
use crate::seams::backoff::Backoff;

/// Calls to one collector at a time, at most, where no setting says otherwise.
pub(crate) const MAX_CONCURRENCY: usize = 8;

/// A peer's hint counts up to here: a collector that answers "in a year" is called again within the buffer's default
/// age, before the waiting spans reach it.
pub(crate) const MAX_HINT: Duration = Duration::from_secs(300);

/// An answer within this time is quick: it earns concurrency.
const QUICK: Duration = Duration::from_millis(500);

/// The shortest pause after a throttle: no policy and no hint can have calls follow each other without a pause.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// A wait of a backoff policy is cut here, so that no policy can overflow a clock.
const MAX_DELAY: Duration = Duration::from_secs(24 * 3_600);

/// A refusal within this time after an acceptance hints at the batch, a later one at the endpoint.
const ACCEPTS: Duration = Duration::from_secs(3);

/// The last of this many refusals in a row hints at the endpoint, however soon after an acceptance.
const MANY_REFUSALS: u32 = 20;

/// An endpoint that is asked and accepts nothing for this time is unwilling. Shorter pauses of a collector, such as its
/// restart, cost no file; at 5,000 spans/s three quarters of the default buffer are full by then.
const UNWILLING_AFTER: Duration = Duration::from_millis(1_500);

/// After this many failures or refusals in a row each call uses a new connection.
const RECONNECT_AFTER: u32 = 2;

/// One collector: breaker, waits and concurrency. Pure: time, chance and the backoff's delays are arguments. The
/// breaker is the machine without a shell, and the backoff policy is asked outside the lock (see [`Attempts`]): no code
/// of a user's runs while the core decides.
pub(crate) struct Endpoint {
    breaker: Machine,
    /// The zero of the machine's time.
    origin: Instant,
    changes: Vec<Change>,
    failures: u32,
    /// Throttles since the last success.
    throttles: u32,
    /// The instant of the first of them.
    throttled: Option<Instant>,
    /// The wait after a failure.
    backoff: Option<Waiting>,
    /// The pause that the peer asked for.
    pause: Option<Waiting>,
    /// The next call passes backoff and breaker.
    has_pass: bool,
    /// The permit that was taken last used the pass, or ended `only_replay`.
    used: (bool, bool),
    /// The last failure, which caused the wait, is one of a replay.
    only_replay: bool,
    /// The last call that tells was a failure for which calls go to another endpoint: no connection, no answer in time,
    /// or a refusal of the sender.
    is_down: bool,
    /// The cause of the last call that ended otherwise than in an acceptance.
    last_cause: Option<Cause>,
    /// A call for a live batch has failed since the last success.
    has_failed_live: bool,
    /// The start of the first call since the last success whose answer was none: for a live batch, or a throttle.
    in_vain: Option<Instant>,
    last_failure: Option<Instant>,
    accepted: Option<Instant>,
    refusals_in_row: u32,
    /// Failures and refusals since the last success.
    bad_in_row: u32,
    /// The last refusal of the endpoint's own since the last acceptance.
    refusing: Option<Cause>,
    /// The last answer, if it acknowledges a batch and no OTLP server gives it.
    unreadable: Option<Cause>,
    rates: Rates,
    pub(super) sizes: Sizes,
    /// Concurrency in parts of a call, so that additive increase needs no float.
    concurrency: usize,
    max_concurrency: usize,
}

/// No call before `until`; `since` is the instant of the answer that asked for the wait.
#[derive(Clone, Copy)]
struct Waiting {
    until: Instant,
    since: Instant,
}

/// Why no call may go out now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Not before this instant.
    Until(Instant),
    /// Until an answer that is awaited has come.
    Answer,
}

/// The batch of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Traffic {
    /// In memory.
    Live,
    /// Stored, while a live batch waits for a call, or while none does.
    Replay { live_waits: bool },
}

/// The side to which a refusal is ascribed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Blame {
    /// The batch is a suspect, and the endpoint works.
    Batch,
    /// The endpoint refuses.
    Endpoint,
}

/// One call that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) ticket: Ticket,
    pub(super) traffic: Traffic,
    pub(super) started: Instant,
}

/// The parts of a call. The increase rounds up, so that a round of answers adds one call and not nearly one.
const STEP: usize = 1_024;

impl Endpoint {
    pub(crate) fn new(breaker: Machine, origin: Instant) -> Self {
        Self {
            breaker,
            origin,
            changes: Vec::new(),
            failures: 0,
            throttles: 0,
            throttled: None,
            backoff: None,
            pause: None,
            has_pass: false,
            used: (false, false),
            only_replay: false,
            is_down: false,
            last_cause: None,
            has_failed_live: false,
            in_vain: None,
            last_failure: None,
            accepted: None,
            refusals_in_row: 0,
            bad_in_row: 0,
            refusing: None,
            unreadable: None,
            rates: Rates::new(),
            sizes: Sizes::default(),
            concurrency: STEP,
            max_concurrency: MAX_CONCURRENCY,
        }
    }

    /// Sets the calls at a time, at most; 1 or more.
    pub(crate) fn with_max_concurrency(mut self, calls: usize) -> Self {
        self.max_concurrency = calls.max(1);
        self
    }

    // Queries.

    pub(crate) fn state(&self) -> State {
        self.breaker.state()
    }

    pub(crate) fn trips(&self) -> u64 {
        self.breaker.counters().trips
    }

    /// Calls that may be out at once.
    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency / STEP
    }

    /// The end of the wait that the backoff or the peer asked for, if it is still to come.
    pub(crate) fn waits_until(&self, now: Instant) -> Option<Instant> {
        let waits = [self.backoff, self.pause];
        waits.into_iter().flatten().map(|wait| wait.until).filter(|&until| now < until).max()
    }

    /// The instant of the next call, if it is known now.
    pub(crate) fn next_call(&self, now: Instant) -> Option<Instant> {
        let opens = self.breaker.open_until().map(|until| later(self.origin, until));
        self.waits_until(now).into_iter().chain(opens).max()
    }

    /// The pause that the peer asked for: its whole length from the first throttle since the last acceptance, and the
    /// rest of it.
    pub(crate) fn pause(&self, now: Instant) -> Option<(Duration, Duration)> {
        let pause = self.pause.filter(|pause| now < pause.until)?;
        let since = self.throttled.unwrap_or(pause.since);
        Some((pause.until.saturating_duration_since(since), pause.until.saturating_duration_since(now)))
    }

    /// A call for a live batch has failed since the last acceptance, or the endpoint has refused all. Failures of
    /// stored batches alone may be about these batches.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed_live || self.refusing.is_some()
    }

    /// The endpoint is asked and has accepted nothing for a while: since the start of the first call without an
    /// acceptance, `oldest_call` among those that are out.
    pub(super) fn is_unwilling(&self, oldest_call: Option<Instant>, now: Instant) -> bool {
        let unanswered = oldest_call.map(|started| self.after_acceptance(started));
        let since = self.in_vain.into_iter().chain(unanswered).min();
        since.is_some_and(|since| now.saturating_duration_since(since) >= UNWILLING_AFTER)
    }

    /// The cause of the last call that did not end in an acceptance.
    pub(crate) fn last_cause(&self) -> Option<&Cause> {
        self.last_cause.as_ref()
    }

    /// Calls go to another endpoint, if there is one, until this one has accepted a batch.
    pub(super) fn is_down(&self) -> bool {
        self.is_down
    }

    /// Nothing was accepted since this instant, and the oldest call is out.
    pub(super) fn unanswered_since(&self, oldest_call: Option<Instant>) -> Option<Instant> {
        oldest_call.map(|started| self.after_acceptance(started))
    }

    fn after_acceptance(&self, started: Instant) -> Instant {
        self.accepted.map_or(started, |accepted| accepted.max(started))
    }

    /// The last refusal of the endpoint's own, unless the endpoint has accepted a batch since.
    pub(crate) fn refusing(&self) -> Option<&Cause> {
        self.refusing.as_ref()
    }

    /// The endpoint's last acknowledgement, if it cannot be read.
    pub(crate) fn unreadable(&self) -> Option<&Cause> {
        self.unreadable.as_ref()
    }

    /// The calls within this time, by their answers.
    pub(crate) fn rates(&self, now: Instant, within: Duration) -> Counts {
        self.rates.within(now, within)
    }

    /// A failure of a call that started at this instant is one that another call has reported.
    pub(super) fn is_counted(&self, started: Instant) -> bool {
        self.last_failure.is_some_and(|last| started < last)
    }

    /// The attempts whose delay the next failure or throttle needs; `unit` is a sample from `[0, 1)`.
    pub(super) fn attempts(&self, unit: f64) -> Attempts {
        Attempts { failures: self.failures, throttles: self.throttles, unit }
    }

    /// The side to which a refusal at this instant is ascribed.
    pub(super) fn blame(&self, now: Instant) -> Blame {
        let accepts = self.accepted.is_some_and(|at| now.saturating_duration_since(at) <= ACCEPTS);
        if accepts && self.refusals_in_row < MANY_REFUSALS - 1 { Blame::Batch } else { Blame::Endpoint }
    }

    /// The call with this ticket uses a new connection: the old one may lead to the one bad replica.
    pub(super) fn wants_new_connection(&self, ticket: &Ticket) -> bool {
        ticket.kind() == Kind::Probe || self.bad_in_row >= RECONNECT_AFTER
    }

    // Permits.

    /// Lets the next call pass backoff and breaker, but no pause of the peer's.
    pub(super) fn grant_pass(&mut self) {
        self.has_pass = true;
    }

    /// A pass waits for its call.
    pub(super) fn has_pass(&self) -> bool {
        self.has_pass
    }

    /// Takes the pass back, if no call has used it.
    pub(super) fn end_pass(&mut self) {
        self.has_pass = false;
    }

    /// Ends a pause of the peer's.
    pub(super) fn end_pause(&mut self) {
        self.pause = None;
    }

    /// Takes a permit for one call.
    pub(super) fn acquire(&mut self, traffic: Traffic, now: Instant) -> Result<Ticket, Wait> {
        let waits = |wait: Option<Waiting>| wait.map(|wait| wait.until).filter(|&until| now < until);
        if let Some(instant) = waits(self.pause) {
            return Err(Wait::Until(instant));
        }
        // Only stored batches have failed: a live one goes past the wait that they caused.
        let passes = self.has_pass || self.only_replay && traffic == Traffic::Live;
        if passes {
            if self.breaker.state() == State::Open {
                let change = self.breaker.command(Command::ForceHalfOpen, self.time(now));
                self.changes.extend(change);
            }
        } else if let Some(instant) = waits(self.backoff) {
            return Err(Wait::Until(instant));
        }
        let step = self.breaker.try_acquire(self.time(now));
        self.changes.extend(step.change);
        if step.answer.is_ok() {
            let only_replay = self.only_replay && traffic != Traffic::Live;
            self.used = (std::mem::take(&mut self.has_pass), self.only_replay && !only_replay);
            self.only_replay = only_replay;
        }
        step.answer.map_err(|rejected| match rejected.retry_after() {
            Some(after) => Wait::Until(later(now, after.max(Duration::from_millis(1)))),
            None => Wait::Answer,
        })
    }

    // Events.

    /// Takes the breaker's moves since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The call for which this permit was taken last is not made.
    pub(super) fn on_unused(&mut self, ticket: Ticket, now: Instant) {
        let (pass, only_replay) = std::mem::take(&mut self.used);
        self.has_pass |= pass;
        self.only_replay |= only_replay;
        self.on_neutral(ticket, now);
    }

    /// No answer, or one that carries no information about the collector's health.
    pub(super) fn on_neutral(&mut self, ticket: Ticket, now: Instant) {
        self.report(ticket, Outcome::Neutral, now);
    }

    /// No answer is awaited any more for a call that started at this instant.
    pub(super) fn on_abandoned(&mut self, ticket: Ticket, started: Instant, now: Instant) {
        self.note_in_vain(started);
        self.on_neutral(ticket, now);
    }

    /// The collector took a batch; `unreadable` is its answer if it is none of an OTLP server. `saturated`: as many
    /// calls were out as allowed. Returns whether the endpoint had refused all since its last acceptance.
    pub(super) fn on_success(&mut self, call: Ended, unreadable: Option<Cause>, saturated: bool, now: Instant) -> bool {
        let Ended { ticket, started, .. } = call;
        self.report(ticket, Outcome::Success, now);
        self.rates.on_call(now, Answered::Accepted);
        self.failures = 0;
        self.throttles = 0;
        self.throttled = None;
        self.refusals_in_row = 0;
        self.bad_in_row = 0;
        self.only_replay = false;
        self.is_down = false;
        self.has_failed_live = false;
        self.in_vain = None;
        self.accepted = Some(now);
        self.unreadable = unreadable;
        // A call that went out before the wait began does not end it.
        for wait in [&mut self.backoff, &mut self.pause] {
            wait.take_if(|wait| wait.since <= started);
        }
        if saturated && now.saturating_duration_since(started) <= QUICK {
            // One more call per round of answers: additive increase.
            let most = self.max_concurrency.saturating_mul(STEP);
            self.concurrency = (self.concurrency + STEP.div_ceil(self.concurrency())).min(most);
        }
        self.refusing.take().is_some()
    }

    /// A call has ended otherwise than in an acceptance.
    pub(super) fn note_cause(&mut self, cause: &Cause) {
        self.last_cause = Some(cause.clone());
    }

    /// Calls go to another endpoint until this one has accepted a batch.
    pub(super) fn set_down(&mut self) {
        self.is_down = true;
    }

    /// All calls go to this endpoint from now on, whose last failure may be old.
    pub(super) fn on_chosen(&mut self, now: Instant) {
        self.in_vain = self.in_vain.map(|_| now);
    }

    /// A failure without a hint; `own` is the delay of the backoff policy.
    pub(super) fn on_failure(&mut self, call: Ended, own: Duration, now: Instant) {
        self.rates.on_call(now, Answered::Failed);
        self.bad_in_row = self.bad_in_row.saturating_add(1);
        self.fail(call, own, now);
    }

    /// A throttle: the peer works and names a time. The endpoint waits for it, or for `own`, the delay of the backoff
    /// policy, if that is longer.
    pub(super) fn on_throttle(&mut self, call: Ended, hint: Duration, own: Duration, now: Instant) {
        self.rates.on_call(now, Answered::Throttled);
        self.on_neutral(call.ticket, now);
        self.throttles = self.throttles.saturating_add(1);
        self.throttled.get_or_insert(now);
        self.note_in_vain(call.started);
        set_later(&mut self.pause, hint.min(MAX_HINT).max(own).max(LEAST_PAUSE), now);
        self.halve();
    }

    /// The peer finds a request too large: neutral for all others.
    pub(super) fn on_too_large(&mut self, call: Ended, now: Instant) {
        self.rates.on_call(now, Answered::Refused);
        self.on_neutral(call.ticket, now);
        self.on_live_answered(call.traffic, call.started);
    }

    /// A refusal of the batch's own.
    pub(super) fn on_batch_refused(&mut self, call: Ended, now: Instant) {
        self.count_refusal(now);
        self.on_neutral(call.ticket, now);
        self.on_live_answered(call.traffic, call.started);
    }

    /// The endpoint answered a live batch about that batch alone: the next one goes past a wait that only stored ones
    /// have caused, as this one did.
    fn on_live_answered(&mut self, traffic: Traffic, started: Instant) {
        if traffic == Traffic::Live {
            self.note_in_vain(started);
        }
        self.only_replay |= traffic == Traffic::Live && self.failures > 0 && !self.has_failed();
    }

    fn note_in_vain(&mut self, started: Instant) {
        let since = self.after_acceptance(started);
        self.in_vain.get_or_insert(since);
    }

    /// A refusal of the endpoint's own: a failure.
    pub(super) fn on_refused(&mut self, call: Ended, cause: Cause, own: Duration, now: Instant) {
        self.count_refusal(now);
        self.refusing = Some(cause);
        self.fail(call, own, now);
    }

    /// A refusal in strict mode, which ends its batch: neutral, and the endpoint's own if there is a `cause`.
    pub(super) fn on_refused_for_good(&mut self, call: Ended, cause: Option<Cause>, now: Instant) {
        self.on_batch_refused(call, now);
        if cause.is_some() {
            self.refusing = cause;
        }
    }

    fn count_refusal(&mut self, now: Instant) {
        self.rates.on_call(now, Answered::Refused);
        self.refusals_in_row = self.refusals_in_row.saturating_add(1);
        self.bad_in_row = self.bad_in_row.saturating_add(1);
    }

    /// Calls that were out together when one of them failed are one failure: a single broken connection must not open
    /// the breaker by the number of its streams. A failure of a replay says nothing to live batches that wait.
    fn fail(&mut self, call: Ended, own: Duration, now: Instant) {
        let Ended { ticket, traffic, started } = call;
        if self.is_counted(started) || traffic == (Traffic::Replay { live_waits: true }) {
            self.on_neutral(ticket, now);
            return;
        }
        self.report(ticket, Outcome::Failure, now);
        self.last_failure = Some(now);
        set_later(&mut self.backoff, own, now);
        // The call had a permit, so that no wait of an earlier failure was left.
        self.only_replay = traffic != Traffic::Live;
        if traffic == Traffic::Live {
            self.has_failed_live = true;
            self.note_in_vain(started);
        }
        self.failures = self.failures.saturating_add(1);
        self.halve();
    }

    fn report(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) {
        let step = self.breaker.report(ticket, outcome, self.time(now));
        self.changes.extend(step.change);
    }

    fn time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }

    fn halve(&mut self) {
        self.concurrency = (self.concurrency / 2).max(STEP);
    }
}

/// Sets a wait, or makes it longer.
fn set_later(wait: &mut Option<Waiting>, delay: Duration, now: Instant) {
    let until = later(now, delay);
    let until = wait.map_or(until, |wait| wait.until.max(until));
    *wait = Some(Waiting { until, since: now });
}

/// A question to the backoff policy, which is a user's code and is asked outside the lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    failures: u32,
    throttles: u32,
    unit: f64,
}

impl Attempts {
    /// The delay after a failure, or after a throttle with this hint. A hint shorter than the delay of a first retry is
    /// no invitation to call without a pause: the delay then grows with each throttle in a row.
    pub(crate) fn delay(self, backoff: &dyn Backoff, hint: Option<Duration>) -> Duration {
        match hint {
            None => self.of(backoff, self.failures),
            Some(hint) if hint < self.of(backoff, 0) => self.of(backoff, self.failures.max(self.throttles)),
            Some(_) => self.failures.checked_sub(1).map_or(Duration::ZERO, |attempt| self.of(backoff, attempt)),
        }
    }

    /// The policy may panic and may return anything.
    fn of(self, backoff: &dyn Backoff, attempt: u32) -> Duration {
        let delay = catch_unwind(AssertUnwindSafe(|| backoff.delay(attempt, self.unit)));
        delay.unwrap_or(Duration::from_secs(20)).min(MAX_DELAY)
    }
}

fn later(now: Instant, delay: Duration) -> Instant {
    now.checked_add(delay).unwrap_or(now)
}

#[cfg(test)]
mod tests;
