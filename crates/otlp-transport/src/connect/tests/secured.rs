//! Connections over TLS, with a certificate of the test's own authority.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::peer::Peer;
use super::{BOTH, DELIVERED, Name, advance, calls, settle, transport_of};
use crate::{Config, ConfigBuilder, Protocol};

/// An authority in a file, and the side of a server whose certificate it has signed.
pub(super) struct Secured {
    folder: TempDir,
    pub(super) acceptor: TlsAcceptor,
}

impl Secured {
    pub(super) fn new(protocol: Protocol) -> Self {
        let key = || KeyPair::generate().expect("random numbers");
        let mut params = CertificateParams::new(Vec::new()).expect("no name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("a certificate");
        let (names, key) = (vec!["collector.example".to_owned()], key());
        let certificate =
            CertificateParams::new(names).expect("a name").signed_by(&key, &issuer).expect("a certificate");
        let folder = tempfile::tempdir().expect("space");
        std::fs::write(folder.path().join("authority.pem"), issuer.pem()).expect("space");
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has both versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            )
            .expect("a pair");
        let alpn: &[u8] = if protocol == Protocol::Grpc { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![alpn.to_vec()];
        Self { folder, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    pub(super) fn config(&self, protocol: Protocol) -> ConfigBuilder {
        Config::builder()
            .with_protocol(protocol)
            .with_endpoint("https://collector.example:4319")
            .with_certificate(self.folder.path().join("authority.pem"))
    }
}

/// Lets connections that are being made go on until each of them waits for something. Before a handshake the client
/// looks at its files on the one thread for blocking work: what is queued behind the look comes after it.
async fn settle_with_files() {
    for _ in 0..3 {
        settle().await;
        tokio::task::spawn_blocking(|| ()).await.expect("no panic");
    }
    settle().await;
}

#[test]
fn handshakes_by_tls_of_ten_minutes_with_eight_calls_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.expect("a runtime").block_on(async {
        for (protocol, expected) in BOTH.into_iter().zip([2..=3, 16..=24]) {
            let secured = Secured::new(protocol);
            let peer = Peer::secured(protocol, secured.acceptor.clone());
            let config = secured.config(protocol).build().expect("valid");
            let transport = transport_of(protocol, &Name::of(&[peer.address]), config);
            for second in 0..600 {
                let outcomes = calls(&transport, 8).await;
                assert!(outcomes.iter().all(|outcome| *outcome == DELIVERED), "second {second}: {outcomes:?}");
                settle_with_files().await;
                advance(1).await;
            }
            let (handshakes, resumed) = peer.handshakes();
            println!("{protocol}: {handshakes} handshakes by TLS, {resumed} resumed, for {} calls", peer.requests());
            assert_eq!((peer.requests(), peer.connections()), (4_800, handshakes), "{protocol}: none has failed");
            assert!(expected.contains(&handshakes), "{protocol}: {handshakes} handshakes");
            // Connections of the first round may be made before the first session is there.
            let at_once = if protocol == Protocol::Grpc { 1 } else { 8 };
            let whole = handshakes - resumed;
            assert!((1..=at_once).contains(&whole), "{protocol}: {whole} of {handshakes} resumed no session");
        }
    });
}
