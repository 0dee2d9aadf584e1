//! TLS as OpenSSL speaks it: `openssl s_server` in the place of a collector, and nginx in front of one.

mod servers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use otlp_transport::{Cause, Outcome, RefusalKind};

use self::servers::{Manner, Peer};
use super::Setup;
use super::calls::Vars;
use super::certificates::{Authority, Pair, Valid};
use super::otelcol::Otelcol;
use super::tls::{CERTIFICATE, CLIENT_CERTIFICATE, CLIENT_KEY};
use super::wire::Traced;
use crate::Failure;
use crate::contender::{self, Protocol};

pub(super) use servers::Kind;

const HOST: &str = "127.0.0.1";
/// The names of a good certificate.
const HOSTS: &[&str] = &[HOST, "localhost"];
const VERSIONS: &[&str] = &["1.3", "1.2"];

/// A peer and a client that must not come together.
#[derive(Clone, Copy)]
struct Row<'a> {
    name: &'static str,
    pair: &'a Pair,
    /// Of TLS, one after the other.
    versions: &'a [&'a str],
    /// The peer asks for certificates of the authority.
    asks: bool,
    client: Option<&'a Pair>,
    /// The one protocol that the peer agrees to.
    alpn: &'a str,
    scheme: &'a str,
    end: End,
    /// Parts of the cause: the side, its fault and the remedy.
    parts: &'a [&'a str],
}

/// The outcome of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// No connection; nothing of the request went out.
    Unconnected,
    /// The status 400 in front of the collector.
    Refused,
    /// A connection that ended, or spoke another protocol.
    Broken,
}

impl End {
    fn is_of(self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Self::Unconnected, Outcome::Retryable { cause: Cause::Connect(_), possible_duplicate: false, .. })
            | (Self::Broken, Outcome::Retryable { cause: Cause::Broken(_), possible_duplicate: true, .. }) => true,
            (Self::Refused, Outcome::Refused { kind, cause, possible_duplicate: false, .. }) => {
                *kind == RefusalKind::Sender && matches!(cause, Cause::Http { status: 400, .. })
            }
            _ => false,
        }
    }
}

/// What the rows of a check share.
struct Stage<'a> {
    setup: &'a Setup,
    kind: Kind,
    protocol: Protocol,
    folder: PathBuf,
    root: PathBuf,
    authority: Authority,
    /// Good ones.
    server: Pair,
    client: Pair,
    /// Behind nginx.
    collector: Option<Otelcol<'a>>,
}

impl<'a> Stage<'a> {
    fn new(setup: &'a Setup, kind: Kind, protocol: Protocol, folder: &Path) -> Result<Self, Failure> {
        let authority = Authority::new("ours")?;
        let collector = (kind == Kind::Nginx).then(|| Otelcol::otlp(setup, folder)).transpose()?;
        Ok(Self {
            setup,
            kind,
            protocol,
            folder: folder.to_owned(),
            root: authority.write(folder, "root")?,
            server: authority.below("between")?.server(folder, "server", HOSTS, Valid::Now)?,
            client: authority.client(folder, "client", Valid::Now)?,
            authority,
            collector,
        })
    }

    /// A peer of this manner in the usual protocol, for the client's variables.
    fn peer(&self, manner: Manner<'_>) -> Result<Peer, Failure> {
        let collector = self.collector.as_ref().map(|collector| collector.address(self.protocol)).transpose()?;
        Peer::start(self.setup, self.kind, &self.folder, manner, self.protocol, collector)
    }

    fn vars(&self, endpoint: String, client: Option<&Pair>) -> Vars {
        let is_plain = endpoint.starts_with("http://");
        let vars = Vars::new(self.protocol, endpoint);
        // Without TLS the variables would be noted as ones without effect.
        let vars = if is_plain { vars } else { vars.with(CERTIFICATE, &self.root) };
        match client {
            Some(pair) => vars.with(CLIENT_CERTIFICATE, &pair.certificate).with(CLIENT_KEY, &pair.key),
            None => vars,
        }
    }

    fn alpn(&self) -> &'static str {
        match self.protocol {
            Protocol::Grpc => "h2",
            Protocol::Http => "http/1.1",
        }
    }

    /// One call, which must not arrive.
    fn refuse(&self, row: &Row<'_>, version: &str) -> Result<(), Failure> {
        let clients = row.asks.then_some(&*self.root);
        let peer = self.peer(Manner { pair: row.pair, version, clients, alpn: row.alpn })?;
        let endpoint = format!("{}://{HOST}:{}", row.scheme, peer.port);
        let outcome = self.vars(endpoint, row.client).send_stray()?;
        let text = outcome.cause().map(ToString::to_string).unwrap_or_default();
        if !row.end.is_of(&outcome) || !row.parts.iter().all(|part| text.contains(part)) {
            return Err(format!("{:?} with {:?} was expected, and it is {outcome:?}", row.end, row.parts).into());
        }
        peer.has_read_nothing(row.end == End::Unconnected)
    }

    /// s_server shows a request that it reads, so that one which it does not show was not read.
    fn control(&self, version: &str, host: &str, client: Option<&Pair>) -> Result<(), Failure> {
        let clients = client.map(|_| &*self.root);
        let peer = self.peer(Manner { pair: &self.server, version, clients, alpn: self.alpn() })?;
        // It gives no answer.
        let vars =
            self.vars(format!("https://{host}:{}", peer.port), client).with("OTEL_EXPORTER_OTLP_TIMEOUT", "1000");
        match vars.send_stray()? {
            Outcome::Retryable { cause: Cause::Timeout(_), possible_duplicate: true, .. } => peer.shows_a_request(),
            other => Err(format!("a time-out was expected, and it is {other:?}").into()),
        }
    }

    /// Spans arrive alike through nginx, and none of the calls before.
    fn deliver(&self, version: &str, host: &str, client: Option<&Pair>) -> Result<usize, Failure> {
        let collector = self.collector.as_ref().ok_or("only nginx has a collector")?;
        let clients = client.map(|_| &*self.root);
        let peer = self.peer(Manner { pair: &self.server, version, clients, alpn: self.alpn() })?;
        let vars = self.vars(format!("https://{host}:{}", peer.port), client);
        let mut traced = Traced::new(vars.exporter(&self.folder.join("state"))?, contender::resource())?;
        traced.serve(300)?;
        let count = traced.compare(collector)?;
        traced.provider.shutdown()?;
        peer.has_answered_all()?;
        Ok(count)
    }
}

/// Peers that cannot prove their name, peers that refuse the client, and peers of another version or protocol: nothing
/// arrives, and the cause has the side, its fault and the remedy.
pub(super) fn refused(setup: &Setup, kind: Kind, protocol: Protocol) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let stage = Stage::new(setup, kind, protocol, folder)?;
    let (ours, other) = (&stage.authority, Authority::new("another")?);
    let server = |name: &str, hosts: &[&str], valid| ours.server(folder, name, hosts, valid);
    let (expired, early) = (server("expired", HOSTS, Valid::Past)?, server("early", HOSTS, Valid::Future)?);
    let elsewhere = server("elsewhere", &["collector.example"], Valid::Now)?;
    let unknown = other.server(folder, "unknown", HOSTS, Valid::Now)?;
    let itself = Pair::self_signed(folder, "itself", HOSTS)?;
    let lonely = stage.server.without_chain(folder, "lonely")?;
    let weak = weak(&stage)?;
    let stranger = other.client(folder, "stranger", Valid::Now)?;
    let late = ours.client(folder, "late", Valid::Past)?;

    let good = Row {
        name: "good",
        pair: &stage.server,
        versions: VERSIONS,
        asks: false,
        client: None,
        alpn: stage.alpn(),
        scheme: "https",
        end: End::Unconnected,
        parts: &[],
    };
    let bad = |name, pair, parts| Row { name, pair, parts, ..good };
    // nginx reads the head of a request before it looks for the certificate.
    let end = if kind == Kind::Nginx { End::Refused } else { End::Unconnected };
    let asking = |name, client| Row {
        name,
        asks: true,
        client,
        end,
        parts: &["client certificate", CLIENT_CERTIFICATE, CLIENT_KEY],
        ..good
    };
    // OpenSSL sends no alert to bytes that are no TLS, and nginx does not know the preface of HTTP/2 on such a port.
    let (plain_end, plain_parts) = match (kind, protocol) {
        (Kind::OpenSsl, _) => (End::Broken, &["before its first byte", "https://"][..]),
        (Kind::Nginx, Protocol::Grpc) => (End::Broken, &["the peer answers in HTTP/1", "4317", "https://"][..]),
        (Kind::Nginx, Protocol::Http) => (End::Refused, &["sent to HTTPS port", "https://"][..]),
    };
    let mut rows = vec![
        bad("expired", &expired, &["the peer's certificate", "has expired: renew it", "compare the clocks"]),
        bad("not yet valid", &early, &["the peer's certificate", "not valid yet", "compare the clocks"]),
        bad("another host", &elsewhere, &["is for another host", HOST, "collector.example", "the endpoint needs"]),
        bad("unknown authority", &unknown, &["no authority that is trusted here", CERTIFICATE]),
        bad("self-signed", &itself, &["no authority that is trusted here", CERTIFICATE]),
        bad("missing intermediate", &lonely, &["no authority that is trusted here", "leaves out the certificates"]),
        bad("weak key", &weak, &["the peer's certificate", "its key", "too weak", "2048 bits"]),
        asking("no client certificate", None),
        asking("another authority's client", Some(&stranger)),
        asking("expired client", Some(&late)),
        Row { name: "TLS 1.1", versions: &["1.1"], parts: &["the peer speaks neither TLS 1.2 nor 1.3"], ..good },
        Row { name: "http:// to its port", scheme: "http", end: plain_end, parts: plain_parts, ..good },
    ];
    // nginx agrees to HTTP/1.1 on each of its ports.
    match protocol {
        Protocol::Grpc => {
            let parts = &["the peer speaks no HTTP/2", "ALPN", "http/protobuf"];
            rows.push(Row { name: "another protocol", alpn: "http/1.1", parts, ..good });
        }
        Protocol::Http if kind == Kind::OpenSsl => {
            let parts = &["the peer speaks no HTTP/1.1", "ALPN", "grpc"];
            rows.push(Row { name: "another protocol", alpn: "h2", parts, ..good });
        }
        Protocol::Http => {}
    }
    let mut wrong = Vec::new();
    for row in &rows {
        for version in row.versions {
            if let Err(failure) = stage.refuse(row, version) {
                wrong.push(format!("{}, TLS {version}: {failure}", row.name));
            }
        }
    }
    if !wrong.is_empty() {
        return Err(wrong.join("\n        ").into());
    }
    let seen = match kind {
        Kind::OpenSsl => {
            for version in VERSIONS {
                stage.control(version, "localhost", Some(&stage.client))?;
            }
            "requests shown of good ones by TLS 1.3 and 1.2".to_owned()
        }
        Kind::Nginx => format!("{} spans behind them, all alike, and no other", stage.deliver("1.3", HOST, None)?),
    };
    Ok(format!("{} peers and clients refused; {seen}", rows.len()))
}

/// Spans arrive through nginx by each version of TLS, by name and by address, with a client certificate and without.
pub(super) fn delivered(setup: &Setup, protocol: Protocol) -> Result<String, Failure> {
    let mut counts = Vec::new();
    for (version, host, is_known) in [("1.3", "localhost", true), ("1.2", HOST, true), ("1.2", "localhost", false)] {
        let folder = tempfile::tempdir()?;
        let stage = Stage::new(setup, Kind::Nginx, protocol, folder.path())?;
        counts.push(stage.deliver(version, host, is_known.then_some(&stage.client))?);
    }
    Ok(format!("{counts:?} spans, all alike"))
}

/// A certificate of our authority for an RSA key of 1024 bits.
fn weak(stage: &Stage<'_>) -> Result<Pair, Failure> {
    let at = |name: &str| stage.folder.join(name);
    let authority = stage.authority.write_with_key(&stage.folder, "signer")?;
    fs::write(at("weak.ext"), format!("subjectAltName=IP:{HOST},DNS:localhost\n"))?;
    let pair = Pair { certificate: at("weak.pem"), key: at("weak.key") };
    let mut request = Command::new(&stage.setup.openssl);
    request.args(["req", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=weak", "-keyout"]).arg(&pair.key);
    run(request.arg("-out").arg(at("weak.csr")))?;
    let mut sign = Command::new(&stage.setup.openssl);
    sign.args(["x509", "-req", "-days", "2", "-in"]).arg(at("weak.csr")).arg("-extfile").arg(at("weak.ext"));
    sign.arg("-CA").arg(&authority.certificate).arg("-CAkey").arg(&authority.key);
    run(sign.arg("-out").arg(&pair.certificate))?;
    Ok(pair)
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)).into())
}
