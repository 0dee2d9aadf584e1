//! Counting, naming, dividing.

use std::time::UNIX_EPOCH;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use opentelemetry_sdk::Resource;
use otlp_payload::{BatchId, DecodeError, Payload, count_spans, resource_text, span_ids};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use crate::encode::{ID, encode};
use crate::spans;

const LEFT: BatchId = BatchId { incarnation: 7, seq: 2 };
const RIGHT: BatchId = BatchId { incarnation: 7, seq: 3 };

fn parsed(bytes: &[u8]) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest::decode(bytes).expect("a request")
}

/// Each span with its resource and its scope.
fn flat(bytes: &[u8]) -> Vec<(ResourceSpans, ScopeSpans, Span)> {
    let mut all = Vec::new();
    for resource in parsed(bytes).resource_spans {
        for scope in &resource.scope_spans {
            for span in &scope.spans {
                let bare = ResourceSpans { scope_spans: vec![], ..resource.clone() };
                all.push((bare, ScopeSpans { spans: vec![], ..scope.clone() }, span.clone()));
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn halves_hold_all_spans_in_their_order(resource in spans::resource(), batch in vec(spans::span(), 0..14)) {
        let payload = encode(&resource, &batch);
        prop_assert_eq!(count_spans(payload.bytes()).unwrap(), batch.len());
        match payload.split(LEFT, RIGHT) {
            None => prop_assert!(batch.len() < 2),
            Some((left, right)) => {
                prop_assert_eq!((left.id(), right.id()), (LEFT, RIGHT));
                prop_assert_eq!(left.created(), payload.created());
                prop_assert_eq!(left.item_count(), batch.len() / 2);
                prop_assert_eq!(left.item_count() + right.item_count(), batch.len());
                let mut both = flat(left.bytes());
                prop_assert_eq!(both.len(), left.item_count());
                both.extend(flat(right.bytes()));
                // By text: a NaN is not equal to itself.
                prop_assert_eq!(format!("{both:?}"), format!("{:?}", flat(payload.bytes())));
            }
        }
    }

    #[test]
    fn halving_ends_at_single_spans(batch in vec(spans::span(), 1..20)) {
        let resource = Resource::builder_empty().with_service_name("halved").build();
        let (mut open, mut single) = (vec![encode(&resource, &batch)], 0);
        while let Some(payload) = open.pop() {
            match payload.split(LEFT, RIGHT) {
                Some((left, right)) => open.extend([left, right]),
                None => single += payload.item_count(),
            }
        }
        prop_assert_eq!(single, batch.len());
    }

    #[test]
    fn ids_are_those_of_the_spans(batch in vec(spans::span(), 0..14)) {
        let payload = encode(&Resource::builder_empty().build(), &batch);
        let ids: Vec<_> = span_ids(payload.bytes()).unwrap().collect();
        let expected: Vec<_> = flat(payload.bytes())
            .into_iter()
            .map(|(_, _, span)| (<[u8; 16]>::try_from(span.trace_id).unwrap(), <[u8; 8]>::try_from(span.span_id).unwrap()))
            .collect();
        prop_assert_eq!(ids, expected);
    }
}

/// `field` of wire type 2.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, content.len() as u8], content].concat()
}

#[test]
fn unknown_fields_go_into_both_halves() {
    let spans = [field(2, &[]), field(2, &[]), field(9, b"scope news")].concat();
    let request = [field(1, &[field(2, &spans), field(9, b"resource news")].concat()), field(9, b"news")].concat();
    let payload = Payload::from_bytes(ID, UNIX_EPOCH, request.into()).unwrap();
    assert_eq!(payload.item_count(), 2);
    let (left, right) = payload.split(LEFT, RIGHT).unwrap();
    let half = [field(2, &[]), field(9, b"scope news")].concat();
    let half = [field(1, &[field(2, &half), field(9, b"resource news")].concat()), field(9, b"news")].concat();
    assert_eq!((&left.bytes()[..], &right.bytes()[..]), (&half[..], &half[..]));
}

#[test]
fn scopes_and_resources_without_a_span_in_a_half_are_not_in_it() {
    let resource = |number: &[u8]| field(1, &[field(1, number), field(2, &field(2, &[]))].concat());
    let request = [resource(b"\x10\x01"), resource(b"\x10\x02")].concat();
    let payload = Payload::from_bytes(ID, UNIX_EPOCH, request.into()).unwrap();
    let (left, right) = payload.split(LEFT, RIGHT).unwrap();
    assert_eq!((&left.bytes()[..], &right.bytes()[..]), (&resource(b"\x10\x01")[..], &resource(b"\x10\x02")[..]));
}

#[test]
fn ids_of_a_wrong_length_are_right_aligned() {
    let span = field(2, &[field(1, &[1, 2, 3]), field(2, &[9, 1, 2, 3, 4, 5, 6, 7, 8])].concat());
    let ids: Vec<_> = span_ids(&field(1, &field(2, &span))).unwrap().collect();
    assert_eq!(ids, [([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8])]);
}

#[test]
fn what_is_no_request_says_where() {
    let cases: [(&[u8], DecodeError); 6] = [
        (&[0x0a], DecodeError::Truncated { offset: 1 }),
        (&[0x0a, 5, 0], DecodeError::Truncated { offset: 0 }),
        (&[0x0a, 2, 0x12, 0xff], DecodeError::Truncated { offset: 3 }),
        (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], DecodeError::Varint { offset: 1 }),
        (&[0x0c], DecodeError::Tag { offset: 0 }),
        (&[0x08, 1], DecodeError::WireType { offset: 0 }),
    ];
    for (bytes, expected) in cases {
        assert_eq!(count_spans(bytes), Err(expected), "{bytes:x?}");
    }
    let message = DecodeError::Truncated { offset: 3 }.to_string();
    assert_eq!(message, "request ends inside the field at byte 3");
}

#[test]
fn the_text_of_a_resource_attribute_is_that_of_the_first_resource() {
    let resource = |name: &'static str| Resource::builder_empty().with_service_name(name).build();
    let request = |name| encode(&resource(name), &[]).bytes().to_vec();
    let both = [request("shop"), request("bank")].concat();
    assert_eq!(resource_text(&both, "service.name"), Ok(Some("shop")));
    assert_eq!(resource_text(&both, "service"), Ok(None));
    assert_eq!(resource_text(&[], "service.name"), Ok(None));
    let numbered = [opentelemetry::KeyValue::new("service.name", 7)];
    let numbered = encode(&Resource::builder_empty().with_attributes(numbered).build(), &[]);
    assert_eq!(resource_text(numbered.bytes(), "service.name"), Ok(None), "a number is no text");
}

proptest! {
    #[test]
    fn the_text_of_a_resource_attribute_agrees_with_the_usual_reader(resource in spans::resource()) {
        use opentelemetry_proto::tonic::common::v1::any_value::Value;

        let payload = encode(&resource, &[]);
        let parsed = parsed(payload.bytes());
        let attributes = parsed.resource_spans.first().and_then(|all| all.resource.as_ref());
        for attribute in attributes.map(|resource| &resource.attributes[..]).unwrap_or_default() {
            let text = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Value::StringValue(text)) => Some(text.as_str()),
                _ => None,
            };
            prop_assert_eq!(resource_text(payload.bytes(), &attribute.key), Ok(text));
        }
    }
}
