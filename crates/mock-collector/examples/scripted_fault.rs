//! A scripted fault in the test of a program that knows nothing of this workspace.
//! `cargo run -p mock-collector --example scripted_fault`
//!
//! The program is [`upload`]: it posts a trace request over plain HTTP and tries again after a 503 and after a reset.
//! The test scripts both faults and checks which spans arrived, and how often.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use mock_collector::{Answer, Behavior, End, MockCollector};

fn main() -> io::Result<()> {
    let collector = MockCollector::start()?; // free ports of 127.0.0.1, a thread of its own
    let endpoint = collector.http_endpoint();

    // First a refusal, then a reset after the span was taken.
    let busy = Answer::http(503).with_retry_after(Duration::from_secs(1)).with_message("warming up");
    collector.set_next(1, Behavior::answer(busy));
    collector.set_next(1, Behavior::end(End::Rst).storing());
    let attempts = upload(&endpoint, REQUEST)?;
    println!("uploaded with attempt {attempts}");

    let received = collector.received();
    println!("the collector took {} span, and {} again", received.unique, received.duplicates);
    assert_eq!((attempts, received.requests), (3, 3));
    assert_eq!((received.unique, received.duplicates), (1, 1), "the reset hid that the span had been taken");
    assert!(collector.contains(*b"one trace of 16B", *b"a spanid"));

    // A collector that is gone is an error of the program under test, not a wait.
    collector.stop();
    let error = upload(&endpoint, REQUEST).expect_err("the port refuses");
    println!("without a collector: {error}");
    Ok(())
}

/// An `ExportTraceServiceRequest` with one span.
const REQUEST: &[u8] = b"\x0a\x20\x12\x1e\x12\x1c\x0a\x10one trace of 16B\x12\x08a spanid";

/// The program under test: up to three attempts, and the number of the one that succeeded.
fn upload(endpoint: &str, request: &[u8]) -> io::Result<u32> {
    let mut last = io::Error::other("no attempt was made");
    for attempt in 1..=3 {
        match post(endpoint, request) {
            Ok(200) => return Ok(attempt),
            Ok(status) => last = io::Error::other(format!("HTTP status {status}")),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn post(endpoint: &str, request: &[u8]) -> io::Result<u16> {
    let mut stream = TcpStream::connect(endpoint.trim_start_matches("http://"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let length = request.len();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: collector\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), request].concat())?;
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer)?;
    let status = String::from_utf8_lossy(&answer[..read]).split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
