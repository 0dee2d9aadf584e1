#![doc = include_str!("../README.md")]

mod adapter;
mod answer;
mod body;
mod chain;
mod config;
mod connect;
mod endpoint;
mod env;
mod error;
mod grpc;
mod headers;
mod http1;
mod note;
mod outcome;
mod protocol;
mod secrets;
mod size;
mod slips;
mod status_line;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use otlp_payload::Payload;

pub use adapter::ExporterTransport;
pub use chain::ErrorChain;
pub use config::{Config, ConfigBuilder, DEFAULT_MAX_REQUEST_BYTES};
pub use error::{ConfigError, EndpointProblem, HeaderProblem};
pub use grpc::GrpcTransport;
pub use http1::HttpTransport;
pub use note::Note;
pub use outcome::{Cause, Outcome, RefusalKind};
pub use protocol::{Compression, Protocol};

/// Sends payloads to one collector. One task or several (replay, concurrency) call `send` at the same time. It runs
/// inside a current-thread tokio runtime with I/O and time enabled and must not block it. The caller may drop the
/// future at any point (shutdown); the peer may have taken a payload that was sent until then.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends one payload: no retry of a failure inside, and no waiting for one. Only a request that the peer did not
    /// process, by its own word or since the connection had ended before, goes out again at once, on a new connection.
    /// Its own time-out bounds the call.
    async fn send(&self, payload: &Payload) -> Outcome;

    /// The address of the collector for logs, health and dead letters. It must hold no secret: no user-info, no query,
    /// and no segment of a path that may be a token.
    fn endpoint(&self) -> &str;

    /// Has the next [`send`](Self::send) use a new connection: the last one may lead to the one bad replica behind a
    /// load balancer. Calls that are out keep theirs. Must not block. Without an override nothing happens.
    fn reconnect(&self) {}
}

#[async_trait]
impl<T: Transport + ?Sized> Transport for Box<T> {
    async fn send(&self, payload: &Payload) -> Outcome {
        (**self).send(payload).await
    }

    fn endpoint(&self) -> &str {
        (**self).endpoint()
    }

    fn reconnect(&self) {
        (**self).reconnect();
    }
}

#[async_trait]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    async fn send(&self, payload: &Payload) -> Outcome {
        (**self).send(payload).await
    }

    fn endpoint(&self) -> &str {
        (**self).endpoint()
    }

    fn reconnect(&self) {
        (**self).reconnect();
    }
}

/// Makes the transport that `config` asks for. No I/O happens and no runtime is needed: the connection is made by the
/// first [`send`](Transport::send), inside the runtime that runs it.
///
/// # Errors
///
/// None so far: a [`Config`] is checked when it is built. Key material will be read here.
pub fn connect(config: Config) -> Result<Box<dyn Transport>, ConfigError> {
    Ok(match config.protocol() {
        Protocol::Grpc => Box::new(GrpcTransport::new(config)),
        Protocol::HttpProtobuf => Box::new(HttpTransport::new(config)),
    })
}
