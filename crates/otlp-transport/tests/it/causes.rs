//! A payload of one span, which cannot be split, and the texts of causes.

use otlp_transport::{Cause, Outcome, Protocol, connect};

use crate::support::*;

const TOO_LARGE: &str = "grpc: received message larger than max (5243070 vs. 4194304)";

async fn send(protocol: Protocol, spans: usize, http: Vec<u8>, grpc: Grpc) -> Outcome {
    let (listener, address) = listen().await;
    match protocol {
        Protocol::Grpc => serve_grpc(listener, move |_| grpc.clone()),
        _ => serve_raw(listener, move |_| Raw::Answer(http.clone())),
    };
    let transport = connect(config(protocol, address).build().expect("valid")).expect("valid");
    transport.send(&payload_with(spans, 2_000)).await
}

async fn over_http(spans: usize, status: u16, headers: &[(&str, &str)], body: &[u8]) -> Outcome {
    send(Protocol::HttpProtobuf, spans, http_answer(status, headers, body), Grpc::Hang).await
}

async fn over_grpc(spans: usize, code: u32, message: &str) -> Outcome {
    let fields = vec![("grpc-status", code.to_string()), ("grpc-message", message.to_owned())];
    send(Protocol::Grpc, spans, Vec::new(), grpc_answer(None, fields)).await
}

#[tokio::test]
async fn one_span_whose_refusal_names_a_size_has_the_outcome_of_its_status() {
    for spans in [0, 1] {
        for (status, expect) in [
            (400, "batch: http 400, maybe taken"),
            (429, "retryable: http 429"),
            (500, "unclear: http 500, maybe taken"),
            (503, "retryable: http 503, maybe taken"),
            (413, "too large: http 413"),
        ] {
            assert_eq!(summary(&over_http(spans, status, &[], TOO_LARGE.as_bytes()).await), expect);
        }
        for (code, expect) in
            [(8, "retryable: grpc 8, maybe taken"), (3, "batch: grpc 3, maybe taken"), (16, "sender: grpc 16")]
        {
            assert_eq!(summary(&over_grpc(spans, code, TOO_LARGE).await), expect);
        }
    }
    assert_eq!(summary(&over_http(2, 500, &[], TOO_LARGE.as_bytes()).await), "too large: http 500, maybe taken");
    assert_eq!(summary(&over_grpc(2, 8, TOO_LARGE).await), "too large: grpc 8, maybe taken");
}

#[tokio::test]
async fn a_cause_shows_the_answer() {
    let text = |outcome: Outcome| outcome.cause().map(Cause::to_string).unwrap_or_default();
    let page = b"<!doctype html><title>Sign in</title>";
    for (status, headers, body, expect) in [
        (
            200,
            &[("content-type", "text/plain; charset=utf-8")][..],
            &b"suc\x1bcess"[..],
            "HTTP status 200, text/plain \"suc cess\"",
        ),
        (202, &[], b"\xff", "HTTP status 202, no content type \"\u{fffd}\""),
        (200, &[("content-encoding", "gzip")], b"x", "HTTP status 200, no content type; gzip data is damaged"),
        (
            200,
            &[("content-type", "text/html")],
            page,
            "HTTP status 200: text/html \"<!doctype html><title>Sign in</title>\"",
        ),
        (
            302,
            &[("location", "https://me:pw@sso.example/login?to=%2F")],
            page,
            "HTTP status 302: location https://sso.example/login",
        ),
        (307, &[], b"", "HTTP status 307"),
        (401, &[], b"no key", "HTTP status 401: no key"),
    ] {
        assert_eq!(text(over_http(3, status, headers, body).await), expect);
    }
    let long = text(over_http(3, 200, &[("content-type", "text/plain")], &[b'x'; 100_000]).await);
    assert!(long.len() < 200 && long.contains("xxx...\""), "{long}");

    let http = |body: &'static [u8], fields| Grpc::Answer {
        status: 200,
        headers: fields,
        body: Some(body.into()),
        trailers: None,
    };
    let html = vec![("content-type", "text/html".to_owned())];
    for (answer, expect) in [
        (http(page, html), "HTTP status 200: no grpc-status, text/html \"<!doctype html><title>Sign in</title>\""),
        (http(b"", Vec::new()), "HTTP status 200: no grpc-status, no content type"),
        (
            grpc_answer(Some(frame(0, b"<")), vec![("grpc-status", "0".to_owned())]),
            "gRPC status 0, 1 bytes that are no ExportTraceServiceResponse",
        ),
        (
            grpc_answer(None, vec![("grpc-status", "fine".to_owned())]),
            "answer could not be read: grpc-status \"fine\" is not a number",
        ),
    ] {
        assert_eq!(text(send(Protocol::Grpc, 3, Vec::new(), answer).await), expect);
    }
}
