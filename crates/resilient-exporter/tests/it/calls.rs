//! The durations of calls, their observers, and the numbers of memory, storage, waits and wake-ups beside them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use mock_collector::MockCollector;
use resilient_exporter::{CallEnded, CallResult, Clock, ResilientSpanExporter, SystemClock};

use crate::support::{App, PATIENCE, grpc, quick};

#[test]
fn each_call_is_counted_and_observed_once_by_its_result() {
    let collector = MockCollector::start().expect("loopback");
    let builder = ResilientSpanExporter::builder().with_primary(grpc(&collector));
    let exporter = quick(builder).with_buffer_size(2_000).build().expect("valid");
    let mut app = App::new(exporter);
    let seen = Arc::new(Mutex::new(Vec::<CallEnded>::new()));
    let into = Arc::clone(&seen);
    let observer: Arc<dyn Fn(CallEnded) + Send + Sync> = Arc::new(move |call| {
        into.lock().expect("no panic").push(call);
    });
    app.handle.observe_calls(&observer);
    app.trace(100);
    app.assert_delivered(&collector);
    collector.stop();
    app.trace(100);
    app.wait_until("a call fails, and the endpoint waits", |handle| {
        let health = handle.health();
        health.metrics.failed_exports > 0 && health.collectors[0].wait.is_some()
    });
    let health = app.handle.health();
    let (memory, wakeups) = (health.memory, health.wakeups);
    assert!(memory.spans <= 100 && memory.bytes > 0 && memory.max_spans == 2_000, "{memory:?}");
    assert!(wakeups.net > 0 && wakeups.disk == 0 && wakeups.journal == 0, "{wakeups:?}");
    assert!(health.uptime > Duration::ZERO);
    app.wait_until("observers are told of all calls that are counted", |handle| {
        let counted: u64 = handle.health().calls.iter().map(|calls| calls.count()).sum();
        seen.lock().expect("no panic").len() as u64 == counted
    });
    let health = app.handle.health();
    let of = |result| health.calls.iter().find(|calls| calls.result == result);
    assert_eq!(of(CallResult::Accepted).expect("accepted calls").count(), health.metrics.successful_exports);
    let failed: u64 = health.calls.iter().filter(|calls| calls.result != CallResult::Accepted).map(|c| c.count()).sum();
    assert!(failed > 0 && failed <= app.handle.health().metrics.failed_exports);
    assert!(of(CallResult::Refused).is_none(), "results without a call are left out");
    drop(observer);
    collector.start_again().expect("the same ports");
    app.assert_delivered(&collector);
}

/// The system's clocks; the wall clock is an hour ahead once a test says so.
#[derive(Clone, Default)]
struct Later(Arc<AtomicBool>);

impl Clock for Later {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn wall(&self) -> SystemTime {
        SystemClock.wall() + Duration::from_secs(if self.0.load(Ordering::Acquire) { 3_600 } else { 0 })
    }
}

#[test]
fn storage_fills_up_while_files_wait_and_no_longer() {
    let collector = MockCollector::start().expect("loopback");
    let (state, clock) = (tempfile::tempdir().expect("temp dir"), Later::default());
    let builder = ResilientSpanExporter::builder().with_primary(grpc(&collector)).with_clock(clock.clone());
    let builder = quick(builder).with_state_dir(state.path().join("state")).with_buffer_size(100);
    let mut app = App::new(builder.build().expect("valid"));
    collector.stop();
    for _ in 0..4 {
        app.trace(50);
    }
    app.wait_until("files wait, and there is a forecast", |handle| {
        let storage = handle.health().storage;
        storage.fallback.is_some_and(|files| files.files > 0) && storage.full_in.is_some()
    });
    collector.start_again().expect("the same ports");
    app.handle.settled(PATIENCE).expect("the collector takes all");
    app.wait_until("no file waits", |handle| handle.health().storage.fallback.is_some_and(|files| files.files == 0));
    // The disk thread sleeps from now on: nothing corrects a forecast of the outage.
    clock.0.store(true, Ordering::Release);
    assert_eq!(app.handle.health().storage.full_in, None);
}

#[test]
fn lateness_is_the_time_from_the_end_of_the_newest_span_to_its_acknowledgement_files_included() {
    let collector = MockCollector::start().expect("loopback");
    let (state, clock) = (tempfile::tempdir().expect("temp dir"), Later::default());
    let builder = ResilientSpanExporter::builder().with_primary(grpc(&collector)).with_clock(clock.clone());
    let builder = quick(builder).with_state_dir(state.path().join("state"));
    let mut app = App::new(builder.build().expect("valid"));
    assert_eq!((app.handle.health().lateness.count(), app.handle.health().lateness.recent), (0, None));
    let told = Arc::new(Mutex::new(Vec::<Duration>::new()));
    let into = Arc::clone(&told);
    let observer: Arc<dyn Fn(CallEnded) + Send + Sync> = Arc::new(move |call| {
        into.lock().expect("no panic").extend(call.lateness);
    });
    app.handle.observe_calls(&observer);
    app.trace(50);
    app.assert_delivered(&collector);
    let lateness = app.handle.health().lateness;
    assert!(lateness.count() == 1 && lateness.recent < Some(PATIENCE), "{lateness:?}");
    collector.stop();
    app.trace(50);
    app.handle.flush(PATIENCE).expect("a file has them");
    app.trace(50);
    clock.0.store(true, Ordering::Release);
    collector.start_again().expect("the same ports");
    app.assert_delivered(&collector);
    let lateness = app.handle.health().lateness;
    let an_hour = resilient_exporter::Lateness::BOUNDS.iter().position(|bound| *bound == 14_400.0).expect("a bound");
    assert!(lateness.counts[an_hour] >= 2, "the batches of memory and of the file: {lateness:?}");
    assert!(lateness.recent >= Some(Duration::from_secs(3_600)), "{lateness:?}");
    app.wait_until("observers are told of the lateness of each batch", |handle| {
        let told = told.lock().expect("no panic");
        let lateness = handle.health().lateness;
        told.len() as u64 == lateness.count() && told.iter().sum::<Duration>() == lateness.sum
    });
}

#[test]
fn the_oldest_batch_that_waits_is_shown_in_memory_in_a_file_and_in_the_file_of_an_ended_process() {
    let hour = Duration::from_secs(3_600);
    let collector = MockCollector::start().expect("loopback");
    let (state, clock) = (tempfile::tempdir().expect("temp dir"), Later::default());
    let build = || {
        let builder = ResilientSpanExporter::builder().with_primary(grpc(&collector)).with_clock(clock.clone());
        App::new(quick(builder).with_state_dir(state.path().join("state")).build().expect("valid"))
    };
    let mut app = build();
    assert_eq!(app.handle.health().oldest_waiting, None);
    collector.stop();
    app.trace(50);
    let waiting = app.handle.health().oldest_waiting;
    assert!(waiting < Some(PATIENCE) && waiting.is_some(), "{waiting:?}");
    app.handle.flush(PATIENCE).expect("a file has them");
    clock.0.store(true, Ordering::Release);
    app.wait_until("the file waits", |handle| handle.health().oldest_waiting >= Some(hour));
    let json = serde_json::to_value(app.handle.health()).expect("serializes");
    assert!(json["oldest_waiting_seconds"].as_f64() >= Some(3_600.0), "{json}");
    app.shutdown().expect("the file stays");
    let app = build();
    app.wait_until("the file of the ended process waits", |handle| handle.health().oldest_waiting >= Some(hour));
    collector.start_again().expect("the same ports");
    app.assert_delivered(&collector);
    app.wait_until("nothing waits", |handle| handle.health().oldest_waiting.is_none());
}
