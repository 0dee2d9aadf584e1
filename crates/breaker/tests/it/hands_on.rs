//! Commands, listeners, the history.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use breaker::{Breaker, Command, Config, Dropped, Kind, Reason, Report, State};

#[test]
fn a_person_can_open_close_isolate_disable_and_reset() {
    let breaker = Breaker::default();
    let early = breaker.try_acquire().expect("closed");
    let done = breaker.force_open();
    assert_eq!((done.from, done.reason, done.to, done.number), (State::Closed, Reason::ForcedOpen, State::Open, 1));
    assert!(breaker.try_acquire().unwrap_err().retry_after().expect("open for a time") > Duration::from_secs(59));
    breaker.force_closed();
    assert_eq!(early.failure(), Report::Late, "it was issued before");

    breaker.isolate();
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!((rejected.state(), rejected.retry_after()), (State::Isolated, None));
    assert!(rejected.to_string().contains("until it is reset"), "{rejected}");

    breaker.disable();
    for _ in 0..20 {
        assert_eq!(breaker.try_acquire().expect("disabled").failure(), Report::Unrecorded);
    }
    assert_eq!((breaker.state(), breaker.trips()), (State::Disabled, 1));
    breaker.reset();
    assert_eq!((breaker.state(), breaker.trips()), (State::Closed, 0));
}

#[test]
fn a_program_that_knows_its_peer_is_back_need_not_wait_for_the_open_time() {
    let (breaker, now) = (Breaker::default(), crate::clock());
    for _ in 0..5 {
        let _ = breaker.try_acquire_at(now).expect("closed").failure_at(now);
    }
    assert!(breaker.try_acquire_at(now).is_err());
    let done = breaker.command_at(Command::ForceHalfOpen, now).expect("it was open");
    assert_eq!((done.from, done.reason, done.to, done.at), (State::Open, Reason::ForcedHalfOpen, State::HalfOpen, now));
    let probe = breaker.try_acquire_at(now).expect("a probe at once");
    assert_eq!((probe.kind(), breaker.trips()), (Kind::Probe, 1));
    // The peer is still down: open again for a whole open time, the second trip in a row.
    let _ = probe.failure_at(now);
    assert_eq!((breaker.state(), breaker.trips()), (State::Open, 2));
    assert!(breaker.try_acquire_at(now + Duration::from_secs(59)).is_err());
}

#[test]
fn only_an_open_breaker_is_forced_half_open() {
    let (breaker, now) = (Breaker::default(), crate::clock());
    let call = breaker.try_acquire_at(now).expect("closed");
    assert_eq!((breaker.force_half_open(), breaker.state()), (None, State::Closed));
    assert_eq!(call.failure_at(now), Report::Counted, "the permit is still of this state");
    assert_eq!((breaker.force_half_open(), breaker.consecutive_failures()), (None, 1));

    breaker.disable();
    assert_eq!((breaker.force_half_open(), breaker.state()), (None, State::Disabled));
    breaker.isolate();
    assert_eq!((breaker.force_half_open(), breaker.state()), (None, State::Isolated));
    assert!(breaker.try_acquire_at(now).is_err());

    breaker.command_at(Command::ForceOpen(None), now);
    breaker.command_at(Command::ForceHalfOpen, now);
    let probe = breaker.try_acquire_at(now).expect("a probe");
    assert_eq!(breaker.command_at(Command::ForceHalfOpen, now), None);
    assert!(breaker.try_acquire_at(now).is_err(), "the probe keeps its slot");
    assert_eq!(probe.success_at(now), Report::Counted);
    let reasons: Vec<_> = breaker.transitions().iter().map(|moved| moved.reason).collect();
    let expected = [Reason::Disabled, Reason::Isolated, Reason::ForcedOpen, Reason::ForcedHalfOpen];
    assert_eq!((&reasons[..4], reasons[4]), (&expected[..], Reason::ProbesSucceeded));
}

#[test]
fn forced_open_for_a_time_is_clamped_to_the_longest_open_time() {
    let (breaker, now) = (Breaker::default(), crate::clock());
    for (asked, got) in [(Duration::ZERO, Duration::from_millis(1)), (Duration::MAX, Duration::from_secs(3600))] {
        breaker.command_at(Command::ForceOpen(Some(asked)), now);
        assert_eq!(breaker.try_acquire_at(now).unwrap_err().retry_after(), Some(got));
    }
}

#[test]
fn listeners_hear_from_to_why_and_when_and_may_use_the_breaker() {
    let (breaker, now) = (Breaker::default(), crate::clock());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let id = breaker.subscribe({
        let (heard, breaker) = (Arc::clone(&heard), breaker.clone());
        move |transition| {
            heard.lock().expect("no panic under it").push((*transition, breaker.state(), breaker.transitions().len()));
            if transition.to == State::Open {
                breaker.isolate();
            }
        }
    });
    breaker.command_at(Command::ForceOpen(None), now);
    assert_eq!(breaker.state(), State::Isolated, "the listener said so");
    let heard = heard.lock().expect("no panic under it").clone();
    let (first, state, moves) = heard[0];
    assert_eq!((first.from, first.reason, first.to, first.at), (State::Closed, Reason::ForcedOpen, State::Open, now));
    assert_eq!((state, moves, heard.len()), (State::Open, 1, 2));
    assert!(breaker.unsubscribe(id) && !breaker.unsubscribe(id));
}

#[test]
fn a_panicking_listener_harms_nobody_even_while_a_panic_unwinds() {
    let breaker = Breaker::new(Config::builder().with_dropped(Dropped::Failure).build().expect("valid"));
    let heard = Arc::new(AtomicU32::new(0));
    breaker.subscribe(|_| std::panic::panic_any(PanicsAgain));
    breaker.subscribe({
        let heard = Arc::clone(&heard);
        move |_| {
            heard.fetch_add(1, Ordering::SeqCst);
        }
    });
    for _ in 0..5 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _permit = breaker.try_acquire().expect("closed");
            panic!("the call");
        }));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"the call"));
    }
    assert_eq!((breaker.state(), heard.load(Ordering::SeqCst)), (State::Open, 1));
}

/// The payload of its panic panics again when it is dropped.
struct PanicsAgain;

impl Drop for PanicsAgain {
    fn drop(&mut self) {
        panic!("in the destructor of a panic");
    }
}

#[test]
fn the_last_eight_moves_are_kept_in_order() {
    let breaker = Breaker::default();
    for _ in 0..20 {
        breaker.isolate();
        breaker.disable();
    }
    let numbers: Vec<u64> = breaker.transitions().iter().map(|transition| transition.number).collect();
    assert_eq!(numbers, (33..=40).collect::<Vec<_>>());
    let debug = format!("{breaker:?}");
    assert!(debug.contains("Disabled"), "{debug}");
}
