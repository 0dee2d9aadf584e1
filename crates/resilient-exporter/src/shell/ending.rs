//! The end of an exporter: the wait of the thread that shuts it down.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::health::is_stalled;
use super::shared::{FOR_EVER, Shared};
use crate::core::Core;
use crate::report::forked::Forked;
use crate::report::ledger::DropReason;
use crate::report::warnings::Kind;
use crate::seams::clock::{Clock as _, SystemClock};

/// A shutdown that dropped spans, or that ended before the disk had stored all. The numbers are those of the ledger at
/// the instant at which the shutdown ended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ShutdownError {
    /// Spans that were dropped since the shutdown began, by the [name](DropReason::as_str) of the reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Spans that are in memory and nowhere else: the end of the process loses them. While the process runs, a disk
    /// thread that hangs may still write them; the ledger counts them as `in_fallback` then.
    pub in_memory: u64,
    /// The process was forked from the one that built the exporter: nothing was done, and the spans that ended in it
    /// were refused.
    pub forked: Option<Forked>,
}

impl ShutdownError {
    fn result(dropped: BTreeMap<&'static str, u64>, in_memory: u64) -> Result<(), Self> {
        if dropped.is_empty() && in_memory == 0 { Ok(()) } else { Err(Self { dropped, in_memory, forked: None }) }
    }
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(forked) = &self.forked {
            return forked.fmt(f);
        }
        let mut separator = "";
        for (&reason, spans) in &self.dropped {
            write!(f, "{separator}{spans} spans were dropped ({reason})")?;
            if let Some(reason) = DropReason::named(reason) {
                write!(f, ": {}", reason.remedy())?;
            }
            separator = "; ";
        }
        if self.in_memory > 0 {
            let spans = self.in_memory;
            write!(
                f,
                "{separator}{spans} spans are in memory only, since the disk did not store them before the deadline of \
                 the shutdown, and are lost when the process ends: give shutdown more time or use a faster disk for \
                 the state directory"
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for ShutdownError {}

impl Shared {
    /// Ends the exporter within `timeout`; stored batches are replayed for `replay` at most.
    ///
    /// # Errors
    /// The spans that were dropped meanwhile, and those that are in memory only.
    pub(crate) fn drain_and_stop(&self, timeout: Duration, replay: Duration) -> Result<(), ShutdownError> {
        self.refuse_forked_shutdown()?;
        let start = SystemClock.now();
        self.close_staging();
        // With a disk the network gets three fifths of the time, and the disk the rest.
        let network = timeout.mul_f64(if self.has_disk() { 0.6 } else { 0.9 });
        let now = self.clock.now();
        let until = now.checked_add(network).unwrap_or(now + FOR_EVER);
        let is_stalled = is_stalled(self.activity(now).busy);
        self.decide(|core| {
            if is_stalled {
                core.on_disk_failed("the disk thread hangs in an operation as the shutdown begins", now);
            }
            core.drain(until, replay, now);
        });
        self.net.notify_one();
        let has_ended = |core: &Core| core.is_stopped() && self.has_published();
        if !self.wait_for(network + timeout.mul_f64(0.05), has_ended) {
            // The net thread hangs in a transport of a user's: this thread ends the drain in its place.
            let now = self.clock.now();
            self.decide(|core| core.stop(now));
        }
        if self.has_disk() {
            let passed = SystemClock.now().saturating_duration_since(start);
            self.wait_for(timeout.saturating_sub(passed), |_| self.has_disk_ended() && self.has_published());
        }
        let result = self.set_shutdown_result(self.ending());
        if let Err(error) = &result
            && error.in_memory > 0
        {
            self.note(Kind::LeftInMemory, &error.to_string());
        }
        self.warn(true);
        result
    }

    /// The result of the shutdown. Before the shutdown has ended: its result if it ended now.
    pub(crate) fn shutdown_result(&self) -> Result<(), ShutdownError> {
        self.refuse_forked_shutdown()?;
        self.ended_shutdown().unwrap_or_else(|| self.ending())
    }

    /// Both numbers of one instant.
    fn ending(&self) -> Result<(), ShutdownError> {
        let (core, staged) = self.core_and_staged();
        ShutdownError::result(core.dropped_since_drain(), core.only_in_memory() + staged.count as u64)
    }
}

impl Shared {
    fn refuse_forked_shutdown(&self) -> Result<(), ShutdownError> {
        match self.forked() {
            Some(forked) => Err(ShutdownError { forked: Some(forked), ..ShutdownError::default() }),
            None => Ok(()),
        }
    }
}
