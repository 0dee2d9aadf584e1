//! The three metrics of an exporter, for any exporter. Needs nothing else of this crate.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// The number of the next exporter of each type, from 0 (semantic conventions, `otel.component.name`).
static NUMBERS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// A span exporter with the metrics that the semantic conventions give exporters, and that the SDK for Rust lacks:
///
/// | Instrument | Counts |
/// | --- | --- |
/// | `otel.sdk.exporter.span.inflight` | spans in calls of `export` that have not ended |
/// | `otel.sdk.exporter.span.exported` | spans of calls that have ended; with `error.type` those that failed |
/// | `otel.sdk.exporter.operation.duration` | seconds of each call, in count, sum and extremes: the conventions advise no buckets, and a view adds them |
///
/// Each has `otel.component.type` and `otel.component.name`, and `server.address` and `server.port` where
/// [`with_server`](Self::with_server) sets them. `error.type` is `already_shutdown`, `timeout`, `cancelled` (the future
/// was dropped, or panicked) or `_OTHER`: an exporter tells no more. Behind a
/// [`ResilientSpanExporter`](resilient_exporter::ResilientSpanExporter) as its primary each attempt is a call. The
/// resilient exporter itself needs no wrapper: [`metrics::register`](crate::metrics::register) has these metrics of it,
/// by its ledger.
///
/// A call costs two updates of counters and one of a histogram, and a clock read at each end. The meter's own exporter
/// must not trace.
///
/// ```
/// use opentelemetry::metrics::MeterProvider as _;
/// use opentelemetry_sdk::metrics::SdkMeterProvider;
/// use opentelemetry_sdk::trace::SdkTracerProvider;
/// use telemetry_manager::Observed;
///
/// # use opentelemetry_sdk::{error::OTelSdkResult, trace::{SpanData, SpanExporter}};
/// # #[derive(Debug)] struct MyExporter;
/// # impl SpanExporter for MyExporter { async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult { Ok(()) } }
/// let meters = SdkMeterProvider::builder().build(); // with your reader
/// let exporter = Observed::new(MyExporter, &meters.meter("otel"), "my_exporter").with_server("collector", 4317);
/// let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
/// # drop(provider);
/// ```
pub struct Observed<E> {
    inner: E,
    inflight: UpDownCounter<i64>,
    exported: Counter<u64>,
    duration: Histogram<f64>,
    attributes: Vec<KeyValue>,
}

impl<E> Observed<E> {
    /// Observes `exporter` by instruments of `meter`. `component` is its `otel.component.type`:
    /// `otlp_grpc_span_exporter`, `otlp_http_span_exporter`, `zipkin_http_span_exporter`, or the name of a type of your
    /// own.
    pub fn new(exporter: E, meter: &Meter, component: impl Into<Cow<'static, str>>) -> Self {
        let component = component.into();
        let number = {
            let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
            let next = numbers.entry(component.to_string()).or_default();
            *next += 1;
            *next - 1
        };
        let name = format!("{component}/{number}");
        Self {
            inner: exporter,
            inflight: meter
                .i64_up_down_counter("otel.sdk.exporter.span.inflight")
                .with_unit("{span}")
                .with_description("Spans which were passed to the exporter, but that have not been exported yet.")
                .build(),
            exported: meter
                .u64_counter("otel.sdk.exporter.span.exported")
                .with_unit("{span}")
                .with_description("Spans for which the export has finished, either successful or failed.")
                .build(),
            duration: meter
                .f64_histogram("otel.sdk.exporter.operation.duration")
                .with_unit("s")
                .with_description("The duration of exporting a batch of telemetry records.")
                .with_boundaries(Vec::new())
                .build(),
            attributes: vec![
                KeyValue::new("otel.component.type", component),
                KeyValue::new("otel.component.name", name),
            ],
        }
    }

    /// Adds the address of the server that the exporter sends to.
    #[must_use]
    pub fn with_server(mut self, address: impl Into<Cow<'static, str>>, port: u16) -> Self {
        self.attributes.push(KeyValue::new("server.address", address.into()));
        self.attributes.push(KeyValue::new("server.port", i64::from(port)));
        self
    }

    /// The exporter without its metrics.
    pub fn into_inner(self) -> E {
        self.inner
    }
}

/// A call of `export`; its end counts also where the future is dropped.
struct Call<'a, E> {
    observed: &'a Observed<E>,
    spans: usize,
    start: Instant,
    error: Option<&'static str>,
}

impl<'a, E> Call<'a, E> {
    fn begin(observed: &'a Observed<E>, spans: usize) -> Self {
        observed.inflight.add(i64::try_from(spans).unwrap_or(i64::MAX), &observed.attributes);
        Self { observed, spans, start: now(), error: Some("cancelled") }
    }

    fn end(mut self, result: &OTelSdkResult) {
        self.error = result.as_ref().err().map(error_type);
    }
}

impl<E> Drop for Call<'_, E> {
    fn drop(&mut self) {
        let Observed { inflight, exported, duration, attributes, .. } = self.observed;
        inflight.add(-i64::try_from(self.spans).unwrap_or(i64::MAX), attributes);
        let mut attributes = attributes.clone();
        attributes.extend(self.error.map(|error| KeyValue::new("error.type", error)));
        exported.add(self.spans as u64, &attributes);
        let took = now().saturating_duration_since(self.start);
        duration.record(took.as_secs_f64(), &attributes);
    }
}

fn error_type(error: &OTelSdkError) -> &'static str {
    match error {
        OTelSdkError::AlreadyShutdown => "already_shutdown",
        OTelSdkError::Timeout(_) => "timeout",
        // "A fallback error value to be used when the instrumentation doesn't define a custom value."
        OTelSdkError::InternalFailure(_) => "_OTHER",
    }
}

#[expect(clippy::disallowed_methods, reason = "the duration of a call in real time; the module needs no clock of ours")]
fn now() -> Instant {
    Instant::now()
}

impl<E: SpanExporter> SpanExporter for Observed<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let call = Call::begin(self, batch.len());
        let result = self.inner.export(batch).await;
        call.end(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: fmt::Debug> fmt::Debug for Observed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("inner", &self.inner).finish_non_exhaustive()
    }
}
