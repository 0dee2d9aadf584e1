//! `Observed` around exporters that succeed, fail, hang and are dropped.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use telemetry_manager::Observed;
use telemetry_manager::opentelemetry::KeyValue;
use telemetry_manager::opentelemetry::metrics::MeterProvider as _;
use telemetry_manager::opentelemetry::trace::{Tracer as _, TracerProvider as _};

use crate::reader::Reader;

struct Meters {
    provider: SdkMeterProvider,
    reader: Reader,
}

impl Meters {
    fn new() -> Self {
        let reader = Reader::default();
        Self { provider: SdkMeterProvider::builder().with_reader(reader.clone()).build(), reader }
    }

    fn observe<E>(&self, exporter: E, component: &'static str) -> Observed<E> {
        Observed::new(exporter, &self.provider.meter("otel"), component)
    }

    /// The value of each series, by the last part of its instrument's name and its labels but for the component's.
    fn values(&self) -> BTreeMap<String, f64> {
        fn text<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> String {
            let own = attributes.filter(|attribute| !attribute.key.as_str().starts_with("otel.component"));
            // The SDK gives them in any order.
            let mut labels = own.map(|attribute| format!(" {}={}", attribute.key, attribute.value)).collect::<Vec<_>>();
            labels.sort();
            labels.concat()
        }
        let mut data = ResourceMetrics::default();
        self.reader.collect(&mut data).expect("collected");
        let mut values = BTreeMap::new();
        for metric in data.scope_metrics().flat_map(|scope| scope.metrics()) {
            let name = metric.name().rsplit('.').next().expect("a name");
            match metric.data() {
                AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                    values.extend(
                        sum.data_points()
                            .map(|point| (format!("{name}{}", text(point.attributes())), point.value() as f64)),
                    );
                }
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    values.extend(
                        sum.data_points()
                            .map(|point| (format!("{name}{}", text(point.attributes())), point.value() as f64)),
                    );
                }
                AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                    values.extend(histogram.data_points().map(|point| {
                        assert_eq!(point.bounds().count(), 0, "the conventions advise no buckets");
                        (format!("{name}{}", text(point.attributes())), point.count() as f64)
                    }));
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        values
    }
}

type Answer = fn() -> Option<OTelSdkResult>;

/// Answers each call by its own result, or not at all.
#[derive(Debug)]
struct Answers(Answer);

impl SpanExporter for Answers {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        match (self.0)() {
            Some(result) => result,
            None => pending().await,
        }
    }
}

/// Keeps every span.
#[derive(Clone, Debug, Default)]
struct Keeps(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Keeps {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().expect("no panic under it").extend(batch);
        Ok(())
    }
}

impl Keeps {
    fn take(&self) -> Vec<SpanData> {
        std::mem::take(&mut self.0.lock().expect("no panic under it"))
    }
}

fn spans(count: usize) -> Vec<SpanData> {
    let keeps = Keeps::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(keeps.clone()).build();
    (0..count).for_each(|_| provider.tracer("t").in_span("work", |_| ()));
    keeps.take()
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn spans_count_once_by_the_result_of_their_call() {
    let meters = Meters::new();
    let results: [(&str, Answer); 4] = [
        ("", || Some(Ok(()))),
        (" error.type=already_shutdown", || Some(Err(OTelSdkError::AlreadyShutdown))),
        (" error.type=timeout", || Some(Err(OTelSdkError::Timeout(Duration::from_secs(1))))),
        (" error.type=_OTHER", || Some(Err(OTelSdkError::InternalFailure("full".to_owned())))),
    ];
    let meters = &meters;
    for (spans, (_, answer)) in (1..).zip(&results) {
        let exporter = meters.observe(Answers(*answer), "results");
        let result = poll(std::pin::pin!(exporter.export(self::spans(spans))));
        assert!(matches!(result, Poll::Ready(result) if result.is_ok() == (spans == 1)), "the result is passed on");
    }
    let values = meters.values();
    for (spans, (labels, _)) in (1..).zip(&results) {
        assert_eq!(values[&format!("exported{labels}")], f64::from(spans), "{values:?}");
        assert_eq!(values[&format!("duration{labels}")], 1.0, "{values:?}");
    }
    assert!(values.iter().filter(|(name, _)| name.starts_with("inflight")).all(|(_, value)| *value == 0.0));
}

#[test]
fn spans_are_in_flight_until_the_call_ends_or_is_dropped() {
    let meters = Meters::new();
    let exporter = meters.observe(Answers(|| None), "hangs").with_server("collector", 4317);
    let at = " server.address=collector server.port=4317";
    let mut call = Box::pin(exporter.export(spans(3)));
    assert!(poll(call.as_mut()).is_pending());
    assert_eq!(meters.values(), BTreeMap::from([(format!("inflight{at}"), 3.0)]));
    drop(call);
    let values = meters.values();
    let cancelled = format!(" error.type=cancelled{at}");
    assert_eq!((values[&format!("inflight{at}")], values[&format!("exported{cancelled}")]), (0.0, 3.0), "{values:?}");
}

#[test]
fn exporters_of_one_type_are_numbered_and_pass_everything_on() {
    let meters = Meters::new();
    let keeps = Keeps::default();
    let exporters = [(); 2].map(|()| meters.observe(keeps.clone(), "numbered"));
    let mut provider = SdkTracerProvider::builder();
    for exporter in exporters {
        provider = provider.with_simple_exporter(exporter);
    }
    let provider = provider.build();
    provider.tracer("t").in_span("work", |_| ());
    provider.force_flush().expect("passed on");
    assert_eq!(keeps.take().len(), 2);
    let mut data = ResourceMetrics::default();
    meters.reader.collect(&mut data).expect("collected");
    let text = format!("{data:?}");
    assert!(text.contains("numbered/0") && text.contains("numbered/1"), "{text}");
    provider.shutdown().expect("passed on");
}
