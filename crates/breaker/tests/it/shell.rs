//! The shared breaker: permits, calls, commands, listeners.

use std::cell::Cell;
use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use breaker::{
    Breaker, CallError, Command, Config, Dropped, Kind, Machine, Outcome, Permit, Rate, Reason, Rejected, Report,
    State, Trip,
};

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
    let (breaker, now) = (exact(), crate::clock());
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
    let (breaker, now) = (exact(), crate::clock());
    trip(&breaker, now);
    let rejected = breaker.try_acquire_at(now + Duration::from_secs(59)).unwrap_err();
    assert_eq!((rejected.state(), rejected.retry_after()), (State::Open, Some(Duration::from_secs(1))));

    let now = now + Duration::from_secs(60);
    let probe = breaker.try_acquire_at(now).expect("the open time is over");
    assert_eq!((probe.kind(), breaker.state()), (Kind::Probe, State::HalfOpen));
    let rejected = breaker.try_acquire_at(now).unwrap_err();
    assert_eq!((rejected.state(), rejected.retry_after()), (State::HalfOpen, None));
    assert_eq!(probe.success_at(now), Report::Counted);
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn late_outcomes_move_nothing() {
    let (breaker, now) = (exact(), crate::clock());
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

fn half_open(breaker: &Breaker, now: Instant) -> Instant {
    trip(breaker, now);
    now + Duration::from_secs(60)
}

#[test]
fn a_dropped_probe_frees_its_slot_and_the_breaker_stays_half_open() {
    let (breaker, now) = (exact(), crate::clock());
    let now = half_open(&breaker, now);
    for _ in 0..8 {
        drop(breaker.try_acquire_at(now).expect("the slot is free"));
        assert_eq!(breaker.state(), State::HalfOpen);
    }
    for _ in 0..8 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _permit = breaker.try_acquire_ref_at(now).expect("the slot is free");
            panic!("in a probe");
        }));
        assert!(caught.is_err());
    }
    assert!(breaker.try_acquire_at(now).expect("the slot is free").success_at(now).counted());
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_forgotten_probe_expires_after_one_open_time_and_its_late_outcome_is_ignored() {
    let (breaker, now) = (exact(), crate::clock());
    let now = half_open(&breaker, now);
    let hangs = breaker.try_acquire_at(now).expect("a probe");
    assert!(breaker.try_acquire_at(now + Duration::from_millis(59_999)).is_err());
    let now = now + Duration::from_secs(60);
    let next = breaker.try_acquire_at(now).expect("the first probe is given up");
    assert_eq!(hangs.failure_at(now), Report::Expired);
    assert_eq!(breaker.state(), State::HalfOpen);
    assert_eq!(next.success_at(now), Report::Counted);
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn dropped_permits_are_failures_where_the_settings_say_so() {
    let config = Config::builder().with_dropped(Dropped::Failure).build().expect("valid");
    let breaker = Breaker::new(config);
    for _ in 0..5 {
        drop(breaker.try_acquire().expect("closed"));
    }
    assert_eq!(breaker.state(), State::Open);

    let breaker = exact();
    for _ in 0..100 {
        drop(breaker.try_acquire().expect("closed"));
    }
    assert_eq!((breaker.state(), breaker.consecutive_failures()), (State::Closed, 0));
}

#[test]
fn a_hint_lengthens_the_open_time_that_its_failure_begins() {
    let (breaker, now) = (exact(), crate::clock());
    for _ in 0..5 {
        let _ = breaker.try_acquire_at(now).expect("closed").failure_with_hint_at(Duration::from_secs(90), now);
    }
    assert_eq!(breaker.try_acquire_at(now).unwrap_err().retry_after(), Some(Duration::from_secs(90)));
    let now = now + Duration::from_secs(90);
    let probe = breaker.try_acquire_at(now).expect("a probe");
    let _ = probe.failure_with_hint_at(Duration::MAX, now);
    assert_eq!(breaker.try_acquire_at(now).unwrap_err().retry_after(), Some(Duration::from_secs(3600)), "the longest");
}

#[test]
fn calls_report_what_their_classifier_says() {
    let breaker = exact();
    for _ in 0..5 {
        assert_eq!(breaker.call(|| Err::<(), _>("no")), Err(CallError::Inner("no")));
    }
    let refused = breaker.call(|| Ok::<_, &str>(1)).unwrap_err();
    assert!(refused.retry_after().is_some() && refused.rejected().is_some());

    let breaker = exact();
    let by_status = |result: &Result<u16, &str>| match result {
        Ok(500..) => Outcome::Failure,
        Ok(400..) => Outcome::Neutral,
        other => other.into(),
    };
    for _ in 0..4 {
        assert_eq!(breaker.call_with(by_status, || Ok(503)), Ok(503));
        assert_eq!(breaker.call_with(by_status, || Ok(404)), Ok(404));
    }
    assert_eq!(breaker.consecutive_failures(), 4, "a neutral outcome neither counts nor clears");
    assert_eq!(breaker.call_with(by_status, || Ok(200)), Ok(200));
    assert_eq!(breaker.consecutive_failures(), 0);
    assert_eq!(breaker.call_with(by_status, || Err("reset")), Err(CallError::Inner("reset")));
    assert_eq!(breaker.consecutive_failures(), 1);
}

#[test]
fn each_form_of_a_call_takes_one_classifier_and_gives_back_one_type() {
    fn classify(result: &Result<u32, &'static str>) -> Outcome {
        match result {
            Err("not found") => Outcome::Neutral,
            other => other.into(),
        }
    }
    fn poll<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("nothing here waits"),
        }
    }
    let each_form =
        |breaker: &Breaker, result: Result<u32, &'static str>| -> [Result<u32, CallError<&'static str>>; 4] {
            [
                breaker.call(|| result),
                breaker.call_with(classify, || result),
                poll(breaker.call_async(ready(result))),
                poll(breaker.call_async_with(classify, ready(result))),
            ]
        };
    let breaker = exact();
    assert_eq!(each_form(&breaker, Ok(7)), [Ok(7); 4]);
    assert_eq!(each_form(&breaker, Err("not found")), [Err(CallError::Inner("not found")); 4]);
    assert_eq!(breaker.consecutive_failures(), 2, "only the two forms without a classifier took it for a failure");
    breaker.isolate();
    for refused in each_form(&breaker, Ok(7)) {
        let refused = refused.unwrap_err();
        assert_eq!((refused.rejected().map(Rejected::state), refused.inner()), (Some(State::Isolated), None));
    }
}

#[test]
fn a_panicking_call_or_classifier_gives_its_permit_back() {
    let (breaker, now) = (exact(), crate::clock());
    breaker.command_at(Command::ForceOpen(None), now - Duration::from_secs(120));
    for _ in 0..8 {
        let call = || breaker.call(|| -> Result<(), ()> { panic!("in the call") });
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        let call = || breaker.call_with(|_| panic!("in the classifier"), || Ok::<_, ()>(1));
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        assert_eq!((breaker.state(), breaker.counters().probes), (State::HalfOpen, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn async_calls_work_on_a_paused_clock_and_a_cancelled_one_frees_its_slot() {
    let config = Config::builder().with_open_jitter(0.0).build().expect("valid");
    let breaker = Breaker::with_clock(config, || tokio::time::Instant::now().into_std());
    for _ in 0..5 {
        assert!(breaker.call_async(async { Err::<(), _>("no") }).await.is_err());
    }
    let wait = breaker.try_acquire().unwrap_err().retry_after().expect("open");
    assert_eq!(wait, Duration::from_secs(60));
    tokio::time::sleep(wait).await;
    let hangs = breaker.call_async(std::future::pending::<Result<(), ()>>());
    assert!(tokio::time::timeout(Duration::from_secs(1), hangs).await.is_err());
    assert_eq!((breaker.state(), breaker.counters().probes), (State::HalfOpen, 0));
    assert_eq!(breaker.call_async(async { Ok::<_, ()>(7) }).await, Ok(7));
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn calls_need_no_send_and_shared_things_have_it() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Breaker>();
    shared::<Permit>();
    shared::<Machine>();
    let not_send = Rc::new(1);
    assert_eq!(exact().call(|| Ok::<_, Rc<u8>>(Rc::clone(&not_send))), Ok(not_send));
}

#[test]
fn a_guarded_future_is_sendable_where_the_call_is_and_is_dropped_unpolled_where_it_is_refused() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let (breaker, polled) = (exact(), Cell::new(0));
    let call = sendable(breaker.call_async(ready(Ok::<_, String>(1))));
    assert_eq!(pin!(call).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(1)));
    breaker.isolate();
    // Not `Send`, as it borrows a `Cell`: none is asked for.
    let call = breaker.call_async_with(|_| Outcome::Neutral, async {
        polled.set(polled.get() + 1);
        Ok::<_, String>(())
    });
    let refused = pin!(call).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(refused, Poll::Ready(Err(CallError::Rejected(refusal))) if refusal.state() == State::Isolated));
    assert_eq!(polled.get(), 0);
}

#[test]
fn a_count_window_slides() {
    let rate = Rate::over_calls(100).with_failure_rate(0.5);
    let (breaker, now) =
        (Breaker::new(Config::builder().with_trip(Trip::Rate(rate)).build().expect("valid")), crate::clock());
    for _ in 0..1_000 {
        assert!(breaker.try_acquire_at(now).expect("closed").success_at(now).counted());
    }
    for failures in 1..=50 {
        assert_eq!(breaker.state(), State::Closed, "{failures}");
        let _ = breaker.try_acquire_at(now).expect("closed").failure_at(now);
    }
    assert_eq!(breaker.state(), State::Open, "50 of the last 100 failed");
}

#[test]
fn slow_successes_open_and_a_slow_probe_does_not_close() {
    let rate = Rate::over_time(Duration::from_secs(10)).with_minimum_calls(4).without_failure_rate();
    let rate = rate.with_slow_rate(0.5, Duration::from_secs(2));
    let (breaker, now) =
        (Breaker::new(Config::builder().with_trip(Trip::Rate(rate)).build().expect("valid")), crate::clock());
    let slow = now + Duration::from_secs(2);
    for _ in 0..4 {
        assert_eq!(breaker.state(), State::Closed);
        let _ = breaker.try_acquire_at(now).expect("closed").success_at(slow);
    }
    assert_eq!(breaker.transitions().last().map(|it| it.reason), Some(Reason::SlowCallRate));
    let later = now + Duration::from_secs(120);
    let probe = breaker.try_acquire_at(later).expect("a probe");
    let _ = probe.success_at(later + Duration::from_secs(2));
    assert_eq!(breaker.state(), State::Open);
}
