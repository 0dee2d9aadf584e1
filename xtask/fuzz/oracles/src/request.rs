//! Trace requests as the stock types have them: to compare with, and to make seeds of.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

/// Each span with its resource and its scope, by text: a NaN is not equal to itself.
pub(crate) fn flat(request: &ExportTraceServiceRequest) -> Vec<String> {
    let mut all = Vec::new();
    for resource in &request.resource_spans {
        for scope in &resource.scope_spans {
            let around =
                format!("{:?} {} {:?} {}", resource.resource, resource.schema_url, scope.scope, scope.schema_url);
            all.extend(scope.spans.iter().map(|span| format!("{around} {span:?}")));
        }
    }
    all
}

pub(crate) fn spans(request: &ExportTraceServiceRequest) -> impl Iterator<Item = &Span> {
    request.resource_spans.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans)
}

/// Requests that have something of everything.
pub(crate) fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let plain = Span {
        trace_id: (1..=16).collect(),
        span_id: (1..=8).collect(),
        name: "GET /".to_owned(),
        kind: 2,
        start_time_unix_nano: 1_790_000_000_000_000_000,
        end_time_unix_nano: 1_790_000_000_005_000_000,
        status: Some(Status::default()),
        flags: 0x101,
        ..Default::default()
    };
    let rich = Span {
        trace_state: "a=b,c=d".to_owned(),
        parent_span_id: vec![9; 8],
        attributes: values().into_iter().map(|(key, value)| attribute(key, value)).collect(),
        dropped_attributes_count: 1,
        events: vec![Event {
            time_unix_nano: u64::MAX,
            name: "gr\u{fc}n \"q\"\n\u{1}".to_owned(),
            attributes: vec![attribute("k", Value::IntValue(i64::MIN))],
            dropped_attributes_count: 3,
        }],
        dropped_events_count: 2,
        links: vec![Link {
            trace_id: vec![0xab; 16],
            span_id: vec![0xcd; 8],
            trace_state: "x=y".to_owned(),
            attributes: vec![attribute("k", Value::BoolValue(false))],
            dropped_attributes_count: u32::MAX,
            flags: 0x301,
        }],
        dropped_links_count: 4,
        status: Some(Status { message: "no".to_owned(), code: 2 }),
        ..plain.clone()
    };
    let odd = Span { trace_id: vec![1, 2, 3], span_id: vec![7; 9], kind: -1, flags: u32::MAX, ..Default::default() };
    let scope = InstrumentationScope {
        name: "lib".to_owned(),
        version: "1".to_owned(),
        attributes: vec![attribute("s", Value::DoubleValue(0.1))],
        dropped_attributes_count: 5,
    };
    let resource = Resource {
        attributes: vec![attribute("service.name", Value::StringValue("fuzz".to_owned()))],
        dropped_attributes_count: 6,
        ..Default::default()
    };
    let scoped = |spans: Vec<Span>| ScopeSpans {
        scope: Some(scope.clone()),
        spans,
        schema_url: "https://example.com/1".to_owned(),
    };
    let bare = |spans: Vec<Span>| ScopeSpans { spans, ..Default::default() };
    let within = |scope_spans: Vec<ScopeSpans>| ResourceSpans {
        resource: Some(resource.clone()),
        scope_spans,
        schema_url: "https://example.com/2".to_owned(),
    };
    let without = |scope_spans: Vec<ScopeSpans>| ResourceSpans { scope_spans, ..Default::default() };
    vec![
        ("plain", request(vec![within(vec![bare(vec![plain.clone()])])])),
        ("rich", request(vec![within(vec![scoped(vec![rich.clone()])])])),
        ("odd", request(vec![without(vec![bare(vec![odd, Span::default()])])])),
        (
            "scopes",
            request(vec![
                within(vec![scoped(vec![plain.clone(), plain.clone()]), bare(vec![]), bare(vec![plain])]),
                without(vec![]),
                without(vec![scoped(vec![rich])]),
            ]),
        ),
        ("nested", request(vec![without(vec![bare(vec![deep(12)])])])),
        ("deepest", request(vec![without(vec![bare(vec![deep(47)])])])),
        ("empty", Vec::new()),
    ]
}

fn request(resource_spans: Vec<ResourceSpans>) -> Vec<u8> {
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

/// One of each kind.
fn values() -> Vec<(&'static str, Value)> {
    let any = |value| AnyValue { value: Some(value) };
    vec![
        ("text", Value::StringValue("a \u{1f600}".to_owned())),
        ("empty", Value::StringValue(String::new())),
        ("bool", Value::BoolValue(true)),
        ("int", Value::IntValue(-1)),
        ("double", Value::DoubleValue(1e-7)),
        ("nan", Value::DoubleValue(f64::NAN)),
        ("infinite", Value::DoubleValue(f64::NEG_INFINITY)),
        ("bytes", Value::BytesValue(vec![0xfb, 0xff])),
        ("array", Value::ArrayValue(ArrayValue { values: vec![any(Value::IntValue(1)), AnyValue::default()] })),
        ("map", Value::KvlistValue(KeyValueList { values: vec![attribute("in", Value::BoolValue(true))] })),
        ("index", Value::StringValueStrindex(3)),
    ]
}

/// A span with a value of `depth` arrays, one in the other.
fn deep(depth: usize) -> Span {
    let mut value = Value::BoolValue(true);
    for _ in 0..depth {
        value = Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(value) }] });
    }
    Span { attributes: vec![attribute("deep", value)], ..Default::default() }
}
