//! Spans that are too old to be sent, and a wall clock that is not believed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mock_collector::MockCollector;
use opentelemetry::trace::{Span as _, SpanBuilder, Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use resilient_exporter::{Clock, Handle, ResilientSpanExporter, SystemClock};

use crate::support::{PATIENCE, http, quick};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// The system's clocks; the wall clock is two days ahead once a test says so.
#[derive(Clone, Default)]
struct Jumping(Arc<AtomicBool>);

impl Clock for Jumping {
    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn wall(&self) -> SystemTime {
        SystemClock.wall() + if self.0.load(Ordering::Acquire) { 2 * DAY } else { Duration::ZERO }
    }
}

/// A provider that exports each span at once, and its exporter's handle.
fn start(builder: resilient_exporter::Builder) -> (SdkTracerProvider, Handle) {
    let exporter: ResilientSpanExporter = quick(builder).build().expect("valid");
    let handle = exporter.handle();
    (SdkTracerProvider::builder().with_simple_exporter(exporter).build(), handle)
}

/// Ends a span whose end is as long ago as this.
fn end(provider: &SdkTracerProvider, ago: Duration) {
    let time = SystemClock.wall() - ago;
    let mut span = provider.tracer("ages").build(SpanBuilder::from_name("work").with_start_time(time));
    span.end_with_timestamp(time);
}

fn counts(handle: &Handle) -> (u64, u64, u64) {
    handle.settled(PATIENCE).unwrap_or_else(|error| panic!("{error}: {:#?}", handle.health()));
    let ledger = handle.ledger();
    assert_eq!(ledger.imbalance(), 0, "{ledger:?}");
    (ledger.delivered, ledger.dead_lettered, ledger.lost())
}

#[test]
fn spans_that_ended_too_long_ago_become_dead_letters_of_that_reason() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector));
    let builder = builder.with_state_dir(state.path().join("state")).with_max_age_at_send(Some(HOUR));
    let (provider, handle) = start(builder);
    for ago in [Duration::ZERO, HOUR / 2, 2 * HOUR, 20 * DAY] {
        end(&provider, ago);
    }
    assert_eq!(counts(&handle), (2, 2, 0));
    assert_eq!(collector.received().unique, 2);
    let letters = handle.dead_letters(10).expect("there is a disk");
    assert_eq!(letters.len(), 2);
    for letter in letters {
        assert_eq!((letter.status.as_str(), letter.attempts, letter.spans), ("none", 0, 1), "no call was made");
        assert!(letter.reason.starts_with("too_old") && letter.reason.contains("3600s"), "{letter:?}");
    }
    provider.shutdown().expect("nothing waits");
}

#[test]
fn age_rests_while_the_wall_clock_is_not_believed() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let clock = Jumping::default();
    let builder = || {
        let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_clock(clock.clone());
        builder.with_state_dir(state.path().join("state")).with_max_age_at_send(Some(HOUR))
    };
    let (first, handle) = start(builder());
    end(&first, Duration::ZERO);
    assert_eq!(counts(&handle), (1, 0, 0));
    first.shutdown().expect("nothing waits");
    // A clock that is two days ahead makes each span that ends now too old, if it is believed.
    clock.0.store(true, Ordering::Release);
    let (second, handle) = start(builder());
    end(&second, Duration::ZERO);
    assert_eq!(counts(&handle), (1, 0, 0), "{:?}", handle.health().issues);
    second.shutdown().expect("nothing waits");
    // In a directory without a memory of time there is no reason to doubt it.
    let other = tempfile::tempdir().expect("temp dir");
    let (third, handle) = start(builder().with_state_dir(other.path().join("state")));
    end(&third, Duration::ZERO);
    assert_eq!(counts(&handle), (0, 1, 0));
    third.shutdown().expect("nothing waits");
}
