//! A CPU-bound application, and the niceness of the exporter's threads: the work that the application gets done, and
//! how far its spans are behind, with `threads.niceness` 0, 5 and 19 by turns. A remark for `docs/benchmarks.md`, no
//! gate: the machine's other work decides about single rounds.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use resilient_exporter::ResilientSpanProcessor;
use trials::Failure;
use trials::contender;
use trials::peer::Peer;

const NICENESSES: [u8; 3] = [0, 5, 19];
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

/// Units of work a span: about 50 microseconds.
const UNITS_PER_SPAN: u64 = 50;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("niceness: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// One round.
struct Round {
    niceness: u8,
    units: u64,
    spans: u64,
    /// The most spans in memory at a look.
    behind: u64,
    lost: u64,
}

fn run() -> Result<(), Failure> {
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        for turn in 0..NICENESSES.len() {
            // Each value takes each place in a round.
            rounds.push(play(NICENESSES[(round + turn) % NICENESSES.len()], workers)?);
        }
    }
    println!(
        "niceness  units of work  of niceness 0  spans  most behind  lost   (medians of {ROUNDS} rounds of {ROUND:?}, {workers} workers)"
    );
    let median = |niceness: u8, number: fn(&Round) -> u64| {
        let mut numbers: Vec<u64> = rounds.iter().filter(|round| round.niceness == niceness).map(number).collect();
        numbers.sort_unstable();
        numbers[numbers.len() / 2]
    };
    let base = median(NICENESSES[0], |round| round.units) as f64;
    for niceness in NICENESSES {
        let units = median(niceness, |round| round.units);
        let (spans, behind) = (median(niceness, |round| round.spans), median(niceness, |round| round.behind));
        let lost = rounds.iter().filter(|round| round.niceness == niceness).map(|round| round.lost).sum::<u64>();
        println!("{niceness:>8}  {units:>13}  {:>13.3}  {spans:>5}  {behind:>11}  {lost:>4}", units as f64 / base);
        if lost > 0 {
            return Err(format!("{lost} spans were lost at niceness {niceness}").into());
        }
    }
    Ok(())
}

fn play(niceness: u8, workers: usize) -> Result<Round, Failure> {
    let peer = Peer::start("grpc")?;
    let state = tempfile::tempdir()?;
    let processor = ResilientSpanProcessor::builder()
        .with_primary(otlp_transport::connect(peer.config().build()?)?)
        .with_state_dir(state.path())
        .threads(|threads| threads.niceness = niceness)
        .build_processor()?;
    let handle = processor.handle();
    let provider =
        SdkTracerProvider::builder().with_span_processor(processor).with_resource(contender::resource()).build();
    let tracer = provider.tracer("cpu-bound");
    let (is_over, units, spans) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut behind = 0;
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| work(&tracer, &is_over, &units, &spans));
        }
        let end = now() + ROUND;
        while now() < end {
            thread::park_timeout(Duration::from_millis(20));
            let ledger = handle.ledger();
            behind = behind.max(ledger.staged + ledger.buffered + ledger.in_flight);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    provider.force_flush()?;
    let ledger = handle.ledger();
    let lost = spans.load(Ordering::Relaxed) - ledger.delivered - ledger.in_fallback;
    provider.shutdown()?;
    Ok(Round { niceness, units: units.into_inner(), spans: spans.into_inner(), behind, lost })
}

/// Computes until the round is over, with a span for each piece of work.
fn work(tracer: &SdkTracer, is_over: &AtomicBool, units: &AtomicU64, spans: &AtomicU64) {
    let mut value = 1_u64;
    while !is_over.load(Ordering::Relaxed) {
        let mut span = tracer.start("compute");
        for _ in 0..UNITS_PER_SPAN {
            for step in 0..1_000_u64 {
                value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step));
            }
        }
        span.set_attribute(KeyValue::new("value", value.cast_signed()));
        span.end();
        units.fetch_add(UNITS_PER_SPAN, Ordering::Relaxed);
        spans.fetch_add(1, Ordering::Relaxed);
    }
}

#[expect(clippy::disallowed_methods, reason = "rounds of real time")]
fn now() -> Instant {
    Instant::now()
}
