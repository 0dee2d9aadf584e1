//! Connections, and the tasks that drive them.

mod tcp;
mod unix;
mod wire;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tracing::Dispatch;
use tracing::instrument::{WithDispatch, WithSubscriber as _};

use crate::config::Config;
use crate::endpoint::{Endpoint, Place};
use crate::outcome::Cause;
use wire::Wire;

/// How long a connection may lie idle and still be used: less than the 60 s after which the first load balancers and
/// NATs forget it, some without a word, which would cost the next call its whole time-out.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(50);

/// An open connection to the peer, over a socket or over another connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// Opens the connections of one transport.
pub(crate) struct Connector {
    endpoint: Endpoint,
}

impl Connector {
    pub(crate) fn new(config: &Config) -> Self {
        Self { endpoint: config.endpoint.clone() }
    }

    /// Opens a connection on which the next byte is one of HTTP.
    pub(crate) async fn open(&self) -> Result<Box<dyn Duplex>, Cause> {
        match &self.endpoint.place {
            Place::Host { host, port } => {
                let socket = tcp::open(host, *port).await.map_err(|error| self.failed(&error))?;
                Ok(Box::new(Wire::new(socket)))
            }
            Place::Socket(path) => {
                let socket = unix::open(path).await.map_err(|error| self.failed(&error))?;
                Ok(Box::new(Wire::new(socket)))
            }
        }
    }

    /// The cause of a connection that could not be opened.
    pub(crate) fn failed(&self, error: &dyn fmt::Display) -> Cause {
        Cause::Connect(format!("{}: {error}", self.endpoint.shown))
    }
}

/// The future, of which no `tracing` subscriber sees a span or an event. h2 opens a span for each frame, and the first
/// of them has no parent: a layer that turns them into spans of OpenTelemetry would export them too, although the
/// thread's context suppresses telemetry, and each export would make dozens of new ones.
pub(crate) fn unobserved<F: Future>(future: F) -> WithDispatch<F> {
    future.with_subscriber(Dispatch::none())
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
