//! Tunnels by `CONNECT`.

use otlp_transport::{Protocol, Transport, connect};

use super::support::{FakeProxy, Script};
use crate::support::*;

const GRANTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

async fn proxy_to_grpc(script: fn(Vec<u8>, std::net::SocketAddr) -> Script, answer: &[u8]) -> (FakeProxy, Log) {
    let (listener, address) = listen().await;
    let log = serve_grpc(listener, |_| grpc_ok());
    (FakeProxy::start(script(answer.to_vec(), address)).await, log)
}

#[tokio::test]
async fn a_grpc_call_goes_through_a_tunnel_whose_request_holds_nothing_of_it() {
    let (proxy, log) = proxy_to_grpc(Script::Tunnel, GRANTED).await;
    let config = proxy
        .config(Protocol::Grpc)
        .with_proxy(format!("http://me:pa%3Ass@{}", proxy.address))
        .with_header("authorization", "Bearer canary")
        .with_header("user-agent", "canary")
        .build()
        .expect("valid");
    let transport = connect(config).expect("valid");
    for _ in 0..2 {
        assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
    }
    // base64 of "me:pa:ss"; one connection for both calls.
    let version = env!("CARGO_PKG_VERSION");
    let request = format!(
        "CONNECT collector.test:4317 HTTP/1.1\r\nHost: collector.test:4317\r\nUser-Agent: holdfast/{version}\r\n\
         Proxy-Authorization: Basic bWU6cGE6c3M=\r\n\r\n"
    );
    assert_eq!(proxy.seen(), [request]);
    let log = log.lock().expect("not poisoned");
    let call = "http://collector.test:4317/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    for seen in log.iter() {
        assert_eq!((seen.target.as_str(), seen.header("authorization")), (call, Some("Bearer canary")));
        assert_eq!(seen.header("proxy-authorization"), None);
    }
    assert_eq!(log.len(), 2);
}

#[tokio::test]
async fn an_address_of_ipv6_is_asked_for_in_brackets() {
    let (proxy, _log) = proxy_to_grpc(Script::Tunnel, GRANTED).await;
    let config = proxy.config(Protocol::Grpc).with_endpoint("http://[fd00::1]:4317").build().expect("valid");
    let outcome = connect(config).expect("valid").send(&payload()).await;
    assert_eq!(summary(&outcome), "delivered, 0 rejected");
    assert!(proxy.seen()[0].starts_with("CONNECT [fd00::1]:4317 HTTP/1.1\r\nHost: [fd00::1]:4317\r\n"));
}

/// By RFC 9110, section 9.3.6, a length has no meaning in such an answer.
#[tokio::test]
async fn each_form_of_a_grant_opens_the_tunnel() {
    for answer in [
        &b"HTTP/1.0 200 OK\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 201 Created\r\n\r\n",
        b"HTTP/1.1 204\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        let (proxy, _log) = proxy_to_grpc(Script::Tunnel, answer).await;
        let transport = connect(proxy.config(Protocol::Grpc).build().expect("valid")).expect("valid");
        let outcome = transport.send(&payload()).await;
        assert_eq!(summary(&outcome), "delivered, 0 rejected", "{}", String::from_utf8_lossy(answer));
    }
}

/// A server speaks as soon as the proxy has reached it, hence its first frame comes with the grant.
#[tokio::test]
async fn bytes_behind_a_grant_are_the_first_of_the_tunnel() {
    let (proxy, log) = proxy_to_grpc(Script::TunnelAtOnce, GRANTED).await;
    let transport = connect(proxy.config(Protocol::Grpc).build().expect("valid")).expect("valid");
    for _ in 0..2 {
        assert_eq!(summary(&transport.send(&payload()).await), "delivered, 0 rejected");
    }
    assert_eq!((proxy.seen().len(), log.lock().expect("not poisoned").len()), (1, 2));
}

/// A page that the proxy sends for an answer of the collector is none.
#[tokio::test]
async fn a_page_in_place_of_a_tunnel_delivers_nothing() {
    let page = b"HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\n<html>Please sign in</html>".to_vec();
    let proxy = FakeProxy::start(Script::Answer(page)).await;
    let transport = connect(proxy.config(Protocol::Grpc).build().expect("valid")).expect("valid");
    let outcome = transport.send(&payload()).await;
    assert_eq!(summary(&outcome), "retryable: broken, maybe taken");
}

#[tokio::test]
async fn a_grpc_transport_made_of_settings_for_http_has_a_tunnel_too() {
    let (proxy, _log) = proxy_to_grpc(Script::Tunnel, GRANTED).await;
    let config = proxy.config(Protocol::HttpProtobuf).build().expect("valid");
    let outcome = otlp_transport::GrpcTransport::new(config).send(&payload()).await;
    assert_eq!(summary(&outcome), "delivered, 0 rejected");
    assert!(proxy.seen()[0].starts_with("CONNECT "));
}
