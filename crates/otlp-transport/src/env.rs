//! The `OTEL_EXPORTER_OTLP_*` family, by the rules of the OpenTelemetry specification.

use std::ffi::OsString;
use std::time::Duration;

use crate::config::{Config, ConfigBuilder};
use crate::endpoint::{Given, Reach};
use crate::error::{ConfigError, EndpointProblem, HeaderProblem};
use crate::headers::Headers;
use crate::protocol::{Compression, Protocol};

/// A variable for traces and the general one that it beats.
type Pair = [&'static str; 2];

const ENDPOINT: Pair = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOL: Pair = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const HEADERS: Pair = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const TIMEOUT: Pair = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const COMPRESSION: Pair = ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
const INSECURE: Pair = ["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"];
const TLS: [Pair; 3] = [
    ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"],
    ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"],
    ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"],
];

impl ConfigBuilder {
    /// Fills in the settings that code did not set from `vars`, then checks the whole: code beats the variable for
    /// traces, which beats the general one, which beats the default. An empty variable counts as unset.
    ///
    /// | Variable (and its `_TRACES_` form) | Accepted | Default | Anything else |
    /// | --- | --- | --- | --- |
    /// | `OTEL_EXPORTER_OTLP_ENDPOINT` | `http://host:port[/path]` | `http://localhost:4317`, HTTP `:4318` | error |
    /// | `OTEL_EXPORTER_OTLP_PROTOCOL` | `grpc`, `http/protobuf` | `grpc`; port 4318: `http/protobuf` | note; for `http/json` `http/protobuf` is used |
    /// | `OTEL_EXPORTER_OTLP_HEADERS` | `key=value,key=value`, values percent-encoded | none | error |
    /// | `OTEL_EXPORTER_OTLP_TIMEOUT` | 1 to 3600000, milliseconds | 10000 | note |
    /// | `OTEL_EXPORTER_OTLP_COMPRESSION` | `none`, `gzip` | `none` | note |
    /// | `OTEL_EXPORTER_OTLP_INSECURE` | `true`, `false` | `false` | note |
    /// | `OTEL_EXPORTER_OTLP_CERTIFICATE`, `_CLIENT_KEY`, `_CLIENT_CERTIFICATE` | none yet | none | error |
    ///
    /// A *note* means that the value is ignored and [`Config::notes`] says so. Headers from code and from the
    /// environment are put together; of two of one name, code wins.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] names the variable or method, the value unless secret, and the accepted values.
    pub fn build_over(mut self, vars: impl Fn(&str) -> Option<OsString>) -> Result<Config, ConfigError> {
        let vars = Vars(vars);
        if let Some((setting, _)) = TLS.iter().find_map(|pair| vars.first(*pair)) {
            return Err(ConfigError::Tls { setting });
        }
        if self.endpoint.is_none() {
            self.endpoint = vars.endpoint()?;
        }
        if let Some(given) = vars.headers()? {
            self.headers.fill_from(&given);
        }
        if self.protocol.is_none() {
            self.protocol = vars.protocol(&mut self.notes);
        }
        if self.timeout.is_none() {
            self.timeout = vars.read(TIMEOUT, &mut self.notes, "1 to 3600000 milliseconds", timeout);
        }
        if self.compression.is_none() {
            self.compression = vars.read(COMPRESSION, &mut self.notes, "none or gzip", compression);
        }
        if self.insecure.is_none() {
            self.insecure = vars.read(INSECURE, &mut self.notes, "true or false", boolean);
        }
        self.build()
    }
}

struct Vars<F>(F);

impl<F: Fn(&str) -> Option<OsString>> Vars<F> {
    /// The first of the two that is set and not empty.
    fn first(&self, pair: Pair) -> Option<(&'static str, OsString)> {
        pair.into_iter().find_map(|name| {
            let value = (self.0)(name)?;
            (!value.to_string_lossy().trim().is_empty()).then_some((name, value))
        })
    }

    fn endpoint(&self) -> Result<Option<Given>, ConfigError> {
        let Some((setting, value)) = self.first(ENDPOINT) else { return Ok(None) };
        let text = value.into_string().map_err(|_| ConfigError::Endpoint {
            setting,
            value: "(not shown)".to_owned(),
            problem: EndpointProblem::NotUtf8,
        })?;
        let reach = if setting == ENDPOINT[0] { Reach::Traces } else { Reach::General };
        Ok(Some(Given { setting, text, reach }))
    }

    fn headers(&self) -> Result<Option<Headers>, ConfigError> {
        let Some((setting, value)) = self.first(HEADERS) else { return Ok(None) };
        let list = value.into_string().map_err(|_| ConfigError::Headers {
            setting,
            position: 1,
            name: None,
            problem: HeaderProblem::NotUtf8,
        })?;
        Headers::parse(setting, &list).map(Some)
    }

    fn protocol(&self, notes: &mut Vec<String>) -> Option<Protocol> {
        if let Some((name, value)) = self.first(PROTOCOL)
            && value.to_string_lossy().trim().eq_ignore_ascii_case("http/json")
        {
            // The same port and the same path, and collectors go by the content type.
            notes.push(format!("{name}=http/json is not spoken: http/protobuf is used in its place"));
            return Some(Protocol::HttpProtobuf);
        }
        self.read(PROTOCOL, notes, "grpc or http/protobuf", |text| match text.to_ascii_lowercase().as_str() {
            "grpc" => Some(Protocol::Grpc),
            "http/protobuf" => Some(Protocol::HttpProtobuf),
            _ => None,
        })
    }

    /// Reads a setting that is not worth an error: a bad value is noted and counts as unset.
    fn read<T>(
        &self,
        pair: Pair,
        notes: &mut Vec<String>,
        accepted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let (name, value) = self.first(pair)?;
        let parsed = value.to_str().and_then(|text| parse(text.trim()));
        if parsed.is_none() {
            let value = value.to_string_lossy();
            notes.push(format!("{name}={value:?} is ignored: {accepted} is accepted; the default is used"));
        }
        parsed
    }
}

fn timeout(text: &str) -> Option<Duration> {
    let millis = text.parse().ok().filter(|millis| (1..=3_600_000).contains(millis))?;
    Some(Duration::from_millis(millis))
}

fn compression(text: &str) -> Option<Compression> {
    match text.to_ascii_lowercase().as_str() {
        "none" => Some(Compression::None),
        "gzip" => Some(Compression::Gzip),
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
