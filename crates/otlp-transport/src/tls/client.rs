//! The client's side of TLS: what it trusts, what it shows, and the handshake.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::cause::{self, Secured, Side};
use super::files::{self, Stamp};
use super::pem::{self, Block};
use super::{KeyFile, KeyFiles};
use crate::duplex::Duplex;
use crate::error::ConfigError;
use crate::looks::Looks;
use crate::note::Note;
use crate::protocol::Protocol;
use crate::reading::Reading;

/// Secures the connections of one transport, with the files as they were when they were last good.
pub(crate) struct Client {
    files: KeyFiles,
    trust: Trust,
    looks: Looks<Watch>,
    /// Never held while a file is looked at.
    state: Mutex<State>,
}

struct State {
    /// For gRPC and for HTTP, which differ in their ALPN; or why no connection can be made.
    configs: Result<[Arc<ClientConfig>; 2], String>,
    /// The file system did not answer the last look.
    hangs: bool,
    notes: Vec<Note>,
}

/// The files as the last look has seen them.
struct Watch {
    /// None before the first look.
    material: Option<Material>,
    /// The stamps of the files when they were last read, in the order of [`KeyFiles::iter`]; none for a file that may
    /// change unseen.
    stamps: Vec<Option<Stamp>>,
    /// The stamps of a change that was told, and that no connection has read yet.
    told: Option<Vec<Option<Stamp>>>,
    /// The last fault of a changed file: each is noted once.
    fault: Option<ConfigError>,
}

/// Which authorities a file of them stands beside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// None: those of the file alone.
    Alone,
    /// The built-in ones.
    Beside,
}

impl Client {
    /// Reads and checks the files, and the system's authorities where no file names others. With [`Reading::Later`] the
    /// first connection does, and there is no connection without them.
    ///
    /// # Errors
    /// A [`ConfigError`] names the setting, the file, the block and its line.
    pub(crate) fn new(files: KeyFiles, reading: Reading) -> Result<Self, ConfigError> {
        Self::trusting(files, Trust::Alone, reading)
    }

    /// The client of a proxy. The authorities of the collector are trusted beside the built-in ones: a company's own
    /// authority signs both as a rule, but a proxy may have a public certificate too. No client certificate is shown.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn for_proxy(files: &KeyFiles, reading: Reading) -> Result<Self, ConfigError> {
        Self::trusting(KeyFiles { certificate: None, key: None, ..files.clone() }, Trust::Beside, reading)
    }

    fn trusting(files: KeyFiles, trust: Trust, reading: Reading) -> Result<Self, ConfigError> {
        let mut watch = Watch { material: None, stamps: Vec::new(), told: None, fault: None };
        let mut configs = Err("the files of certificates were not read yet".to_owned());
        match reading {
            Reading::AtOnce => {
                watch.stamps = stamps(&files);
                configs = watch.renew(&files, trust)?.map_or(configs, Ok);
            }
            Reading::Later => {
                pair(&files)?;
            }
        }
        let state = Mutex::new(State { configs, hangs: false, notes: Vec::new() });
        Ok(Self { files, trust, looks: Looks::new(watch), state })
    }

    /// Secures a connection to the peer `name`. Nothing is sent over it before the peer has proved that name.
    ///
    /// # Errors
    /// The cause, with its remedy where there is one.
    pub(crate) async fn handshake(
        self: &Arc<Self>,
        name: ServerName<'static>,
        protocol: Protocol,
        stream: Box<dyn Duplex>,
    ) -> io::Result<Box<dyn Duplex>> {
        let config = self.current(protocol).await.map_err(io::Error::other)?;
        let side = match self.trust {
            Trust::Alone => Side::Collector(protocol),
            Trust::Beside => Side::Proxy,
        };
        match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => Ok(Box::new(Secured::new(stream, side))),
            Err(error) => Err(cause::of_handshake(&error, side)),
        }
    }

    /// The settings for the next connection: a changed file is read, and a broken one leaves the old content in force.
    async fn current(self: &Arc<Self>, protocol: Protocol) -> Result<Arc<ClientConfig>, String> {
        if self.has_files() || self.lock().configs.is_err() {
            let client = Arc::clone(self);
            if self.looks.look(move |watch| client.renew(watch)).await.is_none() {
                self.on_hang();
            }
        }
        let state = self.lock();
        state
            .configs
            .as_ref()
            .map(|configs| Arc::clone(&configs[usize::from(protocol != Protocol::Grpc)]))
            .map_err(Clone::clone)
    }

    /// Takes over what the files hold now. Blocks.
    fn renew(&self, watch: &mut Watch) {
        let stamps = stamps(&self.files);
        let is_first = watch.material.is_none();
        if is_first || watch.stamps.iter().zip(&stamps).any(|(a, b)| a.is_none() || a != b) {
            match watch.renew(&self.files, self.trust) {
                Ok(changed) => {
                    watch.fault = None;
                    changed.into_iter().for_each(|configs| self.lock().configs = Ok(configs));
                }
                Err(fault) => {
                    if watch.fault.as_ref() != Some(&fault) {
                        let mut state = self.lock();
                        let meanwhile = match &mut state.configs {
                            Ok(_) => "connections go on with the content that it had before, until this is mended",
                            Err(why) => {
                                *why = fault.to_string();
                                "no connection is made before this is mended"
                            }
                        };
                        state.notes.push(Note::new(fault.setting(), format!("{fault}; {meanwhile}")));
                        drop(state);
                        watch.fault = Some(fault);
                    }
                }
            }
            (watch.stamps, watch.told) = (stamps, None);
        }
        self.lock().hangs = false;
    }

    fn on_hang(&self) {
        let mut state = self.lock();
        let Some(file) = self.files.iter().next().filter(|_| !state.hangs) else { return };
        state.hangs = true;
        let meanwhile = match &state.configs {
            Ok(_) => "connections go on with the content that it had before",
            Err(_) => "no connection is made before it does",
        };
        let message = format!(
            "{file:?}: its file system, or that of another file of certificates, does not answer; {meanwhile}; check it"
        );
        state.notes.push(Note::new(file.setting, message));
    }

    pub(crate) fn has_files(&self) -> bool {
        self.files.iter().next().is_some()
    }

    /// Whether a file may have another content than the last connection found. True once for each change, so that an
    /// endpoint that no connection reaches is not tried each time. A file that was written in the last two seconds is
    /// said to have changed after that.
    pub(crate) async fn has_changed(self: &Arc<Self>) -> bool {
        let client = Arc::clone(self);
        let look = move |watch: &mut Watch| {
            let now = stamps(&client.files);
            let has_changed = watch.stamps.iter().zip(&now).any(|(before, now)| now.is_some() && before != now);
            let is_new = has_changed && watch.told.as_ref() != Some(&now);
            if is_new {
                watch.told = Some(now);
            }
            is_new
        };
        self.looks.look(look).await.unwrap_or(false)
    }

    /// The notes about files that have become unusable, each once.
    pub(crate) fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut self.lock().notes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.files).finish()
    }
}

/// The name that a peer at `host` must prove; none if no certificate can have it.
pub(crate) fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

/// The stamps of all files that are settled.
#[expect(clippy::disallowed_methods, reason = "compared with the times of files, which the wall clock makes")]
fn stamps(files: &KeyFiles) -> Vec<Option<Stamp>> {
    let now = SystemTime::now();
    files.iter().map(|file| files::stamp(&file.path).filter(|stamp| stamp.is_settled(now))).collect()
}

#[cfg(feature = "tls-ring")]
fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

#[cfg(not(feature = "tls-ring"))]
fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// The content of the files.
#[derive(PartialEq, Eq)]
struct Material {
    /// With the line of each; none where no file names any.
    authorities: Option<Vec<(usize, CertificateDer<'static>)>>,
    chain: Vec<CertificateDer<'static>>,
    key: Option<PrivateKeyDer<'static>>,
}

impl Material {
    fn read(files: &KeyFiles) -> Result<Self, ConfigError> {
        let authorities = files.authorities.as_ref().map(certificates).transpose()?;
        let (chain, key) = match pair(files)? {
            None => (Vec::new(), None),
            Some((certificate, key)) => (certificates(certificate)?, Some(private_key(key)?)),
        };
        Ok(Self { authorities, chain: chain.into_iter().map(|(_, der)| der).collect(), key })
    }

    /// TLS 1.2 and 1.3, sessions resumed, no early data: that would be sent before the peer has proved its name.
    fn configs(&self, files: &KeyFiles, trust: Trust) -> Result<[Arc<ClientConfig>; 2], ConfigError> {
        let given = match (&self.authorities, &files.authorities) {
            (Some(authorities), Some(file)) => Some(store_of(authorities, file)?),
            _ => None,
        };
        let authorities = match given {
            Some(given) if trust == Trust::Alone => given,
            given => {
                let (mut store, problem) = built_in();
                store.extend(given.into_iter().flat_map(|given| given.roots));
                if store.is_empty() {
                    return Err(ConfigError::NoAuthorities { problem });
                }
                store
            }
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the cipher suites of TLS 1.2 and 1.3")
            .with_root_certificates(authorities);
        let config = match (&self.key, &files.certificate, &files.key) {
            (Some(key), Some(certificate), Some(file)) => builder
                .with_client_auth_cert(self.chain.clone(), key.clone_key())
                .map_err(|error| pair_fault(certificate, file, &error))?,
            _ => builder.with_no_client_auth(),
        };
        let with_alpn = |mut config: ClientConfig, name: &[u8]| {
            config.alpn_protocols = vec![name.to_vec()];
            Arc::new(config)
        };
        Ok([with_alpn(config.clone(), b"h2"), with_alpn(config, b"http/1.1")])
    }
}

impl Watch {
    /// The settings for what the files hold now; none for the same content as before, which keeps its sessions.
    fn renew(&mut self, files: &KeyFiles, trust: Trust) -> Result<Option<[Arc<ClientConfig>; 2]>, ConfigError> {
        let material = Material::read(files)?;
        if self.material.as_ref() == Some(&material) {
            return Ok(None);
        }
        let configs = material.configs(files, trust)?;
        self.material = Some(material);
        Ok(Some(configs))
    }
}

/// The files of the client's certificate and of its key, of which none goes without the other.
fn pair(files: &KeyFiles) -> Result<Option<(&KeyFile, &KeyFile)>, ConfigError> {
    match (&files.certificate, &files.key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (Some(file), None) => Err(lonely(file, "a client certificate needs its private key", "CLIENT_KEY")),
        (None, Some(file)) => Err(lonely(file, "a private key needs its certificate", "CLIENT_CERTIFICATE")),
    }
}

fn fault(file: &KeyFile, problem: String) -> ConfigError {
    ConfigError::KeyFile { setting: file.setting, path: file.shown(), problem }
}

fn lonely(file: &KeyFile, why: &str, other: &str) -> ConfigError {
    fault(file, format!("stands alone: {why}; set OTEL_EXPORTER_OTLP_{other} too, which may name the same file"))
}

/// The certificates of a file, with the line of each.
fn certificates(file: &KeyFile) -> Result<Vec<(usize, CertificateDer<'static>)>, ConfigError> {
    let blocks = files::read(&file.path).map_err(|problem| fault(file, problem))?;
    let labels = labels(&blocks);
    let found: Vec<_> = blocks
        .into_iter()
        .filter(|block| matches!(block.label.as_str(), "CERTIFICATE" | "X509 CERTIFICATE"))
        .map(|block| (block.line, CertificateDer::from(block.der)))
        .collect();
    if found.is_empty() {
        return Err(fault(file, format!("has no block CERTIFICATE, but {labels}")));
    }
    for (line, certificate) in &found {
        if let Err(error) = rustls::server::ParsedCertificate::try_from(certificate) {
            let problem = format!("the block CERTIFICATE of line {line} holds no X.509 certificate ({error})");
            return Err(fault(file, problem));
        }
    }
    Ok(found)
}

/// The private key of a file, in one of the three usual forms.
fn private_key(file: &KeyFile) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let blocks = files::read(&file.path).map_err(|problem| fault(file, problem))?;
    let labels = labels(&blocks);
    for Block { label, line, der } in blocks {
        let key = match label.as_str() {
            "PRIVATE KEY" => PrivateKeyDer::Pkcs8(der.into()),
            "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(der.into()),
            "EC PRIVATE KEY" => PrivateKeyDer::Sec1(der.into()),
            "ENCRYPTED PRIVATE KEY" => return Err(fault(file, pem::encrypted(&label, line))),
            _ => continue,
        };
        // Told apart from a key that belongs to another certificate.
        return match provider().key_provider.load_private_key(key.clone_key()) {
            Ok(_) => Ok(key),
            Err(error) => Err(fault(
                file,
                format!(
                    "the block {label} of line {line} holds no key that can be used ({error}); accepted are RSA keys of \
                     2048 bits or more, ECDSA keys on P-256 or P-384, and Ed25519 keys"
                ),
            )),
        };
    }
    let accepted = "accepted are PRIVATE KEY (PKCS#8), RSA PRIVATE KEY (PKCS#1) and EC PRIVATE KEY (SEC1)";
    Err(fault(file, format!("has no private key, but {labels}; {accepted}")))
}

fn labels(blocks: &[Block]) -> String {
    let labels: Vec<_> = blocks.iter().map(|block| format!("{} (line {})", block.label, block.line)).collect();
    match labels.len() {
        0..=3 => labels.join(", "),
        more => format!("{} and {} more blocks", labels[..3].join(", "), more - 3),
    }
}

fn pair_fault(certificate: &KeyFile, key: &KeyFile, error: &rustls::Error) -> ConfigError {
    let problem = match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "is not the key of the first certificate in {} ({}); that file begins with this client's own certificate",
            certificate.shown(),
            certificate.setting
        ),
        other => format!("cannot be used with the certificate in {}: {other}", certificate.shown()),
    };
    fault(key, problem)
}

/// The authorities of the file, and no others.
fn store_of(authorities: &[(usize, CertificateDer<'static>)], file: &KeyFile) -> Result<RootCertStore, ConfigError> {
    let mut store = RootCertStore::empty();
    for (line, certificate) in authorities {
        if let Err(error) = store.add(certificate.clone()) {
            let problem = format!("the block CERTIFICATE of line {line} cannot be an authority ({error})");
            return Err(fault(file, problem));
        }
    }
    Ok(store)
}

/// The authorities that are built in, or why there are none.
fn built_in() -> (RootCertStore, String) {
    let store = RootCertStore::empty();
    #[cfg(feature = "tls-webpki-roots")]
    let store = RootCertStore { roots: [store.roots, webpki_roots::TLS_SERVER_ROOTS.to_vec()].concat() };
    #[cfg(feature = "tls-native-roots")]
    return with_native(store);
    #[cfg(not(feature = "tls-native-roots"))]
    (store, "this build has neither the feature tls-native-roots nor tls-webpki-roots".to_owned())
}

/// The store and the system's authorities. The variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
#[cfg(feature = "tls-native-roots")]
fn with_native(mut store: RootCertStore) -> (RootCertStore, String) {
    let found = rustls_native_certs::load_native_certs();
    let (_, unusable) = store.add_parsable_certificates(found.certs);
    let problem = match found.errors.first() {
        Some(error) => format!("the system's certificates cannot be read ({error})"),
        None if unusable > 0 => format!("none of the system's {unusable} certificates can be used"),
        None => "the system has none: its package of certificates (ca-certificates) is missing".to_owned(),
    };
    (store, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::looks::PATIENCE;

    /// A client whose authorities are in a file of this directory.
    fn client(dir: &std::path::Path) -> Arc<Client> {
        let path = dir.join("ca.pem");
        std::fs::write(&path, include_str!("../../tests/it/tls/keys/weak.ca.pem")).expect("written");
        let authorities = Some(KeyFile { setting: "with_certificate", path });
        Arc::new(Client::new(KeyFiles { authorities, ..KeyFiles::default() }, Reading::AtOnce).expect("a good file"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_system_that_hangs_leaves_the_last_good_content_and_one_thread() {
        let dir = tempfile::tempdir().expect("a directory");
        let client = client(dir.path());
        // The thread of the first look has not come back.
        let hangs = Arc::clone(&client.looks.watch).lock_owned().await;
        let begun = tokio::time::Instant::now();
        let used = client.current(Protocol::Grpc).await.expect("the last good content");
        assert!(client.lock().configs.as_ref().is_ok_and(|configs| Arc::ptr_eq(&used, &configs[0])));
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
        client.current(Protocol::Grpc).await.expect("the last good content");
        assert!(!client.has_changed().await);
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs(), "later connections wait no more");
        let notes = client.take_notes();
        assert!(notes.len() == 1 && notes[0].message.contains("ca.pem"), "{notes:?}");
        assert!(notes[0].message.contains("does not answer"), "{notes:?}");
        drop(hangs);
        client.current(Protocol::Grpc).await.expect("the same content");
        assert!(!client.lock().hangs);
    }
}
