//! Collectors that refuse for a while, in part, or one of several: nothing is lost, and no batch becomes a dead letter
//! that some collector takes.

use std::path::Path;
use std::time::Duration;

use mock_collector::{Answer, Behavior, MockCollector};
use otlp_transport::{Config, Protocol, connect};
use resilient_exporter::{Builder, Event, ResilientSpanExporter, Status};

use crate::support::balancer::Balancer;
use crate::support::{App, PATIENCE, copy, grpc, http, quick};

fn refuse(status: u16) -> Behavior {
    Behavior::answer(Answer::http(status).with_message("no such key"))
}

/// Nothing was sent twice, lost or ended as a dead letter, and the collectors have all of it.
#[track_caller]
fn assert_whole(app: &App, collectors: &[&MockCollector]) {
    app.handle.settled(PATIENCE).unwrap_or_else(|error| panic!("{error}: {:#?}", app.handle.health()));
    let ledger = app.handle.ledger();
    assert_eq!((ledger.imbalance(), ledger.lost(), ledger.dead_lettered), (0, 0, 0), "{ledger:?}");
    assert_eq!(ledger.delivered, ledger.offered + ledger.recovered, "{ledger:?}");
    assert_eq!(app.missing(collectors), 0);
    assert_eq!(collectors.iter().map(|one| one.received().duplicates).sum::<u64>(), 0);
}

#[test]
fn spans_of_a_time_with_a_bad_key_are_delivered_once_by_themselves() {
    for (status, connect) in [(401, http as fn(&_) -> _), (403, http), (401, grpc), (404, grpc)] {
        let collector = MockCollector::start().expect("loopback");
        let state = tempfile::tempdir().expect("temp dir");
        let builder = quick(ResilientSpanExporter::builder().with_primary(connect(&collector)));
        let builder = builder.with_buffer_size(2_000).with_state_dir(state.path().join("state"));
        let mut app = App::new(builder.build().expect("valid"));
        collector.set(refuse(status));
        for _ in 0..12 {
            app.trace(500);
            app.wait_until("the disk thread writes the surplus", |handle| handle.ledger().buffered < 1_500);
        }
        app.wait_until("the breaker opens", |handle| handle.health().metrics.circuit_breaker_trips > 0);
        let health = app.handle.health();
        assert_eq!((health.status, health.ledger.dead_lettered), (Status::Degraded, 0), "{health:#?}");
        let refused = health.issues.iter().find(|issue| issue.starts_with("refused: ")).expect("health says so");
        assert!(refused.contains(&status.to_string()) && refused.contains("OTEL_EXPORTER_OTLP_"), "{refused}");
        collector.set(Behavior::accept());
        assert_whole(&app, &[&collector]);
        let health = app.handle.health();
        assert!(health.issues.iter().all(|issue| !issue.starts_with("refused: ")), "{health:#?}");
        assert_eq!((health.fallback_files, health.possible_duplicates), (0, 0), "{health:#?}");
    }
}

#[test]
fn one_span_with_a_bad_key_is_sent_by_itself_once_the_key_works() {
    let collector = MockCollector::start().expect("loopback");
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector))).with_fallback_enabled(false);
    let mut app = App::new(builder.build().expect("valid"));
    collector.set(refuse(401));
    app.trace(1);
    app.wait_until("probes", |handle| handle.health().metrics.failed_exports >= 7);
    collector.set(Behavior::accept());
    assert_whole(&app, &[&collector]);
}

/// Its batch waits alone for 10 s, beside a collector that took one just before.
#[test]
fn a_batch_that_waits_alone_after_its_refusal_goes_by_retry_now() {
    let collector = MockCollector::start().expect("loopback");
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector))).with_fallback_enabled(false);
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(1);
    app.assert_delivered(&collector);
    collector.set_next(1, refuse(401));
    app.trace(1);
    app.wait_until("the refusal", |handle| handle.health().metrics.failed_exports == 1);
    app.handle.retry_now();
    app.handle.settled(Duration::from_secs(8)).expect("the wait is over");
    assert_whole(&app, &[&collector]);
}

#[test]
fn one_of_three_replicas_that_refuses_ends_no_batch_and_does_not_slow_the_others_down() {
    for status in [401, 404, 500, 503] {
        let replicas = [(); 3].map(|()| MockCollector::start().expect("loopback"));
        replicas[1].set(refuse(status));
        let all = [&replicas[0], &replicas[1], &replicas[2]];
        let balancer = Balancer::start(&all);
        let config = Config::builder().with_protocol(Protocol::HttpProtobuf).with_endpoint(balancer.endpoint());
        let transport = connect(config.build().expect("valid")).expect("no I/O yet");
        let mut app = App::new(quick(ResilientSpanExporter::builder().with_primary(transport)).build().expect("valid"));
        for _ in 0..30 {
            app.trace(100);
            app.wait_until("all but batches that wait alone are delivered", |handle| {
                handle.retry_now();
                let ledger = handle.ledger();
                ledger.delivered + 500 >= ledger.offered
            });
        }
        app.wait_until("the rest", |handle| {
            handle.retry_now();
            handle.ledger().delivered == handle.ledger().offered
        });
        assert_whole(&app, &all);
        let health = app.handle.health();
        assert!(health.metrics.failed_exports > 0, "{status} was met");
        assert!(all.iter().filter(|one| one.received().unique > 0).count() >= 1);
    }
}

#[test]
fn everything_deliverable_is_delivered_below_4000_bytes_and_the_rest_is_one_dead_letter_a_batch() {
    for connect in [http as fn(&_) -> _, grpc] {
        let collector =
            MockCollector::builder().with_grpc_max_bytes(3_999).with_http_max_bytes(3_999).start().expect("loopback");
        let state = tempfile::tempdir().expect("temp dir");
        let builder = quick(ResilientSpanExporter::builder().with_primary(connect(&collector)));
        let mut app = App::new(builder.with_state_dir(state.path().join("state")).build().expect("valid"));
        app.trace(1_000);
        assert_whole(&app, &[&collector]);
        let health = app.handle.health();
        let failed = health.metrics.failed_exports;
        assert!(failed <= 12, "{failed} requests to learn the size");
    }
}

#[test]
fn a_collector_that_finds_every_span_too_large_gets_few_calls_and_a_redrive_delivers_all() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector)));
    let mut app = App::new(builder.with_state_dir(state.path().join("state")).build().expect("valid"));
    collector.set(Behavior::answer(Answer::http(413)));
    for batch in 1..=5 {
        app.trace(100);
        app.wait_until("dead letters", |handle| {
            handle.retry_now(); // ends the pauses between splits
            handle.ledger().dead_lettered == batch * 100
        });
    }
    let letters = app.handle.dead_letter_ids().expect("there is a disk").len();
    assert_eq!(letters, 5, "one a batch");
    collector.set(Behavior::accept());
    let report = app.handle.redrive_all();
    assert_eq!((report.letters, report.spans), (5, 500), "{report:?}");
    app.handle.settled(PATIENCE).expect("delivered");
    let ledger = app.handle.ledger();
    assert_eq!((ledger.delivered, ledger.dead_lettered, ledger.lost(), ledger.imbalance()), (500, 500, 0, 0));
    assert_eq!((app.missing(&[&collector]), collector.received().duplicates), (0, 0));
}

fn durable(collector: &MockCollector, state: &Path) -> Builder {
    quick(ResilientSpanExporter::builder().with_primary(http(collector)))
        .with_state_dir(state)
        .with_buffer_size(2_000)
        .with_journal_enabled(true)
        .with_journal_sync_timeout(PATIENCE)
}

#[test]
fn a_collector_that_answers_400_to_all_loses_nothing_over_a_kill_and_a_shutdown() {
    let collector = MockCollector::start().expect("loopback");
    let scratch = tempfile::tempdir().expect("temp dir");
    let (state, left) = (scratch.path().join("state"), scratch.path().join("left"));
    collector.set(refuse(400));
    let mut first = App::new(durable(&collector, &state).build().expect("valid"));
    for _ in 0..8 {
        first.trace(500);
        first.wait_until("the disk thread writes the surplus", |handle| handle.ledger().buffered < 1_500);
    }
    first.wait_until("the breaker opens", |handle| handle.health().metrics.circuit_breaker_trips > 0);
    assert_eq!(first.handle.ledger().dead_lettered, 0);
    first.wait_until("no file is being written", |handle| {
        handle.health().issues.iter().all(|issue| !issue.contains("are being written"))
    });
    copy(&state, &left);

    collector.set(refuse(400));
    // Enough memory for all: a slow disk drops none here.
    let mut second = App::new(durable(&collector, &left).with_buffer_size(20_000).build().expect("valid"));
    second.trace(700);
    second.wait_until("further refusals", |handle| handle.health().metrics.failed_exports >= 5);
    let ledger = second.handle.ledger();
    assert_eq!((ledger.recovered, ledger.dead_lettered, ledger.lost()), (4_000, 0, 0), "{ledger:?}");
    second.shutdown().expect("all is on the disk");

    collector.set(Behavior::accept());
    let third = App::new(durable(&collector, &left).build().expect("valid"));
    third.handle.settled(PATIENCE).expect("delivered");
    let ledger = third.handle.ledger();
    assert_eq!((ledger.recovered, ledger.delivered, ledger.dead_lettered), (4_700, 4_700, 0), "{ledger:?}");
    assert_eq!((first.missing(&[&collector]), second.missing(&[&collector])), (0, 0));
}

#[test]
fn without_a_directory_the_limits_of_memory_decide_while_all_is_refused() {
    let collector = MockCollector::start().expect("loopback");
    let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector))).with_fallback_enabled(false);
    let mut app = App::new(builder.with_buffer_size(1_000).build().expect("valid"));
    let events = app.handle.subscribe();
    collector.set(refuse(400));
    app.trace(3_000);
    app.wait_until("the breaker opens", |handle| handle.health().metrics.circuit_breaker_trips > 0);
    let health = app.handle.health();
    assert_eq!(health.status, Status::Unhealthy, "{health:#?}");
    let lost = health.ledger.dropped["buffer_full"];
    assert!((2_000..=2_600).contains(&lost) && health.ledger.lost() == lost, "{health:#?}");
    assert!(health.issues[0].contains("refuses all spans: HTTP status 400"), "{:?}", health.issues);
    collector.set(Behavior::accept());
    app.handle.settled(PATIENCE).expect("delivered");
    let ledger = app.handle.ledger();
    assert_eq!((ledger.delivered + lost, ledger.dead_lettered, ledger.imbalance()), (3_000, 0, 0), "{ledger:?}");
    assert_eq!(collector.received().unique, ledger.delivered);
    assert!(events.try_iter().any(|event| matches!(event, Event::OutageBegan { .. })));
}
