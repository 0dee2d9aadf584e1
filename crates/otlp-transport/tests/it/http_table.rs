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
    const SENDER: &str = "sender: http 200, maybe taken";
    let ok = |body: &[u8]| answer(200, &[PROTOBUF], body);
    let as_type = |content_type: &str, body: &[u8]| answer(200, &[("content-type", content_type)], body);
    let no_body = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 9\r\n\r\n".to_vec();
    let page = b"\n<!DOCTYPE html><title>welcome</title>";
    let cut =
        |head: &str| Raw::AnswerThenClose(format!("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n{head}").into_bytes());
    let encoded = |list: &str, body: &[u8]| answer(200, &[PROTOBUF, ("content-encoding", list)], body);
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
        row(
            "200, zstd",
            answer(
                200,
                &[PROTOBUF, ("content-encoding", "zstd")],
                &zstd::stream::encode_all(&partial_success(1, "")[..], 1).expect("to a Vec"),
            ),
            "delivered, 1 rejected",
        ),
        row("200, damaged zstd", answer(200, &[("content-encoding", "zstd")], b"junk"), "acknowledged: unexpected"),
        row("200, damaged gzip", answer(200, &[GZIP], b"junk"), "acknowledged: unexpected"),
        row("200, gzip bomb", answer(200, &[GZIP], &bomb), "acknowledged: unexpected"),
        row(
            "200, unknown compression",
            answer(200, &[("content-encoding", "br")], b"junk"),
            "acknowledged: unexpected",
        ),
        row("200, junk", ok(b"\xff\xff\xff\xff"), "acknowledged: unexpected"),
        row("200, text", ok(b"OK"), "acknowledged: unexpected"),
        row("200, a page", ok(b"<html>welcome</html>"), SENDER),
        row("200, JSON", ok(b"{\"partialSuccess\":{}}"), "delivered, 0 rejected"),
        row("200, over 4 MiB", ok(&field(15, &vec![0; 4 << 20])), "acknowledged: unexpected"),
        row("200, endless", Raw::AnswerThenEndless(endless, chunk), "acknowledged: unexpected"),
        row(
            "200, torn",
            Raw::AnswerThenClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\x0a".to_vec()),
            "acknowledged: unexpected",
        ),
        row(
            "200, body that never comes",
            Raw::AnswerThenHang(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_vec()),
            "acknowledged: unexpected",
        ),
        // JSON, after the content type or by its first byte.
        row("200, JSON {}", as_type("application/json", b"{}"), "delivered, 0 rejected"),
        row(
            "200, JSON with a charset",
            as_type("Application/JSON; charset=utf-8", b" {}\r\n"),
            "delivered, 0 rejected",
        ),
        row("200, {} without a type", answer(200, &[], b"{}"), "delivered, 0 rejected"),
        row("200, {} as text", as_type("text/plain", b"{}"), "delivered, 0 rejected"),
        row("200, {} as a page", as_type("text/html", b"{}"), "delivered, 0 rejected"),
        row("202, JSON", answer(202, &[("content-type", "application/json")], b"{}"), "delivered, 0 rejected"),
        row(
            "200, JSON partial success",
            as_type("application/json", br#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}"#),
            "delivered, 2 rejected: too old",
        ),
        row(
            "200, JSON partial success, snake case",
            as_type("application/json", br#"{"partial_success":{"rejected_spans":99,"error_message":"too old"}}"#),
            "delivered, 3 rejected: too old",
        ),
        row(
            "200, JSON warning",
            as_type("application/json", br#"{"partialSuccess":{"errorMessage":"soon gone"}}"#),
            "delivered, 0 rejected: soon gone",
        ),
        row(
            "200, compressed JSON",
            answer(200, &[("content-type", "application/json"), GZIP], &gzip(b"{}")),
            "delivered, 0 rejected",
        ),
        row("200, JSON error", as_type("application/json", br#"{"error":"no"}"#), "acknowledged: unexpected"),
        row("200, JSON list", as_type("application/json", b"[]"), "acknowledged: unexpected"),
        row("200, torn JSON", as_type("application/json", b"{"), "acknowledged: unexpected"),
        row("200, empty JSON", as_type("application/json", b""), "delivered, 0 rejected"),
        // Protobuf without its content type, and texts.
        row("200, no type", answer(200, &[], &partial_success(1, "")), "delivered, 1 rejected"),
        row("200, octets", as_type("application/octet-stream", &partial_success(1, "")), "delivered, 1 rejected"),
        row("200, unknown fields", ok(&field(9, b"new")), "delivered, 0 rejected"),
        row("200, text success", as_type("text/plain", b"success"), "delivered, 0 rejected"),
        row("200, a longer text", as_type("text/plain", b"success: 3"), "acknowledged: unexpected"),
        row("200, success as JSON", as_type("application/json", b"success"), "acknowledged: unexpected"),
        row("200, text that reads as a field", as_type("text/plain", b"accepted\n"), "acknowledged: unexpected"),
        row("200, that text without a type", answer(200, &[], b"accepted\n"), "acknowledged: unexpected"),
        row("200, empty text", as_type("text/plain", b""), "delivered, 0 rejected"),
        row("202, text", answer(202, &[("content-type", "text/plain")], b"Accepted"), "acknowledged: unexpected"),
        // Pages.
        row("200, text/html", as_type("text/html; charset=utf-8", page), SENDER),
        row("200, TEXT/HTML", as_type("TEXT/HTML", b"hello"), SENDER),
        row("200, xhtml", as_type("application/xhtml+xml", b"<?xml?>"), SENDER),
        row("200, a page without a type", answer(200, &[], page), SENDER),
        row("200, a page as text", as_type("text/plain", b"<HTML>"), SENDER),
        row("200, compressed page", answer(200, &[("content-type", "text/html"), GZIP], &gzip(page)), SENDER),
        row("200, compressed page, no type", answer(200, &[GZIP], &gzip(page)), SENDER),
        row(
            "200, page in brotli",
            answer(200, &[("content-type", "text/html"), ("content-encoding", "br")], b"x"),
            SENDER,
        ),
        row("200, torn page", cut("content-type: text/html\r\n\r\n<ht"), SENDER),
        row("200, torn page without a type", cut("\r\n<html><body>"), SENDER),
        row("200, page that never ends", Raw::AnswerThenHang(http_head("content-type: text/html")), SENDER),
        row("200, page whose body never comes", Raw::AnswerThenHang(no_body), SENDER),
        row("200, nothing as a page", as_type("text/html", b""), "delivered, 0 rejected"),
        // Encodings.
        row("200, GZIP", encoded(" GZip ", &gzip(&partial_success(1, ""))), "delivered, 1 rejected"),
        row("200, X-Gzip", encoded("X-Gzip", &gzip(&partial_success(1, ""))), "delivered, 1 rejected"),
        row("200, identity, gzip", encoded("identity, gzip", &gzip(&partial_success(1, ""))), "delivered, 1 rejected"),
        row("200, gzip twice", encoded("gzip,gzip", &gzip(&gzip(&partial_success(1, "")))), "delivered, 1 rejected"),
        row("200, Identity", encoded("Identity", &partial_success(1, "")), "delivered, 1 rejected"),
        row("200, many encodings", encoded(&"gzip,".repeat(99), &gzip(b"x")), "acknowledged: unexpected"),
        row("200, cut gzip", encoded("gzip", &gzip(&partial_success(1, "x"))[..12]), "acknowledged: unexpected"),
    ]
}

fn http_head(header: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{header}\r\ncontent-length: 9\r\n\r\nx").into_bytes()
}

fn status_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let retry = [("retry-after", "7")];
    for status in (300..=511).filter(|status| !(418..=420).contains(status) && *status % 10 < 9) {
        let (plain, hinted): (&str, &str) = match status {
            413 => ("too large", "too large"),
            429 | 502..=504 => ("retryable", "retryable after 7s"),
            400 | 422 => ("batch", "batch"),
            300..=399 | 401..=405 | 407 | 410 | 415 | 421 | 426 | 431 | 464 => ("sender", "sender"),
            _ => ("unclear", "unclear"),
        };
        let taken = if matches!(status, 401 | 403 | 404 | 405 | 407 | 413 | 429) { "" } else { ", maybe taken" };
        let expect = |kind: &str| &*Box::leak(format!("{kind}: http {status}{taken}").into_boxed_str());
        rows.push(row(format!("{status}"), answer(status, &[], b"why"), expect(plain)));
        rows.push(row(format!("{status} with a hint"), answer(status, &retry, b""), expect(hinted)));
    }
    const TOO_LARGE: &[u8] = b"the message size of 5000000 bytes is larger than the allowed limit";
    let mut cut = gzip(TOO_LARGE);
    cut.truncate(cut.len() - 9);
    let redirect = [("location", "http://127.0.0.1:1/")];
    let after = |value: &str| answer(503, &[("retry-after", value)], b"");
    let refused = |status, message| answer(status, &[PROTOBUF], &rpc_status(3, message, None));
    let hang = |status: u16| format!("HTTP/1.1 {status} No\r\ncontent-length: 9\r\n\r\nx").into_bytes();
    rows.extend([
        row("301 to a dead port", answer(301, &redirect, b""), "sender: http 301, maybe taken"),
        row("308 to a dead port", answer(308, &redirect, b""), "sender: http 308, maybe taken"),
        row("429", answer(429, &[], b""), "retryable: http 429"),
        row("429, 7 s", answer(429, &retry, b""), "retryable after 7s: http 429"),
        row("503, 0 s", after("0"), "retryable after 0ns: http 503, maybe taken"),
        row("503, a year", after("31536000"), "retryable after 31536000s: http 503, maybe taken"),
        row("503, more than a number", after("99999999999999999999"), "retryable: http 503, maybe taken"),
        row("503, below zero", after("-1"), "retryable: http 503, maybe taken"),
        row("503, half a second", after("0.5"), "retryable: http 503, maybe taken"),
        row("503, a word", after("soon"), "retryable: http 503, maybe taken"),
        row("503, a date", after("Sun, 06 Nov 1994 08:50:07 GMT"), "retryable after 30s: http 503, maybe taken"),
        row(
            "503, a date gone by",
            after("Sun, 06 Nov 1994 08:00:00 GMT"),
            "retryable after 0ns: http 503, maybe taken",
        ),
        row(
            "503, an RFC 850 date",
            after("Sunday, 06-Nov-94 08:50:07 GMT"),
            "retryable after 30s: http 503, maybe taken",
        ),
        row("400, body too large", refused(400, "http: request body too large"), "too large: http 400, maybe taken"),
        row(
            "400, body too large, as text",
            answer(400, &[], b"request body too large"),
            "too large: http 400, maybe taken",
        ),
        row("400, something else", refused(400, "proto: integer overflow"), "batch: http 400, maybe taken"),
        row("500, body too large", refused(500, "http: request body too large"), "too large: http 500, maybe taken"),
        row("400, junk", answer(400, &[PROTOBUF], b"\xff\xff"), "batch: http 400, maybe taken"),
        row(
            "400, compressed",
            answer(400, &[GZIP], &gzip(b"request body too large")),
            "too large: http 400, maybe taken",
        ),
        row("400, damaged gzip", answer(400, &[GZIP], b"junk"), "batch: http 400, maybe taken"),
        row(
            "400, compressed in capitals",
            answer(400, &[("content-encoding", "GZIP")], &gzip(TOO_LARGE)),
            "too large: http 400, maybe taken",
        ),
        row("400, compressed and cut", answer(400, &[GZIP], &cut), "too large: http 400, maybe taken"),
        row("400 as JSON", answer(400, &[], br#"{"message":"Request Too Long"}"#), "too large: http 400, maybe taken"),
        row("429 about size", answer(429, &[], TOO_LARGE), "too large: http 429"),
        row("429 about size, 0 s", answer(429, &[("retry-after", "0")], TOO_LARGE), "too large: http 429"),
        row("429 about size, 7 s", answer(429, &retry, TOO_LARGE), "retryable after 7s: http 429"),
        row(
            "429 about a rate",
            answer(429, &[], b"ingestion rate limit (4194304 bytes/s) exceeded"),
            "retryable: http 429",
        ),
        row("503 about size", answer(503, &[], TOO_LARGE), "too large: http 503, maybe taken"),
        row("401 about size", answer(401, &[], TOO_LARGE), "too large: http 401"),
        row("413, 7 s", answer(413, &retry, b""), "too large: http 413"),
        row("413, early", Raw::AnswerEarly(http_answer(413, &[("connection", "close")], b"")), "too large: http 413"),
        row("503, torn", Raw::AnswerThenClose(hang(503)), "retryable: http 503, maybe taken"),
        row("503, body that never ends", Raw::AnswerThenHang(hang(503)), "retryable: http 503, maybe taken"),
        row("404, body that never ends", Raw::AnswerThenHang(hang(404)), "sender: http 404"),
        row(
            "100, then 200",
            Raw::Answer([&b"HTTP/1.1 100 Continue\r\n\r\n"[..], &http_answer(200, &[], b"")].concat()),
            "delivered, 0 rejected",
        ),
        row(
            "103, then 503",
            Raw::Answer([&b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"[..], &http_answer(503, &[], b"")].concat()),
            "retryable: http 503, maybe taken",
        ),
        row(
            "101",
            Raw::Answer(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n".to_vec()),
            "unclear: http 101, maybe taken",
        ),
        row("999", answer(999, &[], b""), "unclear: http 999, maybe taken"),
    ]);
    rows
}

fn trouble_rows() -> Vec<Row> {
    const PAGE: &str = "sender: http 200, maybe taken";
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1_000_000)).into_bytes();
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(5_000)).into_bytes();
    // The greeting of an HTTP/2 server: SETTINGS, empty.
    let http2 = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let cut_head = |lines: &str| Raw::AnswerThenClose(format!("HTTP/1.1 200 OK\r\n{lines}").into_bytes());
    let never_ends = Raw::AnswerThenHang(b"HTTP/1.1 200 OK\r\nserver: x\r\n".to_vec());
    let (informational, more) = (b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), b"HTTP/1.1 100 Continue\r\n\r\n".to_vec());
    vec![
        Row { name: "port refuses".to_owned(), peer: None, expect: "retryable: connect" },
        row("FIN behind the request", Raw::ReadThenClose, "retryable: broken, maybe taken"),
        row("RST behind the request", Raw::ReadThenReset, "retryable: broken, maybe taken"),
        row("FIN in the head", Raw::AnswerThenClose(b"HTTP/1.1 200 O".to_vec()), "retryable: broken, maybe taken"),
        row("FIN instead of an answer", Raw::AnswerThenClose(Vec::new()), "retryable: broken, maybe taken"),
        row("accepts and never reads", Raw::NeverRead, "retryable: timeout, maybe taken"),
        row("reads and never answers", Raw::AnswerThenHang(Vec::new()), "retryable: timeout, maybe taken"),
        row("a head that is cut off", cut_head(""), "acknowledged: unexpected"),
        row("a head that is cut off in a header", cut_head("content-le"), "acknowledged: unexpected"),
        row("a head that never ends", never_ends, "acknowledged: unexpected"),
        row("a head of a page that is cut off", cut_head("content-type: text/html\r\n"), PAGE),
        row("a 401 whose head is cut off", Raw::AnswerThenClose(b"HTTP/1.1 401 X\r\n".to_vec()), "sender: http 401"),
        row("half a head", Raw::AnswerThenHang(b"HTTP/1.1 200 O".to_vec()), "retryable: timeout, maybe taken"),
        row("junk", Raw::Answer(b"junk\r\n\r\n".to_vec()), "retryable: unreadable, maybe taken"),
        row("an HTTP/2 server", Raw::Answer(http2), "retryable: unreadable, maybe taken"),
        row("huge headers", Raw::Answer(huge), "acknowledged: unexpected"),
        row("5000 headers", Raw::Answer(many), "acknowledged: unexpected"),
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
            name if name.contains("never ends") || name.contains("never comes") => Duration::from_secs(1),
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
