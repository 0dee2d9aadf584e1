//! The shared breaker under every interleaving that loom finds (up to three preemptions a run):
//! `RUSTFLAGS="--cfg loom" cargo test -p breaker --test loom --release`, in a target directory of its own.
#![cfg(loom)]

use std::time::{Duration, Instant};

use breaker::{Breaker, Command, Config, Counters, Kind, Machine, Outcome, Permit, Report, State};
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
    explore_within(3, body);
}

fn explore_within(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(body);
}

fn config(threshold: u32, probes: u32, successes: u32) -> Config {
    Config::builder()
        .with_failure_threshold(threshold)
        .with_open_jitter(0.0)
        .with_half_open_probes(probes)
        .with_half_open_successes(successes)
        .with_probe_timeout(Duration::from_secs(10))
        .with_seed(1)
        .build()
        .expect("valid")
}

fn breaker(threshold: u32, probes: u32, successes: u32, now: Instant) -> Breaker {
    Breaker::with_clock(config(threshold, probes, successes), move || now)
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
            assert_eq!((rejected.state(), rejected.retry_after()), (State::Open, Some(OPEN)));
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
            assert_eq!((rejected.state(), rejected.retry_after()), (State::Open, Some(OPEN)));
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
fn three_failures_that_two_threads_count_without_the_lock_trip_at_the_third() {
    explore(|| {
        let now = start();
        let breaker = breaker(3, 1, 1, now);
        let permits: Vec<_> = (0..3).map(|_| breaker.try_acquire_at(now).expect("closed")).collect();
        let mut permits = permits.into_iter();
        let (first, second, third) = (permits.next().unwrap(), permits.next().unwrap(), permits.next().unwrap());
        let other = thread::spawn(move || first.failure_at(now).counted() & second.failure_at(now).counted());
        assert!(third.failure_at(now).counted());
        assert!(other.join().unwrap());
        assert_eq!((breaker.state(), breaker.trips()), (State::Open, 1));
        assert_eq!(breaker.consecutive_failures(), 0, "the open state counts none");
    });
}

#[test]
fn a_success_that_clears_the_count_comes_before_the_tripping_failure_or_too_late() {
    explore(|| {
        let now = start();
        let breaker = breaker(2, 1, 1, now);
        let permits: Vec<_> = (0..3).map(|_| breaker.try_acquire_at(now).expect("closed")).collect();
        let mut permits = permits.into_iter();
        assert!(permits.next().unwrap().failure_at(now).counted());
        let (good, bad) = (permits.next().unwrap(), permits.next().unwrap());
        let other = thread::spawn(move || good.success_at(now).counted());
        assert!(bad.failure_at(now).counted());
        let in_time = other.join().unwrap();
        if in_time {
            // The success came first and cleared the count; the failure after it is the first of a new row.
            assert_eq!((breaker.state(), breaker.consecutive_failures()), (State::Closed, 1));
        } else {
            assert_eq!((breaker.state(), breaker.counters().late), (State::Open, 1));
        }
    });
}

#[test]
fn a_failure_is_not_lost_while_the_lock_is_held_for_another_outcome() {
    explore(|| {
        let now = start();
        let breaker = breaker(3, 1, 1, now);
        let late = breaker.try_acquire_at(now).expect("closed");
        breaker.command_at(Command::ForceClosed, now);
        let failed = breaker.try_acquire_at(now).expect("closed");
        let other = thread::spawn(move || late.failure_at(now).counted());
        let reader = {
            let breaker = breaker.clone();
            thread::spawn(move || (breaker.state(), breaker.consecutive_failures()))
        };
        assert!(failed.failure_at(now).counted());
        assert!(!other.join().unwrap(), "it was issued before the breaker was closed anew");
        let (state, failures) = reader.join().unwrap();
        assert_eq!(state, State::Closed);
        assert!(failures <= 1);
        assert_eq!((breaker.consecutive_failures(), breaker.counters().late), (1, 1));
    });
}

#[test]
fn a_failure_from_before_a_command_does_not_count_after_it() {
    explore(|| {
        let now = start();
        let breaker = breaker(3, 1, 1, now);
        let failed = breaker.try_acquire_at(now).expect("closed");
        let other = thread::spawn(move || failed.failure_at(now).counted());
        breaker.command_at(Command::ForceClosed, now);
        let counted = other.join().unwrap();
        assert_eq!(breaker.consecutive_failures(), 0, "cleared by the command, or too late for the state after it");
        assert_eq!(breaker.counters().late, u64::from(!counted));
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
            let allowed: &[_] = match rejected.state() {
                State::Open => &[Some(Duration::from_secs(1)), Some(Duration::from_secs(61))],
                _ => &[None],
            };
            assert!(allowed.contains(&rejected.retry_after()), "{rejected:?}");
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

/// One thing that a thread does.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Reports a permit that was issued before the threads began.
    Report(Outcome),
    Command(Command),
    /// Asks for a call, and keeps the permit.
    Ask,
}

/// The answer that the thread got.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Report(Report),
    Moved(bool),
    Asked(Result<Kind, (State, Option<Duration>)>),
}

/// All that can be seen of a run: the answers of both threads, and the breaker afterwards.
type Seen = ([Vec<Answer>; 2], State, Counters);

const ACTS: [Act; 6] = [
    Act::Report(Outcome::Success),
    Act::Report(Outcome::Failure),
    Act::Report(Outcome::Neutral),
    Act::Command(Command::ForceClosed),
    Act::Command(Command::ForceOpen(None)),
    Act::Ask,
];

/// The pure machine in one order of the acts: `order` has a bit for each, set where the second thread is on.
fn in_order(scripts: &[Vec<Act>; 2], failures: usize, order: u32) -> Option<Seen> {
    let now = Duration::from_secs(86_400);
    let mut machine = Machine::new(config(2, 1, 1));
    let mut tickets: Vec<_> = (0..8).map(|_| machine.try_acquire(now).answer.expect("closed")).collect();
    for ticket in tickets.drain(..failures) {
        assert!(machine.report(ticket, Outcome::Failure, now).answer.counted());
    }
    let mut answers = [Vec::new(), Vec::new()];
    for step in 0..scripts[0].len() + scripts[1].len() {
        let thread = (order >> step & 1) as usize;
        let act = *scripts[thread].get(answers[thread].len())?;
        answers[thread].push(match act {
            Act::Report(outcome) => Answer::Report(machine.report(tickets.pop().expect("enough"), outcome, now).answer),
            Act::Command(command) => Answer::Moved(machine.command(command, now).is_some()),
            Act::Ask => Answer::Asked(match machine.try_acquire(now).answer {
                Ok(ticket) => Ok(ticket.kind()),
                Err(rejected) => Err((rejected.state(), rejected.retry_after())),
            }),
        });
    }
    Some((answers, machine.state(), machine.counters()))
}

fn play(breaker: &Breaker, script: Vec<Act>, permits: Vec<Permit>, now: Instant) -> Vec<Answer> {
    let mut permits = permits.into_iter();
    let act = |act| match act {
        Act::Report(outcome) => Answer::Report(permits.next().expect("enough").report_at(outcome, now)),
        Act::Command(command) => Answer::Moved(breaker.command_at(command, now).is_some()),
        Act::Ask => Answer::Asked(match breaker.try_acquire_ref_at(now) {
            Ok(permit) => {
                let kind = permit.kind();
                std::mem::forget(permit);
                Ok(kind)
            }
            Err(rejected) => Err((rejected.state(), rejected.retry_after())),
        }),
    };
    script.into_iter().map(act).collect()
}

/// One thread does any two things and another one any third, with no failure or one counted before: the answers and the
/// end are those of the pure machine in one of the orders that the threads allow. Nothing is lost, counted twice or
/// counted in another state. So short scripts race within two preemptions.
#[test]
fn whatever_two_threads_do_the_machine_could_have_done_alone() {
    let pairs = ACTS.iter().flat_map(|one| ACTS.iter().map(|other| vec![*one, *other]));
    for mine in pairs {
        for theirs in ACTS {
            for failures in [0, 1] {
                let scripts = [mine.clone(), vec![theirs]];
                let possible: Vec<Seen> = (0..8).filter_map(|order| in_order(&scripts, failures, order)).collect();
                explore_within(2, move || {
                    let now = start();
                    let breaker = breaker(2, 1, 1, now);
                    for _ in 0..failures {
                        assert!(breaker.try_acquire_at(now).expect("closed").failure_at(now).counted());
                    }
                    let [first, second] = scripts.each_ref().map(|script| {
                        let reports = script.iter().filter(|act| matches!(act, Act::Report(_))).count();
                        (0..reports).map(|_| breaker.try_acquire_at(now).expect("closed")).collect()
                    });
                    let other = {
                        let (breaker, script) = (breaker.clone(), scripts[1].clone());
                        thread::spawn(move || play(&breaker, script, second, now))
                    };
                    let mine = play(&breaker, scripts[0].clone(), first, now);
                    let seen = ([mine, other.join().unwrap()], breaker.state(), breaker.counters());
                    assert!(possible.contains(&seen), "{scripts:?}, {failures} before: {seen:?}");
                });
            }
        }
    }
}
