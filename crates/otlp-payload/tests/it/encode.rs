//! Byte for byte what the stock exporter sends.

use std::time::UNIX_EPOCH;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use otlp_payload::{BatchId, Encoder, Payload};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use crate::spans;

pub(crate) const ID: BatchId = BatchId { incarnation: 7, seq: 1 };

pub(crate) fn encode(resource: &Resource, spans: &[SpanData]) -> Payload {
    Encoder::new(resource).encode(ID, UNIX_EPOCH, spans)
}

/// What both stock transports do: `opentelemetry-otlp`'s `exporter/tonic/trace.rs` and `exporter/http/mod.rs`.
pub(crate) fn stock(resource: &Resource, spans: &[SpanData]) -> Vec<u8> {
    let resource_spans = group_spans_by_resource_and_scope(spans.to_vec(), &resource.into());
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn equals_the_stock_exporter(resource in spans::resource(), batch in vec(spans::span(), 0..12)) {
        let payload = encode(&resource, &batch);
        prop_assert_eq!(payload.span_count(), batch.len());
        prop_assert_eq!(&payload.bytes()[..], &stock(&resource, &batch)[..]);
    }
}
