//! Checks the settings as a whole.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use otlp_payload::Signal;

use super::{
    Config, ConfigBuilder, CredentialsFrom, DEFAULT_CONNECTION_MAX_AGE, DEFAULT_GRPC_ENDPOINT, DEFAULT_HTTP_ENDPOINT,
    DEFAULT_MAX_REQUEST_BYTES, DEFAULT_MAX_RESPONSE_BYTES, DEFAULT_TIMEOUT, GRPC_PORT, HTTP_PORT,
};
use crate::clock::system_clock;
use crate::credentials::{self, Credentials, Gate, HeadersFile};
use crate::endpoint::{Given, Place, Reach};
use crate::error::ConfigError;
use crate::note::Note;
use crate::protocol::Protocol;
use crate::secrets::Secrets;
#[cfg(feature = "_tls")]
use crate::tls;
use crate::tls::KeyFile;

/// A shorter time-out is noted: a busy collector takes longer to answer, hence each batch is sent again although it was
/// taken.
const SHORT_TIMEOUT: Duration = Duration::from_millis(100);
/// A distribution puts its own product in front of the exporter's (OTLP exporter specification, "User Agent").
/// 0.33.1 is the release of the OpenTelemetry crates that this one goes with.
const USER_AGENT: &str = concat!("holdfast/", env!("CARGO_PKG_VERSION"), " OTel-OTLP-Exporter-Rust/0.33.1");

impl ConfigBuilder {
    /// Checks the whole, without looking at the environment.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] names the method, the value unless secret, and the accepted values.
    pub fn build(mut self) -> Result<Config, ConfigError> {
        if let Some(error) = self.header_error {
            return Err(error);
        }
        let port = self.endpoint.as_ref().and_then(Given::port);
        let protocol = match self.protocol {
            Some((protocol, setting)) => {
                self.notes.extend(other_port(setting, protocol, port));
                protocol
            }
            None if port == Some(HTTP_PORT) => {
                let name = "OTEL_EXPORTER_OTLP_PROTOCOL";
                let note = format!(
                    "the endpoint's port is 4318 and no protocol is set: http/protobuf is used ({name} decides otherwise)"
                );
                self.notes.push(Note::new(name, note));
                Protocol::HttpProtobuf
            }
            None => Protocol::Grpc,
        };
        let is_given = self.endpoint.is_some();
        let default = match protocol {
            Protocol::Grpc => DEFAULT_GRPC_ENDPOINT,
            Protocol::HttpProtobuf => DEFAULT_HTTP_ENDPOINT,
        };
        let given = self.endpoint.unwrap_or_else(|| Given::new("default endpoint", default.to_owned(), Reach::General));
        let given = Given { signal: self.signal, ..given };
        if given.setting == "with_traces_endpoint" && self.signal != Signal::Traces {
            let (setting, value) = (given.setting, format!("the endpoint of {}", self.signal));
            return Err(ConfigError::Range {
                setting,
                value,
                accepted: "settings of traces; else with_signal_endpoint",
            });
        }
        let has_scheme = given.text.contains("://");
        let endpoint = given.resolve(protocol, self.insecure.unwrap_or(false))?;
        let setting = given.setting;
        let note = |message: String| Note::new(setting, message);
        self.notes.extend(endpoint.path_note.as_ref().map(|why| note(format!("{setting} {why}"))));
        let is_host = matches!(endpoint.place, Place::Host { .. });
        if is_given && port.is_none() && is_host && !endpoint.is_tls {
            let message = format!(
                "{setting} has no port, so requests go to port 80: collectors listen on 4317 (gRPC) and 4318 (HTTP); write the port"
            );
            self.notes.push(note(message));
        }
        if endpoint.is_tls && !has_scheme && (port.is_none() || endpoint.is_local()) {
            let at = if port.is_none() { " on port 443" } else { "" };
            let message = format!(
                "{setting} has no scheme, which means TLS{at} for gRPC: write http://host:port for a collector without TLS, https:// otherwise"
            );
            self.notes.push(note(message));
        }

        let proxy = self.proxy.resolve(&endpoint, &mut self.notes)?;

        let (timeout, setting) = self.timeout.unwrap_or((DEFAULT_TIMEOUT, ""));
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&timeout) {
            let value = format!("{timeout:?}");
            return Err(ConfigError::Range { setting, value, accepted: "1 ms to 1 h" });
        }
        if timeout < SHORT_TIMEOUT {
            let millis = timeout.as_millis();
            let message = format!(
                "{setting} of {millis} ms ends requests that a busy collector takes nevertheless, and each is sent again: \
                 duplicates without an end; the unit is milliseconds: {millis} seconds are {millis}000"
            );
            self.notes.push(Note::new(setting, message));
        }
        let max_request_bytes = self.max_request_bytes.unwrap_or(DEFAULT_MAX_REQUEST_BYTES);
        if !(1 << 10..=1 << 30).contains(&max_request_bytes) {
            let (setting, value) = ("with_max_request_bytes", max_request_bytes.to_string());
            return Err(ConfigError::Range { setting, value, accepted: "1024 to 1073741824 bytes" });
        }
        let connection_max_age = self.connection_max_age.unwrap_or(DEFAULT_CONNECTION_MAX_AGE);
        if !(Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600)).contains(&connection_max_age) {
            let (setting, value) = ("with_connection_max_age", format!("{connection_max_age:?}"));
            return Err(ConfigError::Range { setting, value, accepted: "1 s to 7 days" });
        }
        #[cfg(feature = "_tls")]
        let tls = match endpoint.is_tls {
            true => Some(Arc::new(tls::Client::new(self.key_files.clone(), self.reading)?)),
            false => None,
        };
        #[cfg(feature = "_tls")]
        let proxy_tls = match &proxy {
            Some(proxy) if proxy.is_tls => Some(Arc::new(tls::Client::for_proxy(&self.key_files, self.reading)?)),
            _ => None,
        };
        if !endpoint.is_tls {
            let why = match endpoint.place {
                Place::Host { .. } => "the endpoint begins with http://, which is without TLS",
                Place::Socket(_) => "the endpoint is a Unix socket, which is without TLS",
            };
            // The authorities hold for a proxy that is spoken to by TLS too.
            let to_proxy = proxy.as_ref().filter(|proxy| proxy.is_tls).and(self.key_files.authorities.as_ref());
            let without = self.key_files.iter().filter(|file| Some(*file) != to_proxy);
            let note = |file: &KeyFile| Note::new(file.setting, format!("{} has no effect: {why}", file.setting));
            self.notes.extend(without.map(note));
        }
        let wall_clock = self.wall_clock.unwrap_or(system_clock);
        let headers_file = match &self.credentials {
            Some(CredentialsFrom::File { path, .. }) => Some(credentials::shown(path)),
            _ => None,
        };
        let credentials: Option<Arc<dyn Credentials>> = match self.credentials {
            None => None,
            Some(CredentialsFrom::Provider(provider)) => Some(provider),
            Some(CredentialsFrom::File { setting, path }) => {
                Some(Arc::new(HeadersFile::open_as(setting, path, wall_clock, self.reading)?))
            }
        };
        let credentials = credentials.map(|provider| Arc::new(Gate::new(provider, timeout)));
        // A user's provider outlives these settings, which may be built more than once: its notes are the transport's.
        let of_file = credentials.iter().filter(|_| headers_file.is_some());
        self.notes.extend(of_file.flat_map(|gate| gate.take_notes()));
        let max_response_bytes = self.max_response_bytes.unwrap_or(DEFAULT_MAX_RESPONSE_BYTES);
        if !(1 << 10..=64 << 20).contains(&max_response_bytes) {
            let (setting, value) = ("with_max_response_bytes", max_response_bytes.to_string());
            return Err(ConfigError::Range { setting, value, accepted: "1024 to 67108864 bytes" });
        }
        let mut secret = self.headers.clone();
        secret.add_user_agent(self.user_agent.as_ref());
        secret.add_proxy_authorization(proxy.as_ref().and_then(|proxy| proxy.authorization.as_ref()));
        let user_agent = user_agent(self.user_agent, self.product)?;
        let secrets = Secrets::new(&secret, &endpoint.http_path);
        Ok(Config {
            signal: self.signal,
            endpoint,
            protocol,
            proxy,
            headers: self.headers,
            timeout,
            compression: self.compression.unwrap_or_default(),
            max_request_bytes,
            connection_max_age,
            max_response_bytes,
            user_agent,
            wall_clock,
            key_files: self.key_files,
            #[cfg(feature = "_tls")]
            tls,
            #[cfg(feature = "_tls")]
            proxy_tls,
            secrets,
            credentials,
            headers_file,
            notes: self.notes,
        })
    }
}

/// A note about the port of the other protocol.
fn other_port(setting: &'static str, protocol: Protocol, port: Option<u16>) -> Option<Note> {
    let other = match (protocol, port?) {
        (Protocol::HttpProtobuf, GRPC_PORT) => "gRPC: a collector takes http/protobuf on 4318",
        (Protocol::Grpc, HTTP_PORT) => "HTTP: a collector takes grpc on 4317",
        _ => return None,
    };
    let port = port.unwrap_or_default();
    Some(Note::new(
        setting,
        format!("{setting} is {protocol}, and the endpoint's port {port} is the usual one for {other}"),
    ))
}

/// The products of the user and of the program in front of the transport's own.
fn user_agent(of_user: Option<HeaderValue>, product: Option<String>) -> Result<HeaderValue, ConfigError> {
    let own = match &product {
        None => USER_AGENT.to_owned(),
        Some(product) => format!("{product} {USER_AGENT}"),
    };
    let own = HeaderValue::try_from(own).map_err(|_| ConfigError::Range {
        setting: "with_product",
        value: format!("{:?}", product.unwrap_or_default()),
        accepted: "name/version in printable ASCII",
    })?;
    let Some(of_user) = of_user else { return Ok(own) };
    let both = [of_user.as_bytes(), b" ", own.as_bytes()].concat();
    let mut both = HeaderValue::from_bytes(&both).expect("both are values of headers");
    // Each value of the list counts as a secret.
    both.set_sensitive(true);
    Ok(both)
}
