//! The one table of settings: the parser, the builder's checks and `docs/settings.md` all read it.

use std::time::Duration;

use super::value::{format_bytes, format_duration};

/// One setting: an environment variable, what it means, what it takes and what holds without it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// The builder method that beats it.
    pub builder: &'static str,
    /// The default, written as a user would write it; empty if there is none.
    pub default: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What a value that is not accepted leads to.
    pub on_bad: OnBad,
    /// What it decides, one or two sentences.
    pub meaning: &'static str,
    /// The heading it stands under in `docs/settings.md`.
    pub group: Group,
}

impl Setting {
    /// What is accepted, as the end of the sentence "accepted is ..".
    #[must_use]
    pub fn accepted(&self) -> String {
        match self.kind {
            Kind::Bool => "true or false".to_owned(),
            Kind::Count { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Rate => "a whole number from 1 to 4294967295, or unlimited".to_owned(),
            Kind::Factor { min, max } => format!("a number from {min} to {max}"),
            Kind::Bytes { min, max } => format!(
                "a size such as 512KiB, 10MiB or 1GiB, or a number of bytes, from {} to {}",
                format_bytes(min),
                format_bytes(max)
            ),
            Kind::Duration { bare, min, max } => format!(
                "a duration such as 250ms, 5s, 5m or 1h30m, or a number of {}, from {} to {}",
                bare.plural(),
                format_duration(min),
                format_duration(max)
            ),
            Kind::Choice(choices) => {
                let (last, others) = choices.split_last().expect("no choice without two values");
                format!("{} or {last}", others.join(", "))
            }
            Kind::Path => "a path of a directory that no other user can write to".to_owned(),
            Kind::Text(accepted) => accepted.to_owned(),
        }
    }
}

/// What a setting takes. Ranges include both ends.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// `true` or `false` in any case.
    Bool,
    /// A whole number.
    Count {
        /// Smallest accepted.
        min: u64,
        /// Largest accepted.
        max: u64,
    },
    /// A whole number of spans a second from 1, or `unlimited`.
    Rate,
    /// A number with or without decimals.
    Factor {
        /// Smallest accepted.
        min: f64,
        /// Largest accepted.
        max: f64,
    },
    /// A size in bytes, `KiB`, `MiB`, `GiB`, `TiB` or the decimal `kB` to `TB`.
    Bytes {
        /// Smallest accepted, in bytes.
        min: u64,
        /// Largest accepted, in bytes.
        max: u64,
    },
    /// A duration with the units `ms`, `s`, `m`, `h`, `d`, or a bare number.
    Duration {
        /// What a number without a unit means.
        bare: Bare,
        /// Shortest accepted.
        min: Duration,
        /// Longest accepted.
        max: Duration,
    },
    /// One of a few words, in any case.
    Choice(&'static [&'static str]),
    /// A directory. It need not be Unicode.
    Path,
    /// Text with rules of its own, described here.
    Text(&'static str),
}

/// The unit of a duration without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bare {
    /// Seconds: in our own variables.
    Seconds,
    /// Milliseconds: in `OTEL_*`, as the OpenTelemetry specification has it.
    Milliseconds,
}

impl Bare {
    const fn plural(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
        }
    }
}

/// What a value that is not accepted leads to, when it comes from the environment. From code it is always an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnBad {
    /// One warning; the default holds.
    Default,
    /// Setup fails: guessing would send telemetry elsewhere, lose it or expose it.
    Error,
}

/// The headings of `docs/settings.md`, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Group {
    /// Who sends, and whether at all.
    Service,
    /// Where to and how.
    Collector,
    /// Sampling, limits, propagation.
    Traces,
    /// The SDK's batch processor.
    Batches,
    /// The circuit breaker.
    Breaker,
    /// Retries of one batch.
    Retries,
    /// The memory buffer.
    Buffer,
    /// The journal of what is in memory.
    Journal,
    /// Files until the collector is back.
    Files,
}

impl Group {
    /// All headings, in order.
    pub const ALL: [Self; 9] = [
        Self::Service,
        Self::Collector,
        Self::Traces,
        Self::Batches,
        Self::Breaker,
        Self::Retries,
        Self::Buffer,
        Self::Journal,
        Self::Files,
    ];

    /// The heading.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Service => "The service",
            Self::Collector => "The collector",
            Self::Traces => "Traces",
            Self::Batches => "Batches",
            Self::Breaker => "The circuit breaker",
            Self::Retries => "Retries",
            Self::Buffer => "The buffer in memory",
            Self::Journal => "The journal: durable mode",
            Self::Files => "Files until the collector is back",
        }
    }
}

macro_rules! settings {
    ($($group:ident { $($id:ident: $name:literal, $builder:literal, $default:literal, $kind:expr, $on_bad:ident, $meaning:literal;)+ })+) => {
        $($(
            pub(crate) const $id: Setting = Setting {
                name: $name,
                builder: $builder,
                default: $default,
                kind: $kind,
                on_bad: OnBad::$on_bad,
                meaning: $meaning,
                group: Group::$group,
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

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}

const fn seconds(min_ms: u64, max_s: u64) -> Kind {
    Kind::Duration { bare: Bare::Seconds, min: Duration::from_millis(min_ms), max: Duration::from_secs(max_s) }
}

const fn milliseconds(min_ms: u64, max_s: u64) -> Kind {
    Kind::Duration { bare: Bare::Milliseconds, min: Duration::from_millis(min_ms), max: Duration::from_secs(max_s) }
}

settings! {
    Service {
        SDK_DISABLED: "OTEL_SDK_DISABLED", "with_sdk_disabled", "false", Kind::Bool, Default,
            "No telemetry at all: no thread, no file, no socket. Propagators stay in effect.";
        SERVICE_NAME: "OTEL_SERVICE_NAME", "with_service_name", "", Kind::Text("any text"), Default,
            "`service.name`; beats the one in the resource attributes. Without both: `unknown_service:` and the name of the program.";
        SERVICE_VERSION: "OTEL_SERVICE_VERSION", "with_service_version", "", Kind::Text("any text"), Default,
            "`service.version`; beats the one in the resource attributes. An addition of holdfast: the specification has no such variable.";
        RESOURCE_ATTRIBUTES: "OTEL_RESOURCE_ATTRIBUTES", "with_resource_attributes", "",
            Kind::Text("key=value pairs separated by commas, with percent-encoding for commas, equals signs and percent signs"), Default,
            "Attributes of the resource, `key=value` separated by commas, values percent-decoded. One bad entry discards the whole list, with a warning.";
    }
    Collector {
        TRACES_EXPORTER: "OTEL_TRACES_EXPORTER", "with_traces_exporter", "otlp", Kind::Choice(&["otlp", "none"]), Default,
            "`otlp` exports; `none` makes spans for propagation only: no thread, no file, no socket. `console` is not supported.";
        ENDPOINT: "OTEL_EXPORTER_OTLP_ENDPOINT", "with_endpoint", "http://localhost:4317",
            Kind::Text("a URL such as http://localhost:4317 (TLS is not built in yet)"), Error,
            "The collector. Over HTTP, `/v1/traces` is appended to it and the default is `http://localhost:4318`.";
        PROTOCOL: "OTEL_EXPORTER_OTLP_PROTOCOL", "with_protocol", "grpc", Kind::Text("grpc or http/protobuf"), Default,
            "`grpc` or `http/protobuf`. Unset with an endpoint on port 4318, it is `http/protobuf`, which is logged once.";
        HEADERS: "OTEL_EXPORTER_OTLP_HEADERS", "with_header", "",
            Kind::Text("key=value pairs separated by commas, values percent-encoded"), Error,
            "Sent with each request; `key=value` separated by commas, values percent-decoded. Values are secret and never shown.";
        TIMEOUT: "OTEL_EXPORTER_OTLP_TIMEOUT", "with_timeout", "10000", Kind::Text("a number of milliseconds from 1 to 3600000"), Default,
            "In milliseconds. Bounds one request. Shorter than the collector's pauses means duplicates: what timed out may have been stored.";
        INSECURE: "OTEL_EXPORTER_OTLP_INSECURE", "with_insecure", "false", Kind::Bool, Default,
            "Whether a gRPC endpoint without a scheme is spoken to without TLS.";
        COMPRESSION: "OTEL_EXPORTER_OTLP_COMPRESSION", "with_compression", "none", Kind::Text("none or gzip"), Default,
            "Compression of requests.";
        REQUEST_MAX_BYTES: "TELEMETRY_REQUEST_MAX_BYTES", "with_request_max_bytes", "4128768",
            Kind::Bytes { min: 64 * KIB, max: 64 * MIB }, Default,
            "Largest request, before compression; larger batches are split. The default is 64 KiB below the 4 MiB at which many collectors refuse.";
    }
    Traces {
        SAMPLER: "OTEL_TRACES_SAMPLER", "with_sampler", "parentbased_always_on",
            Kind::Choice(&["always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"]), Default,
            "Which traces are recorded.";
        SAMPLER_ARG: "OTEL_TRACES_SAMPLER_ARG", "with_sampler", "1", Kind::Factor { min: 0.0, max: 1.0 }, Default,
            "Share of traces for the two ratio samplers.";
        PROPAGATORS: "OTEL_PROPAGATORS", "with_propagators", "tracecontext,baggage",
            Kind::Text("tracecontext, baggage, both separated by a comma, or none"), Default,
            "How the trace crosses process borders. Others, such as `b3`, are warned about and left out.";
        ATTRIBUTE_COUNT_LIMIT: "OTEL_ATTRIBUTE_COUNT_LIMIT", "with_span_limits", "128", count(0, u32::MAX as u64), Default,
            "Attributes a span, event or link, where the variables below do not say otherwise.";
        SPAN_ATTRIBUTE_COUNT_LIMIT: "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "with_span_limits", "128", count(0, u32::MAX as u64), Default,
            "Attributes a span; more are dropped and counted in the span.";
        SPAN_EVENT_COUNT_LIMIT: "OTEL_SPAN_EVENT_COUNT_LIMIT", "with_span_limits", "128", count(0, u32::MAX as u64), Default,
            "Events a span.";
        SPAN_LINK_COUNT_LIMIT: "OTEL_SPAN_LINK_COUNT_LIMIT", "with_span_limits", "128", count(0, u32::MAX as u64), Default,
            "Links a span.";
        EVENT_ATTRIBUTE_COUNT_LIMIT: "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "with_span_limits", "128", count(0, u32::MAX as u64), Default,
            "Attributes an event.";
        LINK_ATTRIBUTE_COUNT_LIMIT: "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "with_span_limits", "128", count(0, u32::MAX as u64), Default,
            "Attributes a link.";
    }
    Batches {
        BSP_SCHEDULE_DELAY: "OTEL_BSP_SCHEDULE_DELAY", "with_schedule_delay", "5000", milliseconds(1, 3600), Default,
            "Longest time between two batches.";
        BSP_MAX_QUEUE_SIZE: "OTEL_BSP_MAX_QUEUE_SIZE", "with_max_queue_size", "2048", count(1, 1_000_000), Default,
            "Spans that wait in front of the exporter; memory for all of them is taken at start. More are dropped by the SDK.";
        BSP_MAX_EXPORT_BATCH_SIZE: "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "with_max_export_batch_size", "512", count(1, 1_000_000), Default,
            "Spans a batch; never more than the queue holds.";
    }
    Breaker {
        BREAKER_FAILURE_THRESHOLD: "CIRCUIT_BREAKER_FAILURE_THRESHOLD", "with_circuit_breaker_threshold", "5", count(1, 1_000_000), Default,
            "Failures in a row that open the breaker.";
        BREAKER_RECOVERY_TIMEOUT: "CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "with_circuit_breaker_timeout", "60", seconds(1, DAY), Default,
            "How long it stays open before a probe, plus up to 10 % so that fleets do not probe in step.";
        BREAKER_HALF_OPEN_PROBES: "CIRCUIT_BREAKER_HALF_OPEN_PROBES", "with_half_open_probes", "1", count(1, 100), Default,
            "Probes at a time while it is half-open.";
        BREAKER_HALF_OPEN_SUCCESSES: "CIRCUIT_BREAKER_HALF_OPEN_SUCCESSES", "with_half_open_successes", "1", count(1, 100), Default,
            "Successful probes that close it.";
    }
    Retries {
        RETRY_MAX_RETRIES: "TELEMETRY_RETRY_MAX_RETRIES", "with_retry_max_retries", "5", count(0, 1000), Default,
            "Retries of one batch while the breaker is closed; then it goes to a file, or back to the buffer if there is none. Outages do not count.";
        RETRY_INITIAL_DELAY: "TELEMETRY_RETRY_INITIAL_DELAY", "with_retry_initial_delay", "1s", seconds(1, 3600), Default,
            "Wait before the first retry.";
        RETRY_MULTIPLIER: "TELEMETRY_RETRY_MULTIPLIER", "with_retry_multiplier", "2", Kind::Factor { min: 1.0, max: 100.0 }, Default,
            "Growth of the wait from retry to retry.";
        RETRY_MAX_DELAY: "TELEMETRY_RETRY_MAX_DELAY", "with_retry_max_delay", "20s", seconds(1, DAY), Default,
            "Longest wait, jitter included; not below the first.";
        RETRY_JITTER: "TELEMETRY_RETRY_JITTER", "with_retry_jitter", "0.25", Kind::Factor { min: 0.0, max: 1.0 }, Default,
            "Share by which a wait varies, up and down.";
    }
    Buffer {
        BUFFER_MAX_SPANS: "TELEMETRY_BUFFER_MAX_SPANS", "with_buffer_size", "10000", count(1, 1_000_000_000), Default,
            "Spans in memory; over it, the oldest go to a file, or are dropped and counted if there is none.";
        BUFFER_MAX_BYTES: "TELEMETRY_BUFFER_MAX_BYTES", "with_buffer_max_bytes", "10MiB", Kind::Bytes { min: 64 * KIB, max: TIB }, Default,
            "Bytes of encoded spans in memory.";
        BUFFER_MAX_AGE: "TELEMETRY_BUFFER_MAX_AGE", "with_buffer_max_age", "5m", seconds(1000, 30 * DAY), Default,
            "Longest stay in memory.";
    }
    Journal {
        JOURNAL_ENABLED: "TELEMETRY_JOURNAL_ENABLED", "with_journal_enabled", "false", Kind::Bool, Error,
            "Durable mode: a batch is in a journal on disk before the exporter has accepted it, so that it survives `kill -9` and power cut. Needs a state directory; the journal is in `journal` below it.";
        JOURNAL_SYNC: "TELEMETRY_JOURNAL_SYNC", "with_journal_sync", "batch", Kind::Text("batch, never, or a duration such as 250ms or 5s, or a number of seconds, from 1ms to 1h"), Error,
            "What a power cut may take: with `batch` nothing that was accepted in time, with a duration what came in during that time, with `never` up to 8 MiB and what the system held back. `kill -9` takes nothing by any of them.";
        JOURNAL_SYNC_TIMEOUT: "TELEMETRY_JOURNAL_SYNC_TIMEOUT", "with_journal_sync_timeout", "100ms", seconds(1, 60), Error,
            "How long a batch waits for the disk, at most; then it is accepted all the same, and counted as accepted but not durable.";
    }
    Files {
        STATE_DIR: "TELEMETRY_STATE_DIR", "with_state_dir", "", Kind::Path, Error,
            "Where everything that outlives the process is kept. Without it: `$XDG_STATE_HOME/holdfast/<service name>`, else `$HOME/.local/state/holdfast/<service name>`; with neither, memory only, a warning, and *degraded* health.";
        FALLBACK_ENABLED: "TELEMETRY_FALLBACK_ENABLED", "with_fallback_enabled", "true", Kind::Bool, Error,
            "Spans that leave the buffer undelivered go to files and are sent when the collector is back.";
        FALLBACK_DIR: "TELEMETRY_FALLBACK_DIR", "with_fallback_dir", "", Kind::Path, Error,
            "Where these files are; without it, below the state directory.";
        FALLBACK_MAX_BYTES: "TELEMETRY_FALLBACK_MAX_BYTES", "with_fallback_max_bytes", "1GiB",
            Kind::Bytes { min: MIB, max: 1024 * TIB }, Error,
            "Bytes on disk; over it, the oldest files go, counted and warned about.";
        FALLBACK_MAX_AGE: "TELEMETRY_FALLBACK_MAX_AGE", "with_fallback_max_age", "7d", seconds(60_000, 3650 * DAY), Error,
            "Longest stay in a file.";
        FALLBACK_FORMAT: "TELEMETRY_FALLBACK_FORMAT", "with_fallback_format", "json", Kind::Choice(&["json", "protobuf"]), Error,
            "What new files hold: OTLP JSON Lines, or protobuf with the length of each request before it. Protobuf takes less time and room, and is read by few tools. Files of either format are sent, whatever is set.";
        FALLBACK_COMPRESSION: "TELEMETRY_FALLBACK_COMPRESSION", "with_fallback_compression", "zstd", Kind::Choice(&["zstd", "gzip", "never"]), Error,
            "Compression of large files. The Collector's `otlpjsonfile` receiver reads plain and gzip files.";
        FALLBACK_COMPRESS_ABOVE: "TELEMETRY_FALLBACK_COMPRESS_ABOVE", "with_fallback_compress_above", "64KiB", Kind::Bytes { min: 0, max: GIB }, Error,
            "Files that are expected to be larger than this are compressed.";
        DEAD_LETTER_MAX_BYTES: "TELEMETRY_DEAD_LETTER_MAX_BYTES", "with_dead_letter_max_bytes", "64MiB",
            Kind::Bytes { min: MIB, max: 1024 * TIB }, Error,
            "Bytes of dead letters on disk: spans that the collector refused for good, kept with the reason in `dead-letters` below the state directory (without one, below the directory of the files) and never sent again by themselves. Over it, the oldest go.";
        DEAD_LETTER_MAX_AGE: "TELEMETRY_DEAD_LETTER_MAX_AGE", "with_dead_letter_max_age", "30d", seconds(60_000, 3650 * DAY), Error,
            "Longest stay of a dead letter.";
        REPLAY_RATE: "TELEMETRY_REPLAY_RATE", "with_replay_rate", "unlimited", Kind::Rate, Default,
            "Spans a second that are sent from files, at most.";
    }
}

/// Variables that a user may reasonably set and that change nothing here: each is warned about once.
pub(crate) const NOT_SUPPORTED: &[(&str, &str)] = &[
    ("OTEL_CONFIG_FILE", "configuration files are not read; set environment variables or use the builder"),
    ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "the SDK does not limit the length of values"),
    ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "the SDK does not limit the length of values"),
    ("OTEL_BSP_EXPORT_TIMEOUT", "an export ends at once; OTEL_EXPORTER_OTLP_TIMEOUT bounds a request"),
    ("OTEL_BSP_MAX_CONCURRENT_EXPORTS", "the batch processor hands over one batch at a time, which takes no time here"),
    ("TELEMETRY_FAILOVER_ENDPOINTS", "this version sends to one collector"),
    ("TELEMETRY_FAILBACK_DELAY", "this version sends to one collector"),
];
