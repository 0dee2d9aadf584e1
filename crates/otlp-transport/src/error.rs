//! Errors of the settings.

use std::fmt;
use std::io;
use std::path::Path;

use otlp_payload::Signal;

use crate::note;

/// A setting that cannot be used. `Display` names the setting, its value unless that is secret, and the accepted
/// values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Two settings of one signal, of which a transport has one for each.
    #[error("there are two settings for {signal}: give one of each signal")]
    SignalTwice {
        /// The signal.
        signal: Signal,
    },
    /// The address of the collector.
    #[error("{setting}={value:?}: {problem}")]
    Endpoint {
        /// The variable, or the builder method.
        setting: &'static str,
        /// The value; `***` stands for user-info, query, segments of the path that may be secret, and text behind the
        /// host that may be another variable.
        value: String,
        /// The fault.
        problem: EndpointProblem,
    },
    /// The extra headers. The error holds a header's name and never its value, which is secret.
    #[error("{setting}: member {position}{}: {problem}", NameOf(name))]
    Headers {
        /// The variable, or the builder method.
        setting: &'static str,
        /// Which member of the list, from 1.
        position: usize,
        /// The header's name, where it could be read.
        name: Option<String>,
        /// The fault.
        problem: HeaderProblem,
    },
    /// The proxy in front of the collector. Only the setting that holds for this endpoint is checked.
    #[error("{setting}={value:?}: {problem}")]
    Proxy {
        /// The variable, or the builder method.
        setting: &'static str,
        /// The value; `***` stands for user and password, and for text that may be a part of them.
        value: String,
        /// The fault.
        problem: ProxyProblem,
    },
    /// The list of failover endpoints, or one of its members. The error holds no URL and no value.
    #[error("{setting} {problem}")]
    Failover {
        /// The variable, or the builder method, with the member's place from 1.
        setting: &'static str,
        /// The fault.
        problem: FailoverProblem,
    },
    /// A file of headers. The error holds a header's name and never its value, which is secret.
    #[error("{setting}={path:?}: {}{problem}", LineOf(*line, name))]
    HeadersFile {
        /// The variable, or the builder method.
        setting: &'static str,
        /// The file.
        path: Box<Path>,
        /// The line, from 1, if the fault is in one.
        line: Option<usize>,
        /// The header's name, where it could be read.
        name: Option<Box<str>>,
        /// The fault.
        problem: HeadersFileProblem,
    },
    /// A builder method was given a value out of its range.
    #[error("{setting} of {value}: {accepted} is accepted")]
    Range {
        /// The builder method.
        setting: &'static str,
        /// The value.
        value: String,
        /// The accepted range.
        accepted: &'static str,
    },
    /// A file of certificates or of a private key cannot be used.
    #[error("{setting}={path:?} {problem}")]
    KeyFile {
        /// The variable, or the builder method.
        setting: &'static str,
        /// The path; `***` stands for text behind it that may be another variable.
        path: String,
        /// The fault, as the predicate of a sentence about the file: the block, its line, and the next step. Nothing of
        /// the file's content.
        problem: String,
    },
    /// TLS has no authorities that it could trust.
    #[error(
        "the endpoint asks for TLS, and no authority is trusted: {problem}; OTEL_EXPORTER_OTLP_CERTIFICATE names a PEM file of authorities"
    )]
    NoAuthorities {
        /// Why there are none.
        problem: String,
    },
}

impl ConfigError {
    /// The variable, or the method of the builder, that the error is about.
    #[must_use]
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Endpoint { setting, .. }
            | Self::Headers { setting, .. }
            | Self::Proxy { setting, .. }
            | Self::HeadersFile { setting, .. }
            | Self::Range { setting, .. }
            | Self::Failover { setting, .. }
            | Self::KeyFile { setting, .. } => note::variable(setting),
            Self::NoAuthorities { .. } => "OTEL_EXPORTER_OTLP_CERTIFICATE",
            Self::SignalTwice { .. } => "with_signal",
        }
    }
}

/// The fault of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointProblem {
    /// Not text.
    #[error("is not UTF-8; accepted is a URL such as http://localhost:4317")]
    NotUtf8,
    /// Not a URL.
    #[error("is not a URL; accepted are http://host:port and https://host:port, with a path for http/protobuf")]
    NotAUrl,
    /// There is no host in it.
    #[error("has no host; accepted is http://host:port")]
    NoHost,
    /// A port that is no number from 1 to 65535.
    #[error("has a bad port; accepted is a number from 1 to 65535")]
    BadPort,
    /// `user:password@`.
    #[error(
        "has user-info in front of the host; put credentials into headers instead, such as OTEL_EXPORTER_OTLP_HEADERS or a headers file"
    )]
    UserInfo,
    /// A scheme that is neither `http` nor `https` nor `unix`.
    #[error("has an unknown scheme; accepted are http:// and https://, for gRPC too, and unix://")]
    UnknownScheme,
    /// A scheme that is nearly `http` or `https`, or two of them.
    #[error("has a scheme that seems mistyped; accepted is http://host:port")]
    MistypedScheme,
    /// The path of a Unix socket in another form, or one that no socket can have.
    #[error(
        "is not usable as a Unix socket; accepted is unix:///run/otel.sock, an absolute path of about 100 bytes at most"
    )]
    UnixSocket,
    /// A name of the form that gRPC libraries resolve.
    #[error(
        "is a name for the resolver of a gRPC library; accepted is http://host:port, whose host is looked up by DNS"
    )]
    GrpcName,
    /// A quotation mark at its start or end, without its pair.
    #[error("begins or ends with a quotation mark; remove it, accepted is http://host:port")]
    QuotationMark,
    /// `$(NAME)` or `${NAME}`.
    #[error(
        "has a variable in it that was not expanded; in Kubernetes define that variable first, elsewhere write its value"
    )]
    NotExpanded,
    /// A comment of an env file.
    #[error("has a comment behind it, which its env file does not take for one; put the comment on a line of its own")]
    Comment,
    /// No scheme, where one is needed.
    #[error("has no scheme; for http/protobuf a whole URL is accepted, such as http://localhost:4318")]
    NoScheme,
    /// `https`, and TLS is not built in.
    #[error(
        "asks for TLS, which this build leaves out; build it with the feature tls-ring or tls-aws-lc, or send to http://, for example to a collector on the same host"
    )]
    Https,
    /// No scheme means TLS where `OTEL_EXPORTER_OTLP_INSECURE` is not set.
    #[error(
        "has no scheme, which means TLS, which this build leaves out; accepted is http://host:port, or host:port with OTEL_EXPORTER_OTLP_INSECURE=true"
    )]
    NoSchemeMeansTls,
    /// `https` with a host that is neither a name of DNS nor an address.
    #[error("has a host that no certificate can name; accepted for https:// are names of DNS and IP addresses")]
    NoCertificateName,
}

/// The fault of a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderProblem {
    /// Not text.
    #[error("is not UTF-8; accepted is a list key=value,key=value with percent-encoded values")]
    NotUtf8,
    /// A member without `=`.
    #[error("has no '='; accepted is a list key=value,key=value with percent-encoded values, in which a comma is %2C")]
    NoEquals,
    /// A member in the form of a line of HTTP.
    #[error("has a ':' behind its name; accepted is key=value, such as authorization=Bearer%20token")]
    Colon,
    /// The name has characters that a header name cannot have.
    #[error("has a bad name; accepted are letters, digits and !#$&'*+-.^_`|~")]
    BadName,
    /// `%` without two hexadecimal digits.
    #[error("has a bad escape; accepted is % with two hexadecimal digits, and %25 for the sign itself")]
    BadEscape,
    /// The value, decoded, holds a byte that a header cannot carry.
    #[error("has a value that decodes to something a header cannot carry; accepted are printable ASCII characters")]
    BadValue,
    /// More headers than a request should have.
    #[error("is one too many; at most 100 headers are accepted")]
    TooMany,
    /// A header that the transport sets itself.
    #[error("is set by the transport itself; leave it out")]
    Reserved,
}

/// The fault of the list of failover endpoints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FailoverProblem {
    /// Not text.
    #[error("is not UTF-8; accepted is a list url;option=value,url")]
    NotUtf8,
    /// More endpoints than a pipeline has.
    #[error("makes {endpoints} endpoints with the primary one; at most 16 are accepted")]
    TooMany {
        /// The number of endpoints, the primary one included.
        endpoints: usize,
    },
    /// Options without a URL in front of them.
    #[error("has no URL in front of its options; accepted is url;option=value, with commas between the members")]
    NoUrl,
    /// An option that there is not.
    #[error(
        "has the option {}, which there is not; accepted are headers-file=, protocol=, certificate=, \
         client-certificate= and client-key={}",
        shown(option),
        hint(meant)
    )]
    UnknownOption {
        /// Its name; none if the text may be a part of a secret.
        option: Option<String>,
        /// The option that is probably meant.
        meant: Option<&'static str>,
    },
    /// An option without a value.
    #[error("has the option {option} without a value; accepted is {option}=value")]
    NoValue {
        /// The option.
        option: &'static str,
    },
    /// An option that is given twice.
    #[error("has the option {option} twice; accepted is one of each")]
    OptionTwice {
        /// The option.
        option: &'static str,
    },
    /// A client certificate without its key, or the other way round.
    #[error("has one of client-certificate and client-key; accepted are both, which may name the same file, or none")]
    HalfACertificate,
}

fn shown(option: &Option<String>) -> &str {
    option.as_deref().unwrap_or("***")
}

fn hint(meant: &Option<&str>) -> String {
    meant.map_or_else(String::new, |meant| format!(": is {meant} meant?"))
}

/// The fault of a proxy's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyProblem {
    /// Not a URL.
    #[error(
        "is not the URL of a proxy; accepted are http://host:port and https://host:port, with user:password@ in front of the host"
    )]
    NotAUrl,
    /// There is no host in it.
    #[error("has no host; accepted is http://host:port")]
    NoHost,
    /// A port that is no number from 1 to 65535.
    #[error("has a bad port; accepted is a number from 1 to 65535")]
    BadPort,
    /// A path, a query or a fragment.
    #[error("has a path or a query, which a proxy has not; accepted is http://host:port")]
    Path,
    /// A character in user or password that ends them in a URL.
    #[error(
        "has a character in its user or password that is written in percent-encoding there: %40 for @, %23 for #, %2F \
         for /, %3A for :, %3F for ?"
    )]
    NotEncoded,
    /// A variable that was not expanded.
    #[error(
        "has a variable in it that was not expanded; in Kubernetes define that variable first, elsewhere write its value"
    )]
    NotExpanded,
    /// `socks5` or another version of it.
    #[error(
        "is a SOCKS proxy, which is not supported; accepted is http://host:port, a proxy that takes CONNECT; for a \
         collector that needs no proxy, name its host in NO_PROXY"
    )]
    Socks,
    /// Another scheme.
    #[error("has an unknown scheme; accepted are http://host:port and https://host:port")]
    UnknownScheme,
    /// `https`, and TLS is not built in.
    #[error(
        "needs TLS to the proxy, which this build leaves out; build it with the feature tls-ring or tls-aws-lc, or write \
         http://host:port, which carries https endpoints too"
    )]
    NeedsTls,
    /// `https` with a host that is neither a name of DNS nor an address.
    #[error("has a host that no certificate can name; accepted for https:// are names of DNS and IP addresses")]
    NoCertificateName,
}

/// The fault of a file of headers, with its next step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadersFileProblem {
    /// No such file.
    #[error("does not exist; write it with lines key=value, such as authorization=Bearer%20token")]
    Missing,
    /// The system gives no access to it.
    #[error("cannot be read ({0}); let the user of this process read the file and enter its directories")]
    Unreadable(io::ErrorKind),
    /// Something else has its name.
    #[error("is {0}; accepted is a regular file with lines key=value: correct the path, or put the file there")]
    NotAFile(&'static str),
    /// More than 64 KiB.
    #[error("has more than 64 KiB; accepted are lines key=value of at most 100 headers: is it the right file?")]
    TooLarge,
    /// No line has a header.
    #[error("holds no header; write lines key=value, such as authorization=Bearer%20token")]
    Empty,
    /// Not text.
    #[error("is not UTF-8; accepted is key=value with a percent-encoded value: write the line anew")]
    NotUtf8,
    /// A line without `=`.
    #[error(
        "has no '='; accepted is key=value, one header a line, or a comment that begins with '#': correct the line"
    )]
    NoEquals,
    /// A line of HTTP.
    #[error("has a ':' behind its name; accepted is key=value: write '=' in its place")]
    Colon,
    /// The name has characters that a header name cannot have.
    #[error("has a bad name; accepted are letters, digits and !#$&'*+-.^_`|~: correct the line")]
    BadName,
    /// `%` without two hexadecimal digits.
    #[error("has a bad escape; accepted is % with two hexadecimal digits: write %25 for the sign itself")]
    BadEscape,
    /// The value, decoded, holds a byte that a header cannot carry.
    #[error("has a value that a header cannot carry; accepted are printable ASCII characters: correct the value")]
    BadValue,
    /// More headers than a request should have.
    #[error("is one too many; at most 100 headers are accepted: remove some")]
    TooMany,
}

impl HeadersFileProblem {
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::IsADirectory => Self::NotAFile("a directory"),
            kind => Self::Unreadable(kind),
        }
    }

    /// Another process may be about to write the file, or to give access to it.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Missing | Self::Unreadable(_) | Self::Empty)
    }
}

struct LineOf<'a>(Option<usize>, &'a Option<Box<str>>);

impl fmt::Display for LineOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(line, name) = self;
        line.map_or(Ok(()), |line| write!(f, "line {line}{} ", NameOf(name)))
    }
}

struct NameOf<'a, T>(&'a Option<T>);

impl<T: fmt::Display> fmt::Display for NameOf<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}
