//! The bytes of the stock exporter.

use std::time::UNIX_EPOCH;

use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use otlp_payload::{BatchId, Encoder, Payload, ValueLimits};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost::Message;

use crate::spans;

pub(crate) const ID: BatchId = BatchId { incarnation: 7, seq: 1 };

pub(crate) fn encode(resource: &Resource, spans: &[SpanData]) -> Payload {
    Encoder::new(resource).encode(ID, UNIX_EPOCH, spans)
}

/// Both stock transports do this: `opentelemetry-otlp`'s `exporter/tonic/trace.rs` and `exporter/http/mod.rs`.
pub(crate) fn stock(resource: &Resource, spans: &[SpanData]) -> Vec<u8> {
    let resource_spans = group_spans_by_resource_and_scope(spans.to_vec(), &resource.into());
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn equals_the_stock_exporter(resource in spans::resource(), batch in vec(spans::span(), 0..12)) {
        let payload = encode(&resource, &batch);
        prop_assert_eq!(payload.item_count(), batch.len());
        prop_assert_eq!(&payload.bytes()[..], &stock(&resource, &batch)[..]);
    }
}

/// The values of these attributes cut to so many characters, in the plainest way.
fn cut(attributes: &[KeyValue], limit: usize) -> Vec<KeyValue> {
    let text = |text: &StringValue| StringValue::from(text.as_str().chars().take(limit).collect::<String>());
    let value = |value: &Value| match value {
        Value::String(value) => Value::String(text(value)),
        Value::Array(Array::String(values)) => Value::Array(Array::String(values.iter().map(text).collect())),
        other => other.clone(),
    };
    attributes.iter().map(|KeyValue { key, value: long, .. }| KeyValue::new(key.clone(), value(long))).collect()
}

fn cut_span(span: &SpanData, of_spans: usize, of_scopes: usize) -> SpanData {
    let mut span = span.clone();
    span.attributes = cut(&span.attributes, of_spans);
    span.events.events.iter_mut().for_each(|event| event.attributes = cut(&event.attributes, of_spans));
    span.links.links.iter_mut().for_each(|link| link.attributes = cut(&link.attributes, of_spans));
    let scope = span.instrumentation_scope.clone();
    let attributes: Vec<KeyValue> = scope.attributes().cloned().collect();
    let builder = InstrumentationScope::builder(scope.name().to_owned()).with_attributes(cut(&attributes, of_scopes));
    let builder =
        scope.version().into_iter().fold(builder, |builder, version| builder.with_version(version.to_owned()));
    let url = scope.schema_url();
    span.instrumentation_scope =
        url.into_iter().fold(builder, |builder, url| builder.with_schema_url(url.to_owned())).build();
    span
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn long_texts_in_attributes_are_cut_by_characters_and_nothing_else_is(
        resource in spans::resource(),
        span in spans::span(),
        general in prop::option::of(0..40_usize),
        of_spans in prop::option::of(0..40_usize),
    ) {
        let limits = ValueLimits::new(general, of_spans);
        let payload = Encoder::new(&resource).with_value_limits(limits).encode(ID, UNIX_EPOCH, std::slice::from_ref(&span));
        let general = general.unwrap_or(usize::MAX);
        let expected = cut_span(&span, of_spans.unwrap_or(general), general);
        prop_assert_eq!(&payload.bytes()[..], &stock(&resource, &[expected])[..]);
    }
}

#[test]
fn a_character_counts_as_one_whatever_bytes_it_has() {
    let mut batch = one_span_each(vec![InstrumentationScope::builder("s").build()]);
    let long = "a\u{e9}\u{20ac}\u{1f600}z".repeat(2_000);
    let first_seven = "a\u{e9}\u{20ac}\u{1f600}za\u{e9}";
    let texts = [long.as_str(), "", first_seven].map(|text| StringValue::from(text.to_owned()));
    batch[0].attributes = vec![
        KeyValue::new("long", long.clone()),
        KeyValue::new("texts", Value::Array(Array::String(texts.to_vec()))),
        KeyValue::new("number", 123_456_789),
        KeyValue::new("numbers", Value::Array(Array::I64(vec![1; 20]))),
    ];
    batch[0].name = "a name is no attribute".into();
    let encoder = Encoder::new(&Resource::builder_empty().with_service_name("a resource is exempt").build());
    let encoder = encoder.with_value_limits(ValueLimits::new(Some(0), Some(7)));
    let bytes = encoder.clone().encode(ID, UNIX_EPOCH, &batch).bytes().clone();
    let decoded = otlp_payload::decode(&bytes).expect("ours");
    assert_eq!(decoded.spans[0].name, "a name is no attribute");
    assert!(decoded.resource.iter().any(|(_, value)| value.as_str() == "a resource is exempt"));
    let texts = [first_seven, "", first_seven].map(|text| StringValue::from(text.to_owned()));
    let expected = vec![
        KeyValue::new("long", first_seven),
        KeyValue::new("texts", Value::Array(Array::String(texts.to_vec()))),
        KeyValue::new("number", 123_456_789),
        KeyValue::new("numbers", Value::Array(Array::I64(vec![1; 20]))),
    ];
    assert_eq!(decoded.spans[0].attributes, expected);
}

/// One span of each scope, in this order.
fn one_span_each(scopes: Vec<InstrumentationScope>) -> Vec<SpanData> {
    let mut runner = TestRunner::deterministic();
    let span = spans::span().new_tree(&mut runner).expect("a span").current();
    scopes.into_iter().map(|instrumentation_scope| SpanData { instrumentation_scope, ..span.clone() }).collect()
}

#[test]
fn many_scopes_keep_the_order_of_their_first_spans() {
    let scope = |index: usize| {
        let attributes = [KeyValue::new("even", index.is_multiple_of(2)), KeyValue::new("index", index as i64 % 3)];
        InstrumentationScope::builder(format!("scope {}", index * 7 % 10)).with_attributes(attributes).build()
    };
    let batch = one_span_each((0..200).map(scope).collect());
    let resource = Resource::builder_empty().build();
    assert_eq!(&encode(&resource, &batch).bytes()[..], stock(&resource, &batch));
}

#[test]
fn a_scope_that_is_not_equal_to_itself_stands_alone_as_in_the_stock_exporter() {
    let nan = InstrumentationScope::builder("s").with_attributes([KeyValue::new("a", f64::NAN)]).build();
    let batch = one_span_each(vec![nan; 20]);
    let resource = Resource::builder_empty().build();
    assert_eq!(&encode(&resource, &batch).bytes()[..], stock(&resource, &batch));
}

#[test]
fn an_attribute_grows_over_every_border_of_its_lengths() {
    let resource = Resource::builder_empty().build();
    let mut batch = one_span_each(vec![InstrumentationScope::builder("s").build()]);
    let numbers = [i64::MIN, -1, 0, 1, 0x7f, 0x80, 0x3fff, 0x4000, 0x1f_ffff, 0x20_0000, i64::MAX].map(Value::from);
    for key in (0..4).chain(100..132) {
        let texts = (0..132).map(|length| Value::from("v".repeat(length)));
        let values = numbers.iter().cloned().chain(texts).chain([true.into(), false.into(), 0.5.into()]);
        batch[0].attributes = values.map(|value| KeyValue::new("k".repeat(key), value)).collect();
        assert_eq!(&encode(&resource, &batch).bytes()[..], stock(&resource, &batch), "a key of {key} bytes");
    }
}

#[test]
fn messages_grow_over_every_border_of_their_length() {
    let resource = Resource::builder_empty().with_service_name("border").build();
    let mut batch = one_span_each(vec![InstrumentationScope::builder("s").build()]);
    // 2^7 and 2^14 are borders of the length of a span and of the messages in and around it, 2^21 of the request.
    for length in (0..300).chain(16_250..16_400).chain((2_097_000..2_097_160).step_by(9)) {
        batch[0].name = "n".repeat(length).into();
        assert_eq!(&encode(&resource, &batch).bytes()[..], stock(&resource, &batch), "{length}");
    }
}

#[test]
fn the_payload_of_a_nan_is_kept() {
    let resource = Resource::builder_empty().build();
    let mut batch = one_span_each(vec![InstrumentationScope::builder("s").build()]);
    batch[0].attributes = vec![KeyValue::new("nan", f64::from_bits(0x7ff8_dead_beef_0001))];
    assert_eq!(&encode(&resource, &batch).bytes()[..], stock(&resource, &batch));
}

#[test]
fn a_payload_has_no_spare_room() {
    let resource = Resource::builder_empty().with_service_name("lean").build();
    let batch = one_span_each(vec![InstrumentationScope::builder("s").build(); 100]);
    let bytes = encode(&resource, &batch).bytes().clone();
    let length = bytes.len();
    assert_eq!(Vec::from(bytes).capacity(), length);
}

#[test]
fn a_clone_shares_the_resource_and_writes_the_same() {
    let resource = Resource::builder_empty().with_service_name("cloned").build();
    let encoder = Encoder::new(&resource);
    let batch = one_span_each(vec![InstrumentationScope::builder("s").build(); 3]);
    let (a, b) = (encoder.encode(ID, UNIX_EPOCH, &batch), encoder.clone().encode(ID, UNIX_EPOCH, &batch));
    assert_eq!(a.bytes(), b.bytes());
    assert!(!format!("{encoder:?}").contains("cloned"));
}
