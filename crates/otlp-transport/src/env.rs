//! The `OTEL_EXPORTER_OTLP_*` family, by the rules of the OpenTelemetry specification.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use otlp_payload::Signal;

use crate::config::members::{self, FAILOVER_ENDPOINTS, IN_ENVIRONMENT};
use crate::config::{Config, ConfigBuilder, CredentialsFrom, List};
use crate::endpoint::{Given, Reach};
use crate::error::{ConfigError, EndpointProblem, FailoverProblem, HeaderProblem};
use crate::headers::Headers;
use crate::note::Note;
use crate::protocol::{Compression, Protocol};
use crate::secrets::before_next;
use crate::slips;
use crate::tls::KeyFile;

/// A variable for one signal and the general one that it beats.
type Pair = [&'static str; 2];

macro_rules! names {
    ($($field:ident: $rest:literal,)+) => {
        /// The variables of one signal.
        struct Names {
            $($field: Pair,)+
        }

        macro_rules! names_of {
            ($signal:literal) => {
                Names { $($field: [concat!("OTEL_EXPORTER_OTLP_", $signal, "_", $rest), concat!("OTEL_EXPORTER_OTLP_", $rest)],)+ }
            };
        }
    };
}

names! {
    endpoint: "ENDPOINT",
    fallback_endpoint: "FALLBACK_ENDPOINT",
    protocol: "PROTOCOL",
    headers: "HEADERS",
    timeout: "TIMEOUT",
    compression: "COMPRESSION",
    insecure: "INSECURE",
    certificate: "CERTIFICATE",
    client_certificate: "CLIENT_CERTIFICATE",
    client_key: "CLIENT_KEY",
}

const TRACES: Names = names_of!("TRACES");
const LOGS: Names = names_of!("LOGS");
const METRICS: Names = names_of!("METRICS");

const fn names(signal: Signal) -> &'static Names {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Logs => &LOGS,
        Signal::Metrics => &METRICS,
    }
}

/// An addition of holdfast: one for all signals.
const HEADERS_FILE: &str = "TELEMETRY_HEADERS_FILE";

/// The longest time-out, and the one of 0: the specification has 0 as "a very long time".
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3_600);
/// The largest number that the specification asks an SDK to accept ("Integer").
const LARGEST: u64 = (1 << 31) - 1;

impl ConfigBuilder {
    /// Fills in the settings that code did not set from `vars`, then checks the whole: code beats the variable for the
    /// [signal](Self::with_signal), which beats the general one, which beats the default. An empty variable counts as
    /// unset, and so does a variable for the signal whose value is noted as ignored: the general one holds then.
    ///
    /// | Variable (and its `_TRACES_`, `_LOGS_` or `_METRICS_` form) | Accepted | Default | Anything else |
    /// | --- | --- | --- | --- |
    /// | `OTEL_EXPORTER_OTLP_ENDPOINT` | `http[s]://host:port[/path]`, `unix:///path/to/socket` | `http://localhost:4317`, HTTP `:4318` | error |
    /// | `OTEL_EXPORTER_OTLP_PROTOCOL` | `grpc`, `http/protobuf` | `grpc`; port 4318: `http/protobuf` | note; for `http/json` `http/protobuf` is used |
    /// | `OTEL_EXPORTER_OTLP_HEADERS` | `key=value,key=value`, values percent-encoded | none | error; headers of the transport itself are left out with a note, a `user-agent` is put in front of its own |
    /// | `TELEMETRY_HEADERS_FILE` (without a form for a signal) | the path of a [`HeadersFile`](crate::HeadersFile) | none | error; a file that is not there yet: note |
    /// | `OTEL_EXPORTER_OTLP_TIMEOUT` | 0 to 2147483647, milliseconds, or `250ms`, `10s`, `5m`; an hour is the longest, and is meant by 0 | 10000 | note |
    /// | `OTEL_EXPORTER_OTLP_COMPRESSION` | `none`, `gzip`, `zstd` | `none` | note |
    /// | `OTEL_EXPORTER_OTLP_INSECURE` | `true`, `false` | `false` | note |
    /// | `OTEL_EXPORTER_OTLP_CERTIFICATE` | a PEM file of authorities | the system's | error; without TLS a note |
    /// | `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`, `_CLIENT_KEY` | two PEM files, or one | none | error; without TLS a note |
    /// | `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, each in small letters too (not for a signal) | `http[s]://[user:password@]host:port`; hosts | none | error, if the endpoint would go through it |
    ///
    /// A *note* means that the value is ignored and [`Config::notes`] says so. Quotation marks around a value are taken
    /// off, with a note. Headers from code and from the environment are put together; of two of one name, code wins.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] names the variable or method, the value unless secret, and the accepted values.
    pub fn build_over(self, vars: impl Fn(&str) -> Option<OsString>) -> Result<Config, ConfigError> {
        self.filled_over(&vars)?.build()
    }

    /// Fills in the settings of the primary endpoint that code did not set.
    pub(crate) fn filled_over(mut self, vars: &impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let names = names(self.signal);
        let mut vars = Vars { vars, signal: self.signal, names, notes: std::mem::take(&mut self.notes) };
        if self.endpoint.is_none() {
            self.endpoint = vars.endpoint(names.endpoint)?;
        }
        if let Some((given, user_agent)) = vars.headers()? {
            self.headers.fill_from(&given);
            if self.user_agent.is_none() {
                self.user_agent = user_agent;
            }
        }
        if self.credentials.is_none()
            && let Some(path) = vars.value(HEADERS_FILE)
        {
            // The end of a line may have come with the value.
            let path = path.to_str().map_or_else(|| path.clone().into(), |text| PathBuf::from(text.trim()));
            self.credentials = Some(CredentialsFrom::File { setting: HEADERS_FILE, path });
        }
        if self.protocol.is_none() {
            self.protocol = vars.protocol();
        }
        if self.timeout.is_none() {
            let accepted = "a number of milliseconds is accepted, or a duration such as 250ms or 10s";
            self.timeout = vars.read(names.timeout, accepted, timeout);
        }
        if self.compression.is_none() {
            self.compression =
                vars.read(names.compression, "none, gzip or zstd is accepted", compression).map(|(value, _)| value);
        }
        if self.insecure.is_none() {
            self.insecure = vars.read(names.insecure, "true or false is accepted", boolean).map(|(value, _)| value);
        }
        self.proxy.fill_from(vars.vars);
        let files = &mut self.key_files;
        for (file, names) in [
            (&mut files.authorities, names.certificate),
            (&mut files.certificate, names.client_certificate),
            (&mut files.key, names.client_key),
        ] {
            if file.is_none() {
                let named = vars.first(names);
                *file = named.map(|(setting, path)| KeyFile { setting, path: path.into() });
            }
        }
        self.notes = vars.notes;
        Ok(self)
    }

    /// Fills in the endpoints behind the primary one that code did not set.
    pub(crate) fn fill_failover_over(&mut self, vars: &impl Fn(&str) -> Option<OsString>) -> Result<(), ConfigError> {
        let names = names(self.signal);
        let mut vars = Vars { vars, signal: self.signal, names, notes: std::mem::take(&mut self.notes) };
        if self.failover.is_none()
            && let Some(list) = vars.value(FAILOVER_ENDPOINTS)
        {
            let problem = FailoverProblem::NotUtf8;
            let list = list.to_str().ok_or(ConfigError::Failover { setting: FAILOVER_ENDPOINTS, problem })?;
            let endpoints = members::read(list, &mut vars.notes)?;
            self.failover = Some(List { names: &IN_ENVIRONMENT, endpoints });
        }
        if self.fallback.is_none() {
            self.fallback = vars.endpoint(names.fallback_endpoint)?;
        }
        self.notes = vars.notes;
        Ok(())
    }
}

struct Vars<F> {
    vars: F,
    signal: Signal,
    names: &'static Names,
    notes: Vec<Note>,
}

impl<F: Fn(&str) -> Option<OsString>> Vars<F> {
    /// The variable, if it is set and not blank.
    fn raw(&self, name: &str) -> Option<OsString> {
        (self.vars)(name).filter(|value| !value.to_string_lossy().trim().is_empty())
    }

    /// The same without quotation marks around it, which are noted.
    fn value(&mut self, name: &'static str) -> Option<OsString> {
        let value = self.raw(name)?;
        let Some(inner) = value.to_str().and_then(slips::unquoted) else { return Some(value) };
        self.notes.push(Note::new(
            name,
            format!("{name} has quotation marks around its value, as some env files leave them: they are not read as a part of it; remove them"),
        ));
        (!inner.trim().is_empty()).then(|| inner.into())
    }

    /// The first of the two that is set and not empty.
    fn first(&mut self, pair: Pair) -> Option<(&'static str, OsString)> {
        pair.into_iter().find_map(|name| Some((name, self.value(name)?)))
    }

    fn endpoint(&mut self, names: Pair) -> Result<Option<Given>, ConfigError> {
        let Some((setting, value)) = self.first(names) else { return Ok(None) };
        let text = value.into_string().map_err(|_| ConfigError::Endpoint {
            setting,
            value: "(not shown)".to_owned(),
            problem: EndpointProblem::NotUtf8,
        })?;
        let reach = if setting == names[0] { Reach::Own } else { Reach::General };
        Ok(Some(Given { setting, text, reach, signal: self.signal }))
    }

    /// The headers of a list, and the product in it for the user agent.
    fn headers(&mut self) -> Result<Option<(Headers, Option<HeaderValue>)>, ConfigError> {
        let Some((setting, value)) = self.first(self.names.headers) else { return Ok(None) };
        let list = value.into_string().map_err(|_| ConfigError::Headers {
            setting,
            position: 1,
            name: None,
            problem: HeaderProblem::NotUtf8,
        })?;
        Headers::parse(setting, &list, &mut self.notes).map(Some)
    }

    fn protocol(&mut self) -> Option<(Protocol, &'static str)> {
        let mut remark = None;
        let protocol = self.read(self.names.protocol, "grpc or http/protobuf is accepted", |text| {
            let (protocol, other) = Protocol::of_word(text)?;
            remark = other;
            Some(protocol)
        });
        if let (Some(remark), Some((_, name))) = (remark, protocol) {
            self.notes.push(Note::new(name, format!("{name}={remark}")));
        }
        protocol
    }

    /// Reads a setting that is not worth an error: a bad value is noted and counts as unset. Returns the name of the
    /// variable too.
    fn read<T>(
        &mut self,
        pair: Pair,
        accepted: &str,
        mut parse: impl FnMut(&str) -> Option<T>,
    ) -> Option<(T, &'static str)> {
        for (at, name) in pair.into_iter().enumerate() {
            let Some(value) = self.value(name) else { continue };
            if let Some(parsed) = value.to_str().and_then(|text| parse(text.trim())) {
                return Some((parsed, name));
            }
            let holds = match pair.get(at + 1).filter(|general| self.raw(general).is_some()) {
                Some(general) => format!("{general} holds"),
                None => "the default is used".to_owned(),
            };
            let value = value.to_string_lossy();
            let shown = before_next(&value);
            let hint = match slips::boolean_meant(value.trim()).filter(|_| pair == self.names.insecure) {
                Some(word) => format!("; write {word}"),
                None => String::new(),
            };
            self.notes.push(Note::new(name, format!("{name}={shown:?} is ignored: {accepted}; {holds}{hint}")));
        }
        None
    }
}

/// A number of milliseconds, or a number and its unit. 0 stands for no bound, which is an hour here, as is a longer
/// time.
fn timeout(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().ok()?;
    let millis = number.checked_mul(match unit.trim_start() {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    })?;
    match Duration::from_millis(millis) {
        Duration::ZERO => Some(LONGEST_TIMEOUT),
        timeout => (millis <= LARGEST).then(|| timeout.min(LONGEST_TIMEOUT)),
    }
}

fn compression(text: &str) -> Option<Compression> {
    match text.to_ascii_lowercase().as_str() {
        "none" => Some(Compression::None),
        "gzip" => Some(Compression::Gzip),
        "zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}
