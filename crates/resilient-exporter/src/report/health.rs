//! Health: a status, an issue for each reason, and the numbers.

use std::time::{Duration, SystemTime};

use breaker::State;
use serde::{Serialize, Serializer};

use super::ledger::Ledger;

/// The state of the exporter in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Spans are delivered as they come.
    Healthy,
    /// A part does not work, and no span is lost: spans wait or go to files.
    Degraded,
    /// Spans are being lost.
    Unhealthy,
}

/// One consistent snapshot of the exporter. Taken by the caller's thread: it needs neither the net thread nor the disk
/// thread, so it answers while both hang.
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
    /// Spans of attempts that the collector may have taken although no answer confirmed it: an upper bound of
    /// duplicates.
    pub possible_duplicates: u64,
    /// Spans of dead letters that were removed by the limits on dead letters, or because the disk was full. The
    /// ledger's `dead_lettered` still counts them.
    pub dead_letters_evicted: u64,
    /// The collector that spans are sent to.
    pub endpoint: String,
}

/// Attempts and their results.
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
    /// Number of times that the breaker opened.
    pub circuit_breaker_trips: u64,
    /// The time of the last attempt that succeeded.
    #[serde(serialize_with = "rfc3339")]
    pub last_export_success: Option<SystemTime>,
    /// The time of the last attempt that failed.
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

/// The facts of one moment from which health follows, beside the numbers of [`Health`] itself.
#[derive(Default)]
pub(crate) struct Facts<'a> {
    /// Spans were dropped within the last minute.
    pub(crate) is_losing: bool,
    /// The cause of the last failed attempt.
    pub(crate) last_cause: Option<&'a str>,
    /// The fallback's last error, while spans wait because of it.
    pub(crate) disk_trouble: Option<&'a str>,
    /// The journal's last error.
    pub(crate) journal_trouble: Option<&'a str>,
    /// Spans were accepted within the last minute before they were durable.
    pub(crate) is_recently_not_durable: bool,
    /// Spans of earlier processes that wait in the journal.
    pub(crate) unread: usize,
    /// The disk thread has been in one operation for 2 s.
    pub(crate) is_disk_stalled: bool,
    /// The reason for which an enabled fallback is missing.
    pub(crate) no_fallback: Option<&'a str>,
}

impl Health {
    /// Judges the facts: sets the status and the issues.
    pub(crate) fn judged(mut self, facts: &Facts<'_>) -> Self {
        self.issues = self.issues_of(facts);
        self.status = match (facts.is_losing, self.issues.is_empty()) {
            (true, _) => Status::Unhealthy,
            (false, false) => Status::Degraded,
            (false, true) => Status::Healthy,
        };
        self
    }

    fn issues_of(&self, facts: &Facts<'_>) -> Vec<String> {
        let mut issues = Vec::new();
        if facts.is_losing {
            issues.push("spans were dropped within the last minute; the log says how many, why, and what helps".into());
        }
        if self.breaker != State::Closed {
            let (state, cause) = (self.breaker, facts.last_cause.unwrap_or_default());
            issues.push(format!("circuit breaker is {state}; last failure: {cause}"));
        }
        if let Some(error) = facts.disk_trouble {
            issues.push(format!("fallback cannot be used, spans wait in memory: {error}"));
        }
        if let Some(error) = facts.journal_trouble {
            issues.push(format!("journal is in trouble, what is accepted now may not survive a crash: {error}"));
        }
        if facts.is_recently_not_durable {
            let spans = self.accepted_not_durable.unwrap_or_default();
            issues.push(format!(
                "{spans} spans since the start were accepted before they were durable, some of them within the last minute"
            ));
        }
        if facts.unread > 0 {
            issues.push(format!("{} spans of an earlier run wait in the journal", facts.unread));
        }
        if facts.is_disk_stalled {
            issues.push("disk has not answered for 2 s or more; spans wait in memory".into());
        }
        issues.extend(facts.no_fallback.map(str::to_owned));
        if self.ledger.in_fallback > 0 {
            issues.push(format!("{} spans wait in fallback files", self.ledger.in_fallback));
        }
        issues
    }
}
