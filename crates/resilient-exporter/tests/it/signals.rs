//! Logs and metrics through a pipeline of their own: buffer, journal, files, dead letters and replay.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics};
use otlp_payload::Payload;
use otlp_transport::{Cause, Outcome, RefusalKind, Transport};
use prost::Message;
use resilient_exporter::{
    Builder, DeadLetterFilter, FallbackFormat, Ledger, OfferError, ResilientSpanExporter, Signal,
};

use crate::support::{PATIENCE, eventually, in_processes, only_process, quick};

/// A request of `count` items that have the numbers from `first` on.
fn request(signal: Signal, first: u64, count: u64) -> Bytes {
    let numbers = first..first + count;
    let bytes = match signal {
        Signal::Logs => {
            let record = |number: u64| LogRecord {
                time_unix_nano: number,
                body: Some(AnyValue { value: Some(Value::StringValue(format!("line {number}"))) }),
                ..LogRecord::default()
            };
            let scope = ScopeLogs { log_records: numbers.map(record).collect(), ..ScopeLogs::default() };
            let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
            ExportLogsServiceRequest { resource_logs: vec![resource] }.encode_to_vec()
        }
        Signal::Metrics => {
            let value = Some(Number::AsInt(0));
            let point = |number: u64| NumberDataPoint { time_unix_nano: number, value, ..NumberDataPoint::default() };
            let data = Some(Data::Gauge(Gauge { data_points: numbers.map(point).collect() }));
            let metric = Metric { name: "m".to_owned(), data, ..Metric::default() };
            let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
            let resource = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
            ExportMetricsServiceRequest { resource_metrics: vec![resource] }.encode_to_vec()
        }
        Signal::Traces => panic!("not made here"),
    };
    bytes.into()
}

/// The numbers of the items in a request.
fn numbers(signal: Signal, bytes: &[u8]) -> Vec<u64> {
    match signal {
        Signal::Logs => {
            let request = ExportLogsServiceRequest::decode(bytes).expect("a request of logs");
            let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
            scopes.flat_map(|scope| &scope.log_records).map(|record| record.time_unix_nano).collect()
        }
        Signal::Metrics => {
            let request = ExportMetricsServiceRequest::decode(bytes).expect("a request of metrics");
            let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
            let metrics = scopes.flat_map(|scope| &scope.metrics);
            let points = metrics.filter_map(|metric| match &metric.data {
                Some(Data::Gauge(gauge)) => Some(&gauge.data_points),
                _ => None,
            });
            points.flatten().map(|point| point.time_unix_nano).collect()
        }
        Signal::Traces => panic!("not made here"),
    }
}

/// A collector that is up or down, or refuses.
#[derive(Clone, Default)]
struct Sink {
    is_up: Arc<AtomicBool>,
    refuses: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<Payload>>>,
}

#[async_trait]
impl Transport for Sink {
    async fn send(&self, payload: &Payload) -> Outcome {
        if self.refuses.load(Ordering::Relaxed) {
            let cause = Cause::Http { status: 400, message: "no".to_owned() };
            return Outcome::Refused { kind: RefusalKind::Batch, cause, possible_duplicate: false };
        }
        if !self.is_up.load(Ordering::Relaxed) {
            let cause = Cause::Connect("refused".to_owned());
            return Outcome::Retryable { after: None, cause, possible_duplicate: false };
        }
        self.taken.lock().expect("not poisoned").push(payload.clone());
        Outcome::Delivered { rejected: 0, message: None }
    }

    fn endpoint(&self) -> &str {
        "http://sink:4318"
    }
}

impl Sink {
    /// The numbers of all items that were taken, which all payloads name with their signal and count.
    fn numbers(&self, signal: Signal) -> Vec<u64> {
        let taken = self.taken.lock().expect("not poisoned");
        let mut all = Vec::new();
        for payload in taken.iter() {
            let found = numbers(signal, payload.bytes());
            assert_eq!((payload.signal(), payload.item_count()), (signal, found.len()));
            all.extend(found);
        }
        all.sort_unstable();
        all
    }
}

fn builder(sink: &Sink, state: &Path) -> Builder {
    quick(ResilientSpanExporter::builder().with_primary(sink.clone())).with_state_dir(state)
}

fn assert_balanced(ledger: &Ledger) {
    assert_eq!((ledger.imbalance(), ledger.lost()), (0, 0), "{ledger:?}");
}

#[test]
fn requests_wait_in_files_of_their_signal_and_the_next_process_delivers_them() {
    for (signal, format) in [
        (Signal::Logs, FallbackFormat::Json),
        (Signal::Metrics, FallbackFormat::Json),
        (Signal::Logs, FallbackFormat::Protobuf),
        (Signal::Metrics, FallbackFormat::Protobuf),
    ] {
        let (sink, state) = (Sink::default(), tempfile::tempdir().expect("temp dir"));
        let state = state.path().join("state");
        let build = || {
            let builder = builder(&sink, &state).with_fallback_format(format).with_buffer_size(100);
            builder.build_pipeline(signal).expect("valid")
        };
        let first = build();
        for at in 0..12 {
            first.offer(request(signal, at * 20, 20)).expect("accepted");
            eventually("the disk thread writes the surplus", || first.handle().ledger().buffered <= 60);
        }
        first.shutdown(PATIENCE).expect("all of it is in files");
        let ledger = first.handle().ledger();
        assert_eq!((ledger.offered, ledger.in_fallback), (240, 240), "{signal}: {ledger:?}");
        assert_balanced(&ledger);
        drop(first);
        let of_signal = state.join(signal.as_str());
        let names =
            in_processes(&of_signal, "fallback").into_iter().flat_map(|files| fs::read_dir(files).expect("there"));
        let names = names.map(|entry| entry.expect("readable").file_name().into_string().expect("ASCII"));
        let names = names.filter(|name| !name.starts_with('.')).collect::<Vec<_>>();
        assert!(names.iter().any(|name| name.starts_with(&format!("{signal}-"))), "{names:?}");

        // An exporter of spans beside it has nothing of this.
        let spans = builder(&sink, &state).build().expect("valid");
        assert_eq!(spans.handle().ledger().recovered, 0);
        drop(spans);

        sink.is_up.store(true, Ordering::Relaxed);
        let second = build();
        assert_eq!(second.handle().ledger().recovered, 240);
        second.handle().settled(PATIENCE).expect("delivered");
        assert_eq!(sink.numbers(signal), (0..240).collect::<Vec<_>>(), "{signal}");
        assert_balanced(&second.handle().ledger());
        assert_eq!(second.handle().ledger().delivered, 240);
    }
}

#[test]
fn the_journal_gives_requests_back_as_their_signal() {
    for signal in [Signal::Logs, Signal::Metrics] {
        let (sink, state) = (Sink::default(), tempfile::tempdir().expect("temp dir"));
        let state = state.path().join("state");
        let build = || {
            let builder = builder(&sink, &state).with_journal_enabled(true).with_fallback_enabled(false);
            builder.with_journal_sync_timeout(PATIENCE).build_pipeline(signal).expect("valid")
        };
        let first = build();
        for at in 0..10 {
            first.offer(request(signal, at * 7, 7)).expect("accepted");
        }
        first.shutdown(Duration::ZERO).expect("the journal has all");
        assert_balanced(&first.handle().ledger());
        drop(first);
        let journal = only_process(&state.join(signal.as_str())).join("journal");
        let segment = fs::read_dir(journal).expect("there").map(|entry| entry.expect("readable").path());
        let segment = segment.filter(|path| path.extension().is_some_and(|end| end == "seg")).max().expect("a segment");
        // The version of the first batch's record: behind the segment's header and the account of the one before.
        let bytes = fs::read(segment).expect("readable");
        let version = bytes.windows(4).position(|mark| mark == [0xB5, b'j', b'r', 0x1E]).map(|at| {
            let is_batch = |at: &usize| bytes[at + 9] == 1;
            if is_batch(&at) { bytes[at + 8] } else { bytes[at + 40 + 8] }
        });
        assert_eq!(version, Some(2), "an earlier version sets it aside");

        sink.is_up.store(true, Ordering::Relaxed);
        let second = build();
        assert_eq!(second.handle().ledger().recovered, 70);
        second.handle().settled(PATIENCE).expect("delivered");
        assert_eq!(sink.numbers(signal), (0..70).collect::<Vec<_>>(), "{signal}");
        assert_balanced(&second.handle().ledger());
    }
}

#[test]
fn a_refused_request_is_a_dead_letter_of_its_signal_and_goes_out_again() {
    for signal in [Signal::Logs, Signal::Metrics] {
        let (sink, state) = (Sink::default(), tempfile::tempdir().expect("temp dir"));
        sink.refuses.store(true, Ordering::Relaxed);
        let builder = builder(&sink, &state.path().join("state")).with_refused(resilient_exporter::Refused::DeadLetter);
        let pipeline = builder.build_pipeline(signal).expect("valid");
        pipeline.offer(request(signal, 5, 3)).expect("accepted");
        let handle = pipeline.handle();
        eventually("the request is a dead letter", || handle.ledger().dead_lettered == 3);
        let ids = handle.dead_letter_ids().expect("readable");
        let (letter, lines) = handle.dead_letter(&ids[0]).expect("readable");
        assert!(
            lines[0].starts_with(&format!(
                "{{\"resource{}\":",
                ["Logs", "Metrics"][usize::from(signal == Signal::Metrics)]
            ))
        );
        assert_eq!((letter.signal.as_str(), letter.spans), (signal.as_str(), 3));

        sink.refuses.store(false, Ordering::Relaxed);
        sink.is_up.store(true, Ordering::Relaxed);
        let redriven = handle.redrive_matching(&DeadLetterFilter::default());
        assert_eq!(redriven.spans, 3, "{redriven:?}");
        handle.retry_now();
        handle.settled(PATIENCE).expect("delivered");
        assert_eq!(sink.numbers(signal), [5, 6, 7]);
        assert_eq!(handle.ledger().imbalance(), 0);
    }
}

/// The state directory above is the one that names service and version.
#[test]
fn a_directory_of_a_newer_version_or_another_service_is_left_alone() {
    let scratch = tempfile::tempdir().expect("temp dir");
    for (at, layout) in ["holdfast-state 3 shop\n", "holdfast-state 2 bank\n"].iter().enumerate() {
        let state = scratch.path().join(at.to_string());
        fs::create_dir(&state).expect("room");
        fs::write(state.join("layout"), layout).expect("room");
        let builder = builder(&Sink::default(), &state).with_state_service("shop").with_state_dir_required(true);
        let error = builder.build_pipeline(Signal::Logs).expect_err("not ours");
        assert!(matches!(error, resilient_exporter::BuildError::StateDir { .. }), "{error:?}");
        assert!(!state.join("logs").exists(), "{layout:?}");
    }
}

#[test]
fn bytes_of_another_kind_are_refused_with_the_reason() {
    let (sink, state) = (Sink::default(), tempfile::tempdir().expect("temp dir"));
    let traces = otlp_transport::Config::builder().build().expect("valid");
    let traces = otlp_transport::connect(traces).expect("no I/O yet");
    let error = ResilientSpanExporter::builder().with_primary(traces).build_pipeline(Signal::Logs).expect_err("traces");
    assert!(error.to_string().contains("sends no logs: build its settings with_signal"), "{error}");

    let pipeline = builder(&sink, state.path()).build_pipeline(Signal::Logs).expect("valid");
    let error = pipeline.offer(request(Signal::Metrics, 0, 1)).expect_err("metrics");
    assert!(matches!(error, OfferError::Unreadable { signal: Signal::Logs, .. }), "{error:?}");
    let error = pipeline.offer(Bytes::from_static(b"\xff\xff")).expect_err("no request");
    assert!(matches!(error, OfferError::Unreadable { signal: Signal::Logs, .. }), "{error:?}");
    assert!(error.to_string().contains("encode an ExportLogsServiceRequest"), "{error}");
    pipeline.offer(Bytes::new()).expect("a request without an item");
    pipeline.shutdown(Duration::ZERO).expect("nothing waits");
    let error = pipeline.offer(request(Signal::Logs, 0, 2)).expect_err("after the shutdown");
    assert!(matches!(error, OfferError::AlreadyShutdown), "{error:?}");
    let ledger = pipeline.handle().ledger();
    assert_eq!((ledger.offered, ledger.refused.values().sum::<u64>(), ledger.imbalance()), (2, 2, 0));
    assert_eq!(format!("{pipeline:?}"), "Pipeline { signal: Logs, endpoint: \"http://sink:4318\", .. }");
}
