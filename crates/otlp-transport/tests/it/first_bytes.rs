//! The first bytes of a peer on a connection without TLS, and their absence: it may want TLS.

use std::net::SocketAddr;

use otlp_transport::{Cause, Outcome, Protocol, connect};

use crate::support::*;

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

async fn send(protocol: Protocol, address: SocketAddr) -> Outcome {
    connect(config(protocol, address).build().expect("valid")).expect("valid").send(&payload()).await
}

/// A gRPC server in Go, and OpenSSL, end a plain connection without an alert. So does a server that crashes, which may
/// have taken the request.
#[tokio::test]
async fn an_end_before_the_first_byte_asks_for_https() {
    const WORDS: &str = "before its first byte: if it speaks TLS on this port, the endpoint begins with https://";
    // The SETTINGS of HTTP/2 are a first byte.
    let settings = b"\0\0\0\x04\0\0\0\0\0".to_vec();
    for (end, is_told) in [
        (Raw::Close, true),
        (Raw::ReadThenClose, true),
        (Raw::ReadThenReset, true),
        (Raw::ReadThenWrite(1, settings), false),
    ] {
        for protocol in BOTH {
            let (listener, address) = listen().await;
            let script = end.clone();
            serve_raw(listener, move |_| script.clone());
            let outcome = send(protocol, address).await;
            let is_unanswered = matches!(
                &outcome,
                Outcome::Retryable { cause: Cause::Broken(_), possible_duplicate: true, after: None, .. }
            );
            // Bytes of HTTP/2 are an answer to HTTP/1.1 that cannot be read.
            assert_eq!(is_unanswered, is_told || protocol == Protocol::Grpc, "{end:?}, {protocol}: {outcome:?}");
            let text = outcome.cause().map(Cause::to_string).unwrap_or_default();
            assert_eq!(text.contains(WORDS), is_told, "{end:?}, {protocol}: {text}");
        }
    }
}

/// The second request of a connection tells nothing of TLS.
#[tokio::test]
async fn an_end_behind_an_answer_does_not_ask_for_https() {
    let (listener, address) = listen().await;
    let log = serve_raw(listener, |_| Raw::AnswersThenReset(1, http_answer(200, &[], b"")));
    let transport = connect(config(Protocol::HttpProtobuf, address).build().expect("valid")).expect("valid");
    assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
    let text = transport.send(&payload()).await.cause().map(Cause::to_string).unwrap_or_default();
    assert!(text.contains("connection ended") && !text.contains("https://"), "{text}");
    let connections: Vec<_> = log.lock().expect("not poisoned").iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0]);
}

/// nginx takes the preface of HTTP/2 for a request that it cannot read, and does not tell of its TLS.
#[tokio::test]
async fn an_answer_in_http_1_to_grpc_asks_for_the_port_or_tls() {
    let (listener, address) = listen().await;
    let answer = http_answer(400, &[("content-type", "text/html")], b"<title>400 Bad Request</title>");
    serve_raw(listener, move |_| Raw::ReadThenWrite(1, answer.clone()));
    let text = match send(Protocol::Grpc, address).await {
        Outcome::Retryable { cause: Cause::Broken(text), possible_duplicate: true, .. } => text,
        other => panic!("{other:?}"),
    };
    let parts = ["HTTP/1", "may not speak gRPC", "4317", "https://"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}
