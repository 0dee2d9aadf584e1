//! Start, shutdown and drop: in any runtime or none, at any moment, within the deadline; refused settings.

use std::time::Duration;

use async_trait::async_trait;
use mock_collector::{Behavior, MockCollector};
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::SpanExporter as _;
use otlp_payload::Payload;
use otlp_transport::{Outcome, Transport};
use resilient_exporter::{BuildError, Builder, Event, FallbackFormat, ResilientSpanExporter, Status, StorageNote};

use crate::support::{App, grpc, http, now, quick};

#[test]
fn the_exporter_works_inside_every_kind_of_runtime() {
    let work = || {
        let collector = MockCollector::start().expect("loopback");
        let exporter = ResilientSpanExporter::builder().with_primary(grpc(&collector)).build().expect("valid");
        let mut app = App::new(exporter);
        app.trace(100);
        app.assert_delivered(&collector);
        app.shutdown().expect("nothing waits");
    };
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    current.block_on(async { work() });
    let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    multi.block_on(async { tokio::spawn(async move { work() }).await.expect("no panic") });
}

#[test]
fn a_shutdown_during_an_outage_writes_everything_to_files_and_the_next_process_delivers_it() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let build = || {
        let builder = ResilientSpanExporter::builder().with_primary(http(&collector));
        quick(builder).with_state_dir(state.path().join("state")).build().expect("valid")
    };
    collector.stop();
    let mut first = App::new(build());
    first.trace(2_500);
    let start = now();
    first.shutdown().expect("everything is in files");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let ledger = first.handle.ledger();
    assert_eq!((ledger.in_fallback, ledger.buffered, ledger.imbalance()), (2_500, 0, 0), "{ledger:?}");

    collector.start_again().expect("the same ports");
    let mut second = App::new(build());
    assert_eq!(second.handle.ledger().recovered, 2_500);
    second.trace(500);
    second.assert_delivered(&collector);
    assert_eq!(first.missing(&[&collector]), 0);
    assert_eq!(second.handle.ledger().delivered, 3_000);
}

#[test]
fn a_shutdown_writes_every_file_that_it_needs() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let state = tempfile::tempdir().expect("temp dir");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_state_dir(state.path());
    let exporter = quick(builder).with_fallback_format(FallbackFormat::Protobuf).build().expect("valid");
    let handle = exporter.handle();
    for _ in 0..2 {
        // 3 MB: two such batches do not share a file.
        let mut spans = crate::support::some_spans(30);
        for span in &mut spans {
            span.attributes.push(opentelemetry::KeyValue::new("text", "x".repeat(100_000)));
        }
        futures_util::FutureExt::now_or_never(exporter.export(spans)).expect("export never waits").expect("accepted");
    }
    exporter.shutdown().expect("everything is in files");
    let (ledger, health) = (handle.ledger(), handle.health());
    assert_eq!((ledger.in_fallback, ledger.buffered, ledger.imbalance()), (60, 0, 0), "{ledger:?}");
    assert_eq!(health.fallback_files, 2, "{health:?}");
}

#[test]
fn the_error_of_a_shutdown_without_a_fallback_names_the_number_of_lost_spans() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback_enabled(false);
    let exporter = quick(builder).build().expect("valid");
    let handle = exporter.handle();
    let events = handle.subscribe();
    futures_util::FutureExt::now_or_never(exporter.export(crate::support::some_spans(12)))
        .expect("export never waits")
        .expect("accepted");
    let error = exporter.shutdown().expect_err("12 spans are lost");
    assert!(error.to_string().contains("12 spans"), "{error}");
    assert!(events.try_iter().any(|event| matches!(event, Event::Dropped { .. })), "every drop is published by now");
    assert_eq!(handle.ledger().dropped["shutdown"], 12);
    assert!(matches!(exporter.shutdown(), Err(OTelSdkError::AlreadyShutdown)));
    let late = futures_util::FutureExt::now_or_never(exporter.export(crate::support::some_spans(3))).expect("at once");
    assert!(matches!(late, Err(OTelSdkError::AlreadyShutdown)));
    assert_eq!((handle.ledger().refused["already_shutdown"], handle.ledger().imbalance()), (3, 0));
}

#[test]
fn a_collector_that_hangs_does_not_delay_a_shutdown() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    collector.set(Behavior::never_answer());
    let builder = ResilientSpanExporter::builder().with_primary(grpc(&collector));
    let mut app = App::new(quick(builder).with_state_dir(state.path().join("state")).build().expect("valid"));
    app.trace(1_000);
    let start = now();
    app.shutdown().expect("everything is in files");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(app.handle.ledger().in_fallback, app.made());
}

/// A transport that blocks the net thread, which its contract forbids.
struct BlockingTransport;

#[async_trait]
impl Transport for BlockingTransport {
    async fn send(&self, _payload: &Payload) -> Outcome {
        std::thread::park_timeout(Duration::from_secs(20));
        Outcome::Delivered { rejected: 0, message: None }
    }

    fn endpoint(&self) -> &str {
        "blocking"
    }
}

#[test]
fn a_transport_that_blocks_the_net_thread_does_not_delay_a_shutdown() {
    let state = tempfile::tempdir().expect("temp dir");
    let builder =
        ResilientSpanExporter::builder().with_primary(BlockingTransport).with_state_dir(state.path().join("state"));
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(10);
    app.trace(700);
    let start = now();
    app.shutdown().expect("everything is in files");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(app.handle.ledger().in_fallback, 710);
}

#[test]
fn an_exporter_that_is_dropped_inside_a_runtime_shuts_down_in_order() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    collector.stop();
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector));
    let exporter = quick(builder).with_state_dir(state.path().join("state")).build().expect("valid");
    let handle = exporter.handle();
    let _ = futures_util::FutureExt::now_or_never(exporter.export(crate::support::some_spans(40)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async move { drop(exporter) });
    assert_eq!((handle.ledger().in_fallback, handle.ledger().imbalance()), (40, 0));
}

#[test]
fn a_flush_accepts_a_timeout_beyond_the_clock() {
    let collector = MockCollector::start().expect("loopback");
    let exporter = ResilientSpanExporter::builder().with_primary(http(&collector)).build().expect("valid");
    let mut app = App::new(exporter);
    app.trace(10);
    app.handle.settled(Duration::MAX).expect("delivered");
}

#[test]
fn settings_out_of_range_are_refused_with_field_value_and_range() {
    let scratch = tempfile::tempdir().expect("temp dir");
    let dir = scratch.path().join("state");
    let builder = || ResilientSpanExporter::builder().with_primary(BlockingTransport).with_fallback_enabled(false);
    for (builder, expected) in [
        (builder().with_buffer_size(0), "buffer.max_spans is 0; accepted: 1 or more"),
        (builder().buffer(|buffer| buffer.max_bytes = 0), "buffer.max_bytes is 0; accepted: 1 or more"),
        (builder().with_buffer_max_age(Duration::ZERO), "buffer.max_age is 0ns; accepted: 1ns or more"),
        (builder().with_request_max_bytes(0), "request.max_bytes is 0; accepted: 1 or more"),
        (builder().with_circuit_breaker_threshold(0), "circuit_breaker.failure_threshold is 0; accepted: 1 to 1000000"),
        (
            builder().circuit_breaker(|breaker| breaker.recovery_timeout = Duration::ZERO),
            "circuit_breaker.recovery_timeout is 0ns; accepted: 1ms to 31536000s",
        ),
        (builder().with_retry_jitter(f64::NAN), "retry.jitter is NaN; accepted: 0 to 1"),
        (
            builder().retry(|retry| retry.max_delay = Duration::from_millis(999)),
            "retry.max_delay is 999ms; accepted: 1s to 31536000s",
        ),
        (
            builder().with_journal_enabled(true).journal(|journal| journal.max_bytes = 1),
            "journal.max_bytes is 1; accepted: 16777216 or more",
        ),
        (
            builder().with_fallback_enabled(true).with_state_dir(&dir).dead_letter(|letters| letters.max_bytes = 0),
            "dead_letter.max_bytes is 0; accepted: 1 or more",
        ),
    ] {
        let error = builder.build().expect_err("refused");
        assert!(matches!(error, BuildError::InvalidSetting { .. }), "{error:?}");
        assert_eq!(error.to_string(), expected);
    }
    assert!(!dir.exists(), "a bad setting is found before a directory is made");
    let own = builder().with_circuit_breaker(breaker::Config::builder().with_failure_threshold(0)).build();
    assert!(matches!(own, Err(BuildError::CircuitBreaker(_))));
    assert!(matches!(ResilientSpanExporter::builder().build(), Err(BuildError::NoPrimary)));
}

#[test]
fn settings_of_a_part_that_is_off_are_not_checked() {
    let builder = || {
        ResilientSpanExporter::builder()
            .with_primary(BlockingTransport)
            .with_journal_max_bytes(1)
            .with_journal_sync_timeout(Duration::ZERO)
            .with_dead_letter_max_bytes(0)
    };
    builder().with_fallback_enabled(false).build().expect("neither a journal nor dead letters");
    builder().build().expect("no directory for dead letters");
    let journal = builder().with_fallback_enabled(false).with_journal_enabled(true).build();
    assert!(matches!(journal, Err(BuildError::InvalidSetting { field: "journal.sync_timeout", .. })), "{journal:?}");
}

#[test]
fn dead_letters_may_have_no_age() {
    let dir = tempfile::tempdir().expect("temp dir");
    let builder = ResilientSpanExporter::builder().with_primary(BlockingTransport).with_state_dir(dir.path());
    builder.with_dead_letter_max_age(Duration::ZERO).build().expect("valid: dead letters are removed at once");
}

#[test]
fn health_names_the_missing_state_directory_of_an_exporter_in_memory() {
    let collector = MockCollector::start().expect("loopback");
    let exporter = ResilientSpanExporter::builder().with_primary(http(&collector)).build().expect("valid");
    let health = exporter.handle().health();
    assert_eq!(health.status, Status::Degraded);
    assert!(health.issues[0].contains("state directory"), "{health:?}");
}

#[test]
fn a_state_directory_that_others_can_write_is_narrowed() {
    use std::os::unix::fs::PermissionsExt as _;
    let state = tempfile::tempdir().expect("temp dir");
    let open = state.path().join("open");
    std::fs::create_dir(&open).expect("created");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("changed");
    let builder = ResilientSpanExporter::builder().with_primary(BlockingTransport).with_fallback_dir(&open);
    let exporter = builder.with_state_dir_required(true).build().expect("ours");
    let mode = std::fs::metadata(&open).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    assert_eq!(exporter.handle().health().issues, Vec::<String>::new());
}

#[test]
fn a_path_that_is_no_directory_leaves_spans_in_memory_or_is_an_error_where_storage_is_required() {
    let collector = MockCollector::start().expect("loopback");
    let scratch = tempfile::tempdir().expect("temp dir");
    let file = scratch.path().join("file");
    std::fs::write(&file, "text").expect("written");
    let path = file.to_str().expect("UTF-8");
    type Set = fn(Builder, &str) -> Builder;
    let sets: [Set; 2] =
        [|builder, path| builder.with_state_dir(path), |builder, path| builder.with_fallback_dir(path)];
    for set in sets {
        let builder = || set(quick(ResilientSpanExporter::builder().with_primary(http(&collector))), path);
        let refused = builder().with_state_dir_required(true).build().expect_err("refused");
        assert!(refused.to_string().contains(path), "the error names the directory: {refused}");
        let mut app = App::new(builder().build().expect("telemetry stops no program"));
        app.trace(10);
        app.assert_delivered(&collector);
        let health = app.handle.health();
        assert_eq!(health.status, Status::Degraded);
        let [issue] = &health.issues[..] else { panic!("one issue: {:?}", health.issues) };
        assert!(issue.contains("in memory only") && issue.contains(path) && issue.contains("restart"), "{issue}");
    }
    assert_eq!(std::fs::read(&file).expect("there"), b"text");
}

#[test]
fn the_trouble_of_storage_that_the_program_found_degrades_health_and_is_logged_once() {
    let collector = MockCollector::start().expect("loopback");
    let build = |enabled| {
        let notes = [
            StorageNote::new("3 spans of \"a note's own service\" wait in /x", "start once with its name"),
            StorageNote::memory_only("/a-note's-own-directory is a file", "set another"),
        ];
        let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector)));
        builder.with_fallback_enabled(enabled).with_storage_notes(notes).build().expect("valid")
    };
    for enabled in [true, false] {
        let before = crate::log::warnings_about("a note's own service").len();
        let health = build(enabled).handle().health();
        assert_eq!((health.status, health.issues.len()), (Status::Degraded, 2), "{:?}", health.issues);
        for part in
            ["wait in /x; start once", "spans are in memory only", "/a-note's-own-directory is a file; set another"]
        {
            assert!(health.issues.iter().any(|issue| issue.contains(part)), "{part:?} in {:?}", health.issues);
        }
        assert_eq!(crate::log::warnings_about("a note's own service").len(), before + 1);
    }
}
