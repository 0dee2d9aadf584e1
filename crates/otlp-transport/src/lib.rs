#![doc = include_str!("../README.md")]

mod adapter;
mod answer;
mod body;
mod chain;
mod clock;
mod coding;
mod config;
mod connect;
mod credentials;
mod duplex;
mod endpoint;
mod env;
mod error;
mod faults;
mod grpc;
mod headers;
mod http1;
mod looks;
mod note;
mod outcome;
mod paths;
mod protocol;
mod proxy;
mod quiet;
mod reading;
mod secrets;
mod signals;
mod size;
mod slips;
mod status_line;
mod tls;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use otlp_payload::Payload;

pub use adapter::ExporterTransport;
pub use chain::ErrorChain;
pub use config::{
    Config, ConfigBuilder, DEFAULT_CONNECTION_MAX_AGE, DEFAULT_MAX_REQUEST_BYTES, DEFAULT_MAX_RESPONSE_BYTES,
    Endpoints, FailoverEndpoint,
};
pub use credentials::{CredentialHeaders, Credentials, CredentialsError, HeadersFile, RequestHead};
pub use error::{ConfigError, EndpointProblem, FailoverProblem, HeaderProblem, HeadersFileProblem, ProxyProblem};
pub use faults::{Fault, FaultMode, Faults, FaultyTransport};
pub use grpc::GrpcTransport;
pub use http1::HttpTransport;
pub use note::Note;
pub use otlp_payload::Signal;
pub use outcome::{Cause, Outcome, RefusalKind};
pub use protocol::{Compression, Protocol};
pub use signals::SignalTransport;

/// Sends payloads to one collector. One task or several (replay, concurrency) call `send` at the same time. It runs
/// inside a current-thread tokio runtime with I/O and time enabled and must not block it. The caller may drop the
/// future at any point (shutdown); the peer may have taken a payload that was sent until then.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends one payload: no retry of a failure inside, and no waiting for one. Only a request that the peer did not
    /// process, by its own word or since the connection had ended before, goes out again at once, on a new connection.
    /// Its own time-out bounds the call. The payload's [signal](Payload::signal) decides about path, method and
    /// settings; a transport that knows only another one sends nothing and says so.
    async fn send(&self, payload: &Payload) -> Outcome;

    /// The address of the collector for logs, health and dead letters. It must hold no secret: no user-info, no query,
    /// and no segment of a path that may be a token.
    fn endpoint(&self) -> &str;

    /// The same for payloads of one signal. Without an override that of all.
    fn endpoint_of(&self, signal: Signal) -> &str {
        let _ = signal;
        self.endpoint()
    }

    /// Whether payloads of this signal can be sent. Without an override all can.
    fn carries(&self, signal: Signal) -> bool {
        let _ = signal;
        true
    }

    /// Has the next [`send`](Self::send) use a new connection: the last one may lead to the one bad replica behind a
    /// load balancer. Calls that are out keep theirs. Must not block. Without an override nothing happens.
    fn reconnect(&self) {}

    /// Whether credentials or files of this transport can change while it runs. The caller then asks
    /// [`has_changed`](Self::has_changed) every 5 s while batches wait for an endpoint that refuses them or that no
    /// connection reaches, or for credentials. Without an override they cannot.
    fn can_change(&self) -> bool {
        false
    }

    /// Looks whether credentials or files have changed since the last call that went out: the next call is worth more
    /// than the last one then. Must not block, and may take as long as a call.
    async fn has_changed(&self) -> bool {
        false
    }

    /// Takes the notes for the user since the last call of this method, free of secrets: a file that cannot be read,
    /// credentials that could not be renewed. The caller logs them. Must not block.
    fn take_notes(&self) -> Vec<Note> {
        Vec::new()
    }
}

#[async_trait]
impl<T: Transport + ?Sized> Transport for Box<T> {
    async fn send(&self, payload: &Payload) -> Outcome {
        (**self).send(payload).await
    }

    fn endpoint(&self) -> &str {
        (**self).endpoint()
    }

    fn endpoint_of(&self, signal: Signal) -> &str {
        (**self).endpoint_of(signal)
    }

    fn carries(&self, signal: Signal) -> bool {
        (**self).carries(signal)
    }

    fn reconnect(&self) {
        (**self).reconnect();
    }

    fn can_change(&self) -> bool {
        (**self).can_change()
    }

    async fn has_changed(&self) -> bool {
        (**self).has_changed().await
    }

    fn take_notes(&self) -> Vec<Note> {
        (**self).take_notes()
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

    fn endpoint_of(&self, signal: Signal) -> &str {
        (**self).endpoint_of(signal)
    }

    fn carries(&self, signal: Signal) -> bool {
        (**self).carries(signal)
    }

    fn reconnect(&self) {
        (**self).reconnect();
    }

    fn can_change(&self) -> bool {
        (**self).can_change()
    }

    async fn has_changed(&self) -> bool {
        (**self).has_changed().await
    }

    fn take_notes(&self) -> Vec<Note> {
        (**self).take_notes()
    }
}

/// Makes the transport that `config` asks for. No I/O happens and no runtime is needed: the connection is made by the
/// first [`send`](Transport::send), inside the runtime that runs it.
///
/// # Errors
///
/// None so far: a [`Config`] is checked when it is built, key material included.
pub fn connect(config: Config) -> Result<Box<dyn Transport>, ConfigError> {
    Ok(match config.protocol() {
        Protocol::Grpc => Box::new(GrpcTransport::new(config)),
        Protocol::HttpProtobuf => Box::new(HttpTransport::new(config)),
    })
}
