//! Settings in code.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::trace::{ShouldSample, SpanLimits};
use otlp_transport::{Protocol, Transport};
use resilient_exporter::{Compression, FallbackFormat, IntoPrimary, SyncPolicy};

use crate::settings::table::*;
use crate::settings::{Given, Overrides, Propagator, Setting, TracesExporter};

mod assemble;

/// Settings of an [`OpenTelemetryManager`](crate::OpenTelemetryManager) in code. What is not set here comes from the environment, then from the
/// defaults of `docs/settings.md`; [`build`](Self::build) checks all of it.
#[must_use = "nothing happens before `build`"]
pub struct Builder {
    vars: Box<Vars>,
    overrides: Overrides,
    default_service_name: Option<String>,
    attributes: Vec<KeyValue>,
    transport: otlp_transport::ConfigBuilder,
    primary: Option<Arc<dyn Transport>>,
    exporter: Box<Adjust>,
    sampler: Option<Box<dyn ShouldSample>>,
    propagators: Option<Vec<Propagator>>,
    span_limits: Option<SpanLimits>,
    globals: bool,
}

/// Answers for the name of a variable with its value.
type Vars = dyn Fn(&str) -> Option<OsString> + Send;
/// The last word on the exporter.
type Adjust = dyn Fn(resilient_exporter::Builder) -> resilient_exporter::Builder + Send;

impl Default for Builder {
    fn default() -> Self {
        Self {
            vars: Box::new(|name| std::env::var_os(name)),
            overrides: Overrides::new(),
            default_service_name: None,
            attributes: Vec::new(),
            transport: otlp_transport::Config::builder(),
            primary: None,
            exporter: Box::new(|exporter| exporter),
            sampler: None,
            propagators: None,
            span_limits: None,
            globals: true,
        }
    }
}

/// Where settings come from, and what is done with the result.
impl Builder {
    /// Variables come from here; from the environment of the process by default. `|_| None` ignores it.
    pub fn with_vars(mut self, vars: impl Fn(&str) -> Option<OsString> + Send + 'static) -> Self {
        self.vars = Box::new(vars);
        self
    }

    /// Whether the tracer provider and the propagators become the global ones of `opentelemetry`; true by default.
    pub fn with_globals(mut self, globals: bool) -> Self {
        self.globals = globals;
        self
    }

    fn set(mut self, setting: &Setting, given: Given) -> Self {
        self.overrides.insert(setting.name, given);
        self
    }
}

/// The service.
impl Builder {
    /// No telemetry at all; false by default. Beats `OTEL_SDK_DISABLED`.
    pub fn with_sdk_disabled(self, disabled: bool) -> Self {
        self.set(&SDK_DISABLED, Given::Bool(disabled))
    }

    /// `service.name`. Beats `OTEL_SERVICE_NAME`.
    pub fn with_service_name(self, name: impl Into<String>) -> Self {
        self.set(&SERVICE_NAME, Given::Text(name.into()))
    }

    /// `service.name` where neither code nor the environment gives one; `unknown_service:` and the name of the program by
    /// default.
    pub fn with_default_service_name(mut self, name: impl Into<String>) -> Self {
        self.default_service_name = Some(name.into());
        self
    }

    /// `service.version`. Beats `OTEL_SERVICE_VERSION`.
    pub fn with_service_version(self, version: impl Into<String>) -> Self {
        self.set(&SERVICE_VERSION, Given::Text(version.into()))
    }

    /// Attributes of the resource; several calls add up. Each beats one of the same key in `OTEL_RESOURCE_ATTRIBUTES`.
    pub fn with_resource_attributes(mut self, attributes: impl IntoIterator<Item = KeyValue>) -> Self {
        self.attributes.extend(attributes);
        self
    }
}

/// The collector.
impl Builder {
    /// Whether spans are exported. Beats `OTEL_TRACES_EXPORTER`.
    pub fn with_traces_exporter(self, exporter: TracesExporter) -> Self {
        let word = match exporter {
            TracesExporter::Otlp => "otlp",
            TracesExporter::None => "none",
        };
        self.set(&TRACES_EXPORTER, Given::Text(word.to_owned()))
    }

    /// The collector's URL; `http://localhost:4317` by default. Over HTTP, `/v1/traces` is appended. Beats
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn with_endpoint(mut self, url: impl Into<String>) -> Self {
        self.transport = self.transport.with_endpoint(url);
        self
    }

    /// gRPC by default, HTTP/protobuf for an endpoint on port 4318. Beats `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.transport = self.transport.with_protocol(protocol);
        self
    }

    /// One header of every request, its value as it is sent; several calls add up. Beats the same name in
    /// `OTEL_EXPORTER_OTLP_HEADERS`.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.transport = self.transport.with_header(name, value);
        self
    }

    /// Bounds one request; 10 s by default. Beats `OTEL_EXPORTER_OTLP_TIMEOUT`.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.transport = self.transport.with_timeout(timeout);
        self
    }

    /// Whether a gRPC endpoint without a scheme is spoken to without TLS; false by default. Beats
    /// `OTEL_EXPORTER_OTLP_INSECURE`.
    pub fn with_insecure(mut self, insecure: bool) -> Self {
        self.transport = self.transport.with_insecure(insecure);
        self
    }

    /// Compression of requests; none by default. Beats `OTEL_EXPORTER_OTLP_COMPRESSION`.
    pub fn with_compression(mut self, compression: otlp_transport::Compression) -> Self {
        self.transport = self.transport.with_compression(compression);
        self
    }

    /// Largest request in bytes, 64 KiB to 64 MiB; 64 KiB below 4 MiB by default. Beats `TELEMETRY_REQUEST_MAX_BYTES`.
    pub fn with_request_max_bytes(self, bytes: u64) -> Self {
        self.set(&REQUEST_MAX_BYTES, Given::Bytes(bytes))
    }

    /// What sends instead of our own OTLP transport: a [`Transport`], or any [`SpanExporter`] through an adapter that
    /// cannot tell its errors apart (see [`resilient_exporter::Builder::with_primary`]). Endpoint, protocol, headers,
    /// time-out and compression do not apply then.
    ///
    /// [`SpanExporter`]: opentelemetry_sdk::trace::SpanExporter
    pub fn with_primary<Kind>(mut self, primary: impl IntoPrimary<Kind>) -> Self {
        self.primary = Some(primary.into_primary());
        self
    }

    /// The last word on the exporter: a breaker, a backoff, a fallback or a clock of your own, and whatever else has no
    /// variable. Called once, or twice where the default state directory cannot be used.
    pub fn with_exporter(
        mut self,
        adjust: impl Fn(resilient_exporter::Builder) -> resilient_exporter::Builder + Send + 'static,
    ) -> Self {
        self.exporter = Box::new(adjust);
        self
    }
}

/// Traces and batches.
impl Builder {
    /// Which traces are recorded; all that the parent does not decide otherwise by default. Beats `OTEL_TRACES_SAMPLER`.
    pub fn with_sampler(mut self, sampler: impl ShouldSample + 'static) -> Self {
        self.sampler = Some(Box::new(sampler));
        self
    }

    /// How the trace crosses process borders; trace context and baggage by default. Beats `OTEL_PROPAGATORS`.
    pub fn with_propagators(mut self, propagators: impl IntoIterator<Item = Propagator>) -> Self {
        self.propagators = Some(propagators.into_iter().collect());
        self
    }

    /// Limits on what one span holds, 128 of each by default. Beats all of the `OTEL_*_COUNT_LIMIT`.
    pub fn with_span_limits(mut self, limits: SpanLimits) -> Self {
        self.span_limits = Some(limits);
        self
    }

    /// Longest time between two batches, 1 ms to 1 h; 5 s by default. Beats `OTEL_BSP_SCHEDULE_DELAY`.
    pub fn with_schedule_delay(self, delay: Duration) -> Self {
        self.set(&BSP_SCHEDULE_DELAY, Given::Duration(delay))
    }

    /// Spans in front of the exporter, 1 to 1,000,000; 2,048 by default. Beats `OTEL_BSP_MAX_QUEUE_SIZE`.
    pub fn with_max_queue_size(self, spans: u64) -> Self {
        self.set(&BSP_MAX_QUEUE_SIZE, Given::Count(spans))
    }

    /// Spans a batch, 1 to 1,000,000 and at most what the queue holds; 512 by default. Beats
    /// `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
    pub fn with_max_export_batch_size(self, spans: u64) -> Self {
        self.set(&BSP_MAX_EXPORT_BATCH_SIZE, Given::Count(spans))
    }
}

/// The circuit breaker and the retries.
impl Builder {
    /// Failures in a row that open the breaker, 1 to 1,000,000; 5 by default. Beats `CIRCUIT_BREAKER_FAILURE_THRESHOLD`.
    pub fn with_circuit_breaker_threshold(self, failures: u32) -> Self {
        self.set(&BREAKER_FAILURE_THRESHOLD, Given::Count(failures.into()))
    }

    /// How long it stays open, 1 ms to 1 day; 60 s by default. Beats `CIRCUIT_BREAKER_RECOVERY_TIMEOUT`.
    pub fn with_circuit_breaker_timeout(self, timeout: Duration) -> Self {
        self.set(&BREAKER_RECOVERY_TIMEOUT, Given::Duration(timeout))
    }

    /// Probes at a time, 1 to 100; 1 by default. Beats `CIRCUIT_BREAKER_HALF_OPEN_PROBES`.
    pub fn with_half_open_probes(self, probes: u32) -> Self {
        self.set(&BREAKER_HALF_OPEN_PROBES, Given::Count(probes.into()))
    }

    /// Successful probes that close it, 1 to 100; 1 by default. Beats `CIRCUIT_BREAKER_HALF_OPEN_SUCCESSES`.
    pub fn with_half_open_successes(self, successes: u32) -> Self {
        self.set(&BREAKER_HALF_OPEN_SUCCESSES, Given::Count(successes.into()))
    }

    /// Retries of one batch, 0 to 1,000; 5 by default. Beats `TELEMETRY_RETRY_MAX_RETRIES`.
    pub fn with_retry_max_retries(self, retries: u32) -> Self {
        self.set(&RETRY_MAX_RETRIES, Given::Count(retries.into()))
    }

    /// Wait before the first retry, 1 ms to 1 h; 1 s by default. Beats `TELEMETRY_RETRY_INITIAL_DELAY`.
    pub fn with_retry_initial_delay(self, delay: Duration) -> Self {
        self.set(&RETRY_INITIAL_DELAY, Given::Duration(delay))
    }

    /// Growth of the wait, 1 to 100; 2 by default. Beats `TELEMETRY_RETRY_MULTIPLIER`.
    pub fn with_retry_multiplier(self, multiplier: f64) -> Self {
        self.set(&RETRY_MULTIPLIER, Given::Factor(multiplier))
    }

    /// Longest wait, 1 ms to 1 day; 20 s by default. Beats `TELEMETRY_RETRY_MAX_DELAY`.
    pub fn with_retry_max_delay(self, delay: Duration) -> Self {
        self.set(&RETRY_MAX_DELAY, Given::Duration(delay))
    }

    /// Share by which a wait varies, 0 to 1; 0.25 by default. Beats `TELEMETRY_RETRY_JITTER`.
    pub fn with_retry_jitter(self, share: f64) -> Self {
        self.set(&RETRY_JITTER, Given::Factor(share))
    }
}

/// The buffer and the files.
impl Builder {
    /// Spans in memory, 1 to 1,000,000,000; 10,000 by default. Beats `TELEMETRY_BUFFER_MAX_SPANS`.
    pub fn with_buffer_size(self, spans: u64) -> Self {
        self.set(&BUFFER_MAX_SPANS, Given::Count(spans))
    }

    /// Bytes in memory, 64 KiB to 1 TiB; 10 MiB by default. Beats `TELEMETRY_BUFFER_MAX_BYTES`.
    pub fn with_buffer_max_bytes(self, bytes: u64) -> Self {
        self.set(&BUFFER_MAX_BYTES, Given::Bytes(bytes))
    }

    /// Longest stay in memory, 1 s to 30 days; 5 min by default. Beats `TELEMETRY_BUFFER_MAX_AGE`.
    pub fn with_buffer_max_age(self, age: Duration) -> Self {
        self.set(&BUFFER_MAX_AGE, Given::Duration(age))
    }

    /// Where everything that outlives the process is kept. Beats `TELEMETRY_STATE_DIR`.
    pub fn with_state_dir(self, dir: impl Into<PathBuf>) -> Self {
        self.set(&STATE_DIR, Given::Path(dir.into()))
    }

    /// Whether spans go to files; true by default. Beats `TELEMETRY_FALLBACK_ENABLED`.
    pub fn with_fallback_enabled(self, enabled: bool) -> Self {
        self.set(&FALLBACK_ENABLED, Given::Bool(enabled))
    }

    /// Where these files are; below the state directory by default. Beats `TELEMETRY_FALLBACK_DIR`.
    pub fn with_fallback_dir(self, dir: impl Into<PathBuf>) -> Self {
        self.set(&FALLBACK_DIR, Given::Path(dir.into()))
    }

    /// Bytes on disk, 1 MiB to 1,024 TiB; 1 GiB by default. Beats `TELEMETRY_FALLBACK_MAX_BYTES`.
    pub fn with_fallback_max_bytes(self, bytes: u64) -> Self {
        self.set(&FALLBACK_MAX_BYTES, Given::Bytes(bytes))
    }

    /// Longest stay in a file, 1 min to 3,650 days; 7 days by default. Beats `TELEMETRY_FALLBACK_MAX_AGE`.
    pub fn with_fallback_max_age(self, age: Duration) -> Self {
        self.set(&FALLBACK_MAX_AGE, Given::Duration(age))
    }

    /// What new files hold; OTLP JSON by default. Files of either format are sent. Beats `TELEMETRY_FALLBACK_FORMAT`.
    pub fn with_fallback_format(self, format: FallbackFormat) -> Self {
        let word = match format {
            FallbackFormat::Protobuf => "protobuf",
            _ => "json",
        };
        self.set(&FALLBACK_FORMAT, Given::Text(word.to_owned()))
    }

    /// Compression of large files; zstd by default. Beats `TELEMETRY_FALLBACK_COMPRESSION`.
    pub fn with_fallback_compression(self, compression: Compression) -> Self {
        let word = match compression {
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
            _ => "never",
        };
        self.set(&FALLBACK_COMPRESSION, Given::Text(word.to_owned()))
    }

    /// What is large, in bytes, 0 to 1 GiB; 64 KiB by default. Beats `TELEMETRY_FALLBACK_COMPRESS_ABOVE`.
    pub fn with_fallback_compress_above(self, bytes: u64) -> Self {
        self.set(&FALLBACK_COMPRESS_ABOVE, Given::Bytes(bytes))
    }

    /// Whether a batch is in a journal on disk before it is accepted: durable mode; false by default. Beats `TELEMETRY_JOURNAL_ENABLED`.
    pub fn with_journal_enabled(self, enabled: bool) -> Self {
        self.set(&JOURNAL_ENABLED, Given::Bool(enabled))
    }

    /// When the journal is synced, which is what a power cut may take; [`SyncPolicy::Batch`] by default, an interval of 1 ms to 1 h.
    /// Beats `TELEMETRY_JOURNAL_SYNC`.
    pub fn with_journal_sync(self, policy: SyncPolicy) -> Self {
        let text = match policy {
            SyncPolicy::Batch => "batch".to_owned(),
            SyncPolicy::Interval(interval) => format!("{}ms", interval.as_millis()),
            SyncPolicy::Never => "never".to_owned(),
        };
        self.set(&JOURNAL_SYNC, Given::Text(text))
    }

    /// How long a batch waits for the journal, 1 ms to 1 min; 100 ms by default. Beats `TELEMETRY_JOURNAL_SYNC_TIMEOUT`.
    pub fn with_journal_sync_timeout(self, timeout: Duration) -> Self {
        self.set(&JOURNAL_SYNC_TIMEOUT, Given::Duration(timeout))
    }

    /// Bytes of dead letters on disk, 1 MiB to 1,024 TiB; 64 MiB by default. Beats `TELEMETRY_DEAD_LETTER_MAX_BYTES`.
    pub fn with_dead_letter_max_bytes(self, bytes: u64) -> Self {
        self.set(&DEAD_LETTER_MAX_BYTES, Given::Bytes(bytes))
    }

    /// Longest stay of a dead letter, 1 min to 3,650 days; 30 days by default. Beats `TELEMETRY_DEAD_LETTER_MAX_AGE`.
    pub fn with_dead_letter_max_age(self, age: Duration) -> Self {
        self.set(&DEAD_LETTER_MAX_AGE, Given::Duration(age))
    }

    /// Spans a second that are sent from files; `None`, the default, is unlimited. Beats `TELEMETRY_REPLAY_RATE`.
    pub fn with_replay_rate(self, spans_per_second: Option<NonZeroU32>) -> Self {
        self.set(&REPLAY_RATE, Given::Rate(spans_per_second.map(NonZeroU32::get)))
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("overrides", &self.overrides)
            .field("transport", &self.transport)
            .field("globals", &self.globals)
            .finish_non_exhaustive()
    }
}
