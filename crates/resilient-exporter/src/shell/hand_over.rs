//! The disk thread's side of durable mode: it tells the journal thread of each file that takes batches over.

use std::time::{Duration, Instant};

use otlp_payload::BatchId;

use super::jobs::{HandOver, JournalQueue, Ticket};
use super::shared::Shared;

/// The longest wait for the sync of an announcement. A journal that hangs stops no file: after it the file is written
/// all the same, and a crash may then repeat its batches.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(2);

/// The longest wait for the marks of files before a replay.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

/// A file whose hand-over cannot be made durable is replayed all the same after this time: it may be one that fills the
/// disk.
const UNSETTLED: Duration = Duration::from_secs(10);

pub(crate) struct HandOvers<'a> {
    shared: &'a Shared,
    /// The announcement that the journal thread did not answer in time: no further one is waited for until it does.
    late: Option<Ticket>,
    /// Since this instant there may be a file whose batches the journal would return after a crash.
    unsettled: Option<Instant>,
    /// Takes the turns of the journal thread in place of a wait.
    #[cfg(test)]
    pub(crate) partner: Option<Box<dyn FnMut() + 'a>>,
}

impl<'a> HandOvers<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            late: None,
            unsettled: None,
            #[cfg(test)]
            partner: None,
        }
    }

    /// Announces the name of a file before it is written, and waits until the journal has that on the disk.
    pub(crate) fn announce(&mut self, file: &str, ids: &[BatchId]) {
        let Some(journal) = self.shared.journal() else { return };
        if ids.is_empty() {
            return;
        }
        let ticket = journal.hand_over(HandOver::Announce { file: file.to_owned(), ids: ids.to_vec() });
        let patience = self.patience(journal, ANNOUNCED_WITHIN);
        if self.late.is_none() && !journal.wait_for_announced(ticket, patience) {
            self.late = Some(ticket);
        }
    }

    /// The file stands, or was not written.
    pub(crate) fn on_stored(&mut self, ids: &[BatchId], stands: bool) {
        if let Some(journal) = self.shared.journal()
            && !ids.is_empty()
        {
            let ids = ids.to_vec();
            journal.hand_over(if stands { HandOver::Standing { ids } } else { HandOver::TakeBack { ids } });
        }
    }

    /// Files may be replayed: the journal has durably given up their batches.
    pub(crate) fn are_settled(&mut self) -> bool {
        let Some(journal) = self.shared.journal() else { return true };
        let patience = self.patience(journal, SETTLED_WITHIN);
        let patience = if self.late.is_some() { Duration::ZERO } else { patience };
        if journal.is_settled() || journal.wait_for_settled(patience) {
            self.unsettled = None;
            return true;
        }
        let now = self.shared.clock.now();
        let since = *self.unsettled.get_or_insert(now);
        now.saturating_duration_since(since) >= UNSETTLED
    }

    fn patience(&mut self, journal: &JournalQueue, patience: Duration) -> Duration {
        self.late = self.late.filter(|&ticket| !journal.is_announced(ticket));
        #[cfg(test)]
        if let Some(partner) = &mut self.partner {
            partner();
            return Duration::ZERO;
        }
        patience
    }
}
