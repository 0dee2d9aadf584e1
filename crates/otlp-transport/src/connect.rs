//! Connections, and the tasks that drive them.

mod addresses;
pub(crate) mod age;
pub(crate) mod failures;
mod route;
mod secure;
mod tcp;
#[cfg(test)]
mod tests;
mod unix;
mod wire;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::config::Config;
use crate::duplex::Duplex;
use crate::endpoint::{Endpoint, Place};
use crate::note::Note;
use crate::outcome::Cause;
use crate::protocol::Protocol;
use crate::quiet::unobserved;
use addresses::Addresses;
pub(crate) use route::Route;
use secure::Secure;
use wire::{First, Wire};

/// How long a connection may lie idle and still be used: less than the 60 s after which the first load balancers and
/// NATs forget it, some without a word, which would cost the next call its whole time-out.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(50);

/// Opens the connections of one transport.
pub(crate) struct Connector {
    endpoint: Endpoint,
    protocol: Protocol,
    addresses: Addresses,
    pub(crate) route: Route,
    to_endpoint: Option<Secure>,
    to_proxy: Option<Secure>,
    /// The memory that HTTP hands to its connections.
    #[cfg(test)]
    written: tests::Written,
}

impl Connector {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            endpoint: config.endpoint.clone(),
            protocol: config.protocol,
            addresses: Addresses::default(),
            route: Route::new(config),
            to_endpoint: Secure::to_endpoint(config),
            to_proxy: Secure::to_proxy(config),
            #[cfg(test)]
            written: tests::Written::default(),
        }
    }

    /// Opens a connection on which the next byte is one of HTTP.
    pub(crate) async fn open(&self) -> Result<Box<dyn Duplex>, Cause> {
        let stream = self.stream().await.map_err(|error| self.failed(&error))?;
        let opened = match &self.to_endpoint {
            Some(secure) => secure.over(stream).await.map_err(|error| self.failed(&error)),
            None => Ok(stream),
        };
        #[cfg(test)]
        let opened = opened.map(|stream| self.written.over(stream));
        opened
    }

    /// Opens a connection on which the next byte is one for the collector, or of a request to a proxy.
    async fn stream(&self) -> Result<Box<dyn Duplex>, String> {
        // A proxy that speaks TLS says nothing of the endpoint.
        let first = match self.route {
            Route::Direct => self.first(),
            Route::Forward(_) if self.to_proxy.is_none() => First::Proxy,
            // The answer to CONNECT is read as a whole.
            Route::Forward(_) | Route::Tunnel { .. } => First::Any,
        };
        match &self.endpoint.place {
            Place::Host { host, port } => {
                let (peer, peer_port) = self.route.peer(host, *port);
                let socket = tcp::open(peer, peer_port, &self.addresses).await;
                let socket = socket.map_err(|error| self.route.unreached(error))?;
                let mut stream: Box<dyn Duplex> = Box::new(Wire::new(socket, first));
                if let Some(secure) = &self.to_proxy {
                    stream = secure.over(stream).await.map_err(|error| self.route.unreached(error))?;
                }
                let stream = self.route.through(stream, host, *port).await?;
                if matches!(self.route, Route::Tunnel { .. }) && self.first() != First::Any {
                    return Ok(Box::new(Wire::new(stream, self.first())));
                }
                Ok(stream)
            }
            Place::Socket(path) => {
                let socket = unix::open(path).await.map_err(|error| error.to_string())?;
                Ok(Box::new(Wire::new(socket, first)))
            }
        }
    }

    /// The first bytes of the collector.
    fn first(&self) -> First {
        match (&self.endpoint.place, self.protocol) {
            _ if self.endpoint.is_tls => First::Any,
            (Place::Socket(_), _) => First::Socket,
            (Place::Host { .. }, Protocol::Grpc) => First::Http2,
            (Place::Host { .. }, Protocol::HttpProtobuf) => First::Http1,
        }
    }

    fn secured(&self) -> impl Iterator<Item = &Secure> {
        [&self.to_endpoint, &self.to_proxy].into_iter().flatten()
    }

    /// Whether the user has named files of key material.
    pub(crate) fn can_change(&self) -> bool {
        self.secured().any(Secure::can_change)
    }

    /// Whether such a file may have changed since the last connection was opened; true once for each change.
    pub(crate) async fn has_changed(&self) -> bool {
        let mut has_changed = false;
        for secure in self.secured() {
            has_changed |= secure.has_changed().await;
        }
        has_changed
    }

    /// Notes about key material that has become unusable, each once.
    pub(crate) fn take_notes(&self) -> Vec<Note> {
        self.secured().flat_map(Secure::take_notes).collect()
    }

    /// Has the next connection try another address of the name first, if it has one: the connection that was opened
    /// last was given up.
    pub(crate) fn avoid_last_address(&self) {
        self.addresses.avoid_last();
    }

    /// The cause of a connection that could not be opened.
    pub(crate) fn failed(&self, error: &dyn fmt::Display) -> Cause {
        Cause::Connect(format!("{}: {error}", self.endpoint.shown))
    }
}

/// The task that drives a connection. Dropping it aborts the task: no connection outlives its transport, or its call
/// over HTTP.
pub(crate) struct Driver(JoinHandle<()>);

impl Driver {
    pub(crate) fn spawn(connection: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(unobserved(connection)))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Lets the drivers read the bytes that arrived while the runtime did not run: a FIN or a GOAWAY that is there already
/// must not fail the next call. The first yield polls the I/O driver, the second runs the tasks that it woke.
pub(crate) async fn catch_up() {
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}
