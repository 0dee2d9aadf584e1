//! The numbers of a process that was forked from the one of the exporter.

use std::fmt;
use std::time::Duration;

use otlp_payload::Signal;

use super::details::{MemoryHealth, StorageHealth, Wakeups};
use super::health::{Health, Metrics, Status};
use super::lateness::Lateness;
use super::ledger::{Ledger, Place, RefuseReason};

/// This process was forked from the one that built the exporter. The child has a copy of its memory and none of its
/// threads: the exporter refuses everything there at once, and leaves the files of its parent alone.
///
/// ```
/// # fn demo(handle: &resilient_exporter::Handle) {
/// if let Some(forked) = handle.forked() {
///     eprintln!("{forked}"); // .. 3 spans were refused: set telemetry up after the fork ..
/// }
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Forked {
    /// The id of the process that built the exporter.
    pub parent: u32,
    /// Spans that were refused in this process so far.
    pub refused: u64,
}

impl fmt::Display for Forked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parent, refused } = self;
        write!(
            f,
            "this process was forked from process {parent} after telemetry was set up there, and {refused} spans were \
             refused: {}",
            RefuseReason::Forked.remedy()
        )
    }
}

impl std::error::Error for Forked {}

impl Forked {
    pub(crate) fn new(parent: u32, refused: u64) -> Self {
        Self { parent, refused }
    }

    /// The account of the child: the numbers of its parent are not its own.
    pub(crate) fn ledger(self) -> Ledger {
        let mut ledger = Ledger::default();
        let spans = usize::try_from(self.refused).unwrap_or(usize::MAX);
        ledger.transfer(spans, Place::Offered, Place::Refused(RefuseReason::Forked));
        ledger
    }

    /// The health of the child, by its own numbers.
    pub(crate) fn health(self, endpoint: String, signal: Signal, instance: u64) -> Health {
        Health {
            status: if self.refused > 0 { Status::Unhealthy } else { Status::Degraded },
            issues: vec![self.to_string()],
            breaker: breaker::State::Closed,
            metrics: Metrics::none(),
            ledger: self.ledger(),
            buffered_batches: 0,
            buffered_bytes: 0,
            oldest: None,
            oldest_waiting: None,
            fallback_files: 0,
            fallback_bytes: 0,
            journal_batches: None,
            journal_bytes: None,
            accepted_not_durable: None,
            success_rate_5m: 1.0,
            acknowledged_unreadable: 0,
            possible_duplicates: 0,
            dead_letters_evicted: 0,
            endpoint,
            collectors: Vec::new(),
            storage: StorageHealth::default(),
            signal,
            instance,
            uptime: Duration::ZERO,
            memory: MemoryHealth::default(),
            spilling: 0,
            calls: Vec::new(),
            wakeups: Wakeups::default(),
            lateness: Lateness::default(),
            not_sampled: None,
            staging_capacity: None,
        }
    }
}
