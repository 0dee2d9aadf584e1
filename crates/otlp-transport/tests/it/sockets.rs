//! Collectors on a Unix socket.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use otlp_transport::{Cause, Config, Outcome, Protocol, connect};
use tokio::net::UnixListener;

use crate::support::{PATIENCE, payload, summary};

type Heads = Arc<Mutex<Vec<String>>>;

/// A collector for OTLP/HTTP; the list gets the request line's path, the host and the size of each body.
fn serve_http(path: &Path) -> Heads {
    let (listener, heads) = (UnixListener::bind(path).expect("a new path"), Heads::default());
    let log = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let log = Arc::clone(&log);
                async move {
                    let host = request.headers()[header::HOST].to_str().expect("text").to_owned();
                    let line = format!("{} {host}", request.uri());
                    let body = request.into_body().collect().await.expect("a whole body").to_bytes();
                    log.lock().expect("not poisoned").push(format!("{line} {}", body.len()));
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    heads
}

/// A collector for OTLP/gRPC; the list gets the authority and the path of each call.
fn serve_grpc(path: &Path) -> Heads {
    let (listener, heads) = (UnixListener::bind(path).expect("a new path"), Heads::default());
    let log = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    log.lock().expect("not poisoned").push(request.uri().to_string());
                    let head =
                        Response::builder().header(header::CONTENT_TYPE, "application/grpc").header("grpc-status", "0");
                    respond.send_response(head.body(()).expect("a head"), true).expect("an open stream");
                }
            });
        }
    });
    heads
}

async fn send(endpoint: String, protocol: Protocol) -> Outcome {
    let config = Config::builder().with_endpoint(endpoint).with_protocol(protocol).with_timeout(PATIENCE);
    let transport = connect(config.build().expect("a socket")).expect("no files");
    transport.send(&payload()).await
}

#[tokio::test]
async fn both_protocols_reach_a_collector_in_both_spellings() {
    let dir = tempfile::tempdir().expect("space");
    let [http, grpc] = ["h.sock", "g.sock"].map(|name| dir.path().join(name));
    let (seen_http, seen_grpc) = (serve_http(&http), serve_grpc(&grpc));
    for spelling in ["unix:", "unix://", "UNIX://"] {
        let outcome = send(format!("{spelling}{}", http.display()), Protocol::HttpProtobuf).await;
        assert_eq!(summary(&outcome), "delivered, 0 rejected", "{spelling}");
        let outcome = send(format!("{spelling}{}", grpc.display()), Protocol::Grpc).await;
        assert_eq!(summary(&outcome), "delivered, 0 rejected", "{spelling}");
    }
    assert_eq!(*seen_http.lock().expect("not poisoned"), ["/v1/traces localhost 2000"; 3]);
    let call = "http://localhost/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    assert_eq!(*seen_grpc.lock().expect("not poisoned"), [call; 3]);
}

#[test]
fn a_socket_is_shown_and_needs_neither_scheme_nor_port_of_another_kind() {
    for (protocol, chosen) in [("grpc", Protocol::Grpc), ("http/protobuf", Protocol::HttpProtobuf)] {
        let config = Config::from_vars(|name| match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("unix:/run/otel.sock".into()),
            "OTEL_EXPORTER_OTLP_PROTOCOL" => Some(protocol.into()),
            _ => None,
        })
        .expect("a socket");
        assert_eq!((config.protocol(), config.endpoint()), (chosen, "unix:///run/otel.sock"));
        assert!(config.notes().is_empty(), "{:?}", config.notes());
    }
}

async fn cause(path: PathBuf) -> String {
    match send(format!("unix://{}", path.display()), Protocol::Grpc).await {
        Outcome::Retryable { cause: Cause::Connect(text), possible_duplicate: false, after: None, .. } => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_socket_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().expect("space");
    let path = dir.path().join("otel.sock");
    let text = cause(path.clone()).await;
    assert!(text.contains("no socket has this path") && text.contains("otel.sock"), "{text}");

    drop(UnixListener::bind(&path).expect("a new path"));
    let text = cause(path.clone()).await;
    assert!(text.contains("no process listens"), "{text}");

    std::fs::remove_file(&path).expect("the socket");
    std::fs::write(&path, "a file").expect("space");
    let text = cause(path.clone()).await;
    assert!(text.contains("no process listens"), "{text}");

    std::fs::remove_file(&path).expect("the file");
    let _listener = UnixListener::bind(&path).expect("a new path");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).expect("our socket");
    // The superuser may connect all the same.
    match std::os::unix::net::UnixStream::connect(&path) {
        Ok(_) => {}
        Err(_) => {
            let text = cause(path).await;
            assert!(text.contains("this user may not connect"), "{text}");
        }
    }
}

/// A Unix socket has no TLS, so that `https://` is no remedy there.
#[tokio::test]
async fn tls_on_a_socket_is_said_in_these_words() {
    for (answer, words) in [(&b"\x15\x03\x01\x00\x02\x02\x46"[..], "the peer speaks TLS on this socket"), (b"", "")] {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            let folder = tempfile::tempdir().expect("space");
            let path = folder.path().join("tls.sock");
            let listener = UnixListener::bind(&path).expect("a new path");
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut start = [0; 16];
                    let _ = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut start).await;
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
                }
            });
            let config = Config::builder().with_protocol(protocol).with_endpoint(format!("unix://{}", path.display()));
            let transport = connect(config.with_timeout(PATIENCE).build().expect("valid")).expect("valid");
            let outcome = transport.send(&payload()).await;
            let text = outcome.cause().map(Cause::to_string).unwrap_or_default();
            assert!(text.contains(words) && !text.contains("https://"), "{protocol}: {text}");
            let Outcome::Retryable { possible_duplicate, .. } = outcome else { panic!("{outcome:?}") };
            assert_eq!(possible_duplicate, answer.is_empty(), "{protocol}: {text}");
        }
    }
}
