//! Clients that send what no client should: refused, in flat memory, with the process's own spans unharmed.
//!
//! The server is a child process, whose memory is its own; Linux tells the largest that it has been.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use flate2::Compression;
use flate2::write::GzEncoder;
use mock_collector::MockCollector;
use rustix::process::Signal;
use serde_json::Value;

use crate::killed::{answer, post, read};
use crate::serve::{LONG, Server, directory, holdfast};

const START: &str = "/telemetry-test/test/start";
const LOADS: &str = "/telemetry-test/generate-loads";
const FAILURE: &str = "/telemetry-test/simulate/collector-failure";
const BODIES: [&str; 3] = [START, LOADS, FAILURE];

/// Bytes by which the abuse may raise the largest memory of the server.
const MOST: u64 = 16 << 20;

/// The largest memory of the process until now, in bytes.
fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux tells");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

fn head(path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("connected");
    socket.set_read_timeout(Some(LONG)).expect("a time-out");
    socket
}

/// Sends `part` again and again, up to 10 GiB, until the server takes no more. Returns the bytes sent and the status of
/// the answer.
fn flood(address: SocketAddr, head: &str, part: &[u8]) -> (u64, u16) {
    let mut socket = connect(address);
    socket.write_all(head.as_bytes()).expect("sent");
    let mut sent = 0;
    while sent < 10 << 30 && socket.write_all(part).is_ok() {
        sent += part.len() as u64;
    }
    (sent, read(&mut socket).0)
}

/// Spans made, and whether each of them is where it should be.
fn load(server: &Server) -> u64 {
    let (status, body) = post(server.address, LOADS, r#"{"span_count": 200}"#);
    assert_eq!(status, 200, "{body}");
    let health = server.get("/telemetry-test/health");
    let (_, report) = health.split_once("\r\n\r\n").expect("an answer");
    let report: Value = serde_json::from_str(report).expect("JSON");
    assert_eq!(report["status"], "healthy", "{report}");
    assert!(server.get("/health").starts_with("HTTP/1.1 200"));
    200
}

#[test]
fn abuse_is_refused_in_flat_memory_and_harms_no_span() {
    let (dir, collector) = (directory(), MockCollector::start().expect("a collector on loopback"));
    let mut command = holdfast(&dir);
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("TMPDIR", dir.path());
    let server = Server::start(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.grpc_endpoint()));
    let address = server.address;
    // The memory of usual work: loads, and as many tests as there may be, which go on.
    let mut spans = load(&server);
    let hour = r#"{"test_type": "continuous_load", "duration_seconds": 3600, "span_rate": 1}"#;
    assert_eq!([post(address, START, hour).0, post(address, START, hour).0], [202, 202]);
    spans += load(&server);
    let before = peak(&server);
    let mut steps = Vec::new();
    let mut step = |name: &str, spans: &mut u64| {
        *spans += load(&server);
        let grown = peak(&server).saturating_sub(before);
        steps.push(format!("{name}: {} KiB", grown >> 10));
        assert!(grown < MOST, "{steps:?}");
    };

    // Clients that are slow all along: half a head, and a body, which get a byte at each step.
    let mut slow: Vec<_> = (0..40)
        .map(|n| {
            let mut socket = connect(address);
            let begin = if n % 2 == 0 {
                "GET /health HTTP/1.1\r\nX: ".to_owned()
            } else {
                head(START, "Content-Length: 60000\r\n")
            };
            socket.write_all(begin.as_bytes()).expect("sent");
            socket
        })
        .collect();
    step("40 slow clients", &mut spans);

    for path in BODIES {
        let (sent, status) = flood(address, &head(path, "Content-Length: 10737418240\r\n"), &[b' '; 65_536]);
        assert!(status == 413 && sent < 1 << 26, "{path}: {status} after {sent} bytes");
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 65_536], b"\r\n"].concat();
        let (sent, status) = flood(address, &head(path, "Transfer-Encoding: chunked\r\n"), &chunk);
        assert!(status == 413 && sent < 1 << 26, "{path}: {status} after {sent} bytes");
    }
    step("bodies of 10 GiB", &mut spans);

    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![b' '; 48 << 20]).expect("in memory");
    let bomb = bomb.finish().expect("in memory");
    assert!(bomb.len() < 64 << 10, "within the limit of a body: {}", bomb.len());
    for path in BODIES {
        for coding in ["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip"] {
            let more = format!(
                "Content-Type: application/json\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n",
                bomb.len()
            );
            let (status, body) = answer(address, &[head(path, &more).as_bytes(), &bomb].concat());
            assert_eq!(status, 415, "{path}, {coding}: {body}");
        }
        // Without the header the bytes are no JSON.
        let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", bomb.len());
        assert_eq!(answer(address, &[head(path, &more).as_bytes(), &bomb].concat()).0, 400, "{path}");
    }
    step("gzip bombs", &mut spans);

    for path in BODIES {
        for (open, depth, expected) in [("[", 100_000, 413), ("[", 60_000, 400), ("{\"a\":", 12_000, 400)] {
            let (status, body) = post(address, path, &open.repeat(depth));
            assert_eq!(status, expected, "{path}, {depth} times {open}: {body}");
        }
        let inside = format!("{{\"duration_seconds\": {}{}}}", "[".repeat(30_000), "]".repeat(30_000));
        let (status, body) = post(address, path, &inside);
        assert!(status == 400 && body.len() < 1_000, "{path}: {status}, {body}");
    }
    step("deep JSON", &mut spans);

    for path in BODIES {
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/xml",
            "application/jsonx",
            "json",
            "\u{ff}",
        ] {
            let more = format!("Content-Type: {kind}\r\nContent-Length: 2\r\n");
            let (status, body) = answer(address, (head(path, &more) + "{}").as_bytes());
            assert!(status == 415 && body.contains("application/json"), "{path}, {kind}: {status}, {body}");
        }
        let (status, _) = answer(address, (head(path, "Content-Length: 2\r\n") + "{}").as_bytes());
        assert_eq!(status, 415, "{path} without a type");
    }
    step("wrong types", &mut spans);

    for _ in 0..50 {
        let (status, body) = post(address, START, hour);
        assert!(status == 429 && body.contains("2 run already"), "{status}, {body}");
    }
    step("tests beyond the limit", &mut spans);

    for (host, origin) in [
        ("evil.example", ""),
        ("localhost", "Origin: http://evil.example\r\n"),
        ("localhost", "Sec-Fetch-Site: cross-site\r\n"),
    ] {
        for path in BODIES {
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\n{origin}Connection: close\r\nContent-Length: 0\r\n\r\n"
            );
            assert_eq!(answer(address, request.as_bytes()).0, 403, "{path}, {host}, {origin}");
        }
    }
    step("foreign pages", &mut spans);

    // The slow ones go on: they keep nothing from the others.
    for socket in &mut slow {
        let _ = socket.write_all(b"x");
    }
    // The server has closed the older ones of them by the time when this side does.
    let mut idle = VecDeque::new();
    for n in 0..1_000 {
        let mut socket = connect(address);
        let _ = socket.write_all(if n % 2 == 0 { b"" } else { b"GET /health HTTP/1.1\r\nHos" });
        idle.push_back(socket);
        if idle.len() > 500 {
            idle.pop_front();
        }
    }
    step("1,000 idle connections", &mut spans);
    // Places are those of the longest idle ones, the slow clients among them.
    for mut socket in slow {
        // A machine that is slow itself gives a body the time to be late.
        let (status, body) = read(&mut socket);
        assert!([0, 408].contains(&status), "{status}, {body}");
    }
    drop(idle);
    step("the end", &mut spans);
    println!("largest memory {} KiB before; grown by: {}", before >> 10, steps.join("; "));

    let (_, output) = server.end(Signal::TERM);
    assert!(output.contains(" 0 lost"), "{output}");
    assert!(collector.received().unique >= spans, "{spans} of loads, {:?}", collector.received());
}
