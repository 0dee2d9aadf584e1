//! One test: its thread, its state, its verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;
use telemetry_manager::opentelemetry::trace::{Span as _, SpanBuilder, Tracer as _, TracerProvider as _};
use telemetry_manager::opentelemetry::{Context, KeyValue};
use telemetry_manager::resilient_exporter::{Clock as _, Ledger, SystemClock};

use super::figures::{Figure, Figures, lost, seconds, stored};
use super::pipeline::Pipeline;
use super::plan::{Severity, TestPlan, TestType};

/// The attribute of each test span that names its test.
pub(super) const TEST_ID: &str = "holdfast.test_id";

/// The time between two looks at the clock: spans that are due by then are made together.
const TICK: Duration = Duration::from_millis(100);
/// The time between two calls that pass the breaker while spans wait after the load.
const NUDGE: Duration = Duration::from_secs(1);
/// The wait for calls that are out when the test is over, before the shutdown, which cannot be cancelled.
const ANSWERS: Duration = Duration::from_millis(3_500);
/// The shutdown of a test's exporter.
const SHUTDOWN: Duration = Duration::from_millis(1_500);
/// The same for a test that was cancelled.
const CANCELLED_SHUTDOWN: Duration = Duration::from_millis(500);

/// The state of a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TestState {
    /// Spans are made.
    Running,
    /// The fault is over, and the spans that wait are delivered, within the plan's time for that.
    Settling,
    /// The verdict is there.
    Completed,
    /// The test was cancelled; the verdict is about the spans that it had made.
    Cancelled,
    /// The test's thread panicked: a fault of ours.
    Failed,
}

impl TestState {
    /// Whether the test has ended.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed)
    }
}

/// The account of a test that has ended, in spans, from the ledger of its own exporter.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Verdict {
    /// Whether no span is lost, each one was offered to the exporter, and the ledger balances.
    pub passed: bool,
    /// Made by the test.
    pub made: u64,
    /// Taken by the collector.
    pub delivered: u64,
    /// Kept in files, in the journal or as dead letters when the test ended: the collector did not take them by then.
    /// They are removed with the scratch directory.
    pub stored: u64,
    /// Refused by the collector in a partial success.
    pub rejected: u64,
    /// Kept nowhere.
    pub lost: u64,
    /// Whether the terms of the ledger add up, and its source is the number of spans that the test made.
    pub ledger_balanced: bool,
    /// Calls that had a fault of the test.
    pub faults_injected: u64,
    /// Calls that failed, those with a fault of the test included.
    pub failed_exports: u64,
    /// Number of times that the circuit breaker opened.
    pub circuit_breaker_trips: u64,
    /// The whole ledger.
    pub ledger: Ledger,
}

impl Verdict {
    fn new(made: u64, pipeline: &Pipeline) -> Self {
        let health = pipeline.handle.health();
        let (ledger, evicted) = (health.ledger, health.dead_letters_evicted);
        let (stored, lost) = (stored(&ledger, evicted), lost(&ledger, evicted));
        // After the shutdown spans are in memory only if the disk took none: they end with the test.
        let lost = lost + ledger.buffered + ledger.in_flight;
        let ledger_balanced = ledger.imbalance() == 0 && ledger.offered == made;
        Self {
            passed: ledger_balanced && lost == 0,
            made,
            delivered: ledger.delivered,
            stored,
            rejected: ledger.rejected,
            lost,
            ledger_balanced,
            faults_injected: pipeline.faults.injected(),
            failed_exports: health.metrics.failed_exports,
            circuit_breaker_trips: health.metrics.circuit_breaker_trips,
            ledger,
        }
    }
}

/// A test as it is now.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct TestReport {
    /// The id, which each span of the test has as `holdfast.test_id`.
    pub test_id: String,
    /// The kind.
    pub test_type: TestType,
    /// The severity.
    pub severity: Severity,
    /// The time in which spans are made.
    #[serde(rename = "duration_seconds", serialize_with = "seconds")]
    #[schemars(with = "f64")]
    pub duration: Duration,
    /// Spans a second before the severity multiplies them.
    pub span_rate: u32,
    /// The state.
    pub state: TestState,
    /// The part of the duration that has passed, 0 to 1.
    pub progress: f64,
    /// Spans made so far.
    pub made: u64,
    /// The numbers over time, 120 instants at most; left out where tests are listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<Figure>,
    /// The account, once the test has ended.
    pub verdict: Option<Verdict>,
}

/// One test, shared by its thread and its readers.
#[derive(Debug)]
pub(super) struct Test {
    pub(super) id: String,
    plan: TestPlan,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// A message, or the end of this channel, cancels the test.
    cancel: Mutex<Option<Sender<()>>>,
}

#[derive(Debug)]
struct Progress {
    state: TestState,
    elapsed: Duration,
    made: u64,
    figures: Figures,
    verdict: Option<Verdict>,
}

impl Test {
    pub(super) fn new(id: String, plan: TestPlan, cancel: Sender<()>) -> Self {
        let progress = Progress {
            state: TestState::Running,
            elapsed: Duration::ZERO,
            made: 0,
            figures: Figures::new(TICK),
            verdict: None,
        };
        Self { id, plan, progress: Mutex::new(progress), changed: Condvar::new(), cancel: Mutex::new(Some(cancel)) }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> TestState {
        self.progress().state
    }

    /// Cancels the test unless it has ended. Does not wait for its end.
    pub(super) fn cancel(&self) {
        drop(self.cancel.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Waits until the test has ended, for `timeout` at most, and returns whether it has.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let progress = self.progress();
        let waited = self.changed.wait_timeout_while(progress, timeout, |progress| !progress.state.has_ended());
        let (progress, _) = waited.unwrap_or_else(PoisonError::into_inner);
        progress.state.has_ended()
    }

    pub(super) fn report(&self, with_figures: bool) -> TestReport {
        let progress = self.progress();
        let TestPlan { test_type, duration, span_rate, severity, settle: _ } = self.plan;
        let part = match progress.state {
            TestState::Settling | TestState::Completed => 1.0,
            _ if duration.is_zero() => 1.0,
            _ => (progress.elapsed.as_secs_f64() / duration.as_secs_f64()).min(1.0),
        };
        TestReport {
            test_id: self.id.clone(),
            test_type,
            severity,
            duration,
            span_rate,
            state: progress.state,
            progress: (part * 1_000.0).round() / 1_000.0,
            made: progress.made,
            figures: if with_figures { progress.figures.all().to_vec() } else { Vec::new() },
            verdict: progress.verdict.clone(),
        }
    }

    /// Runs the test to its end on the calling thread.
    pub(super) fn run(&self, pipeline: Pipeline, cancelled: &Receiver<()>) {
        let ended = catch_unwind(AssertUnwindSafe(|| self.play(&pipeline, cancelled)));
        // The scratch directory is gone before any reader sees that the test has ended.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(pipeline)));
        let mut progress = self.progress();
        match ended {
            Ok((state, verdict)) => (progress.state, progress.verdict) = (state, Some(verdict)),
            Err(_) => progress.state = TestState::Failed,
        }
        drop(progress);
        self.changed.notify_all();
    }

    fn play(&self, pipeline: &Pipeline, cancelled: &Receiver<()>) -> (TestState, Verdict) {
        // Spans of a test are roots.
        let _clean = Context::new().attach();
        let start = SystemClock.now();
        if let Some(fault) = self.plan.fault() {
            pipeline.faults.begin(fault, None);
        }
        let is_cancelled = self.load(pipeline, cancelled, start);
        // A collector that hangs or refuses is repaired by now.
        pipeline.faults.end();
        let is_cancelled = is_cancelled || self.settle(pipeline, cancelled, start);
        let is_cancelled = is_cancelled || await_answers(pipeline, cancelled);
        let timeout = if is_cancelled { CANCELLED_SHUTDOWN } else { SHUTDOWN };
        // The verdict counts the spans that this shutdown cannot save.
        let _ = pipeline.provider.shutdown_with_timeout(timeout);
        self.look(pipeline, start, true);
        let state = if is_cancelled { TestState::Cancelled } else { TestState::Completed };
        (state, Verdict::new(self.progress().made, pipeline))
    }

    /// Makes the spans. Returns whether the test was cancelled.
    fn load(&self, pipeline: &Pipeline, cancelled: &Receiver<()>, start: Instant) -> bool {
        let tracer = pipeline.provider.tracer("holdfast.test");
        let attributes = [
            KeyValue::new(TEST_ID, self.id.clone()),
            KeyValue::new("holdfast.test_type", self.plan.test_type.as_str()),
        ];
        let mut made = 0;
        loop {
            let elapsed = SystemClock.now().saturating_duration_since(start);
            let due = self.plan.due(elapsed);
            while made < due {
                let builder = SpanBuilder::from_name("holdfast.test").with_attributes(attributes.clone());
                tracer.build(builder).end();
                made += 1;
            }
            // The exporter's refusals are in its ledger.
            let _ = pipeline.provider.force_flush();
            self.progress().made = made;
            self.look(pipeline, start, false);
            let left = self.plan.duration.saturating_sub(elapsed);
            if left.is_zero() {
                return false;
            }
            if cancelled.recv_timeout(left.min(TICK)) != Err(RecvTimeoutError::Timeout) {
                return true;
            }
        }
    }

    /// Waits until the spans are delivered, and has the exporter try at once rather than after the breaker's time.
    /// Returns whether the test was cancelled.
    fn settle(&self, pipeline: &Pipeline, cancelled: &Receiver<()>, start: Instant) -> bool {
        self.progress().state = TestState::Settling;
        let begin = SystemClock.now();
        let mut next_nudge = Duration::ZERO;
        loop {
            let waited = SystemClock.now().saturating_duration_since(begin);
            if waited >= next_nudge {
                pipeline.handle.retry_now();
                next_nudge = waited + NUDGE;
            }
            let is_settled = pipeline.handle.settled(TICK).is_ok();
            self.look(pipeline, start, false);
            if is_settled || waited >= self.plan.settle {
                return false;
            }
            if cancelled.try_recv() != Err(TryRecvError::Empty) {
                return true;
            }
        }
    }

    /// Notes the numbers of this instant.
    fn look(&self, pipeline: &Pipeline, start: Instant, is_last: bool) {
        let elapsed = SystemClock.now().saturating_duration_since(start);
        let mut progress = self.progress();
        progress.elapsed = elapsed;
        if is_last || progress.figures.is_due(elapsed) {
            let made = progress.made;
            drop(progress);
            let figure = Figure::new(elapsed, made, &pipeline.handle.health());
            self.progress().figures.push(figure);
        }
    }
}

/// Waits for the calls that are out. Returns whether the test was cancelled.
fn await_answers(pipeline: &Pipeline, cancelled: &Receiver<()>) -> bool {
    let begin = SystemClock.now();
    loop {
        if cancelled.try_recv() != Err(TryRecvError::Empty) {
            return true;
        }
        let waited = SystemClock.now().saturating_duration_since(begin);
        let is_out = pipeline.handle.ledger().in_flight > 0;
        if !is_out || waited >= ANSWERS || pipeline.handle.settled(TICK).is_ok() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::mpsc::channel;

    use mock_collector::MockCollector;
    use telemetry_manager::OpenTelemetryManager;
    use telemetry_manager::resilient_exporter::Handle;

    use super::*;

    fn pipeline(collector: &MockCollector) -> (OpenTelemetryManager, Pipeline) {
        let builder = OpenTelemetryManager::builder().with_vars(|_| None).with_globals(false);
        let builder = builder.with_endpoint(collector.grpc_endpoint()).with_fallback_enabled(false);
        let telemetry = builder.build().expect("telemetry starts");
        let pipeline = Pipeline::start(&telemetry.observer()).expect("a pipeline");
        (telemetry, pipeline)
    }

    /// A client that asks for the state may remove the directory of the process's data as soon as the test has ended.
    #[test]
    fn a_test_has_not_ended_before_its_directory_is_gone() {
        let collector = MockCollector::start().expect("a collector on loopback");
        for _ in 0..5 {
            let (_telemetry, pipeline) = pipeline(&collector);
            let scratch = pipeline.scratch().to_owned();
            let (cancel, cancelled) = channel();
            let plan = TestPlan::new(TestType::ContinuousLoad).with_duration(Duration::ZERO);
            let test = Test::new("id".to_owned(), plan, cancel);
            std::thread::scope(|scope| {
                let test = &test;
                // A time that no clock can count is one without an end.
                scope.spawn(move || assert!(test.wait(Duration::MAX)));
                scope.spawn(move || test.run(pipeline, &cancelled));
                loop {
                    let report = test.report(false);
                    if report.state.has_ended() {
                        break;
                    }
                    assert!(report.verdict.is_none(), "no verdict before the end");
                    std::thread::yield_now();
                }
                assert!(!scratch.exists());
            });
        }
    }

    /// The process may have the room for what it has to keep; a test has no claim to as much.
    #[test]
    fn each_store_of_a_test_has_a_limit_of_its_own() {
        let (home, collector) = (tempfile::tempdir().expect("a directory"), MockCollector::start().expect("loopback"));
        let limits = |handle: &Handle| {
            let storage = handle.health().storage;
            let (files, letters) = (storage.fallback.expect("files"), storage.dead_letters.expect("letters"));
            [files.max_bytes, letters.max_bytes, storage.journal.expect("a journal").max_bytes]
        };
        let mib = 1 << 20;
        // A smaller limit of the process is the one of its tests too.
        for (of_process, of_test) in
            [("10GiB", [256 * mib, 64 * mib, 128 * mib]), ("32MiB", [32 * mib, 32 * mib, 16 * mib])]
        {
            let state_dir = home.path().join(of_process);
            let builder = OpenTelemetryManager::builder().with_globals(false).with_endpoint(collector.grpc_endpoint());
            let builder = builder.with_state_dir(state_dir).with_vars(move |name| {
                let value = if name.ends_with("_MAX_BYTES") { of_process } else { "true" };
                let stores = ["TELEMETRY_FALLBACK_", "TELEMETRY_DEAD_LETTER_", "TELEMETRY_JOURNAL_"];
                let is_known = name.ends_with("_MAX_BYTES") || name == "TELEMETRY_JOURNAL_ENABLED";
                (is_known && stores.iter().any(|store| name.starts_with(store))).then(|| value.into())
            });
            let telemetry = builder.build().expect("telemetry starts");
            let pipeline = Pipeline::start(&telemetry.observer()).expect("a pipeline");
            // The numbers of a journal are there after its first batch.
            pipeline.provider.tracer("test").start("span").end();
            pipeline.provider.force_flush().expect("the exporter takes it");
            pipeline.handle.settled(SHUTDOWN).expect("delivered");
            // The journal has half of the room of the files.
            assert_eq!(limits(&pipeline.handle), of_test, "{of_process}");
        }
    }

    #[test]
    fn the_scratch_directory_is_private_and_goes_with_the_test() {
        let collector = MockCollector::start().expect("a collector on loopback");
        let (_telemetry, pipeline) = pipeline(&collector);
        let scratch = pipeline.scratch().to_owned();
        let mode = std::fs::metadata(&scratch).expect("a directory").permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);

        let (cancel, cancelled) = channel();
        let plan = TestPlan::new(TestType::ContinuousLoad).with_duration(Duration::ZERO);
        let test = Test::new("id".to_owned(), plan, cancel);
        assert!(!test.wait(Duration::ZERO));
        test.run(pipeline, &cancelled);
        assert!(test.wait(Duration::ZERO) && !scratch.exists());
        let report = test.report(true);
        assert_eq!((report.state, report.progress, report.made), (TestState::Completed, 1.0, 0));
        assert!(report.verdict.expect("a verdict").passed);
    }
}
