//! TLS on a port without it, the other way round, and peers that break a handshake.

use std::time::Duration;

use otlp_transport::{Cause, Config, Outcome, Protocol, RefusalKind, connect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::authority::{Authority, Valid};
use super::peer::{Peer, Setup};
use super::{BOTH, cause, config, send};
use crate::support::{Raw, grpc_ok, http_answer, listen, payload, serve_grpc, serve_raw};

#[tokio::test]
async fn tls_on_a_port_without_it_is_said_in_these_words() {
    for protocol in BOTH {
        let (listener, address) = listen().await;
        let answer = http_answer(400, &[], b"Bad Request");
        let log = serve_raw(listener, move |_| Raw::ReadThenWrite(1, answer.clone()));
        let text = cause(send(config(protocol, format!("https://{address}"))).await);
        assert!(text.contains("does not speak TLS on this port") && text.contains("http://"), "{text}");
        assert!(log.lock().expect("not poisoned").is_empty());
    }
    // A gRPC server without TLS ends the connection, or sends its SETTINGS first.
    let (listener, address) = listen().await;
    let log = serve_grpc(listener, |_| grpc_ok());
    let text = cause(send(config(Protocol::Grpc, format!("https://{address}"))).await);
    assert!(text.contains("TLS"), "{text}");
    assert!(log.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn a_port_with_tls_that_is_spoken_to_without_is_said_in_these_words() {
    let root = Authority::new("root");
    for protocol in BOTH {
        let peer = Peer::start(&root.server(&["localhost"], Valid::Now), Setup::default()).await;
        let text = cause(send(config(protocol, format!("http://{}", peer.address))).await);
        assert!(text.contains("speaks TLS on this port") && text.contains("https://"), "{protocol}: {text}");
        assert_eq!(peer.taken(), 0);
    }
}

/// Servers that tell so in a text: the fault is no batch's.
#[tokio::test]
async fn a_text_about_tls_is_no_fault_of_the_batch() {
    const HTTPS: &str = "the endpoint begins with https://";
    const CLIENT: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
    for (text, remedy) in [
        ("Client sent an HTTP request to an HTTPS server.\n", HTTPS),
        ("<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>", HTTPS),
        (
            "<title>400 Bad Request</title>Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
            HTTPS,
        ),
        ("<title>400 No required SSL certificate was sent</title>", CLIENT),
        ("<title>400 The SSL certificate error</title>", CLIENT),
        ("This combination of host and port requires TLS.\r\n", HTTPS),
    ] {
        let (listener, address) = listen().await;
        serve_raw(listener, move |_| Raw::Answer(http_answer(400, &[("content-type", "text/html")], text.as_bytes())));
        match send(config(Protocol::HttpProtobuf, format!("http://{address}"))).await {
            Outcome::Refused {
                kind: RefusalKind::Sender,
                cause: Cause::Http { status: 400, message },
                possible_duplicate: false,
                ..
            } => assert!(message.contains(remedy), "{message}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

/// A peer that does `act` with its first connection.
async fn peer_that(greeting: &'static [u8], is_reset: bool) -> std::net::SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = [0; 64];
            stream.read_exact(&mut hello).await.expect("the start of a handshake");
            assert_eq!(hello[0], 0x16, "a record of a handshake");
            stream.write_all(greeting).await.expect("open");
            if is_reset {
                stream.set_zero_linger().expect("a TCP socket");
            }
        }
    });
    address
}

#[tokio::test]
async fn a_handshake_that_breaks_is_a_failed_connection() {
    for protocol in BOTH {
        for (greeting, is_reset, part) in [
            (&b""[..], false, "closed the connection in the TLS handshake"),
            (b"", true, "TLS handshake"),
            (b"\x15\x03\x01\x00\x02\x02\x46", false, "neither TLS 1.2 nor 1.3"),
            (b"\x15\x03\x01\x00\x02\x02\x28", false, "no cipher suite in common"),
            (b"\x15\x03\x03\x00\x02\x02\x70", false, "knows no host"),
            (b"\x15\x03\x03\x00\x02\x02\x78", false, "ALPN"),
            (b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", false, "TLS handshake"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", false, "does not speak TLS"),
            (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", false, "does not speak TLS"),
        ] {
            let address = peer_that(greeting, is_reset).await;
            let text = cause(send(config(protocol, format!("https://{address}"))).await);
            assert!(text.contains(part), "{greeting:?}: {text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_ends_in_front_of_the_time_out_with_its_cause() {
    for protocol in BOTH {
        let (listener, address) = listen().await;
        serve_raw(listener, |_| Raw::NeverRead);
        let config = Config::builder()
            .with_protocol(protocol)
            .with_endpoint(format!("https://{address}"))
            .with_timeout(Duration::from_secs(3));
        let transport = connect(config.build().expect("good settings")).expect("checked");
        let begin = tokio::time::Instant::now();
        let text = cause(transport.send(&payload()).await);
        assert!(text.contains("did not finish the TLS handshake within 2.7s"), "{text}");
        assert_eq!(begin.elapsed(), Duration::from_millis(2_700));
    }
}
