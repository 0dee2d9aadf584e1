//! No path of the breaker or of the backoff allocates once things are built. One test: the counter is of the whole
//! process.

use std::alloc::System;
use std::time::{Duration, Instant};

use backoff::{Backoff, Budget, retry};
use breaker::{Breaker, Command, Config, Rate, State, Trip};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn nothing_allocates() {
    let rate = Trip::Rate(Rate::over_calls(100).with_slow_rate(0.5, Duration::from_secs(1)));
    let timed = Trip::Rate(Rate::over_time(Duration::from_secs(10)));
    for trip in [Trip::Consecutive(5), rate, timed] {
        let breaker = Breaker::new(Config::builder().with_trip(trip).with_open_jitter(0.0).build().expect("valid"));
        breaker.subscribe(|transition| assert_ne!(transition.number, 0));
        let mut now = start();
        none("closed, success", || {
            let _ = breaker.call(|| Ok::<_, ()>(1));
            let _ = breaker.try_acquire().expect("closed").success();
        });
        none("closed, failure, trip", || {
            while breaker.state() == State::Closed {
                let _ = breaker.try_acquire_at(now).expect("closed").failure_at(now);
            }
        });
        none("refused", || assert!(breaker.try_acquire_at(now).is_err() && breaker.call(|| Ok::<_, ()>(1)).is_err()));
        none("probes: dropped, failed, succeeded", || {
            now += Duration::from_secs(60);
            drop(breaker.try_acquire_ref_at(now));
            let _ = breaker.try_acquire_at(now).expect("a probe").failure_at(now);
            now += Duration::from_secs(60);
            let _ = breaker.try_acquire_at(now).expect("a probe").success_at(now);
        });
        none("by hand, read", || {
            breaker.command_at(Command::Isolate, now);
            breaker.reset();
            assert_eq!(breaker.counters().trips, 0);
        });
    }

    let budget = Budget::default();
    none("backoff: built, drawn, driven, paid", || {
        let backoff = Backoff::default();
        assert_eq!(backoff.delays().count(), 5);
        let gave_up = retry(|| Err::<(), _>(7)).backoff(backoff).budget(budget.clone()).run_with(start, |_| ());
        assert_eq!(gave_up.map_err(|end| end.calls), Err(6));
    });
}

fn none(what: &str, run: impl FnOnce()) {
    let region = Region::new(GLOBAL);
    run();
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0), "{what}");
}

#[expect(clippy::disallowed_methods, reason = "a start for simulated time")]
fn start() -> Instant {
    Instant::now()
}
