//! Durable mode: how the journal is opened.

use ::journal::Config;
use safe_dir::SafeDir;

use super::Builder;
use crate::error::BuildError;
use crate::seams::fallback::Fallback;
use crate::seams::journal::Journal;
use crate::stores::journal::{FileJournal, JournalOpenError};

impl Builder {
    /// Opens the journal. The open fallback answers for batches that an earlier process was moving from the journal to
    /// a file; no fallback file may be replayed or removed before.
    pub(super) fn open_journal(
        &mut self,
        mut fallback: Option<&mut dyn Fallback>,
        incarnation: u64,
    ) -> Result<Option<Box<dyn Journal>>, BuildError> {
        if !self.settings.journal.enabled {
            return Ok(None);
        }
        if let Some(journal) = self.journal.take() {
            return Ok(Some(journal));
        }
        let dir = self.settings.state_dir.as_ref().ok_or(BuildError::NoJournalDirectory)?.join("journal");
        let config = self.journal_config();
        let holds = |name: &str| fallback.as_mut().map_or(Ok(false), |fallback| fallback.has_file(name));
        let journal = SafeDir::open(&dir)
            .map_err(JournalOpenError::Directory)
            .and_then(|root| FileJournal::open(root, config, incarnation, holds));
        Ok(Some(Box::new(journal.map_err(BuildError::Journal)?)))
    }

    fn journal_config(&self) -> Config {
        Config { max_bytes: self.settings.journal.max_bytes, ..Config::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_has_the_limit_of_the_settings_and_two_segments_at_least() {
        let max_bytes = |builder: Builder| builder.journal_config().max_bytes;
        assert_eq!(max_bytes(Builder::default()), Config::default().max_bytes);
        let least = 2 * Config::default().segment_bytes;
        let builder = Builder::default().with_journal_enabled(true).with_journal_max_bytes(least);
        assert!(builder.check().is_ok());
        assert_eq!(max_bytes(builder), least);
        let builder = Builder::default().with_journal_enabled(true).with_journal_max_bytes(least - 1);
        assert_eq!(builder.check().expect_err("one segment").field, "journal.max_bytes");
    }
}
