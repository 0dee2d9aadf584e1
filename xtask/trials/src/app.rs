//! The application of the trials: requests of a web shop, traced through the real SDK.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor};

use crate::SpanIds;

/// Makes spans of the usual shape: 11 attributes, 1 event; every 20th is an error with a stack trace, every 10th has a
/// link. About 650 bytes each as OTLP protobuf.
#[derive(Debug)]
pub struct App {
    tracer: SdkTracer,
    requests: u64,
}

impl App {
    /// An application that traces by this provider.
    #[must_use]
    pub fn new(provider: &SdkTracerProvider) -> Self {
        Self { tracer: provider.tracer("shop.http"), requests: 0 }
    }

    /// Serves one request: one root span, started and ended.
    pub fn serve(&mut self) -> SpanIds {
        self.span(&Context::new(), Self::attributes)
    }

    /// Serves one request whose span carries `bytes` more in one attribute.
    pub fn serve_large(&mut self, bytes: usize) -> SpanIds {
        self.span(&Context::new(), |number| {
            let mut attributes = Self::attributes(number);
            let letters = (0..bytes).map(|at| char::from(b'a' + (at % 23) as u8));
            attributes.push(KeyValue::new("http.request.body", letters.collect::<String>()));
            attributes
        })
    }

    /// Serves one request with a database call inside: two spans, the inner one first.
    pub fn serve_nested(&mut self) -> [SpanIds; 2] {
        let outer = self
            .tracer
            .build_with_context(SpanBuilder::from_name("GET /orders").with_kind(SpanKind::Server), &Context::new());
        let context = Context::new().with_span(outer);
        let inner = self.span(&context, Self::attributes);
        let outer = context.span();
        let ids = ids(outer.span_context());
        outer.end();
        [inner, ids]
    }

    /// Begins to serve one request: the root span has all that it will have, and is not ended.
    pub fn begin(&mut self) -> Span {
        self.begun(&Context::new(), Self::attributes)
    }

    fn span(&mut self, parent: &Context, attributes: impl FnOnce(u64) -> Vec<KeyValue>) -> SpanIds {
        let mut span = self.begun(parent, attributes);
        let ids = ids(span.span_context());
        span.end();
        ids
    }

    fn begun(&mut self, parent: &Context, attributes: impl FnOnce(u64) -> Vec<KeyValue>) -> Span {
        let number = self.requests;
        self.requests += 1;
        let mut builder = SpanBuilder::from_name(ROUTES[number as usize % ROUTES.len()])
            .with_kind(SpanKind::Server)
            .with_attributes(attributes(number));
        if number % 10 == 3 {
            builder = builder.with_links(vec![link(number)]);
        }
        let mut span = self.tracer.build_with_context(builder, parent);
        span.add_event(
            "order.loaded",
            vec![KeyValue::new("rows", (number % 50) as i64), KeyValue::new("cache.hit", number.is_multiple_of(3))],
        );
        if number % 20 == 7 {
            span.add_event("exception", exception());
            span.set_status(Status::error("upstream timed out"));
        }
        span
    }

    fn attributes(number: u64) -> Vec<KeyValue> {
        let path = format!("/api/v1/customers/{}/orders/{}", number % 10_007, number);
        vec![
            KeyValue::new("http.request.method", "GET"),
            KeyValue::new("url.scheme", "https"),
            KeyValue::new("url.path", path),
            KeyValue::new("http.route", ROUTES[number as usize % ROUTES.len()]),
            KeyValue::new("http.response.status_code", if number % 20 == 7 { 504_i64 } else { 200 }),
            KeyValue::new("server.address", "shop.example.com"),
            KeyValue::new("server.port", 443_i64),
            KeyValue::new("client.address", format!("198.51.100.{}", number % 256)),
            KeyValue::new(
                "user_agent.original",
                "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            ),
            KeyValue::new("network.protocol.version", "1.1"),
            KeyValue::new("shop.basket.value", (number % 100_000) as f64 / 100.0),
        ]
    }
}

/// The first `count` spans of the application, as the SDK hands them to an exporter.
#[must_use]
pub fn finished_spans(count: usize) -> Vec<SpanData> {
    let spans = Recorder::default();
    let provider = SdkTracerProvider::builder().with_span_processor(spans.clone()).build();
    let mut app = App::new(&provider);
    for _ in 0..count {
        app.serve();
    }
    spans.take()
}

/// Keeps every finished span, as a record of the spans that is independent of every exporter. Clones share the spans.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    spans: Arc<Mutex<Vec<SpanData>>>,
}

impl Recorder {
    /// The spans finished since the last call.
    ///
    /// # Panics
    ///
    /// When the application panicked in the middle of a span.
    #[must_use]
    pub fn take(&self) -> Vec<SpanData> {
        std::mem::take(&mut self.spans.lock().expect("no thread panics with the lock held"))
    }
}

impl SpanProcessor for Recorder {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.spans.lock().expect("no thread panics with the lock held").push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The ids of a span, as the collectors write them down.
fn ids(context: &SpanContext) -> SpanIds {
    (context.trace_id().to_bytes(), context.span_id().to_bytes())
}

fn link(number: u64) -> Link {
    let context = SpanContext::new(
        TraceId::from(u128::from(number) + 1),
        SpanId::from(number + 1),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    Link::new(context, vec![KeyValue::new("messaging.operation.type", "process")], 0)
}

fn exception() -> Vec<KeyValue> {
    vec![
        KeyValue::new("exception.type", "shop::Upstream"),
        KeyValue::new("exception.message", "no answer from the warehouse within 500 ms"),
        KeyValue::new("exception.stacktrace", STACK),
    ]
}

const ROUTES: [&str; 3] =
    ["/api/v1/customers/{customer}/orders/{order}", "/api/v1/products/{product}", "/api/v1/baskets/{basket}/items"];

const STACK: &str = "   0: shop::warehouse::Client::reserve\n             at src/warehouse/client.rs:118:21\n   \
    1: shop::orders::place\n             at src/orders.rs:74:9\n   2: shop::http::handle\n             at src/http.rs:203:17\n   \
    3: tower::util::oneshot::Oneshot::poll\n   4: hyper::proto::h1::dispatch::Dispatcher::poll_catch\n   \
    5: tokio::runtime::task::raw::poll\n   6: std::sys::thread::Thread::new::thread_start\n   7: start_thread\n   8: clone3\n";
