//! Waits of a user's thread: flush and shutdown.

use std::time::Duration;

use super::shared::Shared;
use crate::core::Core;
use crate::report::ledger::DropReason;
use crate::seams::clock::{Clock as _, SystemClock};

/// A flush whose time ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("flush timed out: {buffered} spans still wait in memory and {in_fallback} in fallback files; all are kept")]
pub struct FlushError {
    /// Spans in memory, those in flight included.
    pub buffered: u64,
    /// Spans in fallback files.
    pub in_fallback: u64,
}

impl Shared {
    /// Waits until no batch that was accepted so far waits anywhere.
    pub(crate) fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        let called = self.clock.now();
        let is_done = |core: &Core| !core.has_waiting_since(called) && core.ledger().in_fallback == 0;
        let start = SystemClock.now();
        if self.wait_for(timeout, is_done) {
            let passed = SystemClock.now().saturating_duration_since(start);
            if self.wait_for(timeout.saturating_sub(passed), |_| self.is_disk_idle()) {
                return Ok(());
            }
        }
        let core = self.core();
        let ledger = core.ledger();
        Err(FlushError { buffered: ledger.buffered + ledger.in_flight, in_fallback: ledger.in_fallback })
    }

    /// Ends the exporter within `timeout`.
    ///
    /// # Errors
    /// The number of spans that were neither delivered nor stored.
    pub(crate) fn drain_and_stop(&self, timeout: Duration) -> Result<(), u64> {
        let start = SystemClock.now();
        // With a disk the network gets three fifths of the time, and the disk the rest.
        let network = timeout.mul_f64(if self.has_disk() { 0.6 } else { 0.9 });
        let until = self.clock.now() + network;
        self.core().drain(until);
        self.net.notify_one();
        let has_ended = |core: &Core| core.is_stopped() && self.has_published();
        if !self.wait_for(network + timeout.mul_f64(0.05), has_ended) {
            // The net thread hangs in a transport of a user's: this thread ends the drain in its place.
            let now = self.clock.now();
            self.decide(|core| core.stop(now));
        }
        if self.has_disk() {
            let passed = SystemClock.now().saturating_duration_since(start);
            self.wait_for(timeout.saturating_sub(passed), |_| self.has_disk_ended());
        }
        self.warn(true);
        let core = self.core();
        let ledger = core.ledger();
        let stuck = (ledger.buffered + ledger.in_flight).saturating_sub(core.durable.left_in_journal());
        let dropped = ledger.dropped.get(DropReason::Shutdown.as_str()).copied().unwrap_or(0);
        if stuck + dropped == 0 { Ok(()) } else { Err(stuck + dropped) }
    }
}
