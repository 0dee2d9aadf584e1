//! What became of the records that were handed out.

use safe_dir::{Directory, FileError};

use crate::error::SettleError;
use crate::notice::{Damage, Notice};
use crate::read::reader::Group;
use crate::store::{FileFallback, Key};

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It need not be read again: delivered, or kept elsewhere. So much was in it.
    Done(u64),
    /// It cannot be used. Its file is set aside after its last record, and what is missing then is in the notice.
    Rejected,
    /// It is to be read again.
    Keep,
}

/// What a group came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// What left the store: what [`stored`](FileFallback::stored) has less now.
    pub count: u64,
    /// What was settled beyond what the file's name promises; 0 unless somebody else wrote the file.
    pub surplus: u64,
}

impl<D: Directory> FileFallback<D> {
    /// All records of the group are done, and `count` was in them. The same as [`settle`](Self::settle) with that.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn acknowledge(&mut self, group: Group, count: u64) -> Result<Settled, SettleError> {
        let mut verdicts = vec![Verdict::Done(0); group.records.len()];
        if let Some(last) = verdicts.last_mut() {
            *last = Verdict::Done(count);
        }
        self.settle(group, &verdicts)
    }

    /// No record of the group is done: all are read again. Touches no disk.
    ///
    /// # Errors
    ///
    /// If the group is not one of this store's.
    pub fn give_back(&mut self, group: Group) -> Result<(), SettleError> {
        let verdicts = vec![Verdict::Keep; group.records.len()];
        self.settle(group, &verdicts).map(drop)
    }

    /// Takes one verdict for each record. What is done is durably so when this returns: one write and one sync, or the
    /// removal of the file after its last record.
    ///
    /// # Errors
    ///
    /// [`SettleError::NotDurable`] if the disk does not know: the outcome counts all the same, and the next call makes up
    /// for it. Otherwise nothing was changed.
    pub fn settle(&mut self, group: Group, verdicts: &[Verdict]) -> Result<Settled, SettleError> {
        if self.is_forked() {
            return Err(SettleError::Forked);
        }
        let range = group.range();
        let Some(file) = self.files.get_mut(&group.key).filter(|file| file.out.contains_all(&range)) else {
            return Err(SettleError::UnknownGroup);
        };
        file.out.remove(&range);
        if verdicts.len() != group.records.len() {
            self.read_again(&group.key);
            return Err(SettleError::WrongLength { verdicts: verdicts.len(), records: group.records.len() });
        }
        let before = file.remaining();
        let mut done = 0_u64;
        for (record, verdict) in range.zip(verdicts) {
            match verdict {
                Verdict::Keep => continue,
                Verdict::Done(count) => done = done.saturating_add(*count),
                Verdict::Rejected => {
                    file.rejected = true;
                    file.note_damage(Damage::Rejected);
                }
            }
            file.done.insert(record..record + 1);
        }
        file.done_count = file.done_count.saturating_add(done);
        let count = before - file.remaining();
        self.total.count -= count;
        let settled = Settled { count, surplus: done - count };
        if verdicts.contains(&Verdict::Keep) {
            self.read_again(&group.key);
        }
        let nothing_new = verdicts.iter().all(|verdict| *verdict == Verdict::Keep);
        let kept = if nothing_new { Ok(()) } else { self.keep_progress(&group.key) };
        kept.map(|()| settled).map_err(|source| SettleError::NotDurable { settled, source })
    }

    fn keep_progress(&mut self, key: &Key) -> Result<(), FileError> {
        if self.finish_if_done(key)? {
            return Ok(());
        }
        match self.files.get(key) {
            Some(file) => self.progress.save(&self.dir, file.mark(&key.name)),
            None => Ok(()),
        }
    }

    /// Records were given back: the file is read again from its start.
    fn read_again(&mut self, key: &Key) {
        if let Some(file) = self.files.get_mut(key) {
            file.exhausted = false;
        }
        self.reader.take_if(|reader| reader.key == *key);
    }

    /// Removes a file after its last record, or sets it aside if something was wrong with it; says whether it was finished.
    ///
    /// On an error it is finished all the same, and not on the disk.
    pub(crate) fn finish_if_done(&mut self, key: &Key) -> Result<bool, FileError> {
        if !self.files.get(key).is_some_and(|file| file.is_finished()) {
            return Ok(false);
        }
        let Some(file) = self.forget(key) else { return Ok(false) };
        let count = file.remaining();
        if let Some(damage) = file.damage {
            self.set_aside(key, damage, count, file.promised);
            return Ok(true);
        }
        if count > 0 {
            self.notices.push_back(Notice::Missing { name: key.name.clone(), count });
        }
        match self.dir.remove(&key.name) {
            Err(error) if !error.is_not_found() => {
                self.leftovers.push(key.name.clone());
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        // Else a power cut could bring it back, and all of it would be delivered once more.
        self.dir.sync()?;
        Ok(true)
    }
}
