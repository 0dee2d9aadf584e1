//! The table of settings. The reader, the checks of values from code, the defaults and `docs/settings.md` all use it.
//!
//! A row names a variable and the field that the variable is read into, so a row without a field does not compile. The
//! default is the field's own.

use std::ffi::OsStr;
use std::time::Duration;

use resilient_exporter::{BufferCompression, Compression, FallbackFormat, Refused, ReplayOrder};

use super::choice::Choice as _;
use super::field::{Field as _, Value};
use super::kind::{Bare, Kind, OnBad};
use super::{Settings, TracesExporter, TracesProcessor, TracesSampler, lists, vendors};

/// One setting: an environment variable and the field of [`Settings`] that it is read into.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// How code sets it, which beats the variable: a field such as `buffer.max_spans`, changed by
    /// `builder.buffer(|buffer| buffer.max_spans = 5_000)`, or a method such as `with_endpoint`.
    pub builder: &'static str,
    /// Its effect, in one or two sentences.
    pub meaning: &'static str,
    /// The path of the field below [`Settings`], for the tests.
    #[cfg(test)]
    pub(crate) field: &'static str,
    pub(crate) kind: Kind,
    pub(crate) on_bad: OnBad,
    pub(crate) group: Group,
    pub(crate) get: Get,
    /// None if `otlp-transport` reads the variable.
    pub(crate) read: Option<Read>,
}

/// Takes the setting's value out of the settings.
type Get = fn(&Settings, Kind) -> Value;
/// Reads the variable's text into the settings; false if the text is not accepted.
type Read = fn(Kind, &mut Settings, &OsStr) -> bool;

impl Setting {
    /// The default, as it may be written into the variable; empty if there is none.
    #[must_use]
    pub fn default(&self) -> String {
        self.value(&Settings::defaults())
    }

    /// The value in `settings`, as it may be written into the variable; empty if there is none. Headers are secret:
    /// their value is always empty.
    #[must_use]
    pub fn value(&self, settings: &Settings) -> String {
        (self.get)(settings, self.kind).to_string()
    }

    /// The accepted values, as the end of the sentence "accepted is ..".
    #[must_use]
    pub fn accepted(&self) -> String {
        self.kind.accepted()
    }
}

/// The headings of `docs/settings.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Group {
    Service,
    Collector,
    Failover,
    Traces,
    Batches,
    Breaker,
    Retries,
    Buffer,
    Journal,
    Files,
    Process,
}

impl Group {
    pub(crate) const ALL: [Self; 11] = [
        Self::Service,
        Self::Collector,
        Self::Failover,
        Self::Traces,
        Self::Batches,
        Self::Breaker,
        Self::Retries,
        Self::Buffer,
        Self::Journal,
        Self::Files,
        Self::Process,
    ];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Service => "The service",
            Self::Collector => "The collector",
            Self::Failover => "Other collectors",
            Self::Traces => "Traces",
            Self::Batches => "Batches",
            Self::Breaker => "The circuit breaker",
            Self::Retries => "Retries",
            Self::Buffer => "The buffer in memory",
            Self::Journal => "The journal: durable mode",
            Self::Files => "Files until the collector is back",
            Self::Process => "Shutdown and threads",
        }
    }
}

/// The columns `builder`, `field`, `get` and `read` of a row, from one of these forms:
///
/// - `exporter.buffer.max_spans`, `batch.max_queue_size`: a field that code changes by a closure;
/// - `with_service_name: service_name`: a field that code changes by a method;
/// - `with_propagators: propagators, read by lists::propagators`: the same, with text that needs a reader of its own;
/// - `with_timeout: transport, get |settings| ..`: `otlp-transport` reads the variable; `failover` in the same way.
macro_rules! access {
    (exporter.$group:ident.$field:ident) => {
        access!(@ concat!(stringify!($group), ".", stringify!($field)), exporter.$group.$field)
    };
    (batch.$field:ident) => {
        access!(@ concat!("batch.", stringify!($field)), batch.$field)
    };
    ($method:ident: transport, get $get:expr) => {
        (stringify!($method), "transport", $get as Get, None)
    };
    ($method:ident: failover, get $get:expr) => {
        (stringify!($method), "failover", $get as Get, None)
    };
    ($method:ident: $($field:ident).+, read by $read:path) => {
        (
            stringify!($method),
            stringify!($($field).+),
            (|settings, kind| settings.$($field).+.get(kind)) as Get,
            Some($read as Read),
        )
    };
    ($method:ident: $($field:ident).+) => {
        access!(@ stringify!($method), $($field).+)
    };
    (@ $builder:expr, $($field:ident).+) => {
        (
            $builder,
            stringify!($($field).+),
            (|settings, kind| settings.$($field).+.get(kind)) as Get,
            Some((|kind, settings, text| {
                Value::read(kind, text).is_some_and(|value| settings.$($field).+.set(value))
            }) as Read),
        )
    };
}

macro_rules! settings {
    ($($group:ident { $($id:ident: $name:literal, $access:tt, $kind:expr, $on_bad:ident, $meaning:literal;)+ })+) => {
        $($(
            pub(crate) const $id: Setting = {
                let (builder, _field, get, read) = access! $access;
                Setting {
                    name: $name,
                    builder,
                    meaning: $meaning,
                    #[cfg(test)]
                    field: _field,
                    kind: $kind,
                    on_bad: OnBad::$on_bad,
                    group: Group::$group,
                    get,
                    read,
                }
            };
        )+)+
        /// Every setting, in the order of `docs/settings.md`.
        pub static SETTINGS: &[Setting] = &[$($($id),+),+];
    };
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const DAY: u64 = 24 * 60 * 60;

/// The path of a file that may not be set.
fn path(path: Option<&std::path::Path>) -> Value {
    Value::Text(path.map(|path| path.display().to_string()).unwrap_or_default())
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}

/// The range of each limit on attributes, events and links.
const LIMIT: Kind = count(0, u32::MAX as u64);

const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}

const fn seconds(min_ms: u64, max_s: u64) -> Kind {
    Kind::Duration { bare: Bare::Seconds, min: Duration::from_millis(min_ms), max: Duration::from_secs(max_s) }
}

const PROXY: &str = "http://host:port or https://host:port, with user:password@ percent-encoded in front of the host; \
                     without a scheme http, without a port 80 or 443";
const MEMBERS: &str = "url[;option=value].. separated by commas, with the options headers-file, protocol, certificate, \
                       client-certificate and client-key";
const DIRECT: &str = "hosts separated by commas or blanks: names, suffixes such as .example.com, addresses, networks, *; \
                      each with :port behind it or not";

/// The proxy in effect, without its credentials.
fn proxy(settings: &Settings) -> Value {
    Value::Text(settings.transport.proxy().unwrap_or_default().to_owned())
}

/// The endpoints behind the primary one, without their options.
fn failover(settings: &Settings) -> Value {
    let shown = settings.failover.iter().map(otlp_transport::Config::endpoint).collect::<Vec<_>>();
    Value::Text(shown.join(","))
}

/// The largest number that the specification asks an SDK to accept (environment variables, "Integer").
const LARGEST: u64 = (1 << 31) - 1;

/// A duration of the specification: a number of milliseconds (environment variables, "Duration").
const fn milliseconds(min: u64) -> Kind {
    Kind::Duration { bare: Bare::Milliseconds, min: Duration::from_millis(min), max: Duration::from_millis(LARGEST) }
}

settings! {
    Service {
        SDK_DISABLED: "OTEL_SDK_DISABLED", (with_sdk_disabled: sdk_disabled), Kind::Bool, Default,
            "No telemetry at all: no thread, no file, no socket. Propagators stay in effect.";
        SERVICE_NAME: "OTEL_SERVICE_NAME", (with_service_name: service_name), Kind::Text("any text"), Default,
            "`service.name`; beats the one in the resource attributes. Without both: `unknown_service:` and the name \
             of the program.";
        SERVICE_VERSION: "OTEL_SERVICE_VERSION", (with_service_version: service_version),
            Kind::Text("any text"), Default,
            "`service.version`; beats the one in the resource attributes. An addition of holdfast: the specification \
             has no such variable.";
        RESOURCE_ATTRIBUTES: "OTEL_RESOURCE_ATTRIBUTES",
            (with_resource_attributes: resource_attributes, read by lists::resource_attributes),
            Kind::Text(
                "key=value pairs separated by commas, with percent-encoding for commas, equals signs and percent signs"
            ),
            Default,
            "Attributes of the resource, `key=value` separated by commas, values percent-decoded. One bad entry \
             discards the whole list, with a warning. `k=a=b` is no such entry: it is `k` with the value `a=b`, as \
             Baggage, whose format this is, allows; a warning names it, since the specification wants `%3D`.";
    }
    Collector {
        TRACES_EXPORTER: "OTEL_TRACES_EXPORTER",
            (with_traces_exporter: traces_exporter, read by lists::traces_exporter),
            Kind::Choice(TracesExporter::WORDS), Default,
            "`otlp` exports; `none` makes spans for propagation only: no thread, no file, no socket. `console` is not \
             supported.";
        ENDPOINT: "OTEL_EXPORTER_OTLP_ENDPOINT",
            (with_endpoint: transport, get |settings, _| Value::Text(settings.transport.endpoint().to_owned())),
            Kind::Text("a URL such as http://localhost:4317 or https://collector:4317, or unix:///path/to/socket"), Error,
            "The collector. Over HTTP, `/v1/traces` is appended to it, unless it ends so already, and the default is \
             `http://localhost:4318`.";
        PROTOCOL: "OTEL_EXPORTER_OTLP_PROTOCOL",
            (with_protocol: transport, get |settings, _| Value::Text(settings.transport.protocol().to_string())),
            Kind::Text("grpc or http/protobuf"), Default,
            "`grpc` or `http/protobuf`. Unset with an endpoint on port 4318, it is `http/protobuf`, which is logged \
             once.";
        HEADERS: "OTEL_EXPORTER_OTLP_HEADERS", (with_header: transport, get |_, _| Value::Text(String::new())),
            Kind::Text("key=value pairs separated by commas, values percent-encoded"), Error,
            "Sent with each request; `key=value` separated by commas, values percent-decoded. Values are secret and \
             never shown. Headers that the transport sets itself, such as `content-type`, are left out with a warning; a \
             `user-agent` is put in front of the exporter's own.";
        HEADERS_FILE: "TELEMETRY_HEADERS_FILE",
            (with_headers_file: transport, get |settings, _| {
                Value::Path(settings.transport.headers_file().map(Into::into))
            }),
            Kind::Path, Error,
            "A file with a header a line, `key=value`, value percent-decoded; its keys beat those of \
             `OTEL_EXPORTER_OTLP_HEADERS`. Looked at with each request and, while batches wait for an endpoint that \
             refuses, every 5 s; a change passes backoff and breaker once. Of a file that vanishes or cannot be read \
             the last good headers stay, with a warning. At the start a line that is no header is an error; a file that \
             does not exist yet is waited for, and no request goes out before.";
        TIMEOUT: "OTEL_EXPORTER_OTLP_TIMEOUT",
            (with_timeout: transport, get |settings, _| {
                Value::Count(u64::try_from(settings.transport.timeout().as_millis()).unwrap_or(u64::MAX))
            }),
            Kind::Text("a number of milliseconds from 0 to 2147483647, or a duration such as 250ms or 10s"), Default,
            "Bounds one request; in milliseconds. 0 is no bound, which is an hour here, as is more than an hour. Shorter \
             than the collector's pauses means duplicates: spans of a request that timed out may have been stored. \
             Below 100 ms there is a warning, since seconds are meant as a rule.";
        INSECURE: "OTEL_EXPORTER_OTLP_INSECURE", (with_insecure: transport, get |_, _| Value::Bool(false)),
            Kind::Bool, Default,
            "Whether a gRPC endpoint without a scheme is called without TLS.";
        CERTIFICATE: "OTEL_EXPORTER_OTLP_CERTIFICATE",
            (with_certificate: transport, get |settings, _| path(settings.transport.certificate())),
            Kind::Text("the path of a PEM file"), Error,
            "A PEM file of the authorities that may have signed the collector's certificate, in place of the system's. It is \
             looked at for each connection: a changed file holds for the next, and with an unusable one the content \
             before it stays, with a warning.";
        CLIENT_CERTIFICATE: "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            (with_client_certificate: transport, get |settings, _| path(settings.transport.client_certificate())),
            Kind::Text("the path of a PEM file"), Error,
            "A PEM file with the certificate that this program shows, its own first. Needs the key below, which may stand in \
             the same file. Looked at as the file above.";
        CLIENT_KEY: "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            (with_client_key: transport, get |settings, _| path(settings.transport.client_key())),
            Kind::Text("the path of a PEM file"), Error,
            "A PEM file with the private key of that certificate: PKCS#8, PKCS#1 or SEC1, without a pass phrase.";
        COMPRESSION: "OTEL_EXPORTER_OTLP_COMPRESSION",
            (with_compression: transport, get |settings, _| Value::Text(settings.transport.compression().to_string())),
            Kind::Text("none, gzip or zstd"), Default,
            "Compression of requests. `zstd`, which the specification does not have, makes them smaller than `gzip` in \
             less time; not all collectors take it.";
        HTTPS_PROXY: "HTTPS_PROXY", (with_proxy: transport, get |settings, _| proxy(settings)),
            Kind::Text(PROXY), Error,
            "The proxy in front of a collector with `https`; `https_proxy` where this one is unset. User and password \
             are never shown. SOCKS is not supported.";
        HTTP_PROXY: "HTTP_PROXY", (with_proxy: transport, get |settings, _| proxy(settings)),
            Kind::Text(PROXY), Error,
            "The same for a collector with `http`, by both protocols; `http_proxy` where this one is unset. Without \
             effect in a CGI script (`REQUEST_METHOD` is set), where it is a header of a request.";
        ALL_PROXY: "ALL_PROXY", (with_proxy: transport, get |settings, _| proxy(settings)),
            Kind::Text(PROXY), Error,
            "Both, where neither form of the one above is set; `all_proxy` where this one is unset. A collector on this \
             host, or on a Unix socket, is never behind a proxy, and a variable without effect is not checked.";
        NO_PROXY: "NO_PROXY", (without_proxy: transport, get |_, _| Value::Text(String::new())),
            Kind::Text(DIRECT), Default,
            "Collectors that are reached without a proxy; `no_proxy` where this one is unset. An entry with a port, as \
             `collector:4317`, is for an endpoint with that port.";
        VENDOR: "TELEMETRY_VENDOR", (with_vendor: vendor), Kind::Choice(vendors::WORDS), Default,
            "The vendor that receives the spans, for the sizes of requests that it documents \
             ([vendors.md](vendors.md)), where none are set; by default the host of the endpoint tells. `none`: no preset.";
        REQUEST_MAX_BYTES: "TELEMETRY_REQUEST_MAX_BYTES", (exporter.request.max_bytes),
            bytes(64 * KIB, 64 * MIB), Default,
            "Largest request, before compression; larger batches are split. The default is 64 KiB below the 4 MiB at \
             which many collectors refuse.";
        CONNECTION_MAX_AGE: "TELEMETRY_CONNECTION_MAX_AGE", (with_connection_max_age: connection_max_age),
            seconds(1_000, 7 * DAY), Default,
            "Age at which a connection to the collector is replaced, more or less a tenth. A new one leads to the \
             addresses that the collector's name has by then; the old one is in use until the new one is open.";
        REQUEST_MAX_SPANS: "TELEMETRY_REQUEST_MAX_SPANS", (exporter.request.max_spans), count(1, 1_000_000_000), Default,
            "Most spans of a request; larger batches are split, and stored ones are put together up to it. For \
             collectors that count them.";
        RESPONSE_MAX_BYTES: "TELEMETRY_RESPONSE_MAX_BYTES", (with_response_max_bytes: response_max_bytes),
            bytes(KIB, 64 * MIB), Default,
            "Largest answer that is read, as it comes and after decompression. The spans of a larger one count as \
             delivered, and health says that it could not be read.";
        MAX_CONCURRENCY: "TELEMETRY_MAX_CONCURRENCY", (with_max_concurrency: exporter.max_concurrency),
            count(1, 64), Default,
            "Requests at a time. The exporter begins with one, adds one for each round of quick answers, and halves their \
             number after a failure or a throttle.";
    }
    Failover {
        FAILOVER_ENDPOINTS: "TELEMETRY_FAILOVER_ENDPOINTS",
            (with_failover_endpoints: failover, get |settings, _| failover(settings)),
            Kind::Text(MEMBERS), Error,
            "Collectors that take over, in this order, while those before them are unavailable; 16 with the first one \
             at most. Each URL is read as `OTEL_EXPORTER_OTLP_ENDPOINT` is, and each setting above holds for it, but \
             headers and client certificate, which go to the same host alone ([failover.md](failover.md)).";
        FALLBACK_ENDPOINT: "OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT",
            (with_fallback_endpoint: failover, get |_, _| Value::Text(String::new())),
            Kind::Text("a URL such as http://localhost:4317 or https://collector:4317, or unix:///path/to/socket"), Error,
            "One such collector behind those of the list, which has the headers and the client certificate of the first \
             one on any host, but never over plain HTTP where the first one has TLS or is the only one of them on this \
             host.";
        FAILBACK_DELAY: "TELEMETRY_FAILBACK_DELAY", (exporter.failover.failback_delay), seconds(1_000, DAY), Default,
            "How long a collector must have taken single batches, without a failure, until all batches return to it.";
    }
    Traces {
        SAMPLER: "OTEL_TRACES_SAMPLER", (with_sampler: sampler), Kind::Choice(TracesSampler::WORDS), Default,
            "Which traces are recorded.";
        SAMPLER_ARG: "OTEL_TRACES_SAMPLER_ARG", (with_sampler: sampler_arg),
            Kind::Factor { min: 0.0, max: 1.0 }, Default,
            "Share of traces for the two ratio samplers.";
        PROPAGATORS: "OTEL_PROPAGATORS", (with_propagators: propagators, read by lists::propagators),
            Kind::Text("tracecontext, baggage, both separated by a comma, or none"), Default,
            "How the trace crosses process borders. Others, such as `b3`, are warned about and left out.";
        ATTRIBUTE_VALUE_LENGTH_LIMIT: "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            (with_attribute_value_length_limit: exporter.attribute_value_length_limit), LIMIT, Default,
            "Longest text in an attribute, in characters; the rest is cut off, in an array of texts from each for itself. \
             For attributes of spans, their events and links, and instrumentation scopes; those of the resource are \
             exempt.";
        SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT: "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            (with_span_attribute_value_length_limit: exporter.span_attribute_value_length_limit), LIMIT, Default,
            "The same for spans with their events and links. A value that is not accepted counts as unset: \
             `OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT` holds.";
        ATTRIBUTE_COUNT_LIMIT: "OTEL_ATTRIBUTE_COUNT_LIMIT",
            (with_span_limits: span_limits.max_attributes_per_span, read by lists::attribute_limits), LIMIT, Default,
            "Attributes a span, event or link, where no variable below is set to an accepted value.";
        SPAN_ATTRIBUTE_COUNT_LIMIT: "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
            (with_span_limits: span_limits.max_attributes_per_span),
            LIMIT, Default,
            "Attributes a span; more are dropped and counted in the span. A value that is not accepted counts as unset: \
             `OTEL_ATTRIBUTE_COUNT_LIMIT` holds.";
        SPAN_EVENT_COUNT_LIMIT: "OTEL_SPAN_EVENT_COUNT_LIMIT", (with_span_limits: span_limits.max_events_per_span),
            LIMIT, Default,
            "Events a span.";
        SPAN_LINK_COUNT_LIMIT: "OTEL_SPAN_LINK_COUNT_LIMIT", (with_span_limits: span_limits.max_links_per_span),
            LIMIT, Default,
            "Links a span.";
        EVENT_ATTRIBUTE_COUNT_LIMIT: "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
            (with_span_limits: span_limits.max_attributes_per_event),
            LIMIT, Default,
            "Attributes an event. A value that is not accepted counts as unset: `OTEL_ATTRIBUTE_COUNT_LIMIT` holds.";
        LINK_ATTRIBUTE_COUNT_LIMIT: "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
            (with_span_limits: span_limits.max_attributes_per_link),
            LIMIT, Default,
            "Attributes a link. A value that is not accepted counts as unset: `OTEL_ATTRIBUTE_COUNT_LIMIT` holds.";
    }
    Batches {
        PROCESSOR: "TELEMETRY_PROCESSOR", (with_processor: processor), Kind::Choice(TracesProcessor::WORDS), Default,
            "The span processor. With `resilient` the thread that ends a span encodes it into its batch, so that no \
             queue stands before the buffer, and the ledger has every span from its end on. `batch` is the batch \
             processor of the OpenTelemetry SDK.";
        BSP_SCHEDULE_DELAY: "OTEL_BSP_SCHEDULE_DELAY", (batch.schedule_delay), milliseconds(0), Default,
            "Longest stay of a span until its batch goes on its way. 0 is for each span alone, but for the processor \
             `batch`, whose thread would not rest. There, and above 0, less than 10 ms counts as 10 ms.";
        BSP_MAX_EXPORT_BATCH_SIZE: "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", (batch.max_export_batch_size),
            count(1, LARGEST), Default,
            "Spans a batch. All batches that are not full take a quarter of the buffer at most; with the processor \
             `batch`, never more than the queue holds.";
        BSP_EXPORT_TIMEOUT: "OTEL_BSP_EXPORT_TIMEOUT", (batch.export_timeout), milliseconds(1), Default,
            "The longest `force_flush` of the tracer provider, which waits until each span has an answer, or after \
             half of this time is safe in a file or the journal. `OTEL_EXPORTER_OTLP_TIMEOUT` bounds a request.";
        BSP_MAX_QUEUE_SIZE: "OTEL_BSP_MAX_QUEUE_SIZE", (batch.max_queue_size), count(1, LARGEST), Default,
            "Only with the processor `batch`: spans that wait in front of the exporter; memory for all of them is \
             taken at start, hence more than 65536 count as 65536 (32 MiB), with a warning. The exporter empties the \
             queue at once: the buffer below is what an outage fills. Spans that find the queue full are dropped by \
             the SDK, and are in no ledger.";
    }
    Breaker {
        BREAKER_FAILURE_THRESHOLD: "CIRCUIT_BREAKER_FAILURE_THRESHOLD", (exporter.circuit_breaker.failure_threshold),
            count(1, 1_000_000), Default,
            "Failures in a row that open the breaker.";
        BREAKER_RECOVERY_TIMEOUT: "CIRCUIT_BREAKER_RECOVERY_TIMEOUT", (exporter.circuit_breaker.recovery_timeout),
            seconds(1, DAY), Default,
            "The time from opening to the first probe, plus up to 10 % so that fleets do not probe in step.";
        BREAKER_HALF_OPEN_PROBES: "CIRCUIT_BREAKER_HALF_OPEN_PROBES", (exporter.circuit_breaker.half_open_probes),
            count(1, 100), Default,
            "Probes at a time while the breaker is half-open.";
        BREAKER_HALF_OPEN_SUCCESSES: "CIRCUIT_BREAKER_HALF_OPEN_SUCCESSES",
            (exporter.circuit_breaker.half_open_successes),
            count(1, 100), Default,
            "Successful probes that close the breaker.";
    }
    Retries {
        RETRY_MAX_RETRIES: "TELEMETRY_RETRY_MAX_RETRIES", (exporter.retry.max_retries), count(0, 1000), Default,
            "Retries of one batch while the breaker is closed; then the batch goes to a file, or back to the buffer \
             if files are off. Outages do not count.";
        RETRY_INITIAL_DELAY: "TELEMETRY_RETRY_INITIAL_DELAY", (exporter.retry.initial_delay), seconds(1, 3600), Default,
            "Wait before the first retry.";
        RETRY_MULTIPLIER: "TELEMETRY_RETRY_MULTIPLIER", (exporter.retry.multiplier),
            Kind::Factor { min: 1.0, max: 100.0 }, Default,
            "Growth of the wait from retry to retry.";
        RETRY_MAX_DELAY: "TELEMETRY_RETRY_MAX_DELAY", (exporter.retry.max_delay), seconds(1, DAY), Default,
            "Longest wait, jitter included; not below the first.";
        RETRY_JITTER: "TELEMETRY_RETRY_JITTER", (exporter.retry.jitter), Kind::Factor { min: 0.0, max: 1.0 }, Default,
            "Share by which a wait varies, up and down.";
    }
    Buffer {
        BUFFER_MAX_SPANS: "TELEMETRY_BUFFER_MAX_SPANS", (exporter.buffer.max_spans), count(1, 1_000_000_000), Default,
            "Spans in memory; beyond it, the oldest go to a file, or are dropped and counted if files are off.";
        BUFFER_MAX_BYTES: "TELEMETRY_BUFFER_MAX_BYTES", (exporter.buffer.max_bytes), bytes(64 * KIB, TIB), Default,
            "Bytes of encoded spans in memory.";
        BUFFER_MAX_AGE: "TELEMETRY_BUFFER_MAX_AGE", (exporter.buffer.max_age), seconds(1000, 30 * DAY), Default,
            "Longest stay in memory.";
        BUFFER_COMPRESSION: "TELEMETRY_BUFFER_COMPRESSION", (exporter.buffer.compression),
            Kind::Choice(BufferCompression::WORDS), Default,
            "Compression in memory of batches that wait for longer than a second: `TELEMETRY_BUFFER_MAX_BYTES` holds \
             several times as many spans, and `TELEMETRY_BUFFER_MAX_SPANS` is to be raised with it. Pays where there \
             are no files. Without effect in durable mode.";
    }
    Journal {
        JOURNAL_ENABLED: "TELEMETRY_JOURNAL_ENABLED", (exporter.journal.enabled), Kind::Bool, Storage,
            "Durable mode: batches go to a journal on disk, and so survive `kill -9` and power cut. Needs a state \
             directory; the journal is in `journal` below it.";
        JOURNAL_SYNC: "TELEMETRY_JOURNAL_SYNC", (exporter.journal.sync),
            Kind::Sync { min: Duration::from_millis(1), max: Duration::from_secs(3_600) }, Storage,
            "The batches that a power cut takes: with `batch` none that was accepted in time, with a duration those \
             that came in during that time, with `never` up to 8 MiB and those that the system held back. `kill -9` \
             takes nothing by any of them.";
        JOURNAL_SYNC_TIMEOUT: "TELEMETRY_JOURNAL_SYNC_TIMEOUT", (exporter.journal.sync_timeout), seconds(1, 60), Storage,
            "The longest wait of a batch for the disk; then the batch is accepted nevertheless, and counted as \
             accepted but not durable.";
        JOURNAL_STAGING: "TELEMETRY_JOURNAL_STAGING", (exporter.journal.staging), seconds(0, 60), Storage,
            "Longest stay of a span in the processor until its batch goes to the journal, unless \
             `OTEL_BSP_SCHEDULE_DELAY` is shorter: `kill -9` takes the spans of this time. 0 hands over each span \
             alone. Without effect with the processor `batch`, in whose queue a span stays for the schedule delay.";
        JOURNAL_MAX_BYTES: "TELEMETRY_JOURNAL_MAX_BYTES", (exporter.journal.max_bytes),
            bytes(16 * MIB, 1024 * TIB), Storage,
            "Bytes of the journal on disk, at most; beyond it, new batches are in memory only, and counted as \
             accepted but not durable.";
    }
    Files {
        STATE_DIR: "TELEMETRY_STATE_DIR", (with_state_dir: exporter.state_dir), Kind::Path, Storage,
            "The directory for everything that outlives the process, with a directory for each service in it. Without \
             it: the first entry of `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/holdfast`, else \
             `$HOME/.local/state/holdfast`; with none, memory only, a warning, and *degraded* health.";
        STATE_DIR_REQUIRED: "TELEMETRY_STATE_DIR_REQUIRED", (with_state_dir_required: exporter.state_dir_required),
            Kind::Bool, Default,
            "Whether storage that cannot be used, or a bad value of its settings, is an error of set-up. Otherwise the \
             program starts with spans in memory only, a warning, and *degraded* health.";
        FREE_SPACE_RESERVE: "TELEMETRY_FREE_SPACE_RESERVE", (with_free_space_reserve: exporter.free_space_reserve),
            bytes(0, 1024 * TIB), Storage,
            "Bytes of the volume that files and journal leave free, but no more than a tenth of the volume.";
        FALLBACK_ENABLED: "TELEMETRY_FALLBACK_ENABLED", (exporter.fallback.enabled), Kind::Bool, Storage,
            "Spans that leave the buffer undelivered go to files and are sent when the collector is back.";
        FALLBACK_DIR: "TELEMETRY_FALLBACK_DIR", (exporter.fallback.dir), Kind::Path, Storage,
            "The directory of these files, with a directory for each service in it; without it, they are below the \
             state directory.";
        FALLBACK_MAX_BYTES: "TELEMETRY_FALLBACK_MAX_BYTES", (exporter.fallback.max_bytes),
            bytes(MIB, 1024 * TIB), Storage,
            "Bytes of these files on disk; beyond it, the oldest are removed, counted and warned about.";
        FALLBACK_MAX_AGE: "TELEMETRY_FALLBACK_MAX_AGE", (exporter.fallback.max_age), seconds(60_000, 3650 * DAY), Storage,
            "Longest stay in a file.";
        FALLBACK_FORMAT: "TELEMETRY_FALLBACK_FORMAT", (exporter.fallback.format),
            Kind::Choice(FallbackFormat::WORDS), Storage,
            "The format of new files: OTLP JSON Lines, or protobuf with the length of each request before it. \
             Protobuf takes less time and room, and is read by few tools. Files of either format are sent.";
        FALLBACK_COMPRESSION: "TELEMETRY_FALLBACK_COMPRESSION", (exporter.fallback.compression),
            Kind::Choice(Compression::WORDS), Storage,
            "Compression of large files. The Collector's `otlpjsonfile` receiver reads plain and gzip files.";
        FALLBACK_COMPRESS_ABOVE: "TELEMETRY_FALLBACK_COMPRESS_ABOVE", (exporter.fallback.compress_above),
            bytes(0, GIB), Storage,
            "Files that are expected to be larger than this are compressed.";
        DEAD_LETTER_MAX_BYTES: "TELEMETRY_DEAD_LETTER_MAX_BYTES", (exporter.dead_letter.max_bytes),
            bytes(MIB, 1024 * TIB), Storage,
            "Bytes of dead letters on disk: spans that the collector refused for good, stored with the reason in \
             `dead-letters` below the state directory (without one, below the directory of the files) and never sent \
             again by themselves. Beyond it, the oldest are removed.";
        DEAD_LETTER_MAX_AGE: "TELEMETRY_DEAD_LETTER_MAX_AGE", (exporter.dead_letter.max_age),
            seconds(60_000, 3650 * DAY), Storage,
            "Longest stay of a dead letter.";
        REFUSED: "TELEMETRY_REFUSED", (with_refused: exporter.refused), Kind::Choice(Refused::WORDS), Default,
            "The treatment of a batch that the collector refuses. With `keep` it waits and is sent again; it becomes \
             a dead letter once the collector accepts others and goes on refusing this one. With `dead-letter` it is \
             a dead letter at once, also where a wrong key or URL is the reason.";
        REPLAY_RATE: "TELEMETRY_REPLAY_RATE", (exporter.replay.rate), Kind::Rate, Default,
            "Spans a second that are sent from files, at most.";
        REPLAY_ORDER: "TELEMETRY_REPLAY_ORDER", (exporter.replay.order), Kind::Choice(ReplayOrder::WORDS), Default,
            "Which stored spans are sent first: with `oldest` those that the limits would remove next, with `newest` \
             those of the newest file, so that dashboards have the present first; every eighth group is the oldest all \
             the same. Spans in memory go before stored ones.";
        MAX_AGE_AT_SEND: "TELEMETRY_MAX_AGE_AT_SEND", (with_max_age_at_send: exporter.max_age_at_send),
            seconds(1_000, 3650 * DAY), Default,
            "Longest time from the end of a span to its sending; older spans become dead letters (`too_old`) instead. \
             For collectors that refuse or silently drop them. Rests while the wall clock is not believed.";
    }
    Process {
        OUTAGE_SPAN: "TELEMETRY_OUTAGE_SPAN", (with_outage_span: exporter.outage_span), Kind::Bool, Default,
            "Whether each outage of the collector makes a span `holdfast.outage` once it has ended, from its first \
             failed call to its first successful one: a gap on the timeline has its reason there. No sampler sees it.";
        SHUTDOWN_TIMEOUT: "TELEMETRY_SHUTDOWN_TIMEOUT", (exporter.shutdown.timeout), seconds(100, 3600), Default,
            "The longest shutdown: three fifths of it for the network, the rest for the disk; without a directory nine \
             tenths for the network. With the processor `batch` the exporter has seven tenths of it, and the last \
             export of the SDK's queue the rest.";
        SHUTDOWN_REPLAY: "TELEMETRY_SHUTDOWN_REPLAY", (exporter.shutdown.replay), seconds(0, 3600), Default,
            "Longest time of a shutdown in which stored spans are sent, those of earlier runs too, while the collector \
             answers. A part of the time for the network.";
        THREAD_NICENESS: "TELEMETRY_THREAD_NICENESS", (exporter.threads.niceness), count(0, 19), Default,
            "By how much the exporter's threads for network and disk are nicer than the thread that sets telemetry \
             up: threads of the application go first where cores are short. The thread of the journal is not nicer. \
             Linux only.";
    }
}

/// Variables that a user may reasonably set and that have no effect here: each is warned about once.
pub(crate) const NOT_SUPPORTED: &[(&str, &str)] = &[
    (
        "OTEL_LOG_LEVEL",
        "lines of the log are events of `tracing`, and the filter of its subscriber decides, such as RUST_LOG=warn",
    ),
    ("OTEL_EXPERIMENTAL_CONFIG_FILE", "configuration files are not read; set environment variables or use the builder"),
    ("OTEL_CONFIG_FILE", "configuration files are not read; set environment variables or use the builder"),
    (
        "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
        "no export waits for the collector; TELEMETRY_MAX_CONCURRENCY bounds the requests at a time",
    ),
];
