//! How often encoding and the JSON codec allocate. One test: the counter is of the whole process.

use std::alloc::System;
use std::time::UNIX_EPOCH;

use benches::{http_resource, http_spans};
use otlp_payload::{BatchId, BatchWriter, Encoder, ValueLimits, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn the_bytes_of_a_batch_take_one_allocation_and_a_line_a_handful() {
    let (encoder, spans) = (Encoder::new(&http_resource()), http_spans(512));
    let encode = || encoder.encode(BatchId { incarnation: 1, seq: 0 }, UNIX_EPOCH, &spans);
    drop(encode()); // from the first batch the encoder learns the size of a span
    let (payload, stats) = counted(encode);
    assert_eq!(stats.allocations, 2, "the bytes, and the place of a compressed form: {stats:?}");
    assert!(stats.bytes_allocated < payload.bytes().len() * 3 / 2, "the place is a few words: {stats:?}");
    assert!(stats.reallocations <= 1, "the buffer only shrinks to its content: {stats:?}");

    let mut writer = BatchWriter::new(ValueLimits::default());
    let mut gather = || {
        let push = || spans.iter().for_each(|span| writer.push(span));
        let (_, pushes) = counted_once(push);
        let (payload, finish) =
            counted_once(|| writer.finish(&encoder, BatchId { incarnation: 1, seq: 0 }, UNIX_EPOCH));
        (payload, pushes, finish)
    };
    drop(gather()); // the buffers grow with the first batch
    let runs = (0..10).map(|_| gather());
    let (written, pushes, finish) = runs.min_by_key(|(_, pushes, _)| pushes.allocations).expect("ten runs");
    assert_eq!((pushes.allocations, pushes.reallocations), (0, 0), "no allocation a span: {pushes:?}");
    assert_eq!((finish.allocations, finish.reallocations), (2, 0), "the bytes, and that place: {finish:?}");
    assert_eq!(written.bytes(), payload.bytes());

    let (lines, stats) = counted(|| json::to_lines(payload.bytes(), 1_000_000).expect("just encoded"));
    assert_eq!(lines.len(), 1);
    assert!(stats.allocations <= 5, "the line, its list, the endings of line and scope: {stats:?}");
    let spare = stats.bytes_allocated as f64 / lines[0].text.len() as f64;
    assert!(spare < 1.5, "the line is not copied: {stats:?}");

    let ((request, _), stats) = counted(|| json::from_line(&lines[0].text).expect("just written"));
    assert_eq!(request, *payload.bytes());
    assert!(stats.allocations <= 5, "the request, and small buffers: {stats:?}");
    assert!(stats.bytes_allocated < 2 * request.len(), "the request is not copied: {stats:?}");
}

/// The run with the fewest allocations of several: the test harness has a thread of its own, which allocates now and
/// then.
fn counted<T>(run: impl Fn() -> T) -> (T, Stats) {
    let runs = (0..10).map(|_| counted_once(&run));
    runs.min_by_key(|(_, stats)| stats.allocations).expect("ten runs")
}

fn counted_once<T>(run: impl FnOnce() -> T) -> (T, Stats) {
    let region = Region::new(GLOBAL);
    let result = run();
    (result, region.change())
}
