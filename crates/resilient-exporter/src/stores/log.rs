//! The warnings of one store, whose thread alone logs them.

use crate::report::warnings::{Kind, Warnings};
use crate::seams::clock::{Clock as _, SystemClock};

/// Logs warnings, at most one of a kind in ten seconds by the system's clock. The store calls
/// [`flush`](Self::flush) about once a second; its end logs the rest.
#[derive(Default)]
pub(super) struct StoreLog(Warnings);

impl StoreLog {
    pub(super) fn warn(&mut self, kind: Kind, spans: u64, detail: &str) {
        self.0.warn(kind, spans, detail, SystemClock.now());
    }

    /// Logs the warnings that are due.
    pub(super) fn flush(&mut self) {
        self.0.take_due(SystemClock.now(), false).iter().for_each(|line| line.log());
    }
}

impl Drop for StoreLog {
    fn drop(&mut self) {
        self.0.take_due(SystemClock.now(), true).iter().for_each(|line| line.log());
    }
}
