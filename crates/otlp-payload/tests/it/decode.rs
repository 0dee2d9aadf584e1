//! Back to the SDK's types.

use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry::{Array, Key, Value};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as ProtoValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue as ProtoKeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use opentelemetry_sdk::Resource;
use otlp_payload::{DecodeError, decode, decode_all};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use crate::encode::{encode, stock};
use crate::spans;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn encodes_to_the_same_bytes_again(batch in vec(spans::span(), 0..8), url in spans::text(), value in spans::value()) {
        // One attribute: the SDK keeps those of a resource in no order.
        let attribute = opentelemetry::KeyValue::new("service.name", value);
        let resource = Resource::builder_empty().with_schema_url([attribute], url).build();
        let payload = encode(&resource, &batch);
        let decoded = decode(payload.bytes()).unwrap();
        prop_assert_eq!(decoded.spans.len(), batch.len());
        let again = encode(&decoded.resource, &decoded.spans);
        // Scopes that differ only in "no version" and "empty version" are one after decoding.
        let distinct = stock(&decoded.resource, &decoded.spans);
        prop_assert_eq!(&again.bytes()[..], &distinct[..]);
        if count_scopes(payload.bytes()) == count_scopes(again.bytes()) {
            prop_assert_eq!(again.bytes(), payload.bytes());
        }
    }

    #[test]
    fn keeps_all_that_otlp_holds(span in spans::span(), resource in spans::resource()) {
        let payload = encode(&resource, std::slice::from_ref(&span));
        let decoded = decode(payload.bytes()).unwrap();
        prop_assert_eq!(decoded.resource.len(), resource.len());
        for (key, value) in &resource {
            prop_assert_eq!(format!("{:?}", decoded.resource.get(key).map(plain)), format!("{:?}", Some(plain(value.clone()))));
        }
        let back = &decoded.spans[0];
        prop_assert_eq!(&back.name, &span.name);
        prop_assert_eq!(back.span_context.trace_id(), span.span_context.trace_id());
        prop_assert_eq!(back.span_context.span_id(), span.span_context.span_id());
        prop_assert_eq!(back.span_context.trace_flags(), span.span_context.trace_flags());
        prop_assert_eq!(back.span_context.trace_state(), span.span_context.trace_state());
        prop_assert_eq!(back.parent_span_id, span.parent_span_id);
        prop_assert_eq!(back.parent_span_is_remote, span.parent_span_is_remote);
        prop_assert_eq!(&back.status, &span.status);
        prop_assert_eq!(back.events.len(), span.events.len());
        prop_assert_eq!(back.events.dropped_count, span.events.dropped_count);
        prop_assert_eq!(back.links.dropped_count, span.links.dropped_count);
        prop_assert_eq!(back.dropped_attributes_count, span.dropped_attributes_count);
        for (link, original) in back.links.iter().zip(span.links.iter()) {
            prop_assert_eq!(&link.span_context, &original.span_context);
        }
    }
}

/// Empty arrays have no kind on the wire.
fn plain(value: Value) -> Value {
    match value {
        Value::Array(Array::Bool(values)) if values.is_empty() => Value::Array(Array::String(vec![])),
        Value::Array(Array::I64(values)) if values.is_empty() => Value::Array(Array::String(vec![])),
        Value::Array(Array::F64(values)) if values.is_empty() => Value::Array(Array::String(vec![])),
        Value::String(text) => Value::from(text.as_str().to_owned()),
        Value::Array(Array::String(values)) => {
            Value::Array(Array::String(values.iter().map(|text| text.as_str().to_owned().into()).collect()))
        }
        other => other,
    }
}

fn count_scopes(bytes: &[u8]) -> usize {
    let request = ExportTraceServiceRequest::decode(bytes).expect("just encoded");
    request.resource_spans.iter().map(|resource| resource.scope_spans.len()).sum()
}

fn any(value: ProtoValue) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn text(text: &str) -> AnyValue {
    any(ProtoValue::StringValue(text.to_owned()))
}

fn attribute(key: &str, value: AnyValue) -> ProtoKeyValue {
    ProtoKeyValue { key: key.to_owned(), value: Some(value), key_strindex: 0 }
}

fn request_of(span: Span) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..Default::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..Default::default() }] }
        .encode_to_vec()
}

#[test]
fn what_the_sdk_cannot_hold_becomes_text() {
    let mixed =
        ArrayValue { values: vec![text("a\"b"), any(ProtoValue::IntValue(i64::MIN)), AnyValue { value: None }] };
    let map = KeyValueList {
        values: vec![
            attribute("d", any(ProtoValue::DoubleValue(f64::INFINITY))),
            attribute("b", any(ProtoValue::BytesValue(vec![0xff, 0]))),
            attribute("l", any(ProtoValue::ArrayValue(ArrayValue { values: vec![any(ProtoValue::BoolValue(true))] }))),
        ],
    };
    let span = Span {
        attributes: vec![
            attribute("bytes", any(ProtoValue::BytesValue(vec![1, 2, 3, 4]))),
            attribute("mixed", any(ProtoValue::ArrayValue(mixed))),
            attribute("map", any(ProtoValue::KvlistValue(map))),
            attribute("nothing", AnyValue { value: None }),
            ProtoKeyValue { key: "absent".to_owned(), value: None, key_strindex: 0 },
        ],
        ..Default::default()
    };
    let decoded = decode(&request_of(span)).unwrap();
    let values: Vec<_> =
        decoded.spans[0].attributes.iter().map(|attribute| attribute.value.as_str().into_owned()).collect();
    let expected =
        ["AQIDBA==", r#"["a\"b",-9223372036854775808,null]"#, r#"{"d":"Infinity","b":"/wA=","l":[true]}"#, "", ""];
    assert_eq!(values, expected);
}

#[test]
fn an_empty_span_and_an_empty_request_have_defaults() {
    let decoded = decode(&request_of(Span::default())).unwrap();
    let span = &decoded.spans[0];
    assert_eq!(
        (span.start_time, span.span_kind.clone(), &span.status),
        (UNIX_EPOCH, SpanKind::Internal, &Status::Unset)
    );
    assert!(!span.span_context.is_valid());
    assert!(decoded.resource.is_empty());
    assert_eq!(decode(&[]).unwrap().spans, []);
}

#[test]
fn the_last_nanosecond_of_otlp_is_a_time() {
    let span = Span { end_time_unix_nano: u64::MAX, ..Default::default() };
    assert_eq!(decode(&request_of(span)).unwrap().spans[0].end_time, UNIX_EPOCH + Duration::from_nanos(u64::MAX));
}

#[test]
fn several_resources_need_the_other_function() {
    let resource = |name: &str| ResourceSpans {
        resource: Some(ProtoResource { attributes: vec![attribute("service.name", text(name))], ..Default::default() }),
        scope_spans: vec![ScopeSpans { spans: vec![Span::default()], ..Default::default() }],
        ..Default::default()
    };
    let request = ExportTraceServiceRequest { resource_spans: vec![resource("a"), resource("b")] }.encode_to_vec();
    assert_eq!(decode(&request), Err(DecodeError::SeveralResources { count: 2 }));
    let all = decode_all(&request).unwrap();
    assert_eq!(all[1].resource.get(&Key::new("service.name")), Some(Value::from("b")));
    assert_eq!(all.iter().map(|one| one.spans.len()).collect::<Vec<_>>(), [1, 1]);
}
