//! The waits of an endpoint, its concurrency, and the side to which a refusal is ascribed.

use super::*;
use crate::seams::clock::{Clock as _, SystemClock};

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> backoff::Exponential {
    backoff::Exponential::builder().with_jitter(backoff::Jitter::None).build().expect("valid")
}

fn live(ticket: Ticket, started: Instant) -> Ended {
    Ended { ticket, traffic: Traffic::Live, started }
}

/// An answer that may be repeated, with the delay of the policy as the net thread asks for it.
fn fail(endpoint: &mut Endpoint, policy: &dyn Backoff, ticket: Ticket, started: Instant, now: Instant) {
    let own = endpoint.attempts(0.5).delay(policy, None);
    endpoint.on_failure(live(ticket, started), own, now);
}

fn throttle(endpoint: &mut Endpoint, ticket: Ticket, hint: Duration, now: Instant) {
    let own = endpoint.attempts(0.5).delay(&policy(), Some(hint));
    endpoint.on_throttle(live(ticket, now), hint, own, now);
}

fn endpoint() -> (Endpoint, Instant) {
    let now = SystemClock.now();
    let config = breaker::Config::builder().with_open_jitter(0.0).build().expect("valid");
    (Endpoint::new(Machine::new(config), now), now)
}

fn ticket(endpoint: &mut Endpoint, now: Instant) -> Ticket {
    endpoint.acquire(Traffic::Live, now).expect("willing")
}

#[test]
fn failures_wait_longer_each_time_and_the_fifth_opens_the_breaker() {
    let (mut endpoint, mut now) = endpoint();
    for wait in [1, 2, 4, 8] {
        let call = ticket(&mut endpoint, now);
        fail(&mut endpoint, &policy(), call, now, now);
        assert_eq!(endpoint.acquire(Traffic::Live, now), Err(Wait::Until(now + wait * SECOND)));
        assert_eq!(endpoint.state(), State::Closed);
        now += wait * SECOND;
    }
    let call = ticket(&mut endpoint, now);
    fail(&mut endpoint, &policy(), call, now, now);
    assert_eq!((endpoint.state(), endpoint.trips()), (State::Open, 1));
    now += 30 * SECOND;
    assert_eq!(
        endpoint.acquire(Traffic::Live, now),
        Err(Wait::Until(now + 30 * SECOND)),
        "the breaker waits longer than the backoff"
    );
    assert!(endpoint.acquire(Traffic::Live, now + 30 * SECOND).is_ok(), "a probe");
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
    endpoint.on_success(live(calls[1], now), None, false, later);
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
        endpoint.on_success(live(call, now), None, true, now + Duration::from_millis(10));
    }
    assert_eq!(endpoint.concurrency(), MAX_CONCURRENCY);
    let call = ticket(&mut endpoint, now);
    endpoint.on_success(live(call, now), None, false, now + Duration::from_millis(10));
    let call = ticket(&mut endpoint, now);
    throttle(&mut endpoint, call, SECOND, now);
    assert_eq!(endpoint.concurrency(), MAX_CONCURRENCY / 2);
    let (mut slow, now) = self::endpoint();
    let call = ticket(&mut slow, now);
    slow.on_success(live(call, now), None, true, now + SECOND);
    assert_eq!(slow.concurrency(), 1, "slow answers earn nothing");
}

#[test]
fn concurrency_grows_to_its_setting_by_one_call_a_round() {
    for most in [1, 2, 3, 8, 40] {
        let (endpoint, now) = endpoint();
        let mut endpoint = endpoint.with_max_concurrency(most);
        for round in 1..=most + 2 {
            assert_eq!(endpoint.concurrency(), round.min(most));
            for _ in 0..endpoint.concurrency() {
                let call = ticket(&mut endpoint, now);
                endpoint.on_success(live(call, now), None, true, now + Duration::from_millis(10));
            }
        }
    }
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

fn replayed(ticket: Ticket, started: Instant, live_waits: bool) -> Ended {
    Ended { ticket, traffic: Traffic::Replay { live_waits }, started }
}

const REPLAY: Traffic = Traffic::Replay { live_waits: false };

#[test]
fn a_live_batch_goes_past_a_wait_that_only_replays_caused_once() {
    let (mut endpoint, now) = endpoint();
    for _ in 0..5 {
        let permit = endpoint.acquire(REPLAY, now).expect("willing");
        endpoint.on_failure(replayed(permit, now, false), SECOND, now);
        endpoint.last_failure = None; // not out together
        endpoint.backoff = None;
    }
    assert_eq!(endpoint.state(), State::Open);
    assert!(endpoint.acquire(REPLAY, now).is_err());
    let probe = endpoint.acquire(Traffic::Live, now).expect("a live batch goes past the open breaker");
    assert_eq!(probe.kind(), Kind::Probe);
    assert_eq!(endpoint.acquire(Traffic::Live, now), Err(Wait::Answer), "one batch goes past, not each");
    endpoint.on_failure(live(probe, now), SECOND, now);
    assert!(endpoint.acquire(Traffic::Live, now).is_err(), "its outcome decides");
}

#[test]
fn a_failed_replay_is_neutral_while_a_live_batch_waits() {
    let (mut endpoint, now) = endpoint();
    for _ in 0..10 {
        let permit = ticket(&mut endpoint, now);
        endpoint.on_failure(replayed(permit, now, true), SECOND, now);
    }
    assert_eq!((endpoint.state(), endpoint.waits_until(now)), (State::Closed, None));
}

#[test]
fn a_pass_goes_past_backoff_and_breaker_once_and_past_no_pause() {
    let (mut endpoint, now) = endpoint();
    let call = ticket(&mut endpoint, now);
    fail(&mut endpoint, &policy(), call, now, now);
    endpoint.grant_pass();
    let unused = endpoint.acquire(Traffic::Live, now).expect("past the backoff");
    endpoint.on_unused(unused, now);
    let call = endpoint.acquire(Traffic::Live, now).expect("the pass was not used");
    assert!(endpoint.acquire(Traffic::Live, now).is_err(), "a pass serves once");
    throttle(&mut endpoint, call, 30 * SECOND, now);
    endpoint.grant_pass();
    assert_eq!(endpoint.acquire(Traffic::Live, now), Err(Wait::Until(now + 30 * SECOND)));
    endpoint.end_pause();
    assert!(endpoint.acquire(Traffic::Live, now).is_ok());
}

#[test]
fn pauses_without_an_acceptance_between_them_are_one() {
    let (mut endpoint, now) = endpoint();
    let call = ticket(&mut endpoint, now);
    throttle(&mut endpoint, call, 5 * SECOND, now);
    assert_eq!(endpoint.pause(now + SECOND), Some((5 * SECOND, 4 * SECOND)));
    let second = now + 6 * SECOND;
    let call = ticket(&mut endpoint, second);
    throttle(&mut endpoint, call, 5 * SECOND, second);
    assert_eq!(endpoint.pause(second), Some((11 * SECOND, 5 * SECOND)), "from the first throttle");
    let third = second + 5 * SECOND;
    let call = ticket(&mut endpoint, third);
    endpoint.on_success(live(call, third), None, false, third);
    let call = ticket(&mut endpoint, third);
    throttle(&mut endpoint, call, 5 * SECOND, third);
    assert_eq!(endpoint.pause(third), Some((5 * SECOND, 5 * SECOND)));
}

#[test]
fn a_refusal_is_the_batchs_for_3_seconds_after_an_acceptance_unless_it_is_the_20th_in_a_row() {
    let (mut endpoint, now) = endpoint();
    assert_eq!(endpoint.blame(now), Blame::Endpoint, "nothing was accepted yet");
    let call = ticket(&mut endpoint, now);
    endpoint.on_success(live(call, now), None, false, now);
    assert_eq!(endpoint.blame(now + 3 * SECOND), Blame::Batch);
    assert_eq!(endpoint.blame(now + 3 * SECOND + Duration::from_nanos(1)), Blame::Endpoint);
    for _ in 1..20 {
        assert_eq!(endpoint.blame(now), Blame::Batch);
        let call = ticket(&mut endpoint, now);
        endpoint.on_batch_refused(live(call, now), now);
    }
    assert_eq!(endpoint.blame(now), Blame::Endpoint);
    assert_eq!((endpoint.state(), endpoint.waits_until(now)), (State::Closed, None), "suspects are neutral");
}

#[test]
fn an_endpoint_refuses_from_its_first_own_refusal_to_its_next_acceptance() {
    let (mut endpoint, now) = endpoint();
    let cause = Cause::Http { status: 401, message: String::new() };
    let call = ticket(&mut endpoint, now);
    endpoint.on_refused(live(call, now), cause.clone(), SECOND, now);
    assert_eq!((endpoint.refusing(), endpoint.waits_until(now)), (Some(&cause), Some(now + SECOND)));
    let later = now + SECOND;
    let call = ticket(&mut endpoint, later);
    assert!(endpoint.on_success(live(call, later), None, false, later), "it had refused all");
    assert_eq!(endpoint.refusing(), None);
}

#[test]
fn probes_and_calls_after_two_bad_ones_use_a_new_connection() {
    let (mut endpoint, mut now) = endpoint();
    for bad in 0..5 {
        let call = ticket(&mut endpoint, now);
        assert_eq!(endpoint.wants_new_connection(&call), bad >= 2, "after {bad}");
        fail(&mut endpoint, &policy(), call, now, now);
        now += 20 * SECOND;
    }
    now += 60 * SECOND;
    let probe = ticket(&mut endpoint, now);
    assert!(endpoint.wants_new_connection(&probe));
    endpoint.on_success(live(probe, now), None, false, now);
    let call = ticket(&mut endpoint, now);
    assert!(!endpoint.wants_new_connection(&call));
}

#[test]
fn a_hint_of_zero_under_a_backoff_of_zero_still_pauses() {
    let (mut endpoint, now) = endpoint();
    let call = ticket(&mut endpoint, now);
    endpoint.on_throttle(live(call, now), Duration::ZERO, Duration::ZERO, now);
    assert_eq!(endpoint.waits_until(now), Some(now + LEAST_PAUSE));
}
