//! The tests of a process, and their limits.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use telemetry_manager::Observer;
use telemetry_manager::resilient_exporter::{Clock as _, SystemClock};

use super::pipeline::{Pipeline, StartError};
use super::plan::TestPlan;
use super::run::{Test, TestReport};

/// The resilience tests of a process. Clones are one registry; when the last one goes, tests that run are cancelled.
///
/// Each test makes spans on a thread of its own, in a pipeline of its own: provider, exporter and a scratch directory
/// below the system's temporary one (mode 0700, removed at the end; a start removes those of killed processes). The
/// pipeline has the endpoint, headers, breaker, retries, buffer and limits of the process, and its spans reach the
/// collector; neither the process's spans nor its ledger are touched. At most 2 tests run at a time, and the last 20
/// are remembered.
///
/// ```
/// use std::time::Duration;
/// use mock_collector::MockCollector;
/// use telemetry_manager::OpenTelemetryManager;
/// use telemetry_service::{TestPlan, TestType, Tests};
///
/// let collector = MockCollector::start()?;
/// let builder = OpenTelemetryManager::builder().with_fallback_enabled(false).with_vars(|_| None);
/// let telemetry = builder.with_endpoint(collector.grpc_endpoint()).build()?;
/// let tests = Tests::new(telemetry.observer());
/// let plan = TestPlan::new(TestType::ContinuousLoad).with_span_rate(100).with_duration(Duration::from_millis(200));
/// let id = tests.start(plan)?;
/// assert!(tests.wait(&id, Duration::from_secs(20)));
/// let verdict = tests.get(&id).and_then(|report| report.verdict).expect("the test has ended");
/// assert!(verdict.passed, "{verdict:?}");
/// assert_eq!((verdict.made, verdict.delivered), (20, 20));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Tests {
    inner: Arc<Inner>,
}

struct Inner {
    observer: Observer,
    /// In the order of their start.
    tests: Mutex<VecDeque<Arc<Test>>>,
    /// Requests for spans through the process's pipeline that are being served.
    loads: AtomicUsize,
    /// Ids given out.
    ids: AtomicU64,
}

/// Tests that run at a time, and loads, at most.
pub(super) const CONCURRENT: usize = 2;
/// Tests that are remembered, at most.
const REMEMBERED: usize = 20;
/// The time that cancelled tests have together to remove their directories when the registry goes. A directory that is
/// left goes with the next start of a test.
const ENDING: Duration = Duration::from_secs(1);

impl Tests {
    /// A registry without a test, for the telemetry that `observer` looks at.
    #[must_use]
    pub fn new(observer: Observer) -> Self {
        let (tests, loads, ids) = (Mutex::default(), AtomicUsize::new(0), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { observer, tests, loads, ids }) }
    }

    /// The telemetry that is tested.
    #[must_use]
    pub fn observer(&self) -> &Observer {
        &self.inner.observer
    }

    /// Starts a test and returns its id. Opens files and starts threads, which takes some milliseconds: on a runtime's
    /// worker use `spawn_blocking`.
    ///
    /// # Errors
    ///
    /// [`StartError`]: nothing was started.
    pub fn start(&self, plan: TestPlan) -> Result<String, StartError> {
        let (cancel, cancelled) = channel();
        let test = Arc::new(Test::new(self.new_id(), plan, cancel));
        // The place is taken before the pipeline is built, so that no two starts share the last one.
        self.admit(&test)?;
        let started = Pipeline::start(self.observer()).and_then(|pipeline| {
            let test = Arc::clone(&test);
            let thread = std::thread::Builder::new().name("holdfast-test".to_owned());
            thread.spawn(move || test.run(pipeline, &cancelled)).map_err(StartError::Thread)
        });
        match started {
            Ok(_) => Ok(test.id.clone()),
            Err(error) => {
                self.inner.tests().retain(|other| other.id != test.id);
                Err(error)
            }
        }
    }

    fn admit(&self, test: &Arc<Test>) -> Result<(), StartError> {
        let mut tests = self.inner.tests();
        let running = tests.iter().filter(|test| !test.state().has_ended()).count();
        if running >= CONCURRENT {
            return Err(StartError::TooMany { limit: CONCURRENT });
        }
        while tests.len() >= REMEMBERED {
            let Some(oldest) = tests.iter().position(|test| test.state().has_ended()) else { break };
            tests.remove(oldest);
        }
        tests.push_back(Arc::clone(test));
        Ok(())
    }

    /// The test of this id, with its figures. `None` for an id that was never given, or of a test that is forgotten.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<TestReport> {
        self.find(id).map(|test| test.report(true))
    }

    /// Cancels the test of this id, and returns its report without waiting for the end. A test that has ended stays as
    /// it is.
    pub fn cancel(&self, id: &str) -> Option<TestReport> {
        let test = self.find(id)?;
        test.cancel();
        Some(test.report(true))
    }

    /// Waits until the test of this id has ended, for `timeout` at most, and returns whether it has. Blocks the calling
    /// thread.
    #[must_use]
    pub fn wait(&self, id: &str, timeout: Duration) -> bool {
        self.find(id).is_some_and(|test| test.wait(timeout))
    }

    /// The tests that run and the last ones that have ended, newest first, without their figures.
    #[must_use]
    pub fn list(&self) -> Vec<TestReport> {
        let tests: Vec<_> = self.inner.tests().iter().rev().map(Arc::clone).collect();
        tests.iter().map(|test| test.report(false)).collect()
    }

    fn find(&self, id: &str) -> Option<Arc<Test>> {
        self.inner.tests().iter().find(|test| test.id == id).map(Arc::clone)
    }

    /// An id that no other test of this process has, nor, but for chance, one of another.
    pub(super) fn new_id(&self) -> String {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(self.inner.ids.fetch_add(1, Ordering::Relaxed));
        hasher.write_u32(std::process::id());
        format!("{:016x}", hasher.finish())
    }

    /// A place among the loads that run; dropping it gives the place back.
    pub(super) fn load_place(&self) -> Result<LoadPlace, StartError> {
        let take = |loads| (loads < CONCURRENT).then_some(loads + 1);
        match self.inner.loads.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            Ok(_) => Ok(LoadPlace(Arc::clone(&self.inner))),
            Err(_) => Err(StartError::TooMany { limit: CONCURRENT }),
        }
    }
}

impl fmt::Debug for Tests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tests").field("tests", &self.inner.tests().len()).finish_non_exhaustive()
    }
}

/// A load that runs.
pub(super) struct LoadPlace(Arc<Inner>);

impl Drop for LoadPlace {
    fn drop(&mut self) {
        self.0.loads.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Inner {
    fn tests(&self) -> MutexGuard<'_, VecDeque<Arc<Test>>> {
        self.tests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    /// A process that ends with its `main` would leave the scratch directories.
    fn drop(&mut self) {
        let tests = self.tests();
        tests.iter().for_each(|test| test.cancel());
        let begin = SystemClock.now();
        for test in tests.iter() {
            test.wait(ENDING.saturating_sub(SystemClock.now().saturating_duration_since(begin)));
        }
    }
}
