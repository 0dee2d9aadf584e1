//! The way back after an outage: stored files are drained into a collector that only counts, beside live batches, and
//! the same live batches without a file. Rounds of both follow each other; the medians of the rounds are printed as one
//! JSON object, and each round on standard error. Run by `cargo xtask bench`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use file_fallback::Compression;
use mock_collector::ChildCollector;
use otlp_payload::{Payload, Signal};
use otlp_transport::{Outcome, Transport};
use resilient_exporter::{Handle, Pipeline, ResilientSpanExporter};
use trials::contender::{self, Protocol};
use trials::stored::{self, PATIENCE};
use trials::{Failure, app, now, wait_until};

/// Live spans a second, in batches of this size: 50 batches a second.
const LIVE_RATE: u64 = 5_000;
const LIVE_BATCH: u64 = 100;

/// Stored spans of a round: half a minute of an outage at ten times the live rate.
const STORED: u64 = 600_000;

/// Live batches of a round without files.
const CALM: u64 = 250;

const ROUNDS: usize = 5;

const USAGE: &str = "usage: drain <rate|latency> <spans a record>";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("drain: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<String, Failure> {
    let [value, record] = arguments else { return Err(USAGE.into()) };
    let (mut calm, mut drains) = (Vec::new(), Vec::new());
    let scratch = tempfile::tempdir()?;
    let files = scratch.path().join("files");
    let written = stored::write_records(&files, STORED, record.parse()?, Compression::Zstd)?;
    eprintln!("{} spans in {} files, {:.1} MB", written.spans, written.files, written.disk as f64 / 1e6);
    for round in 0..ROUNDS {
        let state = scratch.path().join(format!("calm-{round}"));
        calm.push(Round::run(&state, 0)?);
        let state = scratch.path().join(format!("drain-{round}"));
        let dir = stored::of_ended_process(&state, "fallback");
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&files)? {
            let entry = entry?;
            fs::copy(entry.path(), dir.join(entry.file_name()))?;
        }
        drains.push(Round::run(&state, written.spans)?);
        fs::remove_dir_all(&state)?;
    }
    for (name, rounds) in [("without files", &calm), ("with files", &drains)] {
        for round in rounds {
            eprintln!("{name}: {round}");
        }
    }
    let [peer, ours] = match *value {
        "rate" => [LIVE_RATE as f64, median(drains.iter().map(|round| round.rate))],
        "latency" => [&calm, &drains].map(|rounds| median(rounds.iter().map(|round| round.millis(99)))),
        _ => return Err(USAGE.into()),
    };
    Ok(format!(r#"{{"peer": {peer:.3}, "ours": {ours:.3}}}"#))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values = values.collect::<Vec<_>>();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One process's life with live batches, and with stored spans or without.
struct Round {
    /// Stored spans a second, from the start of the exporter to the end of the files.
    rate: f64,
    /// The times from the offer of a live batch to its acknowledgement, sorted.
    waits: Vec<Duration>,
}

impl Round {
    fn run(state: &Path, spans: u64) -> Result<Self, Failure> {
        let program = std::env::current_exe()?.with_file_name("trials");
        // Without a set of ids the collector counts and does nothing else.
        let mut collector = ChildCollector::start(&program, ["collector", "--id-limit", "0"])?;
        let config = contender::config(Protocol::Grpc, &collector.grpc_endpoint()).build()?;
        let clocked = Clocked { transport: Box::new(otlp_transport::connect(config)?), books: Arc::default() };
        let books = Arc::clone(&clocked.books);
        let builder = ResilientSpanExporter::builder().with_primary(Arc::new(clocked)).with_state_dir(state);
        let started = now();
        let pipeline = builder.build_pipeline(Signal::Traces)?;
        let handle = pipeline.handle();
        let offered = offer(&pipeline, &handle, &books, spans)?;
        let took = started.elapsed();
        wait_until("the live batches", PATIENCE, || handle.ledger().buffered + handle.ledger().in_flight == 0)?;
        let ledger = handle.ledger();
        if (ledger.recovered, ledger.delivered, ledger.imbalance()) != (spans, spans + offered, 0) {
            return Err(format!("{spans} spans were stored and {offered} offered: {ledger:?}").into());
        }
        let received = collector.received()?;
        if received.spans != spans + offered {
            return Err(format!("{spans} spans were stored and {offered} offered: {received:?}").into());
        }
        let mut waits = std::mem::take(&mut books.lock().expect("no panic under it").waits);
        waits.sort_unstable();
        Ok(Self { rate: spans as f64 / took.as_secs_f64(), waits })
    }

    /// A percentile of the waits.
    fn millis(&self, percent: usize) -> f64 {
        let index = (self.waits.len() * percent).div_ceil(100).saturating_sub(1);
        self.waits.get(index).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1e3)
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [half, most, worst] = [50, 99, 100].map(|percent| self.millis(percent));
        let Self { rate, waits } = self;
        let live = waits.len();
        write!(f, "{rate:>7.0} stored spans/s; {live} live batches: p50 {half:.2} ms, p99 {most:.2}, worst {worst:.2}")
    }
}

/// Offers live batches at their rate until no stored span is left; without stored ones, a fixed number. Returns the
/// number of their spans.
fn offer(pipeline: &Pipeline, handle: &Handle, books: &Mutex<Books>, stored: u64) -> Result<u64, Failure> {
    let template = stored::payload(&app::finished_spans(LIVE_BATCH as usize));
    let (started, mut batches) = (now(), 0);
    loop {
        let ledger = handle.ledger();
        let is_over = if stored == 0 { batches == CALM } else { ledger.recovered == stored && ledger.in_fallback == 0 };
        if is_over {
            return Ok(batches * LIVE_BATCH);
        }
        if started.elapsed() > PATIENCE {
            return Err(format!("the files are not drained: {ledger:?}").into());
        }
        let due = started + Duration::from_micros(batches * 1_000_000 * LIVE_BATCH / LIVE_RATE);
        thread::park_timeout(due.saturating_duration_since(now()));
        if now() >= due {
            // Bytes of its own: by their address the transport knows the batch again.
            let request = Bytes::copy_from_slice(template.bytes());
            books
                .lock()
                .expect("no panic under it")
                .offered
                .insert(request.as_ptr() as usize, (now(), request.clone()));
            pipeline.offer(request)?;
            batches += 1;
        }
    }
}

/// The live batches that have no acknowledgement yet, by the address of their bytes, and the waits of the others.
#[derive(Default)]
struct Books {
    /// The bytes stay here, so that no other request has their address.
    offered: HashMap<usize, (Instant, Bytes)>,
    waits: Vec<Duration>,
}

/// A transport that notes the acknowledgements of live batches.
struct Clocked {
    transport: Box<dyn Transport>,
    books: Arc<Mutex<Books>>,
}

#[async_trait]
impl Transport for Clocked {
    async fn send(&self, payload: &Payload) -> Outcome {
        let outcome = self.transport.send(payload).await;
        if matches!(outcome, Outcome::Delivered { .. }) {
            let mut books = self.books.lock().expect("no panic under it");
            if let Some((offered, _)) = books.offered.remove(&(payload.bytes().as_ptr() as usize)) {
                books.waits.push(offered.elapsed());
            }
        }
        outcome
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}
