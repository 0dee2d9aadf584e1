//! TLS by rustls, with a provider that is named here: the default provider of a process panics where two are built in.

#[cfg(feature = "_tls")]
mod cause;
#[cfg(feature = "_tls")]
mod client;
#[cfg(feature = "_tls")]
mod files;
#[cfg(feature = "_tls")]
mod pem;

use std::fmt;
use std::path::PathBuf;

use crate::secrets::before_next;

#[cfg(feature = "_tls")]
pub(crate) use client::{Client, server_name};

/// Whether TLS is built in.
pub(crate) const IS_BUILT_IN: bool = cfg!(feature = "_tls");

/// A file of key material, with the variable or the method that names it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeyFile {
    pub(crate) setting: &'static str,
    pub(crate) path: PathBuf,
}

impl KeyFile {
    /// The path, as far as it is no other variable behind it.
    pub(crate) fn shown(&self) -> String {
        before_next(&self.path.to_string_lossy()).into_owned()
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.setting, self.shown())
    }
}

/// The files that a user names, all of them PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyFiles {
    /// The authorities that are trusted, and no others.
    pub(crate) authorities: Option<KeyFile>,
    /// The certificate of this client, with those between it and its authority.
    pub(crate) certificate: Option<KeyFile>,
    /// The private key of this client.
    pub(crate) key: Option<KeyFile>,
}

impl KeyFiles {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &KeyFile> {
        [&self.authorities, &self.certificate, &self.key].into_iter().flatten()
    }
}
