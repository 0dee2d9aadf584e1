//! The settings of a transport, checked as a whole.

mod build;
mod check;
mod failover;
pub(crate) mod members;
mod request;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use otlp_payload::Signal;

use crate::credentials::{self, Credentials, Gate};
use crate::endpoint::{Endpoint, Given, Reach};
use crate::error::ConfigError;
use crate::headers::{Headers, secret};
use crate::note::Note;
use crate::protocol::{Compression, Protocol};
use crate::proxy::{self, Proxy};
use crate::reading::Reading;
use crate::secrets::Secrets;
#[cfg(feature = "_tls")]
use crate::tls;
use crate::tls::{KeyFile, KeyFiles};

pub(crate) use failover::List;
pub use failover::{Endpoints, FailoverEndpoint};

/// The time-out of one attempt where none is set: 10 s (OTLP exporter specification).
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a request where no limit is set. Collectors built on gRPC refuse messages above 4 MiB by default;
/// 64 KiB less leave room for the headers that a proxy adds.
pub const DEFAULT_MAX_REQUEST_BYTES: usize = (4 << 20) - (64 << 10);
/// The greatest age of a connection where none is set: a load balancer's new addresses are in use within it.
pub const DEFAULT_CONNECTION_MAX_AGE: Duration = Duration::from_secs(300);
/// The most bytes of an answer where no limit is set: 4 MiB, as the OTLP specification recommends to clients.
pub const DEFAULT_MAX_RESPONSE_BYTES: usize = 4 << 20;
/// OTLP exporter specification, "Endpoint"; its port decides the default protocol.
pub(crate) const DEFAULT_GRPC_ENDPOINT: &str = "http://localhost:4317";
pub(crate) const DEFAULT_HTTP_ENDPOINT: &str = "http://localhost:4318";
/// The ports of OTLP/gRPC and OTLP/HTTP.
const GRPC_PORT: u16 = 4317;
const HTTP_PORT: u16 = 4318;

/// Checked settings of one transport. `Debug` shows neither header values nor the secrets that the endpoint
/// may hold ([`Config::endpoint`]).
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) signal: Signal,
    pub(crate) endpoint: Endpoint,
    pub(crate) protocol: Protocol,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) headers: Headers,
    pub(crate) timeout: Duration,
    pub(crate) compression: Compression,
    pub(crate) max_request_bytes: usize,
    pub(crate) connection_max_age: Duration,
    pub(crate) max_response_bytes: usize,
    pub(crate) user_agent: HeaderValue,
    pub(crate) wall_clock: fn() -> SystemTime,
    pub(crate) key_files: KeyFiles,
    /// Where the endpoint asks for TLS.
    #[cfg(feature = "_tls")]
    pub(crate) tls: Option<Arc<tls::Client>>,
    /// Where the proxy asks for TLS.
    #[cfg(feature = "_tls")]
    pub(crate) proxy_tls: Option<Arc<tls::Client>>,
    /// Texts that must appear in no message.
    secrets: Secrets,
    /// Headers that change while the transport runs.
    pub(crate) credentials: Option<Arc<Gate>>,
    headers_file: Option<String>,
    pub(crate) notes: Vec<Note>,
}

impl Config {
    /// Starts from the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// Reads the `OTEL_EXPORTER_OTLP_*` family from the environment of the process. See [`ConfigBuilder::build_over`].
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] names the variable, its value unless secret, and the accepted values.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::builder().build_over(|name| std::env::var_os(name))
    }

    /// Reads the same family from `vars`: for tests, and for settings that come from elsewhere.
    ///
    /// # Errors
    ///
    /// As [`Config::from_env`].
    pub fn from_vars(vars: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Self, ConfigError> {
        Self::builder().build_over(vars)
    }

    /// Where requests go, for people: scheme, host, port and, over HTTP, the path. A segment of the path that is no
    /// word of the usual OTLP paths (`/v1/traces`, `/otlp/v1/traces`, `/api/v2/otlp/v1/traces` and others) is shown as
    /// `***`, since some services take a token there. User-info and query are not shown.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint.shown
    }

    /// The proxy that requests go through, for people: scheme, host and port, without credentials. None where they go
    /// to the collector itself.
    #[must_use]
    pub fn proxy(&self) -> Option<&str> {
        self.proxy.as_ref().map(|proxy| &*proxy.shown)
    }

    /// The signal whose payloads are sent by these settings.
    #[must_use]
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// How requests are carried.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Bounds one attempt as a whole: name look-up, connecting, sending and the answer.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether request bodies are compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The PEM file of the authorities that are trusted in place of the system's, if one is set.
    #[must_use]
    pub fn certificate(&self) -> Option<&Path> {
        self.key_files.authorities.as_ref().map(|file| &*file.path)
    }

    /// The PEM file of the certificate that this client shows, if one is set.
    #[must_use]
    pub fn client_certificate(&self) -> Option<&Path> {
        self.key_files.certificate.as_ref().map(|file| &*file.path)
    }

    /// The PEM file of its private key, if one is set.
    #[must_use]
    pub fn client_key(&self) -> Option<&Path> {
        self.key_files.key.as_ref().map(|file| &*file.path)
    }

    /// Payloads above this, in bytes before compression, are not sent but [`TooLarge`](crate::Outcome::TooLarge).
    #[must_use]
    pub fn max_request_bytes(&self) -> usize {
        self.max_request_bytes
    }

    /// The age at which a connection is replaced, more or less a tenth.
    #[must_use]
    pub fn connection_max_age(&self) -> Duration {
        self.connection_max_age
    }

    /// The path of the headers file, if the settings name one; text behind a blank that may be another variable is
    /// `***`.
    #[must_use]
    pub fn headers_file(&self) -> Option<&str> {
        self.headers_file.as_deref()
    }

    /// An acknowledgement above this, in bytes as they come or after decompression, is
    /// [unreadable](crate::Outcome::AcknowledgedUnreadably).
    #[must_use]
    pub fn max_response_bytes(&self) -> usize {
        self.max_response_bytes
    }

    /// The same settings for a transport of this protocol.
    pub(crate) fn speaking(mut self, protocol: Protocol) -> Self {
        if self.protocol != protocol {
            self.protocol = protocol;
            self.endpoint.retarget(protocol);
        }
        self
    }

    /// Notes for the user: each value that was ignored, and the value that is used in its place; each that rarely means
    /// its text. Free of secrets.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }
}

/// Settings given in code. A setting that is not given comes from the environment ([`build_over`](Self::build_over)) or
/// from the defaults.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ConfigBuilder {
    pub(crate) signal: Signal,
    pub(crate) endpoint: Option<Given>,
    /// With the variable or the method that it is from, as the time-out below.
    pub(crate) protocol: Option<(Protocol, &'static str)>,
    pub(crate) insecure: Option<bool>,
    pub(crate) proxy: proxy::Choice,
    pub(crate) headers: Headers,
    pub(crate) header_error: Option<ConfigError>,
    pub(crate) credentials: Option<CredentialsFrom>,
    /// From the headers: one more product in front of the user agent.
    pub(crate) user_agent: Option<HeaderValue>,
    pub(crate) timeout: Option<(Duration, &'static str)>,
    pub(crate) compression: Option<Compression>,
    pub(crate) key_files: KeyFiles,
    max_request_bytes: Option<usize>,
    connection_max_age: Option<Duration>,
    max_response_bytes: Option<usize>,
    product: Option<String>,
    wall_clock: Option<fn() -> SystemTime>,
    reading: Reading,
    pub(crate) failover: Option<List>,
    pub(crate) fallback: Option<Given>,
    pub(crate) notes: Vec<Note>,
}

impl ConfigBuilder {
    /// The signal whose payloads are sent by these settings: it decides about the path, the gRPC method, and the
    /// variables that [`build_over`](Self::build_over) reads. Default traces. A transport sends no payload of another
    /// signal; a [`SignalTransport`](crate::SignalTransport) has settings for several.
    pub fn with_signal(mut self, signal: Signal) -> Self {
        self.signal = signal;
        self
    }

    /// The collector's address for all signals, `http[s]://host:port[/path]` or `unix:///path/to/socket`; over HTTP
    /// `/v1/traces` is put behind its path, or the path of the signal. Default
    /// `http://localhost:4317` for gRPC, `http://localhost:4318` for HTTP.
    pub fn with_endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(Given::new("with_endpoint", url.into(), Reach::General));
        self
    }

    /// The collector's address for the one signal, used as it is. Takes the place of
    /// [`with_endpoint`](Self::with_endpoint).
    pub fn with_signal_endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(Given::new("with_signal_endpoint", url.into(), Reach::Own));
        self
    }

    /// The same, for settings of traces.
    pub fn with_traces_endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(Given::new("with_traces_endpoint", url.into(), Reach::Own));
        self
    }

    /// How requests are carried. Default gRPC, but `http/protobuf` where the endpoint's port is 4318.
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some((protocol, "with_protocol"));
        self
    }

    /// Whether a gRPC endpoint without a scheme is spoken to without TLS. Default false. A scheme decides alone.
    pub fn with_insecure(mut self, insecure: bool) -> Self {
        self.insecure = Some(insecure);
        self
    }

    /// The proxy that requests go through, `http[s]://[user:password@]host:port`, whatever the variables say,
    /// `NO_PROXY` included: gRPC and `https` by `CONNECT`, plain HTTP by requests to it. A collector on this host, or
    /// on a Unix socket, is reached without it. Default the one of the variables.
    pub fn with_proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = proxy::Choice::given("with_proxy", url.into());
        self
    }

    /// No proxy, whatever the variables say.
    pub fn without_proxy(mut self) -> Self {
        self.proxy = proxy::Choice::Without;
        self
    }

    /// One more header on every request; beats the same name in the environment. At most 100. A gRPC name that ends in
    /// `-bin` needs a value that is base64 already. A `user-agent` is put in front of the transport's own.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let given = match name.eq_ignore_ascii_case("user-agent") {
            true => secret(value.as_bytes()).map(|value| self.user_agent = Some(value)),
            false => self.headers.insert(name, value.as_bytes()),
        };
        if let Err(problem) = given {
            let name = http::HeaderName::from_bytes(name.as_bytes()).ok().map(|name| name.to_string());
            let error = ConfigError::Headers { setting: "with_header", position: 1, name, problem };
            self.header_error.get_or_insert(error);
        }
        self
    }

    /// Headers that change while the transport runs: tokens, signatures. Default none. Takes the place of
    /// [`with_headers_file`](Self::with_headers_file) and of the variable `TELEMETRY_HEADERS_FILE`; the other headers
    /// stay, and those of the provider beat them.
    pub fn with_credentials(mut self, credentials: Arc<dyn Credentials>) -> Self {
        self.credentials = Some(CredentialsFrom::Provider(credentials));
        self
    }

    /// A [`HeadersFile`](crate::HeadersFile) whose headers beat all others of the same names. Default none. Beats the
    /// variable `TELEMETRY_HEADERS_FILE`, and takes the place of [`with_credentials`](Self::with_credentials). The file
    /// is read when the settings are built.
    pub fn with_headers_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.credentials = Some(CredentialsFrom::File { setting: "with_headers_file", path: path.into() });
        self
    }

    /// Bounds one attempt as a whole. Default 10 s; 1 ms to 1 h. Shorter than the collector's pauses means duplicates:
    /// a request that timed out may have been taken.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some((timeout, "with_timeout"));
        self
    }

    /// A PEM file of the authorities that may have signed the peer's certificate, in place of the system's. The file is
    /// looked at again for each connection: a changed one holds for the next, an unusable one is noted and the content
    /// before it stays. Without effect where the endpoint asks for no TLS.
    pub fn with_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.key_files.authorities = Some(KeyFile { setting: "with_certificate", path: path.into() });
        self
    }

    /// A PEM file with the certificate of this client, its own first, and those up to its authority behind it. Needs
    /// [`with_client_key`](Self::with_client_key), and is looked at again as the file of authorities.
    pub fn with_client_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.key_files.certificate = Some(KeyFile { setting: "with_client_certificate", path: path.into() });
        self
    }

    /// A PEM file with the private key of that certificate: PKCS#8, PKCS#1 or SEC1, without a pass phrase.
    pub fn with_client_key(mut self, path: impl Into<PathBuf>) -> Self {
        self.key_files.key = Some(KeyFile { setting: "with_client_key", path: path.into() });
        self
    }

    /// Whether request bodies are compressed. Default [`Compression::None`].
    pub fn with_compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// The largest payload that is sent, in bytes before compression. Default 4 MiB less 64 KiB; 1 KiB to 1 GiB.
    pub fn with_max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = Some(bytes);
        self
    }

    /// The age at which a connection is replaced, more or less a tenth: each new one looks the name up again, and
    /// follows a load balancer to its new addresses. The old one serves calls until the new one is open, and goes on if
    /// there is none. Default 5 minutes; 1 s to 7 days.
    pub fn with_connection_max_age(mut self, age: Duration) -> Self {
        self.connection_max_age = Some(age);
        self
    }

    /// The largest acknowledgement that is read, in bytes as they come and after decompression. Default 4 MiB; 1 KiB to
    /// 64 MiB. The spans of a larger one were taken: its outcome is
    /// [`AcknowledgedUnreadably`](crate::Outcome::AcknowledgedUnreadably). Of a refusal 16 KiB are read in any case.
    pub fn with_max_response_bytes(mut self, bytes: usize) -> Self {
        self.max_response_bytes = Some(bytes);
        self
    }

    /// One more product in front of the `User-Agent`, as `name/version`. Default none.
    pub fn with_product(mut self, product: impl Into<String>) -> Self {
        self.product = Some(product.into());
        self
    }

    /// The wall clock; a `Retry-After` that is a date is read against it. Default the system's.
    pub fn with_wall_clock(mut self, clock: fn() -> SystemTime) -> Self {
        self.wall_clock = Some(clock);
        self
    }
}

/// The source of headers that change.
#[derive(Clone)]
pub(crate) enum CredentialsFrom {
    Provider(Arc<dyn Credentials>),
    File { setting: &'static str, path: PathBuf },
}

impl fmt::Debug for CredentialsFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provider(_) => f.write_str("Credentials"),
            Self::File { path, .. } => f.debug_tuple("HeadersFile").field(&credentials::shown(path)).finish(),
        }
    }
}
