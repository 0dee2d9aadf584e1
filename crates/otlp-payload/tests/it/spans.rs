//! Any legal span.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{Array, InstrumentationScope, Key, KeyValue, StringValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        6 => "[a-z._]{1,24}",
        // Around the border of a two-byte length.
        1 => "[ -~]{100,160}",
        // Controls, quotes, backslashes, surrogate neighbours, astral and non-characters.
        3 => "[\\x00-\\x1f\"\\\\/\\x7f\u{80}\u{7ff}\u{d7ff}\u{e000}\u{fffd}\u{ffff}\u{1f600}\u{10ffff}\u{2028}a]{1,12}",
        1 => vec(any::<char>(), 0..40).prop_map(String::from_iter),
    ]
}

/// Every double, except that there is one NaN: its payload does not survive JSON.
pub(crate) fn double() -> impl Strategy<Value = f64> {
    let special = [
        0.0,
        -0.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE,
        5e-324,
        f64::MAX,
        f64::MIN,
        0.1,
        1e21,
        1e-7,
    ];
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits).prop_map(|value| if value.is_nan() { f64::NAN } else { value }),
        select(special.to_vec()),
        (-1e6..1e6)
    ]
}

pub(crate) fn int() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), select(vec![0, 1, -1, 127, 128, i64::MAX, i64::MIN, 1 << 53, (1 << 53) + 1])]
}

/// Text of all three kinds that the API tells apart.
fn string_value() -> impl Strategy<Value = StringValue> {
    text().prop_flat_map(|text| {
        select(vec![
            StringValue::from(text.clone()),
            StringValue::from(std::sync::Arc::<str>::from(text.as_str())),
            StringValue::from(Cow::Owned(text)),
            StringValue::from("static"),
        ])
    })
}

pub(crate) fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        int().prop_map(Value::from),
        double().prop_map(Value::from),
        string_value().prop_map(Value::from),
        string_value().prop_map(Value::from),
        vec(any::<bool>(), 0..5).prop_map(|values| Value::Array(Array::Bool(values))),
        vec(int(), 0..5).prop_map(|values| Value::Array(Array::I64(values))),
        vec(double(), 0..20).prop_map(|values| Value::Array(Array::F64(values))),
        vec(string_value(), 0..8).prop_map(|values| Value::Array(Array::String(values))),
    ]
}

pub(crate) fn attributes(max: usize) -> impl Strategy<Value = Vec<KeyValue>> {
    vec((text(), value()).prop_map(|(key, value)| KeyValue::new(Key::from(key), value)), 0..=max)
}

/// Before 1970, this century, after 2262 (signed nanoseconds end) and after 2554 (unsigned ones end).
fn time() -> impl Strategy<Value = SystemTime> {
    prop_oneof![
        (0..10_000_000_000_u64, 0..1_000_000_000_u32).prop_map(|(secs, nanos)| UNIX_EPOCH + Duration::new(secs, nanos)),
        (1..u64::from(u32::MAX)).prop_map(|secs| UNIX_EPOCH - Duration::from_secs(secs)),
        (0..1_u64 << 40, 0..1_000_000_000_u32).prop_map(|(secs, nanos)| UNIX_EPOCH + Duration::new(secs, nanos)),
        Just(UNIX_EPOCH),
    ]
}

fn trace_state() -> impl Strategy<Value = TraceState> {
    let member = ("([a-z0-9][a-z0-9_*/-]{0,8}(@[a-z][a-z0-9]{0,5})?)?", "[ -+--<>-~\u{e9}]{0,12}");
    prop_oneof![
        3 => Just(TraceState::NONE),
        2 => vec(member, 0..5).prop_map(|members| TraceState::from_key_value(members).expect("valid members")),
    ]
}

fn context() -> impl Strategy<Value = SpanContext> {
    (any::<[u8; 16]>(), any::<[u8; 8]>(), any::<u8>(), any::<bool>(), trace_state(), 0..20_u8).prop_map(
        |(trace, span, flags, remote, state, invalid)| {
            let (trace, span) = if invalid == 0 { ([0; 16], [0; 8]) } else { (trace, span) };
            let (trace, span) = (TraceId::from_bytes(trace), SpanId::from_bytes(span));
            SpanContext::new(trace, span, TraceFlags::new(flags), remote, state)
        },
    )
}

fn count() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(0), 1 => any::<u32>(), 1 => 1..200_u32]
}

fn events() -> impl Strategy<Value = SpanEvents> {
    let event = (text(), time(), attributes(4), count())
        .prop_map(|(name, time, attributes, dropped)| Event::new(name, time, attributes, dropped));
    (vec(event, 0..4), count()).prop_map(|(events, dropped)| {
        let mut all = SpanEvents::default();
        (all.events, all.dropped_count) = (events, dropped);
        all
    })
}

fn links() -> impl Strategy<Value = SpanLinks> {
    let link = (context(), attributes(3), count())
        .prop_map(|(context, attributes, dropped)| Link::new(context, attributes, dropped));
    (vec(link, 0..3), count()).prop_map(|(links, dropped)| {
        let mut all = SpanLinks::default();
        (all.links, all.dropped_count) = (links, dropped);
        all
    })
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![Just(Status::Unset), Just(Status::Ok), text().prop_map(Status::error)]
}

/// Few, so that spans share them; some differ from others only in what is easily overlooked.
pub(crate) fn scope() -> impl Strategy<Value = InstrumentationScope> {
    let attributes = prop_oneof![
        3 => Just(vec![]),
        1 => Just(vec![KeyValue::new("a", 1), KeyValue::new("b", "x")]),
        1 => Just(vec![KeyValue::new("b", "x"), KeyValue::new("a", 1)]),
        1 => Just(vec![KeyValue::new("a", 2), KeyValue::new("b", "x")]),
        1 => Just(vec![KeyValue::new("a", 1)]),
        // Never equal to itself.
        1 => Just(vec![KeyValue::new("a", f64::NAN)]),
        1 => Just(vec![KeyValue::new("a", Value::Array(Array::F64(vec![1.0, -0.0])))]),
    ];
    (
        select(vec!["", "http", "sql"]),
        select(vec![None, Some(""), Some("1.2.0")]),
        select(vec![None, Some(""), Some("https://s/1")]),
        attributes,
    )
        .prop_map(|(name, version, schema_url, attributes)| {
            let mut scope = InstrumentationScope::builder(name).with_attributes(attributes);
            if let Some(version) = version {
                scope = scope.with_version(version);
            }
            if let Some(url) = schema_url {
                scope = scope.with_schema_url(url);
            }
            scope.build()
        })
}

fn kind() -> impl Strategy<Value = SpanKind> {
    select(vec![SpanKind::Internal, SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer])
}

pub(crate) fn span() -> impl Strategy<Value = SpanData> {
    let ids = (context(), any::<[u8; 8]>(), any::<bool>(), any::<bool>());
    (ids, kind(), text(), (time(), time()), attributes(12), count(), events(), links(), status(), scope()).prop_map(
        |(ids, span_kind, name, times, attributes, dropped, events, links, status, instrumentation_scope)| {
            let (span_context, parent, root, parent_span_is_remote) = ids;
            SpanData {
                span_context,
                parent_span_id: if root { SpanId::INVALID } else { SpanId::from_bytes(parent) },
                parent_span_is_remote,
                span_kind,
                name: name.into(),
                start_time: times.0,
                end_time: times.1,
                attributes,
                dropped_attributes_count: dropped,
                events,
                links,
                status,
                instrumentation_scope,
            }
        },
    )
}

pub(crate) fn resource() -> impl Strategy<Value = Resource> {
    (attributes(6), prop_oneof![Just(None), text().prop_map(Some)]).prop_map(|(attributes, url)| {
        let builder = Resource::builder_empty();
        match url {
            Some(url) => builder.with_schema_url(attributes, url).build(),
            None => builder.with_attributes(attributes).build(),
        }
    })
}
