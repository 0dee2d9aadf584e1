//! Durable mode: settings of the journal, and how it is opened.

use std::time::Duration;

use ::journal::SyncPolicy;
use safe_dir::SafeDir;

use super::Builder;
use crate::error::BuildError;
use crate::seams::fallback::Fallback;
use crate::seams::journal::Journal;
use crate::stores::journal::{FileJournal, JournalOpenError};

/// Durable mode.
impl Builder {
    /// Durable mode: what `export` has accepted survives `kill -9` and, after a sync, a power cut; false by default. Each batch is
    /// written to a journal below the state directory, in `journal`, before `export` returns, and delivered or put into a
    /// fallback file after a restart. Needs a state directory. Costs one write and, by the default policy, one sync of the
    /// disk for each batch, or for several that are exported at the same time.
    ///
    /// Not covered are spans that are still open, or in the SDK's own queue.
    #[must_use]
    pub fn with_journal_enabled(mut self, enabled: bool) -> Self {
        self.journal_enabled = enabled;
        self
    }

    /// A journal of your own in place of files; used if the journal is enabled.
    #[must_use]
    pub fn with_journal(mut self, journal: impl Journal) -> Self {
        self.journal = Some(Box::new(journal));
        self
    }

    /// When the journal is synced, which is what a power cut may take; [`SyncPolicy::Batch`] by default: nothing that `export` has
    /// returned `Ok` for in time. `kill -9` takes nothing by any policy.
    #[must_use]
    pub fn with_journal_sync(mut self, policy: SyncPolicy) -> Self {
        self.journal_sync = policy;
        self
    }

    /// How long `export` waits for the journal, at most; 100 ms by default. A batch that is not durable by then is accepted all the same,
    /// kept in memory, and counted as accepted but not durable; health is degraded. While the disk has not answered, the next
    /// batches do not wait for it.
    #[must_use]
    pub fn with_journal_sync_timeout(mut self, timeout: Duration) -> Self {
        self.journal_sync_timeout = timeout;
        self
    }

    /// Bytes of the journal on disk, at most; 256 MiB by default, and no less than 16 MiB. Beyond it batches are in memory only.
    #[must_use]
    pub fn with_journal_max_bytes(mut self, bytes: u64) -> Self {
        self.journal_config.max_bytes = bytes;
        self
    }

    /// After the fallback was opened, which knows what became of batches that were on their way from the journal to a file, and
    /// before anything in it is replayed or removed.
    pub(super) fn open_journal(
        &mut self,
        mut fallback: Option<&mut dyn Fallback>,
        incarnation: u64,
    ) -> Result<Option<Box<dyn Journal>>, BuildError> {
        if !self.journal_enabled {
            return Ok(None);
        }
        if let Some(journal) = self.journal.take() {
            return Ok(Some(journal));
        }
        let dir = self.state_dir.as_ref().ok_or(BuildError::NoJournalDirectory)?.join("journal");
        let holds = |name: &str| fallback.as_mut().map_or(Ok(false), |fallback| fallback.holds(name));
        let journal = SafeDir::open(&dir)
            .map_err(JournalOpenError::Directory)
            .and_then(|root| FileJournal::open(root, self.journal_config, incarnation, holds));
        Ok(Some(Box::new(journal.map_err(BuildError::Journal)?)))
    }
}
