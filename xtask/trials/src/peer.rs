//! The collector that a measuring program sends to, plain or behind TLS, in processes of its own.

use std::path::Path;

use mock_collector::{ChildCollector, Received};
use otlp_transport::ConfigBuilder;
use tempfile::TempDir;

use crate::Failure;
use crate::contender::{self, Protocol};
use crate::tls_front::TlsFront;

/// The program of this package that serves as the collector and as its front; it stands beside the measuring ones.
const PROGRAM: &str = "trials";

/// A running collector, for one protocol; dropping it ends its processes.
#[derive(Debug)]
pub struct Peer {
    /// How requests are carried to it.
    pub protocol: Protocol,
    front: Option<TlsFront>,
    collector: ChildCollector,
    _folder: TempDir,
}

impl Peer {
    /// The names that [`start`](Self::start) knows.
    pub const NAMES: &str = "grpc|http|grpc-tls|http-tls";

    /// Starts the collector with this name.
    ///
    /// # Errors
    ///
    /// When the name is unknown, or a process does not start.
    pub fn start(name: &str) -> Result<Self, Failure> {
        let (protocol, is_tls) = match name {
            "grpc" => (Protocol::Grpc, false),
            "http" => (Protocol::Http, false),
            "grpc-tls" => (Protocol::Grpc, true),
            "http-tls" => (Protocol::Http, true),
            _ => return Err(format!("{name:?} is none of {}", Self::NAMES).into()),
        };
        let program = std::env::current_exe()?.with_file_name(PROGRAM);
        let collector = ChildCollector::start(&program, ["collector"])?;
        let folder = tempfile::tempdir()?;
        let front = is_tls.then(|| TlsFront::start(&program, folder.path(), &collector)).transpose()?;
        Ok(Self { protocol, front, collector, _folder: folder })
    }

    /// Where it takes OTLP.
    #[must_use]
    pub fn endpoint(&self) -> String {
        match (self.protocol, &self.front) {
            (Protocol::Grpc, None) => self.collector.grpc_endpoint(),
            (Protocol::Http, None) => self.collector.http_endpoint(),
            (Protocol::Grpc, Some(front)) => front.grpc_endpoint(),
            (Protocol::Http, Some(front)) => front.http_endpoint(),
        }
    }

    /// The file of the authority that has signed its certificate, if it speaks TLS.
    #[must_use]
    pub fn authority(&self) -> Option<&Path> {
        self.front.as_ref().map(TlsFront::authority)
    }

    /// The counts of the collector since its start.
    ///
    /// # Errors
    ///
    /// When its process is dead.
    pub fn received(&mut self) -> Result<Received, Failure> {
        Ok(self.collector.received()?)
    }

    /// The settings of a transport of ours to it.
    pub fn config(&self) -> ConfigBuilder {
        let config = contender::config(self.protocol, &self.endpoint());
        match self.authority() {
            Some(authority) => config.with_certificate(authority),
            None => config,
        }
    }
}
