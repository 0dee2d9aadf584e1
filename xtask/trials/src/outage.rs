//! Outages: spans are made at a steady pace while the collector fails and comes back, and every id is looked for in the
//! end.

pub mod fast;

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use opentelemetry_sdk::trace::SdkTracerProvider;
use resilient_exporter::{Handle, Ledger};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::app::App;
use crate::collector::{Collector, Fault};
use crate::contender::{self, BURST, Protocol, Settings};
use crate::stored::Resident;
use crate::{Failure, SpanIds, now, wait_until};

/// One trial.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The fault that strikes the collector.
    pub fault: Fault,
    /// Spans made before it, in it and after it.
    pub spans: [u64; 3],
    /// How fast.
    pub pace: Pace,
    /// How our exporter is set up; the stock one always has its defaults.
    pub settings: Settings,
    /// How long ours may take, once the collector is back and the last span is made.
    pub patience: Duration,
    /// Only our exporter over gRPC, so that the memory and the time of the process are those of one exporter.
    pub alone: bool,
}

/// How fast spans are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// So many a second, by the clock.
    PerSecond(u32),
    /// As fast as our exporters take them from the batch processor, which then never has to drop any, and as their disk
    /// takes the spans that their buffers cannot hold.
    AsTaken,
}

impl Plan {
    /// An outage of `seconds` at 5,000 spans a second, 3 s before it and 12 s after it.
    #[must_use]
    pub fn timed(fault: Fault, seconds: u32) -> Self {
        let rate = 5_000;
        let spans = [3, seconds, 12].map(|seconds| u64::from(seconds * rate));
        Self {
            fault,
            spans,
            pace: Pace::PerSecond(rate),
            settings: Settings::Default,
            patience: Duration::from_secs(120),
            alone: false,
        }
    }

    /// Ten minutes of a refused port at 5,000 spans a second, ours alone: 3,000,000 spans must fit into the default
    /// limits.
    #[must_use]
    pub fn long() -> Self {
        Self { patience: Duration::from_secs(600), alone: true, ..Self::timed(Fault::Refused, 600) }
    }

    /// The same in a few seconds: the trial waits for expected events and never for a time, so a slow machine only
    /// makes it longer. During the outage twice as many spans are made as the buffer takes.
    #[must_use]
    pub fn untimed(fault: Fault) -> Self {
        let (pace, settings, patience) = (Pace::AsTaken, Settings::Quick, Duration::from_secs(60));
        Self { fault, spans: [2_000, 20_000, 2_000], pace, settings, patience, alone: false }
    }
}

/// The outcome of the spans of one exporter.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which outage.
    pub fault: Fault,
    /// Which exporter.
    pub exporter: String,
    /// Spans started and ended by the application.
    pub made: u64,
    /// Those of them made while the collector was away.
    pub made_in_fault: u64,
    /// Spans that the collector never took, by id.
    pub missing: u64,
    /// Spans that the collector received and the application never made: must be 0.
    pub unknown: u64,
    /// Spans that the collector took more than once.
    pub duplicates: u64,
    /// Figures that only our exporter reports; none for the stock one.
    pub ours: Option<Ours>,
}

/// Figures that only our exporter reports.
#[derive(Clone, Debug)]
pub struct Ours {
    /// Spans made that the batch processor never handed over.
    pub dropped_by_sdk: u64,
    /// The exporter's ledger at the end.
    pub ledger: Ledger,
    /// Failed attempts while the collector was away.
    pub failed_exports: u64,
    /// Fallback files written.
    pub spills: u64,
    /// From the end of the outage until no more than two batches waited anywhere, by the exporter's own ledger, at the
    /// full rate.
    pub caught_up: Duration,
    /// Bytes of all files in its folder at the end of the outage.
    pub on_disk: u64,
    /// The most resident memory from the beginning of the outage until it had caught up, over the memory of the process
    /// before; the trial's own record of ids aside. Only of ours when it runs alone.
    pub memory: u64,
}

impl Ours {
    /// Memory and processor time, in words.
    #[must_use]
    pub fn usage(&self) -> String {
        const MIB: f64 = 1_048_576.0;
        let (disk, memory) = (self.on_disk as f64 / MIB, self.memory as f64 / MIB);
        format!("{disk:.1} MiB on disk at the end of the outage, {memory:.1} MiB more memory at most")
    }
}

impl Row {
    /// The missing spans as a share of those made in the outage.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.missing as f64 / self.made_in_fault.max(1) as f64
    }

    /// Checks the row: our exporter lost nothing and its ledger balances; the stock exporter lost at least `stock_loss`
    /// of the outage's spans, without which the outage would prove nothing.
    ///
    /// # Errors
    ///
    /// A sentence for each thing that is not as it must be.
    pub fn verdict(&self, stock_loss: f64) -> Result<(), String> {
        let mut wrong = Vec::new();
        if self.unknown > 0 {
            wrong.push(format!("the collector has {} spans that the application never made", self.unknown));
        }
        match &self.ours {
            None if self.loss() < stock_loss => {
                wrong.push(format!("it lost only {:.1} % of the outage's spans", 100.0 * self.loss()));
            }
            None => {}
            Some(ours) => {
                let Ledger { staged, buffered, in_flight, in_fallback, .. } = ours.ledger;
                let waiting = staged + buffered + in_flight + in_fallback;
                for (count, what) in [
                    (self.missing, "never arrived"),
                    (ours.dropped_by_sdk, "were dropped by the batch processor"),
                    (ours.ledger.lost(), "are lost by its own ledger"),
                    (waiting, "still wait"),
                    (
                        self.made.abs_diff(ours.ledger.delivered),
                        "more or fewer are delivered by its ledger than were made",
                    ),
                    (ours.ledger.imbalance().unsigned_abs(), "are unaccounted for"),
                ] {
                    if count > 0 {
                        wrong.push(format!("{count} spans {what}"));
                    }
                }
                if ours.ledger.lost() > 0 {
                    wrong.push(format!("reasons: {:?}", ours.ledger.dropped));
                }
                // An attempt may well wait for its 10 s until the collector is back.
                if ours.failed_exports == 0 && ours.spills == 0 {
                    wrong.push("no attempt failed and nothing went to files: there was no outage".into());
                }
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("{}, {}: {}", self.fault.name(), self.exporter, wrong.join("; ")))
        }
    }
}

/// The head of a table of [`Row`]s.
pub const HEAD: &str =
    "outage        exporter      made   in outage  SDK dropped  missing  of outage  duplicates  caught up  files";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, exporter, made, made_in_fault, missing, duplicates, .. } = self;
        let (fault, loss) = (fault.name(), 100.0 * self.loss());
        let (dropped, caught_up, files) = match &self.ours {
            None => ("?".to_owned(), "never".to_owned(), "-".to_owned()),
            Some(ours) => (
                ours.dropped_by_sdk.to_string(),
                format!("{:.1} s", ours.caught_up.as_secs_f64()),
                ours.spills.to_string(),
            ),
        };
        write!(f, "{fault:<13} {exporter:<12} {made:>6} {made_in_fault:>10} {dropped:>12} {missing:>8} {loss:>8.1} %")?;
        write!(f, " {duplicates:>10} {caught_up:>10} {files:>6}")
    }
}

/// Runs the trial with all exporters side by side, each with a collector process of its own. `program` is this
/// package's program, which also serves as the collector.
///
/// # Errors
///
/// When the trial itself breaks: no process, no port, no folder. Loss is no error here: it stands in the rows.
pub fn run(plan: &Plan, program: &Path) -> Result<Vec<Row>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let mut all = Vec::new();
    if plan.alone {
        all.push(Contender::ours(plan.settings, Protocol::Grpc, program, &folder)?);
    } else {
        for protocol in [Protocol::Grpc, Protocol::Http] {
            all.push(Contender::stock(&runtime, protocol, program, &folder)?);
            all.push(Contender::ours(plan.settings, protocol, program, &folder)?);
        }
    }
    let [before, during, after] = plan.spans;
    for contender in &mut all {
        // Reserved at the start: its resident memory is its content, and no copy while it grows.
        contender.made.reserve_exact(plan.spans.iter().sum::<u64>() as usize);
    }
    make(&mut all, before, plan)?;
    for contender in &all {
        let what = format!("a first span of {}", contender.name);
        wait_until(&what, plan.patience, || contender.collector.received_count() > 0)?;
    }
    for contender in &mut all {
        contender.memory_before = contender.memory_aside_from_ids()?;
        contender.collector.strike(plan.fault)?;
    }
    let first = all[0].made.len();
    make(&mut all, during, plan)?;
    let in_fault = first..all[0].made.len();
    for contender in &mut all {
        contender.notice(plan)?;
    }
    for contender in &mut all {
        contender.on_disk = bytes_below(&contender.state)?;
        contender.collector.heal(plan.fault)?;
        contender.healed = Some(now());
    }
    make(&mut all, after, plan)?;
    let outcomes: Vec<_> = all.into_iter().map(|contender| contender.finish(plan, in_fault.clone())).collect();
    outcomes.into_iter().collect()
}

/// One exporter with its application and its collector.
struct Contender {
    name: String,
    app: App,
    provider: SdkTracerProvider,
    /// Ours only.
    handle: Option<Handle>,
    collector: Collector,
    /// Where its files are, if it has any.
    state: PathBuf,
    made: Vec<SpanIds>,
    failed_exports: u64,
    healed: Option<Instant>,
    caught_up: Option<Duration>,
    on_disk: u64,
    memory_before: u64,
    memory_peak: u64,
    looked: Instant,
}

impl Contender {
    fn stock(runtime: &Runtime, protocol: Protocol, program: &Path, folder: &TempDir) -> Result<Self, Failure> {
        let name = format!("stock {protocol}");
        let collector = Collector::start(program, folder.path().join(&name))?;
        let provider = contender::stock(runtime, protocol, &endpoint(&collector, protocol))?;
        Ok(Self::new(name, provider, None, collector, PathBuf::new()))
    }

    fn ours(settings: Settings, protocol: Protocol, program: &Path, folder: &TempDir) -> Result<Self, Failure> {
        let name = format!("ours {protocol}");
        let collector = Collector::start(program, folder.path().join(&name))?;
        let state = folder.path().join(format!("state {protocol}"));
        let (provider, handle) =
            contender::ours(contender::builder(settings, protocol, &endpoint(&collector, protocol), &state)?)?;
        Ok(Self::new(name, provider, Some(handle), collector, state))
    }

    fn new(
        name: String,
        provider: SdkTracerProvider,
        handle: Option<Handle>,
        collector: Collector,
        state: PathBuf,
    ) -> Self {
        let app = App::new(&provider);
        Self {
            name,
            app,
            provider,
            handle,
            collector,
            state,
            made: Vec::new(),
            failed_exports: 0,
            healed: None,
            caught_up: None,
            on_disk: 0,
            memory_before: 0,
            memory_peak: 0,
            looked: now(),
        }
    }

    fn memory_aside_from_ids(&self) -> Result<u64, Failure> {
        Ok(Resident::read()?.now.saturating_sub(size_of_val(&self.made[..]) as u64))
    }

    /// Whether the exporter has space for a burst. The stock exporter does not report its space, and gets the pace of
    /// the others.
    fn has_space(&self) -> bool {
        self.handle.as_ref().is_none_or(|handle| contender::has_space(self.made.len() as u64, handle))
    }

    /// Notes the moment at which the backlog of an outage is gone, and until then now and then the memory.
    fn observe(&mut self) {
        if self.caught_up.is_none() && self.looked.elapsed() > LOOK_AT_MEMORY {
            self.looked = now();
            // It could be read before the outage.
            self.memory_peak = self.memory_peak.max(self.memory_aside_from_ids().unwrap_or_default());
        }
        if let (Some(handle), Some(healed), None) = (&self.handle, self.healed, self.caught_up) {
            let ledger = handle.ledger();
            let waiting = ledger.buffered + ledger.in_flight + ledger.in_fallback;
            self.caught_up = (waiting <= 2 * BURST).then(|| healed.elapsed());
        }
    }

    /// Whether no span waits in ours: nothing more will come.
    fn nothing_waits(&self) -> bool {
        self.handle.as_ref().is_none_or(|handle| {
            let ledger = handle.ledger();
            ledger.buffered + ledger.in_flight + ledger.in_fallback == 0
        })
    }

    /// Waits until ours has felt the outage: a failed attempt at least.
    fn notice(&mut self, plan: &Plan) -> Result<(), Failure> {
        let Some(handle) = &self.handle else { return Ok(()) };
        let failed = || handle.health().metrics.failed_exports;
        if plan.pace == Pace::AsTaken {
            wait_until(&format!("a failed attempt of {}", self.name), plan.patience, || failed() > 0)?;
        }
        self.failed_exports = failed();
        Ok(())
    }

    fn finish(mut self, plan: &Plan, in_fault: Range<usize>) -> Result<Row, Failure> {
        let made = self.made.len();
        if self.handle.is_some() {
            // An error of the flush means that it took longer than the SDK's 5 s; the ids decide.
            let _ = self.provider.force_flush();
            let mut seen = 0;
            let mut all_there = |this: &Self| {
                let count = this.collector.received_count();
                let grown = std::mem::replace(&mut seen, count) != count;
                let complete =
                    || this.collector.received().is_ok_and(|ids| made == HashSet::<SpanIds>::from_iter(ids).len());
                grown && count >= made as u64 && complete()
            };
            // Whether it succeeded or not stands in the row.
            let _ = wait_until("every span", plan.patience, || {
                self.observe();
                all_there(&self) || self.nothing_waits()
            });
        }
        self.observe();
        let caught_up = self.caught_up.unwrap_or(plan.patience);
        let handle = self.handle;
        if let Some(handle) = &handle {
            // The last answers may still be on their way back to us.
            let _ = handle.settled(plan.patience);
        }
        // An error reports that not all could be sent: the comparison by ids shows that too.
        let _ = self.provider.shutdown();
        let made: HashSet<SpanIds> = self.made.iter().copied().collect();
        let received = self.collector.received()?;
        let unique: HashSet<SpanIds> = received.iter().copied().collect();
        let ours = handle.map(|handle| {
            let (ledger, health) = (handle.ledger(), handle.health());
            let dropped_by_sdk = made.len() as u64 - ledger.offered;
            let (failed_exports, spills) = (self.failed_exports, health.metrics.fallback_usage);
            let memory = self.memory_peak.saturating_sub(self.memory_before);
            Ours { dropped_by_sdk, ledger, failed_exports, spills, caught_up, on_disk: self.on_disk, memory }
        });
        Ok(Row {
            fault: plan.fault,
            exporter: self.name,
            made: made.len() as u64,
            made_in_fault: in_fault.len() as u64,
            missing: made.difference(&unique).count() as u64,
            unknown: unique.difference(&made).count() as u64,
            duplicates: (received.len() - unique.len()) as u64,
            ours,
        })
    }
}

/// The bytes of all files in a folder and those below it; of none if there is no such folder.
fn bytes_below(folder: &Path) -> Result<u64, Failure> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(0) };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path())?,
            Ok(metadata) => metadata.len(),
            // Published or removed meanwhile.
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

fn endpoint(collector: &Collector, protocol: Protocol) -> String {
    match protocol {
        Protocol::Grpc => collector.grpc_endpoint(),
        Protocol::Http => collector.http_endpoint(),
    }
}

/// Lets every application make `count` spans.
fn make(all: &mut [Contender], count: u64, plan: &Plan) -> Result<(), Failure> {
    let started = now();
    let mut done = 0;
    while done < count {
        let due = match plan.pace {
            // After a pause of the machine, the spans that are due must not overrun the batch processor's queue.
            Pace::PerSecond(rate) => (done + BURST / 8).min((started.elapsed().as_secs_f64() * f64::from(rate)) as u64),
            Pace::AsTaken => done + BURST,
        };
        for contender in all.iter_mut() {
            for _ in done..due.min(count) {
                contender.made.push(contender.app.serve());
            }
            contender.observe();
        }
        done = due.min(count);
        match plan.pace {
            Pace::PerSecond(_) => std::thread::park_timeout(TICK),
            Pace::AsTaken => wait_until("space for a burst", plan.patience, || all.iter().all(Contender::has_space))?,
        }
    }
    Ok(())
}

/// Spans are made in small bursts this far apart.
const TICK: Duration = Duration::from_millis(5);

/// How often the memory is looked at.
const LOOK_AT_MEMORY: Duration = Duration::from_millis(250);
