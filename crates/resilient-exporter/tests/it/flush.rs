//! Flush and checkpoint: each span that was accepted before is at the collector or on the disk when they return.

use std::pin::pin;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use mock_collector::{Behavior, MockCollector};
use otlp_payload::Payload;
use otlp_transport::{Cause, Outcome, Transport};
use parking_lot::Mutex;
use resilient_exporter::{Clock, FlushError, Handle, ResilientSpanExporter, WaitFailure};
use tempfile::TempDir;

use crate::support::{App, PATIENCE, copy, eventually, http, now, quick};

fn app(collector: &MockCollector, state: &TempDir) -> App {
    let builder = ResilientSpanExporter::builder().with_primary(http(collector)).with_state_dir(state.path());
    App::new(quick(builder).build().expect("valid"))
}

#[test]
fn spans_of_a_collector_that_hangs_survive_a_kill_after_the_flush() {
    const BOUND: Duration = Duration::from_secs(4);
    let collector = MockCollector::start().expect("loopback");
    collector.set(Behavior::never_answer());
    let (state, left) = (tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir"));
    let mut first = app(&collector, &state);
    first.trace(2_000);
    let start = now();
    first.handle.flush(BOUND).expect("safe on the disk");
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    copy(state.path(), &left.path().join("copy"));
    let health = first.handle.health();
    let ledger = &health.ledger;
    // The replay may be in a call already: its spans stay in the file until the answer.
    assert_eq!((ledger.in_fallback, ledger.buffered, ledger.in_flight, ledger.imbalance()), (2_000, 0, 0, 0));
    assert!(health.possible_duplicates >= 512, "the batch of the call that was given up: {health:?}");

    let collector = MockCollector::start().expect("loopback");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector));
    let second = App::new(quick(builder).with_state_dir(left.path().join("copy")).build().expect("valid"));
    second.assert_delivered(&collector);
    assert_eq!(first.missing(&[&collector]), 0, "{:?}", second.handle.ledger());
}

#[test]
fn a_flush_in_durable_mode_leaves_the_spans_to_the_journal() {
    let collector = MockCollector::start().expect("loopback");
    collector.set(Behavior::never_answer());
    let state = tempfile::tempdir().expect("temp dir");
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector))).with_state_dir(state.path());
    let exporter = builder.with_journal_enabled(true).with_journal_sync_timeout(PATIENCE).build().expect("valid");
    let mut app = App::new(exporter);
    app.trace(1_000);
    app.handle.flush(Duration::from_secs(2)).expect("the journal has them");
    let health = app.handle.health();
    assert_eq!((health.metrics.fallback_usage, health.possible_duplicates), (0, 0), "no file, no second call");
}

#[test]
fn a_checkpoint_passes_an_open_breaker_and_a_flush_does_not() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let state = tempfile::tempdir().expect("temp dir");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_state_dir(state.path());
    let builder = quick(builder).with_circuit_breaker_timeout(Duration::from_secs(3_600));
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(10);
    app.wait_until("the breaker opens", |handle| handle.health().metrics.circuit_breaker_trips == 1);
    let start = now();
    app.handle.flush(PATIENCE).expect("safe on the disk");
    assert_eq!(app.handle.ledger().in_fallback, 10);
    app.trace(10);
    app.handle.checkpoint(PATIENCE).expect("safe on the disk");
    assert_eq!(app.handle.ledger().in_fallback, 20);
    collector.start_again().expect("the same ports");
    app.trace(10);
    app.handle.checkpoint(PATIENCE).expect("delivered");
    assert!(app.handle.ledger().delivered >= 10, "{:?}", app.handle.ledger());
    assert!(start.elapsed() < PATIENCE / 2, "no call waits for its bound: {:?}", start.elapsed());
    app.assert_delivered(&collector);
}

#[test]
fn without_files_a_flush_counts_the_spans_that_only_memory_has() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector))).with_fallback_enabled(false);
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(10);
    let error = app.handle.flush(Duration::from_millis(100)).expect_err("no place");
    assert_eq!((error.in_memory, error.failure), (10, WaitFailure::TimedOut));
    assert_eq!(error.to_string(), "the flush ended early, since its time was over: 10 spans are in memory only");
    collector.start_again().expect("the same ports");
    app.handle.flush(PATIENCE).expect("delivered");
    assert_eq!(app.missing(&[&collector]), 0);
}

#[test]
fn a_flush_that_meets_a_shutdown_ends_with_it_and_its_spans_are_safe() {
    let collector = MockCollector::start().expect("loopback");
    collector.set(Behavior::never_answer());
    let state = tempfile::tempdir().expect("temp dir");
    let mut app = app(&collector, &state);
    app.trace(12);
    let handle = app.handle.clone();
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| handle.flush(PATIENCE));
        app.shutdown().expect("the spans are in a file");
        flush.join().expect("no panic").expect("the spans are in a file");
    });
    app.handle.flush(PATIENCE).expect("nothing is in memory");
    assert_eq!(app.handle.ledger().in_fallback, 12);
}

/// A transport that asks for a flush, as the code of a user's on a thread of the exporter's may.
#[derive(Default)]
struct Asking {
    handle: OnceLock<Handle>,
    told: Mutex<Vec<WaitFailure>>,
}

#[async_trait]
impl Transport for Asking {
    async fn send(&self, _: &Payload) -> Outcome {
        if let Some(handle) = self.handle.get() {
            assert!(handle.is_own_thread());
            let failure = |error: FlushError| error.failure;
            let told = [
                handle.flush(PATIENCE).map_err(failure),
                handle.checkpoint(PATIENCE).map_err(failure),
                handle.settled(PATIENCE).map_err(|error| error.failure),
                handle.flush_async(PATIENCE).await.map_err(failure),
                handle.checkpoint_async(PATIENCE).await.map_err(failure),
                handle.settled_async(PATIENCE).await.map_err(|error| error.failure),
            ];
            self.told.lock().extend(told.into_iter().filter_map(Result::err));
        }
        Outcome::Retryable { after: None, cause: Cause::Connect("a test".to_owned()), possible_duplicate: false }
    }

    fn endpoint(&self) -> &str {
        "asking"
    }
}

#[test]
fn each_wait_on_a_thread_of_the_exporters_ends_at_once() {
    let asking = Arc::new(Asking::default());
    let state = tempfile::tempdir().expect("temp dir");
    let primary: Box<dyn Transport> = Box::new(Arc::clone(&asking));
    let builder = ResilientSpanExporter::builder().with_primary(primary).with_state_dir(state.path());
    let exporter = quick(builder).build().expect("valid");
    asking.handle.set(exporter.handle()).unwrap_or_else(|_| unreachable!("set once"));
    assert!(!exporter.handle().is_own_thread());
    let mut app = App::new(exporter);
    let start = now();
    app.trace(3);
    eventually("a call", || asking.told.lock().len() >= 6);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    assert!(asking.told.lock().iter().all(|failure| *failure == WaitFailure::OwnThread));
    app.handle.flush(PATIENCE).expect("on this thread it works");
}

/// Runs a future on this thread, without a runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        std::thread::park();
    }
}

#[test]
fn the_async_forms_block_no_worker_and_need_no_runtime() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let mut app = app(&collector, &state);
    collector.stop();
    app.trace(10);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (settled, ()) = runtime.block_on(async {
        // Were the only worker blocked, the collector would not start.
        let start_again = async { collector.start_again().expect("the same ports") };
        tokio::join!(app.handle.settled_async(PATIENCE), start_again)
    });
    settled.expect("delivered");
    assert_eq!(app.missing(&[&collector]), 0);

    collector.set(Behavior::never_answer());
    app.trace(10);
    block_on(app.handle.flush_async(Duration::from_secs(1))).expect("safe");
    assert_eq!(app.handle.ledger().in_fallback, 10);
    app.trace(10);
    block_on(app.handle.checkpoint_async(Duration::from_secs(1))).expect("safe");
    assert_eq!(app.handle.ledger().in_fallback, 20);

    // A future that is dropped after its first poll.
    app.trace(10);
    {
        let mut flush = pin!(app.handle.flush_async(Duration::from_millis(200)));
        assert!(flush.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    app.wait_until("its thread waits on", |handle| handle.ledger().in_fallback == 30);
}

/// Two threads trace, two flush, and the collector comes and goes.
#[test]
fn flushes_beside_exports_lose_nothing_and_count_each_duplicate() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let mut app = app(&collector, &state);
    let handle = app.handle.clone();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for verb in [Handle::flush, Handle::checkpoint] {
            let (handle, is_done) = (&handle, &is_done);
            scope.spawn(move || {
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    verb(handle, PATIENCE).expect("answered or safe");
                }
            });
        }
        for round in 0..30 {
            match round % 3 {
                0 => collector.set(Behavior::never_answer()),
                1 => collector.stop(),
                _ => {
                    collector.set(Behavior::accept());
                    collector.start_again().expect("the same ports");
                }
            }
            app.trace(100);
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    app.assert_delivered(&collector);
    let (received, health) = (collector.received(), app.handle.health());
    assert!(received.duplicates <= health.possible_duplicates, "{received:?}: {health:?}");
}

/// A clock that asks the exporter, as one that writes to a log of the user's may.
#[derive(Clone, Default)]
struct AskingClock(Arc<OnceLock<Handle>>);

impl Clock for AskingClock {
    fn now(&self) -> Instant {
        self.0.get().map(Handle::ledger);
        now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }
}

#[test]
fn a_flush_reads_the_clock_outside_of_all_locks() {
    let collector = MockCollector::start().expect("loopback");
    collector.set(Behavior::never_answer());
    let (state, clock) = (tempfile::tempdir().expect("temp dir"), AskingClock::default());
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_state_dir(state.path());
    let mut app = App::new(quick(builder).with_clock(clock.clone()).build().expect("valid"));
    clock.0.set(app.handle.clone()).unwrap_or_else(|_| unreachable!("set once"));
    app.trace(10);
    let (handle, (done, ended)) = (app.handle.clone(), channel());
    // A thread that waits for itself is left behind.
    std::thread::spawn(move || done.send(handle.flush(Duration::from_secs(1))));
    ended.recv_timeout(PATIENCE).expect("it ends").expect("safe");
}

#[test]
fn a_flush_without_an_end_waits_for_a_retry() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let state = tempfile::tempdir().expect("temp dir");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_state_dir(state.path());
    let builder = builder.with_retry_initial_delay(Duration::from_secs(1));
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(10);
    app.wait_until("a failure", |handle| handle.health().metrics.failed_exports > 0);
    collector.start_again().expect("the same ports");
    app.handle.flush(Duration::MAX).expect("delivered");
    let ledger = app.handle.ledger();
    assert_eq!((ledger.delivered, ledger.in_fallback), (10, 0), "{ledger:?}");
}

/// Without files a shutdown has no place for what the collector does not take.
#[test]
fn a_flush_whose_spans_are_dropped_meanwhile_says_so() {
    let collector = MockCollector::start().expect("loopback");
    // The shutdown waits for an answer until its time is over.
    collector.set(Behavior::never_answer());
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector))).with_fallback_enabled(false);
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(12);
    let handle = app.handle.clone();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let error = std::thread::scope(|scope| {
        let flush = scope.spawn(move || {
            begun.send(()).expect("it is awaited");
            handle.flush(PATIENCE)
        });
        has_begun.recv().expect("a thread");
        // The SDK discards the result of the exporter.
        app.shutdown().expect("the SDK ends");
        flush.join().expect("no panic")
    });
    let error = error.expect_err("dropped");
    assert_eq!((error.in_memory, error.failure), (0, WaitFailure::Dropped { spans: 12 }), "{error}");
    assert!(error.to_string().contains("12 spans were dropped"), "{error}");
    assert_eq!(app.handle.ledger().dropped.get("shutdown"), Some(&12));
}

/// A transport whose calls never end by themselves, and that counts those that are ended.
#[derive(Default)]
struct Silent(Arc<std::sync::atomic::AtomicUsize>);

struct Ended(Arc<std::sync::atomic::AtomicUsize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[async_trait]
impl Transport for Silent {
    async fn send(&self, _: &Payload) -> Outcome {
        let _ended = Ended(Arc::clone(&self.0));
        std::future::pending().await
    }

    fn endpoint(&self) -> &str {
        "silent"
    }
}

#[test]
fn a_call_that_a_flush_gives_up_is_ended() {
    let silent = Silent::default();
    let ended = Arc::clone(&silent.0);
    let state = tempfile::tempdir().expect("temp dir");
    let primary: Box<dyn Transport> = Box::new(silent);
    let builder = ResilientSpanExporter::builder().with_primary(primary).with_state_dir(state.path());
    let builder = quick(builder).with_attempt_timeout(Duration::from_secs(3_600));
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(10);
    app.wait_until("a call", |handle| handle.ledger().in_flight == 10);
    app.handle.flush(Duration::from_secs(1)).expect("in a file");
    eventually("the call is ended", || ended.load(std::sync::atomic::Ordering::Relaxed) >= 1);
}
