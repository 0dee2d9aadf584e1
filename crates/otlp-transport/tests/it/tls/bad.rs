//! Peers that cannot prove their name, and clients that a peer does not accept. Nothing of a payload leaves.

use otlp_transport::Protocol;

use super::authority::{Authority, Files, Pair, Valid, self_signed};
use super::peer::{Peer, Setup};
use super::{BOTH, assert_delivered, cause, config, send, transport};
use crate::support::payload;

async fn assert_refused(what: &str, pair: &Pair, trusted: &str, parts: &[&str]) {
    let files = Files::new();
    let trusted = files.write("ca.pem", trusted);
    for protocol in BOTH {
        let peer = Peer::start(pair, Setup::default()).await;
        let endpoint = format!("https://localhost:{}", peer.address.port());
        let text = cause(send(config(protocol, endpoint).with_certificate(&trusted)).await);
        assert!(parts.iter().all(|part| text.contains(part)), "{what}, {protocol}: {text}");
        let visits = peer.visits();
        // One handshake, and no second try in another way.
        assert!(visits.len() <= 1, "{what}: {visits:?}");
        assert!(visits.iter().all(|visit| visit.fault.is_some()), "{what}: {visits:?}");
        assert_eq!(peer.taken(), 0, "{what}");
    }
}

#[tokio::test]
async fn a_peer_that_cannot_prove_its_name_gets_nothing() {
    let (root, other) = (Authority::new("root"), Authority::new("other"));
    let hosts = &["localhost"];
    for (what, pair, parts) in [
        ("expired", root.server(hosts, Valid::Past), &["has expired", "clocks"][..]),
        ("not yet valid", root.server(hosts, Valid::Future), &["not valid yet", "clocks"]),
        ("another host", root.server(&["example.org"], Valid::Now), &["another host", "localhost", "example.org"]),
        ("unknown authority", other.server(hosts, Valid::Now), &["no authority", "OTEL_EXPORTER_OTLP_CERTIFICATE"]),
        ("self-signed", self_signed(hosts, false), &["no authority", "OTEL_EXPORTER_OTLP_CERTIFICATE"]),
        ("a client's", root.client(Valid::Now), &["certificate"]),
    ] {
        assert_refused(what, &pair, &root.pem(), parts).await;
    }
    let below = root.below("between").server(hosts, Valid::Now);
    let without = Pair { chain: below.leaf.clone(), leaf: below.leaf, key: below.key };
    assert_refused("missing intermediate", &without, &root.pem(), &["no authority", "leaves out"]).await;
    let itself = self_signed(hosts, true);
    assert_refused("an authority's own", &itself, &itself.leaf, &["authority's own certificate"]).await;
}

/// An authority with an RSA key of 1024 bits, and a client with one.
#[tokio::test]
async fn a_key_that_is_too_weak_proves_nothing() {
    let key = include_str!("keys/ec.pkcs8.pem").to_owned();
    let leaf = include_str!("keys/below-weak.cert.pem").to_owned();
    let below = Pair { chain: leaf.clone(), leaf, key };
    assert_refused("a weak authority", &below, include_str!("keys/weak.ca.pem"), &["certificate", "too weak: RSA"])
        .await;

    let files = Files::new();
    let certificate = files.write("weak.pem", include_str!("keys/weak.cert.pem"));
    let key = files.write("key.pem", include_str!("keys/weak.pkcs8.pem"));
    let settings = config(Protocol::Grpc, "https://localhost:1").with_client_certificate(certificate);
    let text = settings.with_client_key(key).build().expect_err("a weak key").to_string();
    assert!(text.contains("line 1") && text.contains("2048 bits"), "{text}");
}

#[tokio::test]
async fn a_client_that_the_peer_does_not_accept_is_told_why_and_is_no_duplicate() {
    let (root, other) = (Authority::new("root"), Authority::new("other"));
    let files = Files::new();
    let trusted = files.write("ca.pem", root.pem());
    let variables = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for protocol in BOTH {
            for (what, client, parts) in [
                ("none", None, &["client certificate", variables][..]),
                ("another authority's", Some(other.client(Valid::Now)), &["client certificate", variables]),
                ("expired", Some(root.client(Valid::Past)), &["refuses the client certificate", "Expired"]),
            ] {
                let setup = Setup { versions: vec![version], clients: Some(root.pem()), ..Setup::default() };
                let peer = Peer::start(&root.server(&["localhost"], Valid::Now), setup).await;
                let endpoint = format!("https://localhost:{}", peer.address.port());
                let mut settings = config(protocol, endpoint).with_certificate(&trusted);
                if let Some(client) = client {
                    let certificate = files.write("c.pem", client.chain);
                    let key = files.write("k.pem", client.key);
                    settings = settings.with_client_certificate(certificate).with_client_key(key);
                }
                let text = cause(send(settings).await);
                let context = format!("{what}, {:?}, {protocol}: {text}", version.version);
                assert!(parts.iter().all(|part| text.contains(part)), "{context}");
                assert_eq!(peer.taken(), 0, "{context}");
            }
        }
    }
}

#[tokio::test]
async fn a_peer_of_the_other_http_version_is_named() {
    let (files, root) = (Files::new(), Authority::new("root"));
    let trusted = files.write("ca.pem", root.pem());
    for (protocol, alpn, parts) in [
        (Protocol::Grpc, "http/1.1", ["HTTP/2", "http/protobuf"]),
        (Protocol::HttpProtobuf, "h2", ["HTTP/1.1", "grpc"]),
    ] {
        let setup = Setup { alpn: vec![alpn], ..Setup::default() };
        let peer = Peer::start(&root.server(&["localhost"], Valid::Now), setup).await;
        let endpoint = format!("https://localhost:{}", peer.address.port());
        let text = cause(send(config(protocol, endpoint).with_certificate(&trusted)).await);
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        assert_eq!(peer.taken(), 0);
    }
}

/// The system's authorities have not signed the tests' certificates.
#[tokio::test]
async fn without_a_file_the_built_in_authorities_are_trusted() {
    let root = Authority::new("root");
    let peer = Peer::start(&root.server(&["localhost"], Valid::Now), Setup::default()).await;
    let endpoint = format!("https://localhost:{}", peer.address.port());
    let text = cause(send(config(Protocol::Grpc, &endpoint)).await);
    assert!(text.contains("no authority"), "{text}");

    // And a transport that has failed goes on with the next call.
    let files = Files::new();
    let trusted = files.write("ca.pem", Authority::new("other").pem());
    let transport = transport(config(Protocol::Grpc, &endpoint).with_certificate(&trusted));
    assert!(cause(transport.send(&payload()).await).contains("no authority"));
    files.write("ca.pem", root.pem());
    assert_delivered(&transport.send(&payload()).await);
}
