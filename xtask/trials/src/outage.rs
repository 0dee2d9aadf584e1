//! Outages: spans are made at a steady pace while the collector fails and comes back, and every id is looked for in the
//! end.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use opentelemetry_sdk::trace::SdkTracerProvider;
use resilient_exporter::{Handle, Ledger};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::app::App;
use crate::collector::{Collector, Fault};
use crate::contender::{self, BURST, Protocol, Settings};
use crate::{Failure, SpanIds, now, wait_until};

/// One trial.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What happens to the collector.
    pub fault: Fault,
    /// Spans made before it, in it and after it.
    pub spans: [u64; 3],
    /// How fast.
    pub pace: Pace,
    /// How our exporter is set up; the stock one always has its defaults.
    pub settings: Settings,
    /// How long ours may take, once the collector is back and the last span is made.
    pub patience: Duration,
}

/// How fast spans are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// So many a second, by the clock.
    PerSecond(u32),
    /// As fast as our exporters take them from the batch processor, which then never has to drop any, and as their disk
    /// takes what their buffers cannot hold.
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
        }
    }

    /// The same in a few seconds: it waits for what must happen and for nothing else, so a slow machine only makes it
    /// longer. During the outage twice as many spans are made as the buffer takes.
    #[must_use]
    pub fn untimed(fault: Fault) -> Self {
        let (pace, settings, patience) = (Pace::AsTaken, Settings::Quick, Duration::from_secs(60));
        Self { fault, spans: [2_000, 20_000, 2_000], pace, settings, patience }
    }
}

/// What became of the spans of one exporter.
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
    /// Spans that the collector took and nobody made: must be 0.
    pub unknown: u64,
    /// Spans that the collector took more than once.
    pub duplicates: u64,
    /// What only our exporter can say; none for the stock one.
    pub ours: Option<Ours>,
}

/// What only our exporter can say.
#[derive(Clone, Debug)]
pub struct Ours {
    /// Spans made that the batch processor never handed over.
    pub dropped_by_sdk: u64,
    /// Its books at the end.
    pub ledger: Ledger,
    /// Failed attempts while the collector was away.
    pub failed_exports: u64,
    /// Fallback files written.
    pub spills: u64,
    /// From the end of the outage until no more than two batches waited anywhere, by its own books, at the full rate.
    pub caught_up: Duration,
}

impl Row {
    /// The missing spans as a share of those made in the outage.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.missing as f64 / self.made_in_fault.max(1) as f64
    }

    /// Whether the row shows what it must: ours lost nothing and says so in balanced books; the stock exporter lost at least
    /// `stock_loss` of the outage's spans, without which the outage would prove nothing.
    ///
    /// # Errors
    ///
    /// A sentence for each thing that is not as it must be.
    pub fn verdict(&self, stock_loss: f64) -> Result<(), String> {
        let mut wrong = Vec::new();
        if self.unknown > 0 {
            wrong.push(format!("the collector has {} spans that nobody made", self.unknown));
        }
        match &self.ours {
            None if self.loss() < stock_loss => {
                wrong.push(format!("it lost only {:.1} % of the outage's spans", 100.0 * self.loss()));
            }
            None => {}
            Some(ours) => {
                let waiting = ours.ledger.buffered + ours.ledger.in_flight + ours.ledger.in_fallback;
                for (count, what) in [
                    (self.missing, "never arrived"),
                    (ours.dropped_by_sdk, "were dropped by the batch processor"),
                    (ours.ledger.lost(), "are lost by its own books"),
                    (waiting, "still wait"),
                    (
                        self.made.abs_diff(ours.ledger.delivered),
                        "more or fewer are delivered by its books than were made",
                    ),
                    (ours.ledger.imbalance().unsigned_abs(), "are unaccounted for"),
                ] {
                    if count > 0 {
                        wrong.push(format!("{count} spans {what}"));
                    }
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

/// Runs the trial with all exporters side by side, each with a collector process of its own. `program` is this package's
/// program, which also serves as the collector.
///
/// # Errors
///
/// When the trial itself breaks: no process, no port, no folder. Loss is no error here: it stands in the rows.
pub fn run(plan: &Plan, program: &Path) -> Result<Vec<Row>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let mut all = Vec::new();
    for protocol in [Protocol::Grpc, Protocol::Http] {
        all.push(Contender::stock(&runtime, protocol, program, &folder)?);
        all.push(Contender::ours(plan.settings, protocol, program, &folder)?);
    }
    let [before, during, after] = plan.spans;
    make(&mut all, before, plan)?;
    for contender in &all {
        let what = format!("a first span of {}", contender.name);
        wait_until(&what, plan.patience, || contender.collector.received_count() > 0)?;
    }
    for contender in &mut all {
        contender.collector.strike(plan.fault)?;
    }
    let first = all[0].made.len();
    make(&mut all, during, plan)?;
    let in_fault = first..all[0].made.len();
    for contender in &mut all {
        contender.notice(plan)?;
    }
    for contender in &mut all {
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
    made: Vec<SpanIds>,
    failed_exports: u64,
    healed: Option<Instant>,
    caught_up: Option<Duration>,
}

impl Contender {
    fn stock(runtime: &Runtime, protocol: Protocol, program: &Path, folder: &TempDir) -> Result<Self, Failure> {
        let name = format!("stock {protocol}");
        let collector = Collector::start(program, folder.path().join(&name))?;
        let provider = contender::stock(runtime, protocol, &endpoint(&collector, protocol))?;
        Ok(Self::new(name, provider, None, collector))
    }

    fn ours(settings: Settings, protocol: Protocol, program: &Path, folder: &TempDir) -> Result<Self, Failure> {
        let name = format!("ours {protocol}");
        let collector = Collector::start(program, folder.path().join(&name))?;
        let state = folder.path().join(format!("state {protocol}"));
        let (provider, handle) =
            contender::ours(contender::builder(settings, protocol, &endpoint(&collector, protocol), &state)?)?;
        Ok(Self::new(name, provider, Some(handle), collector))
    }

    fn new(name: String, provider: SdkTracerProvider, handle: Option<Handle>, collector: Collector) -> Self {
        let app = App::new(&provider);
        Self {
            name,
            app,
            provider,
            handle,
            collector,
            made: Vec::new(),
            failed_exports: 0,
            healed: None,
            caught_up: None,
        }
    }

    /// Whether there is room for a burst. The stock exporter does not say, and is given what the others get.
    fn has_room(&self) -> bool {
        self.handle.as_ref().is_none_or(|handle| contender::has_room(self.made.len() as u64, handle))
    }

    /// Notes the moment at which the backlog of an outage is gone.
    fn observe(&mut self) {
        if let (Some(handle), Some(healed), None) = (&self.handle, self.healed, self.caught_up) {
            let ledger = handle.ledger();
            let waiting = ledger.buffered + ledger.in_flight + ledger.in_fallback;
            self.caught_up = (waiting <= 2 * BURST).then(|| healed.elapsed());
        }
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
        let made: HashSet<SpanIds> = self.made.iter().copied().collect();
        if self.handle.is_some() {
            // An error of the flush means that it took longer than the SDK's 5 s; the ids decide.
            let _ = self.provider.force_flush();
            let mut seen = 0;
            let mut all_there = |this: &Self| {
                let count = this.collector.received_count();
                let grown = std::mem::replace(&mut seen, count) != count;
                let complete = || {
                    this.collector.received().is_ok_and(|ids| made.len() == HashSet::<SpanIds>::from_iter(ids).len())
                };
                grown && count >= made.len() as u64 && complete()
            };
            // Whether it succeeded or not stands in the row.
            let _ = wait_until("every span", plan.patience, || {
                self.observe();
                all_there(&self)
            });
        }
        self.observe();
        let caught_up = self.caught_up.unwrap_or(plan.patience);
        let handle = self.handle;
        if let Some(handle) = &handle {
            // The last answers may still be on their way back to us.
            let _ = handle.flush(plan.patience);
        }
        // An error says that not all could be sent: the ids will say it too.
        let _ = self.provider.shutdown();
        let received = self.collector.received()?;
        let unique: HashSet<SpanIds> = received.iter().copied().collect();
        let ours = handle.map(|handle| {
            let (ledger, health) = (handle.ledger(), handle.health());
            let dropped_by_sdk = made.len() as u64 - ledger.offered;
            let (failed_exports, spills) = (self.failed_exports, health.metrics.fallback_usage);
            Ours { dropped_by_sdk, ledger, failed_exports, spills, caught_up }
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
            Pace::PerSecond(rate) => (started.elapsed().as_secs_f64() * f64::from(rate)) as u64,
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
            Pace::AsTaken => wait_until("room for a burst", plan.patience, || all.iter().all(Contender::has_room))?,
        }
    }
    Ok(())
}

/// Spans are made in small bursts this far apart.
const TICK: Duration = Duration::from_millis(5);
