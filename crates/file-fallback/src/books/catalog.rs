//! All files with records that are not settled, and the sums over them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use crate::books::file::{FileSettled, StoredFile};
use crate::books::progress::Mark;
use crate::books::ranges::Ranges;
use crate::form::name::FileName;
use crate::outcome::{Stored, Verdict};

/// The place of a file in the order, that of the names: by time, so that the files of another process stand where they
/// belong, and by number within one time. A store never writes a name with an earlier time than the last one
/// (see `Names`): its own files stay in the order of their numbers although a clock can be set back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) time: SystemTime,
    pub(crate) seq: u64,
    pub(crate) name: String,
}

impl Key {
    /// The key of the file `name`, whose parts these are.
    pub(crate) fn new(parts: &FileName, name: String) -> Self {
        Self { time: parts.time, seq: parts.seq, name }
    }

    /// A key before that of every file.
    fn first() -> Self {
        Self { time: SystemTime::UNIX_EPOCH, seq: 0, name: String::new() }
    }
}

/// Oldest file first. A file whose last record is settled is not in here any more, even if it could not be removed from
/// the disk.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    files: BTreeMap<Key, StoredFile>,
    /// The files that have, or may have, a record to hand out, each with its level: see [`StoredFile::level`].
    to_read: BTreeSet<(u32, Key)>,
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
        self.to_read.extend(file.level().map(|level| (level, key.clone())));
        self.files.insert(key, file);
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<StoredFile> {
        let file = self.files.remove(key)?;
        self.total.files -= 1;
        self.total.count -= file.remaining();
        self.total.bytes -= file.bytes();
        if let Some(level) = file.level() {
            self.to_read.remove(&(level, key.clone()));
        }
        Some(file)
    }

    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.files.contains_key(key)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&StoredFile> {
        self.files.get(key)
    }

    /// Changes the state of a file; `None` if there is no such file. The sums stay: units are settled by
    /// [`settle`](Self::settle) alone.
    pub(crate) fn update<T>(&mut self, key: &Key, change: impl FnOnce(&mut StoredFile) -> T) -> Option<T> {
        let file = self.files.get_mut(key)?;
        let before = file.level();
        let result = change(file);
        let after = file.level();
        if before != after {
            before.map(|level| self.to_read.remove(&(level, key.clone())));
            self.to_read.extend(after.map(|level| (level, key.clone())));
        }
        Some(result)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &StoredFile)> {
        self.files.iter()
    }

    /// The file to read next: the oldest of those whose records have the fewest failed attempts, and this number.
    pub(crate) fn first_to_read(&self) -> Option<&(u32, Key)> {
        self.to_read.first()
    }

    /// The newest of the files whose records have the fewest failed attempts, and this number.
    pub(crate) fn newest_to_read(&self) -> Option<(u32, Key)> {
        let (level, _) = self.to_read.first()?;
        let behind = level.checked_add(1).map_or(Bound::Unbounded, |next| Bound::Excluded((next, Key::first())));
        self.to_read.range((Bound::Unbounded, behind)).next_back().cloned()
    }

    /// The oldest file behind `after` with a record to hand out, however often it failed, and its level.
    pub(crate) fn oldest_to_read(&self, after: Option<&Key>) -> Option<(u32, Key)> {
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        let files = self.files.range((behind, Bound::Unbounded));
        files.filter_map(|(key, file)| Some((file.level()?, key.clone()))).next()
    }

    /// The oldest file of which no record is handed out.
    pub(crate) fn oldest_idle(&self) -> Option<&Key> {
        self.files.iter().find(|(_, file)| file.is_idle()).map(|(key, _)| key)
    }

    /// The files of more than `bytes` of which no record is handed out, oldest first.
    pub(crate) fn idle_larger_than(&self, bytes: u64) -> Vec<Key> {
        let large = self.files.iter().filter(|(_, file)| file.is_idle() && file.bytes() > bytes);
        large.map(|(key, _)| key.clone()).collect()
    }

    /// The time of the oldest file.
    pub(crate) fn oldest_time(&self) -> Option<SystemTime> {
        self.files.keys().next().map(|key| key.time)
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

    /// See [`StoredFile::correct_time`]; returns the marks that must be written.
    pub(crate) fn correct_times(&mut self, now: SystemTime, clock_set: SystemTime) -> Vec<Mark> {
        let corrected = self
            .files
            .iter_mut()
            .filter_map(|(key, file)| file.correct_time(now, clock_set).then(|| file.mark(&key.name)));
        corrected.collect()
    }

    /// Takes one verdict for each of the records; `None` if there is no such file.
    pub(crate) fn settle(&mut self, key: &Key, records: &Ranges, verdicts: &[Verdict]) -> Option<FileSettled> {
        let result = self.update(key, |file| file.settle(records, verdicts))?;
        self.total.count -= result.settled.count;
        Some(result)
    }
}
