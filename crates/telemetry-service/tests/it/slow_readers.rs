//! Clients that read a large answer slowly, or not at all.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use telemetry_manager::resilient_exporter::{Clock as _, SystemClock};
use telemetry_service::Limits;

use crate::support::{Answer, LARGE, LONG, World};

fn now() -> Instant {
    SystemClock.now()
}

/// A client that has asked for the large answer, and has read its first bytes.
fn reader(world: &World) -> TcpStream {
    let mut socket = world.connect();
    write!(socket, "GET /large HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", world.address).expect("sent");
    let mut start = [0; 12];
    socket.read_exact(&mut start).expect("an answer");
    assert_eq!(&start, b"HTTP/1.1 200");
    socket
}

/// The status of the answer to a new client, which a server without a place for it sends without a request.
fn status_of_a_new_client(world: &World) -> u16 {
    let mut socket = world.connect();
    let _ = write!(socket, "GET /health HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", world.address);
    let mut answer = Vec::new();
    // A server that has not read the request may reset the connection behind its answer.
    let _ = socket.read_to_end(&mut answer);
    if answer.is_empty() { 0 } else { Answer::parse(&String::from_utf8(answer).expect("text")).status }
}

#[test]
fn an_answer_that_is_being_sent_keeps_its_place_until_its_last_byte() {
    let world = World::limited(Limits { connections: 1, ..Limits::default() });
    let mut slow = reader(&world);
    for _ in 0..20 {
        let status = status_of_a_new_client(&world);
        assert!([0, 503].contains(&status), "{status}: the reader lost its place");
    }
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("the whole answer");
    assert!(rest.ends_with(&[b'x'; 64]) && rest.len() > LARGE, "{}", rest.len());
    drop(slow);
    let begin = now();
    while status_of_a_new_client(&world) != 200 {
        assert!(now().saturating_duration_since(begin) < LONG, "the place is never free again");
    }
}

#[test]
fn a_client_that_reads_nothing_loses_its_place_after_the_time_of_the_limit() {
    let world = World::limited(Limits { connections: 1, stall: Duration::from_millis(300), ..Limits::default() });
    let mut stalled = reader(&world);
    let begin = now();
    while status_of_a_new_client(&world) != 200 {
        assert!(now().saturating_duration_since(begin) < LONG, "the place is never free again");
    }
    let mut rest = Vec::new();
    let _ = stalled.read_to_end(&mut rest);
    assert!(rest.len() < LARGE, "the server has closed the connection: {}", rest.len());
}

#[test]
fn a_client_that_reads_slowly_but_steadily_gets_its_whole_answer() {
    let stall = Duration::from_millis(500);
    let world = World::limited(Limits { stall, head: Duration::from_millis(200), ..Limits::default() });
    let mut slow = reader(&world);
    let begin = now();
    // Nothing arrives on this one: a read of it is a pause.
    let pause = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    pause.set_read_timeout(Some(Duration::from_millis(15))).expect("a time-out");
    let (mut part, mut read) = (vec![0; 1 << 20], 0);
    loop {
        // About 1 MiB a second: the buffers of two sockets alone would last for longer than the limit.
        let is_slow = now().saturating_duration_since(begin) < 8 * stall;
        let length = if is_slow { 16 << 10 } else { part.len() };
        match slow.read(&mut part[..length]).expect("the answer goes on") {
            0 => break,
            more => read += more,
        }
        assert!(!is_slow || pause.recv(&mut [0]).is_err());
    }
    assert!(now().saturating_duration_since(begin) >= 8 * stall, "the slow part was not the whole answer");
    assert!(read > LARGE, "{read}");
}
