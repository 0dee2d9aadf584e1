//! What one collector owns: its failures, when it may be called next, and how many calls it gets at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use breaker::{Change, Machine, Outcome, State, Ticket};

use crate::seams::backoff::Backoff;

/// Calls to one collector at a time, at most.
pub(crate) const MAX_CONCURRENCY: usize = 8;

/// A peer's hint is honoured up to here: a collector that says "in a year" is asked again within the buffer's default
/// age, before waiting spans become old.
pub(crate) const MAX_HINT: Duration = Duration::from_secs(300);

/// An answer within this time is quick: it earns concurrency.
const QUICK: Duration = Duration::from_millis(500);

/// A wait of a backoff policy is cut here, so that no policy can overflow a clock.
const MAX_DELAY: Duration = Duration::from_secs(24 * 3_600);

/// One collector: breaker, backoff and concurrency. Pure: time and chance are arguments. The breaker is the machine
/// without a shell: it has no listener that could call back while the lock is held.
pub(crate) struct Endpoint {
    breaker: Machine,
    /// The machine's time is what has passed since.
    origin: Instant,
    changes: Vec<Change>,
    backoff: Box<dyn Backoff>,
    failures: u32,
    /// Throttles since the last success.
    throttles: u32,
    wait: Option<Waiting>,
    last_failure: Option<Instant>,
    /// Concurrency in eighths of a call, so that additive increase needs no float.
    concurrency: usize,
}

/// `not_before`, and when it was said.
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
    /// An answer that is awaited will say more.
    Answer,
}

const STEP: usize = 8;

impl Endpoint {
    pub(crate) fn new(breaker: Machine, backoff: Box<dyn Backoff>, origin: Instant) -> Self {
        Self {
            breaker,
            origin,
            changes: Vec::new(),
            backoff,
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

    /// The breaker's moves since this was asked last.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Calls that may be out at once.
    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency / STEP
    }

    /// When the wait that the backoff or the peer asked for ends, if it is still to come.
    pub(crate) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.wait.map(|wait| wait.until).filter(|&until| now < until)
    }

    /// Asks for one call.
    pub(crate) fn acquire(&mut self, now: Instant) -> Result<Ticket, Wait> {
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

    /// The call was not made, or says nothing about the collector's health.
    pub(crate) fn neutral(&mut self, ticket: Ticket, now: Instant) {
        self.report(ticket, Outcome::Neutral, now);
    }

    /// The collector took a batch. `saturated`: as many calls were out as allowed.
    pub(crate) fn succeeded(&mut self, ticket: Ticket, started: Instant, saturated: bool, now: Instant) {
        self.report(ticket, Outcome::Success, now);
        self.failures = 0;
        self.throttles = 0;
        // A call that went out before the wait was asked for does not end it.
        self.wait.take_if(|wait| wait.since <= started);
        if saturated && now.saturating_duration_since(started) <= QUICK {
            // One more call per round of answers: additive increase.
            self.concurrency = (self.concurrency + STEP / self.concurrency()).min(MAX_CONCURRENCY * STEP);
        }
    }

    /// A failure without a hint. Calls that were out together when one of them failed are one failure: a single broken
    /// connection must not open the breaker by the number of its streams.
    pub(crate) fn failed(&mut self, ticket: Ticket, started: Instant, unit: f64, now: Instant) {
        if self.last_failure.is_some_and(|last| started < last) {
            self.neutral(ticket, now);
            return;
        }
        self.report(ticket, Outcome::Failure, now);
        self.last_failure = Some(now);
        let delay = self.delay(self.failures, unit);
        self.wait_for(delay, now);
        self.failures = self.failures.saturating_add(1);
        self.halve();
    }

    /// A throttle: the peer lives and says when to come back. It is taken at its word, unless our failures ask for more;
    /// a hint shorter than a first retry's wait is no invitation to call without a pause: then our own backoff counts.
    pub(crate) fn throttled(&mut self, ticket: Ticket, hint: Duration, unit: f64, now: Instant) {
        self.neutral(ticket, now);
        let own = match self.failures {
            _ if hint < self.delay(0, unit) => self.delay(self.failures.max(self.throttles), unit),
            0 => Duration::ZERO,
            failures => self.delay(failures - 1, unit),
        };
        self.throttles = self.throttles.saturating_add(1);
        self.wait_for(hint.min(MAX_HINT).max(own), now);
        self.halve();
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

    /// Somebody's code: it may panic, and may say anything.
    fn delay(&self, attempt: u32, unit: f64) -> Duration {
        let delay = catch_unwind(AssertUnwindSafe(|| self.backoff.delay(attempt, unit)));
        delay.unwrap_or(Duration::from_secs(20)).min(MAX_DELAY)
    }

    fn halve(&mut self) {
        self.concurrency = (self.concurrency / 2).max(STEP);
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

    fn endpoint() -> (Endpoint, Instant) {
        let now = SystemClock.now();
        let config = breaker::Config::builder().with_open_jitter(0.0).build().expect("valid");
        let backoff = backoff::Exponential::builder().with_jitter(backoff::Jitter::None).build().expect("valid");
        (Endpoint::new(Machine::new(config), Box::new(backoff), now), now)
    }

    fn ticket(endpoint: &mut Endpoint, now: Instant) -> Ticket {
        endpoint.acquire(now).expect("willing")
    }

    #[test]
    fn failures_wait_longer_each_time_and_the_fifth_opens_the_breaker() {
        let (mut endpoint, mut now) = endpoint();
        for wait in [1, 2, 4, 8] {
            let call = ticket(&mut endpoint, now);
            endpoint.failed(call, now, 0.5, now);
            assert_eq!(endpoint.acquire(now), Err(Wait::Until(now + wait * SECOND)));
            assert_eq!(endpoint.state(), State::Closed);
            now += wait * SECOND;
        }
        let call = ticket(&mut endpoint, now);
        endpoint.failed(call, now, 0.5, now);
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
            endpoint.failed(call, now, 0.5, now + SECOND);
        }
        assert_eq!(endpoint.state(), State::Closed);
        assert_eq!(endpoint.waits_until(now + SECOND), Some(now + 2 * SECOND));
    }

    #[test]
    fn a_hint_is_honoured_whatever_else_is_answered_meanwhile() {
        let (mut endpoint, now) = endpoint();
        let calls = [(); 3].map(|()| ticket(&mut endpoint, now));
        let later = now + Duration::from_millis(100);
        endpoint.throttled(calls[0], 60 * SECOND, 0.5, later);
        endpoint.succeeded(calls[1], now, false, later);
        endpoint.failed(calls[2], now, 0.5, later);
        assert_eq!(endpoint.waits_until(later), Some(later + 60 * SECOND));
        assert_eq!((endpoint.state(), endpoint.trips()), (State::Closed, 0));
    }

    #[test]
    fn a_hint_of_nothing_is_no_invitation_and_a_huge_one_is_cut() {
        let (mut endpoint, mut now) = endpoint();
        for wait in [1, 2, 4] {
            let call = ticket(&mut endpoint, now);
            endpoint.throttled(call, Duration::ZERO, 0.5, now);
            assert_eq!(endpoint.waits_until(now), Some(now + wait * SECOND));
            now += wait * SECOND;
        }
        let call = ticket(&mut endpoint, now);
        endpoint.throttled(call, Duration::MAX, 0.5, now);
        assert_eq!(endpoint.waits_until(now), Some(now + MAX_HINT));
    }

    #[test]
    fn concurrency_grows_with_quick_answers_and_is_halved() {
        let (mut endpoint, now) = endpoint();
        assert_eq!(endpoint.concurrency(), 1);
        for _ in 0..100 {
            let call = ticket(&mut endpoint, now);
            endpoint.succeeded(call, now, true, now + Duration::from_millis(10));
        }
        assert_eq!(endpoint.concurrency(), MAX_CONCURRENCY);
        let call = ticket(&mut endpoint, now);
        endpoint.succeeded(call, now, false, now + Duration::from_millis(10));
        let call = ticket(&mut endpoint, now);
        endpoint.throttled(call, SECOND, 0.5, now);
        assert_eq!(endpoint.concurrency(), MAX_CONCURRENCY / 2);
        let (mut slow, now) = self::endpoint();
        let call = ticket(&mut slow, now);
        slow.succeeded(call, now, true, now + SECOND);
        assert_eq!(slow.concurrency(), 1, "slow answers earn nothing");
    }

    struct Wild;

    impl Backoff for Wild {
        fn delay(&self, attempt: u32, _unit: f64) -> Duration {
            if attempt == 0 { Duration::MAX } else { panic!("a bug of the user's") }
        }
    }

    #[test]
    fn a_backoff_of_the_users_own_may_say_anything_and_panic() {
        let (_, mut now) = endpoint();
        let machine = Machine::new(breaker::Config::default());
        let mut endpoint = Endpoint::new(machine, Box::new(Wild), now);
        for wait in [MAX_DELAY, 20 * SECOND] {
            let call = ticket(&mut endpoint, now);
            endpoint.failed(call, now, 0.5, now);
            assert_eq!(endpoint.waits_until(now), Some(now + wait));
            now += wait;
        }
    }
}
