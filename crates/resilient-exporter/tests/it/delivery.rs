//! Delivery on good days, in outages and after every kind of answer.

use std::num::NonZeroUsize;
use std::time::Duration;

use file_fallback::dead_letters::DeadLetters;
use mock_collector::{Answer, Behavior, End, MockCollector};
use otlp_transport::{Compression, Config, Protocol, connect};
use resilient_exporter::{Event, FallbackFormat, Refused, ReplayOrder, ResilientSpanExporter, Status};

use crate::support::{
    App, PATIENCE, ended_process, eventually, grpc, http, in_processes, only_process, quick, some_spans,
};

#[test]
fn spans_arrive_over_grpc_and_over_http() {
    for transport in [grpc, http] {
        let collector = MockCollector::start().expect("loopback");
        let exporter = ResilientSpanExporter::builder().with_primary(transport(&collector)).build().expect("valid");
        let mut app = App::new(exporter);
        app.trace(3_000);
        app.assert_delivered(&collector);
        assert_eq!(collector.received().duplicates, 0);
        app.shutdown().expect("nothing waits");
    }
}

#[test]
fn an_outage_loses_no_span_and_the_collector_receives_all_when_it_is_back() {
    for transport in [grpc, http] {
        let collector = MockCollector::start().expect("loopback");
        let state = tempfile::tempdir().expect("temp dir");
        let builder = ResilientSpanExporter::builder().with_primary(transport(&collector));
        let exporter =
            quick(builder).with_buffer_size(2_000).with_state_dir(state.path().join("state")).build().expect("valid");
        let mut app = App::new(exporter);
        app.trace(500);
        collector.stop();
        for _ in 0..12 {
            app.trace(500);
            app.wait_until("the disk thread writes the surplus", |handle| handle.ledger().buffered < 1_500);
        }
        app.wait_until("the breaker opens and batches spill", |handle| {
            let health = handle.health();
            health.metrics.circuit_breaker_trips > 0 && health.ledger.in_fallback > 0
        });
        assert_eq!(app.handle.health().status, Status::Degraded);
        let events = app.handle.subscribe();
        collector.start_again().expect("the same ports");
        app.trace(500);
        // A flush that slept until its deadline would not return within the test's patience.
        let handle = app.handle.clone();
        let flush = std::thread::spawn(move || handle.settled(100 * PATIENCE));
        app.wait_until("the flush returns after the delivery", |_| flush.is_finished());
        flush.join().expect("no panic").expect("delivered before the deadline");
        app.wait_until("the event of the last file", |_| {
            events.try_iter().any(|event| matches!(event, Event::Replayed { .. }))
        });
        app.assert_delivered(&collector);
        let health = app.handle.health();
        assert_eq!(health.fallback_files, 0, "{health:#?}");
        // Nothing waits any more; only the calls of the outage are remembered, for 5 minutes.
        assert!(health.issues.iter().all(|issue| issue.contains("calls succeeded in 5 min")), "{health:#?}");
        app.shutdown().expect("nothing waits");
    }
}

#[test]
fn without_a_fallback_a_batch_stays_in_memory_however_often_it_fails() {
    let collector = MockCollector::start().expect("loopback");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback_enabled(false);
    let exporter = quick(builder).with_circuit_breaker_threshold(1_000).build().expect("valid");
    let mut app = App::new(exporter);
    collector.set(Behavior::answer(Answer::http(503)));
    app.trace(100);
    app.wait_until("20 failed attempts", |handle| handle.health().metrics.failed_exports >= 20);
    assert_eq!(app.handle.ledger().lost(), 0);
    collector.set(Behavior::accept());
    app.assert_delivered(&collector);
}

#[test]
fn a_batch_whose_retries_are_spent_goes_to_a_file_and_arrives_later() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_retry_max_retries(2);
    let exporter = quick(builder)
        .with_circuit_breaker_threshold(1_000)
        .with_state_dir(state.path().join("state"))
        .build()
        .expect("valid");
    let mut app = App::new(exporter);
    collector.set(Behavior::answer(Answer::http(503)));
    app.trace(100);
    app.wait_until("a spill", |handle| handle.health().metrics.fallback_usage >= 1);
    collector.set(Behavior::accept());
    app.assert_delivered(&collector);
}

#[test]
fn a_throttle_is_honoured_and_does_not_trip_the_breaker() {
    for transport in [grpc, http] {
        let collector = MockCollector::start().expect("loopback");
        let builder = ResilientSpanExporter::builder().with_primary(transport(&collector));
        let exporter = quick(builder).with_circuit_breaker_threshold(1).build().expect("valid");
        let mut app = App::new(exporter);
        let busy = |seconds| Behavior::answer(Answer::grpc(8).with_retry_after(Duration::from_secs(seconds)));
        collector.set_next(1, busy(1));
        app.trace(10);
        app.assert_delivered(&collector);
        assert_eq!(collector.received().requests, 2);

        // While the throttle lasts no call goes out, neither with the refused batch nor with a new one.
        collector.set_next(1, busy(3_600));
        app.trace(10);
        app.wait_until("the second throttle", |handle| handle.health().metrics.failed_exports == 2);
        app.trace(10);
        let waiting = app.handle.settled(Duration::from_millis(100)).expect_err("throttled");
        assert_eq!((waiting.buffered, collector.received().requests), (20, 3));
        assert_eq!(app.handle.health().metrics.circuit_breaker_trips, 0, "a throttle is no failure");
    }
}

#[test]
fn a_partial_success_is_counted_and_never_sent_again() {
    let collector = MockCollector::start().expect("loopback");
    let exporter = ResilientSpanExporter::builder().with_primary(grpc(&collector)).build().expect("valid");
    let mut app = App::new(exporter);
    collector.set_next(1, Behavior::reject(4, "too old"));
    app.trace(10);
    app.wait_until("an answer", |handle| handle.ledger().in_flight == 0 && handle.ledger().rejected > 0);
    let ledger = app.handle.ledger();
    assert_eq!((ledger.rejected, ledger.delivered, ledger.imbalance()), (4, 6, 0), "{ledger:?}");
    assert_eq!(collector.received().requests, 1);
}

#[test]
fn a_collector_that_takes_less_gets_smaller_requests() {
    for transport in [grpc, http] {
        let collector =
            MockCollector::builder().with_grpc_max_bytes(4_000).with_http_max_bytes(4_000).start().expect("loopback");
        let exporter = ResilientSpanExporter::builder().with_primary(transport(&collector)).build().expect("valid");
        let mut app = App::new(exporter);
        app.trace(500);
        app.assert_delivered(&collector);
    }
}

#[test]
fn the_request_limit_splits_a_batch_before_it_is_sent() {
    let collector = MockCollector::start().expect("loopback");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_request_max_bytes(4_000);
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(500);
    app.assert_delivered(&collector);
    let health = app.handle.health();
    assert_eq!(health.metrics.failed_exports, 0, "{health:?}");
    assert!(collector.received().requests > 5);
}

#[test]
fn the_limit_on_spans_splits_a_batch_before_it_is_sent() {
    for transport in [grpc, http] {
        let collector = MockCollector::start().expect("loopback");
        let builder = ResilientSpanExporter::builder().with_primary(transport(&collector));
        let mut app = App::new(builder.with_request_max_spans(NonZeroUsize::new(60)).build().expect("valid"));
        app.trace(500);
        app.assert_delivered(&collector);
        let health = app.handle.health();
        assert_eq!((health.metrics.failed_exports, collector.received().requests), (0, 9), "{health:?}");
    }
}

#[test]
fn compressed_requests_are_delivered_after_an_outage_and_by_pieces() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            // The limit is one on bytes before compression.
            let collector = MockCollector::builder()
                .with_grpc_max_bytes(20_000)
                .with_http_max_bytes(20_000)
                .with_kept_requests(100)
                .start()
                .expect("loopback");
            let endpoint = match protocol {
                Protocol::Grpc => collector.grpc_endpoint(),
                _ => collector.http_endpoint(),
            };
            let config = Config::builder().with_protocol(protocol).with_endpoint(endpoint);
            let config = config.with_compression(compression).build().expect("valid");
            let builder = ResilientSpanExporter::builder().with_primary(connect(config).expect("no I/O yet"));
            let mut app = App::new(quick(builder).build().expect("valid"));
            collector.set_next(3, Behavior::answer(Answer::http(503)));
            app.trace(500);
            app.assert_delivered(&collector);
            let coding = compression.to_string();
            for request in collector.requests() {
                let named = request.header("content-encoding").or(request.header("grpc-encoding"));
                assert_eq!(named, Some(coding.as_str()), "{protocol}");
                assert!(request.wire_bytes < request.body.len(), "{} of {}", request.wire_bytes, request.body.len());
            }
        }
    }
}

#[test]
fn ended_connections_are_failures_that_are_tried_again() {
    for (transport, end) in
        [(grpc as fn(&_) -> _, End::GoAway(0)), (grpc, End::Rst), (http, End::Fin), (http, End::Rst)]
    {
        let collector = MockCollector::start().expect("loopback");
        let builder = ResilientSpanExporter::builder().with_primary(transport(&collector));
        let mut app = App::new(quick(builder).build().expect("valid"));
        collector.set_next(2, Behavior::end(end));
        app.trace(50);
        app.assert_delivered(&collector);
        assert!(app.handle.health().metrics.failed_exports >= 1);
    }
}

#[test]
fn a_lost_answer_is_a_possible_duplicate_and_not_a_loss() {
    let collector = MockCollector::start().expect("loopback");
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector));
    let mut app = App::new(quick(builder).build().expect("valid"));
    collector.set_next(1, Behavior::end(End::Rst).storing());
    app.trace(20);
    app.assert_delivered(&collector);
    let received = collector.received();
    assert_eq!((received.unique, received.duplicates), (20, 20));
    assert!(app.handle.health().possible_duplicates >= received.duplicates);
}

#[test]
fn spans_that_are_refused_for_good_are_counted_with_the_reason() {
    let collector = MockCollector::start().expect("loopback");
    let builder = ResilientSpanExporter::builder().with_primary(grpc(&collector));
    let builder = quick(builder).with_fallback_enabled(false).with_refused(Refused::DeadLetter);
    let mut app = App::new(builder.build().expect("valid"));
    collector.set_next(1, Behavior::answer(Answer::grpc(3).with_message("no such tenant")));
    app.trace(7);
    app.wait_until("the answer", |handle| handle.ledger().lost() > 0);
    let ledger = app.handle.ledger();
    assert_eq!((ledger.dropped["permanent"], ledger.imbalance()), (7, 0));
    assert_eq!(app.handle.health().status, Status::Unhealthy);
    assert_eq!(collector.received().requests, 1);
}

#[test]
fn spans_that_are_refused_for_good_are_stored_as_dead_letters() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let state = state.path().join("state");
    let builder = ResilientSpanExporter::builder().with_primary(grpc(&collector)).with_state_dir(&state);
    let mut app = App::new(quick(builder).with_refused(Refused::DeadLetter).build().expect("valid"));
    collector.set_next(1, Behavior::answer(Answer::grpc(3).with_message("no such tenant")));
    app.trace(7);
    app.wait_until("a dead letter", |handle| handle.ledger().dead_lettered > 0);
    let ledger = app.handle.ledger();
    assert_eq!((ledger.dead_lettered, ledger.lost(), ledger.imbalance()), (7, 0, 0));
    app.shutdown().expect("nothing waits");
    let config = DeadLetters::config(only_process(&state).join("dead-letters")).build().expect("valid");
    let mut letters = DeadLetters::open(config).expect("the lock is free after the shutdown");
    let name = letters.list()[0].name.clone();
    let (letter, lines) = letters.read(&name).expect("readable");
    assert_eq!((letter.status.as_str(), letter.attempts, lines.len()), ("gRPC 3", 1, 1));
    assert!(letter.reason.contains("no such tenant"), "{letter:?}");
}

#[test]
fn stored_spans_are_delivered_in_the_order_that_is_set() {
    for (order, expected) in [(ReplayOrder::Oldest, [20, 21, 22]), (ReplayOrder::Newest, [22, 21, 20])] {
        let collector = MockCollector::builder().with_kept_requests(3).start().expect("loopback");
        let state = tempfile::tempdir().expect("temp dir");
        let dir = state.path().join("state");
        let build = || {
            let builder = quick(ResilientSpanExporter::builder().with_primary(http(&collector)).with_state_dir(&dir));
            let builder = builder.with_replay_order(order).with_max_concurrency(1);
            // No two batches share a request.
            App::new(builder.request(|request| request.max_spans = NonZeroUsize::new(30)).build().expect("valid"))
        };
        collector.stop();
        for spans in [20, 21, 22] {
            let mut app = build();
            app.trace(spans);
            app.shutdown().expect("all spans are in a file");
        }
        collector.start_again().expect("the same ports");
        build().handle.settled(PATIENCE).expect("delivered");
        let requests = collector.requests();
        let sent = requests
            .iter()
            .map(|request| otlp_payload::span_ids(&request.body).expect("a request").count())
            .collect::<Vec<_>>();
        assert_eq!(sent, expected, "{order:?}");
    }
}

/// Each exporter has another format than the one before and starts on its files.
#[test]
fn files_of_either_format_are_delivered_under_either_setting() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let dir = state.path().join("state");
    let build = |format| {
        let builder = ResilientSpanExporter::builder().with_primary(http(&collector)).with_fallback_format(format);
        App::new(quick(builder).with_state_dir(&dir).with_fallback_compress_above(20_000).build().expect("valid"))
    };
    collector.stop();
    let formats = [FallbackFormat::Protobuf, FallbackFormat::Json, FallbackFormat::Protobuf];
    let mut runs = Vec::new();
    for (format, spans) in formats.into_iter().zip([30, 40, 700]) {
        let mut app = build(format);
        app.trace(spans);
        app.shutdown().expect("all spans are in files");
        runs.push(app);
    }
    let files = in_processes(&dir, "fallback").into_iter().flat_map(|files| std::fs::read_dir(files).expect("there"));
    let mut names: Vec<_> = files.filter_map(|file| file.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with("traces-"));
    names.sort_by_key(|name| name.split('-').nth(2).map(str::to_owned));
    let ends = |index: usize, end: &str| assert!(names[index].ends_with(end), "{names:?}");
    ends(0, "-n30.binpb");
    ends(1, "-n40.jsonl");
    ends(names.len() - 1, ".binpb.zst");
    collector.start_again().expect("the same ports");
    let last = build(FallbackFormat::Json);
    last.handle.settled(PATIENCE).expect("delivered");
    assert_eq!(runs.iter().map(|run| run.missing(&[&collector])).sum::<usize>(), 0);
    let ledger = last.handle.ledger();
    assert_eq!((ledger.recovered, ledger.delivered, ledger.lost()), (770, 770, 0), "{ledger:?}");
    assert_eq!(collector.received().duplicates, 0);
}

/// The Collector's file exporter, for example, writes such a file: each request behind the four bytes of its length.
#[test]
fn frames_of_another_program_are_delivered_and_garbage_between_them_is_counted() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let dir = state.path().join("state");
    let builder = || quick(ResilientSpanExporter::builder().with_primary(http(&collector))).with_state_dir(&dir);
    let files = ended_process(&dir).join("fallback");
    std::fs::create_dir_all(&files).expect("made");
    let encoder = otlp_payload::Encoder::new(&opentelemetry_sdk::Resource::builder_empty().build());
    let id = otlp_payload::BatchId { incarnation: 1, seq: 1 };
    let batch = |first: usize| {
        let spans = some_spans(first as u64 + 5);
        encoder.encode(id, std::time::SystemTime::UNIX_EPOCH, &spans[first..])
    };
    let frame = |bytes: &[u8]| [&u32::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat();
    let file =
        [frame(batch(0).bytes()), frame(b"\xff\xff"), frame(batch(5).bytes()), b"\0\0\x10\0torn".to_vec()].concat();
    std::fs::write(files.join("traces-20260201T000000.000Z-00000001-n17.binpb"), file).expect("written");
    let app = App::new(builder().build().expect("valid"));
    app.handle.settled(PATIENCE).expect("delivered");
    let ledger = app.handle.ledger();
    assert_eq!((ledger.recovered, ledger.delivered, ledger.dropped["corrupt"]), (17, 10, 7), "{ledger:?}");
    assert_eq!(collector.received().unique, 10);
}

#[test]
fn an_exporter_adopts_and_delivers_the_files_of_another_that_has_ended() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    let build = || {
        let builder = ResilientSpanExporter::builder().with_primary(http(&collector));
        App::new(quick(builder).with_state_dir(state.path().join("state")).build().expect("valid"))
    };
    collector.stop();
    let (mut first, mut second) = (build(), build());
    first.trace(30);
    second.trace(40);
    second.shutdown().expect("the spans are in files of the second exporter");
    assert_eq!(second.handle.ledger().in_fallback, 40);
    collector.start_again().expect("the same ports");
    // The first exporter adopts the files of the second one and replays them. Its traffic wakes it: it started alone.
    eventually("adoption", || {
        first.trace(1);
        first.handle.ledger().recovered == 40
    });
    first.wait_until("delivery of everything", |handle| {
        let ledger = handle.ledger();
        ledger.buffered + ledger.in_flight + ledger.in_fallback == 0
    });
    assert_eq!((first.missing(&[&collector]), second.missing(&[&collector])), (0, 0));
    assert_eq!(first.handle.ledger().delivered, first.made() + 40);
}

#[test]
fn a_spill_larger_than_the_limit_is_written_in_parts() {
    let collector = MockCollector::start().expect("loopback");
    let state = tempfile::tempdir().expect("temp dir");
    collector.stop();
    let builder = ResilientSpanExporter::builder().with_primary(http(&collector));
    let exporter = quick(builder)
        .with_state_dir(state.path().join("state"))
        .with_fallback_compression(resilient_exporter::Compression::Never)
        .with_fallback_max_bytes(400_000)
        .build()
        .expect("valid");
    let mut app = App::new(exporter);
    app.trace(4_000);
    app.shutdown().expect("the limit removed the oldest spans");
    let ledger = app.handle.ledger();
    assert!(ledger.in_fallback > 500, "{ledger:?}");
    assert_eq!(ledger.in_fallback + ledger.dropped["fallback_full"], 4_000, "{ledger:?}");
}
