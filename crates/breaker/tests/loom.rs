//! The shared breaker under every interleaving that loom finds (up to three preemptions a run):
//! `RUSTFLAGS="--cfg loom" cargo test -p breaker --test loom --release`, in a target directory of its own.
#![cfg(loom)]

use std::time::{Duration, Instant};

use breaker::{Breaker, Command, Config, Kind, Outcome, Permit, State};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

const OPEN: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "a start for simulated time")]
fn start() -> Instant {
    Instant::now()
}

/// At most three preemptions: that finds the races of two threads and ends in seconds.
fn explore(body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(body);
}

fn breaker(threshold: u32, probes: u32, successes: u32, now: Instant) -> Breaker {
    let config = Config::builder()
        .with_failure_threshold(threshold)
        .with_open_jitter(0.0)
        .with_half_open_probes(probes)
        .with_half_open_successes(successes)
        .with_probe_timeout(Duration::from_secs(10))
        .with_seed(1)
        .build()
        .expect("valid");
    Breaker::with_clock(config, move || now)
}

#[test]
fn exactly_one_of_two_gets_the_probe() {
    explore(|| {
        let now = start();
        let breaker = breaker(1, 1, 1, now);
        breaker.command_at(Command::ForceOpen(None), now);
        let later = now + OPEN;
        let other = {
            let breaker = breaker.clone();
            thread::spawn(move || breaker.try_acquire_at(later).ok())
        };
        let mine = breaker.try_acquire_at(later).ok();
        let theirs = other.join().unwrap();
        let got: Vec<Permit> = mine.into_iter().chain(theirs).collect();
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].kind(), breaker.state(), breaker.counters().probes), (Kind::Probe, State::HalfOpen, 1));
        drop(got);
        assert!(breaker.try_acquire_at(later).is_ok(), "the slot is free again");
    });
}

#[test]
fn a_forced_half_open_lets_exactly_one_probe_out_before_the_deadline() {
    explore(|| {
        let now = start();
        let breaker = breaker(1, 1, 1, now);
        breaker.command_at(Command::ForceOpen(None), now);
        let commands: Vec<_> = (0..2)
            .map(|_| {
                let breaker = breaker.clone();
                thread::spawn(move || breaker.command_at(Command::ForceHalfOpen, now).is_some())
            })
            .collect();
        let mine = breaker.try_acquire_at(now);
        if let Err(rejected) = &mine {
            assert_eq!((rejected.state, rejected.retry_after), (State::Open, Some(OPEN)));
        }
        let moved = commands.into_iter().map(|command| command.join().unwrap()).filter(|moved| *moved).count();
        assert_eq!((moved, breaker.state()), (1, State::HalfOpen));
        let next = breaker.try_acquire_at(now);
        assert_ne!(mine.is_ok(), next.is_ok(), "one probe, for the first caller");
    });
}

#[test]
fn a_dropped_probe_never_leaves_the_breaker_stuck() {
    explore(|| {
        let now = start();
        let breaker = breaker(1, 1, 1, now);
        breaker.command_at(Command::ForceOpen(None), now);
        let later = now + OPEN;
        let probe = breaker.try_acquire_at(later).expect("the probe");
        let other = {
            let breaker = breaker.clone();
            thread::spawn(move || drop(breaker.try_acquire_at(later)))
        };
        drop(probe);
        other.join().unwrap();
        assert_eq!((breaker.state(), breaker.counters().probes), (State::HalfOpen, 0));
        let _ = breaker.try_acquire_at(later).expect("free").success_at(later);
        assert_eq!(breaker.state(), State::Closed);
    });
}

#[test]
fn no_failure_is_lost_and_the_breaker_trips_once() {
    explore(|| {
        let now = start();
        let breaker = breaker(2, 1, 1, now);
        let permits: Vec<_> = (0..2).map(|_| breaker.try_acquire_at(now).expect("closed")).collect();
        let threads: Vec<_> =
            permits.into_iter().map(|permit| thread::spawn(move || permit.failure_at(now).counted())).collect();
        // A reader without the lock sees one of the real states, with the deadline that belongs to it.
        if let Err(rejected) = breaker.try_acquire_at(now) {
            assert_eq!((rejected.state, rejected.retry_after), (State::Open, Some(OPEN)));
        }
        for thread in threads {
            assert!(thread.join().unwrap());
        }
        assert_eq!((breaker.state(), breaker.trips()), (State::Open, 1));
    });
}

#[test]
fn a_success_that_only_reads_loses_no_failure() {
    explore(|| {
        let now = start();
        let breaker = breaker(3, 1, 1, now);
        let (good, bad) = (breaker.try_acquire_at(now).expect("closed"), breaker.try_acquire_at(now).expect("closed"));
        let other = thread::spawn(move || good.success_at(now).counted());
        assert!(bad.failure_at(now).counted());
        assert!(other.join().unwrap());
        // The success came before the failure or after it; both are orders in which they may have happened.
        let failures = breaker.consecutive_failures();
        assert!(failures <= 1);
        let _ = breaker.try_acquire_at(now).expect("closed").failure_at(now);
        assert_eq!(breaker.consecutive_failures(), failures + 1);
    });
}

#[test]
fn a_late_outcome_and_a_probe_in_a_race_move_the_newer_state_only_by_the_probe() {
    explore(|| {
        let now = start();
        let breaker = breaker(1, 1, 1, now);
        let late = breaker.try_acquire_at(now).expect("closed");
        breaker.command_at(Command::ForceOpen(None), now);
        let later = now + OPEN;
        let probe = breaker.try_acquire_at(later).expect("the probe");
        let other = thread::spawn(move || late.failure_at(later).counted());
        assert!(probe.success_at(later).counted());
        assert!(!other.join().unwrap());
        assert_eq!((breaker.state(), breaker.trips()), (State::Closed, 1));
    });
}

#[test]
fn a_refusal_never_pairs_one_state_with_the_deadline_of_another() {
    explore(|| {
        let now = start();
        let breaker = breaker(1, 1, 1, now);
        breaker.command_at(Command::ForceOpen(None), now);
        let (later, deadline) = (now + OPEN, now + OPEN);
        let other = {
            let breaker = breaker.clone();
            // Half-open, and open again until 120 s.
            thread::spawn(move || {
                let _ = breaker.try_acquire_at(later).expect("the probe").failure_at(later);
            })
        };
        let asked = deadline - Duration::from_secs(1);
        if let Err(rejected) = breaker.try_acquire_at(asked) {
            let allowed: &[_] = match rejected.state {
                State::Open => &[Some(Duration::from_secs(1)), Some(Duration::from_secs(61))],
                _ => &[None],
            };
            assert!(allowed.contains(&rejected.retry_after), "{rejected:?}");
        }
        other.join().unwrap();
        assert_eq!((breaker.state(), breaker.trips()), (State::Open, 2));
    });
}

#[test]
fn with_two_probes_two_successes_close_once_and_no_third_probe_slips_in() {
    explore(|| {
        let now = start();
        let breaker = breaker(1, 2, 2, now);
        breaker.command_at(Command::ForceOpen(None), now);
        let later = now + OPEN;
        let admitted = Arc::new(AtomicUsize::new(0));
        let first = breaker.try_acquire_at(later).expect("a probe");
        let other = {
            let (breaker, admitted) = (breaker.clone(), Arc::clone(&admitted));
            thread::spawn(move || {
                let permits: Vec<_> = (0..2).filter_map(|_| breaker.try_acquire_at(later).ok()).collect();
                let probes = permits.iter().filter(|permit| permit.kind() == Kind::Probe).count();
                admitted.fetch_add(probes, Ordering::SeqCst);
                for permit in permits {
                    let _ = permit.report_at(Outcome::Success, later);
                }
            })
        };
        let _ = first.success_at(later);
        other.join().unwrap();
        assert!((1..=2).contains(&admitted.load(Ordering::SeqCst)));
        assert_eq!(breaker.state(), State::Closed);
    });
}
