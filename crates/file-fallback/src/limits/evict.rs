//! Removes files until the limits hold, or refuses a new one.

use std::io;
use std::mem;
use std::time::{Duration, SystemTime};

use safe_dir::{Directory, FileError, Space};

use crate::books::catalog::Key;
use crate::config::Config;
use crate::error::SpillError;
use crate::files::Files;
use crate::form::names::CLOCK_SET;
use crate::limits::clock::{Clock, ClockEvent};
use crate::limits::rate::Rate;
use crate::notice::Notice;
use crate::outcome::{Evicted, Reason};

/// The limits, and the time and the rate that they are measured with.
#[derive(Debug)]
pub(crate) struct Limits {
    max_bytes: u64,
    max_age: Duration,
    max_files: u64,
    free_space_reserve: u64,
    clock: Clock,
    rate: Rate,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            max_bytes: config.max_bytes,
            max_age: config.max_age,
            max_files: u64::try_from(config.max_files).unwrap_or(u64::MAX),
            free_space_reserve: config.free_space_reserve,
            clock: Clock::new(config.newest_time),
            rate: Rate::default(),
        }
    }

    pub(crate) fn set_max_bytes(&mut self, max_bytes: u64) {
        self.max_bytes = max_bytes;
    }

    /// The bytes that must stay free on a volume: a small one would else take no file at all.
    fn reserve(&self, space: Space) -> u64 {
        self.free_space_reserve.min(space.total / 10)
    }

    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// The store's own time, for the wall clock's `now`.
    pub(crate) fn time<D: Directory>(&mut self, files: &mut Files<D>, now: SystemTime) -> SystemTime {
        let (time, event) = self.clock.read(now);
        files.note(event.map(|event| match event {
            ClockEvent::Rests { until } => Notice::AgeRests { until },
            ClockEvent::SetBack { from, to } => Notice::ClockSetBack { from, to },
        }));
        time
    }

    /// See [`Clock::newest`].
    pub(crate) fn newest_time(&self) -> Option<SystemTime> {
        self.clock.newest()
    }

    /// See [`Clock::rests_until`].
    pub(crate) fn rests_until(&self) -> Option<SystemTime> {
        self.clock.rests_until()
    }

    /// Notes that a file was written at `now`, by the store's own time.
    pub(crate) fn note_written(&mut self, now: SystemTime, bytes: u64) {
        self.rate.note(now, bytes);
    }

    /// How long it takes, at the present rate, until the oldest files must go.
    pub(crate) fn full_in<D: Directory>(&mut self, files: &mut Files<D>, now: SystemTime) -> Option<Duration> {
        let now = self.time(files, now);
        let own = self.max_bytes.saturating_sub(files.catalog().total().bytes);
        let free = files.dir().space().map_or(u64::MAX, |space| space.free.saturating_sub(self.reserve(space)));
        self.rate.lasts(own.min(free), now)
    }

    /// Removes files that are too old or too much, repeats removals that failed, and bounds the quarantine.
    pub(crate) fn clean_up<D: Directory>(&mut self, files: &mut Files<D>, now: SystemTime) -> Vec<Evicted> {
        let mut evicted = Vec::new();
        let now = self.time(files, now);
        if files.note_if_vanished() {
            return evicted;
        }
        files.tidy();
        files.correct_times(now, SystemTime::UNIX_EPOCH + CLOCK_SET);
        let old = files.catalog().idle_older_than(self.max_age, now);
        let (is_slow, allowed) = (self.clock.is_slow(), self.clock.allow(old.len()));
        for key in old.into_iter().take(allowed) {
            match self.evict(files, &key, Reason::MaxAge) {
                Ok(removed) => {
                    files.note(is_slow.then(|| Notice::RemovedAfterRest { name: removed.name.clone() }));
                    evicted.push(removed);
                }
                Err(_) => break,
            }
        }
        drop(self.enforce(files, 0, &mut evicted));
        if !evicted.is_empty() {
            // A removed file that a power cut brings back is delivered after all.
            drop(files.dir().sync());
        }
        evicted
    }

    /// Removes files until one of `bytes` more is within the limits of the store; `bytes` 0 stands for no further file.
    pub(crate) fn enforce<D: Directory>(
        &self,
        files: &mut Files<D>,
        bytes: u64,
        evicted: &mut Vec<Evicted>,
    ) -> Result<(), FileError> {
        if files.catalog().total().bytes.saturating_add(bytes) > self.max_bytes {
            // A file of earlier settings that is larger than all files may be goes first: the others need not go for
            // it.
            for key in files.catalog().idle_larger_than(self.max_bytes) {
                evicted.push(self.evict(files, &key, Reason::MaxBytes)?);
            }
        }
        loop {
            let total = files.catalog().total();
            let reason = if total.bytes.saturating_add(bytes) > self.max_bytes {
                Reason::MaxBytes
            } else if total.files + u64::from(bytes > 0) > self.max_files {
                Reason::MaxFiles
            } else {
                return Ok(());
            };
            match self.evict_oldest(files, reason) {
                Some(removed) => evicted.push(removed?),
                None => {
                    let (path, source) = (files.dir().path().to_owned(), io::ErrorKind::StorageFull.into());
                    return Err(FileError::Io { path, action: "find a file to remove from", source });
                }
            }
        }
    }

    /// Removes files until `bytes` more leave the reserve free; removes none if removing all of them would not free
    /// enough.
    pub(crate) fn make_free_space<D: Directory>(
        &self,
        files: &mut Files<D>,
        bytes: u64,
        evicted: &mut Vec<Evicted>,
    ) -> Result<(), SpillError> {
        // Where the file system does not report its free space, no reserve is enforced.
        let Ok(space) = files.dir().space() else { return Ok(()) };
        let needed = bytes.saturating_add(self.reserve(space));
        let mut free = space.free;
        let available = free.saturating_add(files.catalog().idle_bytes());
        if available < needed {
            return Err(SpillError::NoRoom { needed, available, evicted: mem::take(evicted) });
        }
        while free < needed {
            match self.evict_oldest(files, Reason::FreeSpace) {
                Some(Ok(removed)) => {
                    // Added up, not measured: some file systems report the space as free only later, and then more
                    // files would go.
                    free = free.saturating_add(removed.bytes);
                    evicted.push(removed);
                }
                Some(Err(source)) => return Err(SpillError::File { source, evicted: mem::take(evicted) }),
                None => return Err(SpillError::NoRoom { needed, available: free, evicted: mem::take(evicted) }),
            }
        }
        Ok(())
    }

    /// Checks that one more file of `bytes` fits without a removal.
    pub(crate) fn check_fit<D: Directory>(&self, files: &Files<D>, bytes: u64) -> Result<(), SpillError> {
        let total = files.catalog().total();
        let left = if total.files < self.max_files { self.max_bytes.saturating_sub(total.bytes) } else { 0 };
        if bytes > left {
            return Err(SpillError::Full { needed: bytes, left });
        }
        // Where the file system does not report its free space, no reserve is enforced.
        let Ok(space) = files.dir().space() else { return Ok(()) };
        let (needed, available) = (bytes.saturating_add(self.reserve(space)), space.free);
        if available < needed { Err(SpillError::NoRoom { needed, available, evicted: Vec::new() }) } else { Ok(()) }
    }

    /// Removes the oldest file of which no record is handed out; `None` if there is none.
    pub(crate) fn evict_oldest<D: Directory>(
        &self,
        files: &mut Files<D>,
        reason: Reason,
    ) -> Option<Result<Evicted, FileError>> {
        let key = files.catalog().oldest_idle()?.clone();
        Some(self.evict(files, &key, reason))
    }

    fn evict<D: Directory>(&self, files: &mut Files<D>, key: &Key, reason: Reason) -> Result<Evicted, FileError> {
        let file = files.remove(key)?;
        let (count, bytes) = file.map_or((0, 0), |file| (file.remaining(), file.bytes()));
        Ok(Evicted { name: key.name.clone(), count, bytes, reason })
    }
}
