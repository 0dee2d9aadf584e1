//! The application: a shop whose requests are traced, at a steady rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mock_collector::SpanIds;
use opentelemetry::trace::{Event, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use parking_lot::{Condvar, Mutex};

use super::scene::now;

/// How often the application makes the requests that are due.
const TICK: Duration = Duration::from_millis(10);

/// Spans of the largest request, plus one.
const MOST_SPANS: u64 = 5;

/// Route, method and whether it pays, in turn.
const ROUTES: [(&str, &str, bool); 5] = [
    ("/api/products/{id}", "GET", false),
    ("/api/orders/{id}", "GET", false),
    ("/api/cart", "GET", false),
    ("/api/search", "GET", false),
    ("/api/checkout", "POST", true),
];

/// Ends the application, and counts its spans meanwhile.
#[derive(Debug, Default)]
pub(super) struct Control {
    ended: Mutex<bool>,
    wake: Condvar,
    made: AtomicU64,
}

impl Control {
    /// Spans made so far.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Ends the application soon.
    pub(super) fn end(&self) {
        *self.ended.lock() = true;
        self.wake.notify_all();
    }

    /// Waits for the next tick; false when it is time to end.
    fn tick(&self) -> bool {
        let mut ended = self.ended.lock();
        if !*ended {
            self.wake.wait_for(&mut ended, TICK);
        }
        !*ended
    }
}

/// Serves requests until `control` ends it: up to `rate` spans a second. Requests that were due during a pause of the
/// machine are left out, so that no burst follows the pause. Returns the ids of all spans made.
pub(super) fn run(tracer: &SdkTracer, rate: u32, control: &Control) -> Vec<SpanIds> {
    let mut ids = Vec::new();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut last, mut due) = (now(), 0.0);
    let most = (f64::from(rate) * TICK.as_secs_f64() * 3.0).max(MOST_SPANS as f64);
    while control.tick() {
        let now = now();
        due = (due + f64::from(rate) * since(&mut last, now)).min(most);
        while due >= 1.0 {
            let made = ids.len();
            request(tracer, &mut dice, &mut ids);
            due -= (ids.len() - made) as f64;
            control.made.store(ids.len() as u64, Ordering::Relaxed);
        }
    }
    ids
}

fn since(last: &mut Instant, now: Instant) -> f64 {
    let passed = now.saturating_duration_since(*last);
    *last = now;
    passed.as_secs_f64()
}

/// One request: the server's span, and below it the cache, mostly the database, sometimes the payment service.
fn request(tracer: &SdkTracer, dice: &mut Dice, ids: &mut Vec<SpanIds>) {
    let number = dice.below(1_000_000);
    let (route, method, pays) = ROUTES[dice.below(ROUTES.len() as u64) as usize];
    let began = wall_clock();
    let attributes = [
        KeyValue::new("http.request.method", method),
        KeyValue::new("http.route", route),
        KeyValue::new("url.path", route.replace("{id}", &number.to_string())),
        KeyValue::new("url.scheme", "https"),
        KeyValue::new("server.address", "shop.example"),
        KeyValue::new("network.protocol.version", "2"),
        KeyValue::new("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64) demo"),
        KeyValue::new("enduser.id", format!("customer-{}", number % 5_000)),
    ];
    let builder = tracer.span_builder(format!("{method} {route}"));
    let server = builder.with_kind(SpanKind::Server).with_start_time(began).with_attributes(attributes);
    let context = Context::new().with_span(server.start_with_context(tracer, &Context::new()));
    keep(ids, &context);

    let mut call = Call { tracer, parent: &context, at: began, ids };
    let hit = dice.below(4) == 0;
    call.child(
        "cache get",
        dice.micros(80, 400),
        [
            KeyValue::new("db.system.name", "redis"),
            KeyValue::new("db.operation.name", "GET"),
            KeyValue::new("cache.hit", hit),
        ],
    );
    if !hit {
        call.child(
            "SELECT shop.orders",
            dice.micros(600, 9_000),
            [
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("db.namespace", "shop"),
                KeyValue::new("db.query.text", "SELECT id, total, state FROM orders WHERE id = $1"),
            ],
        );
    }
    let failed = pays && dice.below(20) == 0;
    if pays {
        call.child(
            "POST /v2/charges",
            dice.micros(20_000, 180_000),
            [
                KeyValue::new("server.address", "payments.example"),
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("http.response.status_code", if failed { 503_i64 } else { 201 }),
            ],
        );
    }
    let ended = call.at + dice.micros(100, 900);
    let span = context.span();
    span.set_attribute(KeyValue::new("http.response.status_code", if failed { 500_i64 } else { 200 }));
    if failed {
        let exception = vec![
            KeyValue::new("exception.type", "PaymentRefused"),
            KeyValue::new("exception.message", "the payment service answered 503"),
        ];
        span.add_event_with_timestamp("exception", ended, exception);
        span.set_status(Status::error("payment refused"));
    }
    span.end_with_timestamp(ended);
}

/// The calls of one request, one after the other.
struct Call<'a> {
    tracer: &'a SdkTracer,
    parent: &'a Context,
    at: SystemTime,
    ids: &'a mut Vec<SpanIds>,
}

impl Call<'_> {
    fn child(&mut self, name: &'static str, takes: Duration, attributes: impl IntoIterator<Item = KeyValue>) {
        let half = Event::new("response began", self.at + takes / 2, vec![KeyValue::new("attempt", 1_i64)], 0);
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Client).with_start_time(self.at);
        let builder = builder.with_attributes(attributes).with_events(vec![half]);
        let context = Context::new().with_span(builder.start_with_context(self.tracer, self.parent));
        keep(self.ids, &context);
        self.at += takes;
        context.span().end_with_timestamp(self.at);
    }
}

fn keep(ids: &mut Vec<SpanIds>, context: &Context) {
    let span = context.span();
    let span = span.span_context();
    ids.push((span.trace_id().to_bytes(), span.span_id().to_bytes()));
}

/// Wall clock: when a request began.
#[expect(clippy::disallowed_methods, reason = "the application stamps its spans")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Chance enough for a demo: xorshift (Marsaglia 2003), the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn micros(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from + self.below(to - from))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    #[test]
    fn a_request_has_two_to_four_spans_of_one_trace_and_records_every_id() {
        let provider = SdkTracerProvider::builder().build();
        let (tracer, mut dice) = (provider.tracer("test"), Dice(7));
        let mut all = HashSet::new();
        for _ in 0..500 {
            let mut ids = Vec::new();
            request(&tracer, &mut dice, &mut ids);
            assert!((2..MOST_SPANS as usize).contains(&ids.len()), "{}", ids.len());
            assert!(ids.iter().all(|(trace, span)| *trace == ids[0].0 && *span != [0; 8]));
            all.extend(ids);
        }
        assert!(all.len() > 1000);
    }

    #[test]
    fn an_application_that_was_ended_before_its_start_makes_nothing() {
        let provider = SdkTracerProvider::builder().build();
        let control = Control::default();
        control.end();
        assert!(run(&provider.tracer("test"), 1_000, &control).is_empty());
        assert_eq!(control.made(), 0);
    }
}
