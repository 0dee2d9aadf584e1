//! Which files must go, oldest first.

use std::io;
use std::mem;
use std::time::{Duration, SystemTime};

use safe_dir::{Directory, FileError};

use crate::error::SpillError;
use crate::notice::Notice;
use crate::store::{Evicted, FileFallback, Key, Reason};

impl<D: Directory> FileFallback<D> {
    /// Removes what is too old or too much, and what could not be removed before. To be called regularly, at least every
    /// hour: ages go by the differences of `now`, and a step of more than an hour counts as one.
    ///
    /// What the file system refuses to remove stays counted, for the next time.
    #[must_use = "what is returned has left the store"]
    pub fn clean_up(&mut self, now: SystemTime) -> Vec<Evicted> {
        let mut evicted = Vec::new();
        if self.is_forked() {
            return evicted;
        }
        let now = self.clock.read(now);
        let dir = &self.dir;
        self.leftovers.retain(|name| dir.remove(name).is_err_and(|error| !error.is_not_found()));
        self.set_aside_strangers(STRANGERS_AT_A_TIME);
        let trimmed = self.quarantine.trim();
        self.note_trimmed(trimmed);
        let max_age = self.config.max_age;
        let set = SystemTime::UNIX_EPOCH + UNSET_BEFORE;
        for file in self.files.values_mut() {
            // From a time when the clock was ahead: it ages from now on.
            file.born = file.born.min(now);
            // Written before the clock was set, as on a machine that keeps no time while it is off: so does this one.
            if file.born < set && now >= set {
                file.born = now;
            }
        }
        let is_old = |born: SystemTime| now.duration_since(born).is_ok_and(|age| age >= max_age);
        let old = self.files.iter().filter(|(_, file)| file.out.is_empty() && is_old(file.born));
        for key in old.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            match self.evict(&key, Reason::MaxAge) {
                Ok(removed) => evicted.push(removed),
                Err(_) => break,
            }
        }
        drop(self.make_room(0, &mut evicted));
        if !evicted.is_empty() {
            // A file that a power cut brings back is delivered after all.
            drop(self.dir.sync());
        }
        evicted
    }

    /// The oldest file of which nothing is handed out.
    pub(crate) fn oldest_evictable(&self) -> Option<Key> {
        self.files.iter().find(|(_, file)| file.out.is_empty()).map(|(key, _)| key.clone())
    }

    /// Removes files until one of `bytes` more keeps the limits of the store; `bytes` 0 stands for no further file.
    pub(crate) fn make_room(&mut self, bytes: u64, evicted: &mut Vec<Evicted>) -> Result<(), FileError> {
        let max_files = u64::try_from(self.config.max_files).unwrap_or(u64::MAX);
        loop {
            let files = self.total.files + u64::from(bytes > 0);
            let reason = if self.total.bytes.saturating_add(bytes) > self.config.max_bytes {
                Reason::MaxBytes
            } else if files > max_files {
                Reason::MaxFiles
            } else {
                return Ok(());
            };
            let Some(key) = self.oldest_evictable() else {
                return Err(self.failed("find a file to remove from", io::ErrorKind::StorageFull.into()));
            };
            evicted.push(self.evict(&key, reason)?);
        }
    }

    /// Removes files until `bytes` more leave the reserve free, if removing all of them can come to that; else none.
    pub(crate) fn make_free_space(&mut self, bytes: u64, evicted: &mut Vec<Evicted>) -> Result<(), SpillError> {
        let needed = bytes.saturating_add(self.config.free_space_reserve);
        // A file system that does not say has no reserve to keep.
        let Ok(mut free) = self.dir.free_bytes() else { return Ok(()) };
        let evictable: u64 = self.files.values().filter(|file| file.out.is_empty()).map(|file| file.bytes).sum();
        let available = free.saturating_add(evictable);
        if available < needed {
            return Err(SpillError::NoRoom { needed, available, evicted: mem::take(evicted) });
        }
        while free < needed {
            let Some(key) = self.oldest_evictable() else {
                return Err(SpillError::NoRoom { needed, available: free, evicted: mem::take(evicted) });
            };
            match self.evict(&key, Reason::FreeSpace) {
                Ok(removed) => {
                    // Some file systems say only later that it is free. Nothing more goes for that.
                    free = free.saturating_add(removed.bytes);
                    evicted.push(removed);
                }
                Err(source) => return Err(SpillError::File { source, evicted: mem::take(evicted) }),
            }
        }
        Ok(())
    }

    /// Whether one more file of `bytes` fits without removing any.
    pub(crate) fn find_room(&self, bytes: u64) -> Result<(), SpillError> {
        let max_files = u64::try_from(self.config.max_files).unwrap_or(u64::MAX);
        let left =
            if self.total.files < max_files { self.config.max_bytes.saturating_sub(self.total.bytes) } else { 0 };
        if bytes > left {
            return Err(SpillError::Full { needed: bytes, left });
        }
        let needed = bytes.saturating_add(self.config.free_space_reserve);
        match self.dir.free_bytes() {
            Ok(available) if available < needed => Err(SpillError::NoRoom { needed, available, evicted: Vec::new() }),
            // A file system that does not say has no reserve to keep.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Removes one file. Needs no space.
    pub(crate) fn evict(&mut self, key: &Key, reason: Reason) -> Result<Evicted, FileError> {
        match self.dir.remove(&key.name) {
            Err(error) if !error.is_not_found() => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let name = key.name.clone();
        let file = self.forget(key);
        let (count, bytes) = file.map_or((0, 0), |file| (file.remaining(), file.bytes));
        Ok(Evicted { name, count, bytes, reason })
    }

    pub(crate) fn vanished(&mut self, key: &Key) {
        if let Some(file) = self.forget(key) {
            self.notices.push_back(Notice::Vanished { name: key.name.clone(), count: file.remaining() });
        }
    }

    /// An error about the directory as a whole.
    pub(crate) fn failed(&self, action: &'static str, source: io::Error) -> FileError {
        FileError::Io { path: self.dir.path().to_owned(), action, source }
    }
}

/// So many are moved away by one clean-up.
const STRANGERS_AT_A_TIME: usize = 1_000;

/// 2020-01-01, since the epoch. A clock before that was not set: this crate is younger.
const UNSET_BEFORE: Duration = Duration::from_secs(1_577_836_800);
