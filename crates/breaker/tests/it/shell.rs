//! The shared breaker: permits, calls, commands, listeners.

use std::time::{Duration, Instant};

use breaker::{Breaker, Config, Kind, Report, State};

#[expect(clippy::disallowed_methods, reason = "a start for simulated time")]
fn start() -> Instant {
    Instant::now()
}

fn exact() -> Breaker {
    Breaker::new(Config::builder().with_open_jitter(0.0).build().expect("valid"))
}

fn trip(breaker: &Breaker, now: Instant) {
    for _ in 0..5 {
        assert_eq!(breaker.state(), State::Closed);
        let _ = breaker.try_acquire_at(now).expect("closed").failure_at(now);
    }
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn the_fifth_failure_in_a_row_opens() {
    let (breaker, now) = (exact(), start());
    for _ in 0..4 {
        let _ = breaker.try_acquire_at(now).expect("closed").failure_at(now);
    }
    assert_eq!((breaker.state(), breaker.consecutive_failures()), (State::Closed, 4));
    assert!(breaker.try_acquire_at(now).expect("closed").success_at(now).counted());
    assert_eq!(breaker.consecutive_failures(), 0);
    trip(&breaker, now);
    assert_eq!(breaker.trips(), 1);
}

#[test]
fn an_open_breaker_says_when_to_come_back_and_then_lets_one_probe_out() {
    let (breaker, now) = (exact(), start());
    trip(&breaker, now);
    let rejected = breaker.try_acquire_at(now + Duration::from_secs(59)).unwrap_err();
    assert_eq!((rejected.state, rejected.retry_after), (State::Open, Some(Duration::from_secs(1))));

    let now = now + Duration::from_secs(60);
    let probe = breaker.try_acquire_at(now).expect("the open time is over");
    assert_eq!((probe.kind(), breaker.state()), (Kind::Probe, State::HalfOpen));
    let rejected = breaker.try_acquire_at(now).unwrap_err();
    assert_eq!((rejected.state, rejected.retry_after), (State::HalfOpen, None));
    assert_eq!(probe.success_at(now), Report::Counted);
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn late_outcomes_move_nothing() {
    let (breaker, now) = (exact(), start());
    let late: Vec<_> = (0..2).map(|_| breaker.try_acquire_at(now).expect("closed")).collect();
    trip(&breaker, now);
    let now = now + Duration::from_secs(60);
    let probe = breaker.try_acquire_at(now).expect("the open time is over");
    for permit in late {
        assert_eq!(permit.success_at(now), Report::Late);
    }
    assert_eq!((breaker.state(), breaker.counters().late), (State::HalfOpen, 2));
    assert_eq!(probe.failure_at(now), Report::Counted);
    assert_eq!((breaker.state(), breaker.trips()), (State::Open, 2));
}
