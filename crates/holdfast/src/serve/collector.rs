//! The collector to which `serve` sends its spans.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use mock_collector::{Answer, Behavior, MockCollector};
use otlp_transport::{Fault, FaultMode, Faults, Protocol};
use telemetry_manager::{Settings, TracesExporter};

/// The collector, by the reason for its choice.
pub(crate) enum Collector {
    /// The environment names an endpoint.
    Configured,
    /// The environment names none, and a process listens on the default port.
    Listening,
    /// The environment names none and no process listens: a collector inside this process, which counts spans and
    /// forgets them.
    Embedded { collector: Arc<MockCollector>, endpoint: String },
    /// Telemetry is off.
    None,
}

const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// The time for a connection on the same machine. The start waits so long for each address of `localhost` at most.
const CONNECT: Duration = Duration::from_millis(250);

impl Collector {
    /// Decides by the environment and by a look at the default port.
    pub(crate) fn choose(settings: &Settings) -> io::Result<Self> {
        let is_set =
            |name: &&str| std::env::var_os(name).is_some_and(|value| !value.to_string_lossy().trim().is_empty());
        if settings.sdk_disabled || settings.traces_exporter == TracesExporter::None {
            return Ok(Self::None);
        }
        if ENDPOINTS.iter().any(is_set) {
            return Ok(Self::Configured);
        }
        let is_grpc = settings.transport.protocol() == Protocol::Grpc;
        if listens(if is_grpc { 4317 } else { 4318 }) {
            return Ok(Self::Listening);
        }
        let collector = MockCollector::start()?;
        let endpoint = if is_grpc { collector.grpc_endpoint() } else { collector.http_endpoint() };
        Ok(Self::Embedded { collector: Arc::new(collector), endpoint })
    }

    /// The endpoint that `serve` must set; `None` where the settings have the right one.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        match self {
            Self::Embedded { endpoint, .. } => Some(endpoint),
            Self::Configured | Self::Listening | Self::None => None,
        }
    }

    /// Has the embedded collector, if there is one, fail as long as each call of the process's own transport does: for
    /// resilience tests and for other programs that send to it. A fault of a part of the calls, or a slow one, is the
    /// transport's alone: calls that pass it would fail, or wait, a second time. Ends when it is dropped.
    pub(crate) fn follow(&self, faults: &Faults) -> Option<impl Future<Output = ()> + Send + 'static> {
        let Self::Embedded { collector, .. } = self else { return None };
        let (collector, faults) = (Arc::clone(collector), faults.clone());
        Some(async move { faults.follow(|fault| fail(&collector, fault)).await })
    }

    /// How many spans the embedded collector received, if there is one.
    pub(crate) fn received(&self) -> Option<u64> {
        match self {
            Self::Embedded { collector, .. } => Some(collector.received().spans),
            Self::Configured | Self::Listening | Self::None => None,
        }
    }
}

fn fail(collector: &MockCollector, fault: Option<Fault>) {
    let mode = fault.filter(|fault| fault.share() >= 1.0).map(|fault| fault.mode());
    if mode == Some(FaultMode::Refuse) {
        return collector.stop();
    }
    if !collector.is_running()
        && let Err(error) = collector.start_again()
    {
        eprintln!("holdfast: the collector inside this process does not listen any more: {error}");
    }
    collector.set(match mode {
        Some(FaultMode::Hang) => Behavior::never_read(),
        Some(FaultMode::Status(status)) => Behavior::answer(Answer::http(status).with_message("simulated failure")),
        _ => Behavior::accept(),
    });
}

fn listens(port: u16) -> bool {
    let Ok(addresses) = ("localhost", port).to_socket_addrs() else { return false };
    addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, CONNECT).is_ok())
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "set in the environment",
            Self::Listening => "the default, where a collector listens",
            Self::Embedded { .. } => {
                "a collector inside this process, without files: OTEL_EXPORTER_OTLP_ENDPOINT is unset and nothing listens \
                 on the default port"
            }
            Self::None => "not used: OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER says so",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collector_inside_fails_with_all_calls_and_not_with_some() {
        let collector = MockCollector::start().expect("a collector on loopback");
        for (share, is_running) in [(1.0, false), (0.5, true), (1.0, false), (0.0, true)] {
            fail(&collector, Some(Fault::new(FaultMode::Refuse).with_share(share)));
            assert_eq!(collector.is_running(), is_running, "{share}");
        }
    }
}
