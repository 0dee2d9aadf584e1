//! The Collector as a process.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::Setup;
use crate::canonical::{self, Spans};
use crate::contender::Protocol;
use crate::{Failure, wait_until};

/// A Collector that is started, killed and started again on the same ports, with the same record.
pub(super) struct Otelcol<'a> {
    setup: &'a Setup,
    config: &'static str,
    folder: PathBuf,
    grpc: SocketAddr,
    http: SocketAddr,
    files: String,
    child: Option<Child>,
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
        Self::start_with(setup, "otlp.yaml", folder, String::new(), at)
    }

    /// The same, with its record in protobuf too, beside the other.
    pub(super) fn both_forms(setup: &'a Setup, folder: &Path) -> Result<Self, Failure> {
        Self::start_with(setup, "proto.yaml", folder, String::new(), Ipv4Addr::LOCALHOST)
    }

    /// Reads the files that `pattern` names; its record and its log lie in `folder`.
    pub(super) fn files(setup: &'a Setup, folder: &Path, pattern: String) -> Result<Self, Failure> {
        Self::start_with(setup, "files.yaml", folder, pattern, Ipv4Addr::LOCALHOST)
    }

    fn start_with(
        setup: &'a Setup,
        config: &'static str,
        folder: &Path,
        files: String,
        at: Ipv4Addr,
    ) -> Result<Self, Failure> {
        // Two free ports. Another process could take one in between: then the Collector does not get ready, and its log
        // has the reason.
        let ports = [TcpListener::bind((at, 0))?, TcpListener::bind((at, 0))?];
        let (grpc, http) = (ports[0].local_addr()?, ports[1].local_addr()?);
        drop(ports);
        let mut collector = Self { setup, config, folder: folder.to_owned(), grpc, http, files, child: None };
        collector.start()?;
        Ok(collector)
    }

    pub(super) fn start(&mut self) -> Result<(), Failure> {
        let log = File::create(self.log())?;
        let child = Command::new(&self.setup.program)
            .arg("--config")
            .arg(self.setup.configs.join(self.config))
            .env("INTEROP_GRPC", self.grpc.to_string())
            .env("INTEROP_HTTP", self.http.to_string())
            .env("INTEROP_FILES", &self.files)
            .env("INTEROP_RECORD", self.record())
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

    /// Ends it at once, as a crash does, and makes sure that its ports refuse.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        match TcpStream::connect(self.grpc) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            _ => Err("the Collector was killed and something still listens on its port".into()),
        }
    }

    pub(super) fn endpoint(&self, protocol: Protocol) -> String {
        match protocol {
            Protocol::Grpc => format!("http://{}", self.grpc),
            Protocol::Http => format!("http://{}", self.http),
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
