//! How often the end of a span allocates. One test: the counter is of the whole process.

use std::alloc::System;
use std::time::Duration;

use async_trait::async_trait;
use benches::{http_resource, http_spans};
use opentelemetry_sdk::trace::{SpanData, SpanProcessor};
use otlp_payload::Payload;
use otlp_transport::{Outcome, Transport};
use resilient_exporter::{ResilientSpanExporter, ResilientSpanProcessor};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A collector that takes each batch at once.
struct Takes;

#[async_trait]
impl Transport for Takes {
    async fn send(&self, _: &Payload) -> Outcome {
        Outcome::Delivered { rejected: 0, message: None }
    }

    fn endpoint(&self) -> &str {
        "a collector"
    }
}

const BATCH: usize = 512;
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_end_of_a_usual_span_allocates_nothing_and_a_sealed_batch_a_handful() {
    let mut processor = ResilientSpanExporter::builder()
        .with_primary(Takes)
        .with_fallback_enabled(false)
        .processor(|batches| {
            batches.max_export_batch_size = BATCH;
            // No batch is sealed by time.
            batches.scheduled_delay = PATIENCE;
        })
        .build_processor()
        .expect("valid settings");
    processor.set_resource(&http_resource());
    let spans = http_spans(2 * BATCH);
    end(&processor, &spans, 0); // the buffers grow with the first batches

    let below = end(&processor, &spans[..400], 0);
    assert_eq!((below.allocations, below.reallocations), (0, 0), "400 spans, none of which seals a batch: {below:?}");

    // The bytes and the place of a compressed form, the future of the call, and the queues of the exporter.
    let sealed = end(&processor, &spans, 1);
    let calls = sealed.allocations + sealed.reallocations;
    assert!(calls <= 2 * 8, "two batches of {BATCH} at most, until they are delivered: {sealed:?}");
    assert!(sealed.bytes_allocated < spans.len() * 1_000, "the bytes of a batch are not copied again: {sealed:?}");
}

/// The allocations while these spans end, in the run with the fewest of those that seal so many batches at least: the
/// threads of the exporter and of the test harness allocate now and then.
fn end(processor: &ResilientSpanProcessor, spans: &[SpanData], batches: usize) -> Stats {
    let handle = processor.handle();
    let runs = (0..20).filter_map(|_| {
        let spans = spans.to_vec();
        let (count, before) = (spans.len() as u64, handle.ledger());
        let region = Region::new(GLOBAL);
        spans.into_iter().for_each(|span| processor.on_end(span));
        let stats = region.change();
        let after = handle.ledger();
        assert_eq!(after.offered - before.offered, count);
        handle.flush(PATIENCE).expect("the collector takes each batch");
        // A span whose part the thread of the exporter holds goes to the next part.
        (after.staged + (batches * BATCH) as u64 <= count).then_some(stats)
    });
    runs.min_by_key(|stats| stats.allocations + stats.reallocations).expect("a run of twenty that seals so many")
}
