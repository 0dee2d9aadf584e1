//! How it goes: a status, the reasons for it, and the numbers.

use std::time::{Duration, Instant, SystemTime};

use breaker::State;
use otlp_transport::Cause;
use serde::{Serialize, Serializer};

use crate::report::ledger::Ledger;

/// Spans lost within this time make the exporter unhealthy.
const RECENT: Duration = Duration::from_secs(60);

/// A disk that has not come back from one operation for this long has stalled.
pub(crate) const STALLED: Duration = Duration::from_secs(2);

/// How it goes, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Spans are delivered as they come.
    Healthy,
    /// Something does not work, and nothing is lost: spans wait or go to files.
    Degraded,
    /// Spans are being lost.
    Unhealthy,
}

/// One consistent look at the exporter. Needs no worker: it answers while everything else hangs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// In one word.
    pub status: Status,
    /// Why it is not healthy, a sentence each; empty when it is.
    pub issues: Vec<String>,
    /// State of the circuit breaker.
    #[serde(serialize_with = "state_name")]
    pub breaker: State,
    /// Attempts and what came of them.
    pub metrics: Metrics,
    /// Where each span is.
    pub ledger: Ledger,
    /// Batches that wait in memory.
    pub buffered_batches: usize,
    /// Bytes that wait in memory.
    pub buffered_bytes: usize,
    /// Age of the oldest batch that waits in memory.
    #[serde(skip)]
    pub oldest: Option<Duration>,
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
    /// Spans that `export` accepted although the journal had not made them durable in time; none without a journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_not_durable: Option<u64>,
    /// Spans of attempts that may have been taken although no answer said so: an upper bound of duplicates.
    pub possible_duplicates: u64,
    /// Spans of dead letters that were removed to keep the limits of dead letters, or for want of space. `dead_lettered` has them still.
    pub dead_letters_evicted: u64,
    /// Where spans are sent to.
    pub endpoint: String,
}

/// Attempts, and what came of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// Spans that wait in memory or are being sent.
    pub buffer_size: u64,
    /// Spills: files written since the start.
    pub fallback_usage: u64,
    /// How often the breaker opened.
    pub circuit_breaker_trips: u64,
    /// When an attempt last succeeded.
    #[serde(serialize_with = "rfc3339")]
    pub last_export_success: Option<SystemTime>,
    /// When an attempt last failed.
    #[serde(serialize_with = "rfc3339")]
    pub last_export_failure: Option<SystemTime>,
}

fn rfc3339<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time.and_then(|time| jiff::Timestamp::try_from(time).ok()) {
        Some(timestamp) => serializer.collect_str(&format_args!("{timestamp:.3}")),
        None => serializer.serialize_none(),
    }
}

fn state_name<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{state}"))
}

/// What the core counts beside the ledger.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) successes: u64,
    pub(crate) failures: u64,
    pub(crate) spills: u64,
    pub(crate) possible_duplicates: u64,
    pub(crate) letters_evicted: u64,
    pub(crate) last_success: Option<SystemTime>,
    pub(crate) last_failure: Option<SystemTime>,
    pub(crate) last_cause: Option<String>,
    /// Set where spans are lost, read and stamped by the shell that knows the time.
    pub(crate) fresh_loss: bool,
    pub(crate) last_loss: Option<Instant>,
}

impl Counters {
    pub(crate) fn succeeded(&mut self, wall: SystemTime) {
        self.successes += 1;
        self.last_success = Some(wall);
    }

    pub(crate) fn failed(&mut self, wall: SystemTime, cause: &Cause) {
        self.failures += 1;
        self.last_failure = Some(wall);
        self.last_cause = Some(cause.to_string());
    }

    pub(crate) fn lost(&mut self) {
        self.fresh_loss = true;
    }

    /// Gives losses since the last plan their time.
    pub(crate) fn stamp_loss(&mut self, now: Instant) {
        if std::mem::take(&mut self.fresh_loss) {
            self.last_loss = Some(now);
        }
    }

    /// Spans were lost within the last minute.
    pub(crate) fn loses(&mut self, now: Instant) -> bool {
        self.stamp_loss(now);
        self.last_loss.is_some_and(|instant| now.saturating_duration_since(instant) < RECENT)
    }

    pub(crate) fn metrics(&self, waiting: u64, trips: u64) -> Metrics {
        let total = self.successes + self.failures;
        let rate = if total == 0 { 1.0 } else { self.successes as f64 / total as f64 };
        Metrics {
            total_exports: total,
            successful_exports: self.successes,
            failed_exports: self.failures,
            success_rate: (rate * 1_000.0).round() / 1_000.0,
            buffer_size: waiting,
            fallback_usage: self.spills,
            circuit_breaker_trips: trips,
            last_export_success: self.last_success,
            last_export_failure: self.last_failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_documented_shape() {
        let mut counters = Counters::default();
        let fresh = serde_json::to_value(counters.metrics(0, 0)).expect("serializes");
        assert_eq!(fresh["success_rate"], 1.0);
        assert!(fresh["last_export_success"].is_null());
        counters.succeeded(SystemTime::UNIX_EPOCH + Duration::from_millis(1_737_541_845_123));
        counters.succeeded(SystemTime::UNIX_EPOCH + Duration::from_millis(1_737_541_845_123));
        counters.failed(SystemTime::UNIX_EPOCH, &Cause::Timeout(Duration::from_secs(1)));
        let json = serde_json::to_value(counters.metrics(7, 2)).expect("serializes");
        assert_eq!(
            json,
            serde_json::json!({
                "total_exports": 3, "successful_exports": 2, "failed_exports": 1, "success_rate": 0.667,
                "buffer_size": 7, "fallback_usage": 0, "circuit_breaker_trips": 2,
                "last_export_success": "2025-01-22T10:30:45.123Z", "last_export_failure": "1970-01-01T00:00:00.000Z",
            })
        );
    }
}
