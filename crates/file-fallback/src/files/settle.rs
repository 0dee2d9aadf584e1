//! The verdicts about a group, durably.

use safe_dir::{Directory, FileError};

use crate::books::catalog::Key;
use crate::error::SettleError;
use crate::files::Files;
use crate::outcome::{Settled, Verdict};
use crate::read::group::Group;

impl<D: Directory> Files<D> {
    /// Notes one verdict for each record of the group.
    pub(crate) fn settle(&mut self, group: &Group, verdicts: &[Verdict]) -> Result<Settled, SettleError> {
        let (key, range) = (group.key(), group.range());
        if !self.catalog.get_mut(key).is_some_and(|file| file.take_back(&range)) {
            return Err(SettleError::UnknownGroup);
        }
        if verdicts.len() != group.records.len() {
            self.read_again(key);
            return Err(SettleError::WrongLength { verdicts: verdicts.len(), records: group.records.len() });
        }
        let settled = self.catalog.settle(key, range, verdicts).unwrap_or_default();
        if verdicts.contains(&Verdict::Keep) {
            self.read_again(key);
        }
        let nothing_new = verdicts.iter().all(|verdict| *verdict == Verdict::Keep);
        let saved = if nothing_new { Ok(()) } else { self.save_progress(key) };
        saved.map(|()| settled).map_err(|source| SettleError::NotDurable { settled, source })
    }

    fn save_progress(&mut self, key: &Key) -> Result<(), FileError> {
        if self.finish_if_done(key)? {
            return Ok(());
        }
        match self.catalog.get(key) {
            Some(file) => self.progress.save(&self.dir, file.mark(&key.name)),
            None => Ok(()),
        }
    }

    /// Records were given back: the file is read again from its start.
    fn read_again(&mut self, key: &Key) {
        if let Some(file) = self.catalog.get_mut(key) {
            file.read_again();
        }
        self.reader.close(key);
    }
}
