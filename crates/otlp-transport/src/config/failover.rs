//! Endpoints behind the primary one: the settings that each has of its own, and the credentials of the primary one that
//! it may have.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use super::members::{IN_CODE, ListNames, MAX_ENDPOINTS, MemberNames};
use super::{Config, ConfigBuilder, CredentialsFrom, HTTP_PORT};
use crate::credentials::Credentials;
use crate::endpoint::{Endpoint, Given, Reach};
use crate::error::{ConfigError, FailoverProblem};
use crate::note::{self, Note};
use crate::protocol::Protocol;
use crate::reading::Reading;

/// An endpoint that takes over while those before it are unavailable, for
/// [`ConfigBuilder::with_failover_endpoints`]. A setting without a method here is the primary endpoint's.
///
/// ```
/// use otlp_transport::{Config, FailoverEndpoint};
///
/// let second = FailoverEndpoint::new("https://collector.other-region.example:4317").with_header("api-key", "secret");
/// let endpoints = Config::builder()
///     .with_endpoint("https://collector.example:4317")
///     .with_failover_endpoints([second])
///     .build_endpoints_over(|_| None)?;
/// assert_eq!(endpoints.failover[0].endpoint(), "https://collector.other-region.example:4317");
/// # Ok::<(), otlp_transport::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct FailoverEndpoint {
    own: ConfigBuilder,
    /// The built-in authorities are trusted, also where the primary endpoint has a file of others.
    trusts_built_in: bool,
}

impl FailoverEndpoint {
    /// The endpoint at this URL, which is read as the one of [`ConfigBuilder::with_endpoint`]: over HTTP `/v1/traces`
    /// is put behind its path, or the path of the signal.
    pub fn new(url: impl Into<String>) -> Self {
        let endpoint = Some(Given::new("with_failover_endpoints", url.into(), Reach::Listed));
        Self { own: ConfigBuilder { endpoint, ..ConfigBuilder::default() }, trusts_built_in: false }
    }

    /// How requests are carried. Without it the protocol that is set for the primary endpoint; if none is, gRPC, but
    /// `http/protobuf` where this endpoint's port is 4318.
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.own = self.own.with_protocol(protocol);
        self
    }

    /// One more header on every request to this endpoint, which then has no header of the primary endpoint.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.own = self.own.with_header(name, value);
        self
    }

    /// A [`HeadersFile`](crate::HeadersFile) of this endpoint, which then has no header of the primary endpoint.
    pub fn with_headers_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.own = self.own.with_headers_file(path);
        self
    }

    /// Headers of this endpoint that change while the transport runs. The endpoint has no header of the primary one
    /// then.
    pub fn with_credentials(mut self, credentials: Arc<dyn Credentials>) -> Self {
        self.own = self.own.with_credentials(credentials);
        self
    }

    /// A PEM file of the authorities that may have signed this endpoint's certificate. Without it the authorities of
    /// the primary endpoint are trusted: those of its file, if it has one, else the built-in ones.
    pub fn with_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.own = self.own.with_certificate(path);
        self.trusts_built_in = false;
        self
    }

    /// Trusts the built-in authorities although the primary endpoint has a file of others.
    pub fn with_system_certificates(mut self) -> Self {
        self.own.key_files.authorities = None;
        self.trusts_built_in = true;
        self
    }

    /// A PEM file with the certificate that this client shows to this endpoint. Needs
    /// [`with_client_key`](Self::with_client_key).
    pub fn with_client_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.own = self.own.with_client_certificate(path);
        self
    }

    /// A PEM file with the private key of that certificate.
    pub fn with_client_key(mut self, path: impl Into<PathBuf>) -> Self {
        self.own = self.own.with_client_key(path);
        self
    }
}

impl From<&str> for FailoverEndpoint {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}

impl From<String> for FailoverEndpoint {
    fn from(url: String) -> Self {
        Self::new(url)
    }
}

/// A list of failover endpoints, not yet checked.
#[derive(Clone, Debug)]
pub(crate) struct List {
    pub(crate) names: &'static ListNames,
    pub(crate) endpoints: Vec<FailoverEndpoint>,
}

/// Checked settings of all endpoints, in the order in which they are preferred.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Endpoints {
    /// The endpoint that has all payloads while it is available.
    pub primary: Config,
    /// The endpoints that take over, the next one first.
    pub failover: Vec<Config>,
    notes: Vec<Note>,
    remarks: Vec<Note>,
}

impl Endpoints {
    /// Notes for the user about all endpoints, as [`Config::notes`] has them for one. Each stands here once.
    pub fn notes(&self) -> impl Iterator<Item = &Note> {
        let of_failover = self.failover.iter().flat_map(Config::notes);
        self.primary.notes().iter().chain(of_failover).chain(&self.notes)
    }

    /// Sentences that ask for no change: a failover endpoint on another host that does not get the credentials of the
    /// primary endpoint. Free of secrets.
    #[must_use]
    pub fn remarks(&self) -> &[Note] {
        &self.remarks
    }
}

impl ConfigBuilder {
    /// The endpoints that take over, in this order, while the primary one is unavailable; an empty list for none. Beats
    /// the variable `TELEMETRY_FAILOVER_ENDPOINTS`. For [`build_endpoints_over`](Self::build_endpoints_over) and
    /// [`check_endpoints_over`](Self::check_endpoints_over); the other methods make settings of the primary endpoint
    /// alone.
    pub fn with_failover_endpoints(mut self, endpoints: impl IntoIterator<Item = impl Into<FailoverEndpoint>>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        self.failover = Some(List { names: &IN_CODE, endpoints });
        self
    }

    /// One more endpoint behind those of [`with_failover_endpoints`](Self::with_failover_endpoints), which has the
    /// primary endpoint's headers and client certificate on any host; over plain HTTP it has them only where the
    /// primary endpoint is without TLS too. Beats the variables `OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT` and
    /// `OTEL_EXPORTER_OTLP_TRACES_FALLBACK_ENDPOINT`.
    pub fn with_fallback_endpoint(mut self, url: impl Into<String>) -> Self {
        self.fallback = Some(Given::new("with_fallback_endpoint", url.into(), Reach::General));
        self
    }

    /// The same as [`build_over`](Self::build_over) for the primary endpoint, and the settings of each endpoint that
    /// takes over while it is unavailable.
    ///
    /// | Variable | Accepted | Default | Anything else |
    /// | --- | --- | --- | --- |
    /// | `TELEMETRY_FAILOVER_ENDPOINTS` | `url[;option=value]..`, separated by commas; the options `headers-file`, `protocol`, `certificate`, `client-certificate`, `client-key` | none | error |
    /// | `OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT`, and its form for a signal, which is used as it is | as `OTEL_EXPORTER_OTLP_ENDPOINT` | none | error |
    ///
    /// Headers, [`Credentials`] and client certificate of the primary endpoint hold for an endpoint on the same host,
    /// and for the fallback endpoint on any host, but not over plain HTTP where the primary endpoint has TLS. An
    /// endpoint with headers of its own has no others, and one with a client certificate of its own no other. Hosts are
    /// compared as they are written: `localhost` and `127.0.0.1` are two. A file of authorities, the protocol where one
    /// is set, and all other settings hold for each endpoint.
    ///
    /// An endpoint that equals one before it is left out, with a note.
    ///
    /// # Errors
    ///
    /// As [`build_over`](Self::build_over); and a [`ConfigError`] that names the member of the list. More than 16
    /// endpoints with the primary one are an error.
    pub fn build_endpoints_over(self, vars: impl Fn(&str) -> Option<OsString>) -> Result<Endpoints, ConfigError> {
        let mut filled = self.filled_over(&vars)?;
        filled.fill_failover_over(&vars)?;
        let members = filled.members()?;
        let primary = filled.clone().build()?;
        let mut endpoints = Endpoints { primary, failover: Vec::new(), notes: Vec::new(), remarks: Vec::new() };
        for member in members {
            filled.add(member, &mut endpoints)?;
        }
        Ok(endpoints)
    }

    /// The same, but opens no file, as [`check_over`](Self::check_over).
    ///
    /// # Errors
    ///
    /// As [`build_endpoints_over`](Self::build_endpoints_over), but for those about the content of files.
    pub fn check_endpoints_over(mut self, vars: impl Fn(&str) -> Option<OsString>) -> Result<Endpoints, ConfigError> {
        self.reading = Reading::Later;
        self.build_endpoints_over(vars)
    }

    /// The endpoints behind the primary one, with the names of their settings.
    fn members(&mut self) -> Result<Vec<Member>, ConfigError> {
        let list = self.failover.take();
        let setting = list.as_ref().map_or("", |list| note::variable(list.names[0].url));
        let mut members = Vec::new();
        let fallback = self.fallback.take();
        if let Some(List { names, endpoints }) = list {
            let count = endpoints.len() + usize::from(fallback.is_some()) + 1;
            if count > MAX_ENDPOINTS {
                return Err(ConfigError::Failover { setting, problem: FailoverProblem::TooMany { endpoints: count } });
            }
            members.extend(endpoints.into_iter().zip(names).map(|(endpoint, names)| Member::listed(endpoint, names)));
        }
        if let Some(given) = fallback {
            if !members.is_empty() {
                let message = format!(
                    "{} and {setting} are both set: the endpoint of the first comes after the {} of the list; move it \
                     into the list to choose its place",
                    given.setting,
                    members.len()
                );
                self.notes.push(Note::new(given.setting, message));
            }
            let own = ConfigBuilder { endpoint: Some(given), ..ConfigBuilder::default() };
            members.push(Member { own, trusts_built_in: false, names: None });
        }
        Ok(members)
    }

    /// Adds the endpoint of `member`, with the settings of the primary one that hold for it. `self` has those settings.
    fn add(&self, member: Member, endpoints: &mut Endpoints) -> Result<(), ConfigError> {
        let Member { mut own, trusts_built_in, names } = member;
        let given = own.endpoint.take().expect("each member has an endpoint");
        let (setting, given) = (given.setting, Given { signal: self.signal, ..given });
        let insecure = self.insecure.unwrap_or(false);
        if own.key_files.certificate.is_some() != own.key_files.key.is_some() {
            return Err(ConfigError::Failover { setting, problem: FailoverProblem::HalfACertificate });
        }
        own.protocol = own.protocol.or(self.protocol).or_else(|| {
            // The rule of the primary endpoint's port: it is told once.
            (given.port() == Some(HTTP_PORT)).then_some((Protocol::HttpProtobuf, setting))
        });
        let is_by_port = own.protocol.is_some_and(|(_, from)| from == setting);
        if is_by_port && endpoints.primary.protocol != Protocol::HttpProtobuf {
            let message = format!("the port of {setting} is 4318 and no protocol is set: http/protobuf is used for it");
            own.notes.push(Note::new(setting, message));
        }
        let protocol = own.protocol.map_or(Protocol::Grpc, |(protocol, _)| protocol);
        let endpoint = given.resolve(protocol, insecure)?;
        let withheld = self.lend(&mut own, &endpoint, &endpoints.primary.endpoint, names.is_none());
        if !trusts_built_in && own.key_files.authorities.is_none() && self.uses_tls(&endpoint) {
            own.key_files.authorities.clone_from(&self.key_files.authorities);
        }
        let config = ConfigBuilder {
            signal: self.signal,
            endpoint: Some(given),
            insecure: self.insecure,
            proxy: self.proxy.clone(),
            timeout: self.timeout,
            compression: self.compression,
            max_request_bytes: self.max_request_bytes,
            connection_max_age: self.connection_max_age,
            max_response_bytes: self.max_response_bytes,
            product: self.product.clone(),
            wall_clock: self.wall_clock,
            reading: self.reading,
            ..own
        };
        let mut config = config.build()?;
        let known: Vec<&Config> = [&endpoints.primary].into_iter().chain(&endpoints.failover).collect();
        if let Some(same) = known.iter().position(|known| known.is_same_endpoint(&config)) {
            let place = if same == 0 { "the primary endpoint".to_owned() } else { format!("endpoint {}", same + 1) };
            let message = format!(
                "{setting} is {} like {place}: it is left out, with its options; remove it, or correct its URL",
                config.endpoint()
            );
            endpoints.notes.push(Note::new(setting, message));
            return Ok(());
        }
        // A note about a setting of all endpoints is told once, or names this endpoint.
        config.notes.retain(|note| !known.iter().any(|known| known.notes.contains(note)));
        for note in config.notes.iter_mut().filter(|note| note.setting != note::variable(setting)) {
            note.message = format!("{setting}: {}", note.message);
        }
        let (text, is_expected) = withheld.text(setting, config.endpoint());
        if let Some(text) = text {
            let told = if is_expected { &mut endpoints.remarks } else { &mut config.notes };
            told.push(Note::new(setting, text));
        }
        endpoints.failover.push(config);
        Ok(())
    }

    /// Gives the endpoint those credentials of the primary one that may go to it and that it has none of its own for.
    fn lend(&self, own: &mut Self, endpoint: &Endpoint, primary: &Endpoint, anywhere: bool) -> Withheld {
        let is_near = anywhere || endpoint.has_host_of(primary);
        let is_secured = endpoint.is_tls || !primary.is_tls;
        let has_headers = |of: &Self| of.credentials.is_some() || of.user_agent.is_some() || !of.headers.is_empty();
        let mut withheld = Withheld { headers: false, certificate: false, is_near };
        if own.header_error.is_none() && !has_headers(own) && has_headers(self) {
            if is_near && is_secured {
                own.headers.fill_from(&self.headers);
                own.user_agent.clone_from(&self.user_agent);
                own.credentials.clone_from(&self.credentials);
            } else {
                withheld.headers = true;
            }
        }
        if own.key_files.certificate.is_none() && endpoint.is_tls {
            let (certificate, key) = (&self.key_files.certificate, &self.key_files.key);
            if is_near {
                own.key_files.certificate.clone_from(certificate);
                own.key_files.key.clone_from(key);
            } else {
                withheld.certificate = certificate.is_some();
            }
        }
        withheld
    }

    /// Whether TLS is spoken to the endpoint, or to the proxy in front of it.
    fn uses_tls(&self, endpoint: &Endpoint) -> bool {
        let proxy = self.proxy.clone().resolve(endpoint, &mut Vec::new());
        endpoint.is_tls || proxy.is_ok_and(|proxy| proxy.is_some_and(|proxy| proxy.is_tls))
    }
}

/// An endpoint behind the primary one.
struct Member {
    own: ConfigBuilder,
    trusts_built_in: bool,
    /// None for the fallback endpoint, which may have the credentials of the primary one on any host.
    names: Option<&'static MemberNames>,
}

impl Member {
    /// A member of a list, whose settings get the names of its place.
    fn listed(endpoint: FailoverEndpoint, names: &'static MemberNames) -> Self {
        let FailoverEndpoint { mut own, trusts_built_in } = endpoint;
        if let Some(given) = &mut own.endpoint {
            given.setting = names.url;
        }
        if let Some((_, setting)) = &mut own.protocol {
            *setting = names.protocol;
        }
        if let Some(ConfigError::Headers { setting, .. }) = &mut own.header_error {
            *setting = names.headers;
        }
        if let Some(CredentialsFrom::File { setting, .. }) = &mut own.credentials {
            *setting = names.headers_file;
        }
        let files = &mut own.key_files;
        for (file, name) in [
            (&mut files.authorities, names.certificate),
            (&mut files.certificate, names.client_certificate),
            (&mut files.key, names.client_key),
        ] {
            if let Some(file) = file {
                file.setting = name;
            }
        }
        Self { own, trusts_built_in, names: Some(names) }
    }
}

/// The credentials of the primary endpoint that another one does not get.
struct Withheld {
    headers: bool,
    certificate: bool,
    /// The endpoint is on the same host, or may have them on any host: only plain HTTP keeps them back.
    is_near: bool,
}

impl Withheld {
    /// The sentence about it, and whether it is as a user expects it.
    fn text(&self, setting: &str, shown: &str) -> (Option<String>, bool) {
        let what = match (self.headers, self.certificate) {
            (false, false) => return (None, true),
            (true, false) => "headers",
            (false, true) => "client certificate",
            (true, true) => "headers and client certificate",
        };
        let text = match self.is_near {
            true => format!(
                "{setting} is {shown}, without TLS, and the primary endpoint has TLS: the primary endpoint's {what} are \
                 not sent to it in plain text; write https:// for it, or give it headers of its own"
            ),
            false => format!(
                "{setting} is {shown}, on another host than the primary endpoint: it does not get the primary \
                 endpoint's {what}; where it asks for credentials, give it its own"
            ),
        };
        (Some(text), !self.is_near)
    }
}

impl Config {
    /// Whether requests go to the same place in the same way.
    fn is_same_endpoint(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.endpoint.is_same(&other.endpoint, self.protocol)
    }
}
