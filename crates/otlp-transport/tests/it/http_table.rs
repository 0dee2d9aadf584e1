//! Every answer that an HTTP peer can give, and every way in which none comes.

use std::time::Duration;

use otlp_transport::{HttpTransport, Protocol, Transport};

use crate::support::*;

struct Row {
    name: String,
    peer: Option<Raw>,
    expect: &'static str,
}

fn row(name: impl Into<String>, peer: Raw, expect: &'static str) -> Row {
    Row { name: name.into(), peer: Some(peer), expect }
}

fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Raw {
    Raw::Answer(http_answer(status, headers, body))
}

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const GZIP: (&str, &str) = ("content-encoding", "gzip");

fn success_rows() -> Vec<Row> {
    let ok = |body: &[u8]| answer(200, &[PROTOBUF], body);
    let bomb = gzip(&vec![0; 5 << 20]);
    let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let chunk = [&b"4000\r\n"[..], &[0; 0x4000], b"\r\n"].concat();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n\x0a\x00\r\n0\r\n\r\n".to_vec();
    let until_close = b"HTTP/1.1 200 OK\r\n\r\n\x0a\x02\x08\x01".to_vec();
    let old = b"HTTP/1.0 200 OK\r\n\r\n".to_vec();
    vec![
        row("200, nothing in it", ok(b""), "delivered, 0 rejected"),
        row("200, empty partial success", ok(b"\x0a\x00"), "delivered, 0 rejected"),
        row("200, in chunks", Raw::Answer(chunked), "delivered, 0 rejected"),
        row("200, until the end", Raw::AnswerThenClose(until_close), "delivered, 1 rejected"),
        row("200, HTTP/1.0", Raw::AnswerThenClose(old), "delivered, 0 rejected"),
        row("202", answer(202, &[], b""), "delivered, 0 rejected"),
        row("204", Raw::Answer(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()), "delivered, 0 rejected"),
        row("299", answer(299, &[], b""), "delivered, 0 rejected"),
        row("200, 2 rejected", ok(&partial_success(2, "too old")), "delivered, 2 rejected: too old"),
        row("200, more rejected than sent", ok(&partial_success(i64::MAX, "")), "delivered, 3 rejected"),
        row("200, less than none rejected", ok(&partial_success(i64::MIN, "")), "delivered, 0 rejected"),
        row(
            "200 with a warning",
            ok(&partial_success(0, "soon\x1b[31m gone")),
            "delivered, 0 rejected: soon [31m gone",
        ),
        row("200, compressed", answer(200, &[PROTOBUF, GZIP], &gzip(&partial_success(1, ""))), "delivered, 1 rejected"),
        row("200, compressed, nothing in it", answer(200, &[GZIP], b""), "delivered, 0 rejected"),
        row("200, damaged gzip", answer(200, &[GZIP], b"junk"), "retryable: unreadable, maybe taken"),
        row("200, gzip bomb", answer(200, &[GZIP], &bomb), "retryable: unreadable, maybe taken"),
        row(
            "200, unknown compression",
            answer(200, &[("content-encoding", "br")], b"junk"),
            "retryable: unreadable, maybe taken",
        ),
        row("200, junk", ok(b"\xff\xff\xff\xff"), "retryable: unreadable, maybe taken"),
        row("200, text", ok(b"OK"), "retryable: unreadable, maybe taken"),
        row("200, a page", ok(b"<html>welcome</html>"), "retryable: unreadable, maybe taken"),
        row("200, JSON", ok(b"{\"partialSuccess\":{}}"), "retryable: unreadable, maybe taken"),
        row("200, over 4 MiB", ok(&field(15, &vec![0; 4 << 20])), "retryable: unreadable, maybe taken"),
        row("200, endless", Raw::AnswerThenEndless(endless, chunk), "retryable: unreadable, maybe taken"),
        row(
            "200, torn",
            Raw::AnswerThenClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\x0a".to_vec()),
            "retryable: unreadable, maybe taken",
        ),
        row(
            "200, body that never comes",
            Raw::AnswerThenHang(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_vec()),
            "retryable: timeout, maybe taken",
        ),
    ]
}

fn status_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let retry = [("retry-after", "7")];
    for status in (300..=511).filter(|status| !(418..=420).contains(status) && *status % 10 < 9) {
        let (plain, hinted): (&str, &str) = match status {
            413 => ("too large", "too large"),
            502..=504 => ("retryable", "retryable after 7s"),
            429 => ("retryable", "retryable after 7s"),
            _ => ("permanent", "permanent"),
        };
        let expect = |kind: &str| &*Box::leak(format!("{kind}: http {status}").into_boxed_str());
        rows.push(row(format!("{status}"), answer(status, &[], b"why"), expect(plain)));
        rows.push(row(format!("{status} with a hint"), answer(status, &retry, b""), expect(hinted)));
    }
    let redirect = [("location", "http://127.0.0.1:1/")];
    let after = |value: &str| answer(503, &[("retry-after", value)], b"");
    let refused = |status, message| answer(status, &[PROTOBUF], &rpc_status(3, message, None));
    let hang = |status: u16| format!("HTTP/1.1 {status} No\r\ncontent-length: 9\r\n\r\nx").into_bytes();
    rows.extend([
        row("301 to a dead port", answer(301, &redirect, b""), "permanent: http 301"),
        row("308 to a dead port", answer(308, &redirect, b""), "permanent: http 308"),
        row("429", answer(429, &[], b""), "retryable: http 429"),
        row("429, 7 s", answer(429, &retry, b""), "retryable after 7s: http 429"),
        row("503, 0 s", after("0"), "retryable after 0ns: http 503"),
        row("503, a year", after("31536000"), "retryable after 31536000s: http 503"),
        row("503, more than a number", after("99999999999999999999"), "retryable: http 503"),
        row("503, below zero", after("-1"), "retryable: http 503"),
        row("503, half a second", after("0.5"), "retryable: http 503"),
        row("503, a word", after("soon"), "retryable: http 503"),
        row("503, a date", after("Sun, 06 Nov 1994 08:50:07 GMT"), "retryable after 30s: http 503"),
        row("503, a date gone by", after("Sun, 06 Nov 1994 08:00:00 GMT"), "retryable after 0ns: http 503"),
        row("503, an RFC 850 date", after("Sunday, 06-Nov-94 08:50:07 GMT"), "retryable after 30s: http 503"),
        row("400, body too large", refused(400, "http: request body too large"), "too large: http 400"),
        row("400, body too large, as text", answer(400, &[], b"request body too large"), "too large: http 400"),
        row("400, something else", refused(400, "proto: integer overflow"), "permanent: http 400"),
        row("500, body too large", refused(500, "http: request body too large"), "permanent: http 500"),
        row("400, junk", answer(400, &[PROTOBUF], b"\xff\xff"), "permanent: http 400"),
        row("400, compressed", answer(400, &[GZIP], &gzip(b"request body too large")), "too large: http 400"),
        row("400, damaged gzip", answer(400, &[GZIP], b"junk"), "permanent: http 400"),
        row("413, early", Raw::AnswerEarly(http_answer(413, &[("connection", "close")], b"")), "too large: http 413"),
        row("503, torn", Raw::AnswerThenClose(hang(503)), "retryable: http 503"),
        row("503, body that never ends", Raw::AnswerThenHang(hang(503)), "retryable: http 503"),
        row("404, body that never ends", Raw::AnswerThenHang(hang(404)), "permanent: http 404"),
        row(
            "100, then 200",
            Raw::Answer([&b"HTTP/1.1 100 Continue\r\n\r\n"[..], &http_answer(200, &[], b"")].concat()),
            "delivered, 0 rejected",
        ),
        row(
            "103, then 503",
            Raw::Answer([&b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"[..], &http_answer(503, &[], b"")].concat()),
            "retryable: http 503",
        ),
        row("101", Raw::Answer(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n".to_vec()), "permanent: http 101"),
        row("999", answer(999, &[], b""), "permanent: http 999"),
    ]);
    rows
}

fn trouble_rows() -> Vec<Row> {
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1_000_000)).into_bytes();
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(5_000)).into_bytes();
    // The greeting of an HTTP/2 server: SETTINGS, empty.
    let http2 = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let (informational, more) = (b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), b"HTTP/1.1 100 Continue\r\n\r\n".to_vec());
    vec![
        Row { name: "port refuses".to_owned(), peer: None, expect: "retryable: connect" },
        row("FIN behind the request", Raw::ReadThenClose, "retryable: broken, maybe taken"),
        row("RST behind the request", Raw::ReadThenReset, "retryable: broken, maybe taken"),
        row("FIN in the head", Raw::AnswerThenClose(b"HTTP/1.1 200 O".to_vec()), "retryable: broken, maybe taken"),
        row("FIN instead of an answer", Raw::AnswerThenClose(Vec::new()), "retryable: broken, maybe taken"),
        row("accepts and never reads", Raw::NeverRead, "retryable: timeout, maybe taken"),
        row("reads and never answers", Raw::AnswerThenHang(Vec::new()), "retryable: timeout, maybe taken"),
        row("half a head", Raw::AnswerThenHang(b"HTTP/1.1 200 O".to_vec()), "retryable: timeout, maybe taken"),
        row("junk", Raw::Answer(b"junk\r\n\r\n".to_vec()), "retryable: unreadable, maybe taken"),
        row("an HTTP/2 server", Raw::Answer(http2), "retryable: unreadable, maybe taken"),
        row("huge headers", Raw::Answer(huge), "retryable: unreadable, maybe taken"),
        row("5000 headers", Raw::Answer(many), "retryable: unreadable, maybe taken"),
        row("1xx without end", Raw::AnswerThenEndless(informational, more), "retryable: timeout, maybe taken"),
    ]
}

#[tokio::test]
async fn each_answer_means_what_the_specification_says() {
    let mut failures = Vec::new();
    let rows: Vec<Row> = [success_rows(), status_rows(), trouble_rows()].into_iter().flatten().collect();
    let count = rows.len();
    for Row { name, peer, expect } in rows {
        // A pure time-out needs no time; where an answer comes first, it gets enough even on a busy machine.
        let limit = match name.as_str() {
            _ if expect.contains("timeout") => Duration::from_millis(100),
            name if name.contains("never ends") => Duration::from_secs(1),
            _ => PATIENCE,
        };
        let (_held, address) = match peer {
            None => {
                let (socket, address) = refused();
                (Some(socket), address)
            }
            Some(script) => {
                let (listener, address) = listen().await;
                serve_raw(listener, move |_| script.clone());
                (None, address)
            }
        };
        let config = config(Protocol::HttpProtobuf, address).with_timeout(limit).build().expect("valid");
        let outcome = HttpTransport::new(config).send(&payload()).await;
        let got = summary(&outcome);
        println!("{name}: {got}");
        if got != expect {
            failures.push(format!("{name}: expected {expect:?}, got {got:?} ({outcome:?})"));
        }
    }
    report("HTTP", &failures, count);
}

/// The peer may answer and close before it has read everything, and with RST at that: a table cannot fix which of the
/// two the client sees first, but both keep the batch.
#[tokio::test]
async fn closed_before_anything_was_read_keeps_the_batch() {
    let (listener, address) = listen().await;
    serve_raw(listener, |_| Raw::Close);
    let transport = HttpTransport::new(config(Protocol::HttpProtobuf, address).build().expect("valid"));
    for size in [10, 3_000_000] {
        let got = summary(&transport.send(&payload_of(size)).await);
        assert!(got.starts_with("retryable: broken"), "{got}");
    }
}
