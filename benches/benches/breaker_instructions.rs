//! Instructions a call, by callgrind: `cargo bench -p benches --bench breaker_instructions`. Needs valgrind (Debian:
//! `apt-get install valgrind`).
//!
//! Each case runs in a process of its own, once with a number of calls and once with twice as many: the difference is
//! the calls alone. The bars are asserted. With `--test` every case runs natively for a moment, so that none rots.

use std::env;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const CALLS: u64 = 20_000;

/// Name, the most instructions it may take, and the calls.
type Case = (&'static str, Option<u64>, fn(u64));

const CASES: &[Case] = &[
    ("breaker: closed, success", Some(60), closed),
    ("breaker: one failure in ten", Some(75), one_in_ten),
    ("breaker: refused, own clock", Some(130), refused),
    ("breaker: refused, now given", Some(110), refused_at),
    ("backoff: build and five draws", Some(400), backoff_draws),
    ("backoff: build and five draws, seeded", Some(400), backoff_seeded),
    ("recloser: closed, success", None, recloser),
    ("recloser: refused", None, recloser_refused),
    ("failsafe: closed, success", None, failsafe),
    ("failsafe: refused", None, failsafe_refused),
    ("floor: a clock read", None, clock),
];

fn main() -> ExitCode {
    if let Some(case) = env::var_os(CASE) {
        let (number, calls) = case.to_str().and_then(|text| text.split_once(':')).expect("number:calls");
        let (_, _, run) = CASES[number.parse::<usize>().expect("a number")];
        run(calls.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    if env::args().any(|argument| argument == "--test") {
        CASES.iter().for_each(|(_, _, run)| run(10));
        return ExitCode::SUCCESS;
    }
    let mut failed = false;
    for (number, (name, most, _)) in CASES.iter().enumerate() {
        let (once, twice) = (instructions(number, CALLS), instructions(number, 2 * CALLS));
        let each = twice.saturating_sub(once).div_ceil(CALLS);
        let verdict = match most {
            Some(most) if each > *most => {
                failed = true;
                format!("  over the bar of {most}")
            }
            Some(most) => format!("  bar {most}"),
            None => String::new(),
        };
        println!("{name:40} {each:6}{verdict}");
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn instructions(number: usize, calls: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("this program"))
        .env(CASE, format!("{number}:{calls}"))
        .output()
        .unwrap_or_else(|error| {
            panic!("valgrind cannot be run ({error}): install it, Debian: apt-get install valgrind")
        });
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines()
        .find_map(|line| line.split_once("Collected : "))
        .and_then(|(_, count)| count.trim().parse().ok())
        .unwrap_or_else(|| panic!("callgrind counted nothing:\n{text}"))
}

fn work(ok: bool) -> Result<(), ()> {
    if ok { Ok(()) } else { Err(()) }
}

fn closed(calls: u64) {
    let breaker = breaker::Breaker::default();
    for _ in 0..calls {
        black_box(breaker.call(|| work(black_box(true))).is_ok());
    }
}

fn one_in_ten(calls: u64) {
    let breaker = breaker::Breaker::default();
    for n in 0..calls {
        black_box(breaker.call(|| work(black_box(!n.is_multiple_of(10)))).is_ok());
    }
}

fn refused(calls: u64) {
    let breaker = breaker::Breaker::default();
    breaker.force_open();
    for _ in 0..calls {
        black_box(breaker.call(|| work(black_box(true))).is_ok());
    }
}

fn refused_at(calls: u64) {
    let breaker = breaker::Breaker::default();
    breaker.force_open();
    let at = now();
    for _ in 0..calls {
        black_box(breaker.try_acquire_ref_at(black_box(at)).is_ok());
    }
}

fn backoff_draws(calls: u64) {
    for _ in 0..calls {
        let policy = backoff::Exponential::builder().with_initial_delay(black_box(SECOND)).build().expect("valid");
        backoff::Backoff::new(policy).delays().for_each(consume);
    }
}

fn backoff_seeded(calls: u64) {
    for seed in 0..calls {
        let policy = backoff::Exponential::builder().with_initial_delay(black_box(SECOND)).build().expect("valid");
        let backoff = backoff::Backoff::builder(policy).with_seed(seed).build().expect("valid");
        backoff.delays().for_each(consume);
    }
}

fn consume(delay: Duration) {
    black_box(delay);
}

fn recloser(calls: u64) {
    let peer = recloser::Recloser::custom().build();
    for _ in 0..calls {
        black_box(peer.call(|| work(black_box(true))).is_ok());
    }
}

fn recloser_refused(calls: u64) {
    let peer = recloser::Recloser::custom().open_wait(LONG).build();
    // Its window is the last 100 calls.
    for _ in 0..200 {
        black_box(peer.call(|| work(black_box(false))).is_ok());
    }
    for _ in 0..calls {
        black_box(peer.call(|| work(black_box(true))).is_ok());
    }
}

fn failsafe(calls: u64) {
    let policy = failsafe::failure_policy::consecutive_failures(5, failsafe::backoff::constant(LONG));
    let peer = failsafe::Config::new().failure_policy(policy).build();
    for _ in 0..calls {
        black_box(failsafe::CircuitBreaker::call(&peer, || work(black_box(true))).is_ok());
    }
}

fn failsafe_refused(calls: u64) {
    let policy = failsafe::failure_policy::consecutive_failures(5, failsafe::backoff::constant(LONG));
    let peer = failsafe::Config::new().failure_policy(policy).build();
    for _ in 0..5 {
        black_box(failsafe::CircuitBreaker::call(&peer, || work(black_box(false))).is_ok());
    }
    for _ in 0..calls {
        black_box(failsafe::CircuitBreaker::call(&peer, || work(black_box(true))).is_ok());
    }
}

fn clock(calls: u64) {
    for _ in 0..calls {
        black_box(now());
    }
}

#[expect(clippy::disallowed_methods, reason = "a start for a fixed time, and the clock itself")]
fn now() -> Instant {
    Instant::now()
}

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(3_000);
/// The environment variable that names the case which a copy of this program runs.
const CASE: &str = "BREAKER_INSTRUCTIONS_CASE";
