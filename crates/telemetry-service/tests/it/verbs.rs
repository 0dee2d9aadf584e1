//! Checkpoint and drain over HTTP.

use std::io::{Read as _, Write as _};

use mock_collector::Behavior;

use crate::support::{Answer, TOKEN, World};

const CHECKPOINT: &str = "/telemetry-test/checkpoint";
const DRAIN: &str = "/telemetry-test/drain";

fn request(world: &World, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: \
         application/json\r\nContent-Length: {length}\r\n\r\n{body}",
        world.address
    )
}

fn post(world: &World, path: &str, body: &str) -> Answer {
    world.send(request(world, path, body).as_bytes())
}

#[test]
fn a_checkpoint_has_spans_delivered_or_stored_and_a_drain_sends_the_stored_ones() {
    let world = World::new(&[("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "3600"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")]);
    world.trace(3);
    let delivered = world.with_token("POST", CHECKPOINT);
    assert_eq!(delivered.status, 200, "{}", delivered.body);
    assert_eq!(world.collector.received().unique, 3);
    let numbers = delivered.json();
    assert_eq!((&numbers["stored"], &numbers["in_memory"]), (&0.into(), &0.into()), "{numbers}");

    world.collector.set(Behavior::never_answer());
    // These are in the SDK's queue: the checkpoint takes them along.
    world.trace(20);
    let stored = post(&world, CHECKPOINT, r#"{"timeout_seconds": 2}"#);
    assert_eq!((stored.status, &stored.json()["stored"]), (200, &20.into()), "{}", stored.body);

    let left = post(&world, DRAIN, r#"{"timeout_seconds": 1}"#);
    assert_eq!((left.status, left.header("content-type")), (503, "application/problem+json"));
    assert!(left.body.contains("20 in fallback files"), "{}", left.body);

    world.collector.set(Behavior::accept());
    let drained = world.with_token("POST", DRAIN);
    let numbers = drained.json();
    assert_eq!((drained.status, &numbers["stored"], &numbers["in_memory"]), (200, &0.into(), &0.into()), "{numbers}");
    assert_eq!(world.collector.received().unique, 23);
}

#[test]
fn both_need_the_token_and_a_time_within_the_range() {
    let world = World::new(&[]);
    for path in [CHECKPOINT, DRAIN] {
        let refused = world.request("POST", path, "Content-Length: 0\r\n");
        assert_eq!(refused.status, 401, "{path}: {}", refused.body);
        for body in [
            r#"{"timeout_seconds": 0}"#,
            r#"{"timeout_seconds": 3601}"#,
            r#"{"timeout_seconds": 1.5}"#,
            r#"{"timeout_seconds": "5"}"#,
            r#"{"timeout": 5}"#,
            "[]",
        ] {
            let refused = post(&world, path, body);
            assert_eq!((refused.status, refused.header("content-type")), (400, "application/problem+json"), "{body}");
        }
        assert_eq!(world.with_token("POST", &format!("{path}?timeout_seconds=5")).status, 400);
        assert_eq!(world.with_token("GET", path).status, 405);
    }
    let off = World::new(&[("OTEL_TRACES_EXPORTER", "none")]);
    assert_eq!(post(&off, CHECKPOINT, "").status, 409);
}

#[test]
fn four_wait_at_a_time() {
    let world = World::new(&[]);
    world.collector.set(Behavior::never_answer());
    world.trace(20);
    let mut waits = (0..6).map(|_| (world.connect(), String::new())).collect::<Vec<_>>();
    for (socket, _) in &mut waits {
        socket.write_all(request(&world, DRAIN, r#"{"timeout_seconds": 2}"#).as_bytes()).expect("sent");
    }
    for (socket, answer) in &mut waits {
        socket.read_to_string(answer).expect("an answer in UTF-8");
    }
    let answers = waits.iter().map(|(_, answer)| Answer::parse(answer)).collect::<Vec<_>>();
    assert!(answers.iter().all(|answer| answer.status == 503));
    let busy = answers.iter().filter(|answer| answer.header("retry-after") == "1").count();
    assert_eq!(busy, 2, "those without a place get a time to ask again");
}

/// The thread that waits goes on without its client.
#[test]
fn a_wait_whose_client_has_gone_keeps_its_place() {
    let world = World::new(&[]);
    world.collector.set(Behavior::never_answer());
    world.trace(20);
    let is_busy = || post(&world, DRAIN, r#"{"timeout_seconds": 1}"#).header("retry-after") == "1";
    let waits = (0..4).map(|_| {
        let mut socket = world.connect();
        socket.write_all(request(&world, DRAIN, r#"{"timeout_seconds": 30}"#).as_bytes()).expect("sent");
        socket
    });
    let waits = waits.collect::<Vec<_>>();
    while !is_busy() {}
    drop(waits);
    assert!((0..200).all(|_| is_busy()), "a fifth thread waits");
}
