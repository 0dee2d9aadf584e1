//! The Collector behind real proxies, tinyproxy and squid, which ask for a user and a password and let nobody else in.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use otlp_payload::{BatchId, Payload};
use otlp_transport::{ConfigBuilder, Outcome, RefusalKind};

use super::Setup;
use super::otelcol::Otelcol;
use super::wire::Traced;
use crate::contender::{self, Protocol};
use crate::{Failure, wait_until};

const USER: &str = "me";
/// tinyproxy takes few other characters.
const PASSWORD: &str = "s3cret.pass";
/// The same in a URL, where the full stop might stand as it is.
const ENCODED: &str = "s3cret%2Epass";
/// Starting takes less than a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tinyproxy,
    Squid,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Tinyproxy, Self::Squid];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tinyproxy => "tinyproxy",
            Self::Squid => "squid",
        }
    }

    /// The status of a wrong password.
    fn wrong(self) -> u16 {
        match self {
            Self::Tinyproxy => 401,
            Self::Squid => 407,
        }
    }
}

/// Spans go through the proxy to the Collector and arrive alike; without credentials, with wrong ones and to another
/// port the cause names the proxy and the remedy, and never the password.
pub(super) fn delivery(setup: &Setup, kind: Kind, protocol: Protocol) -> Result<String, Failure> {
    let folder = tempfile::tempdir()?;
    // squid reads and writes there as a user of its own.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    let collector = Otelcol::otlp_at(setup, folder.path(), own_address()?)?;
    let endpoint = collector.endpoint(protocol);
    let (authority, port) = place(&endpoint)?;
    let proxy = Proxy::start(setup, kind, folder.path(), port)?;

    let through = |user: &str, endpoint: &str| {
        contender::config(protocol, endpoint).with_proxy(format!("http://{user}127.0.0.1:{}", proxy.port))
    };
    let credentials = format!("{USER}:{ENCODED}@");
    let transport = otlp_transport::connect(through(&credentials, &endpoint).build()?)?;
    let state = folder.path().join("state");
    let builder = resilient_exporter::ResilientSpanExporter::builder().with_primary(transport).with_state_dir(state);
    let mut traced = Traced::new(builder, contender::resource())?;
    traced.serve(300)?;
    let count = traced.compare(&collector)?;
    traced.provider.shutdown()?;
    // Nothing went past the proxy.
    let request = match protocol {
        Protocol::Grpc => format!("CONNECT {authority}"),
        Protocol::Http => format!("POST http://{authority}/v1/traces"),
    };
    // squid writes the line of a tunnel when it ends.
    wait_until(&format!("{request:?} in the log of {}", kind.name()), START_LIMIT, || {
        proxy.log().is_ok_and(|log| log.contains(&request))
    })?;

    let wrong = format!("{USER}:{ENCODED}-not@");
    refusal(protocol, through("", &endpoint), 407, "write user and password into with_proxy")?;
    let remedy = if kind == Kind::Tinyproxy && protocol == Protocol::Http { "" } else { "check user and password" };
    refusal(protocol, through(&wrong, &endpoint), kind.wrong(), remedy)?;
    let mut seen = format!("{count} spans, all alike; 407 without credentials, {} with wrong ones", kind.wrong());
    if protocol == Protocol::Grpc {
        refusal(protocol, through(&credentials, &format!("http://{}:9", own_address()?)), 403, "allow CONNECT to")?;
        seen.push_str(", 403 for another port");
    }
    Ok(seen)
}

/// Sends an empty request, which the proxy must refuse with this status.
fn refusal(protocol: Protocol, config: ConfigBuilder, status: u16, remedy: &str) -> Result<(), Failure> {
    let transport = otlp_transport::connect(config.build()?)?;
    let payload = Payload::new(BatchId { incarnation: 1, seq: 0 }, SystemTime::UNIX_EPOCH, 0, Vec::new().into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(transport.send(&payload));
    let text = outcome.cause().map(ToString::to_string).unwrap_or_default();
    let is_kind = match protocol {
        Protocol::Grpc => {
            matches!(outcome, Outcome::Retryable { possible_duplicate: false, .. })
                && text.contains(&format!("answered {status} "))
        }
        Protocol::Http => {
            matches!(outcome, Outcome::Refused { kind: RefusalKind::Sender, possible_duplicate: false, .. })
                && text.starts_with(&format!("HTTP status {status}: "))
        }
    };
    let is_safe = !text.contains(PASSWORD) && !text.contains(ENCODED);
    if is_kind && is_safe && text.contains(remedy) {
        Ok(())
    } else {
        Err(format!("{status} and {remedy:?} were expected, and the outcome is {outcome:?}").into())
    }
}

/// A proxy that runs until this is dropped.
struct Proxy {
    child: Child,
    port: u16,
    folder: PathBuf,
    /// Names its shared memory, which a killed squid leaves behind.
    service: String,
}

impl Proxy {
    /// It accepts requests to the port of `/v1/traces` and tunnels to this port alone.
    fn start(setup: &Setup, kind: Kind, folder: &Path, tunnels_to: u16) -> Result<Self, Failure> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let (config, log) = (folder.join("proxy.conf"), folder.join("proxy.log"));
        let service = format!("interop{port}");
        let mut command = match kind {
            Kind::Tinyproxy => {
                fs::write(&config, tinyproxy(port, tunnels_to, &log))?;
                let mut command = Command::new(&setup.tinyproxy);
                command.arg("-d").arg("-c").arg(&config);
                command
            }
            Kind::Squid => {
                fs::write(folder.join("helper.sh"), helper())?;
                fs::write(&config, squid(port, tunnels_to, folder))?;
                let mut command = Command::new(&setup.squid);
                command.arg("-N").arg("-n").arg(&service).arg("-f").arg(&config);
                command
            }
        };
        let output = File::create(folder.join("proxy.out"))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn()?;
        let mut proxy = Self { child, port, folder: folder.to_owned(), service };
        let ready = wait_until(kind.name(), START_LIMIT, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() || proxy.has_ended()
        });
        if ready.is_err() || proxy.has_ended() {
            let said = ["proxy.out", "proxy.log", "cache.log"].map(|name| fs::read_to_string(folder.join(name)));
            return Err(format!("{} did not start: {said:?}", kind.name()).into());
        }
        Ok(proxy)
    }

    fn log(&self) -> std::io::Result<String> {
        fs::read_to_string(self.folder.join("proxy.log"))
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for part in ["metadata", "queues", "readers"] {
            let _ = fs::remove_file(format!("/dev/shm/{}-cf__{part}.shm", self.service));
        }
    }
}

fn tinyproxy(port: u16, tunnels_to: u16, log: &Path) -> String {
    format!(
        "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogFile \"{}\"\nLogLevel Connect\nAllow 127.0.0.1\n\
         ConnectPort {tunnels_to}\nBasicAuth {USER} {PASSWORD}\n",
        log.display()
    )
}

/// A helper of squid: a line of user and password in, a verdict out.
fn helper() -> String {
    format!(
        "while read -r user password; do\n[ \"$user $password\" = '{USER} {PASSWORD}' ] && echo OK || echo ERR\ndone\n"
    )
}

fn squid(port: u16, tunnels_to: u16, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "http_port 127.0.0.1:{port}\npid_filename none\ncache deny all\nmemory_cache_shared off\ncoredump_dir none\n\
         access_log stdio:{folder}/proxy.log\ncache_log {folder}/cache.log\nlogfile_rotate 0\nvisible_hostname squid\n\
         shutdown_lifetime 0 seconds\nauth_param basic program /bin/sh {folder}/helper.sh\n\
         acl known proxy_auth REQUIRED\nacl tunnel port {tunnels_to}\nacl CONNECT method CONNECT\n\
         http_access deny CONNECT !tunnel\nhttp_access allow known\nhttp_access deny all\n"
    )
}

/// An address of this machine that is no loopback one: no proxy stands in front of those. No packet is sent.
fn own_address() -> Result<Ipv4Addr, Failure> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // RFC 5737: an address of documentation, which a default route leads to.
    let found = socket.connect("203.0.113.1:9").and_then(|()| socket.local_addr());
    match found.map(|address| address.ip()) {
        Ok(IpAddr::V4(address)) if !address.is_loopback() && !address.is_unspecified() => Ok(address),
        found => {
            Err(format!("this machine has no IPv4 address beside loopback, or no default route: {found:?}").into())
        }
    }
}

/// Host and port, and the port, of `http://host:port`.
fn place(endpoint: &str) -> Result<(&str, u16), Failure> {
    let authority = endpoint.trim_start_matches("http://");
    let (_, port) = authority.rsplit_once(':').ok_or("an endpoint with a port")?;
    Ok((authority, port.parse()?))
}
