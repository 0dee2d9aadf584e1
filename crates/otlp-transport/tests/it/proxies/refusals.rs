//! Proxies that grant no tunnel, and those that are no proxies.

use std::sync::Arc;
use std::time::Duration;

use otlp_transport::{Config, Outcome, Protocol, connect};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::support::{FakeProxy, Script, unconnected};
use crate::support::*;

async fn send(proxy: &FakeProxy, user: &str) -> Outcome {
    let config = proxy
        .config(Protocol::Grpc)
        .with_proxy(format!("http://{user}{}", proxy.address))
        .with_header("authorization", "Bearer of-the-collector");
    connect(config.build().expect("valid")).expect("valid").send(&payload()).await
}

/// The proxy saw the request for a tunnel and not one byte more.
#[track_caller]
fn saw_no_more_than_connect(proxy: &FakeProxy, case: &str) {
    for seen in proxy.seen() {
        assert!(seen.starts_with("CONNECT collector.test:4317 "), "{case}: {seen:?}");
        assert_eq!(seen.find("\r\n\r\n"), Some(seen.len() - 4), "{case}: {seen:?}");
        assert!(!seen.contains("of-the-collector"), "{case}: {seen:?}");
    }
    assert!(!proxy.seen().is_empty(), "{case}");
}

#[tokio::test]
async fn a_refusal_names_the_proxy_its_status_and_the_remedy() {
    for (head, user, parts) in [
        (
            "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"",
            "",
            &["answered 407 Proxy Authentication Required to CONNECT collector.test:4317", "http://user:password@"][..],
        ),
        ("401 Unauthorized", "me:canary-pass@", &["401 Unauthorized", "check user and password in with_proxy"]),
        ("407 No", "me:canary-pass@", &["407 No", "check user and password in with_proxy"]),
        (
            "407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM",
            "me:canary-pass@",
            &["asks for \"Negotiate, NTLM\", and Basic is all"],
        ),
        ("407 No\r\nproxy-authenticate: NTLM, BASIC realm=x", "me:canary-pass@", &["check user and password"]),
        ("403 Forbidden", "", &["403 Forbidden", "allow CONNECT to collector.test:4317", "NO_PROXY"]),
        ("403 me:canary-pass", "me:canary-pass@", &["403 ***"]),
        ("405 Method Not Allowed", "", &["no proxy that takes CONNECT"]),
        ("400 Bad Request", "", &["no proxy that takes CONNECT"]),
        ("500 Unable to connect", "", &["500 Unable to connect", "does not reach collector.test:4317"]),
        ("502 Bad Gateway", "", &["does not reach collector.test:4317"]),
        ("503 Service Unavailable", "", &["does not reach"]),
        ("504", "", &["answered 504 to CONNECT", "does not reach"]),
        ("302 Found\r\nLocation: http://portal.test/", "", &["302 Found"]),
        ("999 x", "", &["999 x"]),
    ] {
        let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 4\r\n\r\ntext").into_bytes();
        let proxy = FakeProxy::start(Script::Answer(answer)).await;
        let outcome = send(&proxy, user).await;
        let text = unconnected(&outcome);
        let name = format!("the proxy http://{} (with_proxy)", proxy.address);
        assert!(text.starts_with("http://collector.test:4317: ") && text.contains(&name), "{head}: {text}");
        for part in parts {
            assert!(text.contains(part), "{head}: {text}");
        }
        assert!(!text.contains("canary"), "{head}: {text}");
        saw_no_more_than_connect(&proxy, head);
    }
}

#[tokio::test]
async fn an_answer_that_is_none_of_a_proxy_is_told_and_ends_the_call() {
    let huge = [&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'x'; 200_000], b"\r\n\r\n"].concat();
    for (case, script, part) in [
        (
            "garbage",
            Script::Answer(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
            "\"SSH-2.0-OpenSSH_9.2\": check its host and port",
        ),
        ("one byte", Script::Answer(b"x".to_vec()), "no answer of HTTP/1, \"x\""),
        ("control", Script::Answer(b"\x1b[31m\x00\xff".to_vec()), "no answer of HTTP/1"),
        ("another version", Script::Answer(b"HTTP/2 200 OK\r\n\r\n".to_vec()), "no answer of HTTP/1"),
        ("no status", Script::Answer(b"HTTP/1.1 OK\r\n\r\n".to_vec()), "no answer of HTTP/1"),
        ("TLS", Script::Answer(b"\x15\x03\x01\x00\x02\x02\x46".to_vec()), "a record of TLS"),
        ("huge", Script::Answer(huge), "a head of more than 65536 bytes"),
        ("endless head", Script::Endless(b"HTTP/1.1 200 OK\r\nx: y\r\n".to_vec()), "a head of more than 65536 bytes"),
        ("interim for ever", Script::Endless(b"HTTP/1.1 100 Go\r\n\r\n".to_vec()), "a head of more than 65536 bytes"),
        ("closed", Script::AnswerThenClose(Vec::new()), "ended the connection before it answered"),
        (
            "torn",
            Script::AnswerThenClose(b"HTTP/1.1 200 OK\r\nVia: x".to_vec()),
            "ended the connection within its answer",
        ),
    ] {
        let proxy = FakeProxy::start(script).await;
        let outcome = send(&proxy, "me:canary-pass@").await;
        let text = unconnected(&outcome);
        assert!(text.contains(part) && text.contains("the proxy http://127.0.0.1:"), "{case}: {text}");
        assert!(text.len() < 400 && !text.contains(char::is_control), "{case}: {text:?}");
        saw_no_more_than_connect(&proxy, case);
    }
}

#[tokio::test]
async fn the_credentials_are_hidden_in_garbage() {
    // base64 of "me:can\"ary-pass".
    let answer = b"no user me:can\"ary-pass here, nor can\"ary-pass, bWU6Y2FuImFyeS1wYXNz\r\n".to_vec();
    let proxy = FakeProxy::start(Script::Answer(answer)).await;
    let outcome = send(&proxy, "me:can%22ary-pass@").await;
    assert!(unconnected(&outcome).contains("\"no user *** here, nor ***, ***\""), "{outcome:?}");
}

#[tokio::test]
async fn a_proxy_that_does_not_answer_is_named_within_the_time_out() {
    let asked = Arc::new(Notify::new());
    let proxy = FakeProxy::start(Script::Hang(Arc::clone(&asked))).await;
    let config = proxy.config(Protocol::Grpc).with_timeout(Duration::from_secs(10)).build().expect("valid");
    let (transport, payload) = (connect(config).expect("valid"), payload());
    let mut call = transport.send(&payload);
    tokio::select! {
        outcome = &mut call => panic!("{outcome:?}"),
        () = asked.notified() => {}
    }
    tokio::time::pause();
    let start = Instant::now();
    let outcome = call.await;
    let text = unconnected(&outcome);
    assert!(text.contains("did not answer CONNECT to port 4317 of collector.test within 9s"), "{text}");
    assert!(start.elapsed() <= Duration::from_secs(10), "{:?}", start.elapsed());
    saw_no_more_than_connect(&proxy, "hang");
}

#[tokio::test]
async fn a_proxy_that_drips_ends_with_the_time_out() {
    let proxy = FakeProxy::start(Script::Drip(b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec())).await;
    tokio::time::pause();
    let start = Instant::now();
    let outcome = send(&proxy, "").await;
    assert!(unconnected(&outcome).contains("did not answer CONNECT"), "{outcome:?}");
    assert!(start.elapsed() <= PATIENCE, "{:?}", start.elapsed());
    saw_no_more_than_connect(&proxy, "drip");
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let (_bound, address) = refused();
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let builder = Config::builder().with_endpoint("http://collector.test:4317").with_protocol(protocol);
        let config = builder.with_proxy(format!("http://me:canary-pass@{address}")).build().expect("valid");
        let outcome = connect(config).expect("valid").send(&payload()).await;
        let text = unconnected(&outcome);
        assert!(text.contains(&format!("the proxy http://{address} (with_proxy) is not reached: ")), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}
