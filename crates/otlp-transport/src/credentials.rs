//! Credentials that change while a transport runs: tokens that expire, signatures over each request, a file of headers.

mod file;
mod gate;
mod lines;
mod refreshes;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Uri};

use crate::note::Note;

pub use file::HeadersFile;
pub(crate) use file::shown;
pub(crate) use gate::{Gate, Signed};

/// The headers of each request that cannot be written into the settings once: a token that expires, a signature over
/// the request. Given by [`ConfigBuilder::with_credentials`](crate::ConfigBuilder::with_credentials).
///
/// A transport calls these methods inside its runtime, from several calls at a time. They must not block: a thread that
/// waits for a token delays every other request. A panic, an error, headers that no request may have and an answer that
/// does not come within the time-out of the call make the call
/// [`Retryable`](crate::Outcome::Retryable) by [`Cause::Credentials`](crate::Cause::Credentials), and nothing was sent.
///
/// No `tracing` subscriber sees the spans and events of these methods: those of an HTTP client in them would become
/// spans that are exported, each by a request with spans of its own. Errors and [`take_notes`](Self::take_notes) reach
/// the user.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use async_trait::async_trait;
/// use bytes::Bytes;
/// use otlp_transport::{Config, CredentialHeaders, Credentials, CredentialsError, RequestHead};
///
/// /// Counts its tokens; a real one would ask a token service.
/// struct Tokens(AtomicU64);
///
/// #[async_trait]
/// impl Credentials for Tokens {
///     async fn headers(&self, _: &RequestHead, _: &Bytes) -> Result<CredentialHeaders, CredentialsError> {
///         let generation = self.0.load(Ordering::Relaxed);
///         Ok(CredentialHeaders::new(generation).with("authorization", format!("Bearer token-{generation}")))
///     }
///
///     async fn refused(&self, generation: u64) -> Result<u64, CredentialsError> {
///         self.0.fetch_max(generation + 1, Ordering::Relaxed);
///         Ok(self.0.load(Ordering::Relaxed))
///     }
/// }
///
/// let config = Config::builder().with_credentials(Arc::new(Tokens(AtomicU64::new(1)))).build()?;
/// # Ok::<(), otlp_transport::ConfigError>(())
/// ```
#[async_trait]
pub trait Credentials: Send + Sync + 'static {
    /// The headers of one request. `body` is the body as it is sent, behind the compression; over gRPC it is the
    /// message, in front of which [`RequestHead::prefix`] has the five bytes of its frame. Called once a call, before a
    /// connection is made. The headers take the place of those of the settings that have the same name.
    ///
    /// # Errors
    ///
    /// A text for the user, without a secret. The call is repeated later, as after a failed connection.
    async fn headers(&self, head: &RequestHead, body: &Bytes) -> Result<CredentialHeaders, CredentialsError>;

    /// The peer has refused a request with headers of this generation (HTTP 401 and 403, gRPC 16 and 7): gets newer
    /// ones if there are any, and returns the generation of the newest. Without an override there are none.
    ///
    /// At most one call of this method runs at a time, for all refused requests of a generation together. A request
    /// that went out after it ended, and is refused, causes one more, at most one in 10 s. It may take as long as the
    /// time-out of a call.
    ///
    /// # Errors
    ///
    /// A text for the user, without a secret. The request counts as refused.
    async fn refused(&self, generation: u64) -> Result<u64, CredentialsError> {
        Ok(generation)
    }

    /// The generation of the newest credentials, for those that change without a refusal, such as a file's. Asked every
    /// 5 s while batches wait for an endpoint that refuses. Without an override, `None`: there is nothing to look at.
    async fn newest(&self) -> Option<u64> {
        None
    }

    /// Takes the notes for the user since the last call, free of secrets. The exporter logs them as warnings. Called
    /// after each call of the transport; must not block. Without an override there are none.
    fn take_notes(&self) -> Vec<Note> {
        Vec::new()
    }
}

/// The head of a request, as the peer gets it, without the headers of the credentials. `Debug` shows neither the query
/// nor the path of its URI, which may hold secrets.
#[derive(Clone)]
pub struct RequestHead {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    prefix: Bytes,
}

impl RequestHead {
    pub(crate) fn new(method: Method, uri: Uri, headers: HeaderMap, prefix: Bytes) -> Self {
        Self { method, uri, headers, prefix }
    }

    /// The method: `POST`.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method.as_str()
    }

    /// The whole URI, with scheme and host. Its path and its query may hold secrets.
    #[must_use]
    pub fn uri(&self) -> String {
        self.uri.to_string()
    }

    /// Host and port as the peer gets them: `Host` over HTTP/1.1, `:authority` over gRPC.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// The path, as it is sent; `/` if it is empty.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The query without its question mark, as it is sent.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// The value of a header that the settings or the transport give, if it is text. Headers that depend on time
    /// (`grpc-timeout`) and on the connection (`content-length`) are not among them.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The bytes in front of the body that the peer gets: over gRPC the five of the message's frame, over HTTP none. A
    /// signature over the body as the peer reads it covers them first. The two are apart so that no payload is copied.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("authority", &self.authority())
            .finish_non_exhaustive()
    }
}

/// Headers of one request, and the generation of the credentials that they are from. `Debug` shows no value.
#[derive(Clone)]
pub struct CredentialHeaders {
    pub(crate) generation: u64,
    pub(crate) pairs: Vec<(String, String)>,
}

impl CredentialHeaders {
    /// No header yet. `generation` grows whenever credentials take the place of others; a signature that differs from
    /// request to request belongs to the generation of its key.
    #[must_use]
    pub fn new(generation: u64) -> Self {
        Self { generation, pairs: Vec::new() }
    }

    /// Adds a header; a second one of the same name takes the first one's place. Accepted are 100 headers and 64 KiB,
    /// values in printable ASCII, and no header that the transport sets itself, such as `content-type`, `host` and
    /// `user-agent`: anything else makes the call fail before a byte is sent.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.pairs.push((name.into(), value.into()));
        self
    }
}

impl fmt::Debug for CredentialHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name may be a value that stands in the wrong place: their number has to do.
        f.debug_struct("CredentialHeaders")
            .field("generation", &self.generation)
            .field("headers", &self.pairs.len())
            .finish()
    }
}

/// The reason for which there are no credentials: a text for the user, free of secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CredentialsError(String);

impl CredentialsError {
    /// The text is shown in logs and in health. URLs in it are shown without their secrets, and header values of recent
    /// requests as `***`; the provider keeps all other secrets out of it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}
