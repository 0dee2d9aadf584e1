//! A traced application, its collector, and the comparison of the two by span id.

pub(crate) mod balancer;
pub(crate) mod own_process;
pub(crate) mod work;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mock_collector::MockCollector;
use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use otlp_transport::{Config, Protocol, Transport, connect};
use resilient_exporter::{Builder, Handle, ResilientSpanExporter, ResilientSpanProcessor};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn grpc(collector: &MockCollector) -> Box<dyn Transport> {
    transport(Protocol::Grpc, collector.grpc_endpoint())
}

pub(crate) fn http(collector: &MockCollector) -> Box<dyn Transport> {
    transport(Protocol::HttpProtobuf, collector.http_endpoint())
}

fn transport(protocol: Protocol, endpoint: String) -> Box<dyn Transport> {
    let config = Config::builder()
        .with_protocol(protocol)
        .with_endpoint(endpoint)
        .with_timeout(Duration::from_secs(2))
        .build()
        .expect("valid");
    connect(config).expect("no I/O yet")
}

/// Shortens the delays whose defaults are a second or more to a few milliseconds, beside a log that panics at each
/// line.
pub(crate) fn quick(builder: Builder) -> Builder {
    crate::log::capture();
    builder
        .with_retry_initial_delay(Duration::from_millis(5))
        .with_retry_max_delay(Duration::from_millis(40))
        .with_circuit_breaker_timeout(Duration::from_millis(50))
}

/// A tracer provider with the SDK's batch processor, and the ids of all spans that it made.
pub(crate) struct App {
    provider: SdkTracerProvider,
    pub(crate) handle: Handle,
    made: HashSet<([u8; 16], [u8; 8])>,
    /// Spans wait in a queue before the exporter accepts them.
    has_queue: bool,
}

impl App {
    pub(crate) fn new(exporter: ResilientSpanExporter) -> Self {
        let handle = exporter.handle();
        // `trace` flushes each burst: the timer shall not split one into two batches on a busy machine.
        let batching = BatchConfigBuilder::default().with_scheduled_delay(Duration::from_secs(60)).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batching).build();
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        Self { provider, handle, made: HashSet::new(), has_queue: true }
    }

    /// The same without a queue of the SDK's.
    pub(crate) fn of(processor: ResilientSpanProcessor) -> Self {
        let handle = processor.handle();
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        Self { provider, handle, made: HashSet::new(), has_queue: false }
    }

    pub(crate) fn provider(&self) -> &SdkTracerProvider {
        &self.provider
    }

    /// Ends `count` spans, at most 1,000 between two flushes: the SDK's queue drops none.
    pub(crate) fn trace(&mut self, count: usize) {
        let tracer = self.provider.tracer("app");
        let mut left = count;
        while left > 0 {
            let burst = left.min(1_000);
            for number in 0..burst {
                let mut span = tracer.start("request");
                span.set_attribute(opentelemetry::KeyValue::new("number", number as i64));
                let context = span.span_context();
                self.made.insert((context.trace_id().to_bytes(), context.span_id().to_bytes()));
                span.end();
            }
            left -= burst;
            if self.has_queue {
                self.provider.force_flush().expect("the exporter takes every batch at once");
            }
        }
    }

    pub(crate) fn made(&self) -> u64 {
        self.made.len() as u64
    }

    pub(crate) fn shutdown(&self) -> opentelemetry_sdk::error::OTelSdkResult {
        self.provider.shutdown()
    }

    /// The number of spans of this application that none of the collectors has.
    pub(crate) fn missing(&self, collectors: &[&MockCollector]) -> usize {
        let has = |&(trace, span): &([u8; 16], [u8; 8])| collectors.iter().any(|one| one.contains(trace, span));
        self.made.iter().filter(|ids| !has(ids)).count()
    }

    /// Waits until the collector has every span, and checks that the ledger counts the same.
    #[track_caller]
    pub(crate) fn assert_delivered(&self, collector: &MockCollector) {
        self.handle.settled(PATIENCE).unwrap_or_else(|error| panic!("{error}: {:#?}", self.handle.health()));
        let ledger = self.handle.ledger();
        assert_eq!(ledger.imbalance(), 0, "{ledger:?}");
        assert_eq!(self.missing(&[collector]), 0, "{ledger:?}");
        assert_eq!((ledger.delivered, ledger.lost()), (ledger.offered + ledger.recovered, 0), "{ledger:?}");
    }

    #[track_caller]
    pub(crate) fn wait_until(&self, expected: &str, mut condition: impl FnMut(&Handle) -> bool) {
        let deadline = now() + PATIENCE;
        while !condition(&self.handle) {
            assert!(now() < deadline, "waited {PATIENCE:?} in vain: {expected}: {:?}", self.handle.health());
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

/// Polls a condition until it holds, and panics with `expected` after [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually(expected: &str, mut condition: impl FnMut() -> bool) {
    let deadline = now() + PATIENCE;
    while !condition() {
        assert!(now() < deadline, "waited {PATIENCE:?} in vain: {expected}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// The directories of processes in a state directory, with those that a process has adopted and not removed yet.
pub(crate) fn processes(state: &Path) -> Vec<PathBuf> {
    let is_process = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digits = name.split('+').next().unwrap_or_default();
        digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let Ok(entries) = fs::read_dir(state) else { return Vec::new() };
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_process).collect::<Vec<_>>();
    paths.sort();
    paths
}

/// Copies a state directory as `kill -9` would leave it at this moment. A file that goes meanwhile makes it another
/// moment: the copy begins anew.
pub(crate) fn copy(from: &Path, to: &Path) {
    while let Err(error) = try_copy(from, to) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        fs::remove_dir_all(to).expect("our own directory");
    }
}

fn try_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to).expect("a place to copy to");
    fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("our own directory");
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            try_copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The directory of the only process in a state directory.
#[track_caller]
pub(crate) fn only_process(state: &Path) -> PathBuf {
    let paths = processes(state);
    let [path] = &paths[..] else { panic!("not one directory of a process: {paths:?}") };
    path.clone()
}

/// The paths `below` each directory of a process, as far as they exist.
pub(crate) fn in_processes(state: &Path, below: impl AsRef<Path>) -> Vec<PathBuf> {
    let paths = processes(state).into_iter().map(|process| process.join(below.as_ref()));
    paths.filter(|path| fs::symlink_metadata(path).is_ok()).collect()
}

/// The directory of a process that has ended, for a test that puts something into it: the next exporter adopts it.
pub(crate) fn ended_process(state: &Path) -> PathBuf {
    state.join("00000000000000aa")
}

#[expect(clippy::disallowed_methods, reason = "deadlines of real waits")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// `count` spans that no provider made, with ids from 1.
pub(crate) fn some_spans(count: u64) -> Vec<opentelemetry_sdk::trace::SpanData> {
    use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
    let start = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    (1..=count)
        .map(|number| opentelemetry_sdk::trace::SpanData {
            span_context: SpanContext::new(
                TraceId::from(u128::from(number)),
                SpanId::from(number),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "work".into(),
            start_time: start,
            end_time: start,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: opentelemetry_sdk::trace::SpanEvents::default(),
            links: opentelemetry_sdk::trace::SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: opentelemetry::InstrumentationScope::default(),
        })
        .collect()
}
