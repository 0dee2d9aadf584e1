//! Counts of calls and losses beside the ledger.

use std::time::SystemTime;

use otlp_transport::Cause;

use crate::report::health::Metrics;

#[derive(Default)]
pub(crate) struct Counters {
    successes: u64,
    failures: u64,
    spills: u64,
    possible_duplicates: u64,
    /// Spans of acknowledgements that no OTLP server gives.
    unreadable: u64,
    dead_letters_evicted: u64,
    last_success: Option<SystemTime>,
    last_failure: Option<SystemTime>,
    last_cause: Option<Cause>,
}

impl Counters {
    pub(super) fn count_success(&mut self, wall: SystemTime) {
        self.successes += 1;
        self.last_success = Some(wall);
    }

    pub(super) fn count_failure(&mut self, wall: SystemTime, cause: Option<&Cause>) {
        self.failures += 1;
        self.last_failure = Some(wall);
        self.last_cause = cause.cloned();
    }

    pub(super) fn count_unreadable(&mut self, spans: u64) {
        self.unreadable += spans;
    }

    pub(super) fn count_spill(&mut self) {
        self.spills += 1;
    }

    pub(super) fn count_possible_duplicates(&mut self, spans: u64) {
        self.possible_duplicates += spans;
    }

    pub(super) fn count_evicted_dead_letters(&mut self, spans: u64) {
        self.dead_letters_evicted += spans;
    }

    // Queries.

    #[cfg(test)]
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    pub(crate) fn possible_duplicates(&self) -> u64 {
        self.possible_duplicates
    }

    pub(crate) fn acknowledged_unreadable(&self) -> u64 {
        self.unreadable
    }

    pub(crate) fn dead_letters_evicted(&self) -> u64 {
        self.dead_letters_evicted
    }

    pub(super) fn last_success(&self) -> Option<SystemTime> {
        self.last_success
    }

    pub(super) fn last_failure(&self) -> Option<SystemTime> {
        self.last_failure
    }

    pub(crate) fn last_cause(&self) -> Option<&Cause> {
        self.last_cause.as_ref()
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn metrics_have_the_documented_shape() {
        let mut counters = Counters::default();
        let fresh = serde_json::to_value(counters.metrics(0, 0)).expect("serializes");
        assert_eq!(fresh["success_rate"], 1.0);
        assert!(fresh["last_export_success"].is_null());
        counters.count_success(SystemTime::UNIX_EPOCH + Duration::from_millis(1_737_541_845_123));
        counters.count_success(SystemTime::UNIX_EPOCH + Duration::from_millis(1_737_541_845_123));
        counters.count_failure(SystemTime::UNIX_EPOCH, Some(&Cause::Timeout(Duration::from_secs(1))));
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
