//! A disk whose sync is slow: an application in durable mode at a steady pace, without its collector, under `strace`,
//! which makes each `fsync` and `fdatasync` of it take that much longer. The files are in memory where the system has
//! `/dev/shm`, so that the delay is the only cost of a sync.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter};
use resilient_exporter::{Ledger, ResilientSpanExporter};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::collector::{Collector, Fault};
use crate::contender::{self, Protocol, Settings, resource};
use crate::{Failure, now};

/// Spans a second.
const RATE: u32 = 3_000;

/// Spans are made in bursts this far apart.
const TICK: Duration = Duration::from_millis(5);

/// The longest wait for the last delivery, once the collector is there.
const PATIENCE: Duration = Duration::from_secs(120);

/// The delays of the table, in milliseconds, each with the least part of the spans that must be durable in time. No
/// span may be dropped with any of them.
pub const DELAYS: [(u64, f64); 5] = [(0, 0.95), (20, 0.95), (60, 0.95), (150, 0.0), (300, 0.0)];

/// The settings of the application, handed over as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Load {
    endpoint: String,
    state: PathBuf,
    seconds: u32,
}

/// The numbers of the application, one line of JSON at the end of each phase.
#[derive(Debug, Serialize, Deserialize)]
struct Numbers {
    made: u64,
    not_durable: u64,
    offered: u64,
    waiting: u64,
    imbalance: i64,
    /// Spans that are lost by the exporter's ledger, with the reason.
    lost: Vec<(String, u64)>,
    /// The times that `export` took, sorted, in microseconds.
    exports: Vec<u64>,
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    delay: u64,
    numbers: Numbers,
    missing: u64,
    least: f64,
}

/// The head of the table.
pub const HEAD: &str = "  sync   accepted   durable in time   export p50       p99   dropped, by reason";

impl Row {
    /// Spans that the exporter accepted, less those of them that were not durable when `export` returned.
    fn durable(&self) -> f64 {
        let Numbers { offered, not_durable, .. } = self.numbers;
        1.0 - not_durable as f64 / offered.max(1) as f64
    }

    /// Spans that were lost anywhere before the collector.
    fn dropped(&self) -> Vec<(String, u64)> {
        let mut dropped = self.numbers.lost.clone();
        let of_sdk = self.numbers.made - self.numbers.offered;
        if of_sdk > 0 {
            dropped.push(("by the batch processor".to_owned(), of_sdk));
        }
        dropped
    }

    /// Checks the row.
    ///
    /// # Errors
    ///
    /// A sentence for each thing that is not as it must be.
    pub fn verdict(&self) -> Result<(), String> {
        let Self { delay, numbers, missing, least, .. } = self;
        let mut wrong = Vec::new();
        if !self.dropped().is_empty() {
            wrong.push(format!("spans were dropped: {:?}", self.dropped()));
        }
        if *missing > 0 {
            wrong.push(format!("{missing} spans never arrived"));
        }
        if self.durable() < *least {
            wrong.push(format!(
                "{:.1} % of the spans were durable in time, at least {:.0} % must be",
                100.0 * self.durable(),
                100.0 * least
            ));
        }
        for (count, what) in
            [(numbers.imbalance.unsigned_abs(), "are unaccounted for"), (numbers.waiting, "still wait")]
        {
            if count > 0 {
                wrong.push(format!("{count} spans {what}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("{delay} ms per sync: {}", wrong.join("; "))) }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delay, numbers, .. } = self;
        let percentile = |part: usize| {
            let last = numbers.exports.len().saturating_sub(1);
            numbers.exports.get(last * part / 100).map_or(0.0, |micros| *micros as f64 / 1_000.0)
        };
        let dropped = self.dropped().iter().map(|(reason, spans)| format!("{spans} {reason}")).collect::<Vec<_>>();
        let dropped = if dropped.is_empty() { "0".to_owned() } else { dropped.join(", ") };
        let (p50, p99) = (percentile(50), percentile(99));
        write!(
            f,
            "{delay:>3} ms {:>10} {:>15.1} % {p50:>9.1} ms {p99:>6.1} ms   {dropped}",
            numbers.offered,
            100.0 * self.durable()
        )
    }
}

/// Plays one line of the table. `program` is this package's program.
///
/// # Errors
///
/// When the trial itself breaks: no process, no port, no folder, no `strace`.
pub fn run(program: &Path, delay: u64, least: f64, seconds: u32) -> Result<Row, Failure> {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
    let mut collector = Collector::start(program, folder.path().join("record"))?;
    let load = Load { endpoint: collector.grpc_endpoint(), state: folder.path().join("state"), seconds };
    collector.strike(Fault::Refused)?;
    let mut app = Traced::start(program, &load, delay)?;
    let during = app.numbers()?;
    collector.heal(Fault::Refused)?;
    app.go_on()?;
    let after = app.numbers()?;
    app.end()?;
    let received: HashSet<_> = collector.received()?.into_iter().collect();
    let missing = after.made.saturating_sub(received.len() as u64);
    // The times are those of the load; what became of the spans is known at the end.
    let numbers = Numbers { exports: during.exports, ..after };
    Ok(Row { delay, numbers, missing, least })
}

/// The application under `strace`; ended when this is dropped.
struct Traced {
    child: Child,
    lines: io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Traced {
    fn start(program: &Path, load: &Load, delay: u64) -> Result<Self, Failure> {
        let mut command = Command::new("strace");
        // Only the two calls stop at the tracer; its delay holds up no other thread.
        command.args(["--follow-forks", "--seccomp-bpf", "-qq", "--trace=fsync,fdatasync", "--output=/dev/null"]);
        if delay > 0 {
            command.arg(format!("--inject=fsync,fdatasync:delay_exit={}", delay * 1_000));
        }
        command.arg("--").arg(program).arg("slow-disk-load").arg(serde_json::to_string(load)?);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("strace does not start ({error}): apt-get install strace"))?;
        let output = child.stdout.take().ok_or("the application has no output")?;
        Ok(Self { child, lines: BufReader::new(output).lines() })
    }

    /// The next line of the application; it is blocked until then.
    fn numbers(&mut self) -> Result<Numbers, Failure> {
        let line = self.lines.next().ok_or("the application has ended: strace needs the right to trace it")??;
        Ok(serde_json::from_str(&line)?)
    }

    fn go_on(&mut self) -> Result<(), Failure> {
        Ok(self.child.stdin.as_mut().ok_or("the application has no input")?.write_all(b"\n")?)
    }

    fn end(&mut self) -> Result<(), Failure> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the application ended with {status}").into()) }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // The application ends with its input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The application: makes spans for a while, prints its numbers, waits for a line, delivers the rest, and prints them
/// again.
///
/// # Errors
///
/// When the exporter cannot be built, or the pipes break.
pub fn load(settings: &str) -> Result<(), Failure> {
    let load: Load = serde_json::from_str(settings)?;
    let builder = contender::builder(Settings::Quick, Protocol::Grpc, &load.endpoint, &load.state)?;
    let mut exporter = builder.with_journal_enabled(true).build()?;
    exporter.set_resource(&resource());
    let handle = exporter.handle();
    let stopwatch = Stopwatch { exporter: Arc::new(exporter), times: Arc::default() };
    let processor = BatchSpanProcessor::builder(stopwatch.clone()).build();
    let provider = SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource()).build();
    let mut app = App::new(&provider);
    let (started, mut made) = (now(), 0);
    let all = u64::from(load.seconds) * u64::from(RATE);
    while made < all {
        let due = (started.elapsed().as_secs_f64() * f64::from(RATE)) as u64;
        for _ in made..due.min(all) {
            app.serve();
        }
        made = due.min(all).max(made);
        std::thread::park_timeout(TICK);
    }
    // An error says that the flush took longer than the SDK waits: the numbers tell the rest.
    let _ = provider.force_flush();
    let tell = |stopwatch: &Stopwatch| -> Result<(), Failure> {
        let (ledger, health) = (handle.ledger(), handle.health());
        let mut exports = stopwatch.times.lock().expect("no thread panics with the lock held").clone();
        exports.sort_unstable();
        let numbers = Numbers {
            made,
            not_durable: health.accepted_not_durable.unwrap_or(0),
            offered: ledger.offered,
            waiting: waiting(&ledger),
            imbalance: ledger.imbalance(),
            lost: ledger.dropped.iter().map(|(reason, spans)| ((*reason).to_owned(), *spans)).collect(),
            exports,
        };
        Ok(writeln!(io::stdout(), "{}", serde_json::to_string(&numbers)?)?)
    };
    tell(&stopwatch)?;
    io::stdin().lock().read_line(&mut String::new())?;
    handle.retry_now();
    // What still waits after that stands in the row.
    let _ = handle.settled(PATIENCE);
    tell(&stopwatch)?;
    let _ = provider.shutdown();
    Ok(())
}

fn waiting(ledger: &Ledger) -> u64 {
    ledger.buffered + ledger.in_flight + ledger.in_fallback
}

/// Our exporter, and the time of each call.
#[derive(Clone, Debug)]
struct Stopwatch {
    exporter: Arc<ResilientSpanExporter>,
    times: Arc<Mutex<Vec<u64>>>,
}

impl SpanExporter for Stopwatch {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let started = now();
        let outcome = futures_executor::block_on(self.exporter.export(batch));
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.times.lock().expect("no thread panics with the lock held").push(micros);
        std::future::ready(outcome)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }
}
