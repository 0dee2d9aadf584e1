//! The rows of the breaker in `cargo xtask bench`: its cost beside a floor, both measured in turns in this process.
//!
//! `breaker_costs closed-1` prints one JSON object with the nanoseconds a call of both. `breaker_costs
//! instructions-closed 4096` makes that many calls and prints nothing, for a count of instructions.

use std::env;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use benches::{now, side_by_side, timed};
use breaker::{Breaker, Config};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["closed-1"] => print(compare(Threads::One, &mutex(), &closed())),
        ["closed-2"] => print(compare(Threads::Two, &one_each(closed), &closed())),
        ["one-failure-in-ten-2"] => print(compare(Threads::Two, &mutex_with_failures(), &with_failures())),
        ["refused-1"] => print(compare(Threads::One, &clock(), &refused())),
        ["refused-2"] => print(compare(Threads::Two, &clock(), &refused())),
        ["instructions-closed", calls] => count(&closed(), calls),
        ["instructions-refused", calls] => count(&refused(), calls),
        ["instructions-mutex", calls] => count(&mutex(), calls),
        ["instructions-clock", calls] => count(&clock(), calls),
        _ => {
            eprintln!("usage: breaker_costs closed-1 | closed-2 | one-failure-in-ten-2 | refused-1 | refused-2");
            ExitCode::FAILURE
        }
    }
}

/// Makes so many calls.
type Work = Box<dyn Fn(u64) + Sync>;

fn calls(call: impl Fn(bool) -> bool + Sync + 'static, succeeds: impl Fn(u64) -> bool + Sync + 'static) -> Work {
    Box::new(move |calls| {
        for n in 0..calls {
            black_box(call(black_box(succeeds(n))));
        }
    })
}

fn always(_: u64) -> bool {
    true
}

fn nine_of_ten(n: u64) -> bool {
    !n.is_multiple_of(10)
}

fn breaker(succeeds: impl Fn(u64) -> bool + Sync + 'static, open: bool) -> Work {
    let breaker = Breaker::new(Config::builder().with_open_duration(LONG).build().expect("valid"));
    if open {
        breaker.force_open();
    }
    calls(move |ok| breaker.call(|| if ok { Ok(()) } else { Err(()) }).is_ok(), succeeds)
}

fn closed() -> Work {
    breaker(always, false)
}

fn with_failures() -> Work {
    breaker(nine_of_ten, false)
}

fn refused() -> Work {
    breaker(always, true)
}

/// The simplest breaker: a mutex round a counter.
fn mutex_round_a_counter(succeeds: impl Fn(u64) -> bool + Sync + 'static) -> Work {
    let failures = parking_lot::Mutex::new(0_u32);
    let call = move |ok| {
        let mut failures = failures.lock();
        *failures = if ok { 0 } else { (*failures + 1) & 3 };
        ok
    };
    calls(call, succeeds)
}

fn mutex() -> Work {
    mutex_round_a_counter(always)
}

fn mutex_with_failures() -> Work {
    mutex_round_a_counter(nine_of_ten)
}

/// No breaker that is open for a time refuses without it.
fn clock() -> Work {
    let until = now() + LONG;
    calls(move |_| now() < until, always)
}

/// The work of two threads that share nothing: the first takes one, the second the other, and so on.
fn one_each(make: fn() -> Work) -> Work {
    let (pair, turn) = ([make(), make()], AtomicUsize::new(0));
    Box::new(move |calls| pair[turn.fetch_add(1, Ordering::Relaxed) % 2](calls))
}

#[derive(Clone, Copy)]
enum Threads {
    One,
    Two,
}

/// Nanoseconds a call; `None` if a thread had to wait for a processor, or two did not run side by side.
fn measure(threads: Threads, work: &Work) -> Option<f64> {
    let attempt = match threads {
        Threads::One => timed(|| work(CALLS)),
        Threads::Two => side_by_side(|| work(CALLS)),
    };
    attempt.clean.then_some(attempt.time.as_secs_f64() * 1e9 / CALLS as f64)
}

/// Medians of rounds in which each of the two had its turn.
fn rounds(mut round: impl FnMut() -> Option<[f64; 2]>) -> Option<[f64; 2]> {
    let started = now();
    let mut good = Vec::new();
    while good.len() < ROUNDS && now().saturating_duration_since(started) < PATIENCE {
        good.extend(round());
    }
    if good.len() < ROUNDS / 4 {
        eprintln!("{} clean rounds in {PATIENCE:?}: the machine is too busy", good.len());
        return None;
    }
    let median = |which: usize| {
        let mut values: Vec<f64> = good.iter().map(|round| round[which]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Some([median(0), median(1)])
}

fn compare(threads: Threads, peer: &Work, ours: &Work) -> Option<[f64; 2]> {
    rounds(|| Some([measure(threads, peer)?, measure(threads, ours)?]))
}

fn print(medians: Option<[f64; 2]>) -> ExitCode {
    let Some([peer, ours]) = medians else { return ExitCode::FAILURE };
    println!("{{\"peer\": {peer:.3}, \"ours\": {ours:.3}}}");
    ExitCode::SUCCESS
}

fn count(work: &Work, calls: &str) -> ExitCode {
    work(calls.parse().expect("a number of calls"));
    ExitCode::SUCCESS
}

const CALLS: u64 = 100_000;
const ROUNDS: usize = 41;
const PATIENCE: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(3_000);
