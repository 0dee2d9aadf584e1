//! OTLP JSON as it is written, read by `serde_json`.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as ProtoValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, span};
use opentelemetry_sdk::Resource;
use otlp_payload::json::{from_line, to_lines};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Map, Value, json};

use crate::encode::encode;
use crate::spans;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn comes_back_byte_for_byte(resource in spans::resource(), batch in vec(spans::span(), 1..8)) {
        let payload = encode(&resource, &batch);
        let lines = to_lines(payload.bytes(), usize::MAX).unwrap();
        prop_assert_eq!(lines.len(), 1);
        let (bytes, count) = from_line(&lines[0].text).unwrap();
        prop_assert_eq!(count, batch.len());
        prop_assert_eq!(&bytes[..], &payload.bytes()[..]);
    }

    #[test]
    fn means_to_another_reader_what_the_bytes_mean(resource in spans::resource(), batch in vec(spans::span(), 1..4)) {
        let payload = encode(&resource, &batch);
        let lines = to_lines(payload.bytes(), usize::MAX).unwrap();
        let read: Value = serde_json::from_slice(&lines[0].text).unwrap();
        let request = ExportTraceServiceRequest::decode(&payload.bytes()[..]).unwrap();
        prop_assert_eq!(comparable(read), comparable(json!({"resourceSpans": list(&request.resource_spans, resource_json)})));
    }

    #[test]
    fn lines_stay_below_the_limit_and_hold_all_spans(
        resource in spans::resource(),
        batch in vec(spans::span(), 1..20),
        limit in 200..20_000_usize,
    ) {
        let payload = encode(&resource, &batch);
        let lines = to_lines(payload.bytes(), limit).unwrap();
        let mut spans = Vec::new();
        for line in &lines {
            let is_alone = line.items == 1 || around(&line.text) > limit - limit / 8;
            prop_assert!(line.text.len() <= limit || (line.oversized && is_alone));
            prop_assert_eq!(line.oversized, line.text.len() > limit);
            prop_assert!(!line.text.contains(&b'\n'));
            prop_assert!(line.text.starts_with(LINE_START));
            let (bytes, count) = from_line(&line.text).unwrap();
            prop_assert_eq!(count, line.items);
            spans.extend(flat(&bytes));
        }
        prop_assert_eq!(spans, flat(payload.bytes()));
    }
}

/// How long a line would be without its spans: at least as long as its longest scope makes it.
fn around(line: &[u8]) -> usize {
    let mut value: Value = serde_json::from_slice(line).unwrap();
    let resource = &mut value["resourceSpans"][0];
    let scopes = resource["scopeSpans"].take();
    let bare = |scope: &Value| {
        let mut scope = scope.clone();
        scope["spans"] = Value::Array(Vec::new());
        scope.to_string().len()
    };
    let longest = scopes.as_array().unwrap().iter().map(bare).max().unwrap();
    resource["scopeSpans"] = Value::Array(Vec::new());
    value.to_string().len() + longest
}

const LINE_START: &[u8] = br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":""#;

/// Each span with its resource and its scope, by text: a NaN is not equal to itself.
fn flat(bytes: &[u8]) -> Vec<String> {
    let request = ExportTraceServiceRequest::decode(bytes).expect("a request");
    let mut all = Vec::new();
    for resource in request.resource_spans {
        for scope in &resource.scope_spans {
            let around =
                format!("{:?} {} {:?} {}", resource.resource, resource.schema_url, scope.scope, scope.schema_url);
            all.extend(scope.spans.iter().map(|span| format!("{around} {span:?}")));
        }
    }
    all
}

/// Numbers by their value: doubles to the bit, in any notation.
fn comparable(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let members = object.into_iter().map(|(key, value)| match (key.as_str(), value.as_f64()) {
                ("doubleValue", Some(double)) => (key, json!(format!("bits {:x}", double.to_bits()))),
                _ => (key, comparable(value)),
            });
            Value::Object(members.collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(comparable).collect()),
        other => other,
    }
}

// The OTLP/JSON mapping once more, in the plainest way.

fn list<T>(all: &[T], one: impl Fn(&T) -> Value) -> Value {
    Value::Array(all.iter().map(one).collect())
}

/// Leaves out proto3 defaults.
fn object(members: Vec<(&str, Value)>) -> Value {
    let is_default = |key: &str, value: &Value| {
        matches!(value, Value::Null)
            || *value == json!("")
            || *value == json!(0)
            // 64-bit integers are text; a key or a name may well be "0".
            || (key.ends_with("UnixNano") && *value == json!("0"))
            || *value == json!([])
    };
    Value::Object(Map::from_iter(
        members.into_iter().filter(|(key, value)| !is_default(key, value)).map(|(key, value)| (key.to_owned(), value)),
    ))
}

fn hex(bytes: &[u8]) -> Value {
    Value::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn resource_json(all: &ResourceSpans) -> Value {
    let resource =
        all.resource.as_ref().map(|resource| object(vec![("attributes", list(&resource.attributes, attribute_json))]));
    object(vec![
        ("resource", resource.unwrap_or(Value::Null)),
        ("scopeSpans", list(&all.scope_spans, scope_json)),
        ("schemaUrl", json!(all.schema_url)),
    ])
}

fn scope_json(all: &ScopeSpans) -> Value {
    let scope = all.scope.as_ref().map(|scope| {
        object(vec![
            ("name", json!(scope.name)),
            ("version", json!(scope.version)),
            ("attributes", list(&scope.attributes, attribute_json)),
        ])
    });
    object(vec![
        ("scope", scope.unwrap_or(Value::Null)),
        ("spans", list(&all.spans, span_json)),
        ("schemaUrl", json!(all.schema_url)),
    ])
}

fn span_json(span: &Span) -> Value {
    let status = span
        .status
        .as_ref()
        .map(|status| object(vec![("message", json!(status.message)), ("code", json!(status.code))]));
    object(vec![
        ("traceId", hex(&span.trace_id)),
        ("spanId", hex(&span.span_id)),
        ("traceState", json!(span.trace_state)),
        ("parentSpanId", hex(&span.parent_span_id)),
        ("name", json!(span.name)),
        ("kind", json!(span.kind)),
        ("startTimeUnixNano", json!(span.start_time_unix_nano.to_string())),
        ("endTimeUnixNano", json!(span.end_time_unix_nano.to_string())),
        ("attributes", list(&span.attributes, attribute_json)),
        ("droppedAttributesCount", json!(span.dropped_attributes_count)),
        ("events", list(&span.events, event_json)),
        ("droppedEventsCount", json!(span.dropped_events_count)),
        ("links", list(&span.links, link_json)),
        ("droppedLinksCount", json!(span.dropped_links_count)),
        ("status", status.unwrap_or(Value::Null)),
        ("flags", json!(span.flags)),
    ])
}

fn event_json(event: &span::Event) -> Value {
    object(vec![
        ("timeUnixNano", json!(event.time_unix_nano.to_string())),
        ("name", json!(event.name)),
        ("attributes", list(&event.attributes, attribute_json)),
        ("droppedAttributesCount", json!(event.dropped_attributes_count)),
    ])
}

fn link_json(link: &span::Link) -> Value {
    object(vec![
        ("traceId", hex(&link.trace_id)),
        ("spanId", hex(&link.span_id)),
        ("traceState", json!(link.trace_state)),
        ("attributes", list(&link.attributes, attribute_json)),
        ("droppedAttributesCount", json!(link.dropped_attributes_count)),
        ("flags", json!(link.flags)),
    ])
}

fn attribute_json(attribute: &KeyValue) -> Value {
    object(vec![("key", json!(attribute.key)), ("value", attribute.value.as_ref().map_or(Value::Null, value_json))])
}

fn value_json(value: &AnyValue) -> Value {
    match &value.value {
        None => json!({}),
        Some(ProtoValue::StringValue(text)) => json!({"stringValue": text}),
        Some(ProtoValue::BoolValue(value)) => json!({"boolValue": value}),
        Some(ProtoValue::IntValue(value)) => json!({"intValue": value.to_string()}),
        Some(ProtoValue::DoubleValue(value)) if value.is_nan() => json!({"doubleValue": "NaN"}),
        Some(ProtoValue::DoubleValue(value)) if *value == f64::INFINITY => json!({"doubleValue": "Infinity"}),
        Some(ProtoValue::DoubleValue(value)) if *value == f64::NEG_INFINITY => json!({"doubleValue": "-Infinity"}),
        Some(ProtoValue::DoubleValue(value)) => json!({"doubleValue": value}),
        Some(ProtoValue::ArrayValue(array)) => {
            json!({"arrayValue": object(vec![("values", list(&array.values, value_json))])})
        }
        Some(ProtoValue::KvlistValue(map)) => {
            json!({"kvlistValue": object(vec![("values", list(&map.values, attribute_json))])})
        }
        Some(ProtoValue::BytesValue(_) | ProtoValue::StringValueStrindex(_)) => {
            unreachable!("the SDK has no such value")
        }
    }
}

fn request_of(spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans { spans, ..Default::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..Default::default() }] }
        .encode_to_vec()
}

fn line_of(request: &[u8]) -> String {
    let lines = to_lines(request, usize::MAX).unwrap();
    assert_eq!(lines.len(), 1);
    String::from_utf8(lines[0].text.clone()).unwrap()
}

#[test]
fn the_text_is_that_of_the_specification() {
    let any = |value| Some(AnyValue { value: Some(value) });
    let attribute = |key: &str, value| KeyValue { key: key.to_owned(), value: any(value), key_strindex: 0 };
    let map = KeyValueList { values: vec![attribute("in", ProtoValue::IntValue(-1))] };
    let span = Span {
        trace_id: (0..16).collect(),
        span_id: (0xf8..=0xff).collect(),
        name: "a \"quoted\"\nname".to_owned(),
        kind: 2,
        start_time_unix_nano: u64::MAX,
        attributes: vec![
            attribute("bytes", ProtoValue::BytesValue(vec![0xfb, 0xff])),
            attribute("map", ProtoValue::KvlistValue(map)),
            KeyValue { key: "none".to_owned(), value: Some(AnyValue { value: None }), key_strindex: 0 },
        ],
        flags: 0x301,
        ..Default::default()
    };
    let expected = concat!(
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"000102030405060708090a0b0c0d0e0f","#,
        r#""spanId":"f8f9fafbfcfdfeff","name":"a \"quoted\"\nname","kind":2,"#,
        r#""startTimeUnixNano":"18446744073709551615","attributes":["#,
        r#"{"key":"bytes","value":{"bytesValue":"+/8="}},"#,
        r#"{"key":"map","value":{"kvlistValue":{"values":[{"key":"in","value":{"intValue":"-1"}}]}}},"#,
        r#"{"key":"none","value":{}}],"flags":769}]}]}]}"#,
    );
    let request = request_of(vec![span]);
    assert_eq!(line_of(&request), expected);
    assert_eq!(from_line(expected.as_bytes()).unwrap().0, request);
}

#[test]
fn a_span_beyond_the_limit_has_a_line_of_its_own_and_the_mark() {
    let span = |length: usize| Span { name: "n".repeat(length), ..Default::default() };
    let request = request_of(vec![span(10), span(10), span(500), span(10)]);
    let lines = to_lines(&request, 200).unwrap();
    let seen: Vec<_> = lines.iter().map(|line| (line.items, line.oversized)).collect();
    assert_eq!(seen, [(2, false), (1, true), (1, false)]);
}

#[test]
fn a_resource_that_fills_a_line_is_not_written_once_for_each_span() {
    let request = |length: usize| {
        let key = KeyValue { key: "k".repeat(length), ..Default::default() };
        let mut request = ExportTraceServiceRequest::decode(&request_of(vec![Span::default(); 500])[..]).unwrap();
        request.resource_spans[0].resource = Some(ProtoResource { attributes: vec![key], ..Default::default() });
        request.encode_to_vec()
    };
    for length in [9_900, 20_000] {
        let lines = to_lines(&request(length), 10_000).unwrap();
        let seen: Vec<_> = lines.iter().map(|line| (line.items, line.oversized)).collect();
        assert_eq!(seen, [(500, true)]);
    }
    // Some room is used as long as it is worth the repetition.
    let lines = to_lines(&request(8_600), 10_000).unwrap();
    assert!(lines.len() > 1 && lines.iter().all(|line| !line.oversized));
}

#[test]
fn a_line_may_be_exactly_as_long_as_the_limit() {
    let request = request_of(vec![Span { name: "one".to_owned(), ..Default::default() }; 2]);
    let length = line_of(&request).len();
    assert_eq!(to_lines(&request, length).unwrap().len(), 1);
    assert_eq!(to_lines(&request, length - 1).unwrap().len(), 2);
}

#[test]
fn what_has_no_spans_has_no_line() {
    assert_eq!(to_lines(&[], 1000), Ok(vec![]));
    assert_eq!(to_lines(&request_of(vec![]), 1000), Ok(vec![]));
    let payload = encode(&Resource::builder_empty().build(), &[]);
    assert_eq!(to_lines(payload.bytes(), 1000), Ok(vec![]));
}

#[test]
fn fields_out_of_order_and_twice_are_written_once_and_in_order() {
    let tidy = request_of(vec![Span { name: "last".to_owned(), kind: 3, flags: 7, ..Default::default() }]);
    // flags, a name, an unknown field, the kind, another name.
    let span = b"\x85\x01\x07\0\0\0\x2a\x05first\x9a\x06\x01x\x30\x03\x2a\x04last";
    let field = |content: &[u8], number: u8| [&[number << 3 | 2, content.len() as u8], content].concat();
    let untidy = field(&field(&field(span, 2), 2), 1);
    assert_eq!(line_of(&untidy), line_of(&tidy));
}

#[test]
fn text_that_is_not_utf_8_is_mended() {
    let field = |content: &[u8], number: u8| [&[number << 3 | 2, content.len() as u8], content].concat();
    let request = field(&field(&field(&field(b"a\xffb", 5), 2), 2), 1);
    assert!(line_of(&request).contains("\"name\":\"a\u{fffd}b\""));
}
