//! One collector: its failures, the instant of the next call, and the number of calls at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use breaker::{Change, Machine, Outcome, State, Ticket};

use crate::seams::backoff::Backoff;

/// Calls to one collector at a time, at most.
pub(crate) const MAX_CONCURRENCY: usize = 8;

/// A peer's hint counts up to here: a collector that answers "in a year" is called again within the buffer's default
/// age, before the waiting spans reach it.
pub(crate) const MAX_HINT: Duration = Duration::from_secs(300);

/// An answer within this time is quick: it earns concurrency.
const QUICK: Duration = Duration::from_millis(500);

/// A wait of a backoff policy is cut here, so that no policy can overflow a clock.
const MAX_DELAY: Duration = Duration::from_secs(24 * 3_600);

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
    wait: Option<Waiting>,
    last_failure: Option<Instant>,
    /// Concurrency in eighths of a call, so that additive increase needs no float.
    concurrency: usize,
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

const STEP: usize = 8;

impl Endpoint {
    pub(crate) fn new(breaker: Machine, origin: Instant) -> Self {
        Self {
            breaker,
            origin,
            changes: Vec::new(),
            failures: 0,
            throttles: 0,
            wait: None,
            last_failure: None,
            concurrency: STEP,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.breaker.state()
    }

    pub(crate) fn trips(&self) -> u64 {
        self.breaker.counters().trips
    }

    /// Takes the breaker's moves since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Calls that may be out at once.
    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency / STEP
    }

    /// The end of the wait that the backoff or the peer asked for, if it is still to come.
    pub(crate) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.wait.map(|wait| wait.until).filter(|&until| now < until)
    }

    /// Takes a permit for one call.
    pub(super) fn acquire(&mut self, now: Instant) -> Result<Ticket, Wait> {
        if let Some(instant) = self.waits_until(now) {
            return Err(Wait::Until(instant));
        }
        let step = self.breaker.try_acquire(now.saturating_duration_since(self.origin));
        self.changes.extend(step.change);
        step.answer.map_err(|rejected| match rejected.retry_after {
            Some(after) => Wait::Until(later(now, after.max(Duration::from_millis(1)))),
            None => Wait::Answer,
        })
    }

    /// The call was not made, or its answer carries no information about the collector's health.
    pub(super) fn on_neutral(&mut self, ticket: Ticket, now: Instant) {
        self.report(ticket, Outcome::Neutral, now);
    }

    /// The collector took a batch. `saturated`: as many calls were out as allowed.
    pub(super) fn on_success(&mut self, ticket: Ticket, started: Instant, saturated: bool, now: Instant) {
        self.report(ticket, Outcome::Success, now);
        self.failures = 0;
        self.throttles = 0;
        // A call that went out before the wait began does not end it.
        self.wait.take_if(|wait| wait.since <= started);
        if saturated && now.saturating_duration_since(started) <= QUICK {
            // One more call per round of answers: additive increase.
            self.concurrency = (self.concurrency + STEP / self.concurrency()).min(MAX_CONCURRENCY * STEP);
        }
    }

    /// A failure without a hint; `own` is the delay of the backoff policy. Calls that were out together when one of
    /// them failed are one failure: a single broken connection must not open the breaker by the number of its streams.
    pub(super) fn on_failure(&mut self, ticket: Ticket, started: Instant, own: Duration, now: Instant) {
        if self.is_counted(started) {
            self.on_neutral(ticket, now);
            return;
        }
        self.report(ticket, Outcome::Failure, now);
        self.last_failure = Some(now);
        self.wait_for(own, now);
        self.failures = self.failures.saturating_add(1);
        self.halve();
    }

    /// A throttle: the peer works and names a time. The endpoint waits for it, or for `own`, the delay of the backoff
    /// policy, if that is longer.
    pub(super) fn on_throttle(&mut self, ticket: Ticket, hint: Duration, own: Duration, now: Instant) {
        self.on_neutral(ticket, now);
        self.throttles = self.throttles.saturating_add(1);
        self.wait_for(hint.min(MAX_HINT).max(own), now);
        self.halve();
    }

    /// A failure of a call that started at this instant is one that another call has reported.
    pub(super) fn is_counted(&self, started: Instant) -> bool {
        self.last_failure.is_some_and(|last| started < last)
    }

    /// The attempts whose delay the next failure or throttle needs; `unit` is a sample from `[0, 1)`.
    pub(super) fn attempts(&self, unit: f64) -> Attempts {
        Attempts { failures: self.failures, throttles: self.throttles, unit }
    }

    fn report(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) {
        let step = self.breaker.report(ticket, outcome, now.saturating_duration_since(self.origin));
        self.changes.extend(step.change);
    }

    fn wait_for(&mut self, delay: Duration, now: Instant) {
        let until = later(now, delay);
        let until = self.wait.map_or(until, |wait| wait.until.max(until));
        self.wait = Some(Waiting { until, since: now });
    }

    fn halve(&mut self) {
        self.concurrency = (self.concurrency / 2).max(STEP);
    }
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
mod tests {
    use super::*;
    use crate::seams::clock::{Clock as _, SystemClock};

    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> backoff::Exponential {
        backoff::Exponential::builder().with_jitter(backoff::Jitter::None).build().expect("valid")
    }

    /// An answer that may be repeated, with the delay of the policy as the net thread asks for it.
    fn fail(endpoint: &mut Endpoint, policy: &dyn Backoff, ticket: Ticket, started: Instant, now: Instant) {
        let own = endpoint.attempts(0.5).delay(policy, None);
        endpoint.on_failure(ticket, started, own, now);
    }

    fn throttle(endpoint: &mut Endpoint, ticket: Ticket, hint: Duration, now: Instant) {
        let own = endpoint.attempts(0.5).delay(&policy(), Some(hint));
        endpoint.on_throttle(ticket, hint, own, now);
    }

    fn endpoint() -> (Endpoint, Instant) {
        let now = SystemClock.now();
        let config = breaker::Config::builder().with_open_jitter(0.0).build().expect("valid");
        (Endpoint::new(Machine::new(config), now), now)
    }

    fn ticket(endpoint: &mut Endpoint, now: Instant) -> Ticket {
        endpoint.acquire(now).expect("willing")
    }

    #[test]
    fn failures_wait_longer_each_time_and_the_fifth_opens_the_breaker() {
        let (mut endpoint, mut now) = endpoint();
        for wait in [1, 2, 4, 8] {
            let call = ticket(&mut endpoint, now);
            fail(&mut endpoint, &policy(), call, now, now);
            assert_eq!(endpoint.acquire(now), Err(Wait::Until(now + wait * SECOND)));
            assert_eq!(endpoint.state(), State::Closed);
            now += wait * SECOND;
        }
        let call = ticket(&mut endpoint, now);
        fail(&mut endpoint, &policy(), call, now, now);
        assert_eq!((endpoint.state(), endpoint.trips()), (State::Open, 1));
        now += 30 * SECOND;
        assert_eq!(
            endpoint.acquire(now),
            Err(Wait::Until(now + 30 * SECOND)),
            "the breaker waits longer than the backoff"
        );
        assert!(endpoint.acquire(now + 30 * SECOND).is_ok(), "a probe");
        let moves = endpoint.take_changes().into_iter().map(|change| change.to).collect::<Vec<_>>();
        assert_eq!(moves, [State::Open, State::HalfOpen]);
    }

    #[test]
    fn calls_that_fail_together_are_one_failure() {
        let (mut endpoint, now) = endpoint();
        let calls = [(); 8].map(|()| ticket(&mut endpoint, now));
        for call in calls {
            fail(&mut endpoint, &policy(), call, now, now + SECOND);
        }
        assert_eq!(endpoint.state(), State::Closed);
        assert_eq!(endpoint.waits_until(now + SECOND), Some(now + 2 * SECOND));
    }

    #[test]
    fn a_hint_holds_although_other_calls_are_answered_meanwhile() {
        let (mut endpoint, now) = endpoint();
        let calls = [(); 3].map(|()| ticket(&mut endpoint, now));
        let later = now + Duration::from_millis(100);
        throttle(&mut endpoint, calls[0], 60 * SECOND, later);
        endpoint.on_success(calls[1], now, false, later);
        fail(&mut endpoint, &policy(), calls[2], now, later);
        assert_eq!(endpoint.waits_until(later), Some(later + 60 * SECOND));
        assert_eq!((endpoint.state(), endpoint.trips()), (State::Closed, 0));
    }

    #[test]
    fn a_hint_of_zero_waits_for_the_backoff_and_a_huge_one_is_cut() {
        let (mut endpoint, mut now) = endpoint();
        for wait in [1, 2, 4] {
            let call = ticket(&mut endpoint, now);
            throttle(&mut endpoint, call, Duration::ZERO, now);
            assert_eq!(endpoint.waits_until(now), Some(now + wait * SECOND));
            now += wait * SECOND;
        }
        let call = ticket(&mut endpoint, now);
        throttle(&mut endpoint, call, Duration::MAX, now);
        assert_eq!(endpoint.waits_until(now), Some(now + MAX_HINT));
    }

    #[test]
    fn concurrency_grows_with_quick_answers_and_is_halved() {
        let (mut endpoint, now) = endpoint();
        assert_eq!(endpoint.concurrency(), 1);
        for _ in 0..100 {
            let call = ticket(&mut endpoint, now);
            endpoint.on_success(call, now, true, now + Duration::from_millis(10));
        }
        assert_eq!(endpoint.concurrency(), MAX_CONCURRENCY);
        let call = ticket(&mut endpoint, now);
        endpoint.on_success(call, now, false, now + Duration::from_millis(10));
        let call = ticket(&mut endpoint, now);
        throttle(&mut endpoint, call, SECOND, now);
        assert_eq!(endpoint.concurrency(), MAX_CONCURRENCY / 2);
        let (mut slow, now) = self::endpoint();
        let call = ticket(&mut slow, now);
        slow.on_success(call, now, true, now + SECOND);
        assert_eq!(slow.concurrency(), 1, "slow answers earn nothing");
    }

    struct Wild;

    impl Backoff for Wild {
        fn delay(&self, attempt: u32, _unit: f64) -> Duration {
            if attempt == 0 { Duration::MAX } else { panic!("a bug of a user") }
        }
    }

    #[test]
    fn a_backoff_of_a_user_may_return_anything_and_panic() {
        let (_, mut now) = endpoint();
        let machine = Machine::new(breaker::Config::default());
        let mut endpoint = Endpoint::new(machine, now);
        for wait in [MAX_DELAY, 20 * SECOND] {
            let call = ticket(&mut endpoint, now);
            fail(&mut endpoint, &Wild, call, now, now);
            assert_eq!(endpoint.waits_until(now), Some(now + wait));
            now += wait;
        }
    }
}
