//! Encoding against the stock exporter's way, and OTLP JSON out and in; 512 HTTP server spans a batch.

use std::hint::black_box;
use std::time::UNIX_EPOCH;

use benches::{http_resource, http_spans};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use otlp_payload::{BatchId, Encoder, Payload, count_spans, decode, json, merge};
use prost::Message;

const BATCH: usize = 512;
const ID: BatchId = BatchId { incarnation: 1, seq: 0 };

fn encode(c: &mut Criterion) {
    let (resource, spans) = (http_resource(), http_spans(BATCH));
    let encoder = Encoder::new(&resource);
    let attributes = ResourceAttributesWithSchema::from(&resource);
    let mut group = c.benchmark_group("payload/encode");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("direct", |b| b.iter(|| encoder.encode(ID, UNIX_EPOCH, black_box(&spans))));
    // The copy of the batch is setup: the stock exporter is handed a batch of its own.
    group.bench_function("opentelemetry-proto", |b| {
        b.iter_batched(
            || spans.clone(),
            |spans| {
                let resource_spans = group_spans_by_resource_and_scope(spans, &attributes);
                ExportTraceServiceRequest { resource_spans }.encode_to_vec()
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn json_lines(c: &mut Criterion) {
    let payload = Encoder::new(&http_resource()).encode(ID, UNIX_EPOCH, &http_spans(BATCH));
    let lines = json::to_lines(payload.bytes(), 1_000_000).expect("just encoded");
    let mut group = c.benchmark_group("payload/json");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("out", |b| b.iter(|| json::to_lines(black_box(payload.bytes()), 1_000_000)));
    group.bench_function("in", |b| {
        b.iter(|| {
            for line in &lines {
                black_box(json::from_line(black_box(&line.text)).expect("just written"));
            }
        });
    });
    group.finish();
}

fn read(c: &mut Criterion) {
    let payload = Encoder::new(&http_resource()).encode(ID, UNIX_EPOCH, &http_spans(BATCH));
    let mut group = c.benchmark_group("payload/read");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("count", |b| b.iter(|| count_spans(black_box(payload.bytes()))));
    group.bench_function("split", |b| b.iter(|| black_box(&payload).split(ID, ID)));
    let max_bytes = payload.bytes().len() / 8;
    group.bench_function("cut/8", |b| b.iter(|| black_box(&payload).cut(max_bytes, || ID)));
    let pieces = payload.cut(max_bytes, || ID).expect("larger than an eighth of itself");
    let pieces: Vec<_> = pieces.iter().map(Payload::bytes).cloned().collect();
    group.bench_function("merge/8", |b| b.iter(|| merge(black_box(&pieces), usize::MAX)));
    group.bench_function("decode", |b| b.iter_with_large_drop(|| decode(black_box(payload.bytes()))));
    group.finish();
}

criterion_group!(benches, encode, json_lines, read);
criterion_main!(benches);
