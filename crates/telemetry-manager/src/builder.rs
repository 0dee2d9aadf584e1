//! Settings in code.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::trace::{ShouldSample, SpanLimits};
use otlp_transport::{Faults, Protocol, Transport};
use resilient_exporter::{
    Breaker, Buffer, DeadLetters, Durability, Failover, Files, IntoPrimary, Refused, Replay, Requests, Retry, Shutdown,
    Threads,
};

use crate::settings::{Batch, Code, Propagator, Settings, TracesExporter, TracesProcessor, Warning};

mod aliases;
mod assemble;
mod place;
mod siblings;
mod storage;

/// Settings of an [`OpenTelemetryManager`](crate::OpenTelemetryManager) in code. The environment gives the settings
/// that code does not give, and the defaults of `docs/settings.md` those that are in neither; [`build`](Self::build)
/// checks all of them.
///
/// ```
/// use std::time::Duration;
/// use telemetry_manager::OpenTelemetryManager;
///
/// let mut builder = OpenTelemetryManager::builder()
///     .with_service_name("my-api")
///     .buffer(|buffer| buffer.max_spans = 5_000)
///     .circuit_breaker(|breaker| breaker.recovery_timeout = Duration::from_secs(30))
///     .with_vars(|name| (name == "TELEMETRY_BUFFER_MAX_SPANS").then(|| "7".into()));
/// assert_eq!(builder.settings()?.exporter.buffer.max_spans, 5_000, "code beats the environment");
/// # Ok::<(), telemetry_manager::SetupError>(())
/// ```
#[must_use = "nothing happens before `build`"]
pub struct Builder {
    vars: Box<Vars>,
    /// The names of the variables, where they can be listed.
    names: Box<Names>,
    code: Code,
    default_service_name: Option<String>,
    attributes: Vec<KeyValue>,
    transport: otlp_transport::ConfigBuilder,
    primary: Option<Arc<dyn Transport>>,
    exporter: Box<Adjust>,
    sampler: Option<Box<dyn ShouldSample>>,
    globals: bool,
    /// The switch in front of the first collector's transport.
    faults: Faults,
    /// About the settings as they were resolved last, also where some were refused.
    warnings: Vec<Warning>,
}

/// Answers with the value of the variable of a name.
type Vars = dyn Fn(&str) -> Option<OsString> + Send;
/// Lists the names of the variables.
type Names = dyn Fn() -> Vec<OsString> + Send;
/// Changes the exporter's builder after all settings.
type Adjust = dyn Fn(resilient_exporter::Builder) -> resilient_exporter::Builder + Send;

impl Default for Builder {
    fn default() -> Self {
        Self {
            vars: Box::new(|name| std::env::var_os(name)),
            names: Box::new(|| std::env::vars_os().map(|(name, _)| name).collect()),
            code: Code::default(),
            default_service_name: None,
            attributes: Vec::new(),
            transport: otlp_transport::Config::builder(),
            primary: None,
            exporter: Box::new(|exporter| exporter),
            sampler: None,
            globals: true,
            faults: Faults::default(),
            warnings: Vec::new(),
        }
    }
}

/// The source of the variables, and the use of the result.
impl Builder {
    /// Reads variables from `vars` instead of the environment of the process. `|_| None` ignores the environment. Names
    /// that are nearly those of settings cannot be found this way: [`with_environment`](Self::with_environment) names
    /// them.
    pub fn with_vars(mut self, vars: impl Fn(&str) -> Option<OsString> + Send + 'static) -> Self {
        self.vars = Box::new(vars);
        self.names = Box::new(Vec::new);
        self
    }

    /// Reads variables from these names and values instead of the environment of the process.
    pub fn with_environment(
        mut self,
        vars: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Self {
        let vars: BTreeMap<OsString, OsString> =
            vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let names: Vec<OsString> = vars.keys().cloned().collect();
        self.vars = Box::new(move |name| vars.get(OsStr::new(name)).cloned());
        self.names = Box::new(move || names.clone());
        self
    }

    /// Sets whether the tracer provider and the propagators become the global ones of `opentelemetry`; true by default.
    pub fn with_globals(mut self, globals: bool) -> Self {
        self.globals = globals;
        self
    }

    /// Changes the settings after the environment was read.
    fn change(mut self, change: impl Fn(&mut Settings) + Send + 'static) -> Self {
        self.code.changes.push(Box::new(change));
        self
    }

    /// The same, and leaves the variables of the rows with this [`Setting::builder`](crate::Setting::builder) unread.
    fn give(mut self, row: &'static str, change: impl Fn(&mut Settings) + Send + 'static) -> Self {
        self.code.given.insert(row);
        self.change(change)
    }
}

/// The service.
impl Builder {
    /// Disables all telemetry; false by default. Beats `OTEL_SDK_DISABLED`.
    pub fn with_sdk_disabled(self, disabled: bool) -> Self {
        self.give("with_sdk_disabled", move |settings| settings.sdk_disabled = disabled)
    }

    /// Sets `service.name`. Beats `OTEL_SERVICE_NAME`.
    pub fn with_service_name(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.give("with_service_name", move |settings| settings.service_name.clone_from(&name))
    }

    /// Sets `service.name` where neither code nor the environment gives one; `unknown_service:` and the name of the
    /// program by default.
    pub fn with_default_service_name(mut self, name: impl Into<String>) -> Self {
        self.default_service_name = Some(name.into());
        self
    }

    /// Sets `service.version`. Beats `OTEL_SERVICE_VERSION`.
    pub fn with_service_version(self, version: impl Into<String>) -> Self {
        let version = version.into();
        self.give("with_service_version", move |settings| settings.service_version = Some(version.clone()))
    }

    /// Adds attributes of the resource. Each beats one of the same key in `OTEL_RESOURCE_ATTRIBUTES`.
    pub fn with_resource_attributes(mut self, attributes: impl IntoIterator<Item = KeyValue>) -> Self {
        self.attributes.extend(attributes);
        self
    }
}

/// The collector.
impl Builder {
    /// Sets whether spans are exported. Beats `OTEL_TRACES_EXPORTER`.
    pub fn with_traces_exporter(self, exporter: TracesExporter) -> Self {
        self.give("with_traces_exporter", move |settings| settings.traces_exporter = exporter)
    }

    /// Sets the collector's URL. Over HTTP, `/v1/traces` is appended. Beats `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn with_endpoint(mut self, url: impl Into<String>) -> Self {
        self.transport = self.transport.with_endpoint(url);
        self
    }

    /// Sets the protocol; HTTP/protobuf is the default for an endpoint on port 4318. Beats
    /// `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.transport = self.transport.with_protocol(protocol);
        self
    }

    /// Adds a header to every request, its value as it is sent. Beats the same name in `OTEL_EXPORTER_OTLP_HEADERS`.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.transport = self.transport.with_header(name, value);
        self
    }

    /// Sets a file of headers that is read again when it has changed. Beats `TELEMETRY_HEADERS_FILE`; takes the place
    /// of [`with_credentials`](Self::with_credentials).
    pub fn with_headers_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.transport = self.transport.with_headers_file(path);
        self
    }

    /// Sets a provider of headers that change: tokens that expire, signatures over each request. Takes the place of
    /// [`with_headers_file`](Self::with_headers_file) and of `TELEMETRY_HEADERS_FILE`.
    pub fn with_credentials(mut self, credentials: Arc<dyn otlp_transport::Credentials>) -> Self {
        self.transport = self.transport.with_credentials(credentials);
        self
    }

    /// Bounds one request. Beats `OTEL_EXPORTER_OTLP_TIMEOUT`.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.transport = self.transport.with_timeout(timeout);
        self
    }

    /// Sets whether a gRPC endpoint without a scheme is called without TLS. Beats `OTEL_EXPORTER_OTLP_INSECURE`.
    pub fn with_insecure(mut self, insecure: bool) -> Self {
        self.transport = self.transport.with_insecure(insecure);
        self
    }

    /// Sets the PEM file of the authorities that may have signed the collector's certificate. Beats
    /// `OTEL_EXPORTER_OTLP_CERTIFICATE`.
    pub fn with_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.transport = self.transport.with_certificate(path);
        self
    }

    /// Sets the PEM file of the certificate that this program shows. Beats `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`.
    pub fn with_client_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.transport = self.transport.with_client_certificate(path);
        self
    }

    /// Sets the PEM file of the private key of that certificate. Beats `OTEL_EXPORTER_OTLP_CLIENT_KEY`.
    pub fn with_client_key(mut self, path: impl Into<PathBuf>) -> Self {
        self.transport = self.transport.with_client_key(path);
        self
    }

    /// Sets the proxy that requests go through, `http[s]://[user:password@]host:port`. Beats `HTTPS_PROXY`,
    /// `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    pub fn with_proxy(mut self, url: impl Into<String>) -> Self {
        self.transport = self.transport.with_proxy(url);
        self
    }

    /// Sends without a proxy, whatever these variables say.
    pub fn without_proxy(mut self) -> Self {
        self.transport = self.transport.without_proxy();
        self
    }

    /// Sets the compression of requests. Beats `OTEL_EXPORTER_OTLP_COMPRESSION`.
    pub fn with_compression(mut self, compression: otlp_transport::Compression) -> Self {
        self.transport = self.transport.with_compression(compression);
        self
    }

    /// Sets the age at which a connection to the collector is replaced. Beats `TELEMETRY_CONNECTION_MAX_AGE`.
    pub fn with_connection_max_age(self, age: Duration) -> Self {
        self.give("with_connection_max_age", move |settings| settings.connection_max_age = age)
    }

    /// Names the vendor that receives the spans, by a word of `docs/vendors.md`: its documented sizes of requests hold
    /// where none are set. Beats `TELEMETRY_VENDOR` and the host of the endpoint.
    pub fn with_vendor(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.give("with_vendor", move |settings| settings.vendor = Some(name.clone()))
    }

    /// Sets the largest answer that is read, in bytes. Beats `TELEMETRY_RESPONSE_MAX_BYTES`.
    pub fn with_response_max_bytes(self, bytes: usize) -> Self {
        self.give("with_response_max_bytes", move |settings| settings.response_max_bytes = bytes)
    }

    /// Sends by a [`Transport`] of your own instead of our OTLP transport, or by any [`SpanExporter`] through an
    /// adapter that cannot tell its errors apart (see [`resilient_exporter::Builder::with_primary`]). Endpoint,
    /// protocol, headers, time-out and compression do not apply then.
    ///
    /// [`SpanExporter`]: opentelemetry_sdk::trace::SpanExporter
    pub fn with_primary<Kind>(mut self, primary: impl IntoPrimary<Kind>) -> Self {
        self.primary = Some(primary.into_primary());
        self
    }

    /// Changes the exporter's builder after all settings: a breaker, a backoff, a fallback or a clock of your own, and
    /// settings without a variable. Called again for each directory that cannot be used.
    pub fn with_exporter(
        mut self,
        adjust: impl Fn(resilient_exporter::Builder) -> resilient_exporter::Builder + Send + 'static,
    ) -> Self {
        self.exporter = Box::new(adjust);
        self
    }
}

/// The collectors behind it.
impl Builder {
    /// Sets the collectors that take over, in this order, while those before them are unavailable: URLs, or
    /// [`FailoverEndpoint`](otlp_transport::FailoverEndpoint)s with settings of their own. An empty list is for none.
    /// Beats `TELEMETRY_FAILOVER_ENDPOINTS`.
    ///
    /// ```
    /// use telemetry_manager::OpenTelemetryManager;
    /// use telemetry_manager::otlp_transport::FailoverEndpoint;
    ///
    /// let other = FailoverEndpoint::new("https://otlp.vendor.example:4317").with_headers_file("/run/secrets/vendor");
    /// let mut builder = OpenTelemetryManager::builder()
    ///     .with_endpoint("http://collector-a:4317")
    ///     .with_failover_endpoints(["http://collector-b:4317".into(), other])
    ///     .with_vars(|_| None);
    /// assert_eq!(builder.settings()?.failover[0].endpoint(), "http://collector-b:4317");
    /// # Ok::<(), telemetry_manager::SetupError>(())
    /// ```
    pub fn with_failover_endpoints(
        mut self,
        endpoints: impl IntoIterator<Item = impl Into<otlp_transport::FailoverEndpoint>>,
    ) -> Self {
        self.transport = self.transport.with_failover_endpoints(endpoints);
        self
    }

    /// Sets one more such collector, the last one, which has the headers and the client certificate of the first one on
    /// any host, but never over plain HTTP where the first one has TLS. Beats `OTEL_EXPORTER_OTLP_FALLBACK_ENDPOINT`
    /// and `OTEL_EXPORTER_OTLP_TRACES_FALLBACK_ENDPOINT`.
    pub fn with_fallback_endpoint(mut self, url: impl Into<String>) -> Self {
        self.transport = self.transport.with_fallback_endpoint(url);
        self
    }
}

/// Traces.
impl Builder {
    /// Sets the sampler. Beats `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`; [`Settings`] does not show it.
    pub fn with_sampler(mut self, sampler: impl ShouldSample + 'static) -> Self {
        self.sampler = Some(Box::new(sampler));
        self.give("with_sampler", |_| {})
    }

    /// Sets the span processor; [`TracesProcessor::Resilient`] by default. Beats `TELEMETRY_PROCESSOR`.
    pub fn with_processor(self, processor: TracesProcessor) -> Self {
        self.give("with_processor", move |settings| settings.processor = processor)
    }

    /// Sets the formats that carry the trace across process borders. Beats `OTEL_PROPAGATORS`.
    pub fn with_propagators(self, propagators: impl IntoIterator<Item = Propagator>) -> Self {
        let propagators = propagators.into_iter().collect::<Vec<_>>();
        self.give("with_propagators", move |settings| settings.propagators.clone_from(&propagators))
    }

    /// Sets the longest text in an attribute, in characters; `None` for no limit. Beats
    /// `OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`.
    pub fn with_attribute_value_length_limit(self, characters: Option<u32>) -> Self {
        self.give("with_attribute_value_length_limit", move |settings| {
            settings.exporter.attribute_value_length_limit = characters;
        })
    }

    /// The same for attributes of spans, their events and links alone, where `Some`. Beats
    /// `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT`.
    pub fn with_span_attribute_value_length_limit(self, characters: Option<u32>) -> Self {
        self.give("with_span_attribute_value_length_limit", move |settings| {
            settings.exporter.span_attribute_value_length_limit = characters;
        })
    }

    /// Sets the limits on the numbers of attributes, events and links. Beats all of the `OTEL_*_COUNT_LIMIT`.
    pub fn with_span_limits(self, limits: SpanLimits) -> Self {
        self.give("with_span_limits", move |settings| settings.span_limits = limits)
    }
}

/// Declares the methods that change one struct of the settings each.
macro_rules! structs {
    ($($(#[$doc:meta])* $($field:ident).+, $group:ident: $struct:ident;)+) => {
        /// The span processor and the exporter: each method changes the settings of one struct, whose fields
        /// `docs/settings.md` lists. Changes beat the environment; a variable of a field that a closure sets to the
        /// default is still checked.
        impl Builder {$(
            $(#[$doc])*
            pub fn $group(self, change: impl Fn(&mut $struct) + Send + 'static) -> Self {
                self.change(move |settings| change(&mut settings.$($field).+))
            }
        )+}
    };
}

structs! {
    /// Changes settings of the batches of the span processor.
    batch, batch: Batch;
    /// Changes settings of the buffer in memory.
    exporter.buffer, buffer: Buffer;
    /// Changes settings of the circuit breaker.
    exporter.circuit_breaker, circuit_breaker: Breaker;
    /// Changes settings of the moves to other collectors and back.
    exporter.failover, failover: Failover;
    /// Changes settings of the retries.
    exporter.retry, retry: Retry;
    /// Changes settings of a request. The manager raises the default of [`Requests::attempt_timeout`] to twice the
    /// transport's time-out, also where the closure sets the field to its default: it cannot tell such a closure from
    /// one that leaves the field.
    exporter.request, request: Requests;
    /// Changes settings of the fallback files.
    exporter.fallback, fallback: Files;
    /// Changes settings of durable mode.
    exporter.journal, journal: Durability;
    /// Changes settings of dead letters.
    exporter.dead_letter, dead_letter: DeadLetters;
    /// Changes settings of the replay.
    exporter.replay, replay: Replay;
    /// Changes settings of the exporter's shutdown.
    exporter.shutdown, shutdown: Shutdown;
    /// Changes settings of the exporter's threads.
    exporter.threads, threads: Threads;
}

/// Requests at a time, refusals and directories.
impl Builder {
    /// Sets the number of requests to the collector at a time, at most; 8 by default. Beats
    /// `TELEMETRY_MAX_CONCURRENCY`.
    pub fn with_max_concurrency(self, requests: usize) -> Self {
        self.give("with_max_concurrency", move |settings| settings.exporter.max_concurrency = requests)
    }

    /// Sets the longest time from the end of a span to its sending; `None` for no limit. Beats
    /// `TELEMETRY_MAX_AGE_AT_SEND`.
    pub fn with_max_age_at_send(self, age: Option<Duration>) -> Self {
        self.give("with_max_age_at_send", move |settings| settings.exporter.max_age_at_send = age)
    }

    /// Sets whether each outage of the collector makes a span `holdfast.outage` once it has ended; false by default.
    /// Beats `TELEMETRY_OUTAGE_SPAN`.
    pub fn with_outage_span(self, enabled: bool) -> Self {
        self.give("with_outage_span", move |settings| settings.exporter.outage_span = enabled)
    }

    /// Sets the treatment of batches that the collector refuses. Beats `TELEMETRY_REFUSED`.
    pub fn with_refused(self, refused: Refused) -> Self {
        self.give("with_refused", move |settings| settings.exporter.refused = refused)
    }

    /// Sets the directory for everything that outlives the process. Beats `TELEMETRY_STATE_DIR`.
    pub fn with_state_dir(self, dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        self.give("with_state_dir", move |settings| settings.exporter.state_dir = Some(dir.clone()))
    }

    /// Sets whether storage that cannot be used is an error of [`build`](Self::build); false by default. Beats
    /// `TELEMETRY_STATE_DIR_REQUIRED`.
    pub fn with_state_dir_required(self, required: bool) -> Self {
        self.give("with_state_dir_required", move |settings| settings.exporter.state_dir_required = required)
    }

    /// Sets the bytes of the volume that files and journal leave free. Beats `TELEMETRY_FREE_SPACE_RESERVE`.
    pub fn with_free_space_reserve(self, bytes: u64) -> Self {
        self.give("with_free_space_reserve", move |settings| settings.exporter.free_space_reserve = bytes)
    }

    /// Sets [`Files::dir`]. Beats `TELEMETRY_FALLBACK_DIR`.
    pub fn with_fallback_dir(self, dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        self.give("fallback.dir", move |settings| settings.exporter.fallback.dir = Some(dir.clone()))
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("given", &self.code.given)
            .field("transport", &self.transport)
            .field("globals", &self.globals)
            .finish_non_exhaustive()
    }
}
