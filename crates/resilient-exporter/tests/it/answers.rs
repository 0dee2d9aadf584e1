//! Every answer of a collector over real sockets, to a batch in memory and to a batch in a file: the batch is delivered
//! once the collector takes it, the ledger is balanced, possible duplicates are an upper bound, and health names the
//! answer while it lasts.

use std::path::Path;
use std::time::Duration;

use mock_collector::{Answer, Behavior, End, MockCollector};
use otlp_transport::Transport;
use resilient_exporter::{Builder, Health, ResilientSpanExporter, Status};

use crate::support::{App, grpc, http, quick};

const SPANS: u64 = 3;

/// The consequence of an answer.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Expected {
    /// Delivered by this one answer; so many of the spans were rejected.
    Delivered { rejected: u64 },
    /// Delivered by this one answer, and health is degraded.
    Unreadable,
    /// Sent again. `hint`: by the peer's word, hence no failure.
    Retried { hint: bool, maybe_taken: bool },
    /// Sent again in parts.
    TooLarge { maybe_taken: bool },
    /// Sent again, as every batch is while the endpoint refuses.
    Refused { maybe_taken: bool },
}

use Expected::{Delivered, Refused, Retried, TooLarge, Unreadable};

/// One answer: a name, which health contains unless the answer delivers.
type Row = (&'static str, Behavior, Expected);

const TAKEN: Expected = Delivered { rejected: 0 };
const NO: bool = false;
const YES: bool = true;

fn status(status: u16) -> Answer {
    Answer::http(status)
}

fn with(status: u16, content_type: &str, body: &str) -> Behavior {
    Behavior::answer(Answer::http(status).with_body(content_type, body))
}

fn raw(bytes: &str) -> Behavior {
    Behavior::end(End::Raw(bytes.as_bytes().to_vec()))
}

/// The rows of HTTP. A row whose spans may be taken takes them.
fn over_http() -> Vec<Row> {
    let json = "application/json";
    let second = Duration::from_secs(1);
    let mut rows = vec![
        ("protobuf", Behavior::accept(), TAKEN),
        ("partial success", Behavior::reject(2, "too old"), Delivered { rejected: 2 }),
        ("a message without rejected spans", Behavior::reject(0, "deprecated"), TAKEN),
        ("more rejected than sent", Behavior::reject(9, "too old"), Delivered { rejected: SPANS }),
        ("202 without a body", with(202, "text/plain", ""), TAKEN),
        ("204", raw("HTTP/1.1 204 No Content\r\n\r\n"), TAKEN),
        ("an empty object", with(200, json, "{}"), TAKEN),
        ("an empty object as text", with(200, "text/plain", " { } "), TAKEN),
        ("JSON in camel case", with(200, json, r#"{"partialSuccess":{}}"#), TAKEN),
        ("JSON in snake case", with(200, json, r#"{"partial_success":{"rejected_spans":0}}"#), TAKEN),
        (
            "JSON with rejected spans",
            with(200, json, r#"{"partialSuccess":{"rejectedSpans":"2"}}"#),
            Delivered { rejected: 2 },
        ),
        (r#"200, text/plain "accepted""#, with(200, "text/plain", "accepted"), Unreadable),
        ("200, no content type \"OK\"", raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK"), Unreadable),
        ("application/json", with(202, json, r#"{"status":"ok"}"#), Unreadable),
        ("application/x-protobuf", with(200, "application/x-protobuf", "no message"), Unreadable),
        (r#"{\"part"#, raw("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"part"), Unreadable),
        ("before message completed", raw("HTTP/1.1 200 OK\r\ncontent-le"), Unreadable),
        ("chunk", raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), Unreadable),
        ("gzip", raw("HTTP/1.1 200 OK\r\ncontent-encoding: GZIP\r\ncontent-length: 2\r\n\r\n{}"), Unreadable),
        ("text/html", with(200, "text/html", "<html>"), Refused { maybe_taken: YES }),
        ("<!DOCTYPE", with(202, "text/plain", "<!DOCTYPE html>"), Refused { maybe_taken: YES }),
        ("429", Behavior::answer(status(429)), Retried { hint: NO, maybe_taken: NO }),
        ("429", Behavior::answer(status(429).with_retry_after(second)), Retried { hint: YES, maybe_taken: NO }),
        ("503", Behavior::answer(status(503).with_retry_after(second)), Retried { hint: YES, maybe_taken: YES }),
        ("413", Behavior::answer(status(413)), TooLarge { maybe_taken: NO }),
        ("body too large", with(400, "text/plain", "http: request body too large"), TooLarge { maybe_taken: YES }),
        ("exceeds", with(500, "text/plain", "Request payload size exceeds the limit"), TooLarge { maybe_taken: YES }),
        ("body is too large", with(403, "text/plain", "Request body is too large"), TooLarge { maybe_taken: NO }),
        ("bytes/s", with(500, "text/plain", "rate limit (4194304 bytes/s) exceeded"), Refused { maybe_taken: YES }),
        ("closed", Behavior::end(End::Fin), Retried { hint: NO, maybe_taken: YES }),
        ("ended without an answer", Behavior::end(End::Rst), Retried { hint: NO, maybe_taken: YES }),
    ];
    let same = |codes: &[u16], expected| codes.iter().map(move |code| (*code, expected)).collect::<Vec<_>>();
    let plain = [
        same(&[502, 503, 504], Retried { hint: NO, maybe_taken: YES }),
        same(&[401, 403, 404, 405, 407], Refused { maybe_taken: NO }),
        same(&[301, 302, 307, 308, 402, 410, 415, 421, 426, 431, 464], Refused { maybe_taken: YES }),
        same(&[408, 500, 501, 505, 418, 599], Refused { maybe_taken: YES }),
        same(&[400, 422], Refused { maybe_taken: YES }),
    ];
    rows.extend(plain.concat().into_iter().map(|(code, expected)| {
        let name: &'static str = Box::leak(format!("HTTP status {code}").into_boxed_str());
        (name, Behavior::answer(status(code)), expected)
    }));
    rows
}

/// The rows of gRPC.
fn over_grpc() -> Vec<Row> {
    let code = |code| Answer::grpc(code);
    let message = |code, text: &str| Behavior::answer(Answer::grpc(code).with_message(text));
    let soon = Duration::from_millis(50);
    let mut rows = vec![
        ("protobuf", Behavior::accept(), TAKEN),
        ("partial success", Behavior::reject(2, "too old"), Delivered { rejected: 2 }),
        ("more rejected than sent", Behavior::reject(9, "too old"), Delivered { rejected: SPANS }),
        ("gRPC status 0", Behavior::answer(code(0).with_body("", "<html>")), Unreadable),
        ("gRPC status 14", Behavior::answer(code(14).with_retry_after(soon)), Retried { hint: YES, maybe_taken: YES }),
        ("gRPC status 8", Behavior::answer(code(8).with_retry_after(soon)), Retried { hint: YES, maybe_taken: NO }),
        ("rate limit", message(8, "rate limit (4194304 bytes/s) exceeded"), Retried { hint: NO, maybe_taken: YES }),
        ("larger", message(8, "grpc: received message larger than max (2 vs. 1)"), TooLarge { maybe_taken: YES }),
        ("too large", message(11, "Error, decoded message length too large"), TooLarge { maybe_taken: YES }),
        ("too large", message(7, "Request body is too large"), TooLarge { maybe_taken: NO }),
        ("HTTP status 200", Behavior::answer(status(200)), Refused { maybe_taken: YES }),
        ("HTTP status 503", Behavior::answer(status(503)), Retried { hint: NO, maybe_taken: YES }),
        ("HTTP status 401", Behavior::answer(status(401)), Refused { maybe_taken: NO }),
        ("without an answer", Behavior::end(End::GoAwayUnprocessed(0)), Retried { hint: NO, maybe_taken: NO }),
        ("without an answer", Behavior::end(End::GoAway(0)), Retried { hint: NO, maybe_taken: YES }),
        ("refused stream", Behavior::end(End::Stream(7)), Retried { hint: NO, maybe_taken: NO }),
        ("without an answer", Behavior::end(End::Stream(2)), Retried { hint: NO, maybe_taken: YES }),
        ("without an answer", Behavior::end(End::Rst), Retried { hint: NO, maybe_taken: YES }),
    ];
    let same = |codes: &[i32], expected| codes.iter().map(move |code| (*code, expected)).collect::<Vec<_>>();
    let plain = [
        same(&[1, 4, 8, 10, 11, 14, 15], Retried { hint: NO, maybe_taken: YES }),
        same(&[3, 6], Refused { maybe_taken: YES }),
        same(&[5, 7, 12, 16], Refused { maybe_taken: NO }),
        same(&[2, 9, 13, 99], Refused { maybe_taken: YES }),
    ];
    rows.extend(plain.concat().into_iter().map(|(number, expected)| {
        let name: &'static str = Box::leak(format!("gRPC status {number}").into_boxed_str());
        (name, Behavior::answer(code(number)), expected)
    }));
    rows
}

type Connect = fn(&MockCollector) -> Box<dyn Transport>;

/// An exporter that sends at once what waits for a file, and no batch of memory to a file by its retries.
fn exporter(collector: &MockCollector, connect: Connect) -> Builder {
    quick(ResilientSpanExporter::builder().with_primary(connect(collector))).with_retry_max_retries(1_000)
}

/// Plays a row: `app` has a batch of three spans that the collector has not seen. `stored` tells that it is in a file.
fn play(row: Row, app: &App, collector: &MockCollector, is_stored: bool) {
    let (name, _, expected) = row;
    let place = format!("{name:?}, {expected:?}, {}", if is_stored { "stored" } else { "live" });
    let handle = &app.handle;
    let health = match expected {
        Delivered { .. } | Unreadable => {
            app.wait_until(&place, |handle| {
                let ledger = handle.ledger();
                ledger.delivered + ledger.rejected == SPANS
            });
            assert_eq!(collector.received().requests, 1, "{place}: one request");
            handle.health()
        }
        _ => {
            app.wait_until(&place, |handle| handle.health().metrics.failed_exports > 0);
            let health = handle.health();
            assert_eq!(health.status, Status::Degraded, "{place}: {health:#?}");
            assert!(health.issues.iter().any(|issue| issue.contains(name)), "{place}: {:#?}", health.issues);
            let text = health.to_string();
            let (first, issues) = text.split_once("\n- ").expect("an issue");
            assert_eq!(first, format!("degraded: spans go to {}", health.endpoint), "{place}");
            assert_eq!(issues.split("\n- ").collect::<Vec<_>>(), health.issues, "{place}");
            collector.set(Behavior::accept());
            app.wait_until(&place, |handle| {
                handle.retry_now();
                handle.ledger().delivered == SPANS
            });
            health
        }
    };
    assert_consequence(&place, expected, &health, &handle.health(), is_stored);
    let (last, received) = (handle.health(), collector.received());
    let ledger = &last.ledger;
    assert_eq!((ledger.imbalance(), ledger.lost(), ledger.dead_lettered), (0, 0, 0), "{place}: {ledger:?}");
    let rejected = if let Delivered { rejected } = expected { rejected } else { 0 };
    assert_eq!((ledger.delivered, ledger.rejected), (SPANS - rejected, rejected), "{place}: {ledger:?}");
    assert!(received.duplicates <= last.possible_duplicates, "{place}: {received:?}, {}", last.possible_duplicates);
    assert!(rejected > 0 || received.unique == SPANS, "{place}: {received:?}");
}

/// `first` is the health after the first answer, `last` the one after the delivery.
fn assert_consequence(place: &str, expected: Expected, first: &Health, last: &Health, is_stored: bool) {
    let failed = last.metrics.failed_exports;
    let has = |health: &Health, text: &str| health.issues.iter().any(|issue| issue.contains(text));
    let bound = |maybe_taken: bool| if maybe_taken { failed * SPANS } else { 0 };
    match expected {
        Delivered { rejected } => {
            assert_eq!((failed, last.possible_duplicates, last.acknowledged_unreadable), (0, 0, 0), "{place}");
            let status = if rejected == 0 { Status::Healthy } else { Status::Degraded };
            assert_eq!(last.status, status, "{place}: {:#?}", last.issues);
        }
        Unreadable => {
            assert_eq!((failed, last.possible_duplicates, last.acknowledged_unreadable), (0, 0, SPANS), "{place}");
            assert_eq!(last.status, Status::Degraded, "{place}");
            assert!(has(last, "by an answer that no OTLP server gives"), "{place}: {:#?}", last.issues);
        }
        Retried { hint, maybe_taken } => {
            assert_eq!(last.possible_duplicates, bound(maybe_taken), "{place}: {failed} failed calls");
            assert!(!has(first, "refused: "), "{place}: {:#?}", first.issues);
            assert!(!hint || last.metrics.circuit_breaker_trips == 0, "{place}: a throttle is no failure");
        }
        TooLarge { maybe_taken } => {
            // Parts of the batch may have gone out before the collector took all.
            let bound = if maybe_taken { SPANS..=failed * SPANS } else { 0..=0 };
            assert!(bound.contains(&last.possible_duplicates), "{place}: {}", last.possible_duplicates);
            assert_eq!(last.metrics.circuit_breaker_trips, 0, "{place}: neutral for the breaker");
            let calls = last.metrics.successful_exports;
            assert!(is_stored || calls > 1, "{place}: {calls} calls for the parts");
        }
        Refused { maybe_taken } => {
            assert_eq!(last.possible_duplicates, bound(maybe_taken), "{place}: {failed} refused calls");
            assert!(has(first, "refused: "), "{place}: {:#?}", first.issues);
            assert!(!has(last, "refused: "), "{place}: {:#?}", last.issues);
        }
    }
}

/// The row's spans are taken wherever the answer does not prove the contrary: the worst case.
fn worst((name, behavior, expected): Row) -> Row {
    let is_taken = match expected {
        Delivered { .. } | Unreadable => true,
        Retried { maybe_taken, .. } | TooLarge { maybe_taken } | Refused { maybe_taken } => maybe_taken,
    };
    (name, if is_taken { behavior.storing() } else { behavior }, expected)
}

fn play_live(rows: Vec<Row>, connect: Connect) {
    for row in rows {
        let row = worst(row);
        let collector = MockCollector::start().expect("loopback");
        collector.set(row.1.clone());
        let builder = exporter(&collector, connect).with_fallback_enabled(false);
        let mut app = App::new(builder.build().expect("valid"));
        app.trace(SPANS as usize);
        play(row, &app, &collector, false);
    }
}

fn play_stored(rows: Vec<Row>, connect: Connect) {
    for row in rows {
        let row = worst(row);
        let state = tempfile::tempdir().expect("temp dir");
        let collector = MockCollector::start().expect("loopback");
        let app = stored(&collector, connect, &state.path().join("state"), &row.1);
        play(row, &app, &collector, true);
        app.wait_until("no file is left", |handle| handle.health().fallback_files == 0);
    }
}

/// An exporter that finds three spans in a file and meets this behavior.
fn stored(collector: &MockCollector, connect: Connect, state: &Path, behavior: &Behavior) -> App {
    collector.stop();
    let mut first = App::new(exporter(collector, connect).with_state_dir(state).build().expect("valid"));
    first.trace(SPANS as usize);
    first.shutdown().expect("the spans are in a file");
    collector.set(behavior.clone());
    collector.start_again().expect("the same ports");
    let app = App::new(exporter(collector, connect).with_state_dir(state).build().expect("valid"));
    assert_eq!(app.handle.ledger().recovered, SPANS);
    app
}

#[test]
fn every_answer_over_http_to_a_live_batch() {
    play_live(over_http(), http);
}

#[test]
fn every_answer_over_grpc_to_a_live_batch() {
    play_live(over_grpc(), grpc);
}

#[test]
fn every_answer_over_http_to_a_stored_batch() {
    play_stored(over_http(), http);
}

#[test]
fn every_answer_over_grpc_to_a_stored_batch() {
    play_stored(over_grpc(), grpc);
}
