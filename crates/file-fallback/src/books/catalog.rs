//! All files with records that are not settled, and the sums over them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use crate::books::file::StoredFile;
use crate::outcome::{Settled, Stored, Verdict};

/// The place of a file in the order: by number, not by time, because a clock can be set back and numbers only go up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) seq: u64,
    pub(crate) name: String,
}

/// Oldest file first. A file whose last record is settled is not in here any more, even if it could not be removed from
/// the disk.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    files: BTreeMap<Key, StoredFile>,
    total: Stored,
}

impl Catalog {
    pub(crate) const fn total(&self) -> Stored {
        self.total
    }

    pub(crate) fn insert(&mut self, key: Key, file: StoredFile) {
        self.total.files += 1;
        self.total.count += file.remaining();
        self.total.bytes += file.bytes();
        self.files.insert(key, file);
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<StoredFile> {
        let file = self.files.remove(key)?;
        self.total.files -= 1;
        self.total.count -= file.remaining();
        self.total.bytes -= file.bytes();
        Some(file)
    }

    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.files.contains_key(key)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&StoredFile> {
        self.files.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &Key) -> Option<&mut StoredFile> {
        self.files.get_mut(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &StoredFile)> {
        self.files.iter()
    }

    /// The oldest file that has, or may have, a record to hand out.
    pub(crate) fn first_to_read(&self) -> Option<&Key> {
        self.files.iter().find(|(_, file)| !file.is_exhausted()).map(|(key, _)| key)
    }

    /// The oldest file of which no record is handed out.
    pub(crate) fn oldest_idle(&self) -> Option<&Key> {
        self.files.iter().find(|(_, file)| file.is_idle()).map(|(key, _)| key)
    }

    /// The bytes of all files of which no record is handed out.
    pub(crate) fn idle_bytes(&self) -> u64 {
        self.files.values().filter(|file| file.is_idle()).map(StoredFile::bytes).sum()
    }

    /// The files of at least this age of which no record is handed out, oldest first.
    pub(crate) fn idle_older_than(&self, age: Duration, now: SystemTime) -> Vec<Key> {
        let old = self.files.iter().filter(|(_, file)| file.is_idle() && file.is_older(age, now));
        old.map(|(key, _)| key.clone()).collect()
    }

    /// See [`StoredFile::correct_time`].
    pub(crate) fn correct_times(&mut self, now: SystemTime, clock_set: SystemTime) {
        self.files.values_mut().for_each(|file| file.correct_time(now, clock_set));
    }

    /// Notes one verdict for each of the records; `None` if there is no such file.
    pub(crate) fn settle(&mut self, key: &Key, records: Range<u64>, verdicts: &[Verdict]) -> Option<Settled> {
        let settled = self.files.get_mut(key)?.settle(records, verdicts);
        self.total.count -= settled.count;
        Some(settled)
    }
}
