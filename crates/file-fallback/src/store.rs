//! The store: composes the parts; each operation is a call of one of them.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use safe_dir::{Directory, FileError, Locked, SafeDir};

use crate::config::Config;
use crate::error::{AdoptError, OpenError, ReplayError, SettleError, SpillError};
use crate::files::{Files, adopt};
use crate::form::name::FileName;
use crate::form::record::Record;
use crate::limits::evict::Limits;
use crate::notice::Notice;
use crate::outcome::{Evicted, SetAside, Settled, Spilled, Stored, TakenOver, Verdict};
use crate::read::group::{Group, Next, Source};
use crate::write::writer::{Target, WhenFull, Writer};

/// Records in files until they are replayed. Made by [`open`](FileFallback::open); used by one thread, which may block
/// on the disk.
pub struct FileFallback<D: Directory = SafeDir> {
    config: Config,
    files: Files<D>,
    limits: Limits,
    writer: Writer,
    /// The process that opened the store.
    process: u32,
    /// Declared last: released after every file is closed.
    lock: D::Lock,
}

impl FileFallback {
    /// Opens the store in the configured directory and takes the directory's lock.
    ///
    /// Reads names and the small log of the progress, but no file: the time grows with the number of files, not with
    /// their size. No file is truncated or overwritten, and files of other programs are not touched. Call
    /// [`clean_up`](Self::clean_up) soon after, as limits may have changed.
    ///
    /// # Errors
    ///
    /// If the directory is not safe, cannot be read, or another process uses it: two processes need two directories,
    /// such as those of [`safe_dir::SharedDir`].
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let dir = SafeDir::open(config.dir()).map_err(OpenError::Directory)?;
        Self::open_in(config, dir)
    }
}

impl<D: Directory> FileFallback<D> {
    /// [`open`](FileFallback::open) in a directory that the caller has opened; the one in the settings is ignored.
    ///
    /// # Errors
    ///
    /// If another process uses the directory, or it cannot be read.
    pub fn open_in(config: Config, dir: D) -> Result<Self, OpenError> {
        let locked = Locked::new(dir).map_err(OpenError::Lock)?;
        Self::open_locked(config, locked)
    }

    /// [`open_in`](Self::open_in) for a caller who holds the directory's lock already.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn open_locked(config: Config, locked: Locked<D>) -> Result<Self, OpenError> {
        let Locked { dir, lock } = locked;
        Ok(Self {
            files: Files::load(dir, &config).map_err(OpenError::File)?,
            limits: Limits::new(&config),
            writer: Writer::new(&config),
            config,
            process: std::process::id(),
            lock,
        })
    }

    /// Moves the files in the directory `from` of a process that has ended into this store, with their progress; its
    /// damaged files go to this store's quarantine, and its quarantine is moved at the end. The caller holds the lock
    /// of `from`, calls again while [`TakenOver::more`] says so, and removes `from`.
    ///
    /// One call moves the 256 oldest files at most, by one rename each, with two or three syncs in all; from another
    /// file system about 1 MiB of them, by a copy each. The files take
    /// their place by the times in their names, for replay and for the limits; the next clean-up enforces the limits.
    /// No file is overwritten: one whose name is taken gets another number. A crash at any moment leaves each file in
    /// one of the two directories.
    ///
    /// # Errors
    ///
    /// The first failure to move a file. The other files are moved all the same, and are in the notices.
    pub fn take_over(&mut self, from: &D, now: SystemTime) -> Result<TakenOver, AdoptError> {
        if self.is_forked() {
            return Err(AdoptError::Forked);
        }
        self.limits.time(&mut self.files, now);
        let (taken, result) = adopt::take_over(&mut self.files, from);
        result.map(|()| taken).map_err(AdoptError::File)
    }

    /// Whether the directory of the store was removed, as by `rm -rf` while the process runs.
    /// [`clean_up`](Self::clean_up) looks as well, and gives [`Notice::DirectoryVanished`]; each operation that needs
    /// the directory fails with an error whose `is_vanished` says so. Continue with [`renew`](Self::renew).
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        self.files.dir().is_gone()
    }

    /// Continues in another directory, which the caller has opened and locked: the one that was made again after the
    /// old one was removed. The files of the old one have left the store, each with a [`Notice::Vanished`]; files in
    /// the new one are found as by [`open`](FileFallback::open). Groups that are handed out are unknown from now on.
    ///
    /// # Errors
    ///
    /// If the new directory cannot be read: the store is as before.
    pub fn renew(&mut self, dir: D, lock: D::Lock) -> Result<(), OpenError> {
        let files = Files::load(dir, &self.config).map_err(OpenError::File)?;
        let old = std::mem::replace(&mut self.files, files);
        self.files.replace(old);
        // The lock of the old directory is released when no file of it is open any more.
        self.lock = lock;
        Ok(())
    }

    /// Changes the most bytes on disk, such as where several stores share one budget. A lower limit removes the oldest
    /// files with the next [`clean_up`](Self::clean_up) or spill, which return them.
    pub fn set_max_bytes(&mut self, max_bytes: u64) {
        self.limits.set_max_bytes(max_bytes);
    }

    /// The most bytes on disk, as they were last [set](Self::set_max_bytes).
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.limits.max_bytes()
    }

    /// The newest time that can be believed, for a [`ClockFile`](crate::ClockFile): the next process remembers it. None
    /// before the first operation with a time.
    #[must_use]
    pub fn newest_time(&self) -> Option<SystemTime> {
        self.limits.newest_time()
    }

    /// Tells the store the time by the wall clock before the first operation with a time: it decides whether the clock
    /// is believed ([`age_rests_until`](Self::age_rests_until)). Touches no file.
    pub fn set_time(&mut self, now: SystemTime) {
        self.limits.time(&mut self.files, now);
    }

    /// Until when no file is removed for its age, because the wall clock was far ahead at the start (see
    /// [`Notice::AgeRests`]); by the wall clock.
    #[must_use]
    pub fn age_rests_until(&self) -> Option<SystemTime> {
        self.limits.rests_until()
    }

    /// The time in the name of the oldest file: of the next one that a limit removes.
    #[must_use]
    pub fn oldest_time(&self) -> Option<SystemTime> {
        self.files.catalog().oldest_time()
    }

    /// Writes the records to one new file, durable when this returns; compressed, if the text is longer than
    /// `compress_above`.
    ///
    /// Older files are removed, oldest first, where a limit demands it; a file with a group that is handed out stays.
    /// Blocks on the disk: two or three syncs.
    ///
    /// # Errors
    ///
    /// If a record cannot be written as one, the store or the disk is full, or the file system refuses: then no file of
    /// the records is left, and the caller still has them. [`SpillError::evicted`] lists the files that were removed
    /// before that.
    pub fn spill(&mut self, records: &[Record], now: SystemTime) -> Result<Spilled, SpillError> {
        self.spill_announced(records, now, &mut |_| {})
    }

    /// As [`spill`](Self::spill). Calls `announce` with the file's name before the first byte of the file is written,
    /// so that a journal can note which file will hold the records; and once more, with another name, where another
    /// program has made a file of the first name: the last name is the file's.
    ///
    /// # Errors
    ///
    /// As [`spill`](Self::spill). A file of an announced name then does not exist, or is another program's.
    pub fn spill_announced(
        &mut self,
        records: &[Record],
        now: SystemTime,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Spilled, SpillError> {
        self.write(records, now, WhenFull::EvictOldest, announce)
    }

    /// As [`spill`](Self::spill), but no older file is removed: a file that does not fit is refused.
    ///
    /// # Errors
    ///
    /// As [`spill`](Self::spill), and [`SpillError::Full`].
    pub fn spill_beside(&mut self, records: &[Record], now: SystemTime) -> Result<Spilled, SpillError> {
        self.spill_beside_announced(records, now, &mut |_| {})
    }

    /// [`spill_beside`](Self::spill_beside) with the announcements of [`spill_announced`](Self::spill_announced): for
    /// records that are safe elsewhere, and for which no older file must go.
    ///
    /// # Errors
    ///
    /// As [`spill_beside`](Self::spill_beside).
    pub fn spill_beside_announced(
        &mut self,
        records: &[Record],
        now: SystemTime,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Spilled, SpillError> {
        self.write(records, now, WhenFull::Refuse, announce)
    }

    fn write(
        &mut self,
        records: &[Record],
        now: SystemTime,
        when_full: WhenFull,
        announce: &mut dyn FnMut(&str),
    ) -> Result<Spilled, SpillError> {
        if self.is_forked() {
            return Err(SpillError::Forked);
        }
        let target = Target { files: &mut self.files, limits: &mut self.limits };
        self.writer.spill(target, records, now, when_full, announce)
    }

    /// Whether a file of this name stands in the store and survives a power cut: the directory is synced before the
    /// answer is yes. For a journal that asks at its start whether a spill that was announced has succeeded. A file
    /// that was replayed to its end or set aside does not stand there any more. See also [`holds_in`].
    ///
    /// # Errors
    ///
    /// If the directory cannot be read or synced: then the answer is not known.
    pub fn holds(&self, name: &str) -> Result<bool, FileError> {
        holds_in(self.files.dir(), &self.config.signal, name)
    }

    /// Reads the next records that are neither settled nor handed out: of those with the fewest failed attempts, and
    /// oldest file first among equals, as many as fit into `max_bytes`, and at least one. They may be of up to 64 files
    /// and all have failed equally often (see [`Attempts`](crate::Attempts)).
    ///
    /// Files without such a record do not block the disk thread for long: see [`Next::Pause`].
    ///
    /// Memory: the group, and a constant. Damage on the way is noted (see [`take_notices`](Self::take_notices)), and
    /// the good records around it are read. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// If a file cannot be opened or read now. It stays for the next call; one that fails three times in a row is set
    /// aside as unreadable, so that it does not hold up the others.
    pub fn next_group(&mut self, max_bytes: usize) -> Result<Next, ReplayError> {
        if self.is_forked() {
            return Err(ReplayError::Forked);
        }
        self.files.next_group(max_bytes).map_err(ReplayError::File)
    }

    /// [`next_group`](Self::next_group) with the newest file first among equals, for a caller whose newest records are
    /// worth the most. The records of one file come in the order in which they were written. Limits remove the oldest
    /// files all the same: while new records come as fast as others go, old ones stay until then, unless the caller
    /// takes an [`oldest_group`](Self::oldest_group) now and then.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn newest_group(&mut self, max_bytes: usize) -> Result<Next, ReplayError> {
        if self.is_forked() {
            return Err(ReplayError::Forked);
        }
        self.files.newest_group(max_bytes).map_err(ReplayError::File)
    }

    /// [`next_group`](Self::next_group) in the order of age alone: records of the oldest files, however often they have
    /// failed; of each file those with the fewest failed attempts. For a caller whose new records come as fast as its
    /// old ones go: `next_group` always prefers the new ones to an old one that has failed before, which then stays
    /// until the limits remove it. Call this in place of `next_group` now and then, such as for each eighth group.
    ///
    /// [`Next::Empty`]: no file has a record that is not handed out, as for `next_group`.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn oldest_group(&mut self, max_bytes: usize) -> Result<Next, ReplayError> {
        if self.is_forked() {
            return Err(ReplayError::Forked);
        }
        self.files.oldest_group(max_bytes).map_err(ReplayError::File)
    }

    /// Calls `decode` for each record of the group, in their order, and takes the records out of it. While it runs, the
    /// file of the record counts as being read: a file that three processes in a row die of, also in `decode`, is set
    /// aside by the next start. `None` stands for a record with which `decode` has panicked; settle it as
    /// [`Verdict::Rejected`].
    pub fn decode<T>(&mut self, group: &mut Group, decode: impl FnMut(Source<'_>, Vec<u8>) -> T) -> Vec<Option<T>> {
        self.files.decode(group, decode)
    }

    /// Takes one verdict for each record. The records that are done are durably so when this returns, and the attempts
    /// of the others are stored: one write and one sync, and the removal of each file after its last record with one
    /// sync for all.
    ///
    /// A file that left the store while its records were handed out, as another program removed it, is skipped; the
    /// units of its records that are done count as surplus.
    ///
    /// # Errors
    ///
    /// [`SettleError::NotDurable`] if the verdicts count and are not on the disk; the next call writes them too. Any
    /// other error changes nothing.
    pub fn settle(&mut self, group: Group, verdicts: &[Verdict]) -> Result<Settled, SettleError> {
        if self.is_forked() {
            return Err(SettleError::Forked);
        }
        self.files.settle(&group, verdicts)
    }

    /// [`settle`](Self::settle) for a group whose records are all done, each with so many `units`. Reads
    /// [`Group::records`]: a caller who took them out calls `settle`.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn acknowledge(&mut self, group: Group, mut units: impl FnMut(&[u8]) -> u64) -> Result<Settled, SettleError> {
        let verdicts = group.records.iter().map(|record| Verdict::Done(units(record))).collect::<Vec<_>>();
        self.settle(group, &verdicts)
    }

    /// [`settle`](Self::settle) for a group of which no record is done or failed: all are read again. Touches no disk.
    ///
    /// # Errors
    ///
    /// If the group is not one of this store's.
    pub fn give_back(&mut self, group: Group) -> Result<(), SettleError> {
        let verdicts = vec![Verdict::Keep; group.len()];
        self.settle(group, &verdicts).map(drop)
    }

    /// Removes files that are too old or too much, and files that could not be removed before. To be called regularly,
    /// at least every hour: ages grow by the differences of `now`, and a step of more than an hour counts as one hour.
    ///
    /// A file that the file system refuses to remove stays counted, for the next time.
    #[must_use = "the files that are returned have left the store"]
    pub fn clean_up(&mut self, now: SystemTime) -> Vec<Evicted> {
        if self.is_forked() { Vec::new() } else { self.limits.clean_up(&mut self.files, now) }
    }

    /// How long it takes until the oldest files must go, at the rate of the last ten minutes: because of `max_bytes`,
    /// or because the file system runs into the reserve. `None` if no file was written in that time.
    pub fn full_in(&mut self, now: SystemTime) -> Option<Duration> {
        self.limits.full_in(&mut self.files, now)
    }

    /// The present contents. O(1).
    #[must_use]
    pub const fn stored(&self) -> Stored {
        self.files.catalog().total()
    }

    /// Counts the files in `quarantine`, also those of earlier runs: an operator inspects them and removes them. Reads
    /// names alone, 1,000 at most.
    ///
    /// # Errors
    ///
    /// If the subdirectory cannot be read.
    pub fn set_aside(&self) -> Result<SetAside, FileError> {
        self.files.count_aside()
    }

    /// The events since the last call that no other result reports: to be logged, and to be counted where units left
    /// the store. Ask after each operation.
    #[must_use = "notices are given once"]
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.files.take_notices()
    }

    /// The directory in use.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.files.dir().path()
    }

    /// The same, for an owner of the directory above who compares it with the one that has its name now
    /// ([`Directory::holds_subdirectory`]): another program may have moved it away.
    #[must_use]
    pub fn dir(&self) -> &D {
        self.files.dir()
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Whether this process may not use the store, because it is a child by `fork` of the one that may.
    pub(crate) fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }

    pub(crate) fn files(&self) -> &Files<D> {
        &self.files
    }

    pub(crate) fn files_mut(&mut self) -> &mut Files<D> {
        &mut self.files
    }
}

/// [`FileFallback::holds`] for a directory that is not opened as a store, such as that of a process that has ended.
///
/// # Errors
///
/// If the directory cannot be read or synced: then the answer is not known.
pub fn holds_in<D: Directory>(dir: &D, signal: &str, name: &str) -> Result<bool, FileError> {
    if count_in_name(signal, name).is_some() { adopt::is_file(dir, name) } else { Ok(false) }
}

/// The units in a file, by its name alone; none if no store of this signal writes such a name. For counting the files
/// of a directory that is not opened.
#[must_use]
pub fn count_in_name(signal: &str, name: &str) -> Option<u64> {
    FileName::parse(signal, name).map(|parts| parts.count)
}

impl<D: Directory> Drop for FileFallback<D> {
    fn drop(&mut self) {
        if !self.is_forked() {
            self.files.end_reading();
        }
    }
}

impl<D: Directory> fmt::Debug for FileFallback<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileFallback")
            .field("path", &self.path())
            .field("stored", &self.stored())
            .finish_non_exhaustive()
    }
}
