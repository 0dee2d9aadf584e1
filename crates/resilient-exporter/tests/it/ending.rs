//! The numbers in the error of a shutdown are those of the ledger at the instant at which the shutdown ended.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use mock_collector::{Answer, Behavior, MockCollector};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use otlp_payload::Payload;
use otlp_transport::{Cause, Outcome, Transport};
use resilient_exporter::{
    Change, Compression, Fallback, FallbackError, FallbackFormat, Fate, Handle, Ledger, Order, ReadBack,
    ResilientSpanExporter, ShutdownError, Stored, Usage,
};

use crate::support::{PATIENCE, eventually, http, now, quick, some_spans};

fn export(exporter: &ResilientSpanExporter, spans: Vec<SpanData>) {
    exporter.export(spans).now_or_never().expect("export never waits").expect("accepted");
}

/// Compares the error of the exporter, that of the handle and the ledger; returns dropped spans and those in memory.
/// No span of these tests is dropped before the shutdown.
#[track_caller]
fn assert_same(result: &OTelSdkResult, handle: &Handle, ledger: &Ledger) -> (u64, u64) {
    assert_eq!(ledger.imbalance(), 0, "{ledger:?}");
    let error = handle.shutdown_result().err().unwrap_or_default();
    assert_eq!((&error.dropped, error.in_memory), (&ledger.dropped, ledger.buffered + ledger.in_flight), "{ledger:?}");
    match result {
        Ok(()) => assert_eq!(error, ShutdownError::default()),
        Err(text) => assert!(text.to_string().contains(&error.to_string()), "{text}: {error}"),
    }
    (error.dropped.values().sum(), error.in_memory)
}

/// A store whose next write is blocked until the test lets it go.
struct Blocked {
    entered: Sender<()>,
    go_on: Receiver<Result<(), std::io::Error>>,
    stored: u64,
}

impl Blocked {
    fn new() -> (Self, Receiver<()>, Sender<Result<(), std::io::Error>>) {
        let ((entered, has_entered), (release, go_on)) = (channel(), channel());
        (Self { entered, go_on, stored: 0 }, has_entered, release)
    }
}

impl Fallback for Blocked {
    fn usage(&self) -> Usage {
        Usage { files: u64::from(self.stored > 0), spans: self.stored, bytes: self.stored }
    }

    fn store(&mut self, batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        let _ = self.entered.send(());
        match self.go_on.recv() {
            Ok(Ok(())) => {
                self.stored += batches.iter().map(|batch| batch.item_count() as u64).sum::<u64>();
                Ok(Stored { name: "store".to_owned() })
            }
            Ok(Err(error)) => Err(FallbackError::new(error)),
            Err(_) => Err(FallbackError::new(std::io::Error::other("the test has ended"))),
        }
    }

    fn read(&mut self, _order: Order, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
        Ok(ReadBack::Empty)
    }

    fn settle(&mut self, _fates: &[Fate]) -> Result<(), FallbackError> {
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
}

fn blocked_shutdown() -> (OTelSdkResult, Handle, Sender<Result<(), std::io::Error>>) {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let (store, has_entered, release) = Blocked::new();
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback(store);
    let exporter = quick(builder).build().expect("valid");
    let handle = exporter.handle();
    export(&exporter, some_spans(12));
    let result = exporter.shutdown_with_timeout(Duration::from_millis(400));
    has_entered.recv_timeout(PATIENCE).expect("the shutdown writes what it could not send");
    (result, handle, release)
}

#[test]
fn spans_whose_write_hangs_when_the_deadline_passes_are_lost_in_both() {
    let (result, handle, _release) = blocked_shutdown();
    assert_eq!(assert_same(&result, &handle, &handle.ledger()), (0, 12));
    let text = result.expect_err("12 spans are in memory only").to_string();
    assert!(text.contains("12 spans") && text.contains("more time"), "number and remedy: {text}");
}

#[test]
fn a_write_that_ends_after_the_deadline_moves_its_spans_to_the_files() {
    let (result, handle, release) = blocked_shutdown();
    let at_the_end = handle.ledger();
    release.send(Ok(())).expect("the store waits");
    eventually("the late write is counted", || handle.ledger().in_fallback == 12);
    assert_eq!((handle.ledger().buffered, handle.ledger().lost(), handle.ledger().imbalance()), (0, 0, 0));
    assert_eq!(assert_same(&result, &handle, &at_the_end), (0, 12), "the result of the shutdown stays");
}

#[test]
fn a_write_that_fails_after_the_deadline_drops_the_spans_that_the_error_counts() {
    let (result, handle, release) = blocked_shutdown();
    let at_the_end = handle.ledger();
    release.send(Err(std::io::Error::other("disk on fire"))).expect("the store waits");
    eventually("the late failure is counted", || handle.ledger().dropped.get("shutdown") == Some(&12));
    assert_eq!((handle.ledger().buffered, handle.ledger().imbalance()), (0, 0));
    assert_eq!(assert_same(&result, &handle, &at_the_end), (0, 12), "the result of the shutdown stays");
}

#[test]
fn a_shutdown_whose_write_fails_names_the_dropped_spans() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let (store, _, release) = Blocked::new();
    // The write fails at once, and each later one.
    drop(release);
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback(store);
    let exporter = quick(builder).build().expect("valid");
    let handle = exporter.handle();
    export(&exporter, some_spans(12));
    let result = exporter.shutdown();
    assert_eq!(assert_same(&result, &handle, &handle.ledger()), (12, 0));
}

#[test]
fn spans_whose_write_hangs_are_safe_in_the_journal_that_is_synced() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let state = tempfile::tempdir().expect("temp dir");
    let (store, has_entered, release) = Blocked::new();
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback(store);
    let builder = quick(builder).with_state_dir(state.path()).with_journal_enabled(true);
    let exporter = builder.with_journal_sync_timeout(PATIENCE).build().expect("valid");
    let handle = exporter.handle();
    export(&exporter, some_spans(12));
    assert_eq!(handle.shutdown_result(), Ok(()), "the journal is synced");
    exporter.shutdown_with_timeout(Duration::from_millis(400)).expect("the next start recovers all");
    has_entered.recv_timeout(PATIENCE).expect("the shutdown writes what it could not send");
    assert_eq!((handle.ledger().buffered, handle.ledger().lost(), handle.ledger().imbalance()), (12, 0, 0));
    assert_eq!(handle.shutdown_result(), Ok(()));
    release.send(Ok(())).expect("the store waits");
    eventually("the late write is counted", || handle.ledger().in_fallback == 12);
}

#[test]
fn before_a_shutdown_the_result_counts_the_spans_that_the_end_of_the_process_loses() {
    let collector = MockCollector::start().expect("loopback");
    collector.set(Behavior::never_answer());
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback_enabled(false);
    let exporter = quick(builder).build().expect("valid");
    let handle = exporter.handle();
    assert_eq!(handle.shutdown_result(), Ok(()));
    export(&exporter, some_spans(12));
    eventually("the batch is in flight", || handle.ledger().in_flight == 12);
    assert_eq!(handle.shutdown_result().expect_err("12 spans are in memory only").in_memory, 12);
    let result = exporter.shutdown_with_timeout(Duration::from_millis(100));
    assert_eq!(assert_same(&result, &handle, &handle.ledger()), (12, 0));
    assert!(matches!(exporter.shutdown(), Err(OTelSdkError::AlreadyShutdown)));
    // Spans of later calls are refused, and no part of the shutdown.
    assert!(exporter.export(some_spans(3)).now_or_never().expect("export never waits").is_err());
    assert_eq!(assert_same(&result, &handle, &handle.ledger()), (12, 0));
}

#[test]
fn an_exporter_that_is_dropped_leaves_its_result_to_the_handle() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback_enabled(false);
    let exporter = quick(builder).shutdown(|shutdown| shutdown.timeout = Duration::from_millis(100)).build();
    let exporter = exporter.expect("valid");
    let handle = exporter.handle();
    export(&exporter, some_spans(12));
    drop(exporter);
    let error = handle.shutdown_result().expect_err("12 spans are dropped");
    assert_eq!((error.dropped, error.in_memory), (handle.ledger().dropped, 0));
}

#[test]
fn a_flush_ends_with_the_shutdown_that_it_meets() {
    const LONG: Duration = Duration::from_secs(20);
    let collector = MockCollector::start().expect("loopback");
    collector.set(Behavior::never_answer());
    let state = tempfile::tempdir().expect("temp dir");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_state_dir(state.path());
    let exporter = quick(builder).build().expect("valid");
    let handle = exporter.handle();
    export(&exporter, some_spans(12));
    let start = now();
    let error = std::thread::scope(|scope| {
        let flush = scope.spawn(|| handle.settled(LONG));
        exporter.shutdown_with_timeout(Duration::from_millis(1_500)).expect("the spans are in a file");
        flush.join().expect("no panic").expect_err("no thread is left to deliver them")
    });
    assert_eq!((error.buffered, error.in_fallback), (0, 12));
    assert_eq!(handle.settled(LONG), Err(error), "a later flush does not wait either");
    exporter.force_flush().expect("the spans are in a file");
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

#[test]
fn spans_that_a_shutdown_writes_beyond_the_limit_of_the_files_are_lost_in_both() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let state = tempfile::tempdir().expect("temp dir");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_state_dir(state.path());
    let builder = quick(builder)
        .with_fallback_format(FallbackFormat::Protobuf)
        .with_fallback_max_bytes(4 << 20)
        .with_fallback_compression(Compression::Never);
    let exporter = builder.build().expect("valid");
    let handle = exporter.handle();
    for _ in 0..3 {
        // 3 MB each: two such batches do not share a file, and the limit has room for one file.
        let mut spans = some_spans(30);
        for span in &mut spans {
            let noise: String = (0..100_000_u64).map(|at| char::from(b'a' + (at * at % 23) as u8)).collect();
            span.attributes.push(opentelemetry::KeyValue::new("text", noise));
        }
        export(&exporter, spans);
    }
    assert_eq!(handle.ledger().dropped.values().sum::<u64>(), 0, "all wait in memory");
    let result = exporter.shutdown();
    assert!(
        handle.ledger().dropped.values().sum::<u64>() > 0,
        "the limit has room for one file of three: {:?}",
        handle.ledger()
    );
    assert_same(&result, &handle, &handle.ledger());
}

#[test]
fn beside_a_disk_that_hangs_a_shutdown_sends_all_that_the_disk_does_not_have() {
    let collector = MockCollector::start().expect("loopback");
    collector.set(Behavior::answer(Answer::http(429).with_retry_after(PATIENCE)));
    let (store, has_entered, _release) = Blocked::new();
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback(store);
    let exporter = quick(builder).with_buffer_size(100).build().expect("valid");
    let handle = exporter.handle();
    for _ in 0..9 {
        export(&exporter, some_spans(10));
    }
    has_entered.recv_timeout(PATIENCE).expect("seven eighths of the buffer are full");
    let says_so = |issue: &String| issue.contains("check the disk");
    eventually("health reports the disk", || handle.health().issues.iter().any(says_so));
    collector.set(Behavior::accept());
    let result = exporter.shutdown_with_timeout(Duration::from_secs(3));
    let ledger = handle.ledger();
    assert!(ledger.delivered >= 60 && ledger.buffered > 0, "{ledger:?}");
    assert_eq!(assert_same(&result, &handle, &ledger), (0, 90 - ledger.delivered));
}

/// Answers its call once the test says so: a span of this size is accepted nowhere.
struct Late(tokio::sync::Semaphore);

#[async_trait]
impl Transport for &'static Late {
    async fn send(&self, _payload: &Payload) -> Outcome {
        let _permit = self.0.acquire().await;
        Outcome::TooLarge { cause: Cause::Http { status: 413, message: String::new() }, possible_duplicate: false }
    }

    fn endpoint(&self) -> &str {
        "late"
    }
}

#[test]
fn spans_that_are_refused_for_good_during_a_shutdown_are_lost_in_both() {
    let transport: &'static Late = Box::leak(Box::new(Late(tokio::sync::Semaphore::new(0))));
    let builder = ResilientSpanExporter::builder().with_primary(transport).with_fallback_enabled(false);
    let exporter = quick(builder).build().expect("valid");
    let handle = exporter.handle();
    export(&exporter, some_spans(1));
    eventually("the span is in flight", || handle.ledger().in_flight == 1);
    let result = std::thread::scope(|scope| {
        let shutdown = scope.spawn(|| exporter.shutdown());
        eventually("the shutdown has begun", || {
            exporter.export(some_spans(1)).now_or_never().expect("export never waits").is_err()
        });
        transport.0.add_permits(9_999);
        shutdown.join().expect("no panic")
    });
    assert_same(&result, &handle, &handle.ledger());
}
