//! Dead letters over HTTP.

use std::io::Write as _;
use std::time::Duration;

use mock_collector::{Answer as Told, Behavior};
use telemetry_manager::opentelemetry::KeyValue;
use telemetry_manager::opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};

use crate::support::{LONG, TOKEN, World};

const ALL: &str = "/telemetry-test/dead-letters";

/// A world with a dead letter of each of these sizes.
fn world(sizes: &[usize]) -> World {
    let world = World::new(&[("TELEMETRY_REFUSED", "dead-letter")]);
    world.collector.set(Behavior::answer(Told::grpc(3).with_message("no such tenant: blue")));
    let mut total = 0;
    for size in sizes {
        total += *size as u64;
        world.trace(*size);
        world.wait_for(|health| health.ledger.dead_lettered == total);
    }
    world
}

#[test]
fn letters_are_listed_read_and_redriven() {
    let world = world(&[3, 20]);
    let list = world.get(ALL).json();
    assert_eq!((&list["total"], list["dead_letters"].as_array().map(Vec::len)), (&2.into(), Some(2)));
    let newest = &list["dead_letters"][0];
    assert_eq!((&newest["spans"], &newest["status"]), (&20.into(), &"gRPC 3".into()));
    assert!(newest["reason"].as_str().is_some_and(|reason| reason.contains("no such tenant: blue")), "{list}");
    let one = world.get(&format!("{ALL}?limit=1")).json();
    assert_eq!((&one["total"], one["dead_letters"].as_array().map(Vec::len)), (&2.into(), Some(1)));

    let path = format!("{ALL}/{}", newest["id"].as_str().expect("an id"));
    let letter = world.with_token("GET", &path).json();
    assert_eq!(&letter["dead_letter"], newest);
    let lines = letter["data"].as_array().expect("lines");
    let spans = lines.iter().map(|line| line["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans"));
    assert_eq!(spans.map(Vec::len).sum::<usize>(), 20);

    world.collector.set(Behavior::accept());
    let answer = world.with_token("POST", &format!("{path}/redrive"));
    assert_eq!((answer.status, &answer.json()["spans"]), (200, &20.into()), "{}", answer.body);
    assert!(world.collector.wait_until(LONG, |received| received.unique == 20), "{:?}", world.collector.received());
    let again = world.with_token("POST", &format!("{path}/redrive"));
    assert_eq!((again.status, again.header("content-type")), (404, "application/problem+json"));
    assert_eq!(world.get("/telemetry-test/health").json()["storage"]["dead_letters"]["spans"], 3);
}

#[test]
fn letters_of_one_cause_are_redriven_together() {
    let world = world(&[3, 4]);
    let none = world.with_token("POST", &format!("{ALL}/redrive?reason=no+such+tenant%3A%20green")).json();
    assert_eq!((&none["letters"], &none["left"]), (&0.into(), &0.into()));
    world.collector.set(Behavior::accept());
    let some =
        world.with_token("POST", &format!("{ALL}/redrive?reason=no+such+tenant%3A%20Blue&status=gRPC%203")).json();
    assert_eq!((&some["letters"], &some["spans"], &some["failed"]), (&2.into(), &7.into(), &serde_json::json!([])));
    assert!(world.collector.wait_until(LONG, |received| received.unique == 7), "{:?}", world.collector.received());
}

/// Each answer is in memory, with the lines of its letter, until its client has read it.
#[test]
fn letters_that_clients_do_not_take_are_bounded() {
    let world = world(&[3]);
    let tracer = world.telemetry.tracer_provider().tracer("test");
    for _ in 0..100 {
        let mut span = tracer.start("large");
        span.set_attribute(KeyValue::new("text", "x".repeat(10_000)));
        span.end();
    }
    let _ = world.telemetry.settled(Duration::ZERO);
    world.wait_for(|health| health.ledger.dead_lettered == 103);
    let list = world.get(ALL).json();
    let path = format!("{ALL}/{}", list["dead_letters"][0]["id"].as_str().expect("an id"));
    assert!(world.with_token("GET", &path).body.len() > 1_000_000);
    // More than the buffers of two sockets take.
    let one = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let silent: Vec<_> = (0..4)
        .map(|_| {
            let mut socket = world.connect();
            socket.write_all(one.repeat(32).as_bytes()).expect("sent");
            socket
        })
        .collect();
    let clock = telemetry_manager::resilient_exporter::SystemClock;
    let now = || telemetry_manager::resilient_exporter::Clock::now(&clock);
    let begin = now();
    // All four places are taken, also long after the last letter was read.
    let mut taken_since = None;
    loop {
        let answer = world.with_token("GET", &path);
        taken_since = (answer.status == 503).then(|| taken_since.unwrap_or_else(now));
        assert!(answer.status == 200 || answer.header("retry-after") == "1");
        if taken_since.is_some_and(|since| now().saturating_duration_since(since) > Duration::from_secs(2)) {
            break;
        }
        assert!(now().saturating_duration_since(begin) < LONG, "a place is always free");
    }
    assert_eq!(world.get(ALL).status, 200, "lists have places of their own");
    drop(silent);
    while world.with_token("GET", &path).status != 200 {
        assert!(now().saturating_duration_since(begin) < LONG, "no place is free again");
    }
}

#[test]
fn bad_requests_are_told_the_field_and_its_range() {
    let world = World::new(&[]);
    for (target, field, accepted) in [
        ("?limit=0", "limit", "1 to 1000"),
        ("?limit=1001", "limit", "1 to 1000"),
        ("?limit=-1", "limit", "1 to 1000"),
        ("?limit=1.5", "limit", "1 to 1000"),
        ("?limit=+5", "limit", "1 to 1000"),
        ("?limit=", "limit", "1 to 1000"),
        ("?limit=99999999999999999999999", "limit", "1 to 1000"),
        ("?limit=5&limit=5", "limit", "one value"),
        ("?limits=5", "limits", "limit"),
        ("?limit=%ff", "limit", "UTF-8"),
    ] {
        let answer = world.get(&format!("{ALL}{target}"));
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/problem+json"), "{target}");
        let problem = answer.json();
        assert_eq!(problem["field"], field, "{target}");
        assert!(problem["accepted"].as_str().expect("text").contains(accepted), "{problem}");
        assert!(problem["detail"].as_str().expect("text").contains(accepted), "{problem}");
    }
    for (method, path, status) in [
        ("GET", "/%ff".to_owned(), 400),
        ("GET", format!("/{}", "x".repeat(256)), 400),
        ("GET", "/..%2f..%2fetc%2fpasswd".to_owned(), 404),
        ("GET", "/x?y=1".to_owned(), 400),
        ("POST", "/redrive?cause=x".to_owned(), 400),
        ("POST", format!("/redrive?reason={}", "x".repeat(1_025)), 400),
        ("DELETE", "/x".to_owned(), 405),
        ("GET", "/redrive".to_owned(), 405),
    ] {
        let answer = world.with_token(method, &format!("{ALL}{path}"));
        assert_eq!((answer.status, answer.header("content-type")), (status, "application/problem+json"), "{path}");
    }
}

#[test]
fn without_an_exporter_there_are_no_letters() {
    let world = World::new(&[("OTEL_SDK_DISABLED", "true")]);
    assert_eq!(world.get(ALL).status, 409);
    assert_eq!(world.with_token("POST", &format!("{ALL}/redrive")).status, 409);
    // In memory alone none is kept.
    let world = World::new(&[("TELEMETRY_FALLBACK_ENABLED", "false")]);
    let answer = world.get(ALL);
    assert_eq!((answer.status, answer.header("content-type")), (503, "application/problem+json"));
}
