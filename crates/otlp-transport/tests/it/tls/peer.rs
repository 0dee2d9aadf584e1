//! A collector that speaks TLS, and writes down what it sees of each connection.

use std::convert::Infallible;
use std::io::{self, BufReader};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::authority::Pair;
use crate::support::listen;

/// How the peer speaks.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) alpn: Vec<&'static str>,
    /// Clients need a certificate of this authority.
    pub(super) clients: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        let versions = vec![&rustls::version::TLS13, &rustls::version::TLS12];
        Self { versions, alpn: vec!["h2", "http/1.1"], clients: None }
    }
}

/// One connection, as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) version: Option<ProtocolVersion>,
    /// The name that the client asked for.
    pub(super) name: Option<String>,
    pub(super) alpn: Option<String>,
    pub(super) is_resumed: bool,
    /// How many certificates the client showed.
    pub(super) certificates: usize,
    /// The sizes of the request bodies.
    pub(super) bodies: Vec<usize>,
    /// Why the handshake failed.
    pub(super) fault: Option<String>,
}

pub(super) struct Peer {
    pub(super) address: SocketAddr,
    visits: Arc<Mutex<Vec<Visit>>>,
}

/// The provider of the tests' own servers.
pub(super) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_reader_iter(BufReader::new(pem.as_bytes())).collect::<Result<_, _>>().expect("PEM")
}

fn config(pair: &Pair, setup: Setup) -> ServerConfig {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&setup.versions).expect("versions");
    let builder = match setup.clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut store = RootCertStore::empty();
            chain(&authority).into_iter().for_each(|certificate| store.add(certificate).expect("an authority"));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider()).build();
            builder.with_client_cert_verifier(verifier.expect("an authority"))
        }
    };
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let mut config = builder.with_single_cert(chain(&pair.chain), key).expect("a pair");
    config.alpn_protocols = setup.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

impl Peer {
    pub(super) async fn start(pair: &Pair, setup: Setup) -> Self {
        let (listener, address) = listen().await;
        Self::serve(listener, address, config(pair, setup))
    }

    fn serve(listener: TcpListener, address: SocketAddr, config: ServerConfig) -> Self {
        let (visits, acceptor) = (Arc::<Mutex<Vec<Visit>>>::default(), TlsAcceptor::from(Arc::new(config)));
        let log = Arc::clone(&visits);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(visit(stream, acceptor.clone(), Arc::clone(&log)));
            }
        });
        Self { address, visits }
    }

    pub(super) fn visits(&self) -> Vec<Visit> {
        self.visits.lock().expect("not poisoned").clone()
    }

    /// Bytes of requests that came, over all connections.
    pub(super) fn taken(&self) -> usize {
        self.visits().iter().flat_map(|visit| &visit.bodies).sum()
    }
}

async fn visit(stream: TcpStream, acceptor: TlsAcceptor, log: Arc<Mutex<Vec<Visit>>>) {
    let accepted = acceptor.accept(stream).await;
    let number = {
        let mut log = log.lock().expect("not poisoned");
        log.push(seen(&accepted));
        log.len() - 1
    };
    let Ok(stream) = accepted else { return };
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let take = move |len| log.lock().expect("not poisoned")[number].bodies.push(len);
    if is_h2 {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let take = take.clone();
            tokio::spawn(async move {
                let (mut body, mut len) = (request.into_body(), 0);
                while let Some(Ok(data)) = body.data().await {
                    len += data.len();
                    let _ = body.flow_control().release_capacity(data.len());
                }
                take(len);
                let head =
                    Response::builder().header(header::CONTENT_TYPE, "application/grpc").header("grpc-status", "0");
                let _ = respond.send_response(head.body(()).expect("a head"), true);
            });
        }
    } else {
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let take = take.clone();
            async move {
                if let Ok(body) = request.into_body().collect().await {
                    take(body.to_bytes().len());
                }
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
            }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

fn seen(accepted: &io::Result<TlsStream<TcpStream>>) -> Visit {
    match accepted {
        Ok(stream) => {
            let connection = stream.get_ref().1;
            Visit {
                version: connection.protocol_version(),
                name: connection.server_name().map(str::to_owned),
                alpn: connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
                is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
                certificates: connection.peer_certificates().map_or(0, <[_]>::len),
                ..Visit::default()
            }
        }
        Err(error) => Visit { fault: Some(error.to_string()), ..Visit::default() },
    }
}
