//! The same outages at a rate that the SDK's queue cannot hold: 50,000 spans a second through our span processor, and
//! the stock exporter behind the SDK's batch processor at the same rate. One contender at a time has the machine.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use opentelemetry_sdk::trace::SdkTracerProvider;
use resilient_exporter::{Handle, Ledger, MemoryHealth};
use tokio::runtime::Runtime;

use super::{Ours, Row, bytes_below};
use crate::app::App;
use crate::collector::{Collector, Fault};
use crate::contender::{self, Protocol, Settings};
use crate::{Failure, SpanIds, now, wait_until};

/// Threads of the application that end spans.
const PRODUCERS: usize = 2;

/// The limits of our buffer.
const BUFFER_SPANS: usize = 100_000;
const BUFFER_BYTES: usize = 100 << 20;

/// Each producer makes its spans in bursts this far apart.
const TICK: Duration = Duration::from_millis(2);

/// Memory and ledger are looked at this often.
const LOOK: Duration = Duration::from_millis(20);

/// One outage at a high rate.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The fault that strikes the collector.
    pub fault: Fault,
    /// Spans a second, of all producers together.
    pub rate: u32,
    /// The times before the fault, in it and after it, with spans at the same rate.
    pub times: [Duration; 3],
    /// The longest wait for the last delivery, once the last span has ended.
    pub patience: Duration,
}

impl Plan {
    /// An outage of `seconds` at 50,000 spans a second, 2 s before it and 5 s after it.
    #[must_use]
    pub fn new(fault: Fault, seconds: u32) -> Self {
        let times = [2, seconds, 5].map(|seconds| Duration::from_secs(u64::from(seconds)));
        Self { fault, rate: 50_000, times, patience: Duration::from_secs(120) }
    }
}

/// The outcome of one contender.
#[derive(Clone, Debug)]
pub struct FastRow {
    /// The spans by id, and the numbers of the exporter.
    pub row: Row,
    /// Spans a second that the application made.
    pub rate: f64,
    /// The rate that was asked for.
    pub asked: u32,
    /// None for the stock exporter, which tells no such number.
    pub watched: Option<Watched>,
}

/// The numbers of all looks at our exporter during its run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    /// Looks.
    pub looks: u64,
    /// The most spans and bytes that its health reported in memory, and their limits.
    pub memory: MemoryHealth,
    /// The largest imbalance of its ledger.
    pub imbalance: u64,
}

/// The head of the second table, one line for each of ours.
pub const HEAD: &str = "outage        exporter          rate    spans in memory      bytes in memory   on disk";

impl FastRow {
    /// The share of the asked rate without which a run proves nothing.
    const RATE: f64 = 0.95;

    /// Checks the row as [`Row::verdict`] does, and our memory, ledger and rate.
    ///
    /// # Errors
    ///
    /// A sentence for each thing that is not as it must be.
    pub fn verdict(&self, stock_loss: f64) -> Result<(), String> {
        let mut wrong = Vec::new();
        wrong.extend(self.row.verdict(stock_loss).err());
        if self.rate < Self::RATE * f64::from(self.asked) {
            wrong.push(format!("only {:.0} of {} spans/s were made: the machine is too busy", self.rate, self.asked));
        }
        wrong.extend(self.memory_verdict().err());
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// Checks our memory and ledger, as they were at each look.
    ///
    /// # Errors
    ///
    /// A sentence for each thing that is not as it must be.
    pub fn memory_verdict(&self) -> Result<(), String> {
        let Some(Watched { looks, memory, imbalance }) = self.watched else { return Ok(()) };
        let mut wrong = Vec::new();
        if looks == 0 || memory.spans == 0 {
            wrong.push("the memory was never looked at".to_owned());
        }
        if memory.spans > memory.max_spans || memory.bytes > memory.max_bytes {
            wrong.push(format!("its memory was beyond its limits: {memory:?}"));
        }
        if imbalance > 0 {
            wrong.push(format!("at one look {imbalance} spans were unaccounted for"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// The line of ours in the second table.
    #[must_use]
    pub fn memory(&self) -> Option<String> {
        const MIB: f64 = 1_048_576.0;
        let (watched, ours) = (self.watched?, self.row.ours.as_ref()?);
        let MemoryHealth { spans, max_spans, bytes, max_bytes, .. } = watched.memory;
        Some(format!(
            "{:<13} {:<10} {:>7.0}/s {spans:>8} of {max_spans:>7} {:>6.1} of {:>5.1} MiB {:>5.1} MiB",
            self.row.fault.name(),
            self.row.exporter,
            self.rate,
            bytes as f64 / MIB,
            max_bytes as f64 / MIB,
            ours.on_disk as f64 / MIB,
        ))
    }
}

impl fmt::Display for FastRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.row.fmt(f)
    }
}

/// Plays the outage with the stock exporter and then with ours, both by gRPC. `program` is this package's program,
/// which also serves as the collector.
///
/// # Errors
///
/// When the trial itself breaks: no process, no port, no folder. Loss is no error here: it stands in the rows.
pub fn run(plan: &Plan, program: &Path) -> Result<Vec<FastRow>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let folder = tempfile::tempdir()?;
    Ok(vec![
        Contender::stock(&runtime, program, folder.path())?.play(plan)?,
        Contender::ours(program, folder.path())?.play(plan)?,
    ])
}

struct Contender {
    name: &'static str,
    provider: SdkTracerProvider,
    handle: Option<Handle>,
    collector: Collector,
    state: PathBuf,
    watched: Watched,
    caught_up: Option<Duration>,
}

/// The flags that the main thread sets for the producers.
#[derive(Default)]
struct Signals {
    stop: AtomicBool,
    in_fault: AtomicBool,
}

impl Contender {
    fn stock(runtime: &Runtime, program: &Path, folder: &Path) -> Result<Self, Failure> {
        let collector = Collector::start(program, folder.join("stock"))?;
        let provider = contender::stock(runtime, Protocol::Grpc, &collector.grpc_endpoint())?;
        Ok(Self::new("stock gRPC", provider, None, collector, PathBuf::new()))
    }

    fn ours(program: &Path, folder: &Path) -> Result<Self, Failure> {
        let collector = Collector::start(program, folder.join("ours"))?;
        let state = folder.join("state");
        let builder = contender::builder(Settings::Default, Protocol::Grpc, &collector.grpc_endpoint(), &state)?;
        let builder = builder.buffer(|buffer| {
            buffer.max_spans = BUFFER_SPANS;
            buffer.max_bytes = BUFFER_BYTES;
        });
        let (provider, handle) = contender::ours_by_processor(builder)?;
        Ok(Self::new("ours gRPC", provider, Some(handle), collector, state))
    }

    fn new(
        name: &'static str,
        provider: SdkTracerProvider,
        handle: Option<Handle>,
        collector: Collector,
        state: PathBuf,
    ) -> Self {
        let watched = Watched::default();
        Self { name, provider, handle, collector, state, watched, caught_up: None }
    }

    fn play(mut self, plan: &Plan) -> Result<FastRow, Failure> {
        let signals = Arc::new(Signals::default());
        let [before, during, after] = plan.times;
        let most = (plan.rate as f64 * (before + during + after).as_secs_f64() * 1.1) as usize;
        let started = now();
        let producers =
            (0..PRODUCERS).map(|_| self.producer(plan, most / PRODUCERS, &signals)).collect::<Vec<JoinHandle<_>>>();
        self.watch_until(started + before, None);
        self.collector.strike(plan.fault)?;
        signals.in_fault.store(true, Ordering::Relaxed);
        self.watch_until(now() + during, None);
        signals.in_fault.store(false, Ordering::Relaxed);
        let failed_exports = self.handle.as_ref().map_or(0, |handle| handle.health().metrics.failed_exports);
        let on_disk = bytes_below(&self.state)?;
        self.collector.heal(plan.fault)?;
        let healed = now();
        let few = u64::from(plan.rate) / 10;
        self.watch_until(healed + after, Some((healed, few)));
        signals.stop.store(true, Ordering::Relaxed);
        let (mut made, mut made_in_fault) = (Vec::new(), 0);
        for producer in producers {
            let (ids, in_fault) = producer.join().map_err(|_| "a producer panicked")?;
            made.extend(ids);
            made_in_fault += in_fault;
        }
        let rate = made.len() as f64 / started.elapsed().as_secs_f64();
        if let Some(handle) = self.handle.clone() {
            // The ids decide; what still waits after that stands in the row.
            let _ = wait_until("every span is delivered", plan.patience, || {
                self.look(Some((healed, few)));
                waiting(&handle.ledger()) == 0
            });
        }
        // An error says that not all could be sent: the comparison by ids shows that too.
        let _ = self.provider.shutdown();
        let caught_up = self.caught_up.unwrap_or(plan.patience);
        let ours = self.handle.as_ref().map(|handle| {
            let (ledger, spills) = (handle.ledger(), handle.health().metrics.fallback_usage);
            let dropped_by_sdk = (made.len() as u64).abs_diff(ledger.offered);
            Ours { dropped_by_sdk, ledger, failed_exports, spills, caught_up, on_disk, memory: 0 }
        });
        let made_count = made.len() as u64;
        let made: HashSet<SpanIds> = made.into_iter().collect();
        let received = self.collector.received()?;
        let received_count = received.len();
        let unique: HashSet<SpanIds> = received.into_iter().collect();
        let row = Row {
            fault: plan.fault,
            exporter: self.name.to_owned(),
            made: made_count,
            made_in_fault,
            missing: made.difference(&unique).count() as u64,
            unknown: unique.difference(&made).count() as u64,
            duplicates: (received_count - unique.len()) as u64,
            ours,
        };
        let watched = self.handle.is_some().then_some(self.watched);
        Ok(FastRow { row, rate, asked: plan.rate, watched })
    }

    /// A thread that makes its share of the spans by the clock. Returns their ids and how many it made in the fault.
    fn producer(&self, plan: &Plan, most: usize, signals: &Arc<Signals>) -> JoinHandle<(Vec<SpanIds>, u64)> {
        let mut app = App::new(&self.provider);
        let (signals, rate) = (Arc::clone(signals), f64::from(plan.rate) / PRODUCERS as f64);
        thread::spawn(move || {
            // Reserved at the start: no copy while it grows.
            let (mut ids, mut in_fault) = (Vec::with_capacity(most), 0);
            // A producer that was late catches up at twice the rate.
            let burst = (2.0 * rate * TICK.as_secs_f64()) as u64;
            let started = now();
            while !signals.stop.load(Ordering::Relaxed) {
                let due = (started.elapsed().as_secs_f64() * rate) as u64;
                let more = due.saturating_sub(ids.len() as u64).min(burst);
                ids.extend((0..more).map(|_| app.serve()));
                if signals.in_fault.load(Ordering::Relaxed) {
                    in_fault += more;
                }
                thread::park_timeout(TICK);
            }
            (ids, in_fault)
        })
    }

    fn watch_until(&mut self, until: Instant, healed: Option<(Instant, u64)>) {
        while now() < until {
            self.look(healed);
            thread::park_timeout(LOOK);
        }
    }

    /// Looks at memory and ledger of ours; after the outage, whether no more than a few spans wait.
    fn look(&mut self, healed: Option<(Instant, u64)>) {
        let Some(handle) = &self.handle else { return };
        let health = handle.health();
        let Watched { looks, memory, imbalance } = &mut self.watched;
        *looks += 1;
        *imbalance = (*imbalance).max(health.ledger.imbalance().unsigned_abs());
        let most = (memory.spans.max(health.memory.spans), memory.bytes.max(health.memory.bytes));
        *memory = health.memory;
        (memory.spans, memory.bytes) = most;
        if let (None, Some((healed, few))) = (self.caught_up, healed) {
            self.caught_up = (waiting(&health.ledger) <= few).then(|| healed.elapsed());
        }
    }
}

fn waiting(ledger: &Ledger) -> u64 {
    ledger.staged + ledger.buffered + ledger.in_flight + ledger.in_fallback
}
