//! The application of the soak: several threads that make spans through our processor for as long as it runs, and one
//! that carries out the commands on standard input, each answered with a line of JSON.

use std::fs::File;
use std::io::{self, BufRead as _, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use opentelemetry_sdk::trace::SdkTracerProvider;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use resilient_exporter::{Builder, Handle, ResilientSpanProcessor};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::chaos::life::TIMEOUT;
use crate::contender::{self, Protocol};
use crate::{Failure, SpanIds, now};

/// The settings of one life, handed over as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Life {
    pub(super) endpoint: String,
    pub(super) is_http: bool,
    pub(super) state: PathBuf,
    /// Each producer writes the ids of its spans to a file of its own: `<ids>-<producer>`.
    pub(super) ids: PathBuf,
    pub(super) durable: bool,
    pub(super) producers: u32,
    /// Spans a second, of all producers together, on average.
    pub(super) rate: u32,
    pub(super) delay_ms: u64,
    pub(super) seed: u64,
}

impl Life {
    /// The files of all producers.
    pub(super) fn id_files(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.producers).map(|producer| self.id_file(producer))
    }

    fn id_file(&self, producer: u32) -> PathBuf {
        let mut name = self.ids.clone().into_os_string();
        name.push(format!("-{producer}"));
        name.into()
    }
}

/// A line on standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Command {
    /// The numbers alone.
    Tell,
    /// `Handle::flush`.
    Flush { ms: u64 },
    /// `Handle::checkpoint`.
    Checkpoint { ms: u64 },
    /// `SdkTracerProvider::force_flush`.
    ForceFlush,
    /// `Handle::redrive_all`, once the producers have made their last spans.
    Redrive,
    /// The producers end.
    Rest,
    /// The producers and the provider end, then the process.
    End,
}

/// A line on standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    /// The error of the command.
    pub(super) error: Option<String>,
    pub(super) took_ms: u64,
    /// Spans that have ended so far.
    pub(super) made: u64,
    pub(super) offered: u64,
    /// Spans that wait by the ledger: staged, in memory, in flight, in journal and in files.
    pub(super) waiting: u64,
    pub(super) dead_letters: u64,
    pub(super) rejected: u64,
    /// Dropped and refused, by reason.
    pub(super) lost: Vec<(String, u64)>,
    pub(super) imbalance: i64,
    pub(super) possible_duplicates: u64,
    /// Spans and bytes in memory are within their limits.
    pub(super) within_limits: bool,
}

/// `force_flush` of the provider, at most.
pub(super) const FORCE_FLUSH: Duration = Duration::from_secs(4);

/// The shutdown of the provider, at most.
pub(super) const SHUTDOWN: Duration = Duration::from_secs(5);

const BUFFER_SPANS: usize = 6_000;

/// Producers pause above this, so that no stall of the disk costs a span.
const BUFFER_FILLED: u64 = 4_800;

/// Spans of a burst, at most.
const BURST: u32 = 64;

/// A producer that has nothing to do looks again after this.
const PAUSE: Duration = Duration::from_millis(20);

/// Lives until it is told to end, or its standard input ends.
///
/// # Errors
///
/// When the processor cannot be built, or a pipe or a file breaks.
pub(super) fn live(settings: &str) -> Result<(), Failure> {
    let life: Life = serde_json::from_str(settings)?;
    let (provider, handle) = contender::ours_by_processor(builder(&life)?)?;
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut producers = (0..life.producers)
        .map(|number| Producer::start(&life, number, &provider, &handle, &stop, &made))
        .collect::<Result<Vec<_>, Failure>>()?;
    for line in io::stdin().lock().lines() {
        let command: Command = serde_json::from_str(&line?)?;
        if matches!(command, Command::Rest | Command::End) {
            stop.store(true, Ordering::Relaxed);
            for producer in producers.drain(..) {
                producer.join().map_err(|_| "a producer panicked")??;
            }
        }
        let started = now();
        let error = carry_out(command, &provider, &handle).err().map(|error| error.to_string());
        let reply = reply(&handle, error, started.elapsed(), made.load(Ordering::Relaxed));
        writeln!(io::stdout(), "{}", serde_json::to_string(&reply)?)?;
        if command == Command::End {
            return Ok(());
        }
    }
    Err("nobody told the application to end".into())
}

fn builder(life: &Life) -> Result<Builder, Failure> {
    let protocol = if life.is_http { Protocol::Http } else { Protocol::Grpc };
    let config = contender::config(protocol, &life.endpoint).with_timeout(TIMEOUT).build()?;
    let builder = ResilientSpanProcessor::builder().with_primary(otlp_transport::connect(config)?);
    Ok(builder
        .with_state_dir(&life.state)
        .with_retry_initial_delay(Duration::from_millis(20))
        .with_retry_max_delay(Duration::from_millis(400))
        .with_circuit_breaker_timeout(Duration::from_millis(400))
        .buffer(|buffer| {
            buffer.max_spans = BUFFER_SPANS;
            buffer.max_age = Duration::from_secs(3);
        })
        .processor(|batches| {
            batches.scheduled_delay = Duration::from_millis(life.delay_ms);
            batches.export_timeout = FORCE_FLUSH;
        })
        .shutdown(|shutdown| shutdown.timeout = SHUTDOWN)
        .with_journal_enabled(life.durable))
}

fn carry_out(command: Command, provider: &SdkTracerProvider, handle: &Handle) -> Result<(), Failure> {
    match command {
        Command::Tell | Command::Rest => {}
        Command::Flush { ms } => handle.flush(Duration::from_millis(ms))?,
        Command::Checkpoint { ms } => handle.checkpoint(Duration::from_millis(ms))?,
        Command::ForceFlush => provider.force_flush()?,
        Command::Redrive => {
            if let Some((id, error)) = handle.redrive_all().failed.first() {
                return Err(format!("dead letter {id}: {error}").into());
            }
        }
        Command::End => provider.shutdown_with_timeout(SHUTDOWN)?,
    }
    Ok(())
}

fn reply(handle: &Handle, error: Option<String>, took: Duration, made: u64) -> Reply {
    let health = handle.health();
    let (ledger, memory) = (&health.ledger, &health.memory);
    let lost = ledger.dropped.iter().chain(&ledger.refused);
    Reply {
        error,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        made,
        offered: ledger.offered,
        waiting: ledger.staged + ledger.buffered + ledger.in_flight + ledger.in_journal + ledger.in_fallback,
        dead_letters: health.storage.dead_letters.map_or(0, |letters| letters.spans),
        rejected: ledger.rejected,
        lost: lost.map(|(reason, spans)| ((*reason).to_owned(), *spans)).collect(),
        imbalance: ledger.imbalance(),
        possible_duplicates: health.possible_duplicates,
        within_limits: memory.spans <= memory.max_spans && memory.bytes <= memory.max_bytes,
    }
}

struct Producer {
    app: App,
    ids: BufWriter<File>,
    made: Arc<AtomicU64>,
    chance: SmallRng,
}

impl Producer {
    fn start(
        life: &Life,
        number: u32,
        provider: &SdkTracerProvider,
        handle: &Handle,
        stop: &Arc<AtomicBool>,
        made: &Arc<AtomicU64>,
    ) -> Result<JoinHandle<Result<(), Failure>>, Failure> {
        let mut producer = Self {
            app: App::new(provider),
            ids: BufWriter::new(File::create(life.id_file(number))?),
            made: Arc::clone(made),
            chance: SmallRng::seed_from_u64(life.seed ^ u64::from(number)),
        };
        let (handle, stop) = (handle.clone(), Arc::clone(stop));
        let rate = f64::from(life.rate) / f64::from(life.producers);
        Ok(thread::Builder::new()
            .name(format!("producer-{number}"))
            .spawn(move || producer.run(rate, &handle, &stop))?)
    }

    fn run(&mut self, rate: f64, handle: &Handle, stop: &AtomicBool) -> Result<(), Failure> {
        while !stop.load(Ordering::Relaxed) {
            let ledger = handle.ledger();
            if ledger.staged + ledger.buffered + ledger.in_flight > BUFFER_FILLED {
                thread::park_timeout(PAUSE);
                continue;
            }
            let burst = self.chance.random_range(1..=BURST);
            for _ in 0..burst {
                self.request()?;
            }
            // Between none and twice the time that the burst may take.
            let pause = 2.0 * self.chance.random::<f64>() * f64::from(burst) / rate;
            thread::park_timeout(Duration::from_secs_f64(pause));
        }
        Ok(self.ids.flush()?)
    }

    /// One span, now and then two or a large one.
    fn request(&mut self) -> io::Result<()> {
        match self.chance.random_range(0..2_000) {
            0 => {
                let ids = self.app.serve_large(60_000);
                self.note(ids)
            }
            1..100 => self.app.serve_nested().into_iter().try_for_each(|ids| self.note(ids)),
            _ => {
                let ids = self.app.serve();
                self.note(ids)
            }
        }
    }

    fn note(&mut self, (trace, span): SpanIds) -> io::Result<()> {
        self.made.fetch_add(1, Ordering::Relaxed);
        self.ids.write_all(&trace)?;
        self.ids.write_all(&span)
    }
}

/// Reads the ids of a file, as the collector's record is read.
///
/// # Errors
///
/// When the file cannot be read.
pub(super) fn read_ids(path: &Path) -> Result<Vec<SpanIds>, Failure> {
    Ok(mock_collector::read_record(path)?)
}
