//! The bytes of the stock exporter.

use std::time::UNIX_EPOCH;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use otlp_payload::{BatchId, Encoder, Payload};
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
        prop_assert_eq!(payload.span_count(), batch.len());
        prop_assert_eq!(&payload.bytes()[..], &stock(&resource, &batch)[..]);
    }
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
