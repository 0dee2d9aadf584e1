//! The time that the application's threads spend in our span processor and in our exporter, while the collector or the
//! disk hangs and while batches go to files. Wall time, with other threads of the application at the same work.

mod hanging;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use opentelemetry::trace::Span as _;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use resilient_exporter::{Builder, Handle, Health, ResilientSpanExporter};

use self::hanging::{HangingFallback, HangingJournal};
use crate::app::{self, App};
use crate::collector::{Collector, Fault};
use crate::contender::{self, Protocol, Settings, resource};
use crate::{Failure, now};

/// Threads that end spans or export batches at the same time.
pub const PRODUCERS: [usize; 3] = [1, 2, 8];

/// Spans a second through the processor, of all producers together.
const SPANS: u32 = 10_000;

/// Batches a second to the exporter alone, of all producers together.
const EXPORTS: u32 = 100;

/// Spans in such a batch.
const BATCH: usize = 512;

/// Each producer works in bursts this far apart.
const TICK: Duration = Duration::from_millis(2);

/// The longest call that is accepted. A call that waited for the collector would take 10 s, the time-out of a request,
/// and one that waited for the disk as long as the measurement; a thread that other programs keep from a core takes
/// some milliseconds.
const WORST: Duration = Duration::from_millis(250);

/// The time that the journal has for a batch of the processor, less than a measurement takes and more than any call may
/// take. The exporter alone has its default of 100 ms, which its calls may take.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest wait for the end of a preparation.
const PATIENCE: Duration = Duration::from_secs(20);

/// The state of collector and disk during a measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Both work.
    Works,
    /// The collector's process is stopped; the buffer has room for all spans.
    CollectorHangs,
    /// The port of the collector refuses, and the buffer is so small that batches go to files all the time.
    Spills,
    /// The port refuses, and the write of the first file does not return: the buffer is full.
    DiskHangs,
    /// Durable mode; the first write to the journal does not return.
    JournalHangs,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Works, Self::CollectorHangs, Self::Spills, Self::DiskHangs, Self::JournalHangs];

    fn name(self) -> &'static str {
        match self {
            Self::Works => "all works",
            Self::CollectorHangs => "collector hangs",
            Self::Spills => "spills",
            Self::DiskHangs => "disk hangs",
            Self::JournalHangs => "disk hangs, durable",
        }
    }

    fn fault(self) -> Option<Fault> {
        match self {
            Self::Works => None,
            Self::CollectorHangs | Self::JournalHangs => Some(Fault::Hung),
            Self::Spills | Self::DiskHangs => Some(Fault::Refused),
        }
    }

    /// Without this sign the measurement was none of the condition.
    fn held(self, health: &Health) -> bool {
        match self {
            Self::Works => health.ledger.delivered > 0,
            Self::CollectorHangs => health.ledger.in_flight > 0 && health.ledger.in_fallback == 0,
            Self::Spills => health.metrics.fallback_usage > 1,
            Self::DiskHangs => health.ledger.dropped.contains_key("disk_slow"),
            Self::JournalHangs => health.accepted_not_durable.is_some_and(|spans| spans > 0),
        }
    }
}

/// The measured call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// `Span::end` with our span processor.
    OnEnd,
    /// `SpanExporter::export` of 512 spans, without a processor.
    Export,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OnEnd => "on_end",
            Self::Export => "export",
        })
    }
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    condition: Condition,
    call: Call,
    producers: usize,
    /// Sorted.
    times: Vec<Duration>,
    imbalance: i64,
    /// Spans that the calls have handed over and that the ledger does not know, or the other way round.
    uncounted: u64,
    held: bool,
}

/// The head of the table.
pub const HEAD: &str = "condition            call    producers     calls        p50        p99      worst";

impl Row {
    fn percentile(&self, part: usize) -> Duration {
        let last = self.times.len().saturating_sub(1);
        self.times.get(last * part / 100).copied().unwrap_or_default()
    }

    /// Checks the row: no call took as long as a wait for collector or disk would take.
    ///
    /// # Errors
    ///
    /// A sentence for each thing that is not as it must be.
    pub fn verdict(&self) -> Result<(), String> {
        let mut wrong = Vec::new();
        let worst = self.percentile(100);
        if self.times.is_empty() || worst > WORST {
            wrong.push(format!("of {} calls the worst took {worst:?}, at most {WORST:?}", self.times.len()));
        }
        if self.imbalance != 0 {
            wrong.push(format!("{} spans are unaccounted for", self.imbalance));
        }
        if self.uncounted > 0 {
            wrong.push(format!("{} spans were not offered", self.uncounted));
        }
        if !self.held {
            wrong.push("the condition did not hold".to_owned());
        }
        let Self { condition, call, producers, .. } = self;
        let of = format!("{}, {call}, {producers} producers", condition.name());
        if wrong.is_empty() { Ok(()) } else { Err(format!("{of}: {}", wrong.join("; "))) }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { condition, call, producers, times, .. } = self;
        write!(f, "{:<20} {call:<7} {producers:>9} {:>9}", condition.name(), times.len())?;
        [50, 99, 100].into_iter().try_for_each(|part| {
            let micros = self.percentile(part).as_secs_f64() * 1e6;
            write!(f, " {micros:>7.1} µs")
        })
    }
}

/// Measures one call under one condition for a while. `program` is this package's program, which also serves as the
/// collector.
///
/// # Errors
///
/// When the trial itself breaks: no process, no port, no folder.
pub fn run(condition: Condition, call: Call, producers: usize, time: Duration, program: &Path) -> Result<Row, Failure> {
    let folder = tempfile::tempdir()?;
    let mut collector = Collector::start(program, folder.path().join("record"))?;
    let disk = Arc::new(Mutex::new(()));
    let builder = builder(condition, call, &collector, &folder.path().join("state"), &disk)?;
    let mut strike = |handle: &Handle| -> Result<MutexGuard<'_, ()>, Failure> {
        handle.flush(PATIENCE)?;
        let held = disk.lock().map_err(|_| "the disk thread panicked")?;
        condition.fault().map_or(Ok(()), |fault| collector.strike(fault))?;
        Ok(held)
    };
    let (mut times, handle, end, held): (_, _, Box<dyn FnOnce()>, _) = match call {
        Call::OnEnd => {
            let (provider, handle) = contender::ours_by_processor(builder)?;
            let mut apps: Vec<_> = (0..producers).map(|_| App::new(&provider)).collect();
            for app in &mut apps {
                (0..BATCH).for_each(|_| app.begin().end());
            }
            let held = strike(&handle)?;
            let calls = apps.into_iter().map(|mut app| {
                move || {
                    let mut span = app.begin();
                    timed(|| span.end())
                }
            });
            let times = paced(calls.collect(), SPANS / producers as u32, time)?;
            (times, handle, Box::new(move || drop(provider.shutdown())), held)
        }
        Call::Export => {
            let mut exporter = builder.build()?;
            exporter.set_resource(&resource());
            let handle = exporter.handle();
            let exporter = Arc::new(exporter);
            let template: Arc<Vec<SpanData>> = Arc::new(app::finished_spans(BATCH));
            // An error would say that the exporter is shut down.
            block_on(exporter.export(template.to_vec()))?;
            let held = strike(&handle)?;
            let calls = (0..producers).map(|_| {
                let (exporter, template): (Arc<ResilientSpanExporter>, _) =
                    (Arc::clone(&exporter), Arc::clone(&template));
                move || {
                    let batch = template.to_vec();
                    timed(|| drop(block_on(exporter.export(batch))))
                }
            });
            let times = paced(calls.collect(), EXPORTS / producers as u32, time)?;
            (times, handle, Box::new(move || drop(exporter.shutdown())), held)
        }
    };
    let health = handle.health();
    drop(held);
    condition.fault().map_or(Ok(()), |fault| collector.heal(fault))?;
    end();
    times.sort_unstable();
    let imbalance = match health.ledger.imbalance() {
        0 => handle.ledger().imbalance(),
        imbalance => imbalance,
    };
    let spans = match call {
        Call::OnEnd => times.len() + producers * BATCH,
        Call::Export => (times.len() + 1) * BATCH,
    };
    let uncounted = health.ledger.offered.abs_diff(spans as u64);
    Ok(Row { condition, call, producers, times, imbalance, uncounted, held: condition.held(&health) })
}

fn builder(
    condition: Condition,
    call: Call,
    collector: &Collector,
    state: &Path,
    disk: &Arc<Mutex<()>>,
) -> Result<Builder, Failure> {
    let builder = contender::builder(Settings::Default, Protocol::Grpc, &collector.grpc_endpoint(), state)?;
    let large = |builder: Builder| {
        builder.buffer(|buffer| {
            buffer.max_spans = 1_000_000;
            buffer.max_bytes = 1 << 30;
        })
    };
    Ok(match condition {
        Condition::Works | Condition::Spills => builder,
        Condition::CollectorHangs => large(builder),
        Condition::DiskHangs => builder.with_fallback(HangingFallback::new(disk)),
        Condition::JournalHangs => {
            large(builder).with_journal_enabled(true).with_journal(HangingJournal::new(disk)).journal(|journal| {
                if call == Call::OnEnd {
                    journal.sync_timeout = SYNC_TIMEOUT;
                }
            })
        }
    })
}

/// Lets each thread make one of these calls, `rate` times a second, and collects the times that they return.
fn paced(
    calls: Vec<impl FnMut() -> Duration + Send + 'static>,
    rate: u32,
    time: Duration,
) -> Result<Vec<Duration>, Failure> {
    let threads: Vec<_> = calls
        .into_iter()
        .map(|mut call| {
            thread::spawn(move || {
                let all = (time.as_secs_f64() * f64::from(rate)) as usize;
                let mut times = Vec::with_capacity(all);
                let started = now();
                while times.len() < all {
                    let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as usize;
                    (times.len()..due.min(all)).for_each(|_| times.push(call()));
                    thread::park_timeout(TICK);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for thread in threads {
        times.extend(thread.join().map_err(|_| "a producer panicked")?);
    }
    Ok(times)
}

fn timed(call: impl FnOnce()) -> Duration {
    let started: Instant = now();
    call();
    started.elapsed()
}
