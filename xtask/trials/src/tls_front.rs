//! TLS in front of a collector, in a process of its own: its work counts for no exporter, and each exporter meets the
//! same certificate, version and cipher suite.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use mock_collector::ChildCollector;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::Failure;

/// The host of both endpoints, which the certificate names.
const HOST: &str = "127.0.0.1";

/// A running front; dropping it ends the process.
#[derive(Debug)]
pub struct TlsFront {
    child: Child,
    grpc: SocketAddr,
    http: SocketAddr,
    authority: PathBuf,
}

impl TlsFront {
    /// Starts `program tls-front`, which is this package's own, before this collector. The certificate of its authority
    /// is written into `folder`.
    ///
    /// # Errors
    ///
    /// When the process does not start or does not listen.
    pub fn start(program: &Path, folder: &Path, collector: &ChildCollector) -> Result<Self, Failure> {
        let address = |endpoint: String| endpoint.trim_start_matches("http://").to_owned();
        let mut child = Command::new(program)
            .args(["tls-front", &address(collector.grpc_endpoint()), &address(collector.http_endpoint())])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let read = child.stdout.as_mut().map(|output| BufReader::new(output).read_line(&mut line)).transpose();
        let front = |[grpc, http]: [SocketAddr; 2], child| Self { child, grpc, http, authority: authority(folder) };
        let addresses = read.ok().and_then(|_| {
            let mut addresses = line.split_whitespace().map(str::parse);
            Some([addresses.next()?.ok()?, addresses.next()?.ok()?])
        });
        match addresses {
            Some(addresses) => Ok(front(addresses, child)),
            None => {
                let _ = child.kill(); // an error means that it is dead
                let _ = child.wait();
                Err(format!("the front greeted with {line:?}, and not with two addresses").into())
            }
        }
    }

    /// Where it takes OTLP/gRPC.
    #[must_use]
    pub fn grpc_endpoint(&self) -> String {
        format!("https://{}", self.grpc)
    }

    /// Where it takes OTLP/HTTP, without the path of the signal.
    #[must_use]
    pub fn http_endpoint(&self) -> String {
        format!("https://{}", self.http)
    }

    /// The file of the authority that has signed its certificate.
    #[must_use]
    pub fn authority(&self) -> &Path {
        &self.authority
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        let _ = self.child.kill(); // an error means that it is dead
        let _ = self.child.wait();
    }
}

fn authority(folder: &Path) -> PathBuf {
    folder.join("authority.pem")
}

/// Runs the front before these addresses of a collector, until standard input ends. Prints its own two addresses.
///
/// # Errors
///
/// When it cannot listen, or the folder cannot be written.
pub fn serve(grpc: &str, http: &str, folder: &Path) -> Result<(), Failure> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(authority(folder), issuer.pem())?;
    let mut params = CertificateParams::new(vec![HOST.to_owned()])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der())?;

    // One suite, so that no exporter chooses another than its peer.
    let cipher_suites = vec![ring::cipher_suite::TLS13_AES_256_GCM_SHA384];
    let provider = CryptoProvider { cipher_suites, ..ring::default_provider() };
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let acceptor = |alpn: &[u8]| {
        let mut config = config.clone();
        config.alpn_protocols = vec![alpn.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    };

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut addresses = Vec::new();
    for (target, acceptor) in [(grpc, acceptor(b"h2")), (http, acceptor(b"http/1.1"))] {
        let (target, listener) = (target.parse()?, runtime.block_on(TcpListener::bind((HOST, 0)))?);
        addresses.push(listener.local_addr()?.to_string());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(forward(stream, acceptor.clone(), target));
            }
        });
    }
    println!("{}", addresses.join(" "));
    io::stdout().flush()?;
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Carries one connection. Its end, in whichever way, is for its two peers to notice.
async fn forward(stream: TcpStream, acceptor: TlsAcceptor, target: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut secured = acceptor.accept(stream).await?;
    let mut plain = TcpStream::connect(target).await?;
    plain.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut secured, &mut plain).await.map(drop)
}
