//! Health: a status, an issue for each reason, and the numbers.

use std::fmt;
use std::time::{Duration, SystemTime};

use breaker::State;
use otlp_payload::Signal;
use serde::{Serialize, Serializer};

use super::calls::CallDurations;
use super::details::{CollectorHealth, MemoryHealth, StorageHealth, Wakeups};
use super::lateness::Lateness;
use super::ledger::Ledger;

/// The state of the exporter in one word; `Display` writes it as JSON does, in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Spans are delivered as they come.
    Healthy,
    /// A part does not work, and no span was lost within 5 minutes: spans wait, go to files, or become dead letters.
    Degraded,
    /// Spans were lost within 5 minutes.
    Unhealthy,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// One consistent snapshot of the exporter. Taken by the caller's thread: it needs neither the net thread nor the disk
/// thread, so it answers while both hang. `Display` writes the status and the endpoint, and each issue on a line of its
/// own.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// The state in one word.
    pub status: Status,
    /// The reasons for a status other than healthy, a sentence each; empty when healthy.
    pub issues: Vec<String>,
    /// State of the circuit breaker.
    #[serde(serialize_with = "state_name")]
    pub breaker: State,
    /// Attempts and their results.
    pub metrics: Metrics,
    /// The place of each span.
    pub ledger: Ledger,
    /// Batches that wait in memory.
    pub buffered_batches: usize,
    /// Bytes that wait in memory.
    pub buffered_bytes: usize,
    /// Age of the oldest batch that waits in memory.
    #[serde(skip)]
    pub oldest: Option<Duration>,
    /// Age of the oldest batch that waits, is being sent, is in a file, or that the journal alone holds: since it was
    /// accepted. A file of an earlier process counts from the time in its name, which is when it was written, and a
    /// batch of an earlier process in the journal from the start of this one. Staged spans are no batch yet. In JSON it
    /// is `oldest_waiting_seconds`. None if no batch waits.
    #[serde(rename = "oldest_waiting_seconds", serialize_with = "seconds")]
    pub oldest_waiting: Option<Duration>,
    /// Fallback files.
    pub fallback_files: u64,
    /// Bytes of the fallback files on disk.
    pub fallback_bytes: u64,
    /// Batches in the journal that are not done yet; none without a journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal_batches: Option<u64>,
    /// Bytes of the journal on disk; none without a journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal_bytes: Option<u64>,
    /// Spans that `export` accepted before the journal had made them durable; none without a journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_not_durable: Option<u64>,
    /// Calls that the collector acknowledged within 5 minutes, over all calls; 1.0 without a call.
    pub success_rate_5m: f64,
    /// Spans that the collector acknowledged by an answer that no OTLP server gives. They count as delivered.
    pub acknowledged_unreadable: u64,
    /// Spans of attempts that the collector may have taken although no answer confirmed it: an upper bound of
    /// duplicates.
    pub possible_duplicates: u64,
    /// Spans of dead letters that were removed by the limits on dead letters, or because the disk was full. The
    /// ledger's `dead_lettered` still counts them.
    pub dead_letters_evicted: u64,
    /// The collector that spans are sent to, by the transport's own name ([`otlp_transport::Transport::endpoint`]).
    pub endpoint: String,
    /// Each collector: its breaker, its waits, its refusal.
    pub collectors: Vec<CollectorHealth>,
    /// Files, journal and dead letters, each with its limit.
    pub storage: StorageHealth,
    /// The signal of all items that the numbers count.
    #[serde(skip)]
    pub signal: Signal,
    /// The number of the exporter in this process: 0 for the one that was built first.
    #[serde(skip)]
    pub instance: u64,
    /// The time since the exporter was built.
    #[serde(skip)]
    pub uptime: Duration,
    /// The memory that batches take, and its limits.
    #[serde(skip)]
    pub memory: MemoryHealth,
    /// Spans on their way to a fallback file; the ledger counts them as `buffered`.
    #[serde(skip)]
    pub spilling: u64,
    /// The durations of calls, by those results of which there was one.
    #[serde(skip)]
    pub calls: Vec<CallDurations>,
    /// The time from the end of spans to their acknowledgement.
    #[serde(skip)]
    pub lateness: Lateness,
    /// How often each thread has woken.
    #[serde(skip)]
    pub wakeups: Wakeups,
    /// Spans that a sampler had recorded but not exported (`RecordOnly`), as they ended; none without a
    /// [`ResilientSpanProcessor`](crate::ResilientSpanProcessor). Outside of the ledger. Spans that a sampler drops
    /// are never recorded: the SDK hands them to no processor, and they are not counted here.
    #[serde(skip)]
    pub not_sampled: Option<u64>,
    /// Spans that a [`ResilientSpanProcessor`](crate::ResilientSpanProcessor) stages at most; none without one.
    #[serde(skip)]
    pub staging_capacity: Option<u64>,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: spans go to {}", self.status, self.endpoint)?;
        self.issues.iter().try_for_each(|issue| write!(f, "\n- {issue}"))
    }
}

/// Attempts and their results.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Metrics {
    /// Finished network attempts: successful and failed ones.
    pub total_exports: u64,
    /// Attempts that the collector acknowledged.
    pub successful_exports: u64,
    /// Attempts that ended in anything else.
    pub failed_exports: u64,
    /// Successful over total, to 3 decimals; 1.0 before the first.
    pub success_rate: f64,
    /// Spans that are staged, wait in memory or are being sent.
    pub buffer_size: u64,
    /// Spills: files written since the start.
    pub fallback_usage: u64,
    /// Number of times that the breaker opened.
    pub circuit_breaker_trips: u64,
    /// The time of the last attempt that succeeded.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub last_export_success: Option<SystemTime>,
    /// The time of the last attempt that failed.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub last_export_failure: Option<SystemTime>,
}

impl Metrics {
    /// Before the first attempt.
    pub(crate) fn none() -> Self {
        Self {
            total_exports: 0,
            successful_exports: 0,
            failed_exports: 0,
            success_rate: 1.0,
            buffer_size: 0,
            fallback_usage: 0,
            circuit_breaker_trips: 0,
            last_export_success: None,
            last_export_failure: None,
        }
    }
}

/// Seconds, to the millisecond.
#[expect(clippy::ref_option, reason = "the signature that serde calls")]
pub(super) fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_f64(time.as_millis() as f64 / 1_000.0),
        None => serializer.serialize_none(),
    }
}

pub(super) fn rfc3339<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time.and_then(|time| jiff::Timestamp::try_from(time).ok()) {
        Some(timestamp) => serializer.collect_str(&format_args!("{timestamp:.3}")),
        None => serializer.serialize_none(),
    }
}

pub(super) fn state_name<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{state}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_as_in_json_and_can_be_aligned() {
        for status in [Status::Healthy, Status::Degraded, Status::Unhealthy] {
            assert_eq!(format!("\"{status}\""), serde_json::to_string(&status).expect("JSON"));
        }
        assert_eq!(format!("{:>10}|", Status::Degraded), "  degraded|");
    }
}
