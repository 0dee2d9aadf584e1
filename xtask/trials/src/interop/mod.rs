//! Our exporter and its files against programs that share no code with it: the OpenTelemetry Collector, jq, gzip, zstd,
//! and google.protobuf; compared span by span. And the Collector behind real proxies,
//! behind TLS, on Unix sockets, behind a token, and with compressed requests; with logs and metrics; and two of it.

mod auth;
mod calls;
mod certificates;
mod codings;
mod failover;
mod files;
mod names;
mod otelcol;
mod peers;
mod proxies;
mod readers;
mod signals;
mod sockets;
mod stores;
mod tls;
mod wire;

use std::path::{Path, PathBuf};

use self::stores::{Form, Stores};
use crate::contender::Protocol;
use crate::{Failure, kinds, now};

/// Where the other programs are. jq, gzip and zstd are found by their names.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The Collector's program.
    pub program: PathBuf,
    /// The folder with its configurations.
    pub configs: PathBuf,
    /// A Python that has google.protobuf and OTLP's messages.
    pub python: PathBuf,
    /// The program for it.
    pub otlp_py: PathBuf,
    /// The first proxy; this and the next for [`Part::Proxies`].
    pub tinyproxy: PathBuf,
    /// The second proxy.
    pub squid: PathBuf,
    /// The first peer of TLS; this and the next for [`Part::Peers`].
    pub openssl: PathBuf,
    /// The second one.
    pub nginx: PathBuf,
}

/// Checks that run alone too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Behind tinyproxy and squid.
    Proxies,
    /// By TLS with certificates on both sides.
    Tls,
    /// Behind nginx, and `openssl s_server` in its place.
    Peers,
    /// By a name whose address changes.
    Names,
    /// On Unix sockets.
    Socket,
    /// Behind a token.
    Auth,
    /// Compressed.
    Codings,
    /// With logs and metrics.
    Signals,
    /// Two Collectors.
    Failover,
}

impl Part {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 9] = [
        Self::Proxies,
        Self::Tls,
        Self::Peers,
        Self::Names,
        Self::Socket,
        Self::Auth,
        Self::Codings,
        Self::Signals,
        Self::Failover,
    ];

    /// The word on the command line, with which the names of its checks begin.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Proxies => "proxies",
            Self::Tls => "tls",
            Self::Peers => "peers",
            Self::Names => "names",
            Self::Socket => "socket",
            Self::Auth => "auth",
            Self::Codings => "codings",
            Self::Signals => "signals",
            Self::Failover => "failover",
        }
    }
}

/// Runs the checks of one part and prints a line for each.
///
/// # Errors
///
/// When a check failed; all of them ran.
pub fn run_part(setup: &Setup, part: Part) -> Result<(), Failure> {
    let mut checks = Checks::default();
    checks.run_part(setup, part);
    checks.end()
}

/// One life of the application whose collector is a name.
///
/// # Errors
///
/// When telemetry cannot be set up, or spans wait at the end.
pub fn live() -> Result<(), Failure> {
    names::live()
}

/// One life of the application that offers requests of one signal.
///
/// # Errors
///
/// When its pipeline cannot be built, or refuses a request.
pub fn live_signal(signal: &str, state: &Path) -> Result<(), Failure> {
    signals::live(signal, state)
}

/// Runs every check and prints a line for each.
///
/// # Errors
///
/// When a check failed; all of them ran.
pub fn run(setup: &Setup) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let mut checks = Checks::default();
    for protocol in BOTH {
        checks.run(&format!("delivery by {protocol}"), || wire::delivery(setup, protocol));
        checks.run(&format!("killed and started again, {protocol}"), || wire::killed(setup, protocol));
        checks.run(&format!("over its limit, {protocol}"), || wire::over_its_limit(setup, protocol));
    }
    for part in Part::ALL {
        checks.run_part(setup, part);
    }
    for form in [Form::PLAIN, Form::GZIP] {
        checks.run(&format!("its file receiver, {}", form.name()), || files::read_by_it(setup, form));
    }
    // Made once, for all who read them; replayed last, which removes them.
    let programs = kinds::programs();
    let stores = Stores::write(&programs, &folder.join("every-kind"))?;
    checks.run("gunzip, zstd -d", || readers::same_bytes(&stores));
    checks.run("jq", || readers::jq(&stores, folder));
    checks.run("google.protobuf reads our files", || readers::protobuf(setup, &stores));
    checks.run("harm that was planted", || readers::planted(setup, &stores, folder));
    for form in Form::JSON {
        checks.run(&format!("its file receiver, every kind, {}", form.name()), || {
            files::every_kind(setup, &stores, form)
        });
    }
    checks.run("its file exporter, read by us", || files::written_by_it(setup, &programs, &stores));
    checks.run("sent from files, read by google.protobuf", || readers::sent_again(setup, &stores, folder));
    checks.run("google.protobuf's messages", || readers::both_ways(setup, folder));
    checks.run("a span longer than a line", || readers::oversized(setup, &folder.join("oversized")));
    checks.end()
}

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::Http];

/// How it went so far.
#[derive(Default)]
struct Checks {
    failed: u32,
}

impl Checks {
    fn run(&mut self, name: &str, check: impl FnOnce() -> Result<String, Failure>) {
        let started = now();
        let outcome = check();
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(seen) => println!("ok      {name}: {seen} ({seconds:.1} s)"),
            Err(failure) => {
                self.failed += 1;
                println!("FAILED  {name}: {failure} ({seconds:.1} s)");
            }
        }
    }

    fn run_part(&mut self, setup: &Setup, part: Part) {
        let name = part.name();
        for protocol in BOTH {
            match part {
                Part::Proxies => {
                    for kind in proxies::Kind::ALL {
                        let check = || proxies::delivery(setup, kind, protocol);
                        self.run(&format!("{name}: {}, {protocol}", kind.name()), check);
                    }
                }
                Part::Tls => {
                    for version in ["1.3", "1.2"] {
                        let check = || tls::verified(setup, protocol, version);
                        self.run(&format!("{name}: TLS {version}, {protocol}"), check);
                    }
                }
                Part::Peers => {
                    for kind in peers::Kind::ALL {
                        let check = || peers::refused(setup, kind, protocol);
                        self.run(&format!("{name}: {}, {protocol}", kind.name()), check);
                    }
                    self.run(&format!("{name}: through nginx, {protocol}"), || peers::delivered(setup, protocol));
                }
                Part::Names => self.run(&format!("{name}: {protocol}"), || names::followed(setup, protocol)),
                Part::Socket => self.run(&format!("{name}: {protocol}"), || sockets::delivery(setup, protocol)),
                Part::Auth => self.run(&format!("{name}: {protocol}"), || auth::token(setup, protocol)),
                Part::Codings => self.run(&format!("{name}: {protocol}"), || codings::delivery(setup, protocol)),
                Part::Failover => {
                    for (words, check) in failover::CHECKS {
                        self.run(&format!("{name}: {words}, {protocol}"), || check(setup, protocol));
                    }
                }
                Part::Signals => {
                    for signal in signals::OFFERED {
                        let check = || signals::killed(setup, signal, protocol);
                        self.run(&format!("{name}: {signal}, killed, {protocol}"), check);
                    }
                }
            }
        }
        if part == Part::Signals {
            for (signal, form) in signals::OFFERED.into_iter().flat_map(|signal| Form::JSON.map(|form| (signal, form)))
            {
                let check = || signals::files(setup, signal, form);
                self.run(&format!("{name}: {signal} in files, {}", form.name()), check);
            }
        }
    }

    fn end(self) -> Result<(), Failure> {
        if self.failed == 0 { Ok(()) } else { Err(format!("{} checks failed", self.failed).into()) }
    }
}
