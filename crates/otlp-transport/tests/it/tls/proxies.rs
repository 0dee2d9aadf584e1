//! TLS through a proxy, to a proxy, and one in the other.

use std::io::BufReader;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use otlp_transport::{Cause, ConfigBuilder, Outcome, Protocol};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::authority::{Authority, Files, Pair, Valid};
use super::peer::{Peer, Setup, provider};
use super::{BOTH, assert_delivered, cause, config, send};
use crate::proxies::support::{FakeProxy, Script};
use crate::support::{Raw, http_answer, listen, serve_raw};

const GRANTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Takes TLS off in front of a server without it.
async fn terminator(pair: &Pair, to: SocketAddr) -> SocketAddr {
    let chain = CertificateDer::pem_reader_iter(BufReader::new(pair.chain.as_bytes()));
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>().expect("PEM"), key)
        .expect("a pair");
    let (listener, address) = listen().await;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let Ok(mut server) = TcpStream::connect(to).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
            });
        }
    });
    address
}

fn through(protocol: Protocol, endpoint: &str, proxy: String, trusted: &Path) -> ConfigBuilder {
    config(protocol, endpoint).with_proxy(proxy).with_certificate(trusted)
}

#[tokio::test]
async fn a_tunnel_carries_tls_to_the_collector_and_the_proxy_sees_its_name_alone() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let trusted = files.write("ca.pem", root.pem());
    for protocol in BOTH {
        let peer = Peer::start(&root.server(&["collector.test"], Valid::Now), Setup::default()).await;
        let proxy = FakeProxy::start(Script::Tunnel(GRANTED.to_vec(), peer.address)).await;
        let endpoint = "https://collector.test:4317";
        let outcome = send(through(protocol, endpoint, format!("http://{}", proxy.address), &trusted)).await;
        assert_delivered(&outcome);
        let [seen] = proxy.seen().try_into().expect("one connection");
        assert!(seen.starts_with("CONNECT collector.test:4317 HTTP/1.1\r\n"), "{seen}");
        assert_eq!(peer.visits()[0].name.as_deref(), Some("collector.test"));
    }
}

#[tokio::test]
async fn a_proxy_that_is_spoken_to_by_tls_carries_both_schemes() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let trusted = files.write("ca.pem", root.pem());
    let of_proxy = root.server(&["127.0.0.1"], Valid::Now);
    for protocol in BOTH {
        let peer = Peer::start(&root.server(&["collector.test"], Valid::Now), Setup::default()).await;
        let proxy = FakeProxy::start(Script::Tunnel(GRANTED.to_vec(), peer.address)).await;
        let address = terminator(&of_proxy, proxy.address).await;
        let endpoint = "https://collector.test:4317";
        let url = format!("https://me:pass@{address}");
        let settings = through(protocol, endpoint, url, &trusted);
        assert_eq!(settings.clone().build().expect("valid").proxy(), Some(&*format!("https://{address}")));
        assert_delivered(&send(settings).await);
        let [seen] = proxy.seen().try_into().expect("one connection");
        assert!(seen.starts_with("CONNECT collector.test:4317 ") && seen.contains("Basic bWU6cGFzcw=="), "{seen}");
        assert_eq!(peer.taken(), if protocol == Protocol::Grpc { 2_005 } else { 2_000 });
    }
    // Plain HTTP, which the proxy reads, between the two of them by TLS.
    let (listener, server) = listen().await;
    let log = serve_raw(listener, |_| Raw::Answer(http_answer(200, &[], b"")));
    let address = terminator(&of_proxy, server).await;
    let settings = through(Protocol::HttpProtobuf, "http://collector.test", format!("https://{address}"), &trusted);
    let checked = settings.clone().build().expect("valid");
    assert!(!checked.notes().iter().any(|note| note.to_string().contains("no effect")), "{:?}", checked.notes());
    assert_delivered(&send(settings).await);
    assert_eq!(log.lock().expect("not poisoned")[0].target, "http://collector.test/v1/traces");
}

#[tokio::test]
async fn a_proxy_that_cannot_prove_its_name_is_asked_for_nothing() {
    let (files, root, other) = (Files::new(), Authority::new("root"), Authority::new("other"));
    let trusted = files.write("ca.pem", root.pem());
    for protocol in BOTH {
        let (listener, server) = listen().await;
        let log = serve_raw(listener, |_| Raw::Answer(http_answer(200, &[], b"")));
        let address = terminator(&other.server(&["127.0.0.1"], Valid::Now), server).await;
        for endpoint in ["https://collector.test", "http://collector.test:4317"] {
            let text = cause(send(through(protocol, endpoint, format!("https://{address}"), &trusted)).await);
            let parts = [&*format!("https://{address}"), "with_proxy", "no authority"];
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
        assert!(log.lock().expect("not poisoned").is_empty());
    }
}

#[tokio::test]
async fn a_collector_behind_a_tunnel_that_cannot_prove_its_name_gets_nothing() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let trusted = files.write("ca.pem", root.pem());
    for protocol in BOTH {
        let peer = Peer::start(&root.server(&["another.test"], Valid::Now), Setup::default()).await;
        let proxy = FakeProxy::start(Script::Tunnel(GRANTED.to_vec(), peer.address)).await;
        let endpoint = "https://collector.test:4317";
        let text = cause(send(through(protocol, endpoint, format!("http://{}", proxy.address), &trusted)).await);
        assert!(text.contains("another host") && text.contains("another.test"), "{text}");
        assert_eq!((peer.taken(), proxy.seen().len()), (0, 1));
    }
}

#[tokio::test]
async fn a_proxy_without_tls_on_its_port_is_said_in_these_words() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let trusted = files.write("ca.pem", root.pem());
    let (listener, server) = listen().await;
    let log = serve_raw(listener, |_| Raw::ReadThenWrite(1, http_answer(400, &[], b"Bad Request")));
    let proxy = format!("https://{server}");
    let text = cause(send(through(Protocol::Grpc, "https://collector.test", proxy.clone(), &trusted)).await);
    assert!(text.contains(&proxy) && text.contains("does not speak TLS on this port"), "{text}");
    assert!(text.contains("the proxy's URL begins with http://"), "{text}");
    assert!(log.lock().expect("not poisoned").is_empty());
}

/// The endpoint has no TLS, and the collector does: an alert comes through the tunnel.
#[tokio::test]
async fn a_collector_with_tls_behind_a_tunnel_is_said_in_these_words() {
    let root = Authority::new("root");
    let peer = Peer::start(&root.server(&["collector.test"], Valid::Now), Setup::default()).await;
    let proxy = FakeProxy::start(Script::Tunnel(GRANTED.to_vec(), peer.address)).await;
    let text = cause(send(proxy.config(Protocol::Grpc)).await);
    assert!(text.contains("the peer speaks TLS on this port: the endpoint begins with https://"), "{text}");
    assert_eq!((peer.taken(), proxy.seen().len()), (0, 1));

    // Go's server for gRPC sends no alert, and the end of a tunnel proves nothing.
    let (listener, address) = listen().await;
    serve_raw(listener, |_| Raw::ReadThenClose);
    let proxy = FakeProxy::start(Script::Tunnel(GRANTED.to_vec(), address)).await;
    match send(proxy.config(Protocol::Grpc)).await {
        Outcome::Retryable { cause: Cause::Broken(text), possible_duplicate: true, .. } => {
            assert!(text.contains("before its first byte: if it speaks TLS on this port"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

/// The remedy is one for the URL of the proxy, and not for the endpoint, which is right.
#[tokio::test]
async fn a_fault_of_tls_in_front_of_a_proxy_speaks_of_its_url() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let trusted = files.write("ca.pem", root.pem());
    let (now, hosts) = (Valid::Now, &["127.0.0.1"][..]);
    let asking = |version| Setup { versions: vec![version], clients: Some(root.pem()), ..Setup::default() };
    let speaking = |alpn| Setup { alpn: vec![alpn], ..Setup::default() };
    for (pair, setup, words) in [
        (root.server(&["another.test"], now), Setup::default(), "the proxy's URL needs a name that it lists"),
        (root.server(hosts, now), asking(&rustls::version::TLS12), "none is shown to a proxy"),
        (root.server(hosts, now), asking(&rustls::version::TLS13), "none is shown to a proxy"),
        (root.server(hosts, now), speaking("h2"), "the port may be that of another service"),
    ] {
        for protocol in BOTH {
            let peer = Peer::start(&pair, setup.clone()).await;
            let url = format!("https://{}", peer.address);
            let text = cause(send(through(protocol, "http://collector.test", url.clone(), &trusted)).await);
            // A request in plain HTTP goes out before a proxy of TLS 1.3 has looked for the certificate.
            let is_named = text.contains(&url) || protocol == Protocol::HttpProtobuf && text.contains("the proxy asks");
            assert!(text.contains(words) && is_named, "{words}, {protocol}: {text}");
            assert!(!text.contains("the endpoint") && !text.contains("CLIENT_"), "{words}, {protocol}: {text}");
            assert_eq!(peer.taken(), 0, "{words}, {protocol}");
        }
    }
}

/// The URL of the proxy has no TLS, and the proxy does.
#[tokio::test]
async fn a_proxy_with_tls_on_its_port_is_said_in_these_words() {
    let root = Authority::new("root");
    let peer = Peer::start(&root.server(&["proxy.test"], Valid::Now), Setup::default()).await;
    for (protocol, words) in [
        (Protocol::Grpc, "an https proxy, whose URL begins with https://"),
        (Protocol::HttpProtobuf, "the proxy speaks TLS on this port: its URL begins with https://"),
    ] {
        let settings = config(protocol, "http://collector.test:4317").with_proxy(format!("http://{}", peer.address));
        let text = cause(send(settings).await);
        assert!(text.contains(words) && !text.contains("endpoint begins"), "{text}");
    }
    assert_eq!(peer.taken(), 0);
}

#[test]
fn a_proxy_whose_host_no_certificate_can_name_is_an_error() {
    let settings = config(Protocol::Grpc, "https://collector.test").with_proxy("https://a..b:3128");
    let text = settings.build().expect_err("no name").to_string();
    assert!(text.contains("with_proxy") && text.contains("no certificate can name"), "{text}");
}
