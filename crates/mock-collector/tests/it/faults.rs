//! Everything the collector can be told to do wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::pin::pin;
use std::time::Duration;

use h2::Reason;
use mock_collector::{Answer, Behavior, End, MockCollector, Received};
use prost::Message;
use tonic::Code;

use crate::client::{EXPORT, H2Answer, Http, NEVER, SOON, frame, h2_call, ids, request, tonic_client};

fn body(n: u8) -> Vec<u8> {
    request([n]).encode_to_vec()
}

async fn export(collector: &MockCollector, n: u8) -> H2Answer {
    h2_call(collector, EXPORT, &[], frame(0, &body(n))).await
}

#[tokio::test]
async fn every_grpc_status_is_answered_over_both_ports() {
    let collector = MockCollector::start().expect("starts");
    let mut client = tonic_client(&collector).await;
    let mut http = Http::connect(&collector);
    let statuses = [500, 500, 400, 500, 500, 500, 403, 429, 500, 500, 500, 404, 500, 503, 500, 401];
    for (code, expected) in (1..=16).zip(statuses) {
        collector.set(Behavior::answer(Answer::grpc(code).with_message("50 % \u{2013} no")));
        let status = client.export(request([1])).await.expect_err("an error");
        assert_eq!((status.code(), status.message()), (Code::from(code), "50 % \u{2013} no"));
        let answer = http.post(&body(1)).expect("an answer");
        assert_eq!((answer.status, answer.body[1]), (expected, code as u8));
    }
    collector.set(Behavior::answer(Answer::grpc(0)));
    client.export(request([1])).await.expect("an empty success");
    assert_eq!(http.post(&body(1)).expect("an answer").body, [0x0a, 0x00]);
    assert_eq!(collector.received(), Received { requests: 34, connections: 2, ..Received::default() });
}

#[test]
fn every_http_status_is_answered_with_its_headers_and_body() {
    let collector = MockCollector::start().expect("starts");
    let mut http = Http::connect(&collector);
    for status in [200, 202, 301, 307, 400, 401, 403, 404, 408, 413, 415, 429, 500, 502, 503, 504, 599] {
        let answer =
            Answer::http(status).with_header("location", "http://127.0.0.1:9/").with_body("text/plain", "words");
        collector.set(Behavior::answer(answer));
        let answer = http.post(&body(1)).expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (status, &b"words"[..]));
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        assert_eq!(answer.header("location"), Some("http://127.0.0.1:9/"));
    }
    collector
        .set(Behavior::answer(Answer::http(503).with_retry_after(Duration::from_millis(1200)).with_message("soon")));
    let answer = http.post(&body(1)).expect("an answer");
    assert_eq!((answer.header("retry-after"), &answer.body[..]), (Some("2"), &b"\x08\x0e\x12\x04soon"[..]));
    let date = "Wed, 21 Oct 2037 07:28:00 GMT";
    collector.set(Behavior::answer(Answer::http(429).with_header("Retry-After", date)));
    assert_eq!(http.post(&body(1)).expect("an answer").header("retry-after"), Some(date));
    collector.set(Behavior::answer(Answer::http(200)));
    assert!(http.post(&body(1)).expect("an answer").body.is_empty());
}

#[tokio::test]
async fn retry_info_reaches_a_grpc_client() {
    let collector = MockCollector::start().expect("starts");
    collector.set_next(1, Behavior::answer(Answer::grpc(8).with_retry_after(Duration::from_secs(7))));
    collector.set_next(1, Behavior::answer(Answer::grpc(8).with_status_details(b"\xff\x00junk")));
    let mut client = tonic_client(&collector).await;
    let status = client.export(request([1])).await.expect_err("throttled");
    let seven_seconds = [0x0a, 2, 0x08, 7];
    assert!(status.details().ends_with(&seven_seconds), "{status:?}");
    assert_eq!(client.export(request([1])).await.expect_err("throttled").details(), b"\xff\x00junk");
    client.export(request([1])).await.expect("two requests only");
}

#[tokio::test]
async fn an_http_status_over_grpc_comes_without_a_grpc_status() {
    let collector = MockCollector::start().expect("starts");
    collector.set(Behavior::answer(Answer::http(502).with_body("text/html", "<p>bad gateway")));
    let H2Answer { response, trailers, .. } = export(&collector, 1).await;
    let response = response.expect("an answer");
    assert_eq!((response.status().as_u16(), &response.body()[..]), (502, &b"<p>bad gateway"[..]));
    assert!(!response.headers().contains_key("grpc-status") && trailers.is_empty());
}

#[tokio::test]
async fn a_junk_response_message_is_framed_as_success() {
    let collector = MockCollector::start().expect("starts");
    collector.set(Behavior::answer(Answer::grpc(0).with_body("", b"\xff\xff".as_slice())).storing());
    let H2Answer { response, trailers, .. } = export(&collector, 1).await;
    assert_eq!(&response.expect("an answer").body()[..], [0, 0, 0, 0, 2, 0xff, 0xff]);
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(collector.received().spans, 1);
}

#[tokio::test]
async fn a_part_is_rejected_and_neither_counted_nor_kept() {
    let collector = MockCollector::start().expect("starts");
    collector.set_next(2, Behavior::reject(2, "no room"));
    collector.set_next(1, Behavior::reject(9, "cannot count"));
    collector.set_next(1, Behavior::reject(0, "only a warning"));
    let mut client = tonic_client(&collector).await;
    let partial = client.export(request([1, 2, 3])).await.expect("success").into_inner().partial_success;
    let partial = partial.expect("partial");
    assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (2, "no room"));
    assert_eq!(collector.span_ids(), [ids(1)]);
    let answer = Http::connect(&collector).post(&request([4, 5, 6]).encode_to_vec()).expect("an answer");
    assert_eq!((answer.status, &answer.body[..]), (200, &b"\x0a\x0b\x08\x02\x12\x07no room"[..]));
    let partial = client.export(request([7])).await.expect("success").into_inner().partial_success.expect("partial");
    assert_eq!(partial.rejected_spans, 9);
    let partial = client.export(request([8])).await.expect("success").into_inner().partial_success.expect("partial");
    assert_eq!((partial.rejected_spans, partial.error_message.as_str()), (0, "only a warning"));
    let Received { spans, unique, requests, .. } = collector.received();
    assert_eq!((spans, unique, requests), (3, 3, 4));
}

#[test]
fn fin_and_rst_end_an_http_connection_differently() {
    let collector = MockCollector::start().expect("starts");
    for (end, reset) in [(End::Fin, false), (End::Rst, true), (End::GoAway(0), false), (End::Stream(8), true)] {
        collector.set_next(1, Behavior::end(end.clone()));
        let mut http = Http::connect(&collector);
        let error = http.post(&body(1)).expect_err("no answer");
        let expected = if reset { ErrorKind::ConnectionReset } else { ErrorKind::UnexpectedEof };
        assert_eq!(error.kind(), expected, "{end:?}");
    }
    assert_eq!(collector.received().spans, 0);
    assert_eq!(Http::connect(&collector).post(&body(1)).expect("an answer").status, 200);
}

#[tokio::test]
async fn goaway_reset_and_both_ends_reach_a_grpc_client() {
    let collector = MockCollector::start().expect("starts");
    // The stream hopes for its answer until the connection ends; the connection knows why it did.
    collector.set_next(1, Behavior::end(End::GoAway(Reason::ENHANCE_YOUR_CALM.into())));
    let answer = export(&collector, 1).await;
    assert!(answer.response.is_err());
    let error = answer.connection.expect("ended");
    let reason = Some(Reason::ENHANCE_YOUR_CALM);
    assert!(error.is_go_away() && error.is_remote() && error.reason() == reason, "{error:?}");

    // h2 gives a GOAWAY to the streams above its last one; the others get the end of the connection.
    collector.set_next(1, Behavior::end(End::GoAwayUnprocessed(Reason::NO_ERROR.into())));
    let error = export(&collector, 1).await.response.expect_err("no answer");
    assert!(error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR), "{error:?}");

    collector.set_next(1, Behavior::end(End::Stream(Reason::REFUSED_STREAM.into())));
    let answer = export(&collector, 1).await;
    let error = answer.response.expect_err("no answer");
    assert!(error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM), "{error:?}");
    assert!(answer.connection.is_none(), "the connection lives on");

    collector.set_next(1, Behavior::end(End::Rst));
    let error = export(&collector, 1).await.response.expect_err("no answer");
    assert_eq!(error.get_io().map(std::io::Error::kind), Some(ErrorKind::ConnectionReset), "{error:?}");
    collector.set_next(1, Behavior::end(End::Fin));
    let error = export(&collector, 1).await.response.expect_err("no answer");
    assert_ne!(error.get_io().map(std::io::Error::kind), Some(ErrorKind::ConnectionReset), "{error:?}");
    assert_eq!(collector.received().spans, 0);
}

#[test]
fn goaway_without_an_error_is_on_the_wire() {
    const GOAWAY: u8 = 7;
    let collector = MockCollector::start().expect("starts");
    let mut stream = TcpStream::connect(collector.grpc_endpoint().replace("http://", "")).expect("listens");
    stream.set_read_timeout(Some(SOON)).expect("not zero");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("preface and settings");
    let mut frame = || {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).map(|()| (head[3], payload))
    };
    frame().expect("the collector's settings: it serves the connection");
    collector.end_connections(End::GoAway(0));
    let goaway = loop {
        let (kind, payload) = frame().expect("a GOAWAY before the end");
        if kind == GOAWAY {
            break payload;
        }
    };
    assert_eq!(goaway, [0; 8], "no stream was served, NO_ERROR");
    assert_eq!(frame().expect_err("the end").kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn raw_bytes_replace_the_answer() {
    let collector = MockCollector::start().expect("starts");
    let bytes = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\ntorn";
    collector.set(Behavior::end(End::Raw(bytes.to_vec())).storing());
    let mut http = Http::connect(&collector);
    http.send("POST /v1/traces", "content-type: application/x-protobuf\r\n", &body(1)).expect("sent");
    assert_eq!(http.rest().expect("an orderly end"), bytes);
    assert!(export(&collector, 2).await.response.is_err(), "HTTP/1 on an HTTP/2 connection");
    assert_eq!(collector.received().unique, 2);
}

#[test]
fn never_answer_reads_and_keeps_the_connection_open() {
    let collector = MockCollector::start().expect("starts");
    collector.set_next(1, Behavior::never_answer());
    let mut http = Http::connect(&collector);
    http.patience(NEVER);
    assert_eq!(http.post(&body(1)).expect_err("nothing").kind(), ErrorKind::WouldBlock);
    assert!(collector.wait_until(SOON, |received| received.requests == 1));
    assert_eq!(collector.received(), Received { requests: 1, connections: 1, ..Received::default() });
    assert_eq!(http.answer().expect_err("still nothing, and no end").kind(), ErrorKind::WouldBlock);
    assert_eq!(Http::connect(&collector).post(&body(1)).expect("the next one").status, 200);
}

#[tokio::test]
async fn never_answer_over_grpc_ends_with_the_clients_patience() {
    let collector = MockCollector::start().expect("starts");
    collector.set_next(1, Behavior::never_answer().storing());
    let mut client = tonic_client(&collector).await;
    let mut patient = client.clone();
    {
        let mut call = pin!(patient.export(request([1])));
        let read = tokio::time::timeout(SOON, collector.received_when(|received| received.requests == 1));
        tokio::select! {
            answer = &mut call => panic!("{answer:?}"),
            read = read => drop(read.expect("it is read")),
        }
        assert!(tokio::time::timeout(NEVER, call).await.is_err());
    }
    client.export(request([1])).await.expect("the same connection");
    let Received { unique, duplicates, requests, connections, .. } = collector.received();
    assert_eq!((unique, duplicates, requests, connections), (1, 1, 2, 1));
}

#[test]
fn never_read_holds_connections_old_and_new_until_it_is_lifted() {
    let collector = MockCollector::start().expect("starts");
    let mut old = Http::connect(&collector);
    assert_eq!(old.post(&body(1)).expect("an answer").status, 200);
    collector.set(Behavior::never_read());
    let mut new = Http::connect(&collector);
    for http in [&mut old, &mut new] {
        http.patience(NEVER);
        assert_eq!(http.post(&body(2)).expect_err("nothing").kind(), ErrorKind::WouldBlock);
    }
    assert_eq!(collector.received().requests, 1);
    collector.set(Behavior::accept());
    for http in [&mut old, &mut new] {
        http.patience(SOON);
        assert_eq!(http.answer().expect("read after all").status, 200);
    }
    assert_eq!(collector.received().requests, 3);
}

#[test]
fn never_read_for_the_next_connection_spares_the_one_after() {
    let collector = MockCollector::start().expect("starts");
    collector.set_next(1, Behavior::never_read());
    let mut held = Http::connect(&collector);
    held.patience(NEVER);
    assert_eq!(held.post(&body(1)).expect_err("nothing").kind(), ErrorKind::WouldBlock);
    assert_eq!(Http::connect(&collector).post(&body(2)).expect("an answer").status, 200);
    collector.set(Behavior::accept());
    held.patience(SOON);
    assert_eq!(held.answer().expect("read after all").status, 200);
}

#[tokio::test]
async fn never_read_over_grpc_lets_a_client_write_until_it_gives_up() {
    let collector = MockCollector::start().expect("starts");
    let mut client = tonic_client(&collector).await;
    collector.set(Behavior::never_read());
    assert!(tokio::time::timeout(NEVER, client.export(request([1]))).await.is_err());
    assert_eq!(collector.received().requests, 0);
    collector.set(Behavior::accept());
    client.export(request([2])).await.expect("reads on");
}

#[test]
fn a_late_answer_has_stored_before_it_waits() {
    let collector = MockCollector::start().expect("starts");
    collector.set_next(1, Behavior::accept().after(SOON * 9));
    collector.set_next(1, Behavior::answer(Answer::http(503)).after(Duration::from_millis(30)));
    let mut http = Http::connect(&collector);
    http.patience(NEVER);
    assert_eq!(http.post(&body(1)).expect_err("nothing yet").kind(), ErrorKind::WouldBlock);
    assert!(collector.wait_until(SOON, |received| received.spans == 1));
    assert_eq!(Http::connect(&collector).post(&body(2)).expect("late, but it comes").status, 503);
}

#[tokio::test]
async fn storing_makes_duplicates_of_what_is_sent_again() {
    let collector = MockCollector::start().expect("starts");
    for fault in [Behavior::answer(Answer::grpc(14)), Behavior::end(End::Rst), Behavior::end(End::GoAway(0))] {
        collector.set_next(1, fault.storing());
        assert!(tonic_client(&collector).await.export(request([1, 2])).await.is_err());
    }
    tonic_client(&collector).await.export(request([1, 2])).await.expect("taken again");
    let Received { spans, unique, duplicates, .. } = collector.received();
    assert_eq!((spans, unique, duplicates), (8, 2, 6));
}
