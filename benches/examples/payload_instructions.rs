//! One operation of `otlp-payload`, repeated: a program to count instructions of.
//!
//! ```text
//! cargo build --profile bench -p benches --example payload_instructions
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/examples/payload_instructions encode 5120
//! ```
//!
//! The last argument is the number of spans, in whole batches of 512. The difference of the instructions of two runs,
//! divided by the difference of their spans, is the cost of a span.

use std::env;
use std::hint::black_box;
use std::time::UNIX_EPOCH;

use benches::{http_resource, http_spans};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use otlp_payload::{BatchId, Encoder, count_spans, decode, json};
use prost::Message;

const BATCH: usize = 512;
const ID: BatchId = BatchId { incarnation: 1, seq: 0 };

fn main() {
    let mut arguments = env::args().skip(1);
    let operation = arguments.next().unwrap_or_default();
    let given: usize = arguments.next().and_then(|given| given.parse().ok()).unwrap_or(BATCH);

    let (resource, spans) = (http_resource(), http_spans(BATCH));
    let encoder = Encoder::new(&resource);
    let attributes = ResourceAttributesWithSchema::from(&resource);
    let payload = encoder.encode(ID, UNIX_EPOCH, &spans);
    let lines = json::to_lines(payload.bytes(), 1_000_000).expect("just encoded");
    let text: usize = lines.iter().map(|line| line.text.len()).sum();
    println!("{BATCH} spans, {} bytes of protobuf, {text} of JSON", payload.bytes().len());

    for _ in 0..given / BATCH {
        match operation.as_str() {
            "encode" => drop(black_box(encoder.encode(ID, UNIX_EPOCH, black_box(&spans)))),
            "clone" => drop(black_box(spans.clone())),
            // Less the figure of "clone", plus that of dropping the batch: the cost of the stock exporter.
            "clone-stock" => {
                let resource_spans = group_spans_by_resource_and_scope(spans.clone(), &attributes);
                drop(black_box(ExportTraceServiceRequest { resource_spans }.encode_to_vec()));
            }
            "json-out" => drop(black_box(json::to_lines(black_box(payload.bytes()), 1_000_000))),
            "json-in" => lines.iter().for_each(|line| drop(black_box(json::from_line(black_box(&line.text))))),
            // A fallback file of protobuf needs no more than these two.
            "copy" => drop(black_box(black_box(payload.bytes()).to_vec())),
            "count" => drop(black_box(count_spans(black_box(payload.bytes())))),
            // A program without our codec would go through structs.
            "json-out-stock" => {
                let request = ExportTraceServiceRequest::decode(black_box(&payload.bytes()[..])).expect("just encoded");
                drop(black_box(serde_json::to_vec(&request).expect("it has a JSON form")));
            }
            "json-in-stock" => lines.iter().for_each(|line| {
                let request = serde_json::from_slice::<ExportTraceServiceRequest>(black_box(&line.text));
                drop(black_box(request.expect("just written").encode_to_vec()));
            }),
            "decode" => drop(black_box(decode(black_box(payload.bytes())))),
            "split" => drop(black_box(black_box(&payload).split(ID, ID))),
            other => {
                panic!("unknown operation {other:?}; see the source for their names")
            }
        }
    }
}
