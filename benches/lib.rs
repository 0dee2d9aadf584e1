//! Shared inputs and clocks of the benchmarks.

use std::fs;
use std::sync::Barrier;
use std::time::{Duration, Instant, UNIX_EPOCH};

use opentelemetry::trace::{Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// `n` spans of an HTTP server, the same in every run: 11 attributes and one event each, every 20th an error with a
/// stack trace in a second event, every 10th with a link. About 650 bytes of protobuf each.
#[must_use]
pub fn http_spans(n: usize) -> Vec<SpanData> {
    let scope = InstrumentationScope::builder("shop.http").with_version("1.4.2").build();
    (0..n as u64).map(|index| http_span(index, &scope)).collect()
}

/// The resource of such a server: seven attributes.
#[must_use]
pub fn http_resource() -> Resource {
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", "shop-frontend"),
            KeyValue::new("service.version", "2026.11.3"),
            KeyValue::new("service.instance.id", "627cc493-f310-47de-96bd-71410b7dec09"),
            KeyValue::new("deployment.environment.name", "production"),
            KeyValue::new("telemetry.sdk.language", "rust"),
            KeyValue::new("telemetry.sdk.name", "opentelemetry"),
            KeyValue::new("telemetry.sdk.version", "0.33.1"),
        ])
        .build()
}

/// A time that was measured on a machine which may be busy.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// The mean of both threads, where there were two.
    pub time: Duration,
    /// Whether the scheduler made no thread wait (known on Linux only) and, where there were two, neither was done
    /// before the other was under way.
    pub clean: bool,
}

/// Times `work` on this thread.
pub fn timed(work: impl FnOnce()) -> Timed {
    let (waited, start) = (waited_for_a_processor(), now());
    work();
    let time = now().saturating_duration_since(start);
    Timed { time, clean: waited_for_a_processor().saturating_sub(waited) < time / 30 }
}

/// Times `work` on two threads that start together. Work of less than a millisecond is over too soon to be clean.
pub fn side_by_side(work: impl Fn() + Sync) -> Timed {
    let gate = Barrier::new(2);
    let run = || {
        gate.wait();
        let start = now();
        (start, timed(&work))
    };
    let ((my_start, mine), (their_start, theirs)) = std::thread::scope(|scope| {
        let other = scope.spawn(run);
        (run(), other.join().expect("no panic"))
    });
    let end = (my_start + mine.time).min(their_start + theirs.time);
    let both = end.saturating_duration_since(my_start.max(their_start));
    let clean = mine.clean && theirs.clean && both > mine.time.max(theirs.time) * 17 / 20;
    Timed { time: (mine.time + theirs.time) / 2, clean }
}

/// How long this thread was ready to run and did not.
fn waited_for_a_processor() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').nth(1).and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

/// The clock of the benchmarks.
#[expect(clippy::disallowed_methods, reason = "a bench measures real time, and one floor is the clock itself")]
#[must_use]
#[inline]
pub fn now() -> Instant {
    Instant::now()
}

fn http_span(index: u64, scope: &InstrumentationScope) -> SpanData {
    let random = mix(index);
    let is_error = index % 20 == 7;
    let start = UNIX_EPOCH + Duration::from_nanos(1_790_000_000_000_000_000 + index * 200_000 + random % 100_000);
    let end = start + Duration::from_micros(300 + random % 40_000);
    let (method, route) = [
        ("GET", "/api/v1/products/{id}"),
        ("GET", "/api/v1/customers/{id}/orders"),
        ("POST", "/api/v1/carts/{id}/items"),
        ("PUT", "/api/v1/customers/{id}/address"),
    ][(random >> 8) as usize % 4];
    let path = route.replace("{id}", &format!("{}", random % 1_000_000));
    let status: i64 = if is_error { 500 } else { 200 };

    // As instrumentation sets them: fixed keys, some fixed values, some made for this request.
    let attributes = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("url.scheme", "https"),
        KeyValue::new("url.path", path),
        KeyValue::new("http.route", route),
        KeyValue::new("http.response.status_code", status),
        KeyValue::new("http.response.body.size", (random % 90_000) as i64),
        KeyValue::new("server.address", "shop.example.com"),
        KeyValue::new("server.port", 443),
        KeyValue::new(
            "client.address",
            format!("10.{}.{}.{}", random % 250, (random >> 8) % 250, (random >> 16) % 250),
        ),
        KeyValue::new("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"),
        KeyValue::new("network.protocol.version", "1.1"),
    ];
    let mut events = SpanEvents::default();
    events.events.push(Event::new(
        "cart.loaded",
        start + Duration::from_micros(120),
        vec![KeyValue::new("cart.items", (random % 12) as i64), KeyValue::new("cache.hit", !random.is_multiple_of(3))],
        0,
    ));
    if is_error {
        events.events.push(Event::new(
            "exception",
            end - Duration::from_micros(20),
            vec![
                KeyValue::new("exception.type", "shop::db::PoolTimeout"),
                KeyValue::new("exception.message", "no connection within 250 ms"),
                KeyValue::new("exception.stacktrace", stack(random)),
            ],
            0,
        ));
    }
    let mut links = SpanLinks::default();
    if index.is_multiple_of(10) {
        links.links.push(Link::new(context(random ^ 1), vec![KeyValue::new("link.kind", "retry")], 0));
    }
    SpanData {
        span_context: context(random),
        parent_span_id: SpanId::from(mix(random)),
        parent_span_is_remote: true,
        span_kind: SpanKind::Server,
        name: format!("{method} {route}").into(),
        start_time: start,
        end_time: end,
        attributes,
        dropped_attributes_count: 0,
        events,
        links,
        status: if is_error { Status::error("no connection within 250 ms") } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}

fn stack(random: u64) -> String {
    (0..12)
        .map(|frame| {
            let line = mix(random + frame) % 900;
            format!("{frame:>4}: shop::handlers::orders::load::{{{{closure}}}}\n             at src/handlers/orders.rs:{line}\n")
        })
        .collect()
}

fn context(random: u64) -> SpanContext {
    let trace = TraceId::from(u128::from(mix(random)) << 64 | u128::from(mix(!random)));
    SpanContext::new(trace, SpanId::from(mix(random ^ 0x5555)), TraceFlags::SAMPLED, false, TraceState::NONE)
}

/// SplitMix64 (Steele, Lea and Flood, 2014): well spread, and the same in every run.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
