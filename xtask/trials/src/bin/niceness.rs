//! A CPU-bound application on all cores: the work that it gets done without telemetry, with the stock exporter, and
//! with ours at `threads.niceness` 0, 5 and 19, by turns, and how far its spans are behind. A remark for
//! `docs/benchmarks.md`, no gate: the machine's other work decides about single rounds.

use std::fmt;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use resilient_exporter::{Handle, ResilientSpanProcessor};
use trials::Failure;
use trials::contender;
use trials::peer::Peer;

/// The way of the spans.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    /// A tracer without a processor.
    Nothing,
    Stock,
    Ours {
        niceness: u8,
    },
}

const CONTENDERS: [Contender; 5] = [
    Contender::Nothing,
    Contender::Stock,
    Contender::Ours { niceness: 0 },
    Contender::Ours { niceness: 5 },
    Contender::Ours { niceness: 19 },
];

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.pad("no processor"),
            Self::Stock => f.pad("stock"),
            Self::Ours { niceness } => f.pad(&format!("ours, niceness {niceness}")),
        }
    }
}

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

/// Units of work a span: a unit is about a microsecond.
const UNITS_PER_SPAN: u64 = 20;

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
    contender: Contender,
    units: u64,
    spans: u64,
    /// The most spans in memory at a look, by the ledger of ours; 0 for the others.
    behind: u64,
    /// Spans that the collector did not get.
    lost: u64,
}

fn run() -> Result<(), Failure> {
    let workers = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        for turn in 0..CONTENDERS.len() {
            // Each contender takes each place in a round.
            rounds.push(play(CONTENDERS[(round + turn) % CONTENDERS.len()], workers)?);
        }
    }
    let median = |contender: Contender, number: fn(&Round) -> u64| {
        let mut numbers: Vec<u64> = rounds.iter().filter(|round| round.contender == contender).map(number).collect();
        numbers.sort_unstable();
        numbers[numbers.len() / 2]
    };
    println!("medians of {ROUNDS} rounds of {ROUND:?}, {workers} workers");
    println!("{:<18} {:>13} {:>8} {:>8} {:>11} {:>8}", "", "units of work", "ratio", "spans", "most behind", "lost");
    let base = median(CONTENDERS[0], |round| round.units) as f64;
    for contender in CONTENDERS {
        let units = median(contender, |round| round.units);
        let (spans, behind) = (median(contender, |round| round.spans), median(contender, |round| round.behind));
        let lost = median(contender, |round| round.lost);
        let ratio = units as f64 / base;
        println!("{contender:<18} {units:>13} {ratio:>8.3} {spans:>8} {behind:>11} {lost:>8}");
    }
    // The nicest threads starve beside such an application, and memory fills up.
    let is_ours = |round: &&Round| matches!(round.contender, Contender::Ours { niceness: 0..=5 });
    let lost = rounds.iter().filter(is_ours).map(|round| round.lost).sum::<u64>();
    if lost > 0 { Err(format!("{lost} spans of ours were lost").into()) } else { Ok(()) }
}

/// The provider of a contender, and the handle of ours.
fn provider(
    contender: Contender,
    peer: &Peer,
    state: &std::path::Path,
    runtime: &tokio::runtime::Runtime,
) -> Result<(SdkTracerProvider, Option<Handle>), Failure> {
    match contender {
        Contender::Nothing => Ok((SdkTracerProvider::builder().build(), None)),
        Contender::Stock => Ok((contender::stock(runtime, peer.protocol, &peer.endpoint())?, None)),
        Contender::Ours { niceness } => {
            let processor = ResilientSpanProcessor::builder()
                .with_primary(otlp_transport::connect(peer.config().build()?)?)
                .with_state_dir(state)
                .threads(|threads| threads.niceness = niceness)
                .build_processor()?;
            let handle = processor.handle();
            let provider = SdkTracerProvider::builder().with_span_processor(processor);
            Ok((provider.with_resource(contender::resource()).build(), Some(handle)))
        }
    }
}

fn play(contender: Contender, workers: usize) -> Result<Round, Failure> {
    let peer = Peer::start("grpc")?;
    let state = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (provider, handle) = provider(contender, &peer, state.path(), &runtime)?;
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
            if let Some(handle) = &handle {
                let ledger = handle.ledger();
                behind = behind.max(ledger.staged + ledger.buffered + ledger.in_flight);
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let spans = spans.into_inner();
    provider.force_flush()?;
    let mut peer = peer;
    let lost = match &handle {
        Some(handle) => {
            let ledger = handle.ledger();
            spans - ledger.delivered - ledger.in_fallback
        }
        None if contender == Contender::Stock => spans.saturating_sub(peer.received()?.unique),
        None => 0,
    };
    provider.shutdown()?;
    Ok(Round { contender, units: units.into_inner(), spans, behind, lost })
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
