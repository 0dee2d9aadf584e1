//! Certificates of the tests' own authorities.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

/// An authority, or one below another.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Certificates of the authorities between this one and the root, its own first; none for a root.
    between: String,
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub(super) enum Valid {
    Now,
    Past,
    Future,
}

/// A certificate with its chain and its key, as PEM.
pub(super) struct Pair {
    pub(super) chain: String,
    /// The first certificate alone.
    pub(super) leaf: String,
    pub(super) key: String,
}

fn params(name: &str, hosts: &[&str], valid: Valid) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("names");
    params.distinguished_name.push(DnType::CommonName, name);
    let (from, to) = match valid {
        Valid::Now => (2020, 4000),
        Valid::Past => (2019, 2020),
        Valid::Future => (3000, 4000),
    };
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    params
}

fn issuer_params(name: &str) -> CertificateParams {
    let mut params = params(name, &[], Valid::Now);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn key() -> KeyPair {
    KeyPair::generate().expect("random numbers")
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(issuer_params(name), key()).expect("a certificate");
        Self { issuer, between: String::new() }
    }

    /// An authority that this one has signed.
    pub(super) fn below(&self, name: &str) -> Self {
        let issuer = CertifiedIssuer::signed_by(issuer_params(name), key(), &self.issuer).expect("a certificate");
        let between = format!("{}{}", issuer.pem(), self.between);
        Self { issuer, between }
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a server that has these names.
    pub(super) fn server(&self, hosts: &[&str], valid: Valid) -> Pair {
        self.sign(params("a server", hosts, valid), ExtendedKeyUsagePurpose::ServerAuth, key())
    }

    /// A certificate for a client.
    pub(super) fn client(&self, valid: Valid) -> Pair {
        self.client_with(valid, key())
    }

    pub(super) fn client_with(&self, valid: Valid, key: KeyPair) -> Pair {
        self.sign(params("a client", &["a-client"], valid), ExtendedKeyUsagePurpose::ClientAuth, key)
    }

    fn sign(&self, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose, key: KeyPair) -> Pair {
        params.extended_key_usages = vec![purpose];
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { chain: format!("{leaf}{}", self.between), leaf, key: key.serialize_pem() }
    }
}

/// A certificate that no authority has signed.
pub(super) fn self_signed(hosts: &[&str], is_authority: bool) -> Pair {
    let mut params = params("a server by itself", hosts, Valid::Now);
    if is_authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = key();
    let leaf = params.self_signed(&key).expect("a certificate").pem();
    Pair { chain: leaf.clone(), leaf, key: key.serialize_pem() }
}

/// A folder of files that are gone with it.
pub(super) struct Files(TempDir);

impl Files {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("space"))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file as a tool does that changes it in place.
    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("space");
        path
    }

    pub(super) fn dir(&self) -> &Path {
        self.0.path()
    }
}
