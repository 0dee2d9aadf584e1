//! Every answer that a gRPC peer can give, and every way in which none comes.

use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use h2::Reason;
use otlp_transport::{GrpcTransport, Protocol, Transport};

use crate::support::*;

/// The action of the peer in one row.
enum Peer {
    H2(Grpc),
    Tcp(Raw),
    /// The port refuses.
    Refused,
}

struct Row {
    name: String,
    peer: Peer,
    expect: &'static str,
}

fn row(name: impl Into<String>, peer: Peer, expect: &'static str) -> Row {
    Row { name: name.into(), peer, expect }
}

fn status(code: i64, message: &str) -> Fields {
    vec![("grpc-status", code.to_string()), ("grpc-message", message.to_owned())]
}

/// The same with a `RetryInfo` among the details.
fn status_with_retry(code: i64, message: &str, retry: (i64, i64), padded: bool) -> Fields {
    let details = rpc_status(code, message, Some(retry));
    let mut text = base64::engine::general_purpose::STANDARD.encode(details);
    if !padded {
        text = text.trim_end_matches('=').to_owned();
    }
    let mut fields = status(code, message);
    fields.push(("grpc-status-details-bin", text));
    fields
}

fn trailers(fields: Fields) -> Peer {
    Peer::H2(grpc_answer(None, fields))
}

/// A status in the only headers of an answer: servers send it so when they have no message.
fn trailers_only(fields: Fields) -> Peer {
    Peer::H2(Grpc::Answer { status: 200, headers: fields, body: None, trailers: None })
}

fn ok_with(body: Option<Bytes>) -> Peer {
    Peer::H2(grpc_answer(body, status(0, "")))
}

fn ok_with_encoding(encoding: &str, body: Bytes) -> Peer {
    let headers = vec![("grpc-encoding", encoding.to_owned())];
    Peer::H2(Grpc::Answer { status: 200, headers, body: Some(body), trailers: Some(status(0, "")) })
}

fn http(status: u16, headers: Fields, body: &'static [u8]) -> Peer {
    Peer::H2(Grpc::Answer { status, headers, body: Some(Bytes::from_static(body)), trailers: None })
}

fn success_rows() -> Vec<Row> {
    let partial = |rejected, message| ok_with(Some(frame(0, &partial_success(rejected, message))));
    let bomb = gzip(&vec![0; 5 << 20]);
    vec![
        row("OK", ok_with(Some(frame(0, &[]))), "delivered, 0 rejected"),
        row("OK without a message", ok_with(None), "delivered, 0 rejected"),
        row("OK in the headers alone", trailers_only(status(0, "")), "delivered, 0 rejected"),
        row("OK, empty partial success", ok_with(Some(frame(0, &field(1, &[])))), "delivered, 0 rejected"),
        row("OK, unknown fields", ok_with(Some(frame(0, &field(9, b"new")))), "delivered, 0 rejected"),
        row("OK, 2 rejected", partial(2, "too old"), "delivered, 2 rejected: too old"),
        row("OK, more rejected than sent", partial(99, ""), "delivered, 3 rejected"),
        row("OK, less than none rejected", partial(-5, ""), "delivered, 0 rejected"),
        row("OK with a warning", partial(0, "soon\r\n obsolete"), "delivered, 0 rejected: soon obsolete"),
        row(
            "OK, compressed answer",
            ok_with_encoding("gzip", frame(1, &gzip(&partial_success(1, "")))),
            "delivered, 1 rejected",
        ),
        row(
            "OK, not compressed although it could be",
            ok_with_encoding("gzip", frame(0, &partial_success(1, ""))),
            "delivered, 1 rejected",
        ),
        row("OK, junk", ok_with(Some(frame(0, b"<html>"))), "acknowledged: unexpected"),
        row("OK, wrong field type", ok_with(Some(frame(0, &number(1, 7)))), "acknowledged: unexpected"),
        row("OK, torn prefix", ok_with(Some(Bytes::from_static(&[0, 0]))), "acknowledged: unexpected"),
        row("OK, torn message", ok_with(Some(Bytes::from_static(&[0, 0, 0, 0, 9, 1]))), "acknowledged: unexpected"),
        row("OK, huge length", ok_with(Some(Bytes::from_static(&[0, 255, 255, 255, 255]))), "acknowledged: unexpected"),
        row("OK, unknown flags", ok_with(Some(frame(9, &[]))), "acknowledged: unexpected"),
        row("OK, damaged gzip", ok_with_encoding("gzip", frame(1, b"junk")), "acknowledged: unexpected"),
        row("OK, gzip bomb", ok_with_encoding("gzip", frame(1, &bomb)), "acknowledged: unexpected"),
        row("OK, unknown compression", ok_with_encoding("snappy", frame(1, b"junk")), "acknowledged: unexpected"),
        row("OK, compressed with nothing", ok_with(Some(frame(1, &[]))), "acknowledged: unexpected"),
        row(
            "OK, answer over 4 MiB",
            ok_with(Some(frame(0, &field(15, &vec![0; 4 << 20])))),
            "acknowledged: unexpected",
        ),
        row("OK, GZIP", ok_with_encoding(" GZip ", frame(1, &gzip(&partial_success(1, "")))), "delivered, 1 rejected"),
        row("endless answer", Peer::H2(Grpc::Endless), "acknowledged: unexpected"),
    ]
}

fn status_rows() -> Vec<Row> {
    const PLAIN: [&str; 16] = [
        "retryable: grpc 1, maybe taken",
        "unclear: grpc 2, maybe taken",
        "batch: grpc 3, maybe taken",
        "retryable: grpc 4, maybe taken",
        "sender: grpc 5",
        "batch: grpc 6, maybe taken",
        "sender: grpc 7",
        "retryable: grpc 8, maybe taken",
        "sender: grpc 9, maybe taken",
        "retryable: grpc 10, maybe taken",
        "retryable: grpc 11, maybe taken",
        "sender: grpc 12",
        "unclear: grpc 13, maybe taken",
        "retryable: grpc 14, maybe taken",
        "retryable: grpc 15, maybe taken",
        "sender: grpc 16",
    ];
    let retry = (1, 500_000_000);
    let mut rows = Vec::new();
    for (code, plain) in (1..).zip(PLAIN) {
        rows.push(row(format!("status {code}"), trailers(status(code, "why")), plain));
        rows.push(row(format!("status {code} in the headers"), trailers_only(status(code, "why")), plain));
        // A RetryInfo matters to retryable codes only, and proves for one of them that nothing was taken.
        let hinted = plain.replace("retryable", "retryable after 1.5s").replace("grpc 8, maybe taken", "grpc 8");
        let hinted = &*Box::leak(hinted.into_boxed_str());
        let fields = status_with_retry(code, "why", retry, code % 2 == 0);
        rows.push(row(format!("status {code} with RetryInfo"), trailers(fields.clone()), hinted));
        rows.push(row(format!("status {code} with RetryInfo in the headers"), trailers_only(fields), hinted));
        // Words about a size decide for every code, unless there is a hint.
        let taken = if plain.ends_with("taken") { ", maybe taken" } else { "" };
        let large = &*Box::leak(format!("too large: grpc {code}{taken}").into_boxed_str());
        let message = "grpc: received message larger than max (5243070 vs. 4194304)";
        rows.push(row(format!("status {code} about size"), trailers(status(code, message)), large));
        let fields = status_with_retry(code, message, retry, true);
        rows.push(row(format!("status {code} about size with RetryInfo"), trailers(fields), hinted));
    }
    for message in
        ["gRPC message exceeds maximum size 4194304: 5243070", "Error%2C decoded message length too large: found 5"]
    {
        rows.push(row(format!("status 8: {message}"), trailers(status(8, message)), "too large: grpc 8, maybe taken"));
    }
    for message in [
        "RATE_LIMITED: ingestion rate limit (local: 100 bytes) exceeded while adding 1000 bytes",
        "sending queue is full",
        "quota exceeded: request size 9",
        "request rate exceeded, batch size 512",
        "requests exceed the queue size of 1000",
        "",
    ] {
        rows.push(row(
            format!("status 8, not about size: {message}"),
            trailers(status(8, message)),
            "retryable: grpc 8, maybe taken",
        ));
    }
    let details = |text: &str| {
        let mut fields = status(14, "");
        fields.push(("grpc-status-details-bin", text.to_owned()));
        trailers(fields)
    };
    rows.extend([
        row("RetryInfo of zero", trailers(status_with_retry(8, "", (0, 0), true)), "retryable after 0ns: grpc 8"),
        row(
            "RetryInfo of zero, about size",
            trailers(status_with_retry(8, "message larger than max", (0, 0), true)),
            "too large: grpc 8",
        ),
        row("RetryInfo below zero", trailers(status_with_retry(8, "", (-9, 0), true)), "retryable after 0ns: grpc 8"),
        row("RetryInfo, bad nanos", trailers(status_with_retry(8, "", (2, -1), true)), "retryable after 2s: grpc 8"),
        row(
            "RetryInfo of ages",
            trailers(status_with_retry(14, "", (315_576_000_000, 0), true)),
            "retryable after 315576000000s: grpc 14, maybe taken",
        ),
        row("details that are no base64", details("?!"), "retryable: grpc 14, maybe taken"),
        row("details that are no protobuf", details("////"), "retryable: grpc 14, maybe taken"),
        row("a status beyond the table", trailers(status(99, "")), "unclear: grpc 99, maybe taken"),
        row("a status beyond any number", trailers(status(i64::MAX, "")), "unclear: unreadable, maybe taken"),
        row("a status below zero", trailers(status(-1, "")), "unclear: unreadable, maybe taken"),
        row(
            "a status that is no number",
            trailers(vec![("grpc-status", "fine".to_owned())]),
            "unclear: unreadable, maybe taken",
        ),
        row("trailers without a status", trailers(vec![("x", "y".to_owned())]), "sender: http 200, maybe taken"),
        row(
            "an error behind a torn message",
            Peer::H2(grpc_answer(Some(Bytes::from_static(&[0, 0])), status(3, ""))),
            "batch: grpc 3, maybe taken",
        ),
    ]);
    rows
}

fn http_rows() -> Vec<Row> {
    let retry = |value: &str| vec![("retry-after", value.to_owned())];
    let none = Vec::new;
    let json = || vec![("content-type", "application/json".to_owned())];
    let page = || vec![("content-type", "text/html".to_owned())];
    vec![
        row("HTTP 200, no gRPC", http(200, none(), b"<html>hello</html>"), "sender: http 200, maybe taken"),
        row("HTTP 200 in JSON", http(200, json(), b"{}"), "sender: http 200, maybe taken"),
        row("HTTP 204", http(204, none(), b""), "sender: http 204, maybe taken"),
        row("HTTP 200, an endless page", Peer::H2(Grpc::HeadersThenHang(200, page())), "sender: http 200, maybe taken"),
        row("HTTP 415", http(415, none(), b""), "sender: http 415, maybe taken"),
        row("HTTP 464", http(464, none(), b""), "sender: http 464, maybe taken"),
        row("HTTP 400 about size", http(400, none(), b"request body too large"), "too large: http 400, maybe taken"),
        row("HTTP 301", http(301, vec![("location", "/elsewhere".to_owned())], b""), "sender: http 301, maybe taken"),
        row("HTTP 307", http(307, vec![("location", "/elsewhere".to_owned())], b""), "sender: http 307, maybe taken"),
        row("HTTP 400", http(400, none(), b"no"), "batch: http 400, maybe taken"),
        row("HTTP 401", http(401, none(), b"no"), "sender: http 401"),
        row("HTTP 404", http(404, none(), b"no"), "sender: http 404"),
        row("HTTP 413", http(413, none(), b"no"), "too large: http 413"),
        row("HTTP 429", http(429, none(), b""), "retryable: http 429"),
        row("HTTP 429 with a hint", http(429, retry("7"), b""), "retryable after 7s: http 429"),
        row("HTTP 500", http(500, none(), b""), "unclear: http 500, maybe taken"),
        row("HTTP 502", http(502, none(), b""), "retryable: http 502, maybe taken"),
        row("HTTP 503 with a hint", http(503, retry("3"), b""), "retryable after 3s: http 503, maybe taken"),
        row("HTTP 504", http(504, none(), b""), "retryable: http 504, maybe taken"),
        row(
            "HTTP 503 that has a grpc-status",
            Peer::H2(Grpc::Answer { status: 503, headers: status(16, ""), body: None, trailers: None }),
            "sender: grpc 16",
        ),
        row("HTTP 502, endless body", Peer::H2(Grpc::HeadersThenHang(502, none())), "retryable: http 502, maybe taken"),
    ]
}

fn trouble_rows() -> Vec<Row> {
    let reset = |reason| Peer::H2(Grpc::Reset(reason));
    let http1 = http_answer(503, &[("retry-after", "5")], b"busy");
    vec![
        row("port refuses", Peer::Refused, "retryable: connect"),
        row("RST_STREAM: refused", reset(Reason::REFUSED_STREAM), "retryable: broken"),
        row("RST_STREAM: internal", reset(Reason::INTERNAL_ERROR), "retryable: broken, maybe taken"),
        row("RST_STREAM: no error", reset(Reason::NO_ERROR), "retryable: broken, maybe taken"),
        row("RST_STREAM: cancel", reset(Reason::CANCEL), "retryable: broken, maybe taken"),
        row("RST_STREAM: calm down", reset(Reason::ENHANCE_YOUR_CALM), "retryable: broken, maybe taken"),
        row(
            "RST_STREAM behind headers",
            Peer::H2(Grpc::HeadersThenReset(Reason::INTERNAL_ERROR)),
            "retryable: broken, maybe taken",
        ),
        row("GOAWAY: no error", Peer::H2(Grpc::GoAway(Reason::NO_ERROR)), "retryable: broken, maybe taken"),
        row("GOAWAY: internal", Peer::H2(Grpc::GoAway(Reason::INTERNAL_ERROR)), "retryable: broken, maybe taken"),
        row("GOAWAY: calm down", Peer::H2(Grpc::GoAway(Reason::ENHANCE_YOUR_CALM)), "retryable: broken, maybe taken"),
        row("connection dropped", Peer::H2(Grpc::Drop), "retryable: broken, maybe taken"),
        row("closed at once", Peer::Tcp(Raw::Close), "retryable: broken, maybe taken"),
        row("FIN behind the request", Peer::Tcp(Raw::ReadThenClose), "retryable: broken, maybe taken"),
        row("RST behind the request", Peer::Tcp(Raw::ReadThenReset), "retryable: broken, maybe taken"),
        row("an HTTP/1 answer", Peer::Tcp(Raw::Greet(http1)), "retryable: broken, maybe taken"),
        row("junk", Peer::Tcp(Raw::Greet(b"junk junk junk junk".to_vec())), "retryable: broken, maybe taken"),
        row("accepts and never reads", Peer::Tcp(Raw::NeverRead), "retryable: timeout, maybe taken"),
        row("reads and never answers", Peer::H2(Grpc::Hang), "retryable: timeout, maybe taken"),
        row("headers and no more", Peer::H2(Grpc::HeadersThenHang(200, Vec::new())), "retryable: timeout, maybe taken"),
        row("1xx without end", Peer::H2(Grpc::Informational), "retryable: timeout, maybe taken"),
        row(
            "huge headers",
            Peer::H2(Grpc::Answer {
                status: 200,
                headers: vec![("x-huge", "x".repeat(200_000)), ("grpc-status", "0".to_owned())],
                body: None,
                trailers: None,
            }),
            "retryable: broken, maybe taken",
        ),
    ]
}

#[tokio::test]
async fn each_answer_means_what_the_specification_says() {
    let mut failures = Vec::new();
    let rows: Vec<Row> = [success_rows(), status_rows(), http_rows(), trouble_rows()].into_iter().flatten().collect();
    let count = rows.len();
    for Row { name, peer, expect } in rows {
        // A pure time-out needs no time; where an answer comes first, it gets enough even on a busy machine.
        let limit = match name.as_str() {
            _ if expect.contains("timeout") => Duration::from_millis(100),
            name if name.contains("endless body") || name.contains("endless page") => Duration::from_secs(1),
            _ => PATIENCE,
        };
        let (held, address) = match peer {
            Peer::Refused => {
                let (socket, address) = refused();
                (Some(socket), address)
            }
            Peer::H2(script) => {
                let (listener, address) = listen().await;
                serve_grpc(listener, move |_| script.clone());
                (None, address)
            }
            Peer::Tcp(script) => {
                let (listener, address) = listen().await;
                serve_raw(listener, move |_| script.clone());
                (None, address)
            }
        };
        let config = config(Protocol::Grpc, address).with_timeout(limit).build().expect("valid");
        let outcome = GrpcTransport::new(config).send(&payload()).await;
        let got = summary(&outcome);
        println!("{name}: {got}");
        if got != expect {
            failures.push(format!("{name}: expected {expect:?}, got {got:?} ({outcome:?})"));
        }
        drop(held);
    }
    report("gRPC", &failures, count);
}
