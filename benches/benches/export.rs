//! The cost of one batch on the batch processor's thread: encode, buffer, wake; and the way to an acknowledgement
//! without a network.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use benches::{http_resource, http_spans};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures_executor::block_on;
use opentelemetry_sdk::trace::SpanExporter;
use otlp_payload::Payload;
use otlp_transport::{Outcome, Transport};
use resilient_exporter::ResilientSpanExporter;

/// The default of the SDK's batch processor.
const BATCH: usize = 512;

/// A collector that is always there and costs nothing.
struct Acknowledges;

#[async_trait]
impl Transport for Acknowledges {
    async fn send(&self, payload: &Payload) -> Outcome {
        black_box(payload.bytes());
        Outcome::Delivered { rejected: 0, message: None }
    }

    fn endpoint(&self) -> &str {
        "nowhere"
    }
}

/// A collector that never answers: each batch that is sent stays in flight.
struct Silent;

#[async_trait]
impl Transport for Silent {
    async fn send(&self, _: &Payload) -> Outcome {
        std::future::pending().await
    }

    fn endpoint(&self) -> &str {
        "nowhere"
    }
}

fn exporter(transport: impl Transport) -> ResilientSpanExporter {
    let builder = ResilientSpanExporter::builder().with_primary(Arc::new(transport)).with_fallback_enabled(false);
    let mut exporter = builder.build().expect("the defaults are valid");
    exporter.set_resource(&http_resource());
    exporter
}

fn export(c: &mut Criterion) {
    let template = http_spans(BATCH);
    let mut group = c.benchmark_group("resilient-exporter/export");
    group.throughput(Throughput::Elements(BATCH as u64));

    let healthy = exporter(Acknowledges);
    let handle = healthy.handle();
    group.bench_function("until acknowledged", |b| {
        b.iter_batched(
            || template.clone(),
            |batch| {
                block_on(healthy.export(batch)).expect("never shut down");
                handle.settled(Duration::from_secs(10)).expect("acknowledged at once");
            },
            BatchSize::LargeInput,
        );
    });

    // The buffer is full after 20 batches: from then on each one also drops the oldest, as in a long outage without
    // files.
    let away = exporter(Silent);
    group.bench_function("collector silent", |b| {
        b.iter_batched(
            || template.clone(),
            |batch| block_on(away.export(batch)).expect("never shut down"),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, export);
criterion_main!(benches);
