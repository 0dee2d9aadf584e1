//! The records of outages, of a real collector that stops and comes back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mock_collector::MockCollector;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use resilient_exporter::{Builder, Clock as _, Event, OutageRecord, ResilientSpanExporter, SystemClock};

use crate::support::{App, copy, grpc, quick};

#[test]
fn an_outage_is_recorded_while_it_lasts_and_afterwards() {
    let collector = MockCollector::start().expect("loopback");
    let builder = quick(ResilientSpanExporter::builder().with_primary(grpc(&collector)).with_fallback_enabled(false));
    let mut app = App::new(builder.build().expect("valid"));
    app.trace(10);
    app.assert_delivered(&collector);
    assert_eq!(app.handle.outages(), []);
    let begin = SystemClock.wall();
    collector.stop();
    app.trace(50);
    app.wait_until("the breaker opens", |handle| handle.health().metrics.circuit_breaker_trips > 0);
    app.wait_until("an outage", |handle| handle.outages().len() == 1);
    let lasting = app.handle.outages().remove(0);
    assert_eq!((lasting.to, lasting.waited), (None, 50), "{lasting:?}");
    assert!(!lasting.cause.is_empty() && !lasting.remedy.is_empty() && lasting.endpoint.contains("127.0.0.1"));
    let from = lasting.from.expect("known");
    assert!(from + Duration::from_secs(1) > begin && from <= SystemClock.wall(), "{from:?}");
    collector.start_again().expect("the same ports");
    app.assert_delivered(&collector);
    app.trace(10);
    app.assert_delivered(&collector);
    app.wait_until("two successes end it", |handle| handle.outages()[0].to.is_some());
    let [over] = &app.handle.outages()[..] else { panic!("one outage") };
    assert!(over.to > over.from && over.waited == 50 && over.lost.is_empty(), "{over:?}");
    assert_eq!((&over.cause, over.from, over.interrupted), (&lasting.cause, lasting.from, false));
    let duration = over.to.expect("over").duration_since(from).expect("later");
    assert!(over.lateness >= Some(duration), "the spans ended before {from:?}, and were delivered after: {over:?}");
    assert!(over.peak_memory_bytes > 50 * 20 && over.peak_disk_bytes == 0, "{over:?}");
}

fn builder(collector: &MockCollector, state: &Path) -> Builder {
    quick(ResilientSpanExporter::builder().with_primary(grpc(collector))).with_state_dir(state)
}

fn start(collector: &MockCollector, state: &Path) -> App {
    App::new(builder(collector, state).build().expect("valid"))
}

/// Stops the collector, and returns once the outage has begun and the disk has its record.
fn begin_outage(app: &mut App, collector: &MockCollector, state: &Path) {
    let before = app.handle.outages().len();
    collector.stop();
    app.trace(20);
    app.wait_until("an outage", |handle| handle.outages().len() > before);
    app.wait_until("a file has its record", |_| texts(state).concat().matches("\"from\"").count() > before);
}

/// Starts the collector again, and returns once the outage has ended and nothing waits.
fn end_outage(app: &mut App, collector: &MockCollector) {
    collector.start_again().expect("the same ports");
    app.assert_delivered(collector);
    app.trace(5);
    app.assert_delivered(collector);
    app.trace(5);
    app.assert_delivered(collector);
    app.wait_until("the outage is over", |handle| handle.outages().last().is_some_and(|last| last.to.is_some()));
}

/// The texts of the files with records; a temporary file is none of them.
fn texts(state: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(state.join("outages")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("readable").path());
    let is_record = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        !name.starts_with('.') && name.ends_with(".json")
    };
    paths.filter(is_record).filter_map(|path| fs::read_to_string(path).ok()).collect()
}

/// A record as JSON has it, in whole milliseconds.
fn shown(record: &OutageRecord) -> serde_json::Value {
    serde_json::to_value(record).expect("serializes")
}

#[test]
fn a_restart_keeps_the_records_of_outages() {
    let collector = MockCollector::start().expect("loopback");
    let scratch = tempfile::tempdir().expect("temp dir");
    let state = scratch.path().join("state");
    let mut app = start(&collector, &state);
    let events = app.handle.subscribe();
    begin_outage(&mut app, &collector, &state);
    app.handle.flush(crate::support::PATIENCE).expect("a file has the spans");
    end_outage(&mut app, &collector);
    let [record] = &app.handle.outages()[..] else { panic!("one outage") };
    assert!(record.peak_disk_bytes > 0 && record.lateness.is_some(), "{record:?}");
    let ended = events.try_iter().find_map(|event| match event {
        Event::OutageEnded { from, to, cause, peak_disk_bytes, .. } => Some((from, to, cause, peak_disk_bytes)),
        _ => None,
    });
    assert_eq!(ended, Some((record.from, record.to, record.cause.clone(), record.peak_disk_bytes)));
    app.shutdown().expect("nothing waits");
    for (path, mode) in [(state.join("outages"), 0o700), (file(&state), 0o600)] {
        assert_eq!(fs::metadata(&path).expect("kept").permissions().mode() & 0o777, mode, "{path:?}");
    }
    let next = start(&collector, &state);
    let kept = next.handle.outages();
    assert_eq!(kept.iter().map(shown).collect::<Vec<_>>(), [shown(record)]);
}

/// The only file with records.
fn file(state: &Path) -> PathBuf {
    let entries = fs::read_dir(state.join("outages")).expect("kept").map(|entry| entry.expect("readable").path());
    let [path] = &entries.collect::<Vec<_>>()[..] else { panic!("not one file") };
    path.clone()
}

#[test]
fn an_outage_in_which_the_process_is_killed_is_interrupted_and_its_end_is_another_one() {
    let collector = MockCollector::start().expect("loopback");
    let scratch = tempfile::tempdir().expect("temp dir");
    let (state, killed) = (scratch.path().join("state"), scratch.path().join("killed"));
    let mut app = start(&collector, &state);
    begin_outage(&mut app, &collector, &state);
    copy(&state, &killed);
    let mut next = start(&collector, &killed);
    let [record] = &next.handle.outages()[..] else { panic!("one outage") };
    assert!(record.interrupted && record.to.is_none() && record.from.is_some(), "{record:?}");
    assert_eq!(record.cause, app.handle.outages()[0].cause);
    begin_outage(&mut next, &collector, &killed);
    end_outage(&mut next, &collector);
    let [first, second] = &next.handle.outages()[..] else { panic!("two outages") };
    assert!(first == record && !second.interrupted && second.to.is_some(), "{second:?}");
}

#[test]
fn the_records_of_two_processes_at_once_are_both_kept() {
    let collector = MockCollector::start().expect("loopback");
    let scratch = tempfile::tempdir().expect("temp dir");
    let state = scratch.path().join("state");
    let (mut first, mut second) = (start(&collector, &state), start(&collector, &state));
    begin_outage(&mut first, &collector, &state);
    second.trace(20);
    second.wait_until("an outage", |handle| handle.outages().len() == 1);
    assert_eq!(first.handle.outages().len(), 1, "those of a live process are its own");
    end_outage(&mut first, &collector);
    second.assert_delivered(&collector);
    let own = [&first, &second].map(|app| app.handle.outages()[0].from);
    first.shutdown().expect("nothing waits");
    second.shutdown().expect("nothing waits");
    let mut kept: Vec<Option<SystemTime>> = Vec::new();
    let next = start(&collector, &state);
    kept.extend(next.handle.outages().iter().map(|record| record.from));
    let millis = |time: Option<SystemTime>| {
        time.expect("known").duration_since(SystemTime::UNIX_EPOCH).expect("later").as_millis()
    };
    let mut own = own.map(millis);
    own.sort_unstable();
    assert_eq!(kept.into_iter().map(millis).collect::<Vec<_>>(), own);
}

#[test]
fn a_damaged_file_of_records_is_one_warning_and_no_error() {
    let collector = MockCollector::start().expect("loopback");
    let scratch = tempfile::tempdir().expect("temp dir");
    let state = scratch.path().join("state");
    drop(start(&collector, &state));
    fs::create_dir(state.join("outages")).expect("new");
    fs::write(state.join("outages/00000000000000aa.json"), "{\"version\":1,").expect("room");
    let exporter = builder(&collector, &state).build().expect("no error");
    let [warning] = exporter.start_warnings() else { panic!("{:?}", exporter.start_warnings()) };
    assert!(warning.contains("00000000000000aa.json is damaged") && warning.contains("unreadable"), "{warning}");
    let mut app = App::new(exporter);
    begin_outage(&mut app, &collector, &state);
    end_outage(&mut app, &collector);
    app.shutdown().expect("nothing waits");
    let exporter = builder(&collector, &state).build().expect("no error");
    assert_eq!((exporter.start_warnings().len(), exporter.handle().outages().len()), (0, 1));
}

/// The spans of outages that the collector has, each with the text of its resource.
fn outage_spans(collector: &MockCollector) -> Vec<(String, Span)> {
    let mut spans = Vec::new();
    for request in collector.requests() {
        let request = ExportTraceServiceRequest::decode(request.body).expect("a request of traces");
        for of_resource in request.resource_spans {
            let resource = format!("{:?}", of_resource.resource);
            let all = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(all.filter(|span| span.name == "holdfast.outage").map(|span| (resource.clone(), span)));
        }
    }
    spans
}

#[test]
fn an_outage_makes_one_span_with_the_resource_of_the_others_if_the_setting_says_so() {
    for (is_on, is_durable) in [(false, false), (true, false), (true, true)] {
        let collector = MockCollector::builder().with_kept_requests(1_000).start().expect("loopback");
        let scratch = tempfile::tempdir().expect("temp dir");
        let state = scratch.path().join("state");
        let builder = builder(&collector, &state).with_outage_span(is_on).with_journal_enabled(is_durable);
        let builder = builder.processor(|batches| batches.scheduled_delay = Duration::from_millis(10));
        let mut app = App::of(builder.build_processor().expect("valid"));
        begin_outage(&mut app, &collector, &state);
        collector.start_again().expect("the same ports");
        for _ in 0..3 {
            app.trace(5);
            app.handle.flush(crate::support::PATIENCE).expect("answered, or safe");
        }
        app.wait_until("the outage is over", |handle| handle.outages().last().is_some_and(|last| last.to.is_some()));
        let own = u64::from(is_on);
        let offered = app.made() + own;
        // The net thread offers the span once the record is there.
        app.wait_until("each span is offered", |handle| handle.ledger().offered == offered);
        app.handle.settled(crate::support::PATIENCE).expect("delivered");
        let ledger = app.handle.ledger();
        assert_eq!((ledger.offered, ledger.delivered, ledger.imbalance()), (offered, offered, 0));
        assert_eq!(app.missing(&[&collector]), 0);
        let spans = outage_spans(&collector);
        assert_eq!(spans.len() as u64, own, "{spans:?}");
        let record = app.handle.outages().remove(0);
        for (resource, span) in spans {
            assert!(resource.contains("telemetry.sdk.name"), "{resource}");
            let nanos = |time: Option<SystemTime>| {
                let since = time.expect("known").duration_since(SystemTime::UNIX_EPOCH).expect("later");
                u64::try_from(since.as_nanos()).expect("this century")
            };
            assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (nanos(record.from), nanos(record.to)));
            let attributes = format!("{:?}", span.attributes);
            assert!(attributes.contains("server.address") && attributes.contains("127.0.0.1"), "{attributes}");
            assert!(attributes.contains("holdfast.outage.cause") && attributes.contains(&record.cause), "{attributes}");
        }
        assert_eq!(app.handle.outages().len(), 1, "the span begins no outage");
        app.shutdown().expect("nothing waits");
    }
}
