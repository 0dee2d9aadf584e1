//! Certificates of authorities that live as long as a check.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::Failure;

/// Signs certificates.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// As PEM.
    key: String,
    /// Certificates of the authorities between this one and the root, its own first; none for a root.
    between: String,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Valid {
    Now,
    Past,
    Future,
}

/// Files of a certificate, with those between it and the root, and of its key.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Pair {
    fn write(folder: &Path, name: &str, chain: &str, key: &str) -> Result<Self, Failure> {
        let pair = Self { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
        fs::write(&pair.certificate, chain)?;
        fs::write(&pair.key, key)?;
        Ok(pair)
    }

    /// A server's that no authority has signed.
    pub(super) fn self_signed(folder: &Path, name: &str, hosts: &[&str]) -> Result<Self, Failure> {
        let key = KeyPair::generate()?;
        Self::write(folder, name, &params(name, hosts, Valid::Now)?.self_signed(&key)?.pem(), &key.serialize_pem())
    }

    /// The same without the certificates behind the first one.
    pub(super) fn without_chain(&self, folder: &Path, name: &str) -> Result<Self, Failure> {
        const END: &str = "-----END CERTIFICATE-----";
        let chain = fs::read_to_string(&self.certificate)?;
        let (first, _) = chain.split_once(END).ok_or("no certificate in PEM")?;
        Self::write(folder, name, &format!("{first}{END}\n"), &fs::read_to_string(&self.key)?)
    }
}

fn params(name: &str, hosts: &[&str], valid: Valid) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, name);
    let (from, to) = match valid {
        Valid::Now => (2020, 4000),
        Valid::Past => (2019, 2020),
        Valid::Future => (3000, 4000),
    };
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    Ok(params)
}

fn issuer_params(name: &str) -> Result<CertificateParams, Failure> {
    let mut params = params(name, &[], Valid::Now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

impl Authority {
    pub(super) fn new(name: &str) -> Result<Self, Failure> {
        let key = KeyPair::generate()?;
        let pem = key.serialize_pem();
        let issuer = CertifiedIssuer::self_signed(issuer_params(name)?, key)?;
        Ok(Self { issuer, key: pem, between: String::new() })
    }

    /// An authority that this one has signed.
    pub(super) fn below(&self, name: &str) -> Result<Self, Failure> {
        let key = KeyPair::generate()?;
        let pem = key.serialize_pem();
        let issuer = CertifiedIssuer::signed_by(issuer_params(name)?, key, &self.issuer)?;
        let between = format!("{}{}", issuer.pem(), self.between);
        Ok(Self { issuer, key: pem, between })
    }

    /// Writes its certificate.
    pub(super) fn write(&self, folder: &Path, name: &str) -> Result<PathBuf, Failure> {
        let path = folder.join(format!("{name}.pem"));
        fs::write(&path, self.issuer.pem())?;
        Ok(path)
    }

    /// Writes its certificate and its key, for another program that signs.
    pub(super) fn write_with_key(&self, folder: &Path, name: &str) -> Result<Pair, Failure> {
        Pair::write(folder, name, &self.issuer.pem(), &self.key)
    }

    /// A certificate for a server of these hosts.
    pub(super) fn server(&self, folder: &Path, name: &str, hosts: &[&str], valid: Valid) -> Result<Pair, Failure> {
        self.sign(folder, name, params(name, hosts, valid)?, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for a client.
    pub(super) fn client(&self, folder: &Path, name: &str, valid: Valid) -> Result<Pair, Failure> {
        self.sign(folder, name, params(name, &[name], valid)?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(
        &self,
        folder: &Path,
        name: &str,
        mut params: CertificateParams,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<Pair, Failure> {
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate()?;
        let chain = format!("{}{}", params.signed_by(&key, &self.issuer)?.pem(), self.between);
        Pair::write(folder, name, &chain, &key.serialize_pem())
    }
}
