//! Server-sent events.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use crate::support::World;

/// A listener that reads one event after the other.
struct Listener {
    lines: BufReader<TcpStream>,
    status: String,
    /// The last line that is not empty.
    last: String,
}

impl Listener {
    fn new(world: &World) -> Self {
        let mut socket = world.connect();
        write!(socket, "GET /telemetry-test/events HTTP/1.1\r\nHost: {}\r\n\r\n", world.address).expect("sent");
        let mut listener = Self { lines: BufReader::new(socket), status: String::new(), last: String::new() };
        listener.status = listener.line().expect("an answer");
        let mut is_stream = false;
        while let Some(line) = listener.line().filter(|line| !line.is_empty()) {
            is_stream |= line.eq_ignore_ascii_case("content-type: text/event-stream");
        }
        assert_eq!(is_stream, listener.status.contains("200"));
        listener
    }

    /// None at the end of the connection.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).expect("the server answers in time");
        let line = line.trim_end();
        if !line.is_empty() {
            line.clone_into(&mut self.last);
        }
        (read > 0).then(|| line.to_owned())
    }

    /// The next event: its name and its data. Lines between them are the sizes of chunks.
    fn next(&mut self) -> Option<(String, serde_json::Value)> {
        let mut name = String::new();
        loop {
            let line = self.line()?;
            if let Some(event) = line.strip_prefix("event: ") {
                name = event.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).expect("JSON")));
            }
        }
    }
}

#[test]
fn a_listener_gets_a_snapshot_at_once_and_each_change() {
    let world = World::new(&[("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "1")]);
    let mut listener = Listener::new(&world);
    let (name, snapshot) = listener.next().expect("a snapshot");
    assert_eq!(
        (name.as_str(), &snapshot["status"], &snapshot["breaker"]),
        ("snapshot", &"healthy".into(), &"closed".into())
    );
    assert!(snapshot["total_exports"].is_u64() && snapshot["ledger"]["offered"].is_u64(), "{snapshot}");

    world.collector.stop();
    world.trace(3);
    let mut opened = None;
    while opened.is_none() {
        let (name, data) = listener.next().expect("the stream goes on");
        opened = (name == "event" && data["type"] == "breaker").then_some(data);
    }
    let expected = serde_json::json!({"type": "breaker", "endpoint": "primary", "from": "closed", "to": "open"});
    assert_eq!(opened, Some(expected));
    // The next snapshot shows it.
    let shown = std::iter::from_fn(|| listener.next()).find(|(name, _)| name == "snapshot").expect("a snapshot").1;
    assert_eq!((&shown["breaker"], &shown["circuit_breaker_trips"]), (&"open".into(), &1.into()));
}

#[test]
fn listeners_are_bounded_and_a_place_is_free_again() {
    let world = World::new(&[]);
    let mut listeners: Vec<_> = (0..16).map(|_| Listener::new(&world)).collect();
    assert!(listeners.iter().all(|listener| listener.status.contains("200")));
    let refused = world.get("/telemetry-test/events");
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert!(refused.body.contains("16 listeners"), "{}", refused.body);
    listeners.pop();
    // The server sees the end of the connection with the next event.
    let mut taken = Listener::new(&world);
    while !taken.status.contains("200") {
        listeners[0].next().expect("time passes");
        taken = Listener::new(&world);
    }
    assert!(taken.next().is_some());
}

#[test]
fn streams_end_with_the_server() {
    let mut world = World::new(&[]);
    let mut listener = Listener::new(&world);
    assert!(listener.next().is_some());
    world.stop().expect("the server ends well");
    while listener.next().is_some() {}
    assert_eq!(listener.last, "0", "the last chunk: the answer was not cut off");
}

#[test]
fn without_an_exporter_there_are_snapshots_alone() {
    let world = World::new(&[("OTEL_SDK_DISABLED", "true")]);
    let mut listener = Listener::new(&world);
    let (name, snapshot) = listener.next().expect("a snapshot");
    assert_eq!((name.as_str(), &snapshot["breaker"]), ("snapshot", &serde_json::Value::Null));
    assert_eq!(world.get("/telemetry-test/events?since=1").status, 400);
}
