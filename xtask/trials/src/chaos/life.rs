//! One life of the application: a process that makes spans, hands them to our exporter and notes both outside, until
//! the storm kills it or asks it to end.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter};
use resilient_exporter::{Builder, Compression, FallbackFormat, Handle, Ledger, ResilientSpanExporter, SyncPolicy};
use serde::{Deserialize, Serialize};

use super::ledger::{Answer, Writer};
use crate::app::App;
use crate::contender::resource;
use crate::{Failure, now};

/// Everything that differs from life to life; handed over as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Life {
    /// Where its three files are: `<base>.ledger`, `<base>.status`, `<base>.err`.
    pub(super) base: PathBuf,
    pub(super) state: PathBuf,
    pub(super) endpoint: String,
    pub(super) protocol: Protocol,
    pub(super) journal: Journal,
    /// Fallback files of protobuf instead of JSON.
    pub(super) protobuf: bool,
    pub(super) compression: Compress,
    pub(super) compress_above: usize,
    pub(super) buffer_spans: usize,
    /// Spans of one `export`, at most.
    pub(super) batch: usize,
    pub(super) producers: u32,
    /// Of all producers together.
    pub(super) spans_per_second: u32,
    /// Every so many spans one carries 60 kB; 0 for none.
    pub(super) large_every: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Journal {
    Off,
    Batch,
    Interval,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Compress {
    Zstd,
    Gzip,
    Never,
}

/// A line of the status file: the state that the exporter reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Status {
    /// From the start of `main` until the exporter was ready to accept, in milliseconds.
    pub(super) ready_ms: u64,
    /// The ledger's imbalance; 0 when the ledger is right.
    pub(super) imbalance: i64,
    /// Spans found at start.
    pub(super) recovered: u64,
    /// Spans that wait: in memory, on the way, in files.
    pub(super) waiting: u64,
    /// Spans that the exporter dropped.
    pub(super) dropped: u64,
    /// The ledger as JSON, for messages.
    pub(super) ledger_json: String,
}

impl Life {
    pub(super) fn file(&self, kind: &str) -> PathBuf {
        self.base.with_extension(kind)
    }
}

/// The client's patience with one request.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(1_000);

/// Longer than by default, so that a machine which has other things to do does not make the promise smaller.
const SYNC_TIMEOUT: Duration = Duration::from_secs(2);

/// Spans of a burst of one producer.
const BURST: u64 = 64;

/// Between two lines of the status.
const TELL_EVERY: Duration = Duration::from_millis(20);

/// Lives until standard input ends, or the process is killed. `started` is when `main` began.
///
/// # Errors
///
/// When the exporter cannot be built or a file of the outside cannot be written.
pub(super) fn live(life: &Life, started: Instant) -> Result<(), Failure> {
    let mut status = StatusFile::create(&life.file("status"))?;
    let ledger = Writer::create(&life.file("ledger"))?;
    let mut exporter = builder(life)?.build()?;
    exporter.set_resource(&resource());
    let handle = exporter.handle();
    status.ready_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    status.tell(&handle)?;
    let witness = Witness {
        exporter: Arc::new(exporter),
        handle: handle.clone(),
        ledger: Arc::new(ledger),
        batches: Arc::default(),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let producers = (0..life.producers).map(|_| Producer::start(life, &witness, &stop)).collect::<Vec<_>>();
    let watcher = watch_input(&stop, thread::current());
    while !stop.load(Ordering::Acquire) {
        thread::park_timeout(TELL_EVERY);
        status.tell(&handle)?;
    }
    for producer in producers {
        producer.join().map_err(|_| "a producer panicked")?;
    }
    // An error reports that spans were neither sent nor stored in a file: the ids decide, and the status file has the
    // ledger.
    let _ = witness.exporter.shutdown_with_timeout(Duration::from_secs(3));
    status.tell(&handle)?;
    watcher.join().map_err(|_| "the watcher of standard input panicked")?;
    Ok(())
}

fn builder(life: &Life) -> Result<Builder, Failure> {
    let config = otlp_transport::Config::builder()
        .with_endpoint(&life.endpoint)
        .with_protocol(match life.protocol {
            Protocol::Grpc => otlp_transport::Protocol::Grpc,
            Protocol::Http => otlp_transport::Protocol::HttpProtobuf,
        })
        .with_timeout(TIMEOUT)
        .build()?;
    let builder = ResilientSpanExporter::builder()
        .with_primary(otlp_transport::connect(config)?)
        .with_state_dir(&life.state)
        .with_buffer_size(life.buffer_spans)
        .with_buffer_max_age(Duration::from_millis(700))
        .with_retry_initial_delay(Duration::from_millis(20))
        .with_retry_max_delay(Duration::from_millis(200))
        .with_circuit_breaker_timeout(Duration::from_millis(250))
        .with_fallback_format(if life.protobuf { FallbackFormat::Protobuf } else { FallbackFormat::Json })
        .with_fallback_compress_above(life.compress_above)
        .with_fallback_compression(match life.compression {
            Compress::Zstd => Compression::Zstd,
            Compress::Gzip => Compression::Gzip,
            Compress::Never => Compression::Never,
        });
    let sync = match life.journal {
        Journal::Off => return Ok(builder),
        Journal::Batch => SyncPolicy::Batch,
        Journal::Interval => SyncPolicy::Interval(Duration::from_millis(50)),
        Journal::Never => SyncPolicy::Never,
    };
    Ok(builder.with_journal_enabled(true).with_journal_sync(sync).with_journal_sync_timeout(SYNC_TIMEOUT))
}

/// Ends the life in an orderly way when the parent closes the pipe, or is gone.
fn watch_input(stop: &Arc<AtomicBool>, main: thread::Thread) -> thread::JoinHandle<()> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        stop.store(true, Ordering::Release);
        main.unpark();
    })
}

/// The exporter behind a note of everything that goes through.
#[derive(Clone, Debug)]
struct Witness {
    exporter: Arc<ResilientSpanExporter>,
    handle: Handle,
    ledger: Arc<Writer>,
    batches: Arc<AtomicU64>,
}

impl Witness {
    fn hand_over(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let batch = self.batches.fetch_add(1, Ordering::Relaxed);
        let ids: Vec<_> = spans
            .iter()
            .map(|span| (span.span_context.trace_id().to_bytes(), span.span_context.span_id().to_bytes()))
            .collect();
        self.ledger.offered(batch, &ids).expect("the outside ledger can be written");
        let volatile = self.volatile();
        let outcome = futures_executor::block_on(self.exporter.export(spans));
        let answer = match outcome {
            Err(_) => Answer::Refused,
            // With several producers this may be of another one's batch: then less is promised than could be.
            Ok(()) if self.volatile() != volatile => Answer::Volatile,
            Ok(()) => Answer::Accepted,
        };
        self.ledger.answered(batch, answer).expect("the outside ledger can be written");
        outcome
    }

    /// Spans that the exporter accepted before they were durable in the journal.
    fn volatile(&self) -> u64 {
        self.handle.health().accepted_not_durable.unwrap_or(0)
    }

    /// Whether memory has space for so many more spans: spans that are being written to disk count too, and with less
    /// space the exporter would have to drop spans, and should.
    fn has_space(&self, more: u64, limit: u64) -> bool {
        let ledger = self.handle.ledger();
        ledger.buffered + ledger.in_flight + more <= limit / 8 * 7
    }
}

impl SpanExporter for Witness {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        std::future::ready(self.hand_over(batch))
    }
}

/// One thread that makes spans at its pace, with a provider and a batch processor of its own.
struct Producer {
    app: App,
    provider: SdkTracerProvider,
    witness: Witness,
}

impl Producer {
    fn start(life: &Life, witness: &Witness, stop: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
        let config = BatchConfigBuilder::default()
            .with_max_export_batch_size(life.batch)
            .with_scheduled_delay(Duration::from_millis(10))
            .build();
        let processor = BatchSpanProcessor::builder(witness.clone()).with_batch_config(config).build();
        let provider = SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource()).build();
        let (life, stop) = (life.clone(), Arc::clone(stop));
        let mut producer = Self { app: App::new(&provider), provider, witness: witness.clone() };
        thread::spawn(move || producer.run(&life, &stop))
    }

    fn run(&mut self, life: &Life, stop: &AtomicBool) {
        let started = now();
        let rate = f64::from(life.spans_per_second) / f64::from(life.producers.max(1));
        let limit = life.buffer_spans as u64;
        // Leaves space for the batches that other threads push at the same time.
        let reserve = u64::from(life.producers) * (BURST + life.batch as u64);
        let mut made = 0;
        while !stop.load(Ordering::Acquire) {
            let due = (started.elapsed().as_secs_f64() * rate) as u64;
            if made < due && self.witness.has_space(reserve, limit) {
                for number in made..due.min(made + BURST) {
                    match life.large_every {
                        0 => self.app.serve(),
                        every if number.is_multiple_of(every) => self.app.serve_large(60_000),
                        _ => self.app.serve(),
                    };
                }
                made = due.min(made + BURST);
                // The processor's queue is empty while the next burst is compared with the free space.
                let _ = self.provider.force_flush();
            } else {
                thread::park_timeout(Duration::from_millis(1));
            }
        }
        let _ = self.provider.shutdown();
    }
}

struct StatusFile {
    file: File,
    ready_ms: u64,
    last: String,
}

impl StatusFile {
    fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create_new(true).append(true).open(path)?;
        Ok(Self { file, ready_ms: 0, last: String::new() })
    }

    /// Appends a line, if it differs from the last one.
    fn tell(&mut self, handle: &Handle) -> Result<(), Failure> {
        let ledger = handle.ledger();
        let status = Status {
            ready_ms: self.ready_ms,
            imbalance: ledger.imbalance(),
            recovered: ledger.recovered,
            waiting: waiting(&ledger),
            dropped: ledger.dropped.values().sum(),
            ledger_json: serde_json::to_string(&ledger)?,
        };
        let line = serde_json::to_string(&status)? + "\n";
        if line != self.last {
            self.file.write_all(line.as_bytes())?;
            self.last = line;
        }
        Ok(())
    }
}

fn waiting(ledger: &Ledger) -> u64 {
    ledger.buffered + ledger.in_flight + ledger.in_fallback
}

/// The lines that a life left; a torn last one is none.
///
/// # Errors
///
/// When the file cannot be read, or a complete line of it is no status.
pub(super) fn read_status(path: &Path) -> Result<Vec<Status>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
