//! Counts the requests and the lines of the log while a collector refuses, in each of its ways, and shows that nothing
//! is lost. `cargo run -p resilient-exporter --example refusals -- 60` measures the first and the second minute of each
//! way, and prints the table of `docs/otlp.md`; without the number each period is 2 s.
//!
//! Each way has a process of its own with a collector, an exporter at its default settings and 200 spans a second.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use mock_collector::{Answer, Behavior, MockCollector};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use otlp_transport::{Config, Protocol, connect};
use resilient_exporter::{Handle, ResilientSpanExporter};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The ways, by the name of their row. `None`: the collector's port refuses.
fn ways() -> [(&'static str, Option<Behavior>); 12] {
    let status = |status| Some(Behavior::answer(Answer::http(status)));
    let page = |kind: &str, body: &str| Behavior::answer(Answer::http(200).with_body(kind, body));
    let minute = Duration::from_secs(60);
    [
        ("refused connection", None),
        ("503", status(503)),
        ("500", status(500)),
        ("429 with `Retry-After: 60`", Some(Behavior::answer(Answer::http(429).with_retry_after(minute)))),
        ("401", status(401)),
        ("403", status(403)),
        ("404", status(404)),
        ("302", status(302)),
        ("200 with a page of HTML", Some(page("text/html", "<html>"))),
        ("400", status(400)),
        ("413", status(413)),
        ("200 with an unreadable answer", Some(page("text/plain", "ok").storing())),
    ]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(2), |text| text.parse::<u64>())?;
    if let Some(number) = arguments.next() {
        return measure(number.parse()?, seconds);
    }
    println!("| Answer to all requests | Requests in {seconds} s | In the next | WARN lines | In the next |");
    println!("| --- | --- | --- | --- | --- |");
    let start = |number: usize| {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([seconds.to_string(), number.to_string()]).stdout(Stdio::piped()).spawn()
    };
    let processes = (0..ways().len()).map(start).collect::<Result<Vec<_>, _>>()?;
    for process in processes {
        let output = process.wait_with_output()?;
        print!("{}", String::from_utf8(output.stdout)?);
        assert!(output.status.success(), "the process of this row failed");
    }
    Ok(())
}

/// Measures one way in this process and prints its row.
fn measure(number: usize, seconds: u64) -> Result<(), Box<dyn std::error::Error>> {
    tracing::subscriber::set_global_default(Warnings)?;
    let (name, behavior) = ways().into_iter().nth(number).ok_or("there is no such way")?;
    let (collector, state) = (MockCollector::start()?, tempfile::tempdir()?);
    let config = Config::builder().with_protocol(Protocol::HttpProtobuf).with_endpoint(collector.http_endpoint());
    let builder = ResilientSpanExporter::builder().with_primary(connect(config.build()?)?);
    let exporter = builder.with_state_dir(state.path().join("state")).build()?;
    let handle = exporter.handle();
    match behavior {
        Some(behavior) => collector.set(behavior),
        None => collector.stop(),
    }
    let first = period(&exporter, &handle, seconds);
    let second = period(&exporter, &handle, seconds);
    let (requests, warnings) = ((first.0, second.0 - first.0), (first.1, second.1 - first.1));
    println!("| {name} | {} | {} | {} | {} |", requests.0, requests.1, warnings.0, warnings.1);

    collector.set(Behavior::accept());
    collector.start_again()?;
    handle.retry_now();
    // Short periods end within a pause that the collector has asked for: it lasts.
    let flushed = handle.settled(Duration::from_secs(2 * seconds));
    let ledger = handle.ledger();
    assert_eq!((ledger.lost(), ledger.imbalance()), (0, 0), "{ledger:?}");
    if flushed.is_ok() {
        assert_eq!(ledger.delivered + ledger.dead_lettered, ledger.offered, "{ledger:?}");
        assert!(ledger.dead_lettered == 0 || name == "413", "{name}: {ledger:?}");
        assert_eq!(collector.received().duplicates, 0);
    }
    Ok(())
}

/// Exports 200 spans a second; returns the calls and the warnings since the start.
fn period(exporter: &ResilientSpanExporter, handle: &Handle, seconds: u64) -> (u64, u64) {
    for _ in 0..seconds * 10 {
        exporter.export(spans()).now_or_never().expect("export never waits").expect("there is room");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    (handle.health().metrics.total_exports, WARNINGS.load(Ordering::Relaxed))
}

fn spans() -> Vec<SpanData> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let span = |_| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (trace, span) = (TraceId::from(u128::from(number)), SpanId::from(number));
        SpanData {
            span_context: SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Server,
            name: "checkout".into(),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: opentelemetry::InstrumentationScope::default(),
        }
    };
    (0..20).map(span).collect()
}

static WARNINGS: AtomicU64 = AtomicU64::new(0);

/// A log that counts its warnings and errors.
struct Warnings;

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN && metadata.target().starts_with("resilient_exporter")
    }

    fn event(&self, _: &Event<'_>) {
        WARNINGS.fetch_add(1, Ordering::Relaxed);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
