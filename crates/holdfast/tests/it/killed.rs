//! A command that is killed in the middle of a resilience test.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use mock_collector::MockCollector;
use resilient_exporter::{Clock as _, SystemClock};
use rustix::process::Signal;
use serde_json::Value;

use crate::serve::{LONG, Server, directory, holdfast};

/// The status and the body of the answer to a request with JSON.
pub(crate) fn post(address: SocketAddr, path: &str, body: &str) -> (u16, String) {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    answer(address, format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).as_bytes())
}

/// The status and the body of the answer to these bytes; status 0 without one.
pub(crate) fn answer(address: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut socket = TcpStream::connect(address).expect("connected");
    socket.set_read_timeout(Some(LONG)).expect("a time-out");
    // The server may answer before it has read all.
    let _ = socket.write_all(request);
    read(&mut socket)
}

/// The same for a request that is sent already.
pub(crate) fn read(socket: &mut TcpStream) -> (u16, String) {
    let (mut bytes, mut part) = (Vec::new(), [0; 4_096]);
    while let Ok(read @ 1..) = socket.read(&mut part) {
        bytes.extend_from_slice(&part[..read]);
    }
    let text = String::from_utf8(bytes).expect("text");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn scratch(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.to_string_lossy().contains("holdfast-test-")).collect()
}

#[test]
fn the_next_test_removes_the_directory_of_a_killed_process_and_none_of_a_living_one() {
    const START: &str = "/telemetry-test/test/start";
    let (dir, collector) = (directory(), MockCollector::start().expect("a collector on loopback"));
    let temporary = dir.path().join("tmp");
    std::fs::create_dir(&temporary).expect("a directory");
    let start = || {
        let mut command = holdfast(&dir);
        command.args(["serve", "--listen", "127.0.0.1:0"]).env("TMPDIR", &temporary);
        Server::start(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.grpc_endpoint()))
    };
    let hour = r#"{"test_type": "collector_outage", "duration_seconds": 3600, "span_rate": 100}"#;
    let (killed, alive) = (start(), start());
    assert_eq!(post(killed.address, START, hour).0, 202);
    let left = scratch(&temporary).pop().expect("a directory");
    assert_eq!(post(alive.address, START, hour).0, 202);
    killed.end(Signal::KILL);
    assert!(left.exists(), "nothing removes it yet");

    let next = start();
    let second = r#"{"test_type": "continuous_load", "duration_seconds": 1, "span_rate": 10}"#;
    let (status, body) = post(next.address, START, second);
    assert_eq!(status, 202, "{body}");
    assert!(!left.exists());
    assert_eq!(scratch(&temporary).len(), 2, "that of the living process, and that of the test");
    let id = serde_json::from_str::<Value>(&body).expect("JSON")["test_id"].as_str().expect("an id").to_owned();
    let begin = SystemClock.now();
    while !next.get(&format!("/telemetry-test/test/{id}")).contains(r#""state":"completed""#) {
        assert!(SystemClock.now().saturating_duration_since(begin) < LONG, "the test ends");
    }
    assert_eq!(scratch(&temporary).len(), 1);
    // A process that ends well removes its own.
    alive.end(Signal::TERM);
    assert_eq!(scratch(&temporary).len(), 0);
    next.end(Signal::TERM);
}
