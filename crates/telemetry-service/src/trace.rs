//! One server span a request, by the semantic conventions for HTTP.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, Request};
use axum::http::{HeaderMap, Method, Version, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::{FutureExt as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue, global};
use telemetry_manager::Observer;
use telemetry_manager::opentelemetry_sdk::trace::SdkTracer;

use crate::router::is_own;

/// `app` with a span around each request, made by the provider that `observer` looks at. The caller's trace goes on
/// where it sent one that a global propagator understands.
///
/// Requests to the paths of [`router`](crate::router) get no span, also if `app` has an answer of its own there: a load
/// balancer and Prometheus poll them every few seconds, and the spans would hide the application's. [`traced_all`]
/// traces them.
pub fn traced(app: Router, observer: &Observer) -> Router {
    layered(app, observer, |path| !is_own(path))
}

/// The same as [`traced`], the paths of [`router`](crate::router) included: for a program that serves nothing else, and
/// for one that looks for a client which polls too often.
pub fn traced_all(app: Router, observer: &Observer) -> Router {
    layered(app, observer, |_| true)
}

fn layered(app: Router, observer: &Observer, is_traced: fn(&str) -> bool) -> Router {
    let tracer = observer.tracer_provider().tracer("telemetry-service");
    app.layer(middleware::from_fn(move |request: Request, next: Next| {
        let tracer = tracer.clone();
        async move {
            if is_traced(request.uri().path()) { trace(&tracer, request, next).await } else { next.run(request).await }
        }
    }))
}

async fn trace(tracer: &SdkTracer, request: Request, next: Next) -> Response {
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&Headers(request.headers())));
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = method(request.method());
    // The convention: method and route, or the method alone, never the path, of which there may be any number.
    let name = route.as_ref().map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
    let builder =
        tracer.span_builder(name).with_kind(SpanKind::Server).with_attributes(attributes(&request, method, route));
    let span = tracer.build_with_context(builder, &parent);
    let context: Context = parent.with_span(span);
    let response = next.run(request).with_context(context.clone()).await;
    let (span, status) = (context.span(), response.status());
    span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
    if status.is_server_error() {
        span.set_attribute(KeyValue::new("error.type", status.as_u16().to_string()));
        span.set_status(Status::error(""));
    }
    span.end();
    response
}

fn attributes(request: &Request, method: &'static str, route: Option<String>) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("url.scheme", "http"),
        KeyValue::new("url.path", request.uri().path().to_owned()),
    ];
    if method == OTHER {
        attributes.push(KeyValue::new("http.request.method_original", request.method().as_str().to_owned()));
    }
    if let Some(version) = version(request.version()) {
        attributes.push(KeyValue::new("network.protocol.version", version));
    }
    if let Some(route) = route {
        attributes.push(KeyValue::new("http.route", route));
    }
    if let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
        attributes.push(KeyValue::new("client.address", peer.ip().to_string()));
        attributes.push(KeyValue::new("network.peer.port", i64::from(peer.port())));
    }
    if let Some(agent) = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()) {
        attributes.push(KeyValue::new("user_agent.original", agent.to_owned()));
    }
    attributes
}

/// The conventions' name for any other method: a client must not be able to invent span names.
const OTHER: &str = "_OTHER";

fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or(OTHER)
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        _ => None,
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}
