//! Plain HTTP, whose requests a proxy reads.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use otlp_transport::{Config, CredentialHeaders, Credentials, CredentialsError, Protocol, RequestHead, connect};

use crate::support::*;

/// Answers with the header for the proxy that it is shown, and gives one of its own.
struct Curious;

#[async_trait]
impl Credentials for Curious {
    async fn headers(&self, head: &RequestHead, _: &Bytes) -> Result<CredentialHeaders, CredentialsError> {
        let shown = head.header("proxy-authorization").unwrap_or("none");
        Ok(CredentialHeaders::new(1).with("x-shown", shown).with("Proxy-Authorization", "Bearer of-the-provider"))
    }
}

/// The credentials of the proxy's URL belong to the proxy alone.
#[tokio::test]
async fn a_provider_of_credentials_neither_sees_nor_replaces_those_of_the_proxy() {
    for (user, shown, sent) in [
        ("me:pass@", "none", "Basic bWU6cGFzcw=="),
        // Without any in the URL the header is one like others.
        ("", "of the settings", "Bearer of-the-provider"),
    ] {
        let (listener, address) = listen().await;
        let log = serve_raw(listener, |_| Raw::Answer(http_answer(200, &[], b"")));
        let config = Config::builder()
            .with_protocol(Protocol::HttpProtobuf)
            .with_endpoint("http://collector.test:4318")
            .with_proxy(format!("http://{user}{address}"))
            .with_header("proxy-authorization", "of the settings")
            .with_credentials(Arc::new(Curious))
            .with_timeout(PATIENCE);
        let transport = connect(config.build().expect("valid")).expect("valid");
        assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
        let log = log.lock().expect("not poisoned");
        let all: Vec<_> = log[0].headers.get_all("proxy-authorization").iter().collect();
        assert_eq!(log[0].header("x-shown"), Some(shown));
        assert_eq!(all, [sent]);
    }
}

#[tokio::test]
async fn a_request_names_the_whole_url_and_brings_the_credentials() {
    let (listener, address) = listen().await;
    let log = serve_raw(listener, |_| Raw::Answer(http_answer(200, &[], b"")));
    let config = Config::builder()
        .with_protocol(Protocol::HttpProtobuf)
        .with_endpoint("http://collector.test:4318/otlp?key=1")
        .with_proxy(format!("http://me:pass@{address}"))
        .with_header("proxy-authorization", "another")
        .with_timeout(PATIENCE);
    let transport = connect(config.build().expect("valid")).expect("valid");
    for _ in 0..2 {
        assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
    }
    let log = log.lock().expect("not poisoned");
    assert_eq!(log.len(), 2);
    for seen in log.iter() {
        assert_eq!(seen.target, "http://collector.test:4318/otlp/v1/traces?key=1");
        assert_eq!(seen.header("host"), Some("collector.test:4318"));
        // base64 of "me:pass".
        let all: Vec<_> = seen.headers.get_all("proxy-authorization").iter().collect();
        assert_eq!(all, ["Basic bWU6cGFzcw=="]);
        assert_eq!((seen.body.len(), seen.connection), (2_000, 0));
    }
}

#[tokio::test]
async fn a_collector_that_no_proxy_stands_in_front_of_gets_neither() {
    let (listener, address) = listen().await;
    let log = serve_raw(listener, |_| Raw::Answer(http_answer(200, &[], b"")));
    let config = config(Protocol::HttpProtobuf, address).with_proxy("http://me:canary@proxy.test:3128");
    let transport = connect(config.build().expect("valid")).expect("valid");
    assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
    let log = log.lock().expect("not poisoned");
    assert_eq!((log[0].target.as_str(), log[0].header("proxy-authorization")), ("/v1/traces", None));
}

/// An answer of the proxy is read like one of the collector: no byte of it tells the two apart.
#[tokio::test]
async fn an_answer_of_the_proxy_has_the_outcome_of_its_status_without_the_credentials() {
    for (answer, outcome) in [
        (
            http_answer(407, &[("proxy-authenticate", "Basic realm=x")], b"not me:canary-pass, Y2FuYXJ5"),
            "sender: http 407",
        ),
        (http_answer(403, &[], b"bWU6Y2FuYXJ5LXBhc3M="), "sender: http 403"),
        (http_answer(502, &[], b"canary-pass"), "retryable: http 502, maybe taken"),
        (b"SSH-2.0-canary-pass\r\n\r\n".to_vec(), "retryable: unreadable, maybe taken"),
    ] {
        let (listener, address) = listen().await;
        serve_raw(listener, move |_| Raw::Answer(answer.clone()));
        let config = Config::builder()
            .with_protocol(Protocol::HttpProtobuf)
            .with_endpoint("http://collector.test:4318")
            .with_proxy(format!("http://me:canary%2Dpass@{address}"))
            .with_timeout(PATIENCE);
        let got = connect(config.build().expect("valid")).expect("valid").send(&payload()).await;
        assert_eq!(summary(&got), outcome);
        let text = format!("{got:?}");
        assert!(!text.contains("canary-pass") && !text.contains("bWU6Y2FuYXJ5LXBhc3M"), "{text}");
    }
}

#[tokio::test]
async fn a_proxy_that_wants_credentials_is_named() {
    for (user, remedy) in [
        ("", "write user and password into with_proxy: http://user:password@host:port"),
        ("me:canary-pass@", "check user and password in with_proxy"),
    ] {
        let (listener, address) = listen().await;
        serve_raw(listener, |_| Raw::Answer(http_answer(407, &[], b"<html>a page</html>")));
        let config = Config::builder()
            .with_protocol(Protocol::HttpProtobuf)
            .with_endpoint("http://collector.test:4318")
            .with_proxy(format!("http://{user}{address}"))
            .with_timeout(PATIENCE);
        let outcome = connect(config.build().expect("valid")).expect("valid").send(&payload()).await;
        assert_eq!(summary(&outcome), "sender: http 407");
        let text = outcome.cause().expect("a refusal").to_string();
        assert!(text.contains(&format!("the proxy http://{address} (with_proxy)")) && text.ends_with(remedy), "{text}");
    }
    // Without a proxy it is an answer like others.
    let (listener, address) = listen().await;
    serve_raw(listener, |_| Raw::Answer(http_answer(407, &[], b"odd")));
    let config = config(Protocol::HttpProtobuf, address).build().expect("valid");
    let outcome = connect(config).expect("valid").send(&payload()).await;
    assert_eq!(outcome.cause().expect("a refusal").to_string(), "HTTP status 407: odd");
}
