//! The processor of our own: batches, flushes, the end, durable mode.
//!
//! `hostile`: drops in all orders, and spans that end at hostile moments.

mod hostile;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use mock_collector::{Behavior, MockCollector};
use opentelemetry::trace::{Span as _, SpanContext, TraceFlags, TraceState, Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SdkTracer, SdkTracerProvider, SimpleSpanProcessor, Span, SpanData, SpanProcessor as _,
};
use otlp_payload::{BatchId, Encoder, Payload, decode};
use otlp_transport::{Outcome, Transport};
use parking_lot::Mutex;
use resilient_exporter::{
    Clock, FlushingProcessor, Handle, Journal, JournalError, JournalUsage, Recovered, ResilientSpanExporter,
    ResilientSpanProcessor, Status, SystemClock,
};

use crate::support::{App, PATIENCE, copy, eventually, http, now, quick, some_spans};

/// A collector that keeps each request, and takes none while it is closed.
#[derive(Clone, Default)]
struct Kept {
    requests: Arc<Mutex<Vec<Payload>>>,
    is_closed: Arc<AtomicBool>,
}

#[async_trait]
impl Transport for Kept {
    async fn send(&self, payload: &Payload) -> Outcome {
        if self.is_closed.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        self.requests.lock().push(payload.clone());
        Outcome::Delivered { rejected: 0, message: None }
    }

    fn endpoint(&self) -> &str {
        "kept"
    }
}

impl Kept {
    fn counts(&self) -> Vec<usize> {
        self.requests.lock().iter().map(Payload::item_count).collect()
    }

    fn count(&self) -> usize {
        self.counts().into_iter().sum()
    }
}

fn memory_only(kept: &Kept) -> resilient_exporter::Builder {
    quick(ResilientSpanProcessor::builder().with_primary(kept.clone()).with_fallback_enabled(false))
}

fn never(builder: resilient_exporter::Builder) -> resilient_exporter::Builder {
    builder.processor(|batches| batches.scheduled_delay = Duration::from_secs(3_600))
}

fn provider(processor: ResilientSpanProcessor) -> (SdkTracer, SdkTracerProvider, Handle) {
    let handle = processor.handle();
    let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
    (provider.tracer("app"), provider, handle)
}

fn end_spans(tracer: &SdkTracer, count: usize) {
    (0..count).for_each(|_| tracer.start("request").end());
}

#[test]
fn the_flush_of_the_provider_leaves_every_span_at_the_collector() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let builder = quick(ResilientSpanProcessor::builder().with_primary(http(&collector))).with_state_dir(state.path());
    let mut app = App::of(builder.build_processor().expect("valid"));
    app.trace(2_000);
    app.provider().force_flush().expect("answered");
    assert_eq!(app.missing(&[&collector]), 0, "{:?}", app.handle.ledger());
    // Nothing is left for the end: a program may exit now.
    let ledger = app.handle.ledger();
    assert_eq!((ledger.delivered, ledger.staged + ledger.buffered + ledger.in_flight), (2_000, 0));
    app.assert_delivered(&collector);
}

/// The net thread sleeps until the delay of the batch is over, an hour here.
#[test]
fn a_wait_for_stored_spans_has_those_that_are_staged_on_their_way_at_once() {
    let kept = Kept::default();
    let (tracer, _provider, handle) = provider(never(memory_only(&kept)).build_processor().expect("valid"));
    for round in 1..=20 {
        let before = handle.health().wakeups.net;
        end_spans(&tracer, 5);
        eventually("the net thread knows the delay", || handle.health().wakeups.net > before);
        handle.settled(PATIENCE).expect("delivered");
        assert_eq!(kept.count(), 5 * round);
    }
}

#[test]
fn the_flush_of_the_provider_leaves_every_span_on_the_disk_while_the_collector_hangs() {
    const BOUND: Duration = Duration::from_secs(4);
    let collector = MockCollector::start().expect("loopback");
    collector.set(Behavior::never_answer());
    let (state, left) = (tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir"));
    let builder = quick(ResilientSpanProcessor::builder().with_primary(http(&collector))).with_state_dir(state.path());
    let processor = builder.processor(|batches| batches.export_timeout = BOUND).build_processor().expect("valid");
    let mut app = App::of(processor);
    app.trace(2_000);
    let start = now();
    app.provider().force_flush().expect("safe on the disk");
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    copy(state.path(), &left.path().join("copy"));

    let collector = MockCollector::start().expect("loopback");
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector)));
    let second = App::new(builder.with_state_dir(left.path().join("copy")).build().expect("valid"));
    second.assert_delivered(&collector);
    assert_eq!(app.missing(&[&collector]), 0, "{:?}", second.handle.ledger());
}

#[test]
fn behind_the_processor_of_the_sdk_the_flush_of_the_provider_waits_for_the_exporter() {
    let collector = MockCollector::start().expect("loopback");
    let exporter = quick(ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback_enabled(false));
    let exporter = exporter.build().expect("valid");
    let handle = exporter.handle();
    let batches = BatchSpanProcessor::builder(exporter).build();
    let processor = FlushingProcessor::new(batches, handle.clone(), PATIENCE);
    let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
    let tracer = provider.tracer("app");
    end_spans(&tracer, 2_000);
    provider.force_flush().expect("answered");
    assert_eq!(handle.ledger().delivered, 2_000, "{:?}", handle.ledger());
    collector.stop();
    end_spans(&tracer, 10);
    let short = FlushingProcessor::new(SimpleSpanProcessor::new(Nothing), handle.clone(), Duration::from_millis(50));
    provider.shutdown_with_timeout(Duration::from_millis(100)).expect_err("no place for them");
    let error = short.force_flush().expect_err("the end has dropped them, or memory has them only");
    assert!(error.to_string().contains("flush"), "{error}");
}

/// An exporter of nothing.
#[derive(Debug)]
struct Nothing;

impl opentelemetry_sdk::trace::SpanExporter for Nothing {
    async fn export(&self, _: Vec<SpanData>) -> opentelemetry_sdk::error::OTelSdkResult {
        Ok(())
    }
}

#[test]
fn a_batch_has_the_bytes_that_the_exporter_gives_the_same_spans() {
    let kept = Kept::default();
    let mut processor = never(memory_only(&kept)).build_processor().expect("valid");
    let resource = opentelemetry_sdk::Resource::builder_empty().with_service_name("shop").build();
    processor.set_resource(&resource);
    let spans = some_spans(700);
    spans.iter().for_each(|span| processor.on_end(span.clone()));
    processor.force_flush().expect("answered");
    let encoder = Encoder::new(&resource);
    let id = BatchId { incarnation: 1, seq: 1 };
    let requests = kept.requests.lock().clone();
    assert_eq!(requests.iter().map(Payload::item_count).sum::<usize>(), 700);
    assert_eq!(requests.iter().map(Payload::item_count).max(), Some(512));
    for request in requests {
        // A span may find the first part held by the net thread, and begin another batch.
        let ids = decode(request.bytes()).expect("ours").spans.into_iter().map(|span| span.span_context.span_id());
        let of_id = |id| spans.iter().find(|span| span.span_context.span_id() == id).expect("of these").clone();
        let expected = encoder.encode(id, SystemTime::UNIX_EPOCH, &ids.map(of_id).collect::<Vec<_>>());
        let (bytes, length) = (request.bytes(), expected.bytes().len());
        assert!(bytes == expected.bytes(), "{} bytes, {length} are expected", bytes.len());
    }
}

#[test]
fn a_batch_goes_when_it_has_its_spans_or_its_bytes_or_its_time() {
    let kept = Kept::default();
    let by_count = never(memory_only(&kept)).processor(|batches| batches.max_export_batch_size = 3);
    let (tracer, _provider, handle) = provider(by_count.build_processor().expect("valid"));
    end_spans(&tracer, 8);
    // A span may find the first part held by the net thread, and begin another batch.
    eventually("all full batches", || {
        let ledger = handle.ledger();
        ledger.delivered >= 3 && ledger.delivered + ledger.staged == 8
    });
    assert!(kept.counts().iter().all(|spans| *spans == 3), "{:?}", kept.counts());

    let kept = Kept::default();
    let by_bytes = never(memory_only(&kept)).with_request_max_bytes(2_000);
    let (tracer, _provider, handle) = provider(by_bytes.build_processor().expect("valid"));
    for _ in 0..3 {
        tracer.span_builder("n".repeat(900)).start(&tracer).end();
    }
    eventually("a batch of its bytes", || handle.ledger().delivered == 2);
    assert_eq!(handle.ledger().staged, 1);
    let largest = kept.requests.lock().iter().map(|request| request.bytes().len()).max();
    assert!(largest <= Some(2_000), "no request is cut: {largest:?}");

    let kept = Kept::default();
    let by_time = memory_only(&kept).processor(|batches| batches.scheduled_delay = Duration::from_millis(20));
    let (tracer, _provider, handle) = provider(by_time.build_processor().expect("valid"));
    end_spans(&tracer, 2);
    eventually("a batch of its time", || handle.ledger().delivered == 2);
    let first = kept.requests.lock().first().map(Payload::item_count);
    assert!(first.is_some_and(|spans| spans <= 2));
}

#[test]
fn spans_of_threads_that_do_not_meet_share_a_batch() {
    let kept = Kept::default();
    let (tracer, provider, _) = provider(never(memory_only(&kept)).build_processor().expect("valid"));
    for _ in 0..20 {
        thread::scope(|scope| scope.spawn(|| end_spans(&tracer, 1)).join().expect("no panic"));
    }
    provider.force_flush().expect("answered");
    assert_eq!(kept.counts(), [20]);
}

#[test]
fn spans_that_are_not_sampled_are_counted_and_passed_over() {
    let kept = Kept::default();
    let processor = never(memory_only(&kept)).build_processor().expect("valid");
    let handle = processor.handle();
    for mut span in some_spans(3) {
        let context = &span.span_context;
        let (trace, id) = (context.trace_id(), context.span_id());
        span.span_context = SpanContext::new(trace, id, TraceFlags::default(), false, TraceState::default());
        processor.on_end(span);
    }
    processor.on_end(some_spans(1).remove(0));
    let health = handle.health();
    assert_eq!((health.not_sampled, health.ledger.offered, health.ledger.staged), (Some(3), 1, 1));
    let exporter = ResilientSpanExporter::builder().with_primary(kept).with_fallback_enabled(false).build();
    assert_eq!(exporter.expect("valid").handle().health().not_sampled, None);
}

#[test]
fn at_every_instant_each_span_has_one_place() {
    let kept = Kept::default();
    let (tracer, provider, handle) = provider(memory_only(&kept).build_processor().expect("valid"));
    let (producers, each) = (4, 5_000_u64);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut looks, mut offered, mut delivered) = (0, 0, 0);
            while !is_done.load(Ordering::Acquire) || looks < 100 {
                let ledger = handle.ledger();
                assert_eq!(ledger.imbalance(), 0, "{ledger:?}");
                assert!(ledger.offered >= offered && ledger.delivered >= delivered, "{ledger:?}");
                assert!(ledger.accepted() + ledger.staged == ledger.offered, "{ledger:?}");
                (offered, delivered, looks) = (ledger.offered, ledger.delivered, looks + 1);
                let health = handle.health();
                let Some(metrics) = Some(&health.metrics) else { continue };
                let ledger = &health.ledger;
                assert_eq!(metrics.buffer_size, ledger.staged + ledger.buffered + ledger.in_flight);
                assert!(health.memory.spans <= health.memory.max_spans, "{:?}", health.memory);
            }
        });
        let flushes = scope.spawn(|| {
            while !is_done.load(Ordering::Acquire) {
                handle.flush(PATIENCE).expect("answered");
            }
        });
        thread::scope(|scope| {
            for _ in 0..producers {
                scope.spawn(|| {
                    for _ in 0..each / 500 {
                        end_spans(&tracer, 500);
                        // The buffer drops nothing that the collector has room for.
                        eventually("room", || handle.ledger().buffered < 4_000);
                    }
                });
            }
        });
        is_done.store(true, Ordering::Release);
        watch.join().expect("each look holds");
        flushes.join().expect("no panic");
    });
    provider.force_flush().expect("answered");
    let ledger = handle.ledger();
    assert_eq!(
        (ledger.offered, ledger.delivered, ledger.staged),
        (producers * each, producers * each, 0),
        "{ledger:?}"
    );
    let mut ids = std::collections::HashSet::new();
    for request in kept.requests.lock().iter() {
        let spans = decode(request.bytes()).expect("ours").spans;
        assert!(spans.iter().all(|span| ids.insert(span.span_context.span_id())), "each once");
    }
    assert_eq!(ids.len() as u64, producers * each);
}

#[test]
fn staged_spans_count_against_the_limits_and_the_oldest_batches_go_first() {
    let kept = Kept::default();
    kept.is_closed.store(true, Ordering::Relaxed);
    let builder = never(memory_only(&kept)).with_buffer_size(1_000);
    let (tracer, _provider, handle) = provider(builder.build_processor().expect("valid"));
    for _ in 0..50 {
        end_spans(&tracer, 100);
        let health = handle.health();
        assert!(health.memory.spans <= 1_000, "{:?}", health.memory);
        assert_eq!(health.memory.spans, health.metrics.buffer_size);
    }
    let ledger = handle.ledger();
    assert!(ledger.dropped["buffer_full"] > 3_900 && ledger.imbalance() == 0, "{ledger:?}");
    assert_eq!(handle.health().status, Status::Unhealthy);
}

#[test]
fn a_span_larger_than_the_buffer_is_refused_and_the_others_are_not() {
    let kept = Kept::default();
    let builder = never(memory_only(&kept)).with_buffer_max_bytes(10_000);
    let (tracer, provider, handle) = provider(builder.build_processor().expect("valid"));
    end_spans(&tracer, 2);
    tracer.span_builder("n".repeat(20_000)).start(&tracer).end();
    end_spans(&tracer, 2);
    provider.force_flush().expect("answered");
    let ledger = handle.ledger();
    assert_eq!((ledger.delivered, ledger.refused["larger_than_buffer"], ledger.imbalance()), (4, 1, 0));
}

#[test]
fn a_span_nearly_as_large_as_the_buffer_is_delivered_and_a_buffer_of_one_span_works() {
    let kept = Kept::default();
    let builder = never(memory_only(&kept)).with_buffer_max_bytes(100_000);
    let (tracer, provider, handle) = provider(builder.build_processor().expect("valid"));
    end_spans(&tracer, 2);
    tracer.span_builder("n".repeat(95_000)).start(&tracer).end();
    provider.force_flush().expect("answered");
    assert_eq!((handle.ledger().delivered, handle.ledger().lost()), (3, 0), "{:?}", handle.ledger());

    let builder = memory_only(&kept).with_buffer_size(1);
    let (tracer, provider, handle) = self::provider(builder.build_processor().expect("valid"));
    for _ in 0..3 {
        end_spans(&tracer, 1);
        provider.force_flush().expect("answered");
    }
    assert_eq!((handle.ledger().delivered, handle.ledger().lost()), (3, 0), "{:?}", handle.ledger());
}

#[test]
fn the_end_of_the_provider_sends_what_is_staged_and_refuses_what_comes_later() {
    let kept = Kept::default();
    let processor = never(memory_only(&kept)).build_processor().expect("valid");
    let handle = processor.handle();
    some_spans(10).into_iter().for_each(|span| processor.on_end(span));
    processor.shutdown_with_timeout(PATIENCE).expect("sent");
    some_spans(3).into_iter().for_each(|span| processor.on_end(span));
    let ledger = handle.ledger();
    assert_eq!((ledger.delivered, ledger.refused["already_shutdown"], ledger.imbalance()), (10, 3, 0), "{ledger:?}");
    assert!(processor.shutdown_with_timeout(PATIENCE).is_err(), "the second one");
    assert!(processor.force_flush().is_ok(), "nothing is left");
}

#[test]
fn a_time_for_the_shutdown_that_no_clock_can_hold_sends_what_is_staged() {
    let kept = Kept::default();
    let builder = never(memory_only(&kept)).shutdown(|shutdown| shutdown.timeout = Duration::MAX);
    let (tracer, provider, handle) = provider(builder.build_processor().expect("valid"));
    end_spans(&tracer, 3);
    provider.shutdown_with_timeout(Duration::MAX).expect("sent");
    assert_eq!((handle.ledger().delivered, kept.count()), (3, 3), "{:?}", handle.ledger());
}

/// A journal whose disk hangs.
#[derive(Default)]
struct Hangs {
    ends: Arc<AtomicBool>,
}

impl Journal for Hangs {
    fn incarnation(&self) -> u64 {
        7
    }

    fn append(&mut self, _: &Payload) -> Result<(), JournalError> {
        while !self.ends.load(Ordering::Relaxed) {
            thread::park_timeout(Duration::from_millis(1));
        }
        Ok(())
    }

    fn done(&mut self, _: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn announce(&mut self, _: &str, _: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn take_back(&mut self, _: &[BatchId]) -> Result<(), JournalError> {
        Ok(())
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        Ok(())
    }

    fn found(&mut self) -> u64 {
        0
    }

    fn maintain(&mut self, _: &mut dyn FnMut(&str) -> std::io::Result<bool>) -> Result<(), JournalError> {
        Ok(())
    }

    fn next_recovered(&mut self, _: SystemTime) -> Recovered {
        Recovered::End
    }

    fn usage(&self) -> JournalUsage {
        JournalUsage::default()
    }
}

#[test]
fn on_end_waits_for_no_disk_and_what_is_late_counts_as_not_durable() {
    let kept = Kept::default();
    kept.is_closed.store(true, Ordering::Relaxed);
    let ends = Arc::new(AtomicBool::new(false));
    let builder = memory_only(&kept).with_journal(Hangs { ends: Arc::clone(&ends) }).with_journal_enabled(true);
    let builder = builder.journal(|journal| journal.sync_timeout = Duration::from_millis(300));
    let (tracer, provider, handle) = provider(builder.build_processor().expect("valid"));
    let start = now();
    end_spans(&tracer, 2_000);
    // A wait for the journal would be 300 ms at least, for the first of three batches.
    assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
    assert_eq!(handle.health().accepted_not_durable, Some(0), "not yet");
    eventually("the time of three batches is over", || handle.health().accepted_not_durable >= Some(1_536));
    eventually("the rest was handed over after its time", || handle.ledger().staged == 0);
    assert_eq!(handle.health().status, Status::Degraded);
    ends.store(true, Ordering::Relaxed);
    kept.is_closed.store(false, Ordering::Relaxed);
    drop(provider);
    assert_eq!((handle.ledger().imbalance(), handle.ledger().lost()), (0, 0), "{:?}", handle.ledger());
}

#[test]
fn a_time_for_the_journal_that_no_clock_can_hold_never_ends() {
    let kept = Kept::default();
    kept.is_closed.store(true, Ordering::Relaxed);
    let ends = Arc::new(AtomicBool::new(false));
    let builder = memory_only(&kept).with_journal(Hangs { ends: Arc::clone(&ends) }).with_journal_enabled(true);
    let builder = builder.journal(|journal| journal.sync_timeout = Duration::MAX);
    let (tracer, provider, handle) = provider(builder.build_processor().expect("valid"));
    end_spans(&tracer, 1_024);
    let before = handle.health().wakeups.net;
    end_spans(&tracer, 1);
    eventually("the net thread has looked", || handle.health().wakeups.net > before && handle.ledger().staged == 0);
    assert_eq!(handle.health().accepted_not_durable, Some(0));
    ends.store(true, Ordering::Relaxed);
    kept.is_closed.store(false, Ordering::Relaxed);
    drop(provider);
    assert_eq!((handle.ledger().imbalance(), handle.ledger().lost()), (0, 0), "{:?}", handle.ledger());
}

#[test]
fn in_durable_mode_a_crash_loses_the_spans_of_the_staging_time_only() {
    let collector = MockCollector::start().expect("loopback");
    collector.set(Behavior::never_answer());
    let (state, left) = (tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir"));
    let builder = quick(ResilientSpanProcessor::builder().with_primary(http(&collector))).with_state_dir(state.path());
    let builder = never(builder).with_journal_enabled(true).journal(|journal| journal.sync_timeout = PATIENCE);
    let mut app = App::of(builder.build_processor().expect("valid"));
    app.trace(100);
    app.wait_until("the journal has them", |handle| {
        let health = handle.health();
        health.ledger.staged == 0 && health.journal_batches >= Some(1)
    });
    copy(state.path(), &left.path().join("copy"));
    let collector = MockCollector::start().expect("loopback");
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector)));
    let second = App::new(builder.with_state_dir(left.path().join("copy")).build().expect("valid"));
    second.assert_delivered(&collector);
    assert_eq!(app.missing(&[&collector]), 0, "{:?}", second.handle.ledger());
}
