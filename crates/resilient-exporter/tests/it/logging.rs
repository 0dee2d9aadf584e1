//! The log: a subscriber that panics at each line costs nothing, and each kind of warning has few lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use mock_collector::{Answer, Behavior, MockCollector};
use opentelemetry_sdk::trace::SpanExporter as _;
use otlp_payload::Payload;
use otlp_transport::{Outcome, Transport};
use resilient_exporter::{Event, RefuseReason, ResilientSpanExporter, Status, StorageNote};

use crate::log;
use crate::support::{App, PATIENCE, eventually, http, quick, some_spans};

#[test]
fn a_log_that_panics_loses_no_span_no_mark_and_no_event() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector)));
    let exporter = builder.with_buffer_size(2_000).with_state_dir(state.path().join("state")).build().expect("valid");
    let mut app = App::new(exporter);
    let (events, before) = (app.handle.subscribe(), log::panics());
    let mut kinds = BTreeMap::new();
    let count = |kinds: &mut BTreeMap<&'static str, usize>| {
        for event in events.try_iter() {
            let (kind, spans) = match event {
                Event::Spilled { spans, .. } => ("spilled", spans),
                Event::Replayed { .. } => ("replayed", 0),
                Event::DeadLettered { spans, .. } => ("dead-lettered", spans),
                Event::Redriven { spans } => ("redriven", spans),
                Event::Breaker { .. } => ("breaker", 0),
                _ => ("other", 0),
            };
            *kinds.entry(kind).or_insert(0) += spans;
        }
    };

    // Spills, the breaker's moves, replay.
    collector.stop();
    for _ in 0..12 {
        app.trace(500);
        app.wait_until("the disk thread writes the surplus", |handle| {
            count(&mut kinds);
            handle.ledger().buffered < 1_500
        });
    }
    app.wait_until("spilled", |handle| handle.ledger().in_fallback > 0);
    collector.start_again().expect("the same ports");
    app.assert_delivered(&collector);
    let duplicates = app.handle.health().possible_duplicates;
    assert!(collector.received().duplicates <= duplicates, "a mark is lost: {:?}", collector.received());

    // A dead letter, and its way back.
    collector.set_next(1, Behavior::answer(Answer::http(400).with_message("no such tenant")));
    let failed = app.handle.health().metrics.failed_exports;
    app.trace(7);
    app.wait_until("the refusal", |handle| handle.health().metrics.failed_exports > failed);
    app.trace(5);
    app.wait_until("a dead letter", |handle| handle.ledger().dead_lettered == 7);
    let report = app.handle.redrive_all();
    assert_eq!((report.letters, report.spans), (1, 7), "{report:?}");
    app.handle.settled(PATIENCE).expect("delivered");
    assert_eq!(app.missing(&[&collector]), 0);
    let ledger = app.handle.ledger();
    assert_eq!((ledger.imbalance(), ledger.lost(), ledger.redriven), (0, 0, 7), "{ledger:?}");
    app.shutdown().expect("nothing waits");

    count(&mut kinds);
    assert!(kinds["spilled"] >= 4_000 && kinds.contains_key("replayed") && kinds.contains_key("breaker"), "{kinds:?}");
    assert_eq!((kinds["dead-lettered"], kinds["redriven"]), (7, 7));
    assert!(log::panics() > before, "the log has panicked");
}

#[test]
fn a_log_that_panics_loses_no_drop() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback_enabled(false);
    let exporter = quick(builder).with_buffer_size(100).build().expect("valid");
    let (handle, before) = (exporter.handle(), log::panics());
    let events = handle.subscribe();
    for _ in 0..50 {
        exporter.export(some_spans(20)).now_or_never().expect("export never waits").expect("accepted");
    }
    drop(exporter);
    let ledger = handle.ledger();
    assert_eq!((ledger.imbalance(), ledger.lost(), ledger.buffered + ledger.in_flight), (0, 1_000, 0), "{ledger:?}");
    let dropped = events.try_iter().filter_map(|event| match event {
        Event::Dropped { spans, .. } => Some(spans as u64),
        _ => None,
    });
    assert_eq!(dropped.sum::<u64>(), 1_000);
    assert!(log::panics() > before, "the log has panicked");
}

/// A transport whose first call never answers and panics when it is abandoned; later calls deliver.
struct PanicOnDrop(Arc<AtomicUsize>);

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a bug of the user's");
    }
}

#[async_trait]
impl Transport for PanicOnDrop {
    async fn send(&self, _payload: &Payload) -> Outcome {
        if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
            let _bomb = Bomb;
            std::future::pending::<()>().await;
        }
        Outcome::Delivered { rejected: 0, message: None }
    }

    fn endpoint(&self) -> &str {
        "panics-on-drop"
    }
}

#[test]
fn the_net_thread_goes_on_after_a_panic_although_its_line_panics_too() {
    let calls = Arc::new(AtomicUsize::new(0));
    let builder = quick(ResilientSpanExporter::builder().with_primary(PanicOnDrop(Arc::clone(&calls))));
    let mut app = App::new(builder.with_attempt_timeout(Duration::from_millis(50)).build().expect("valid"));
    app.trace(5);
    app.handle.settled(PATIENCE).expect("delivered by the second call");
    let ledger = app.handle.ledger();
    assert_eq!((ledger.delivered, ledger.imbalance(), calls.load(Ordering::Relaxed)), (5, 0, 2), "{ledger:?}");
    assert_ne!(log::warnings_about("the net thread panicked"), Vec::<String>::new());
}

#[test]
fn many_warnings_of_a_kind_are_few_lines_with_sums_and_a_subscriber_has_each_event() {
    let collector = MockCollector::start().expect("loopback");
    collector.set(Behavior::reject(1, "quota of tenant seven"));
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector)));
    let exporter = builder.build().expect("valid");
    let handle = exporter.handle();
    let events = handle.subscribe();
    for number in 1..=60 {
        exporter.export(some_spans(2)).now_or_never().expect("export never waits").expect("accepted");
        eventually("the answer", || handle.ledger().rejected == number);
    }
    let rejected = |event: &Event| matches!(event, Event::Rejected { spans: 1, .. });
    let mut told = 0;
    eventually("each event", || {
        told += events.try_iter().filter(rejected).count();
        told == 60
    });
    exporter.shutdown().expect("nothing waits");
    let lines = log::warnings_about("quota of tenant seven");
    // One at once, one in ten seconds, one at the end.
    assert!((2..=8).contains(&lines.len()), "{lines:?}");
    let sum = |name: &str| {
        let numbers = lines.iter().filter_map(|line| line.split(&format!("{name}=")).nth(1)?.split(' ').next());
        numbers.map(|number| number.parse::<usize>().expect("a number")).sum::<usize>()
    };
    assert_eq!((sum("spans"), sum("suppressed") + lines.len()), (60, 60), "{lines:?}");
}

#[test]
fn spans_that_are_not_accepted_are_told() {
    let collector = MockCollector::start().expect("loopback");
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector)));
    let exporter = builder.with_buffer_max_bytes(10_000).build().expect("valid");
    let handle = exporter.handle();
    let events = handle.subscribe();
    let mut spans = some_spans(2);
    spans[1].attributes.push(opentelemetry::KeyValue::new("text", "x".repeat(20_000)));
    assert!(exporter.export(spans).now_or_never().expect("export never waits").is_err());
    let ledger = handle.ledger();
    assert_eq!((ledger.refused["larger_than_buffer"], ledger.imbalance()), (1, 0), "{ledger:?}");
    let told = |event: Event| matches!(event, Event::NotAccepted { spans: 1, reason: RefuseReason::LargerThanBuffer });
    assert!(events.try_iter().any(told));
    let health = handle.health();
    assert_eq!(health.status, Status::Unhealthy);
    assert!(health.issues[0].contains("1 spans were not accepted within 5 min (larger_than_buffer)"), "{health:?}");
    exporter.shutdown().expect("nothing waits");
    let lines = log::warnings_about("spans were not accepted");
    assert!(
        lines.iter().any(|line| line.contains("larger_than_buffer") && line.contains("maximum bytes")),
        "{lines:?}"
    );
}

#[test]
fn a_program_can_log_the_warnings_of_the_start_again() {
    let collector = MockCollector::start().expect("loopback");
    let builder = || quick(ResilientSpanExporter::builder().with_primary(http(&collector)));
    let note = StorageNote::new("7 spans of \"start-warnings\" wait", "start their service once");
    let exporter = builder().with_storage_notes([note.clone()]).with_journal_enabled(true).build().expect("valid");
    let warnings = exporter.start_warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert_eq!(warnings[0], note.to_string());
    assert_eq!(log::warnings_about("start-warnings").len(), 1);
    for (warning, part) in warnings[1..].iter().zip(["durable mode is off", "no directory"]) {
        assert!(warning.contains(part), "{warning}");
        // Other tests have them too.
        assert!(!log::warnings_about(warning).is_empty(), "the log has it: {warning}");
    }
    let quiet = builder().with_fallback_enabled(false).build().expect("valid");
    assert!(quiet.start_warnings().is_empty(), "{:?}", quiet.start_warnings());
}
