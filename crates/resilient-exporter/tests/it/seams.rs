//! A user's own transport, exporter, fallback, clock, backoff and breaker.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use breaker::State;
use mock_collector::MockCollector;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use otlp_payload::Payload;
use otlp_transport::{Cause, Outcome, Transport};
use resilient_exporter::{
    Backoff, Change, Clock, Event, Fallback, FallbackError, Fate, Handle, Order, ReadBack, ResilientSpanExporter,
    Stored, StoredBatch, SystemClock, Usage,
};

use crate::support::{App, PATIENCE, http, quick};

/// A transport that gives the first `failures` calls the outcome of `fail`, then delivers.
struct FailingTransport {
    attempts: Arc<AtomicUsize>,
    failures: usize,
    fail: fn() -> Outcome,
}

#[async_trait]
impl Transport for FailingTransport {
    async fn send(&self, _payload: &Payload) -> Outcome {
        match self.attempts.fetch_add(1, Ordering::Relaxed) {
            attempt if attempt < self.failures => (self.fail)(),
            _ => Outcome::Delivered { rejected: 0, message: None },
        }
    }

    fn endpoint(&self) -> &str {
        "failing"
    }
}

fn refused_connection() -> Outcome {
    Outcome::Retryable { after: None, cause: Cause::Connect("refused".to_owned()), possible_duplicate: false }
}

#[test]
fn a_transport_of_the_users_own_may_fail_and_panic() {
    for fail in [refused_connection as fn() -> Outcome, || panic!("a bug of the user's")] {
        let attempts = Arc::new(AtomicUsize::new(0));
        let transport = FailingTransport { attempts: Arc::clone(&attempts), failures: 3, fail };
        let mut app = App::new(quick(ResilientSpanExporter::builder().with_primary(transport)).build().expect("valid"));
        app.trace(5);
        app.handle.settled(PATIENCE).expect("delivered in the end");
        assert_eq!(app.handle.ledger().delivered, 5);
        assert_eq!(attempts.load(Ordering::Relaxed), 4);
    }
}

#[derive(Debug)]
struct CountingExporter(Arc<AtomicUsize>);

impl SpanExporter for CountingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.fetch_add(batch.len(), Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn any_span_exporter_can_be_primary() {
    let count = Arc::new(AtomicUsize::new(0));
    let exporter =
        ResilientSpanExporter::builder().with_primary(CountingExporter(Arc::clone(&count))).build().expect("valid");
    let mut app = App::new(exporter);
    app.trace(600);
    app.handle.settled(PATIENCE).expect("delivered");
    assert_eq!(count.load(Ordering::Relaxed), 600);
}

/// A user's own fallback, which panics on its first spill.
#[derive(Default)]
struct PanickingFallback {
    batches: VecDeque<Payload>,
    reading: usize,
    panicked: bool,
}

impl Fallback for PanickingFallback {
    fn usage(&self) -> Usage {
        let spans = self.batches.iter().map(|payload| payload.item_count() as u64).sum();
        Usage { files: self.batches.len() as u64, spans, bytes: 0 }
    }

    fn store(&mut self, batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        if !std::mem::replace(&mut self.panicked, true) {
            panic!("a bug of the user's");
        }
        self.batches.extend(batches.iter().cloned());
        Ok(Stored { name: "store".to_owned() })
    }

    fn read(&mut self, _order: Order, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
        self.reading = self.batches.len();
        let batches =
            self.batches.iter().map(|payload| StoredBatch::new(payload.bytes().clone(), payload.item_count()));
        Ok(ReadBack::Group(batches.collect()))
    }

    fn settle(&mut self, fates: &[Fate]) -> Result<(), FallbackError> {
        let mut fates = fates.iter();
        let read = self.reading;
        let mut index = 0;
        self.batches.retain(|_| {
            index += 1;
            index > read || matches!(fates.next(), Some(Fate::Pending(_)))
        });
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
}

#[test]
fn a_fallback_of_the_users_own_takes_the_spans_that_exceed_memory() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let builder =
        ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback(PanickingFallback::default());
    let exporter = quick(builder).with_buffer_size(1_500).build().expect("valid");
    let events = exporter.handle().subscribe();
    let mut app = App::new(exporter);
    app.trace(1_000);
    app.trace(1_000);
    // The first spill panics. The batches stay in memory for a second, then the disk thread tries again.
    let published = std::iter::from_fn(|| events.recv_timeout(PATIENCE).ok());
    let mut trouble = published.filter(|event| matches!(event, Event::DiskTrouble { .. }));
    let trouble = format!("{:?}", trouble.next());
    assert!(trouble.contains("the fallback panicked"), "{trouble}");
    while app.handle.ledger().in_fallback == 0 {
        // An offered batch makes the core spill: a few spans at a time.
        app.trace(50);
    }
    assert!(app.handle.health().metrics.fallback_usage >= 1);
    // The default methods of the trait serve a fallback without dead letters.
    assert_eq!(app.handle.dead_letters(9).expect("none"), []);
    assert!(matches!(app.handle.redrive("any"), Err(resilient_exporter::DeadLetterError::Unknown { .. })));
    collector.start_again().expect("the same ports");
    app.handle.settled(PATIENCE).expect("every span is delivered");
    let ledger = app.handle.ledger();
    assert_eq!(ledger.imbalance(), 0);
    assert_eq!(app.missing(&[&collector]) as u64, ledger.lost(), "{ledger:?}");
}

#[derive(Clone)]
struct FixedWallClock;

impl Clock for FixedWallClock {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
    }
}

struct FixedBackoff(Arc<AtomicUsize>);

impl Backoff for FixedBackoff {
    fn delay(&self, _attempt: u32, _unit: f64) -> Duration {
        self.0.fetch_add(1, Ordering::Relaxed);
        Duration::from_millis(1)
    }
}

#[test]
fn clock_backoff_and_breaker_can_be_the_users_own() {
    let asked = Arc::new(AtomicUsize::new(0));
    let breaker = breaker::Config::builder().with_failure_threshold(2).with_open_duration(Duration::from_millis(1));
    let transport = FailingTransport { attempts: Arc::default(), failures: 4, fail: refused_connection };
    let exporter = ResilientSpanExporter::builder()
        .with_primary(transport)
        .with_clock(FixedWallClock)
        .with_backoff(FixedBackoff(Arc::clone(&asked)))
        .with_circuit_breaker(breaker)
        .build()
        .expect("valid");
    let events = exporter.handle().subscribe();
    let mut app = App::new(exporter);
    app.trace(5);
    app.handle.settled(PATIENCE).expect("delivered in the end");
    assert_eq!(asked.load(Ordering::Relaxed), 4);
    assert!(app.handle.health().metrics.circuit_breaker_trips >= 1);
    let moves = events.try_iter().filter_map(|event| match event {
        Event::Breaker { to, .. } => Some(to),
        _ => None,
    });
    let moves = moves.collect::<Vec<_>>();
    assert_eq!(moves[..2], [State::Open, State::HalfOpen], "every change of the breaker is published: {moves:?}");
    assert_eq!(moves.last(), Some(&State::Closed));
    let json = serde_json::to_value(app.handle.health().metrics).expect("serializes");
    assert_eq!(json["last_export_success"], "2001-09-09T01:46:40.000Z");
}

/// An error whose text asks the exporter that shows it.
#[derive(Debug, Default, Clone)]
struct AskingError(Arc<Mutex<Option<Handle>>>);

impl fmt::Display for AskingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handle = self.0.lock().expect("no panic").clone();
        write!(f, "{} spans are buffered", handle.map_or(0, |handle| handle.ledger().buffered))
    }
}

impl std::error::Error for AskingError {}

struct FailingStore(AskingError);

impl Fallback for FailingStore {
    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn store(&mut self, _batches: &[Payload], _now: SystemTime) -> Result<Stored, FallbackError> {
        Err(FallbackError::new(self.0.clone()))
    }

    fn read(&mut self, _order: Order, _max_bytes: usize) -> Result<ReadBack, FallbackError> {
        Ok(ReadBack::Empty)
    }

    fn settle(&mut self, _fates: &[Fate]) -> Result<(), FallbackError> {
        Ok(())
    }

    fn clean_up(&mut self, _now: SystemTime) {}

    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }
}

#[test]
fn the_error_of_a_fallback_may_ask_the_exporter() {
    let collector = MockCollector::start().expect("loopback");
    collector.stop();
    let error = AskingError::default();
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector));
    let builder = quick(builder).with_fallback(FailingStore(error.clone())).with_buffer_size(1_000);
    let exporter = builder.build().expect("valid");
    let events = exporter.handle().subscribe();
    *error.0.lock().expect("no panic") = Some(exporter.handle());
    let mut app = App::new(exporter);
    // More than may wait in memory, whichever batch is in flight.
    app.trace(1_800);
    let mut trouble = std::iter::from_fn(|| events.recv_timeout(PATIENCE).ok());
    let trouble = trouble.find_map(|event| match event {
        Event::DiskTrouble { error } => Some(error),
        _ => None,
    });
    assert!(trouble.expect("the spill fails").ends_with("spans are buffered"));
    assert_eq!(app.handle.ledger().imbalance(), 0);
}
