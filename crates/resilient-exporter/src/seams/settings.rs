//! The settings of an exporter: plain values, one struct for each subject.
//!
//! A field has the name of the variable that `telemetry-manager` reads into it: `TELEMETRY_BUFFER_MAX_SPANS` is
//! `buffer.max_spans`. A new setting is one line in [`settings!`] below: its documentation, name, type, default and,
//! unless every value of the type is accepted, its smallest value. A text behind an expression stands for it in the
//! documentation.

use std::fmt::Debug;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ::journal::SyncPolicy;
use file_fallback::Compression;

/// All settings of an exporter that are plain values, each with its default.
///
/// [`Builder`](crate::Builder) has a method of the name of each field. [`Builder::build`](crate::Builder::build) checks
/// every value that applies: those of the journal if it is enabled, those of dead letters if there are fallback files.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The buffer in memory.
    pub buffer: Buffer,
    /// The circuit breaker in front of the collector.
    pub circuit_breaker: Breaker,
    /// Moves to other collectors and back, if there are several.
    pub failover: Failover,
    /// Retries of a batch, and the wait before each.
    pub retry: Retry,
    /// One request to the collector.
    pub request: Requests,
    /// Fallback files: batches that left memory undelivered.
    pub fallback: Files,
    /// Durable mode: the journal of accepted batches.
    pub journal: Durability,
    /// Spans that the collector refused for good.
    pub dead_letter: DeadLetters,
    /// Sending of stored spans.
    pub replay: Replay,
    /// The end of the exporter.
    pub shutdown: Shutdown,
    /// The [`ResilientSpanProcessor`](crate::ResilientSpanProcessor), if there is one.
    pub processor: Processor,
    /// The threads of the exporter.
    pub threads: Threads,
    /// The directory for all that outlives the process: `fallback`, `journal` and `dead-letters` are made below it,
    /// with mode 0700. None by default: no directory suits every program.
    pub state_dir: Option<PathBuf>,
    /// Whether a directory that cannot be used is an error of [`Builder::build`](crate::Builder::build). False by
    /// default: spans are in memory only then, and health is degraded.
    pub state_dir_required: bool,
    /// The name of the service that the state directory belongs to, in one line, as the directory's file `layout`
    /// states it; files of another service in the directory are left alone. None by default: any service uses it.
    pub state_service: Option<String>,
    /// Directories in which an earlier version may have left `fallback`, `journal` and `dead-letters` of this service.
    /// None by default.
    pub old_state_dirs: Vec<PathBuf>,
    /// Directories in which an earlier version may have left fallback files of this service, without a directory
    /// between. None by default.
    pub old_fallback_dirs: Vec<PathBuf>,
    /// Bytes of the volume that files and journal leave free, but no more than a tenth of the volume. Default: 64 MiB.
    pub free_space_reserve: u64,
    /// The treatment of batches that the collector refuses: kept by default.
    pub refused: Refused,
    /// The longest texts in attributes, in characters: a longer text is cut before it is stored or sent, in an array of
    /// texts each for itself. Holds for attributes of instrumentation scopes, and of spans, their events and their
    /// links where `span_attribute_value_length_limit` is not set; never for the resource. None by default.
    pub attribute_value_length_limit: Option<u32>,
    /// The same for attributes of spans, their events and their links; beats the limit above. None by default.
    pub span_attribute_value_length_limit: Option<u32>,
    /// The longest time from the end of a span to its sending: older spans become dead letters (`too_old`) instead. For
    /// collectors that refuse or drop older spans. While the wall clock is not believed (it was more than a day ahead
    /// at the start) no span is too old. None by default.
    pub max_age_at_send: Option<Duration>,
    /// Whether each outage of the collector makes a span `holdfast.outage` once it has ended, from its first failed
    /// call to its first successful one, with the resource of the other spans: a gap on the timeline of a service has
    /// its reason there. The span takes the way of all spans, and the ledger counts it as one; no sampler sees it. Its
    /// attributes are `server.address`, `server.port` and, below `holdfast.outage`, the numbers of
    /// [`OutageRecord`](crate::OutageRecord). False by default.
    pub outage_span: bool,
    /// Requests to the collector at a time, at most; 1 or more. The exporter begins with one, adds one for each round
    /// of quick answers, and halves their number after a failure or a throttle. Default: 8.
    pub max_concurrency: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            buffer: Buffer::default(),
            circuit_breaker: Breaker::default(),
            failover: Failover::default(),
            retry: Retry::default(),
            request: Requests::default(),
            fallback: Files::default(),
            journal: Durability::default(),
            dead_letter: DeadLetters::default(),
            replay: Replay::default(),
            shutdown: Shutdown::default(),
            processor: Processor::default(),
            threads: Threads::default(),
            state_dir: None,
            state_dir_required: false,
            state_service: None,
            old_state_dirs: Vec::new(),
            old_fallback_dirs: Vec::new(),
            free_space_reserve: 64 * MIB as u64,
            refused: Refused::Keep,
            attribute_value_length_limit: None,
            span_attribute_value_length_limit: None,
            max_age_at_send: None,
            outage_span: false,
            max_concurrency: 8,
        }
    }
}

/// The documentation of an expression: the text behind it, or else the expression.
macro_rules! shown {
    ($expression:expr) => {
        concat!("`", stringify!($expression), "`")
    };
    ($expression:expr, $text:literal) => {
        $text
    };
}

/// Declares the structs of settings. Writes each default and each smallest value into the documentation of its field.
macro_rules! settings {
    ($(
        $(#[$doc:meta])*
        $group:ident: $name:ident {
            $(
                $(#[$field_doc:meta])*
                $field:ident: $type:ty = $default:expr $(, $text:literal)?
                    $(, at least $min:expr $(, $min_text:literal)?)?;
            )+
        }
    )+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Debug)]
            #[non_exhaustive]
            pub struct $name {
                $(
                    $(#[$field_doc])*
                    #[doc = concat!(
                        "\n\nDefault: ", shown!($default $(, $text)?),
                        $("; smallest value: ", shown!($min $(, $min_text)?),)? ".",
                    )]
                    pub $field: $type,
                )+
            }

            impl Default for $name {
                fn default() -> Self {
                    Self { $($field: $default,)+ }
                }
            }

            impl $name {
                fn check(&self) -> Result<(), TooSmall> {
                    $($(check(concat!(stringify!($group), ".", stringify!($field)), &self.$field, &$min)?;)?)+
                    Ok(())
                }
            }
        )+

        impl Settings {
            /// The path of each field, such as `buffer.max_spans`: tables of settings check themselves against it.
            pub const FIELDS: &[&str] = &[
                $($(concat!(stringify!($group), ".", stringify!($field)),)+)+
                "state_dir",
                "state_dir_required",
                "state_service",
                "old_state_dirs",
                "old_fallback_dirs",
                "free_space_reserve",
                "refused",
                "attribute_value_length_limit",
                "span_attribute_value_length_limit",
                "max_age_at_send",
                "outage_span",
                "max_concurrency",
            ];

            /// The path of each field whose default the documentation shows as a text, and the text.
            #[cfg(test)]
            const TEXTS: &[(&str, &str)] =
                &[$($($((concat!(stringify!($group), ".", stringify!($field)), $text),)?)+)+];

            /// Finds the first field whose value is too small. The ranges of the circuit breaker and of the
            /// waits between retries belong to the crates `breaker` and `backoff`, which check them.
            pub(crate) fn check(&self) -> Result<(), TooSmall> {
                $(self.$group.check()?;)+
                check("max_age_at_send", &self.max_age_at_send.unwrap_or(NANOSECOND), &NANOSECOND)?;
                check("max_concurrency", &self.max_concurrency, &1)
            }
        }
    };
}

settings! {
    /// The buffer in memory. At 7/8 of a limit the oldest batches go to files, at 1/2 while the collector accepts
    /// nothing; without a fallback the oldest spans are dropped, and counted, when a limit is reached.
    buffer: Buffer {
        /// Spans in memory, at most.
        max_spans: usize = 10_000, at least 1;
        /// Encoded bytes in memory, at most; 10 MiB hold about 15,000 usual spans.
        max_bytes: usize = 10 * MIB, "10 MiB", at least 1;
        /// The longest stay of a batch in memory; then it goes to a file, or is dropped if there is no fallback.
        max_age: Duration = Duration::from_secs(5 * 60), "5 minutes", at least NANOSECOND, "1 ns";
        /// The compression of batches that wait in memory for longer than a second.
        compression: BufferCompression = BufferCompression::None;
    }

    /// The circuit breaker: while it is open, no call goes to the collector.
    circuit_breaker: Breaker {
        /// Failures in a row that open the breaker, 1 to 1,000,000.
        failure_threshold: u32 = 5;
        /// The time from opening to the first probe, 1 ms to a year. Up to 10 % are added at random, so that the
        /// processes of a fleet do not probe in step.
        recovery_timeout: Duration = Duration::from_secs(60);
        /// Probes that may be out at a time while the breaker is half-open, 1 to 1,000.
        half_open_probes: u32 = 1;
        /// Successful probes that close the breaker, 1 to 1,000,000.
        half_open_successes: u32 = 1;
    }

    /// Moves to other collectors and back: those of [`Builder::with_failover`](crate::Builder::with_failover), in the
    /// order of their priority behind the primary.
    ///
    /// Calls go to one collector, which is in use. They move to the next one that is available once the one in use
    /// cannot be reached, gives no answer in time, refuses the sender (such as by 401 or 404), asks for a pause longer
    /// than `failback_delay`, or has an open breaker. A request that is too large, and refusals of its content, move
    /// nothing. While no collector is available, the one whose wait ends first gets the next call.
    ///
    /// Each collector of a higher priority than the one in use gets one live batch every tenth of `failback_delay` (1 s
    /// at least), as its own waits and its breaker allow. Once it has taken three batches and `failback_delay` has
    /// passed since the first of them without a failure, all calls return to it.
    ///
    /// A batch goes to a second collector only after its call to the first has ended.
    failover: Failover {
        /// The time for which a collector of a higher priority takes trial batches before all calls return to it.
        failback_delay: Duration = Duration::from_secs(30), at least Duration::from_secs(1);
    }

    /// Retries of a batch and the exponential backoff between them.
    retry: Retry {
        /// Retries of a batch before it goes to a file. Only calls made while the breaker is closed count, so an outage
        /// spends none. Without a fallback the batch stays in memory until a limit of the buffer removes it.
        max_retries: u32 = 5;
        /// The wait after the first failure in a row, above zero.
        initial_delay: Duration = Duration::from_secs(1);
        /// The factor from one wait to the next, 1 to 100.
        multiplier: f64 = 2.0;
        /// The longest wait, jitter included; at least `initial_delay`.
        max_delay: Duration = Duration::from_secs(20);
        /// The share of a wait, 0 to 1, by which it is shortened or lengthened at random.
        jitter: f64 = 0.25;
    }

    /// One request to the collector.
    request: Requests {
        /// Bytes of a request before compression, at most; larger batches are split. Many collectors refuse more than
        /// 4 MiB: the default leaves 64 KiB of it for the frame.
        max_bytes: usize = otlp_transport::DEFAULT_MAX_REQUEST_BYTES, at least 1;
        /// Spans of a request, at most; larger batches are split, and stored ones are put together up to it. For
        /// servers that count them.
        max_spans: Option<NonZeroUsize> = None;
        /// The longest attempt. A bound for transports whose own time-out fails. `telemetry-manager` raises the default
        /// to twice the time-out of its transport, also where a closure sets this field to the default: it cannot tell
        /// such a closure from one that leaves the field.
        attempt_timeout: Duration = Duration::from_secs(60), at least NANOSECOND, "1 ns";
    }

    /// Fallback files: batches that memory cannot hold, until they are delivered.
    fallback: Files {
        /// Whether batches go to files. Without a directory (`dir` or `state_dir`) they stay in memory, and health
        /// reports it.
        enabled: bool = true;
        /// The directory of the files; `fallback` below the state directory if there is none.
        dir: Option<PathBuf> = None;
        /// Bytes of all files on disk, at most; beyond it the oldest files are removed, and counted.
        max_bytes: u64 = GIB, "1 GiB", at least 1;
        /// The longest stay of a file on disk; then it is removed, and counted.
        max_age: Duration = Duration::from_secs(7 * DAY), "7 days", at least NANOSECOND, "1 ns";
        /// The format of new files. Files of either format are replayed.
        format: FallbackFormat = FallbackFormat::Json;
        /// The compression of new files that are larger than `compress_above`.
        compression: Compression = Compression::Zstd;
        /// Files of more bytes than this, before compression, are compressed.
        compress_above: usize = 64 * KIB, "64 KiB";
    }

    /// Durable mode: each batch is written to a journal below the state directory, in `journal`, before `export`
    /// returns.
    journal: Durability {
        /// Whether there is a journal: batches that `export` accepted survive `kill -9` and, once synced, a power cut.
        /// Needs a state directory or [`Builder::with_journal`](crate::Builder::with_journal). Costs a write and, by
        /// the default policy, a sync of the disk for each batch, or for several that are exported at the same time.
        ///
        /// Spans that are still open, staged, or in the SDK's own queue, are not covered.
        enabled: bool = false;
        /// When the journal is synced. A power cut takes the batches since the last sync; `kill -9` takes none.
        sync: SyncPolicy = SyncPolicy::Batch;
        /// The longest wait of `export` for the journal. A batch that is not durable by then is accepted nevertheless,
        /// kept in memory and counted as accepted but not durable; health is degraded. While the disk does not answer,
        /// later batches do not wait.
        sync_timeout: Duration = Duration::from_millis(100), at least NANOSECOND, "1 ns";
        /// The longest stay of a span in a [`ResilientSpanProcessor`](crate::ResilientSpanProcessor) before it is
        /// handed to the journal, unless [`Processor::scheduled_delay`] is shorter: a crash loses the spans of this
        /// time. Zero hands a span over as soon as the net thread has woken.
        staging: Duration = Duration::from_millis(200);
        /// Bytes of the journal on disk, at most; the smallest value is two segments. Beyond the limit, new
        /// batches are in memory only.
        max_bytes: u64 = 256 * MIB as u64, "256 MiB", at least 16 * MIB as u64, "16 MiB";
    }

    /// Dead letters: spans that the collector refused for good, in `dead-letters` below the state directory (without
    /// one, below the directory of the fallback files).
    dead_letter: DeadLetters {
        /// Bytes of all dead letters on disk, at most; beyond it the oldest are removed, and counted.
        max_bytes: u64 = 64 * MIB as u64, "64 MiB", at least 1;
        /// The longest stay of a dead letter; then it is removed, and counted. Zero removes it at the next clean-up.
        max_age: Duration = Duration::from_secs(30 * DAY), "30 days";
    }

    /// Replay: sending of spans that are stored in files.
    replay: Replay {
        /// Stored spans that are sent in a second, at most; unlimited if there is none.
        rate: Option<NonZeroU32> = None;
        /// Which stored spans are sent first.
        order: ReplayOrder = ReplayOrder::Oldest;
    }

    /// The end of the exporter.
    shutdown: Shutdown {
        /// The longest shutdown, and the longest `SpanExporter::force_flush`. Behind the SDK's batch processor, which
        /// waits 5 s for its own last export and for the exporter together, 5 s count as 3.5 s, and a longer time makes
        /// the provider time out.
        timeout: Duration = Duration::from_secs(5), at least NANOSECOND, "1 ns";
        /// The longest time of a shutdown in which stored batches are sent, own ones and those of processes that have
        /// ended, in files and in journals. It begins once each batch in memory was tried, lasts only while answers
        /// come, and is a part of the time of the network, three fifths of `timeout`. Zero leaves them to the next
        /// start.
        replay: Duration = Duration::from_secs(1);
    }

    /// The batches of a [`ResilientSpanProcessor`](crate::ResilientSpanProcessor). Their names and defaults are those
    /// of the OpenTelemetry specification for batch span processors; there is no queue.
    processor: Processor {
        /// Spans of a batch, at most. A quarter of the buffer's limits bounds all batches that are not full.
        max_export_batch_size: usize = 512, at least 1;
        /// The longest stay of a span until its batch goes on its way.
        scheduled_delay: Duration = Duration::from_secs(5);
        /// The longest `force_flush`: for answers in half of it while there is a place on the disk, for that place in
        /// the rest.
        export_timeout: Duration = Duration::from_secs(30), at least NANOSECOND, "1 ns";
    }

    /// The threads of the exporter.
    threads: Threads {
        /// By how much the net thread and the disk thread are nicer than the thread that builds the exporter (0 to 19,
        /// as `nice` has it; larger values count as 19): threads of the application go first where cores are short.
        /// At 19 they starve beside an application that computes on all cores, and its spans are dropped once memory
        /// is full. The journal thread is as the application's, since `export` waits for it. Systems other than Linux
        /// have one niceness for all threads of a process: there it stays.
        niceness: u8 = 5;
    }
}

/// The compression of batches in memory that wait for longer than a second, as in an outage.
///
/// A thread of its own compresses them, as nice as [`Threads::niceness`] says. `max_bytes` of the buffer then holds
/// about seven times as many usual spans, less an eighth of it, which is room for batches that are unpacked for their
/// calls (1 MiB at least, half of `max_bytes` at most). Batches that are larger than this room stay as they are.
///
/// Pays where batches have no place on disk, or where memory is short for the first minutes of an outage; raise
/// `max_spans` with it, which is the first limit that usual spans reach. Without effect in durable mode, whose batches
/// leave memory for the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BufferCompression {
    /// Batches stay as they are.
    #[default]
    None,
    /// Zstandard. Costs about 1.5 µs a usual span on the thread that compresses, and 0.4 µs when the batch is sent.
    Zstd,
}

/// How spans are written to fallback files. Files of either format are replayed under either setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FallbackFormat {
    /// OTLP JSON Lines, `.jsonl`: read by people, `jq` and the Collector's `otlpjsonfile` receiver.
    #[default]
    Json,
    /// Encoded `TracesData`, each with its length before it, `.binpb`, as the Collector's file exporter writes with
    /// `format: proto`: spans are neither turned into text nor read from it.
    Protobuf,
}

/// Which stored spans a replay sends first. Spans in memory, those that left it for the journal among them, go before
/// stored ones under either setting, the oldest of them first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplayOrder {
    /// Those of the oldest file: what the limits would remove next is sent first.
    #[default]
    Oldest,
    /// Those of the newest file, so that dashboards and alerts have the present first; the batches of one file in the
    /// order in which they were stored. Each eighth group still has the oldest, which would wait for as long as files
    /// arrive, and the limits on size and age remove the oldest as ever.
    Newest,
}

/// The treatment of a batch whose request the collector refuses, other than as too large.
///
/// A refusal may be about the batch or about its sender: an expired token, a stale replica, a wrong URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// The batch waits and is sent again, from memory or from a file. It becomes a dead letter once the collector
    /// accepts other batches and goes on refusing this one.
    #[default]
    Keep,
    /// Strict mode: the batch is a dead letter with its first refusal, whatever the reason.
    DeadLetter,
}

/// A field whose value is too small.
#[derive(Debug)]
pub(crate) struct TooSmall {
    pub(crate) field: &'static str,
    pub(crate) value: String,
    pub(crate) accepted: String,
}

fn check<T: PartialOrd + Debug>(field: &'static str, value: &T, min: &T) -> Result<(), TooSmall> {
    if value >= min {
        return Ok(());
    }
    Err(TooSmall { field, value: format!("{value:?}"), accepted: format!("{min:?} or more") })
}

const NANOSECOND: Duration = Duration::from_nanos(1);
const KIB: usize = 1_024;
const MIB: usize = 1_024 * KIB;
const GIB: u64 = 1_024 * MIB as u64;
const DAY: u64 = 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;

    /// The path and the value of each leaf in the output of `{:#?}`, which shows each field of a struct on a line of
    /// its own.
    fn values(shown: &str) -> Vec<(String, &str)> {
        let mut path = Vec::<&str>::new();
        let mut values = Vec::new();
        for line in shown.lines().skip(1) {
            let depth = (line.len() - line.trim_start().len()) / 4;
            let Some((field, value)) = line.trim().split_once(": ") else { continue };
            path.truncate(depth - 1);
            path.push(field);
            if !value.ends_with('{') {
                values.push((path.join("."), value));
            }
        }
        values
    }

    #[test]
    fn every_field_of_every_struct_is_listed() {
        let shown = format!("{:#?}", Settings::default());
        let paths = values(&shown).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(paths, Settings::FIELDS);
    }

    /// The number of bytes or seconds in a text such as `10 MiB` or `7 days`.
    fn number(text: &str) -> u64 {
        let (count, unit) = text.split_once(' ').expect("a number and a unit");
        let unit = match unit {
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "minutes" => 60,
            "days" => 24 * 60 * 60,
            other => panic!("{other} is no unit"),
        };
        count.parse::<u64>().expect("a whole number") * unit
    }

    #[test]
    fn the_text_of_each_default_is_its_value() {
        let shown = format!("{:#?}", Settings::default());
        let defaults = values(&shown);
        assert_eq!(Settings::TEXTS.len(), 8);
        for (path, text) in Settings::TEXTS {
            let (_, value) = defaults.iter().find(|(field, _)| field == path).expect("the path of a field");
            assert_eq!(value.trim_end_matches(['s', ',']), number(text).to_string(), "{path}");
        }
    }

    #[test]
    fn every_default_is_accepted() {
        assert!(Settings::default().check().is_ok());
    }

    #[test]
    fn a_value_below_its_range_is_refused_by_path_value_and_range() {
        let mut settings = Settings::default();
        settings.journal.max_bytes = (16 << 20) - 1;
        let TooSmall { field, value, accepted } = settings.check().expect_err("less than two segments");
        assert_eq!((field, value.as_str()), ("journal.max_bytes", "16777215"));
        assert_eq!(accepted, "16777216 or more");
        settings.journal.max_bytes += 1;
        assert!(settings.check().is_ok());
    }
}
