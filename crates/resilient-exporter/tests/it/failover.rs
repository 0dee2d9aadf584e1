//! Several real collectors: one that dies, one that refuses the sender, one that accepts and never answers; their
//! places in health, events and the ledger.

use std::time::Duration;

use mock_collector::{Answer, Behavior, MockCollector};
use resilient_exporter::{BuildError, Builder, Event, Position, ResilientSpanExporter, Status};

use crate::support::{App, grpc, http, quick};

fn pair() -> (MockCollector, MockCollector) {
    (MockCollector::start().expect("loopback"), MockCollector::start().expect("loopback"))
}

/// The first collector by gRPC, the second by HTTP. Trials follow each other after a second.
fn builder(first: &MockCollector, second: &MockCollector) -> Builder {
    let builder = ResilientSpanExporter::builder().with_primary(grpc(first)).with_failover(http(second));
    quick(builder).with_fallback_enabled(false).with_failback_delay(Duration::from_secs(1))
}

fn in_use(app: &App) -> usize {
    let health = app.handle.health();
    health.collectors.iter().position(|collector| collector.in_use).expect("one is in use")
}

/// Each span is at one of the two, at one alone, and the ledger counts them by collector.
#[track_caller]
fn assert_each_once(app: &App, first: &MockCollector, second: &MockCollector) {
    app.handle.settled(crate::support::PATIENCE).unwrap_or_else(|error| panic!("{error}: {}", app.handle.health()));
    assert_eq!(app.missing(&[first, second]), 0);
    let received = [first, second].map(|collector| collector.received().unique);
    let health = app.handle.health();
    let delivered = health.collectors.iter().map(|collector| collector.delivered).collect::<Vec<_>>();
    assert_eq!(delivered, received, "{health}");
    assert_eq!((health.ledger.delivered, health.ledger.lost()), (app.made(), 0), "{health}");
}

#[test]
fn spans_go_to_the_second_at_once_when_the_first_dies_and_back_when_it_returns() {
    let (first, second) = pair();
    let mut app = App::new(builder(&first, &second).build().expect("valid"));
    let events = app.handle.subscribe();
    app.trace(10);
    app.assert_delivered(&first);
    first.stop();
    app.trace(100);
    app.wait_until("the second", |handle| handle.health().collectors[1].delivered == 100);
    let health = app.handle.health();
    assert_eq!((health.status, in_use(&app)), (Status::Degraded, 1), "{health}");
    assert!(health.issues[0].contains("spans go to endpoint 2") && health.endpoint.contains("127.0.0.1"), "{health}");
    let names = health.collectors.iter().map(|collector| collector.position.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["primary", "2"]);
    first.start_again().expect("the same ports");
    // Live batches find that out, one a second.
    let mut batches = 0;
    while in_use(&app) == 1 {
        app.trace(1);
        batches += 1;
        let made = app.made();
        app.wait_until("the delivery", |handle| handle.ledger().delivered == made);
        assert!(batches < 100_000, "{}", app.handle.health());
    }
    app.trace(50);
    assert_each_once(&app, &first, &second);
    let health = app.handle.health();
    assert!(!health.issues.iter().any(|issue| issue.contains("endpoint 2")), "{health}");
    let moves = events.try_iter().filter_map(|event| match event {
        Event::EndpointChanged { from, to } => Some((from.index(), to.index())),
        _ => None,
    });
    assert_eq!(moves.collect::<Vec<_>>(), [(0, 1), (1, 0)]);
}

#[test]
fn a_first_that_refuses_the_sender_and_one_that_never_answers_lose_no_span() {
    for behavior in [Behavior::answer(Answer::grpc(16)), Behavior::never_answer()] {
        let (first, second) = pair();
        first.set(behavior.clone());
        let mut app = App::new(builder(&first, &second).build().expect("valid"));
        app.trace(200);
        app.wait_until("the deliveries", |handle| handle.ledger().delivered == 200);
        assert_eq!((app.missing(&[&second]), in_use(&app)), (0, 1), "{behavior:?}");
        let ledger = app.handle.ledger();
        assert_eq!((ledger.lost(), ledger.dead_lettered, ledger.imbalance()), (0, 0, 0), "{ledger:?}");
    }
}

#[test]
fn while_all_are_down_spans_wait_and_go_to_the_one_that_returns() {
    let (first, second) = pair();
    let mut app = App::new(builder(&first, &second).build().expect("valid"));
    first.stop();
    second.stop();
    app.trace(300);
    app.wait_until("an outage of each", |handle| {
        let health = handle.health();
        health.collectors.iter().all(|collector| collector.breaker != breaker::State::Closed)
    });
    assert_eq!(app.handle.ledger().buffered + app.handle.ledger().in_flight, 300);
    second.start_again().expect("the same ports");
    app.assert_delivered(&second);
    let outages = app.handle.outages();
    assert!(outages.iter().any(|outage| outage.endpoint == app.handle.health().collectors[1].endpoint), "{outages:?}");
}

#[test]
fn a_shutdown_sends_the_last_spans_to_the_second() {
    let (first, second) = pair();
    first.stop();
    let mut app = App::new(builder(&first, &second).build().expect("valid"));
    app.trace(25);
    app.shutdown().expect("the second takes all");
    assert_eq!(app.missing(&[&second]), 0, "{:?}", app.handle.ledger());
}

#[test]
fn more_endpoints_than_places_and_a_delay_below_a_second_are_errors() {
    let collector = MockCollector::start().expect("loopback");
    let mut builder = ResilientSpanExporter::builder().with_primary(grpc(&collector));
    for _ in 0..16 {
        builder = builder.with_failover(grpc(&collector));
    }
    let error = builder.build().expect_err("17 endpoints");
    assert!(matches!(error, BuildError::TooManyEndpoints { count: 17, most: 16 }), "{error}");
    let builder = ResilientSpanExporter::builder().with_primary(grpc(&collector));
    let error = builder.with_failback_delay(Duration::from_millis(999)).build().expect_err("too short");
    assert!(error.to_string().starts_with("failover.failback_delay is 999ms"), "{error}");
    assert_eq!(Position::PRIMARY.as_str(), "primary");
}
