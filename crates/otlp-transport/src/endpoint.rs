//! Where to send: the URL rules of the OTLP exporter specification.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;
use http::uri::{Authority, PathAndQuery};
use otlp_payload::Signal;

use crate::error::{ConfigError, EndpointProblem};
use crate::paths;
use crate::protocol::Protocol;
use crate::secrets::{shown_endpoint, shown_path};
use crate::slips;
use crate::tls;

/// How much of the path an endpoint setting gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// For all signals: for HTTP the path of the signal, such as `v1/traces`, is put behind its path.
    General,
    /// The same for a member of a list, which no variable can take the place of.
    Listed,
    /// For one signal alone: used as it is.
    Own,
}

/// The text of an endpoint setting, not yet checked. `Debug` leaves out parts that may be secret.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) setting: &'static str,
    pub(crate) text: String,
    pub(crate) reach: Reach,
    /// The signal of the requests.
    pub(crate) signal: Signal,
}

/// The place that a connection is opened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A host for the resolver, an IPv6 address without its brackets.
    Host { host: String, port: u16 },
    /// A Unix socket.
    Socket(PathBuf),
}

/// A checked endpoint.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) place: Place,
    pub(crate) is_tls: bool,
    /// Where requests go, whole.
    pub(crate) uri: Uri,
    /// For people: no query, and of the path the usual words only.
    pub(crate) shown: String,
    /// Path and query for OTLP/HTTP, also if the protocol is gRPC.
    pub(crate) http_path: PathAndQuery,
    /// A remark about the path, as the predicate of a sentence about the setting.
    pub(crate) path_note: Option<String>,
    signal: Signal,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.setting, shown_endpoint(&self.text))
    }
}

impl Given {
    /// The builder knows the signal when it checks the whole.
    pub(crate) fn new(setting: &'static str, text: String, reach: Reach) -> Self {
        Self { setting, text, reach, signal: Signal::default() }
    }

    /// The port, if the text has a readable one: it decides the protocol where no setting does.
    pub(crate) fn port(&self) -> Option<u16> {
        let text = self.text.trim();
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit_once(':')?.1.parse().ok()
    }

    /// Checks the text and completes it for `protocol`.
    pub(crate) fn resolve(&self, protocol: Protocol, insecure: bool) -> Result<Endpoint, ConfigError> {
        self.try_resolve(protocol, insecure, tls::IS_BUILT_IN).map_err(|problem| ConfigError::Endpoint {
            setting: self.setting,
            value: shown_endpoint(&self.text),
            problem,
        })
    }

    fn try_resolve(&self, protocol: Protocol, insecure: bool, has_tls: bool) -> Result<Endpoint, EndpointProblem> {
        let text = self.text.trim();
        if let Some(slip) = slips::in_endpoint(text) {
            return Err(slip);
        }
        if let Some(path) = socket_path(text) {
            return self.resolve_socket(path?, protocol);
        }
        let (rest, is_tls) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (rest, false),
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") && !has_tls => {
                return Err(EndpointProblem::Https);
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (rest, true),
            Some(_) => return Err(EndpointProblem::UnknownScheme),
            None if protocol == Protocol::HttpProtobuf => return Err(EndpointProblem::NoScheme),
            None if insecure => (text, false),
            None if !has_tls => return Err(EndpointProblem::NoSchemeMeansTls),
            None => (text, true),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let cut = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(cut);
        if authority.contains('@') {
            return Err(EndpointProblem::UserInfo);
        }
        let (host, port) = split_port(authority)?;
        if host.is_empty() {
            return Err(EndpointProblem::NoHost);
        }
        let port = match port {
            Some(text) => parse_port(text).ok_or(EndpointProblem::BadPort)?,
            None if is_tls => 443,
            None => 80,
        };
        let authority: Authority = authority.parse().map_err(|_| EndpointProblem::NotAUrl)?;

        let (path, query) = tail.split_once('?').map_or((tail, None), |(path, query)| (path, Some(query)));
        let http_path = match self.reach {
            Reach::Own if path.is_empty() => "/".to_owned(),
            Reach::Own => path.to_owned(),
            // The path of any signal at its end is not a part of what all have.
            Reach::General | Reach::Listed => {
                format!("{}/{}", without_signal(path).trim_end_matches('/'), paths::path(self.signal))
            }
        };
        let http_path = query.map_or_else(|| http_path.clone(), |query| format!("{http_path}?{query}"));
        let http_path = match (http_path.parse::<PathAndQuery>(), protocol, self.reach) {
            (Ok(path), ..) => path,
            (Err(_), Protocol::HttpProtobuf, _) => return Err(EndpointProblem::NotAUrl),
            // gRPC ignores the path: it may be any text.
            (Err(_), Protocol::Grpc, Reach::Own) => PathAndQuery::from_static("/"),
            (Err(_), Protocol::Grpc, Reach::General | Reach::Listed) => usual_path(self.signal),
        };
        let path_note = self.path_note(protocol, path, query);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        #[cfg(feature = "_tls")]
        if is_tls && tls::server_name(&host).is_none() {
            return Err(EndpointProblem::NoCertificateName);
        }
        let place = Place::Host { host, port };
        let target = target(&place, is_tls, &authority, &http_path, (protocol, self.signal));
        let (uri, shown) = target.ok_or(EndpointProblem::NotAUrl)?;
        Ok(Endpoint { place, is_tls, uri, shown, http_path, path_note, signal: self.signal })
    }

    /// The path of the socket takes the whole text: requests have the usual path of their signal.
    fn resolve_socket(&self, path: PathBuf, protocol: Protocol) -> Result<Endpoint, EndpointProblem> {
        let (place, authority) = (Place::Socket(path), Authority::from_static("localhost"));
        let http_path = usual_path(self.signal);
        let target = target(&place, false, &authority, &http_path, (protocol, self.signal));
        let (uri, shown) = target.ok_or(EndpointProblem::NotAUrl)?;
        Ok(Endpoint { place, is_tls: false, uri, shown, http_path, path_note: None, signal: self.signal })
    }
}

impl Given {
    fn path_note(&self, protocol: Protocol, path: &str, query: Option<&str>) -> Option<String> {
        let is_bare = matches!(path, "" | "/");
        let (signal, usual) = (self.signal, paths::path(self.signal));
        match (protocol, self.reach) {
            (Protocol::Grpc, _) if !is_bare || query.is_some() => Some(
                "has a path, which is not used: gRPC has its own; if the path is needed, the protocol is http/protobuf"
                    .to_owned(),
            ),
            (Protocol::HttpProtobuf, Reach::Own) if is_bare => Some(format!(
                "has no path and is used as it is: requests go to /, and collectors take {signal} on /{usual}; write the \
                 whole URL, or set {} in its place",
                if self.setting.ends_with("FALLBACK_ENDPOINT") {
                    "OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT"
                } else {
                    "OTEL_EXPORTER_OTLP_ENDPOINT"
                }
            )),
            // Whole URLs and those for all signals stand side by side in a list.
            (Protocol::HttpProtobuf, Reach::Listed) if has_path_of(signal, path) => None,
            (Protocol::HttpProtobuf, Reach::Listed) => {
                let other = Signal::ALL.into_iter().find(|signal| has_path_of(*signal, path))?;
                let found = paths::path(other);
                Some(format!("ends in /{found}, and {signal} go to /{usual} in its place: leave it out here"))
            }
            (Protocol::HttpProtobuf, Reach::General) => {
                let other = Signal::ALL.into_iter().find(|signal| has_path_of(*signal, path))?;
                let (found, name) = (paths::path(other), other.as_str().to_ascii_uppercase());
                Some(match other == signal {
                    true => format!(
                        "ends in /{found}, which is not appended a second time: leave it out here, or set \
                         OTEL_EXPORTER_OTLP_{name}_ENDPOINT, which is used as it is"
                    ),
                    false => format!(
                        "ends in /{found}, and {signal} go to /{usual} in its place: leave it out here, or set \
                         OTEL_EXPORTER_OTLP_{name}_ENDPOINT, which is used as it is"
                    ),
                })
            }
            _ => None,
        }
    }
}

/// Whether the path ends in the one of a signal.
fn has_path_of(signal: Signal, path: &str) -> bool {
    path.trim_end_matches('/').strip_suffix(paths::path(signal)).is_some_and(|before| before.ends_with('/'))
}

/// The path of a general endpoint without the one of a signal at its end.
fn without_signal(path: &str) -> &str {
    let of = Signal::ALL.into_iter().find(|signal| has_path_of(*signal, path));
    of.and_then(|signal| path.trim_end_matches('/').strip_suffix(paths::path(signal))).unwrap_or(path)
}

/// The path of a signal's requests where no setting has one.
fn usual_path(signal: Signal) -> PathAndQuery {
    PathAndQuery::from_static(match signal {
        Signal::Traces => "/v1/traces",
        Signal::Logs => "/v1/logs",
        Signal::Metrics => "/v1/metrics",
    })
}

impl Endpoint {
    /// Whether it is on this host.
    pub(crate) fn is_local(&self) -> bool {
        match &self.place {
            Place::Host { host, .. } => {
                let is_loopback = |address: IpAddr| address.is_loopback();
                host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
            }
            Place::Socket(_) => true,
        }
    }

    /// Whether both are on one host, by its name as it is written, or on one Unix socket.
    pub(crate) fn has_host_of(&self, other: &Self) -> bool {
        match (&self.place, &other.place) {
            (Place::Host { host, .. }, Place::Host { host: other, .. }) => is_same_host(host, other),
            (Place::Socket(path), Place::Socket(other)) => path == other,
            (Place::Host { .. }, Place::Socket(_)) | (Place::Socket(_), Place::Host { .. }) => false,
        }
    }

    /// Whether requests of this protocol go to the same place.
    pub(crate) fn is_same(&self, other: &Self, protocol: Protocol) -> bool {
        let port = |place: &Place| match place {
            Place::Host { port, .. } => *port,
            Place::Socket(_) => 0,
        };
        let has_same_path = protocol == Protocol::Grpc || self.http_path == other.http_path;
        let has_same_port = port(&self.place) == port(&other.place);
        self.has_host_of(other) && has_same_port && self.is_tls == other.is_tls && has_same_path
    }

    /// The same place for another protocol.
    pub(crate) fn retarget(&mut self, protocol: Protocol) {
        let authority = self.uri.authority().cloned();
        if let Some((uri, shown)) = authority.and_then(|authority| {
            target(&self.place, self.is_tls, &authority, &self.http_path, (protocol, self.signal))
        }) {
            (self.uri, self.shown) = (uri, shown);
        }
    }
}

/// Where requests go, whole, and how people see it.
fn target(
    place: &Place,
    is_tls: bool,
    authority: &Authority,
    http_path: &PathAndQuery,
    (protocol, signal): (Protocol, Signal),
) -> Option<(Uri, String)> {
    let (path, shown) = match protocol {
        Protocol::Grpc => (PathAndQuery::from_static(paths::method(signal)), String::new()),
        Protocol::HttpProtobuf => (http_path.clone(), shown_path(http_path.path())),
    };
    let scheme = if is_tls { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(authority.clone()).path_and_query(path).build().ok()?;
    let shown = match place {
        Place::Host { .. } => format!("{scheme}://{authority}{shown}"),
        Place::Socket(path) => format!("unix://{}", path.display()),
    };
    Some((uri, shown))
}

/// The path in `unix:///run/otel.sock` or `unix:/run/otel.sock`; none in any other text. `unix:4317` is a host and its
/// port.
fn socket_path(text: &str) -> Option<Result<PathBuf, EndpointProblem>> {
    let (_, rest) = text.split_once(':').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("unix"))?;
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if rest.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    // A longer path than the address of a socket holds fails here, and not with each connection.
    let is_usable = path.starts_with('/') && !path.ends_with('/') && is_socket_address(path);
    Some(if is_usable { Ok(PathBuf::from(path)) } else { Err(EndpointProblem::UnixSocket) })
}

#[cfg(unix)]
fn is_socket_address(path: &str) -> bool {
    std::os::unix::net::SocketAddr::from_pathname(path).is_ok()
}

#[cfg(not(unix))]
fn is_socket_address(_path: &str) -> bool {
    false
}

/// Whether two texts name one host: a name in any case, with a dot at its end or not; an address in any spelling.
fn is_same_host(host: &str, other: &str) -> bool {
    match (host.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(address), Ok(other)) => address == other,
        _ => host.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.')),
    }
}

/// Splits `host:port`, where the host may be `[::1]`.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), EndpointProblem> {
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or(EndpointProblem::NotAUrl)? + 1;
        let (host, rest) = authority.split_at(end);
        host[1..end - 1].parse::<std::net::Ipv6Addr>().map_err(|_| EndpointProblem::NotAUrl)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(EndpointProblem::NotAUrl),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(EndpointProblem::NotAUrl),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, protocol: Protocol, insecure: bool, has_tls: bool) -> Result<String, EndpointProblem> {
        let given = Given { setting: "X", text: text.to_owned(), reach: Reach::General, signal: Signal::Traces };
        given.try_resolve(protocol, insecure, has_tls).map(|endpoint| {
            let Place::Host { host, port } = endpoint.place else { panic!("{text}") };
            format!("{} {host} {port}", endpoint.uri)
        })
    }

    #[test]
    fn a_build_without_tls_refuses_endpoints_that_mean_it_and_no_others() {
        const GRPC: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        let [grpc, http] = [Protocol::Grpc, Protocol::HttpProtobuf];
        for (text, protocol, insecure, without, with) in [
            ("https://c:1", grpc, false, Err(EndpointProblem::Https), format!("https://c:1{GRPC} c 1")),
            ("HTTPS://c", grpc, true, Err(EndpointProblem::Https), format!("https://c{GRPC} c 443")),
            ("https://c/x", http, false, Err(EndpointProblem::Https), "https://c/x/v1/traces c 443".to_owned()),
            ("c:1", grpc, false, Err(EndpointProblem::NoSchemeMeansTls), format!("https://c:1{GRPC} c 1")),
            ("c:1", grpc, true, Ok(()), format!("http://c:1{GRPC} c 1")),
            ("http://c", grpc, false, Ok(()), format!("http://c{GRPC} c 80")),
            ("http://[::1]:5", http, false, Ok(()), "http://[::1]:5/v1/traces ::1 5".to_owned()),
        ] {
            assert_eq!(resolve(text, protocol, insecure, false).map(|_| ()), without, "{text}");
            assert_eq!(resolve(text, protocol, insecure, true), Ok(with), "{text}");
        }
        let texts = [EndpointProblem::Https, EndpointProblem::NoSchemeMeansTls].map(|problem| problem.to_string());
        assert!(texts.iter().all(|text| text.contains("TLS") && text.contains("http://")), "{texts:?}");
        assert!(texts[0].contains("tls-ring") && texts[1].contains("OTEL_EXPORTER_OTLP_INSECURE=true"), "{texts:?}");
    }
}
