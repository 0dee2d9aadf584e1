//! Clients that send too much, too slowly or nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use telemetry_service::Limits;

use crate::support::{LONG, TOKEN, World};

const REDRIVE: &str = "/telemetry-test/dead-letters/redrive";

/// The bytes that the server sends until it closes the connection; a reset counts as the end. A connection that stays
/// open fails the test.
fn rest(mut socket: TcpStream) -> String {
    let mut answer = Vec::new();
    let mut part = [0; 4_096];
    loop {
        match socket.read(&mut part) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the connection stays open: {error}"),
        }
    }
    String::from_utf8(answer).expect("text")
}

fn head(world: &World, more: &str) -> String {
    head_of(REDRIVE, world, more)
}

fn head_of(path: &str, world: &World, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n{more}\r\n", world.address)
}

#[test]
fn bodies_that_are_large_or_coded_are_refused_before_they_are_read() {
    let world = World::new(&[]);
    for (more, status) in [
        ("Content-Length: 10737418240\r\n", "413"),
        ("Content-Length: 65537\r\n", "413"),
        ("Content-Encoding: gzip\r\nContent-Length: 20\r\n", "415"),
        ("Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "415"),
    ] {
        for path in [
            REDRIVE,
            "/telemetry-test/test/start",
            "/telemetry-test/generate-loads",
            "/telemetry-test/simulate/collector-failure",
        ] {
            let mut socket = world.connect();
            socket.write_all(head_of(path, &world, more).as_bytes()).expect("sent");
            // No byte of the body was sent.
            let answer = rest(socket);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}, {more}: {answer}");
            assert!(answer.contains("application/problem+json"), "{answer}");
        }
    }
    // No size of a chunk: the body has no end that can be read, and is not too large.
    let broken = format!("{}zz\r\n{{}}\r\n", head(&world, "Transfer-Encoding: chunked\r\n"));
    let answer = world.send(broken.as_bytes());
    assert!(answer.status == 400 && answer.body.contains("cannot be read"), "{}", answer.body);
    for more in ["Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"] {
        let answer = world.request("POST", REDRIVE, &format!("Authorization: Bearer {TOKEN}\r\n{more}"));
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/problem+json"), "{more}");
    }
}

#[test]
fn a_body_without_an_end_is_refused_at_its_limit() {
    let world = World::new(&[]);
    let mut socket = world.connect();
    socket.write_all(head(&world, "Transfer-Encoding: chunked\r\n").as_bytes()).expect("sent");
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    // 1 GiB, unless the server closes the connection before.
    let sent = (0..(1 << 18)).take_while(|_| socket.write_all(chunk.as_bytes()).is_ok()).count();
    assert!(sent < 1 << 13, "{sent} chunks of 4 KiB were taken");
    assert_eq!(world.get("/health").status, 200);
}

#[test]
fn half_sent_heads_and_silent_connections_are_closed() {
    let limits = Limits { head: Duration::from_millis(200), ..Limits::default() };
    let world = World::limited(limits);
    let silent = world.connect();
    let mut half = world.connect();
    half.write_all(b"GET /health HTTP/1.1\r\nHost: loc").expect("sent");
    let mut kept = world.connect();
    kept.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    for (socket, answers) in [(silent, 0), (half, 0), (kept, 1)] {
        assert_eq!(rest(socket).matches("HTTP/1.1 200").count(), answers);
    }
}

#[test]
fn limits_of_any_size_leave_a_server_that_answers() {
    let (usual, nanosecond) = (Limits::default(), Duration::from_nanos(1));
    let times = [Duration::ZERO, nanosecond, Duration::MAX];
    let all = (times.map(|head| Limits { head, ..usual }).into_iter())
        .chain(times.map(|stall| Limits { stall, ..usual }))
        .chain([0, 1, usize::MAX].map(|connections| Limits { connections, ..usual }))
        .chain(times.map(|time| Limits { connections: usize::MAX, head: time, stall: time }));
    let clock = telemetry_manager::resilient_exporter::SystemClock;
    let now = || telemetry_manager::resilient_exporter::Clock::now(&clock);
    for limits in all {
        let mut world = World::limited(limits);
        let begin = now();
        let mut is_answered = false;
        // A time of nothing leaves a client on a busy machine few chances.
        while !is_answered {
            let mut socket = world.connect();
            let _ = socket.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            is_answered = rest(socket).starts_with("HTTP/1.1 200");
            assert!(now().saturating_duration_since(begin) < LONG, "{limits:?}");
        }
        world.stop().expect("the server ends well");
    }
}

#[test]
fn a_head_at_one_byte_a_time_has_one_deadline() {
    let world = World::limited(Limits { head: Duration::from_millis(300), ..Limits::default() });
    let mut socket = world.connect();
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
    socket.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ").expect("sent");
    // A byte each 20 ms would go on for 20 s.
    let mut part = [0; 64];
    let bytes = (0..1_000).take_while(|_| {
        let is_open = socket.write_all(b"x").is_ok();
        let read = socket.read(&mut part);
        let waits = |error: &std::io::Error| {
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        };
        is_open && read.is_err_and(|error| waits(&error))
    });
    assert!(bytes.count() < 500, "the connection stays open");
    assert_eq!(world.get("/health").status, 200);
}

#[test]
fn a_thousand_idle_connections_keep_no_one_out() {
    let world = World::limited(Limits { connections: 64, ..Limits::default() });
    let mut open = Vec::new();
    for n in 0..1_000 {
        let mut socket = world.connect();
        if n % 2 == 0 {
            // Some have sent a part of a head; the server may have closed those of them that are old.
            let _ = socket.write_all(b"GET /telemetry-test/hea");
        }
        open.push(socket);
    }
    for path in ["/health", "/telemetry-test/health", "/metrics"] {
        assert_eq!(world.get(path).status, 200, "{path}");
    }
    // The oldest have made room.
    let first = open.swap_remove(0);
    assert_eq!(rest(first), "");
}

#[test]
fn bodies_that_arrive_slowly_keep_no_one_out() {
    let world = World::limited(Limits { connections: 4, ..Limits::default() });
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut socket = world.connect();
        // The route waits for the rest.
        socket.write_all((head(&world, "Content-Length: 1000\r\n") + "x").as_bytes()).expect("sent");
        assert_eq!(world.get("/health").status, 200);
        slow.push(socket);
    }
}

#[test]
fn abuse_harms_no_span_of_the_application() {
    let world = World::limited(Limits { connections: 8, ..Limits::default() });
    let mut open = Vec::new();
    for n in 0..50 {
        let mut socket = world.connect();
        let _ = socket.write_all(match n % 3 {
            0 => b"GET /orders/1 HTTP/1.1\r\nHo".as_slice(),
            1 => b"\x16\x03\x01\x02\x00",
            _ => b"POST /orders/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10737418240\r\n\r\nx",
        });
        open.push(socket);
    }
    world.trace(100);
    assert_eq!(world.get("/orders/1").status, 200);
    world.telemetry.settled(LONG).expect("delivered");
    let ledger = world.telemetry.handle().expect("an exporter").ledger();
    assert_eq!((ledger.lost(), ledger.imbalance()), (0, 0));
    assert!(ledger.delivered >= 101, "{ledger:?}");
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let world = World::new(&[]);
    let head = |more: &str| format!("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}");
    let answer_to = |head: &str| {
        let mut socket = world.connect();
        // The server may close the connection before it has read all.
        let _ = socket.write_all(head.as_bytes());
        rest(socket)
    };
    // 15 KiB are accepted, 16 KiB are refused before their end.
    let accepted = answer_to(&head(&format!("X: {}\r\n\r\n", "x".repeat(15 << 10))));
    assert!(accepted.starts_with("HTTP/1.1 200"), "{accepted}");
    for size in [16 << 10, 100_000] {
        let refused = answer_to(&head(&format!("X: {}", "x".repeat(size))));
        assert!(refused.starts_with("HTTP/1.1 431"), "{size}: {refused}");
    }
    let many = answer_to(&head(&("X: x\r\n".repeat(200) + "\r\n")));
    assert!(many.starts_with("HTTP/1.1 431"), "{many}");
    let long = world.get(&format!("/telemetry-test/health?{}", "x".repeat(10_000)));
    assert_eq!((long.status, long.header("content-type")), (400, "application/problem+json"));
    assert!(long.body.len() < 1_000, "a refusal repeats little of the request: {}", long.body.len());
    assert_eq!(world.get("/health").status, 200);
}
