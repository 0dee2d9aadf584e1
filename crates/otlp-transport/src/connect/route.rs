//! The way to the collector: to itself, or by a proxy.

use std::fmt;
use std::time::Duration;

use crate::config::Config;
use crate::duplex::Duplex;
use crate::outcome::{Cause, Outcome};
use crate::protocol::Protocol;
use crate::proxy::{self, Proxy};

/// The way of the connections to the collector.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// No proxy.
    Direct,
    /// A tunnel by `CONNECT`: the proxy is told host and port of the collector, and passes bytes on.
    Tunnel {
        proxy: Proxy,
        /// How long the proxy may take to open it.
        patience: Duration,
    },
    /// The proxy reads each request, whose target is a whole URL: plain HTTP.
    Forward(Proxy),
}

impl Route {
    pub(crate) fn new(config: &Config) -> Self {
        // A proxy that takes longer is named in the cause: the time-out of the whole call has no text.
        let patience = config.timeout / 10 * 9;
        let is_tunnel = config.protocol == Protocol::Grpc || config.endpoint.is_tls;
        match config.proxy.clone() {
            None => Self::Direct,
            Some(proxy) if is_tunnel => Self::Tunnel { proxy, patience },
            Some(proxy) => Self::Forward(proxy),
        }
    }

    /// Host and port that a socket is opened to, in order to reach these ones.
    pub(crate) fn peer<'a>(&'a self, host: &'a str, port: u16) -> (&'a str, u16) {
        match self {
            Self::Direct => (host, port),
            Self::Tunnel { proxy, .. } | Self::Forward(proxy) => (&proxy.host, proxy.port),
        }
    }

    /// The text of a connection to [`peer`](Self::peer) that could not be opened.
    pub(crate) fn unreached(&self, error: impl fmt::Display) -> String {
        match self {
            Self::Direct => error.to_string(),
            Self::Tunnel { proxy, .. } | Self::Forward(proxy) => format!("{proxy} is not reached: {error}"),
        }
    }

    /// Names the proxy in place of its page where it refuses a request over plain HTTP for its credentials. Its other
    /// answers cannot be told from those of the collector.
    pub(crate) fn explained(&self, mut outcome: Outcome) -> Outcome {
        if let (Self::Forward(proxy), Outcome::Refused { cause: Cause::Http { status: 407, message }, .. }) =
            (self, &mut outcome)
        {
            let what = if proxy.authorization.is_some() { "refuses the credentials" } else { "asks for credentials" };
            *message = format!("{proxy} {what}: {}", proxy.remedy());
        }
        outcome
    }

    /// Makes a connection to the collector of one to [`peer`](Self::peer): the next byte is one for the collector, or
    /// of a request to the proxy.
    ///
    /// # Errors
    ///
    /// A sentence with the proxy, its answer and the remedy.
    pub(crate) async fn through(
        &self,
        stream: Box<dyn Duplex>,
        host: &str,
        port: u16,
    ) -> Result<Box<dyn Duplex>, String> {
        let Self::Tunnel { proxy, patience } = self else { return Ok(stream) };
        let opened = tokio::time::timeout(*patience, proxy::open_tunnel(stream, proxy, host, port)).await;
        let opened = opened.unwrap_or_else(|_| {
            Err(format!(
                "{proxy} did not answer CONNECT to port {port} of {host} within {patience:?}: check that it reaches this \
                 address"
            ))
        });
        Ok(Box::new(opened?))
    }
}
