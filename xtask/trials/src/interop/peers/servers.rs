//! `openssl s_server` and nginx as processes.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::super::Setup;
use super::super::certificates::Pair;
use crate::contender::Protocol;
use crate::{Failure, wait_until};

/// Starting takes less than a second on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Parts of a request in plain text: the name of the service in its spans, and the start of its head, by HTTP/1.1 and
/// HTTP/2.
const SHOWN: [&str; 3] = ["service.name", "POST ", "PRI * HTTP/2.0"];

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Kind {
    /// Ends TLS, shows what comes, and answers nothing.
    OpenSsl,
    /// Ends TLS and passes requests on to a collector.
    Nginx,
}

impl Kind {
    pub(in super::super) const ALL: [Self; 2] = [Self::OpenSsl, Self::Nginx];

    pub(in super::super) fn name(self) -> &'static str {
        match self {
            Self::OpenSsl => "openssl s_server",
            Self::Nginx => "nginx",
        }
    }
}

/// How the peer speaks.
#[derive(Clone, Copy)]
pub(super) struct Manner<'a> {
    pub(super) pair: &'a Pair,
    /// The one version of TLS: `1.1`, `1.2` or `1.3`.
    pub(super) version: &'a str,
    /// Clients need a certificate of this authority.
    pub(super) clients: Option<&'a Path>,
    /// The one protocol that it agrees to: `h2` or `http/1.1`.
    pub(super) alpn: &'a str,
}

/// A peer that runs until this is dropped.
pub(super) struct Peer {
    child: Child,
    kind: Kind,
    pub(super) port: u16,
    folder: PathBuf,
    /// s_server ends with its standard input.
    _stdin: Option<ChildStdin>,
}

impl Peer {
    /// On loopback. nginx passes requests on to `collector`.
    pub(super) fn start(
        setup: &Setup,
        kind: Kind,
        folder: &Path,
        manner: Manner<'_>,
        protocol: Protocol,
        collector: Option<SocketAddr>,
    ) -> Result<Self, Failure> {
        let folder = tempfile::tempdir_in(folder)?.keep();
        let mut port = 0;
        let mut command = match kind {
            Kind::OpenSsl => s_server(setup, manner),
            Kind::Nginx => {
                let collector = collector.ok_or("nginx needs a collector")?;
                // Another process could take it in between: nginx does not start then, and its log has the reason.
                port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
                let config = folder.join("nginx.conf");
                fs::write(&config, nginx(&folder, port, manner, protocol, collector))?;
                let mut command = Command::new(&setup.nginx);
                command.arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log")).arg("-c").arg(&config);
                command
            }
        };
        command.stdin(Stdio::piped()).stdout(File::create(folder.join("stdout"))?);
        let mut child = command.stderr(File::create(folder.join("stderr"))?).spawn()?;
        let stdin = child.stdin.take();
        let mut peer = Self { child, kind, port, folder, _stdin: stdin };
        let ready = wait_until(kind.name(), LIMIT, || peer.is_ready() || peer.has_ended());
        if ready.is_err() || peer.has_ended() {
            return Err(format!("{} did not start: {}", kind.name(), peer.said()).into());
        }
        Ok(peer)
    }

    fn is_ready(&mut self) -> bool {
        if self.kind == Kind::OpenSsl {
            // It takes a port of the system's choice, and tells which.
            let said = self.file("stdout");
            let place = said.lines().find_map(|line| line.strip_prefix("ACCEPT 127.0.0.1:"));
            self.port = place.and_then(|port| port.parse().ok()).unwrap_or(0);
            return self.port != 0;
        }
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn file(&self, name: &str) -> String {
        fs::read(self.folder.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// All that it wrote.
    fn said(&self) -> String {
        ["stdout", "stderr", "error.log", "access.log"].map(|name| self.file(name)).concat()
    }

    /// Fails if it shows a part of the request; `is_unverified`: not even nginx has read one.
    pub(super) fn has_read_nothing(&self, is_unverified: bool) -> Result<(), Failure> {
        match self.kind {
            Kind::OpenSsl => {
                // It has told the end of the connection, in front of which it shows what it read.
                self.wait_for("ERROR\n")?;
                let said = self.said();
                let shown = SHOWN.iter().find(|part| said.contains(**part));
                shown.map_or(Ok(()), |part| Err(format!("s_server has read {part:?}: {said}").into()))
            }
            Kind::Nginx if is_unverified => {
                self.wait_for("SSL_do_handshake() failed")?;
                let statuses = self.statuses();
                if statuses.is_empty() { Ok(()) } else { Err(format!("nginx has answered {statuses:?}").into()) }
            }
            Kind::Nginx => {
                self.wait_for("400\n")?;
                let statuses = self.statuses();
                if statuses == ["400"] { Ok(()) } else { Err(format!("nginx has answered {statuses:?}").into()) }
            }
        }
    }

    /// s_server shows the request that it was sent.
    pub(super) fn shows_a_request(&self) -> Result<(), Failure> {
        SHOWN[..1].iter().try_for_each(|part| self.wait_for(part))
    }

    /// nginx has read requests, and the collector took each.
    pub(super) fn has_answered_all(&self) -> Result<(), Failure> {
        self.wait_for("200\n")?;
        let statuses = self.statuses();
        if statuses.iter().all(|status| status == "200") {
            Ok(())
        } else {
            Err(format!("nginx has answered {statuses:?}").into())
        }
    }

    fn wait_for(&self, words: &str) -> Result<(), Failure> {
        wait_until("the peer's own words", LIMIT, || self.said().contains(words))
            .map_err(|failure| format!("{failure}: {words:?} are not among {}", self.said()).into())
    }

    /// The status of each request that nginx has answered.
    fn statuses(&self) -> Vec<String> {
        self.file("access.log").lines().map(str::to_owned).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn s_server(setup: &Setup, manner: Manner<'_>) -> Command {
    let mut command = Command::new(&setup.openssl);
    command.args(["s_server", "-accept", "127.0.0.1:0", "-naccept", "4", "-alpn", manner.alpn]);
    command.arg(format!("-tls{}", manner.version.replace('.', "_")).trim_end_matches("_0"));
    // The weak keys and the old versions that the client must refuse.
    command.args(["-cipher", "DEFAULT:@SECLEVEL=0"]);
    // The first certificate of a file, and those behind it.
    command.arg("-cert").arg(&manner.pair.certificate).arg("-cert_chain").arg(&manner.pair.certificate);
    command.arg("-key").arg(&manner.pair.key);
    if let Some(authority) = manner.clients {
        command.args(["-Verify", "1", "-verify_return_error", "-CAfile"]).arg(authority);
    }
    command
}

fn nginx(folder: &Path, port: u16, manner: Manner<'_>, protocol: Protocol, collector: SocketAddr) -> String {
    let (at, certificate, key) = (folder.display(), manner.pair.certificate.display(), manner.pair.key.display());
    let clients = manner.clients.map_or_else(String::new, |authority| {
        format!("ssl_verify_client on; ssl_client_certificate {};", authority.display())
    });
    let http2 = if manner.alpn == "h2" { "http2" } else { "" };
    let pass = match protocol {
        Protocol::Grpc => format!("grpc_pass grpc://{collector};"),
        Protocol::Http => format!("proxy_pass http://{collector};"),
    };
    format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log info;\nevents {{}}\n\
         http {{\n  log_format status '$status'; access_log {at}/access.log status;\n  client_max_body_size 32m;\n\
         client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;\n\
         uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n  server {{\n    listen 127.0.0.1:{port} ssl {http2};\n\
         ssl_certificate {certificate}; ssl_certificate_key {key}; {clients}\n\
         ssl_protocols TLSv{}; ssl_ciphers DEFAULT:@SECLEVEL=0;\n    location / {{ {pass} }}\n  }}\n}}\n",
        manner.version
    )
}
