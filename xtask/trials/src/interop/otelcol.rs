//! The Collector as a process.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mock_collector::SpanIds;
use resilient_exporter::Signal;

use super::Setup;
use crate::canonical::{self, Spans};
use crate::contender::Protocol;
use crate::{Failure, wait_until};

/// A Collector that is started, killed and started again at the same places, with the same record.
pub(super) struct Otelcol<'a> {
    setup: &'a Setup,
    config: &'static str,
    folder: PathBuf,
    places: Places,
    /// What the configuration needs beside the places and the record.
    vars: Vec<(&'static str, OsString)>,
    child: Option<Child>,
}

/// Where it listens: for gRPC, and for HTTP.
enum Places {
    Plain(SocketAddr, SocketAddr),
    Tls(SocketAddr, SocketAddr),
    Sockets(PathBuf, PathBuf),
}

/// Files of a Collector that speaks TLS, and its newest version of TLS: `1.2` or `1.3`.
pub(super) struct TlsFiles<'a> {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// The authority of its clients.
    pub(super) client_ca: PathBuf,
    pub(super) version: &'a str,
}

/// The line of the Collector's log that reports that every receiver listens or watches.
const READY: &str = "Everything is ready";

/// Starting takes about a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);

impl<'a> Otelcol<'a> {
    /// Takes OTLP over gRPC and HTTP; its record and its log lie in `folder`.
    pub(super) fn otlp(setup: &'a Setup, folder: &Path) -> Result<Self, Failure> {
        Self::otlp_at(setup, folder, Ipv4Addr::LOCALHOST)
    }

    /// The same at another address of this machine.
    pub(super) fn otlp_at(setup: &'a Setup, folder: &Path, at: Ipv4Addr) -> Result<Self, Failure> {
        Self::otlp_on(setup, folder, free(at)?)
    }

    /// The same at these places, for gRPC and for HTTP.
    pub(super) fn otlp_on(setup: &'a Setup, folder: &Path, [grpc, http]: [SocketAddr; 2]) -> Result<Self, Failure> {
        Self::start_with(setup, "otlp.yaml", folder, Places::Plain(grpc, http), vec![])
    }

    /// The same by TLS, for clients that have a certificate.
    pub(super) fn tls(setup: &'a Setup, folder: &Path, files: TlsFiles<'_>) -> Result<Self, Failure> {
        let [grpc, http] = free(Ipv4Addr::LOCALHOST)?;
        let vars = vec![
            ("INTEROP_CERTIFICATE", files.certificate.into()),
            ("INTEROP_KEY", files.key.into()),
            ("INTEROP_CLIENT_CA", files.client_ca.into()),
            ("INTEROP_TLS", files.version.into()),
        ];
        Self::start_with(setup, "tls.yaml", folder, Places::Tls(grpc, http), vars)
    }

    /// The same on Unix sockets in `folder`.
    pub(super) fn sockets(setup: &'a Setup, folder: &Path) -> Result<Self, Failure> {
        let places = Places::Sockets(folder.join("grpc.sock"), folder.join("http.sock"));
        Self::start_with(setup, "sockets.yaml", folder, places, vec![])
    }

    /// The same for clients that have the token.
    pub(super) fn auth(setup: &'a Setup, folder: &Path, token: &str) -> Result<Self, Failure> {
        let [grpc, http] = free(Ipv4Addr::LOCALHOST)?;
        let vars = vec![("INTEROP_TOKEN", token.into())];
        Self::start_with(setup, "auth.yaml", folder, Places::Plain(grpc, http), vars)
    }

    /// The same, with smaller limits on requests.
    pub(super) fn limited(setup: &'a Setup, folder: &Path) -> Result<Self, Failure> {
        let [grpc, http] = free(Ipv4Addr::LOCALHOST)?;
        Self::start_with(setup, "limited.yaml", folder, Places::Plain(grpc, http), vec![])
    }

    /// The same, with its record in protobuf too, beside the other.
    pub(super) fn both_forms(setup: &'a Setup, folder: &Path) -> Result<Self, Failure> {
        let [grpc, http] = free(Ipv4Addr::LOCALHOST)?;
        Self::start_with(setup, "proto.yaml", folder, Places::Plain(grpc, http), vec![])
    }

    /// Reads the files that `pattern` names; its record and its log lie in `folder`.
    pub(super) fn files(setup: &'a Setup, folder: &Path, pattern: String) -> Result<Self, Failure> {
        let [grpc, http] = free(Ipv4Addr::LOCALHOST)?;
        let vars = vec![("INTEROP_FILES", pattern.into())];
        Self::start_with(setup, "files.yaml", folder, Places::Plain(grpc, http), vars)
    }

    /// Takes logs and metrics, by OTLP and from the files that `pattern` names; its records and its log lie in
    /// `folder`.
    pub(super) fn signals(setup: &'a Setup, folder: &Path, pattern: &Path) -> Result<Self, Failure> {
        let [grpc, http] = free(Ipv4Addr::LOCALHOST)?;
        let vars = vec![("INTEROP_FILES", pattern.into())];
        Self::start_with(setup, "signals.yaml", folder, Places::Plain(grpc, http), vars)
    }

    fn start_with(
        setup: &'a Setup,
        config: &'static str,
        folder: &Path,
        places: Places,
        vars: Vec<(&'static str, OsString)>,
    ) -> Result<Self, Failure> {
        let mut collector = Self { setup, config, folder: folder.to_owned(), places, vars, child: None };
        collector.start()?;
        Ok(collector)
    }

    pub(super) fn start(&mut self) -> Result<(), Failure> {
        let log = File::create(self.log())?;
        let (grpc, http): (OsString, OsString) = match &self.places {
            Places::Plain(grpc, http) | Places::Tls(grpc, http) => (grpc.to_string().into(), http.to_string().into()),
            Places::Sockets(grpc, http) => {
                // A killed Collector leaves them behind, and does not start while they are there.
                for path in [grpc, http] {
                    if path.exists() {
                        fs::remove_file(path)?;
                    }
                }
                (grpc.into(), http.into())
            }
        };
        let child = Command::new(&self.setup.program)
            .arg("--config")
            .arg(self.setup.configs.join(self.config))
            .env("INTEROP_GRPC", grpc)
            .env("INTEROP_HTTP", http)
            .env("INTEROP_RECORD", self.record())
            .envs(self.vars.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        let ready = wait_until("the Collector", START_LIMIT, || {
            self.log_text().is_ok_and(|text| text.contains(READY)) || self.has_ended()
        });
        if ready.is_err() || self.has_ended() {
            return Err(format!("the Collector did not start; its log says\n{}", self.log_text()?).into());
        }
        Ok(())
    }

    /// Ends it at once, as a crash does, and makes sure that its places refuse.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        let reached = match &self.places {
            Places::Plain(grpc, _) | Places::Tls(grpc, _) => TcpStream::connect(grpc).map(drop),
            Places::Sockets(grpc, _) => UnixStream::connect(grpc).map(drop),
        };
        match reached {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            _ => Err("the Collector was killed and something still listens in its place".into()),
        }
    }

    pub(super) fn endpoint(&self, protocol: Protocol) -> String {
        let (scheme, grpc, http) = match &self.places {
            Places::Plain(grpc, http) => ("http", grpc.to_string(), http.to_string()),
            Places::Tls(grpc, http) => ("https", grpc.to_string(), http.to_string()),
            Places::Sockets(grpc, http) => ("unix", grpc.display().to_string(), http.display().to_string()),
        };
        match protocol {
            Protocol::Grpc => format!("{scheme}://{grpc}"),
            Protocol::Http => format!("{scheme}://{http}"),
        }
    }

    /// The ids of the spans in its record, each as often as it is there.
    pub(super) fn span_ids(&self) -> Result<Vec<SpanIds>, Failure> {
        match fs::read(self.record()) {
            Ok(bytes) => canonical::recorded_ids(&String::from_utf8_lossy(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Where it listens on TCP.
    pub(super) fn address(&self, protocol: Protocol) -> Result<SocketAddr, Failure> {
        match (&self.places, protocol) {
            (Places::Plain(at, _) | Places::Tls(at, _), Protocol::Grpc)
            | (Places::Plain(_, at) | Places::Tls(_, at), Protocol::Http) => Ok(*at),
            (Places::Sockets(..), _) => Err("this Collector is on Unix sockets".into()),
        }
    }

    /// Waits until `count` different spans are in the Collector's record, and gives its spans. A time-out is no error
    /// here: the comparison of the result shows which spans are missing.
    pub(super) fn spans(&self, count: usize, limit: Duration) -> Result<Spans, Failure> {
        let mut read = 0;
        let mut found = Ok(Spans::new());
        let _ = wait_until("every span in the record", limit, || {
            let length = fs::metadata(self.record()).map_or(0, |metadata| metadata.len());
            if length != read {
                read = length;
                found = self.read_record();
            }
            found.as_ref().map_or(true, |spans| spans.len() >= count)
        });
        found
    }

    /// The record, when `count` different spans are in it or the time is up.
    pub(super) fn record_of(&self, count: usize, limit: Duration) -> Result<PathBuf, Failure> {
        self.spans(count, limit)?;
        Ok(self.record())
    }

    /// The record of one signal, of a Collector for logs and metrics: `jsonl`, or `binpb`.
    pub(super) fn record_of_signal(&self, signal: Signal, extension: &str) -> PathBuf {
        self.folder.join(format!("record.jsonl.{signal}.{extension}"))
    }

    fn read_record(&self) -> Result<Spans, Failure> {
        let bytes = fs::read(self.record())?;
        // The end may be torn in the middle of a character.
        canonical::recorded(&String::from_utf8_lossy(&bytes))
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    fn record(&self) -> PathBuf {
        self.folder.join("record.jsonl")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("collector.log")
    }

    fn log_text(&self) -> io::Result<String> {
        fs::read_to_string(self.log())
    }
}

impl Drop for Otelcol<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Two free ports. Another process could take one in between: then the Collector does not get ready, and its log has
/// the reason.
fn free(at: Ipv4Addr) -> io::Result<[SocketAddr; 2]> {
    let ports = [TcpListener::bind((at, 0))?, TcpListener::bind((at, 0))?];
    Ok([ports[0].local_addr()?, ports[1].local_addr()?])
}
