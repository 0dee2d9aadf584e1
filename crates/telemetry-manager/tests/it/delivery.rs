use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::support::{LONG, Setup, files_below, trace};
use mock_collector::{Answer, Behavior, Protocol};
use otlp_payload::Payload;
use resilient_exporter::{Change, Fallback, FallbackError, Fate, Order, ReadBack, Stored, Usage};
use telemetry_manager::ShutdownError;
use telemetry_manager::opentelemetry::KeyValue;
use telemetry_manager::opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};

#[test]
fn dropping_the_manager_delivers_every_ended_span() {
    let setup = Setup::new();
    let manager = setup
        .manager(&[("OTEL_SERVICE_VERSION", "1.2"), ("OTEL_RESOURCE_ATTRIBUTES", "team=a%2Cb,service.name=other")]);
    assert!(manager.warnings().is_empty(), "{:?}", manager.warnings());
    trace(&manager, 700);
    drop(manager);
    let received = setup.collector.received();
    assert_eq!((received.unique, received.duplicates), (700, 0));
    let attribute = |key| setup.resource_attribute(key);
    assert_eq!(attribute("service.name").as_deref(), Some("my-api"));
    assert_eq!(attribute("service.version").as_deref(), Some("1.2"));
    assert_eq!(attribute("team").as_deref(), Some("a,b"));
    assert_eq!(attribute("telemetry.sdk.language").as_deref(), Some("rust"));
    assert!(attribute("telemetry.sdk.name").is_some() && attribute("telemetry.sdk.version").is_some());
}

#[test]
fn a_manager_works_in_and_without_tokio_runtimes_and_may_be_dropped_inside() {
    let in_none = |work: Box<dyn FnOnce() + Send>| work();
    let in_current_thread = |work: Box<dyn FnOnce() + Send>| {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async move { work() });
    };
    let in_multi_thread = |work: Box<dyn FnOnce() + Send>| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        runtime.block_on(async move { tokio::spawn(async move { work() }).await.expect("no panic") });
    };
    for run in [&in_none as &dyn Fn(Box<dyn FnOnce() + Send>), &in_current_thread, &in_multi_thread] {
        let setup = Setup::new();
        let vars = setup.vars(&[]);
        run(Box::new(move || {
            let manager = telemetry_manager::OpenTelemetryManager::builder()
                .with_vars(move |name| vars.get(name).cloned())
                .with_globals(false)
                .build()
                .expect("telemetry starts");
            trace(&manager, 10);
        }));
        assert_eq!(setup.collector.received().unique, 10);
    }
}

#[test]
fn port_of_http_means_http() {
    let setup = Setup::new();
    let endpoint = setup.collector.http_endpoint();
    let manager =
        setup.manager(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]);
    trace(&manager, 3);
    manager.shutdown().expect("everything is delivered");
    assert_eq!(setup.collector.requests()[0].protocol, Protocol::Http);
    assert_eq!(manager.health().collector_endpoint, format!("{endpoint}/v1/traces"));
}

#[test]
fn headers_reach_the_collector_and_nothing_else() {
    let setup = Setup::new();
    let manager = setup.manager(&[("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cr%20et")]);
    trace(&manager, 1);
    manager.shutdown().expect("everything is delivered");
    assert_eq!(setup.collector.requests()[0].header("api-key"), Some("s3cr et"));
    let health = serde_json::to_string(&manager.health()).expect("JSON");
    let shown = format!("{manager:?} {health} {}", manager.settings().summary());
    assert!(!shown.contains("s3cr"), "{shown}");
}

#[test]
fn flush_waits_for_the_collector_and_counts_the_spans_that_wait() {
    let setup = Setup::new();
    let manager = setup.manager(&[("TELEMETRY_RETRY_INITIAL_DELAY", "10ms")]);
    trace(&manager, 5);
    manager.settled(LONG).expect("everything is delivered");
    assert_eq!(setup.collector.received().unique, 5);
    setup.collector.stop();
    trace(&manager, 5);
    let error = manager.settled(std::time::Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("5 spans still wait in memory"), "{error}");
    setup.collector.start_again().expect("the same port");
    manager.settled(LONG).expect("the rest is delivered");
    assert_eq!(setup.collector.received().unique, 10);
}

#[test]
fn undelivered_spans_are_delivered_by_the_next_process() {
    let setup = Setup::new();
    setup.collector.stop();
    let manager = setup.manager(&[]);
    trace(&manager, 600);
    manager.shutdown().expect("undelivered spans are in files");
    let ledger = manager.handle().expect("an exporter").ledger();
    assert_eq!((ledger.in_fallback, ledger.lost(), ledger.imbalance()), (600, 0, 0));
    drop(manager);

    setup.collector.start_again().expect("the same port");
    let manager = setup.manager(&[]);
    manager.settled(LONG).expect("the files are replayed");
    let received = setup.collector.received();
    assert_eq!(received.unique, 600);
    assert_eq!(manager.handle().expect("an exporter").ledger().recovered, 600);
}

#[test]
fn a_shutdown_that_loses_spans_counts_them() {
    let setup = Setup::new();
    setup.collector.stop();
    let manager = setup.manager(&[("TELEMETRY_FALLBACK_ENABLED", "false")]);
    trace(&manager, 7);
    let error = manager.shutdown().unwrap_err();
    assert!(error.to_string().starts_with("7 spans were dropped (shutdown): give shutdown more time"), "{error}");
    let handle = manager.handle().expect("an exporter");
    let ShutdownError::Exporter(error) = error else { panic!("{error:?}") };
    assert_eq!((&error.dropped, error.in_memory), (&handle.ledger().dropped, 0));
    assert_eq!(handle.shutdown_result(), Err(error));
    manager.shutdown().expect("a second one does nothing");
}

/// A store whose write hangs until the test lets it go.
struct Hanging(Arc<Mutex<Receiver<()>>>);

impl Fallback for Hanging {
    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn store(&mut self, _batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        let _ = self.0.lock().expect("no panic").recv();
        Ok(Stored { name: "late".to_owned() })
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

#[test]
fn a_shutdown_whose_disk_hangs_counts_the_spans_that_are_in_memory_only() {
    let setup = Setup::new();
    setup.collector.stop();
    let (release, released) = channel();
    let released = Arc::new(Mutex::new(released));
    let builder = setup.builder(&[]).with_exporter(move |exporter| {
        let short = |shutdown: &mut resilient_exporter::Shutdown| shutdown.timeout = Duration::from_millis(300);
        exporter.with_fallback(Hanging(Arc::clone(&released))).shutdown(short)
    });
    let manager = builder.build().expect("telemetry starts");
    trace(&manager, 7);
    let error = manager.shutdown().unwrap_err();
    assert!(error.to_string().starts_with("7 spans are in memory only"), "{error}");
    let ledger = manager.handle().expect("an exporter").ledger();
    assert_eq!((ledger.buffered, ledger.lost(), ledger.imbalance()), (7, 0, 0), "{ledger:?}");
    drop(release);
}

#[test]
fn dead_letters_are_stored_up_to_their_limit() {
    let setup = Setup::new();
    setup.collector.set(Behavior::answer(Answer::grpc(3).with_message("no")));
    let state = setup.path("state");
    let manager = setup.manager(&[
        ("TELEMETRY_STATE_DIR", &state),
        ("TELEMETRY_DEAD_LETTER_MAX_BYTES", "1MiB"),
        ("TELEMETRY_REFUSED", "dead-letter"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100"),
    ]);
    let tracer = manager.tracer_provider().tracer("test");
    for number in 0..300 {
        // Text that does not compress well: 300 such spans take more than 1 MiB, each 100 less.
        tracer.span_builder("refused").with_attributes([KeyValue::new("noise", noise(number))]).start(&tracer).end();
    }
    manager.settled(LONG).expect("nothing waits");
    drop(manager.shutdown());
    let ledger = manager.handle().expect("an exporter").ledger();
    assert_eq!((ledger.dead_lettered, ledger.imbalance()), (300, 0));
    let is_letter = |file: &PathBuf| {
        let is_hidden = file.file_name().expect("a name").as_encoded_bytes()[0] == b'.';
        !is_hidden && file.components().any(|part| part.as_os_str() == "dead-letters")
    };
    let letters = files_below(Path::new(&state)).into_iter().filter(is_letter);
    let sizes: Vec<u64> = letters.map(|file| file.metadata().expect("a file").len()).collect();
    assert!(!sizes.is_empty() && sizes.iter().sum::<u64>() <= 1 << 20, "{sizes:?}");
}

/// 8,000 characters by xorshift (Marsaglia 2003).
fn noise(number: u64) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (number + 1);
    let mut character = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'0' + (state >> 32) as u8 % 64)
    };
    (0..8_000).map(|_| character()).collect()
}

#[test]
fn the_sampler_of_the_environment_decides() {
    let setup = Setup::new();
    let manager = setup.manager(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")]);
    trace(&manager, 10);
    drop(manager);
    assert_eq!(setup.collector.received().requests, 0);
}

#[test]
fn the_batch_size_of_the_environment_decides() {
    let setup = Setup::new();
    let manager = setup.manager(&[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10"), ("OTEL_BSP_SCHEDULE_DELAY", "3600s")]);
    trace(&manager, 25);
    drop(manager);
    let sizes =
        setup.requests().iter().map(|request| request.resource_spans[0].scope_spans[0].spans.len()).collect::<Vec<_>>();
    assert_eq!(sizes.iter().sum::<usize>(), 25);
    assert!(sizes.iter().all(|size| *size <= 10), "{sizes:?}");
}
