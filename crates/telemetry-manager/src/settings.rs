//! What telemetry is set to: code beats the environment, which beats the defaults.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use opentelemetry_sdk::trace::{Sampler, SpanLimits};
use resilient_exporter::{Compression, FallbackFormat, SyncPolicy};

use crate::error::{InvalidSetting, SetupError};

mod docs;
mod reader;
mod resource_list;
mod state_dir;
mod summary;
pub(crate) mod table;
mod value;

pub use docs::settings_markdown;
pub use reader::Warning;
pub(crate) use reader::{Given, Overrides};
pub use state_dir::StateDir;
pub use table::{Bare, Group, Kind, OnBad, SETTINGS, Setting};

use reader::Reader;
use table::*;

/// Every setting, checked. Made by [`Settings::from_vars`] or by the builder of the manager.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Whether there is no telemetry at all.
    pub sdk_disabled: bool,
    /// `service.name`.
    pub service_name: String,
    /// `service.version`.
    pub service_version: Option<String>,
    /// What `OTEL_RESOURCE_ATTRIBUTES` lists, decoded, in its order.
    pub resource_attributes: Vec<(String, String)>,
    /// Whether spans are exported.
    pub traces_exporter: TracesExporter,
    /// Where to and how: endpoint, protocol, headers, time-out, compression.
    pub transport: otlp_transport::Config,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// How the trace crosses process borders, in order; empty for none.
    pub propagators: Vec<Propagator>,
    /// Limits on what one span holds.
    pub span_limits: SpanLimits,
    /// The SDK's batch processor.
    pub batch: BatchSettings,
    /// The circuit breaker.
    pub breaker: BreakerSettings,
    /// Retries of one batch.
    pub retry: RetrySettings,
    /// The buffer in memory.
    pub buffer: BufferSettings,
    /// Where everything that outlives the process is kept; `None` means memory only.
    pub state_dir: Option<StateDir>,
    /// The journal of what is in memory.
    pub journal: JournalSettings,
    /// Files until the collector is back.
    pub fallback: FallbackSettings,
    /// What the collector refused for good.
    pub dead_letters: DeadLetterSettings,
    /// Spans a second that are sent from files; `None` is unlimited.
    pub replay_rate: Option<NonZeroU32>,
    pub(crate) warnings: Vec<Warning>,
}

/// Whether spans are exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TracesExporter {
    /// Over OTLP, by the resilient exporter.
    Otlp,
    /// Not at all: spans exist for propagation only.
    None,
}

/// How the trace crosses process borders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Propagator {
    /// W3C Trace Context: `traceparent` and `tracestate`.
    TraceContext,
    /// W3C Baggage: `baggage`.
    Baggage,
}

/// Settings of the SDK's batch processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BatchSettings {
    /// Longest time between two batches.
    pub schedule_delay: Duration,
    /// Spans that wait in front of the exporter.
    pub max_queue_size: usize,
    /// Spans a batch.
    pub max_export_batch_size: usize,
}

/// Settings of the circuit breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub failure_threshold: u32,
    /// How long it stays open.
    pub recovery_timeout: Duration,
    /// Probes at a time while half-open.
    pub half_open_probes: u32,
    /// Successful probes that close it.
    pub half_open_successes: u32,
}

/// Settings of the retries of one batch.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct RetrySettings {
    /// Retries while the breaker is closed.
    pub max_retries: u32,
    /// Wait before the first.
    pub initial_delay: Duration,
    /// Growth from one to the next.
    pub multiplier: f64,
    /// Longest wait.
    pub max_delay: Duration,
    /// Share by which a wait varies.
    pub jitter: f64,
}

/// Settings of the buffer in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BufferSettings {
    /// Spans at most.
    pub max_spans: usize,
    /// Bytes at most.
    pub max_bytes: usize,
    /// Longest stay.
    pub max_age: Duration,
}

/// Settings of the journal: durable mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct JournalSettings {
    /// Whether there is one.
    pub enabled: bool,
    /// When it is synced, which is what a power cut may take.
    pub sync: SyncPolicy,
    /// How long a batch waits for it at most.
    pub sync_timeout: Duration,
}

/// Settings of the files until the collector is back.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FallbackSettings {
    /// Whether there are files at all.
    pub enabled: bool,
    /// Where, if not below the state directory.
    pub dir: Option<PathBuf>,
    /// Bytes on disk at most.
    pub max_bytes: u64,
    /// Longest stay.
    pub max_age: Duration,
    /// What new files hold.
    pub format: FallbackFormat,
    /// How large files are compressed.
    pub compression: Compression,
    /// What is large, in bytes.
    pub compress_above: usize,
}

/// Settings of what the collector refused for good. It is kept where there are files at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeadLetterSettings {
    /// Bytes on disk at most.
    pub max_bytes: u64,
    /// Longest stay.
    pub max_age: Duration,
}

impl Settings {
    /// Reads every setting from `vars`, which answers for a variable's name with its value. Touches neither the
    /// environment of the process nor the file system.
    ///
    /// What is ignored stands in [`Settings::warnings`]. The default service name is `unknown_service`; only the builder
    /// adds the name of the program.
    ///
    /// # Errors
    ///
    /// If a setting that must not be guessed has a value that is not accepted: endpoint, headers, TLS, directories and
    /// everything that decides what survives an outage.
    pub fn from_vars(vars: impl Fn(&str) -> Option<OsString>) -> Result<Self, SetupError> {
        Self::resolve(&vars, &Overrides::new(), otlp_transport::Config::builder(), UNKNOWN_SERVICE)
    }

    /// What was ignored, and what holds instead.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    pub(crate) fn resolve(
        vars: &dyn Fn(&str) -> Option<OsString>,
        overrides: &Overrides,
        transport: otlp_transport::ConfigBuilder,
        default_service_name: &str,
    ) -> Result<Self, SetupError> {
        let mut reader = Reader::new(vars, overrides);
        let r = &mut reader;

        let sdk_disabled = r.bool(&SDK_DISABLED);
        let resource_attributes = resource_list::read(r);
        let listed = |key: &str| resource_attributes.iter().rfind(|(k, _)| k == key).map(|(_, value)| value.clone());
        let service_name = r.text(&SERVICE_NAME).or_else(|| listed("service.name")).filter(|name| !name.is_empty());
        let service_name = service_name.unwrap_or_else(|| default_service_name.to_owned());
        let service_version = r.text(&SERVICE_VERSION).or_else(|| listed("service.version"));
        let traces_exporter = traces_exporter(r);
        let request_max_bytes = r.bytes_usize(&REQUEST_MAX_BYTES);
        let sampler = sampler(r);
        let propagators = propagators(r);
        let span_limits = span_limits(r);
        let batch = batch(r);
        let breaker = BreakerSettings {
            failure_threshold: r.count_u32(&BREAKER_FAILURE_THRESHOLD),
            recovery_timeout: r.duration(&BREAKER_RECOVERY_TIMEOUT),
            half_open_probes: r.count_u32(&BREAKER_HALF_OPEN_PROBES),
            half_open_successes: r.count_u32(&BREAKER_HALF_OPEN_SUCCESSES),
        };
        let retry = retry(r);
        let buffer = BufferSettings {
            max_spans: r.count_usize(&BUFFER_MAX_SPANS),
            max_bytes: r.bytes_usize(&BUFFER_MAX_BYTES),
            max_age: r.duration(&BUFFER_MAX_AGE),
        };
        let journal = JournalSettings {
            enabled: r.bool(&JOURNAL_ENABLED),
            sync: journal_sync(r),
            sync_timeout: r.duration(&JOURNAL_SYNC_TIMEOUT),
        };
        let fallback = fallback(r);
        let dead_letters = DeadLetterSettings {
            max_bytes: r.bytes(&DEAD_LETTER_MAX_BYTES),
            max_age: r.duration(&DEAD_LETTER_MAX_AGE),
        };
        let state_dir = state_dir::read(r, &service_name);
        if fallback.enabled && fallback.dir.is_none() && state_dir.is_none() && !sdk_disabled {
            let message = format!(
                "none of {}, XDG_STATE_HOME and HOME names a directory: spans are kept in memory only and are lost when \
                 the buffer overflows; set {}, or {}=false if that is intended",
                STATE_DIR.name, STATE_DIR.name, FALLBACK_ENABLED.name
            );
            r.warn(STATE_DIR.name, message);
        }
        let replay_rate = r.rate(&REPLAY_RATE).and_then(NonZeroU32::new);
        not_supported(r);

        let Reader { mut warnings, errors, .. } = reader;
        if !errors.is_empty() {
            return Err(SetupError::Settings(errors));
        }
        let transport = transport.with_max_request_bytes(request_max_bytes).build_over(vars)?;
        warnings.extend(transport.notes().iter().map(|note| Warning { setting: ENDPOINT.name, message: note.clone() }));
        Ok(Self {
            sdk_disabled,
            service_name,
            service_version,
            resource_attributes,
            traces_exporter,
            transport,
            sampler,
            propagators,
            span_limits,
            batch,
            breaker,
            retry,
            buffer,
            state_dir,
            journal,
            fallback,
            dead_letters,
            replay_rate,
            warnings,
        })
    }

    /// Whether this asks for a directory and there is none.
    pub(crate) fn lacks_directory(&self) -> bool {
        self.fallback.enabled && self.fallback.dir.is_none() && self.state_dir.is_none()
    }
}

/// The specification's default (resource SDK, "SDK-provided resource attributes").
pub(crate) const UNKNOWN_SERVICE: &str = "unknown_service";

fn traces_exporter(r: &mut Reader<'_>) -> TracesExporter {
    let list = r.text(&TRACES_EXPORTER).unwrap_or_default().to_ascii_lowercase();
    let words = || list.split(',').map(str::trim).filter(|word| !word.is_empty());
    let (exporter, used) = match (words().any(|word| word == "otlp"), words().any(|word| word == "none")) {
        (false, true) => (TracesExporter::None, "none"),
        _ => (TracesExporter::Otlp, "otlp"),
    };
    for other in words().filter(|word| !["otlp", "none"].contains(word)) {
        let message = format!(
            "{} names {other:?}, which is left out: {used} is used; accepted is {}",
            TRACES_EXPORTER.name,
            TRACES_EXPORTER.accepted()
        );
        r.warn(TRACES_EXPORTER.name, message);
    }
    exporter
}

fn sampler(r: &mut Reader<'_>) -> Sampler {
    let parent_based = |root| Sampler::ParentBased(Box::new(root));
    match r.choice(&SAMPLER).as_str() {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => Sampler::TraceIdRatioBased(r.factor(&SAMPLER_ARG)),
        "parentbased_always_off" => parent_based(Sampler::AlwaysOff),
        "parentbased_traceidratio" => parent_based(Sampler::TraceIdRatioBased(r.factor(&SAMPLER_ARG))),
        _ => parent_based(Sampler::AlwaysOn),
    }
}

fn propagators(r: &mut Reader<'_>) -> Vec<Propagator> {
    let list = r.text(&PROPAGATORS).unwrap_or_default().to_ascii_lowercase();
    let mut found = Vec::new();
    let mut none = false;
    for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let propagator = match word {
            "tracecontext" => Propagator::TraceContext,
            "baggage" => Propagator::Baggage,
            "none" => {
                none = true;
                continue;
            }
            other => {
                let message = format!(
                    "{} names {other:?}, which is left out; accepted is {}",
                    PROPAGATORS.name,
                    PROPAGATORS.accepted()
                );
                r.warn(PROPAGATORS.name, message);
                continue;
            }
        };
        if !found.contains(&propagator) {
            found.push(propagator);
        }
    }
    match (found.is_empty(), none) {
        (false, _) => found,
        (true, true) => Vec::new(),
        (true, false) => vec![Propagator::TraceContext, Propagator::Baggage],
    }
}

fn span_limits(r: &mut Reader<'_>) -> SpanLimits {
    let general = r.count_u32(&ATTRIBUTE_COUNT_LIMIT);
    let mut attributes = |setting: &Setting| match r.raw(setting.name) {
        Some(_) => r.count_u32(setting),
        None => general,
    };
    let max_attributes_per_span = attributes(&SPAN_ATTRIBUTE_COUNT_LIMIT);
    let max_attributes_per_event = attributes(&EVENT_ATTRIBUTE_COUNT_LIMIT);
    let max_attributes_per_link = attributes(&LINK_ATTRIBUTE_COUNT_LIMIT);
    SpanLimits {
        max_attributes_per_span,
        max_events_per_span: r.count_u32(&SPAN_EVENT_COUNT_LIMIT),
        max_links_per_span: r.count_u32(&SPAN_LINK_COUNT_LIMIT),
        max_attributes_per_event,
        max_attributes_per_link,
    }
}

fn batch(r: &mut Reader<'_>) -> BatchSettings {
    let max_queue_size = r.count_usize(&BSP_MAX_QUEUE_SIZE);
    let mut max_export_batch_size = r.count_usize(&BSP_MAX_EXPORT_BATCH_SIZE);
    if max_export_batch_size > max_queue_size {
        // The default of 512 over a small queue needs no word; a number that somebody wrote does.
        if r.raw(BSP_MAX_EXPORT_BATCH_SIZE.name).is_some() || r.is_given_in_code(&BSP_MAX_EXPORT_BATCH_SIZE) {
            let message = format!(
                "{} of {max_export_batch_size} is above {} of {max_queue_size}, which is used for both",
                BSP_MAX_EXPORT_BATCH_SIZE.name, BSP_MAX_QUEUE_SIZE.name
            );
            r.warn(BSP_MAX_EXPORT_BATCH_SIZE.name, message);
        }
        max_export_batch_size = max_queue_size;
    }
    BatchSettings { schedule_delay: r.duration(&BSP_SCHEDULE_DELAY), max_queue_size, max_export_batch_size }
}

fn retry(r: &mut Reader<'_>) -> RetrySettings {
    let initial_delay = r.duration(&RETRY_INITIAL_DELAY);
    let mut max_delay = r.duration(&RETRY_MAX_DELAY);
    if max_delay < initial_delay {
        let message = format!(
            "{} of {} is shorter than {} of {}, which is used for both",
            RETRY_MAX_DELAY.name,
            value::format_duration(max_delay),
            RETRY_INITIAL_DELAY.name,
            value::format_duration(initial_delay)
        );
        r.warn(RETRY_MAX_DELAY.name, message);
        max_delay = initial_delay;
    }
    RetrySettings {
        max_retries: r.count_u32(&RETRY_MAX_RETRIES),
        initial_delay,
        multiplier: r.factor(&RETRY_MULTIPLIER),
        max_delay,
        jitter: r.factor(&RETRY_JITTER),
    }
}

fn journal_sync(r: &mut Reader<'_>) -> SyncPolicy {
    let text = r.text(&JOURNAL_SYNC).unwrap_or_default().to_ascii_lowercase();
    match text.as_str() {
        "" | "batch" => SyncPolicy::Batch,
        "never" => SyncPolicy::Never,
        other => {
            let accepted = Duration::from_millis(1)..=Duration::from_secs(3_600);
            match value::parse_duration(other, Bare::Seconds).filter(|interval| accepted.contains(interval)) {
                Some(interval) => SyncPolicy::Interval(interval),
                None if r.is_given_in_code(&JOURNAL_SYNC) => {
                    r.errors.push(InvalidSetting::in_code(&JOURNAL_SYNC, other.to_owned()));
                    SyncPolicy::Batch
                }
                None => {
                    r.refuse(&JOURNAL_SYNC, other);
                    SyncPolicy::Batch
                }
            }
        }
    }
}

fn fallback(r: &mut Reader<'_>) -> FallbackSettings {
    FallbackSettings {
        enabled: r.bool(&FALLBACK_ENABLED),
        dir: r.path(&FALLBACK_DIR),
        max_bytes: r.bytes(&FALLBACK_MAX_BYTES),
        max_age: r.duration(&FALLBACK_MAX_AGE),
        format: match r.choice(&FALLBACK_FORMAT).as_str() {
            "protobuf" => FallbackFormat::Protobuf,
            _ => FallbackFormat::Json,
        },
        compression: match r.choice(&FALLBACK_COMPRESSION).as_str() {
            "gzip" => Compression::Gzip,
            "never" => Compression::Never,
            _ => Compression::Zstd,
        },
        compress_above: r.bytes_usize(&FALLBACK_COMPRESS_ABOVE),
    }
}

/// Variables that change nothing here: a word about each that is set.
fn not_supported(r: &mut Reader<'_>) {
    for &(name, why) in NOT_SUPPORTED {
        if r.raw(name).is_some() {
            r.warn(name, format!("{name} has no effect: {why}"));
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
