//! The table of metrics as instruments of a real meter provider, whose reader the tests call.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::reader::Reader;
use crate::support::{LONG, Setup, eventually, trace};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric as Arrived, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use telemetry_manager::metrics::{Kind, METRICS, Sample, Snapshot, Value, register};
use telemetry_manager::opentelemetry::metrics::{Meter, MeterProvider as _};
use telemetry_manager::opentelemetry::trace::{Link, SpanKind, TraceId, TraceState};
use telemetry_manager::opentelemetry::{Context, KeyValue, Value as AttributeValue};
use telemetry_manager::opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};
use telemetry_manager::{Observer, OpenTelemetryManager};

fn provider() -> (SdkMeterProvider, Meter, Reader) {
    let reader = Reader::default();
    let provider = SdkMeterProvider::builder().with_reader(reader.clone()).build();
    let meter = provider.meter("holdfast");
    (provider, meter, reader)
}

/// One metric as it arrived: unit, help, kind, and the values by labels.
#[derive(PartialEq, Debug)]
struct Series {
    unit: String,
    help: String,
    kind: Kind,
    values: BTreeMap<String, String>,
}

fn labels<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> String {
    let mut labels: Vec<_> = attributes
        .map(|attribute| match &attribute.value {
            AttributeValue::String(text) => format!("{}={text}", attribute.key),
            other => panic!("{other:?} is no text"),
        })
        .collect();
    labels.sort();
    labels.join(",")
}

fn series(metric: &Arrived) -> Series {
    fn of<T: Copy + ToString + std::fmt::Debug>(data: &MetricData<T>) -> (Kind, BTreeMap<String, String>) {
        match data {
            MetricData::Sum(sum) => {
                let kind = if sum.is_monotonic() { Kind::Counter } else { Kind::UpDownCounter };
                (kind, sum.data_points().map(|point| (labels(point.attributes()), point.value().to_string())).collect())
            }
            MetricData::Gauge(gauge) => {
                let points = gauge.data_points();
                (Kind::Gauge, points.map(|point| (labels(point.attributes()), point.value().to_string())).collect())
            }
            MetricData::Histogram(histogram) => {
                let text = |point: &opentelemetry_sdk::metrics::data::HistogramDataPoint<T>| {
                    let bounds: Vec<_> = point.bounds().collect();
                    format!("{bounds:?} {:?}", point.bucket_counts().collect::<Vec<_>>())
                };
                let points = histogram.data_points();
                (Kind::Histogram, points.map(|point| (labels(point.attributes()), text(point))).collect())
            }
            other => panic!("{other:?}"),
        }
    }
    let (kind, values) = match metric.data() {
        AggregatedMetrics::F64(data) => of(data),
        AggregatedMetrics::U64(data) => of(data),
        AggregatedMetrics::I64(data) => of(data),
    };
    Series { unit: metric.unit().to_owned(), help: metric.description().to_owned(), kind, values }
}

fn collect(reader: &Reader) -> BTreeMap<String, Series> {
    let mut all = ResourceMetrics::default();
    reader.collect(&mut all).expect("the provider lives");
    let metrics = all.scope_metrics().flat_map(|scope| scope.metrics());
    metrics.map(|metric| (metric.name().to_owned(), series(metric))).collect()
}

/// The table of one moment, in the form in which it arrives.
fn table(observer: &Observer) -> BTreeMap<String, Series> {
    let snapshot = Snapshot::of(observer);
    let value = |value: &Value| match value {
        Value::Count(count) => count.to_string(),
        Value::Sum(sum) => sum.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Buckets(buckets) => format!("{:?} {:?}", buckets.bounds, buckets.counts),
        other => panic!("{other:?}"),
    };
    let of = |Sample { labels, value: number, .. }: &Sample| {
        let mut labels: Vec<_> = labels.iter().map(|(key, text)| format!("{key}={text}")).collect();
        labels.sort();
        (labels.join(","), value(number))
    };
    let rows = METRICS.iter().map(|metric| {
        let values = metric.samples(&snapshot).iter().map(of).collect();
        let (unit, help) = (metric.unit.to_owned(), metric.help.to_owned());
        (metric.name.to_owned(), Series { unit, help, kind: metric.kind, values })
    });
    rows.filter(|(_, series)| !series.values.is_empty()).collect()
}

/// These go on by themselves: they arrive with other values than a moment later.
const MOVING: [&str; 5] = [
    "holdfast.exporter.uptime",
    "holdfast.thread.wakeups",
    "holdfast.endpoint.next_attempt",
    "holdfast.buffer.oldest_age",
    "holdfast.items.oldest_age",
];

fn assert_equal(arrived: BTreeMap<String, Series>, mut expected: BTreeMap<String, Series>) {
    assert_eq!(arrived.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, mut series) in arrived {
        let mut row = expected.remove(&name).expect("the names are equal");
        if MOVING.contains(&name.as_str()) {
            assert!(series.values.keys().eq(row.values.keys()), "{name}");
            (series.values, row.values) = (BTreeMap::new(), BTreeMap::new());
        }
        assert_eq!(series, row, "{name}");
    }
}

fn at(arrived: &BTreeMap<String, Series>, name: &str, labels: &str) -> f64 {
    let series = arrived.get(name).unwrap_or_else(|| panic!("{name} is missing"));
    let value = series.values.get(labels).unwrap_or_else(|| panic!("{name}{{{labels}}} in {series:?}"));
    value.parse().expect("a number")
}

fn durable(setup: &Setup) -> OpenTelemetryManager {
    setup.manager(&[
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("TELEMETRY_STATE_DIR", &setup.path("state")),
        ("TELEMETRY_JOURNAL_ENABLED", "true"),
    ])
}

#[test]
fn every_row_arrives_with_its_unit_its_labels_and_the_value_of_the_page() {
    let setup = Setup::new();
    let telemetry = durable(&setup);
    let (_provider, meter, reader) = provider();
    let observer = telemetry.observer();
    let _registration = register(&meter, &observer);
    trace(&telemetry, 25);
    telemetry.settled(LONG).expect("delivered");
    eventually("the journal and the disk thread rest", || {
        observer.exporter_health().is_some_and(|health| health.storage.journal.is_some_and(|j| j.batches == 0))
    });
    let arrived = collect(&reader);
    assert_eq!(at(&arrived, "holdfast.items.delivered", "signal=traces"), 25.0);
    assert_eq!(at(&arrived, "holdfast.breaker.state", "endpoint=primary,state=closed"), 1.0);
    assert_eq!(at(&arrived, "holdfast.items.dropped", "reason=buffer_full,signal=traces"), 0.0);
    let without: Vec<_> =
        METRICS.iter().map(|metric| metric.name).filter(|name| !arrived.contains_key(*name)).collect();
    // No call has failed, and no file was written.
    assert_eq!(without, ["holdfast.calls.last_failure.timestamp", "holdfast.fallback.full_in"]);
    assert_equal(arrived, table(&observer));
    setup.collector.stop();
    trace(&telemetry, 5);
    let _ = telemetry.settled(Duration::ZERO);
    eventually("calls fail", || observer.exporter_health().is_some_and(|health| health.metrics.failed_exports > 0));
    eventually("failed calls arrive with their error", || {
        collect(&reader)["otel.sdk.exporter.operation.duration"].values.keys().any(|key| key.contains("error.type="))
    });
}

#[test]
fn the_numbers_of_one_collection_are_of_one_moment() {
    let setup = Setup::new();
    let telemetry = setup.manager(&[("OTEL_TRACES_SAMPLER", "always_on"), ("TELEMETRY_FALLBACK_ENABLED", "false")]);
    let (_provider, meter, reader) = provider();
    let _registration = register(&meter, &telemetry.observer());
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..300 {
                // Seven parts of a batch, and the seal of all of it.
                trace(&telemetry, 20);
                if round % 7 == 0 {
                    let _ = telemetry.settled(Duration::ZERO);
                }
            }
            is_done.store(true, std::sync::atomic::Ordering::Release);
        });
        while !is_done.load(std::sync::atomic::Ordering::Acquire) {
            let arrived = collect(&reader);
            let sum = |term: &str| {
                let series = &arrived[&format!("holdfast.items.{term}")];
                series.values.values().map(|value| value.parse::<f64>().expect("a number")).sum::<f64>()
            };
            let came: f64 = ["offered", "recovered", "redriven"].map(sum).iter().sum();
            let there: f64 = ["staged", "buffered", "in_flight", "in_fallback", "in_journal"].map(sum).iter().sum();
            let ended: f64 =
                ["delivered", "rejected", "dead_lettered", "taken_over", "dropped", "refused"].map(sum).iter().sum();
            assert_eq!(came, there + ended, "the terms of the ledger add up");
            let of_sdk = |name: &str| {
                let values = arrived[&format!("otel.sdk.{name}")].values.values();
                values.map(|value| value.parse::<f64>().expect("a number")).sum::<f64>()
            };
            let (queued, processed) = (of_sdk("processor.span.queue.size"), of_sdk("processor.span.processed"));
            assert_eq!(came, queued + processed, "nothing was recovered");
            assert!(queued <= of_sdk("processor.span.queue.capacity"));
            assert_eq!(came, queued + of_sdk("exporter.span.exported") + of_sdk("exporter.span.inflight"));
        }
    });
}

#[test]
fn two_readers_of_one_provider_and_a_second_registration_see_each_number_once() {
    let setup = Setup::new();
    let telemetry = setup.manager(&[("OTEL_TRACES_SAMPLER", "always_on"), ("TELEMETRY_FALLBACK_ENABLED", "false")]);
    let readers = [(); 2].map(|()| Reader::default());
    let builder = SdkMeterProvider::builder().with_reader(readers[0].clone()).with_reader(readers[1].clone());
    let provider = builder.build();
    let meter = provider.meter("holdfast");
    let first = register(&meter, &telemetry.observer());
    let second = register(&meter, &telemetry.observer());
    trace(&telemetry, 7);
    telemetry.settled(LONG).expect("delivered");
    for reader in &readers {
        assert_eq!(at(&collect(reader), "holdfast.items.delivered", "signal=traces"), 7.0);
    }
    drop(first);
    assert_eq!(at(&collect(&readers[0]), "holdfast.items.delivered", "signal=traces"), 7.0);
    drop(second);
    // Cumulative sums have no point that was not observed, and histograms keep theirs.
    let left = collect(&readers[0]);
    assert!(!left.contains_key("holdfast.items.delivered") && !left.contains_key("holdfast.exporter.up"), "{left:?}");
}

#[test]
fn the_ends_of_provider_and_exporter_harm_neither() {
    let setup = Setup::new();
    let telemetry = setup.manager(&[("OTEL_TRACES_SAMPLER", "always_on"), ("TELEMETRY_FALLBACK_ENABLED", "false")]);
    let observer = telemetry.observer();
    let (provider, meter, reader) = provider();
    let registration = register(&meter, &observer);
    trace(&telemetry, 3);
    telemetry.shutdown().expect("delivered");
    let arrived = collect(&reader);
    assert_eq!(at(&arrived, "holdfast.exporter.up", ""), 0.0);
    assert_eq!(at(&arrived, "holdfast.items.delivered", "signal=traces"), 3.0);
    drop(telemetry);
    assert_eq!(at(&collect(&reader), "holdfast.items.delivered", "signal=traces"), 3.0);
    drop((provider, meter));
    assert!(reader.collect(&mut ResourceMetrics::default()).is_err(), "the pipeline has ended with its provider");
    drop(registration);

    let telemetry = setup.manager(&[("TELEMETRY_FALLBACK_ENABLED", "false")]);
    let (provider, meter, _) = self::provider();
    let _registration = register(&meter, &telemetry.observer());
    provider.shutdown().expect("nothing waits");
    drop((provider, meter));
    trace(&telemetry, 3);
    telemetry.settled(LONG).expect("calls end although their histogram has no reader");
    assert_eq!(setup.collector.received().unique, 6);
}

/// A sampler whose spans are recorded for this process alone.
#[derive(Clone, Debug)]
struct RecordOnly;

impl ShouldSample for RecordOnly {
    fn should_sample(
        &self,
        _: Option<&Context>,
        _: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        SamplingResult { decision: SamplingDecision::RecordOnly, attributes: Vec::new(), trace_state: TraceState::NONE }
    }
}

#[test]
fn spans_that_are_not_sampled_are_counted_and_the_processor_of_the_sdk_has_no_rows() {
    let names = |setup: &Setup, processor| {
        let telemetry = setup
            .builder(&[("TELEMETRY_PROCESSOR", processor), ("TELEMETRY_FALLBACK_ENABLED", "false")])
            .with_sampler(RecordOnly)
            .build()
            .expect("telemetry starts");
        let (_provider, meter, reader) = provider();
        let _registration = register(&meter, &telemetry.observer());
        trace(&telemetry, 4);
        collect(&reader)
    };
    let setup = Setup::new();
    let of_ours = |name: &&String| name.starts_with("otel.sdk.processor.") || name.ends_with("not_sampled");
    let arrived = names(&setup, "resilient");
    assert_eq!(at(&arrived, "holdfast.items.not_sampled", "signal=traces"), 4.0);
    assert_eq!(at(&arrived, "holdfast.items.offered", "signal=traces"), 0.0);
    assert_eq!(arrived.keys().filter(of_ours).count(), 4);
    let arrived = names(&setup, "batch");
    assert_eq!(arrived.keys().find(of_ours), None);
    assert_eq!(at(&arrived, "holdfast.items.staged", "signal=traces"), 0.0);
}

#[test]
fn without_an_exporter_three_rows_arrive() {
    let setup = Setup::new();
    let telemetry = setup.manager(&[("OTEL_SDK_DISABLED", "true")]);
    let (_provider, meter, reader) = provider();
    let _registration = register(&meter, &telemetry.observer());
    let arrived = collect(&reader);
    assert_eq!(
        arrived.keys().collect::<Vec<_>>(),
        ["holdfast.build_info", "holdfast.exporter.up", "holdfast.health.status"]
    );
    assert_eq!(at(&arrived, "holdfast.exporter.up", ""), 0.0);
}
